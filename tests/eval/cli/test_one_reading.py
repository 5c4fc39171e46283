"""A command reads each prediction file once, whatever it makes of it."""

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from oppu_core.data.dataset_writer import write_dataset
from oppu_core.data.types import User
from oppu_core.runs import run as runs
from oppu_core.runs.options import RunOptions
from oppu_core.runs.run import Run
from oppu_core.runs.start import start_run
from oppu_core.storage.files import write_jsonl
from oppu_core.tasks.task import Task
from oppu_eval.cli import main as cli
from oppu_eval.scoring.run_results import evaluate_run, read_results

pytestmark = pytest.mark.slow  # draws whole reports

METHODS = ["non_personalized", "rag_k1", "oppu_k0"]


@pytest.fixture
def answered(tmp_path: Path, tagging: Task, make_user: Callable[..., User]) -> Run:
    """A run whose methods have answered everything; nothing is trained."""
    users = [make_user(f"u{i}", ["comedy", "action"]) for i in range(3)]
    others = [dataclasses.replace(user, user_id=f"o{user.user_id}", split="others") for user in users]
    dataset = write_dataset(tmp_path / "data", tagging, [*others, *users], {"kind": "test"})
    run = start_run(tmp_path / "run", RunOptions(data=[dataset.path], model="tiny", methods=METHODS))
    for method in METHODS:
        rows = [
            {"user_id": user.user_id, "id": query.id, "answer": "comedy", "gold": query.gold}
            for user in users
            for query in user.queries
        ]
        write_jsonl(run.predictions_path("lamp_2m", method), rows)
    return run


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[Path]:
    """How often each prediction file has been read."""
    counted: Counter[Path] = Counter()
    read_answers = runs.read_answers

    def counting(path: Path) -> Any:
        counted[path] += 1
        return read_answers(path)

    monkeypatch.setattr(runs, "read_answers", counting)
    return counted


def once(run: Run) -> dict[Path, int]:
    return {run.predictions_path("lamp_2m", method): 1 for method in METHODS}


def test_evaluate_and_report(answered: Run, reads: Counter[Path]) -> None:
    cli.evaluate(answered.path, export="lamp")
    assert reads == once(answered)
    reads.clear()
    cli.report(answered.path)
    assert reads == once(answered)


def test_quickstart_makes_results_and_report_of_one_reading(
    answered: Run, reads: Counter[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With everything answered, what is left are scores and report."""
    monkeypatch.setattr(cli, "work", lambda *_: None)
    monkeypatch.setattr("oppu_eval.quickstart.quickstart_run", lambda *_: answered)
    cli.quickstart(answered.path, task="lamp_2m")
    assert reads == once(answered)
    page = (answered.path / "report.html").read_text()
    assert "oppu_k0" in page
    cli.report(answered.path)  # from the file: the same
    assert (answered.path / "report.html").read_text() == page


def test_results_of_a_run_are_those_of_its_file(answered: Run) -> None:
    results = evaluate_run(answered)
    assert read_results(answered) == results
