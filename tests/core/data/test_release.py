"""The importer of the authors' release: what it understands, and that it never half understands."""

import json
import re
import signal
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from oppu_core.cli.data import app
from oppu_core.data import User
from oppu_core.data.dataset import Dataset
from oppu_core.data.dataset_writer import write_dataset
from oppu_core.data.importers.detect import import_files
from oppu_core.data.importers.json_stream import decode, read_records
from oppu_core.data.importers.release import Release
from oppu_core.data.rejected import Rejects
from oppu_core.errors import DataError, OppuError
from oppu_core.storage.files import read_jsonl
from oppu_core.tasks.task_files import TASKS
from typer.testing import CliRunner

OTHERS, TEST, LABELS = "user_others.json", "user_top_100_history.json", "user_top_100_history_label.json"
MOVIES = TASKS["lamp_2m"]
INSTRUCTION = MOVIES.instruction + " description: "


def item(number: int = 0, **changes: Any) -> dict[str, Any]:
    fields = {
        "id": f"h{number}",
        "description": f"Film {number}.",
        "tag": "comedy",
        "date": f"2020-01-{number + 1:02d}",
    }
    return fields | changes


def record(user_id: Any = "u", items: int = 2, **changes: Any) -> dict[str, Any]:
    query = {"id": f"q-{user_id}", "input": INSTRUCTION + "A film.", "gold": "action"}
    return {
        "user_id": user_id,
        "profile": [item(number) for number in range(items)],
        "query": [query],
    } | changes


def release(folder: Path, *test: Any, others: Any = (), labels: Any = None) -> Path:
    """A release folder of these records."""
    folder.mkdir(exist_ok=True)
    (folder / OTHERS).write_text(json.dumps(list(others)))
    (folder / TEST).write_text(json.dumps(list(test)))
    if labels is not None:
        (folder / LABELS).write_text(json.dumps(labels))
    return folder


def users(folder: Path, strict: bool = False) -> list[User]:
    with tempfile.TemporaryDirectory() as scratch:
        reader = Release(folder, MOVIES)
        return list(reader.users(Path(scratch), Rejects(Path(scratch), strict), lambda done, total: None))


def run_import(folder: Path, out: Path) -> Dataset:
    return import_files(folder, out, Release(folder)).dataset


def rejected(dataset: Dataset) -> list[Any]:
    return read_jsonl(dataset.path / "rejected.jsonl")


# Understanding


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


# Refusing


BAD_RECORDS: dict[str, tuple[Any, str]] = {
    "user not an object": (["u"], "record 2, user: is not an object but a list"),
    "no user_id": ({"profile": [], "query": []}, "record 2, user: user_id must be text, but is missing"),
    "null user_id": (record(None), "user_id must be text, but is null"),
    "boolean user_id": (record(True), "user_id must be text, but is true or false"),
    "empty user_id": (record(""), "user_id is empty"),
    "endless user_id": (record("x" * 10_000), r"user_id has more than 1,000 characters \(10,000\)"),
    "profile missing": (
        {"user_id": "u", "query": []},
        "user 'u', user: profile must be a list, but is missing",
    ),
    "query an object": (record(query={}), "user 'u', user: query must be a list, but is an object"),
    "no history": (record(profile=[]), "user 'u', user: has no usable history"),
    "item not an object": (record(profile=["x"]), "user 'u', history item: is not an object"),
    "item without id": (record(profile=[item(id=None)]), "history item: id must be text, but is null"),
    "null field": (
        record(profile=[item(tag=None)]),
        "user 'u', history item 'h0': tag must be text, but is null",
    ),
    "empty field": (record(profile=[item(tag=" ")]), "history item 'h0': tag is empty"),
    "field missing": (
        record(profile=[{"id": "h", "tag": "x"}]),
        "history item 'h': description must be text, but is missing",
    ),
    "giant field": (record(profile=[item(tag="x" * 1_000_001)]), "tag has more than 1,000,000 characters"),
    "half an emoji": (record(profile=[item(tag="half \ud83d")]), "tag has a broken character"),
    "date of another form": (
        record(profile=[item(date="1/2/2020")]),
        r"history item 'h0': date is not an ISO date \('1/2/2020'; which is the day",
    ),
    "query without input": (record(query=[{"id": "q"}]), "query 'q': input must be text, but is missing"),
    "another task's": (
        record(query=[{"id": "q", "input": "What?"}]),
        r"query 'q': input is not one of task lamp_2m \('What\?'\)",
    ),
    "empty input": (record(query=[{"id": "q", "input": INSTRUCTION}]), "input has no description"),
    "gold a list": (record(query=[{"id": "q", "input": INSTRUCTION + "A.", "gold": []}]), "gold must be"),
    "query twice": (record(query=[record()["query"][0]] * 2), "query 'q-u': its id occurs twice"),
    "user twice": (record("good"), rf"user_id occurs twice \(first in {TEST}, record 1\)"),
}


@pytest.mark.parametrize(("bad", "message"), BAD_RECORDS.values(), ids=BAD_RECORDS.keys())
def test_a_bad_record_is_left_out_and_written_down_or_with_strict_an_error(
    tmp_path: Path, bad: Any, message: str
) -> None:
    folder = release(tmp_path / "r", record("good"), bad, record("last"), others=[record("o")])
    dataset = run_import(folder, tmp_path / "out")
    assert {"good", "last"} <= set(dataset.user_ids("test"))
    assert dataset.user("good") == users(folder)[0]
    first, *more = rejected(dataset)
    assert (first["file"], first["record"]) == (TEST, 2)
    assert len(first["value"]) <= 10_000
    assert dataset.source["rejected"] == 1 + len(more)
    with pytest.raises(DataError, match=f"{TEST}, .*{message}") as error:
        users(folder, strict=True)
    assert len(str(error.value)) < 1000
    # The file and the record stand in columns of their own.
    assert re.search(message.partition("user: ")[2] or message.rpartition(", ")[2], first["reason"])


def test_the_smallest_unit_is_left_out(tmp_path: Path) -> None:
    good, bad = record("u"), {"id": "bad"}
    spoilt = good | {"profile": [*good["profile"], bad], "query": [bad, *good["query"]]}
    dataset = run_import(release(tmp_path / "r", spoilt, others=[record("o")]), tmp_path / "out")
    (wanted,) = users(release(tmp_path / "good", good))
    assert dataset.user("u") == wanted
    assert [row["reason"].partition(":")[0] for row in rejected(dataset)] == [
        "history item 'bad'",
        "query 'bad'",
    ]
    assert [(row["record"], row["user_id"]) for row in rejected(dataset)] == [(1, "u")] * 2


def test_a_test_user_needs_history_and_one_of_the_others_history_or_queries(tmp_path: Path) -> None:
    no_history, no_queries = record("h", items=0), record("q", query=[])
    nothing = record("n", items=0, query=[])
    changed = [user | {"user_id": user["user_id"] + "2"} for user in (no_history, no_queries, nothing)]
    folder = release(tmp_path / "r", no_history, no_queries, nothing, others=changed)
    assert [user.user_id for user in users(folder)] == ["q", "h2", "q2"]


def test_of_a_user_in_both_files_the_others_lose_theirs(tmp_path: Path) -> None:
    folder = release(tmp_path / "r", record("u", items=3), others=[record("o"), record("u", items=1)])
    dataset = run_import(folder, tmp_path / "out")
    assert dataset.user_ids("test") == ["u"] and dataset.user_ids("others") == ["o"]
    assert len(dataset.user("u").history) == 3
    (row,) = rejected(dataset)
    assert (row["file"], row["record"]) == (OTHERS, 2) and f"first in {TEST}, record 1" in row["reason"]


def test_two_test_queries_of_one_id_are_an_error_that_names_both(tmp_path: Path) -> None:
    folder = release(tmp_path / "r", record("a"), record("b", query=record("a")["query"]))
    with pytest.raises(
        DataError, match=rf"{TEST}, record 2, user 'b': query 'q-a' .*{TEST}, record 1, user 'a'"
    ):
        users(folder)


@pytest.mark.parametrize("user_id", ["../../x", "con", "🎬", "/etc/passwd", "a\0b", ".", "x" * 900])
def test_a_hostile_id_is_data(tmp_path: Path, user_id: str) -> None:
    folder = release(tmp_path / "r", record(user_id), others=[record("o")])
    dataset = run_import(folder, tmp_path / "out")
    assert dataset.user(user_id).user_id == user_id
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out", "r"]
    assert all(
        re.fullmatch(r"dataset\.json|(test|others)-0+\.parquet", f.name) for f in dataset.path.iterdir()
    )


def test_profiles_of_known_users_are_kept(tmp_path: Path) -> None:
    folder = release(tmp_path / "r", record("t"), others=[record("o")])
    texts = [("o", "likes comedies"), ("stranger", "?"), ("o", "again")]
    rows = [{"id": user_id, "output": text} for user_id, text in texts]
    (folder / "profile_user_others.json").write_text(json.dumps(rows))
    (folder / "profile_user_100.json").write_text(json.dumps([{"id": "t", "output": "é"}, {"id": "t"}]))
    dataset = run_import(folder, tmp_path / "out")
    assert read_jsonl(dataset.path / "profiles.jsonl") == [
        {"task": "lamp_2m", "user_id": "o", "profile": "likes comedies"},
        {"task": "lamp_2m", "user_id": "t", "profile": "é"},
    ]
    assert [row["reason"] for row in rejected(dataset)] == [
        "profile: there is no such user",
        "profile: the user has a profile already",
        "profile: output must be text, but is missing",
    ]
    assert "profile_user_100.json" in [file["file"] for file in dataset.source["files"]]


GOOD = json.dumps([record("first"), record("second")]).encode()
BAD_FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "must be a JSON list of records, but it is empty"),
    "an object": (b'{"a": []}', r"must be a JSON list of records, but it starts with '\{'"),
    "cut in a string": (GOOD[:-30], r"byte \d+, in record 2: .*the file ends here"),
    "cut between records": (
        GOOD.replace(b'}]}, {"user_id": "second"', b"}]}|")[:-1].partition(b"|")[0],
        "ends here",
    ),
    "no comma": (GOOD.replace(b"}]}, {", b"}]} {"), "expected ',' or ']'"),
    "comma at the end": (GOOD[:-1] + b",]", "in record 3"),
    "more behind the list": (GOOD + b" []", "the list has ended"),
    "not UTF-8": (
        GOOD.replace(b"second", b"sec\xffond"),
        rf"byte {GOOD.index(b'second') + 3}, in record 2: not UTF-8",
    ),
    "not UTF-8 at once": (b"\xff[]", "byte 0, in record 1: not UTF-8"),
    "UTF-8 cut": (b'["\xc3', "byte 2, .*not UTF-8"),
    "surrogate in UTF-8": (b'["\xed\xa0\x80"]', "byte 2, .*not UTF-8"),
    "nested": (b"[" * 100_000, "nested too deeply"),
    "NUL": (GOOD.replace(b"second", b"sec\0nd"), "Invalid control character"),
}


@pytest.mark.parametrize(("content", "message"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_damaged_file_is_one_error_that_says_where(tmp_path: Path, content: bytes, message: str) -> None:
    folder = release(tmp_path / "r")
    (folder / TEST).write_bytes(content)
    with pytest.raises(DataError, match=f"{TEST}.*{message}"):
        users(folder)


def test_missing_files_and_folders_are_one_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        Release(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is not a folder"):
        Release(tmp_path / "file")
    with pytest.raises(DataError, match="it has neither"):
        Release(tmp_path)
    folder = release(tmp_path / "r", record())
    (folder / OTHERS).unlink()
    (folder / OTHERS).mkdir()
    with pytest.raises(DataError, match=r"user_others.json cannot be read: .*directory"):
        users(folder)


@pytest.mark.parametrize("content", ["", "[]", '{"golds": {}}', '{"golds"', "\xff", "[" * 100_000])
def test_a_bad_label_file_is_one_error(tmp_path: Path, content: str) -> None:
    folder = release(tmp_path / "r", record())
    (folder / LABELS).write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=LABELS):
        users(folder)


def test_bad_golds_are_left_out(tmp_path: Path) -> None:
    golds = [{"id": "q-t"}, 5, {"id": "q-t", "output": "comedy"}, {"id": "q-t", "output": "action"}]
    user = record("t", query=[record("t")["query"][0] | {"gold": None}])
    folder = release(tmp_path / "r", user, others=[record("o")], labels={"task": "LaMP_2M", "golds": golds})
    dataset = run_import(folder, tmp_path / "out")
    assert dataset.user("t").queries[0].gold == "comedy"
    assert [(row["file"], row["record"]) for row in rejected(dataset)] == [
        (LABELS, 1),
        (LABELS, 2),
        (LABELS, 4),
    ]


# Streaming


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


# Surviving


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


# The command


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
