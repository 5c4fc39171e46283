"""The sentence on what the page shows."""

import dataclasses
from pathlib import Path

import pytest
from oppu_core.data.dataset import Dataset
from oppu_core.data.dataset_writer import write_dataset
from oppu_core.runs.run import Run
from oppu_demo.views.head import what_is_shown


def test_invented_people_and_a_toy_are_called_so(run: Run) -> None:
    assert what_is_shown(run) == (
        "Invented people of a sample world; the model is a toy of a million parameters that knows this world "
        "and nothing else."
    )


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("tiny", "the model is a toy of a million parameters that knows a sample world, and nothing of this"),
        ("org/a-base", "the model is a-base."),
    ],
)
def test_real_people_and_models_have_names(run: Run, tmp_path: Path, model: str, said: str) -> None:
    dataset = run.dataset("lamp_2m")
    real = write_dataset(tmp_path / "movies", dataset.task, dataset.users(), {"kind": "oppu-release"})
    config = dataclasses.replace(run.config, data={"lamp_2m": str(real.path)}, model=model)
    provenance = {**run.provenance, "data": {"lamp_2m": Dataset.open(real.path).fingerprint}}
    shown = what_is_shown(dataclasses.replace(run, config=config, provenance=provenance))
    assert shown.startswith("People of LaMP, from the OPPU authors’ release (movies); ") and said in shown
