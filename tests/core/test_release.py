"""The importer of the authors' release: what it understands, and that it never half understands."""

import json
import os
import random
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from oppu_core.data import User
from oppu_core.data.commands import app
from oppu_core.data.dataset import Dataset, write_dataset
from oppu_core.data.json_stream import read_records
from oppu_core.data.release import Release, parse_input
from oppu_core.errors import DataError, OppuError
from oppu_core.tasks import TASKS
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


def users(folder: Path) -> list[User]:
    return list(Release(folder, MOVIES).users())


def run_import(folder: Path, out: Path) -> Dataset:
    source = Release(folder)
    return write_dataset(out, source.task, source.users(), source.source)


# Understanding


def test_a_release_becomes_users(tmp_path: Path) -> None:
    folder = release(tmp_path / "r", record("t"), others=[record("o", items=1), record("p", items=0)])
    others, empty, test = users(folder)
    assert [others.split, empty.split, test.split] == ["others", "others", "test"]
    assert empty.history == () and empty.queries[0].history_len == 0
    assert [entry.fields["description"] for entry in test.history] == ["Film 0.", "Film 1."]
    assert test.history[1].date == "2020-01-02"
    query = test.queries[0]
    assert (query.id, query.gold, query.history_len) == ("q-t", "action", 2)
    assert query.fields == {"description": "A film."}


@pytest.mark.parametrize(
    "text",
    [
        "",
        '"In quotes", she said.',
        "A job description: boring. description: ",
        "  spaces ",
        "two\nlines",
        "🎬\0",
    ],
)
def test_the_text_behind_the_marker_is_kept_as_it_is(tmp_path: Path, text: str) -> None:
    query = {"id": "q", "input": INSTRUCTION + text, "gold": "action"}
    assert users(release(tmp_path / "r", record(query=[query])))[0].queries[0].fields == {"description": text}


def test_numbers_become_text_of_the_same_digits(tmp_path: Path) -> None:
    folder = release(tmp_path / "r", record("LONG", profile=[item(tag=5), item(tag=4.0), item(tag=0.25)]))
    text = (folder / TEST).read_text().replace('"LONG"', "9" * 5000)
    (folder / TEST).write_text(text)
    (user,) = users(folder)
    assert user.user_id == "9" * 5000
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
        {"id": i, "input": INSTRUCTION, "gold": gold}
        for i, gold in enumerate(["action", None, None, "classic"])
    ]
    golds = [
        {"id": "0", "output": "comedy"},
        {"id": 1, "output": "violence"},
        {"id": "3", "output": "classic"},
    ]
    folder = release(tmp_path / "r", record(query=queries), labels={"task": "LaMP_2M", "golds": golds})
    source = Release(folder)
    (user,) = source.users()
    assert [query.gold for query in user.queries] == ["action", "violence", None, "classic"]
    assert source.source["gold_disagreements"] == 1
    assert [file["file"] for file in source.source["files"]] == [OTHERS, TEST, LABELS]


def test_the_task_is_told_by_labels_then_folder_then_fields(tmp_path: Path) -> None:
    headline = record(profile=[{"id": "1", "text": "t", "title": "h"}])
    labels = {"task": "LaMP_4", "golds": []}
    assert Release(release(tmp_path / "movie_tagging", headline, labels=labels)).task.name == "lamp_4"
    assert Release(release(tmp_path / "news_headline", record())).task.name == "lamp_4"
    assert Release(release(tmp_path / "a", record(profile=[]), headline)).task.name == "lamp_4"
    assert Release(release(tmp_path / "b", others=[record()])).task.name == "lamp_2m"
    assert Release(tmp_path / "a", MOVIES).task is MOVIES
    with pytest.raises(DataError, match=r"cannot tell the task.*--task with one of lamp_2m, lamp_4"):
        Release(release(tmp_path / "c", record(profile=[])))


def test_no_marker_is_an_error_that_says_what_was_expected() -> None:
    with pytest.raises(DataError, match=r"here: input 'What is it\?' has no 'description: '"):
        parse_input(MOVIES, "What is it?", "here")


# Refusing


BAD_RECORDS: dict[str, tuple[Any, str]] = {
    "user not an object": (["u"], "record 1: expected an object, found a list"),
    "no user_id": ({"profile": [], "query": []}, "record 1: user_id must be text, but is missing"),
    "null user_id": (record(None), "user_id must be text, but is null"),
    "boolean user_id": (record(True), "user_id must be text, but is true or false"),
    "empty user_id": (record(""), "user_id is empty"),
    "profile missing": ({"user_id": "u", "query": []}, "user 'u': profile must be a list, but is missing"),
    "query an object": (record(query={}), "user 'u': query must be a list, but is an object"),
    "item not an object": (record(profile=["x"]), "user 'u', profile: expected an object"),
    "item without id": (record(profile=[item(id=None)]), "user 'u', profile: id must be text, but is null"),
    "null field": (record(profile=[item(tag=None)]), "user 'u', item 'h0': tag must be text, but is null"),
    "field missing": (
        record(profile=[{"id": "h", "tag": "x"}]),
        "user 'u', item 'h': description must be text, but is missing",
    ),
    "date of another form": (
        record(profile=[item(date="1/2/2020")]),
        "item 'h0': date '1/2/2020' is not an ISO",
    ),
    "query without input": (
        record(query=[{"id": "q"}]),
        "user 'u', query 'q': input must be text, but is missing",
    ),
    "no marker": (
        record(query=[{"id": "q", "input": "What?"}]),
        f"{TEST}, user 'u', query 'q': input 'What\\?' has no 'description: '",
    ),
    "gold a list": (record(query=[{"id": "q", "input": INSTRUCTION, "gold": []}]), "gold must be text"),
}


@pytest.mark.parametrize(("bad", "message"), BAD_RECORDS.values(), ids=BAD_RECORDS.keys())
def test_a_bad_record_is_named(tmp_path: Path, bad: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        users(release(tmp_path / "r", bad))


GOOD = json.dumps([record("first"), record("second")]).encode()
BAD_FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "must be a JSON list of users, but it is empty"),
    "an object": (b'{"a": []}', r"must be a JSON list of users, but it starts with '\{'"),
    "cut in a string": (GOOD[:-30], r"byte \d+, in record 2: .*the file ends here"),
    "cut between records": (
        GOOD.replace(b'}]}, {"user_id": "second"', b"}]}|")[:-1].partition(b"|")[0],
        "ends here",
    ),
    "no comma": (GOOD.replace(b"}]}, {", b"}]} {"), "expected ',' or ']'"),
    "comma at the end": (GOOD[:-1] + b",]", "in record 3"),
    "more behind the list": (GOOD + b" []", "the list has ended"),
    "not UTF-8": (GOOD.replace(b"second", b"sec\xffond"), rf"byte {GOOD.index(b'second') + 3}, .*not UTF-8"),
    "UTF-8 cut": (b'["\xc3', "byte 2, .*not UTF-8"),
    "surrogate in UTF-8": (b'["\xed\xa0\x80"]', "byte 2, .*not UTF-8"),
    "not a number": (b'[{"user_id": NaN}]', "NaN is not JSON"),
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
    with pytest.raises(DataError, match=r"user_others.json is not a file"):
        users(folder)


@pytest.mark.parametrize("content", ["", "[]", '{"golds": {}}', '{"golds": [{"id": "q"}]}', '{"golds": [5]}'])
def test_a_bad_label_file_is_one_error(tmp_path: Path, content: str) -> None:
    folder = release(tmp_path / "r", record())
    (folder / LABELS).write_text(content)
    with pytest.raises(DataError, match=LABELS):
        Release(folder, MOVIES)


def test_a_broken_character_is_refused_and_not_changed(tmp_path: Path) -> None:
    folder = release(tmp_path / "r", record(profile=[item(description="half \ud83d")]))
    with pytest.raises(DataError, match=r"user 'u', history\[0\].fields.description: a lone surrogate"):
        run_import(folder, tmp_path / "out")


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
            monkeypatch.setattr("oppu_core.data.json_stream._WINDOW_BYTES", window)
            (tmp_path / "f.json").write_bytes(b"\xef\xbb\xbf \n" + text + b"\n")
            assert list(read_records(tmp_path / "f.json")) == wanted


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
        for number, _ in enumerate(source.users(lambda *step: progress.append(step))):
            ahead = max(ahead, progress[-1][0] - min(number, 1500) * size // 1500)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size > 30e6
    assert ahead < 3e6
    assert peak < 10e6
    assert progress[-1][0] == progress[-1][1] == size + (folder / TEST).stat().st_size


# Surviving


def mutate(value: Any, rng: random.Random) -> Any:
    """The value with one random place dropped, renamed, retyped or doubled."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        rest = {name: entry for name, entry in value.items() if name != key}
        return rng.choice(
            [
                lambda: rest,
                lambda: rest | {key + "x": value[key]},
                lambda: value | {key: mutate(value[key], rng)},
                lambda: value | {key: mutate(value[key], rng)},
            ]
        )()
    if isinstance(value, list) and value and rng.random() < 0.9:
        place = rng.randrange(len(value))
        doubled = [value[place]] * rng.choice([0, 2])
        return value[:place] + rng.choice([[mutate(value[place], rng)], doubled]) + value[place + 1 :]
    return rng.choice(
        [None, True, 7, -0.5, 10**400, "", "\ud800", "\0", "x" * 10_000, [], {}, [[]], {"id": {}}]
    )


def test_a_mutated_release_is_imported_or_refused_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    rng = random.Random(11)
    labels = {"task": "LaMP_2M", "golds": [{"id": "q-t", "output": "comedy"}]}
    contents: dict[str, Any] = {
        OTHERS: [record("o"), record("p")],
        TEST: [record("t"), record("s")],
        LABELS: labels,
    }
    folder, out, outcomes = release(tmp_path / "r"), tmp_path / "out", {True: 0, False: 0}
    for _ in range(200):
        victim = rng.choice(sorted(contents))
        for name, content in contents.items():
            text = bytearray(json.dumps(mutate(content, rng) if name == victim else content).encode())
            if name == victim and rng.random() < 0.4:
                text = text[: rng.randrange(len(text))] if rng.random() < 0.5 else text
                for _ in range(rng.randrange(3) if text else 0):
                    text[rng.randrange(len(text))] = rng.randrange(256)
            (folder / name).write_bytes(bytes(text))
        try:
            dataset = run_import(folder, out)
        except OppuError as error:
            assert isinstance(error, DataError)
            assert len(str(error)) < 1000
            outcomes[False] += 1
            assert [entry.name for entry in tmp_path.iterdir()] == ["r"]
        else:
            outcomes[True] += 1
            dataset.verify()
            assert len(list(dataset.users())) == sum(counts["users"] for counts in dataset.counts.values())
            for file in out.iterdir():
                file.unlink()
            out.rmdir()
    assert min(outcomes.values()) > 20


KILLED = """
import os, signal, sys
from pathlib import Path
from oppu_core import files
from oppu_core.data import dataset, rows
from oppu_core.data.release import Release

def killing(function, calls):
    def wrapped(*args, **kwargs):
        nonlocal calls
        calls -= 1
        if calls == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return wrapped

owner, name, calls = {
    "while it streams": (rows.SplitWriter, "add", 70),
    "before it appears": (Path, "rename", 1),
    "between old and new": (Path, "rename", 2),
}[sys.argv[3]]
setattr(owner, name, killing(getattr(owner, name), calls))
release = Release(Path(sys.argv[1]))
dataset.write_dataset(Path(sys.argv[2]), release.task, release.users(), release.source)
"""


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
    assert "lamp_2m" in result.output and "3 users" in result.output
    assert Dataset.open(out).source["kind"] == "oppu-release"
    assert str(tmp_path) not in (out / "dataset.json").read_text()
    failed = CliRunner().invoke(app, [*arguments, "--task", "lamp_2"])
    assert isinstance(failed.exception, OppuError)
