"""docs/python.md and the notebook do what they say: their code as it stands there, with quicker training."""

import gc
import re
from pathlib import Path
from typing import Any

import nbformat
import oppu_core
import pytest
from nbclient import NotebookClient
from oppu_core.ownership import personalize as own

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks" / "first-steps.ipynb"
EPOCHS = 'model="tiny", settings=["personal.epochs=1", "task_lora.epochs=1"])'
# What `personalize` makes a run of the sample world with.
OTHERS, METHODS = 2, ("non_personalized", "oppu_k0")


def quicker(code: str) -> str:
    return code.replace('model="tiny")', EPOCHS)


def test_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert len(blocks) == page.count("\n```") / 2 and sum(EPOCHS in quicker(block) for block in blocks) == 1
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(own, "OTHERS", OTHERS)
    monkeypatch.setattr(own, "METHODS", METHODS)
    names: dict[str, Any] = {}
    for number, block in enumerate(blocks):
        exec(compile(quicker(block), f"docs/python.md, block {number}", "exec"), names)
    said = capsys.readouterr()
    assert said.err == "", "nothing is shown that was not asked for"
    assert "'users': 4" in said.out

    me = names.pop("me")
    assert list(names["answers"]) == list(METHODS) and all(names["answers"].values())
    assert me.history.problems == () and len(me.history.items) == len(names["items"])
    answered, scores = names["answered"], names["scores"]
    asked = sum(len(user.queries) for user in names["movies"].users("test"))
    assert set(answered.groupby("method").size()) == {asked}
    assert {"non_personalized", "rag_k1", "oppu_k0", "user_majority"} <= set(scores.method)
    own_answers = answered[answered.method == "oppu_k0"]
    right = (own_answers.answer == own_answers.gold).mean()
    accuracy = scores[(scores.method == "oppu_k0") & (scores.metric == "accuracy")].value.item()
    assert accuracy == pytest.approx(right)
    assert list(names["model"].peft_config) == ["default"]

    # A changed history of the same person, in the run that is there; and how progress is seen.
    again = oppu_core.personalize(names["items"][1:], run=me.run, progress=True)
    assert "lamp_2m base adapters" in capsys.readouterr().err
    assert again.history.items == me.run.user("lamp_2m", "me").history
    folder = me.run.path.parent
    assert folder.is_dir()
    del me
    gc.collect()
    assert not folder.exists(), "it vanishes, as the page says"


def test_the_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What transformers tells peft, and tqdm where there are no widgets.
    monkeypatch.setenv("PYTHONWARNINGS", "ignore::FutureWarning,ignore:IProgress not found")
    assert NOTEBOOK.stat().st_size < 100_000
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "outputs are not committed"
    for cell in notebook.cells:
        cell.source = quicker(cell.source)
    assert sum(EPOCHS in cell.source for cell in notebook.cells) == 1
    before = f"import oppu_core.ownership.personalize as own\nown.OTHERS, own.METHODS = {OTHERS}, {METHODS}"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(before))
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.get("name") == "stderr"], "no bars, no warnings"
    assert any("oppu_k0" in str(output) for output in outputs)
