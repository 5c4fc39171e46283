"""What the page shows, in a sentence: which people, and which model."""

from pathlib import Path

from oppu_core.modeling.base_files import TINY
from oppu_core.runs.run import Run
from oppu_eval.reporting.examples import shorten


def what_is_shown(run: Run) -> str:
    """Whether people are invented, and what the model is; the tiny base answers other texts with nonsense."""
    datasets = [run.dataset(task) for task in run.config.data]
    invented = all(dataset.source.get("kind") == "sample world" for dataset in datasets)
    names = ", ".join(shorten(dataset.path.name, 40) for dataset in datasets)
    people = "Invented people of a sample world" if invented else f"People of the data in {names}"
    if run.config.model == TINY:
        knows = "this world and nothing else" if invented else "a sample world, and nothing of this data"
        return f"{people}; the model is a toy of a million parameters that knows {knows}."
    return f"{people}; the model is {shorten(Path(run.config.model).name, 60)}."
