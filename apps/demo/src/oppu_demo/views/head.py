"""What the page shows, in a sentence: which people, and which model."""

from pathlib import Path

from oppu_core.modeling.base_files import TINY
from oppu_core.runs.run import Run
from oppu_core.texts import shorten
from oppu_eval.reporting.method_titles import people_of


def what_is_shown(run: Run) -> str:
    """Whether people are invented, and what the model is; the tiny base answers other texts with nonsense."""
    people = people_of(run)
    invented = all(run.dataset(task).source.get("kind") == "sample world" for task in run.config.data)
    if run.config.model == TINY:
        knows = "this world and nothing else" if invented else "a sample world, and nothing of this data"
        return f"{people}; the model is a toy of a million parameters that knows {knows}."
    return f"{people}; the model is {shorten(Path(run.config.model).name, 60)}."
