"""The importer of the authors' release: what it understands, and that it survives."""

import json
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from oppu_core.cli.data import app
from oppu_core.data.dataset import Dataset
from oppu_core.data.dataset_writer import write_dataset
from oppu_core.data.importers.json_stream import decode, read_records
from oppu_core.data.importers.release import Release
from oppu_core.data.rejected import Rejects
from oppu_core.errors import DataError, OppuError
from release_toys import INSTRUCTION, LABELS, MOVIES, OTHERS, TEST, item, record, release, run_import, users
from typer.testing import CliRunner


def test_a_release_becomes_users(tmp_path: Path) -> None:
    folder = release(tmp_path / "r", record("t"), others=[record("o", items=1), record("p", items=0)])
    test, others, empty = users(folder)
    assert [others.split, empty.split, test.split] == ["others", "others", "test"]
    assert empty.history == () and empty.queries[0].history_len == 0
    assert [entry.fields["description"] for entry in test.history] == ["Film 0.", "Film 1."]
    assert test.history[1].date == "2020-01-02"
    query = test.queries[0]
    assert (query.id, query.gold, query.history_len) == ("q-t", "action", 2)
    assert query.fields == {"description": "A film."}


@pytest.mark.parametrize(
    "text", ['"In quotes", she said.', "A job description: boring. description: ", " spaces ", "a\nb", "🎬\0"]
)
def test_the_text_behind_the_instruction_is_kept_as_it_is(tmp_path: Path, text: str) -> None:
    query = {"id": "q", "input": INSTRUCTION + text, "gold": "action"}
    assert users(release(tmp_path / "r", record(query=[query])))[0].queries[0].fields == {"description": text}


def test_numbers_become_text_of_the_same_digits(tmp_path: Path) -> None:
    folder = release(tmp_path / "r", record("LONG", profile=[item(tag=5), item(tag=4.0), item(tag=0.25)]))
    text = (folder / TEST).read_text().replace('"LONG"', "9" * 900)
    (folder / TEST).write_text(text)
    (user,) = users(folder)
    assert user.user_id == "9" * 900
    assert [entry.fields["tag"] for entry in user.history] == ["5", "4", "0.25"]


def test_a_history_is_sorted_by_date_when_every_item_has_one(tmp_path: Path) -> None:
    dates = ["2020-03-01", "2019", "2020-03-01T10:00:00", "2020-03-01"]
    dated = [item(number, date=date) for number, date in enumerate(dates)]
    undated = [*dated, item(4, date=None)]
    folder = release(tmp_path / "r", record("a", profile=dated), record("b", profile=undated))
    sorted_user, kept_user = users(folder)
    assert [entry.id for entry in sorted_user.history] == ["h1", "h0", "h3", "h2"]
    assert [entry.id for entry in kept_user.history] == ["h0", "h1", "h2", "h3", "h4"]


def test_the_tweets_file_name_is_accepted_and_two_test_files_are_not(tmp_path: Path) -> None:
    folder = release(tmp_path / "r", record())
    (folder / TEST).rename(folder / "user_more_100_history.json")
    assert len(users(folder)) == 1
    (folder / TEST).write_text("[]")
    with pytest.raises(
        DataError, match=r"one of user_top_100_history.json or user_more_100_history.json; it has"
    ):
        users(folder)


def test_golds_come_from_the_query_else_from_the_label_file(tmp_path: Path) -> None:
    queries = [
        {"id": i, "input": INSTRUCTION + "A film.", "gold": gold}
        for i, gold in enumerate(["action", None, None, "classic"])
    ]
    golds = [
        {"id": "0", "output": "comedy"},
        {"id": 1, "output": "violence"},
        {"id": "3", "output": "classic"},
    ]
    folder = release(tmp_path / "r", record(query=queries), labels={"task": "LaMP_2M", "golds": golds})
    dataset = run_import(folder, tmp_path / "out")
    (user,) = dataset.users()
    assert [query.gold for query in user.queries] == ["action", "violence", None, "classic"]
    assert dataset.source["gold_disagreements"] == 1
    assert [file["file"] for file in dataset.source["files"]] == [TEST, OTHERS, LABELS]


def test_the_task_is_told_by_folder_then_labels_fields_and_inputs(tmp_path: Path) -> None:
    headline = record(profile=[{"id": "1", "text": "t", "title": "h"}])
    assert Release(release(tmp_path / "news_headline", record())).task.name == "lamp_4"
    labels = {"task": "LaMP_4", "golds": []}
    assert Release(release(tmp_path / "l", record(profile=[]), labels=labels)).task.name == "lamp_4"
    assert Release(release(tmp_path / "a", record(profile=[]), headline)).task.name == "lamp_4"
    assert Release(release(tmp_path / "b", 7, others=["x", record(query=5), record()])).task.name == "lamp_2m"
    paper = {"id": "1", "title": "t", "abstract": "a"}
    citing = {"id": "q", "input": 'paper with the title "T", which reference is related? [1]: "A" [2]: "B"'}
    naming = {"id": "q", "input": "Generate a title for the following abstract of a paper: A."}
    for number, (query, task) in enumerate([(citing, "lamp_1"), (naming, "lamp_5")]):
        folder = release(tmp_path / str(number), record(profile=[paper], query=[query]))
        assert Release(folder).task.name == task
    news = {"id": "1", "text": "t", "category": "travel"}
    labels = {"task": "LaMP_2", "golds": []}
    assert Release(release(tmp_path / "n", record(profile=[news]), labels=labels)).task.name == "lamp_2n"
    assert Release(release(tmp_path / "m", record(), labels=labels)).task.name == "lamp_2m"
    assert Release(tmp_path / "a", MOVIES).task is MOVIES
    with pytest.raises(DataError, match=r"cannot tell the task.*--task with one of lamp_1, "):
        Release(release(tmp_path / "c", record(profile=[], query=[])))


def test_records_survive_any_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = [{"a": ["é🎬\n\\" * 9, -1.5e3, True, None, {}]}, [], "x\ud83d", {"n": 12345678901234567890}]
    expected = [
        {"a": ["é🎬\n\\" * 9, "-1500", True, None, {}]},
        [],
        "x\ud83d",
        {"n": "12345678901234567890"},
    ]
    for ascii_only, indent in [(True, None), (False, 2)]:
        text = json.dumps(values, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "replace")
        wanted = expected if ascii_only else [*expected[:2], "x?", expected[3]]
        for window in (1, 2, 3, 7, 64, 1000):
            monkeypatch.setattr("oppu_core.data.importers.json_stream._WINDOW_BYTES", window)
            (tmp_path / "f.json").write_bytes(b"\xef\xbb\xbf \n" + text + b"\n")
            records = list(read_records(tmp_path / "f.json"))
            assert [entry.value for entry in records] == wanted
            content = (tmp_path / "f.json").read_bytes()
            for entry in records:
                assert decode(content[entry.start : entry.start + entry.size]) == entry.value


@pytest.mark.slow
def test_an_import_holds_a_small_part_of_the_file(tmp_path: Path) -> None:
    folder = release(tmp_path / "r", record("t"))
    long = [item(0, description="word " * 4000)]
    with (folder / OTHERS).open("w") as file:
        for number in range(1500):
            file.write(("," if number else "[") + json.dumps(record(str(number), profile=long)))
        file.write("]")
    size = (folder / OTHERS).stat().st_size
    progress: list[tuple[int, int]] = []
    source = Release(folder)
    tracemalloc.start()
    ahead = 0
    try:
        step = source.users(tmp_path, Rejects(tmp_path), lambda *step: progress.append(step))
        for number, _ in enumerate(step):
            ahead = max(ahead, progress[-1][0] - min(number, 1500) * size // 1500)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size > 30e6
    assert ahead < 3e6
    assert peak < 10e6
    assert progress[-1][0] == progress[-1][1] == size + (folder / TEST).stat().st_size


KILLED = """
import os, signal, sys
from pathlib import Path
from oppu_core.data import schema
from oppu_core.data.importers.detect import import_files
from oppu_core.data.importers.release import Release

def killing(function, calls):
    def wrapped(*args, **kwargs):
        nonlocal calls
        calls -= 1
        if calls == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return wrapped

owner, name, calls = {
    "while it streams": (schema.SplitWriter, "add", 70),
    "before it appears": (Path, "rename", 1),
    "between old and new": (Path, "rename", 2),
}[sys.argv[3]]
setattr(owner, name, killing(getattr(owner, name), calls))
import_files(Path(sys.argv[1]), Path(sys.argv[2]), Release(Path(sys.argv[1])))
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["while it streams", "before it appears", "between old and new"])
def test_an_import_that_was_killed_ends_with_the_same_bytes(tmp_path: Path, moment: str) -> None:
    folder = release(tmp_path / "r", record("t"), others=[record(f"o{number}") for number in range(90)])
    out = tmp_path / "out"
    if moment == "between old and new":
        write_dataset(out, MOVIES, [], {})
    killed = subprocess.run([sys.executable, "-c", KILLED, folder, out, moment], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists()
    whole = run_import(folder, tmp_path / "undisturbed").path
    again = run_import(folder, out).path
    assert {f.name: f.read_bytes() for f in again.iterdir()} == {
        f.name: f.read_bytes() for f in whole.iterdir()
    }
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out", "r", "undisturbed"]


def test_the_command_imports_and_counts(tmp_path: Path) -> None:
    folder = release(tmp_path / "r [x]", record("t"), others=[record("o"), record("p")])
    out = tmp_path / "out"
    arguments = ["import", str(folder), "--format", "oppu-release", "--out", str(out)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "lamp_2m" in result.output and "rejected" not in result.output
    assert Dataset.open(out).source["kind"] == "oppu-release"
    assert str(tmp_path) not in (out / "dataset.json").read_text()
    failed = CliRunner().invoke(app, [*arguments, "--task", "lamp_2"])
    assert isinstance(failed.exception, OppuError)
