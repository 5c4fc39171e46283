"""``oppu data describe``: tables beside the paper's, and a picture that is safe and always the same."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import typer
from oppu_core.data.dataset import Dataset
from oppu_core.data.dataset_writer import write_dataset
from oppu_core.data.sample import GRAMMARS, sample_users
from oppu_core.data.statistics import describe as count
from oppu_core.data.types import HistoryItem, User
from oppu_core.tasks.task_files import TASKS
from oppu_eval.cli.describe import describe
from oppu_eval.reporting.describe import picture
from oppu_eval.reporting.paper import paper_statistics
from typer.testing import CliRunner

app = typer.Typer()
app.command()(describe)
RUN = CliRunner(env={"COLUMNS": "110", "NO_COLOR": "1"}).invoke


def sample(folder: Path, task: str) -> Dataset:
    users = sample_users(TASKS[task], test_users=3, other_users=5, history=(6, 9), queries=2, seed=0)
    return write_dataset(folder, TASKS[task], users, {})


def test_numbers_stand_beside_the_papers(tmp_path: Path) -> None:
    dataset = sample(tmp_path / "d", "lamp_2m")
    result = RUN(app, [str(dataset.path)])
    assert result.exit_code == 0, result.output
    lines = {" ".join(line.split()[:1]): line.split() for line in result.output.splitlines()}
    counts = dataset.counts
    assert lines["users"] == ["users", "5", "3"]
    assert lines["queries"][1:] == [
        str(counts["others"]["queries"]),
        "3,181",
        str(counts["test"]["queries"]),
        "3,302",
    ]
    assert "words" in result.output
    assert "thought-provoking" in result.output


def test_every_task_of_lamp_has_the_papers_numbers() -> None:
    for task in (TASKS[name] for name in GRAMMARS):
        assert paper_statistics(task.paper_id).keys() == {
            *(f"base_{name}" for name in ("queries", "len_in", "len_out")),
            *(f"personal_{name}" for name in ("queries", "history", "len_in", "len_out")),
        }
    assert paper_statistics("LaMP-5")["personal_history"] == 442.9
    assert paper_statistics("") == {}


@pytest.mark.parametrize(("task", "labels"), [("lamp_2m", True), ("lamp_4", False)])
def test_what_is_written(tmp_path: Path, task: str, labels: bool) -> None:
    dataset = sample(tmp_path / "d", task)
    for place in ("a", "b"):
        assert RUN(app, [str(dataset.path), "--out", str(tmp_path / place)]).exit_code == 0
    for name in ("description.json", "description.svg"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    written = json.loads((tmp_path / "a" / "description.json").read_text())
    assert written["splits"]["test"]["users"] == 3
    text = (tmp_path / "a" / "description.svg").read_text()
    words = [element.text for element in ET.fromstring(text).iter() if element.tag.endswith("text")]
    assert "4–7" in words
    assert ("true story" in words) == labels
    assert ("● test golds" in words) == labels


def test_a_picture_of_nothing(tmp_path: Path) -> None:
    answered = HistoryItem("h", {"description": "x", "tag": "comedy"}, None)
    for users in ([], [User("u", "test", (), ())], [User("u", "others", (answered,), ())]):
        dataset = write_dataset(tmp_path / "d", TASKS["lamp_2m"], users, {})
        ET.fromstring(picture(count(dataset), "<b>"))
        assert RUN(app, [str(dataset.path)]).exit_code == 0
