"""Plain events: any order, three file formats, own field names; the latest ones become the queries."""

import csv
import datetime
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from oppu_core.data import User
from oppu_core.data.importers.detect import import_files, open_reader
from oppu_core.errors import DataError
from oppu_core.storage.files import read_jsonl
from oppu_core.tasks.task import Task
from oppu_core.tasks.task_files import get_task

MOVIES = get_task("lamp_2m")


def event(user: Any = "u", time: Any = "2020-01-01", text: str = "A film.", **more: Any) -> dict[str, Any]:
    return {"user_id": user, "time": time, "input": text, "output": "comedy"} | more


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
            writer.writeheader()
            writer.writerows(rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def imported(path: Path, task: Task | None = MOVIES, strict: bool = False, **options: Any) -> dict[str, User]:
    dataset = import_files(
        path, path.parent / "out", open_reader(path, None, task, **options), strict
    ).dataset
    return {user.user_id: user for user in dataset.users()}


def rejected(path: Path) -> list[str]:
    return [row["reason"] for row in read_jsonl(path.parent / "out" / "rejected.jsonl")]


def texts(user: User) -> list[str]:
    return [entry.fields["description"] for entry in user.history]


def test_events_of_any_order_become_histories_in_the_order_of_time(tmp_path: Path) -> None:
    rows = [event(f"u{n % 7}", f"2020-01-{n // 7 + 1:02d}", f"Film {n // 7}.") for n in range(70)]
    random.Random(1).shuffle(rows)
    found = imported(table(tmp_path / "e.jsonl", rows))
    assert found.keys() == {f"u{n}" for n in range(7)}
    for user in found.values():
        # A fifth of ten.
        assert texts(user) == [f"Film {n}." for n in range(8)]
        assert [query.fields["description"] for query in user.queries] == ["Film 8.", "Film 9."]
        assert [(query.gold, query.history_len) for query in user.queries] == [("comedy", 8)] * 2
        assert user.history[0].date == "2020-01-01"


def test_every_file_format_says_the_same(tmp_path: Path) -> None:
    rows = [event(f"u{n % 3}", f"2020-01-{n + 1:02d}", f'A "film",\n{n} é🎬') for n in range(12)]
    found = [imported(table(tmp_path / f"e.{suffix}", rows)) for suffix in ("csv", "parquet")]
    jsonl = {name: (texts(user), len(user.queries)) for name, user in found[0].items()}
    assert all({name: (texts(user), len(user.queries)) for name, user in f.items()} == jsonl for f in found)
    assert imported(table(tmp_path / "e.jsonl", rows)) == found[1]


def test_parquet_types_become_text(tmp_path: Path) -> None:
    task = get_task("lamp_3")
    day = datetime.datetime(2020, 1, 1, 12, tzinfo=datetime.UTC)
    rows = [event(7, day + datetime.timedelta(n), score=5.0, output=None) for n in range(3)]
    rows.append(event(7, day, score=float("nan"), output=None))
    (user,) = imported(table(tmp_path / "e.parquet", rows), task).values()
    assert user.user_id == "7"
    assert [entry.fields["score"] for entry in user.history] == ["5", "5"]
    assert user.history[0].date == "2020-01-01T12:00:00+00:00"
    assert rejected(tmp_path / "e.parquet") == ["event: score must be text, but is missing"]


@pytest.mark.parametrize(
    "times",
    [
        ["2", "10", "9e1", "1000.5"],
        [2, 10, 90.5, 91],
        ["2019-12", "2020-01-01", "2020-01-01T09:00:00", "2020-01-01T09:30:00Z"],
        [
            "2020-01-01T09:00:00+02:00",
            "2020-01-01T08:00:00",
            "2020-01-01 08:00:00.5",
            "2020-01-01T05:00-04:00",
        ],
    ],
)
def test_times_are_compared_as_times(tmp_path: Path, times: list[Any]) -> None:
    rows = [event(time=time, text=f"Film {number}.") for number, time in enumerate(times)]
    (user,) = imported(table(tmp_path / "e.jsonl", rows[::-1])).values()
    assert [*texts(user), user.queries[0].fields["description"]] == [f"Film {n}." for n in range(4)]
    dates = [entry.date for entry in user.history]
    assert dates == [None] * 3 or dates == sorted(str(date) for date in dates)


def test_events_of_one_time_keep_the_order_of_the_file(tmp_path: Path) -> None:
    rows = [event(text=f"Film {number}.") for number in range(5)]
    (user,) = imported(table(tmp_path / "e.jsonl", rows)).values()
    assert texts(user) == [f"Film {number}." for number in range(4)]


def test_how_many_queries(tmp_path: Path) -> None:
    rows = [event("long", n) for n in range(200)] + [event("one", 1)] + [event("other", n) for n in range(40)]
    path = table(tmp_path / "e.jsonl", rows)
    found = imported(path, test_users=2)
    assert {name: (user.split, len(user.queries)) for name, user in found.items()} == {
        "long": ("test", 20),
        "other": ("test", 8),
        "one": ("others", 1),
    }
    found = imported(path, test_users=1, queries=500)
    assert {name: (user.split, len(user.history), len(user.queries)) for name, user in found.items()} == {
        "long": ("test", 1, 199),
        "one": ("others", 0, 1),
        "other": ("others", 37, 3),
    }


def test_a_task_with_fields_of_its_own_takes_columns_of_their_names(tmp_path: Path) -> None:
    task = Task(
        "mails", "generation", ("subject", "notes"), "Write it.", "{subject}: {notes}", output_field="mail"
    )
    rows = [{"user_id": "u", "time": n, "subject": "s", "notes": "n", "mail": "Hi"} for n in range(2)]
    (user,) = imported(table(tmp_path / "e.csv", rows), task).values()
    assert user.history[0].fields == {"subject": "s", "notes": "n", "mail": "Hi"}
    assert user.queries[0].fields == {"subject": "s", "notes": "n"}
    aliased = [{"user_id": "u", "time": n, "input": "s", "notes": "n", "output": "Hi"} for n in range(2)]
    assert imported(table(tmp_path / "e.csv", aliased), task) == {"u": user}
    with pytest.raises(
        DataError, match=r"e.csv: notes must be .* has user_id, time, subject \(or input\), notes, mail"
    ):
        imported(table(tmp_path / "e.csv", [event(time=1)]), task)


def test_the_task_is_told_by_the_columns_or_asked_for(tmp_path: Path) -> None:
    rows = [{"user_id": "u", "time": n, "text": "t", "category": "travel"} for n in range(2)]
    assert open_reader(table(tmp_path / "e.csv", rows)).task.name == "lamp_2n"
    with pytest.raises(DataError, match=r"cannot tell the task.*--task"):
        open_reader(table(tmp_path / "e.csv", [event()]))


def test_histories_without_answers_get_queries_from_rows_that_ask(tmp_path: Path) -> None:
    tweets = [{"user_id": "u", "time": n, "output": f"tweet {n}"} for n in range(3)]
    asked = {"user_id": "u", "time": 1.5, "input": "A plain text.", "output": "my words"}
    (user,) = imported(table(tmp_path / "e.csv", [asked, *tweets]), get_task("lamp_7")).values()
    assert [entry.fields for entry in user.history] == [{"text": f"tweet {n}"} for n in range(3)]
    (query,) = user.queries
    assert (query.fields, query.gold, query.history_len) == ({"text": "A plain text."}, "my words", 2)
    papers = [{"user_id": "u", "time": n, "title": f"paper {n}", "abstract": ""} for n in range(2)]
    options = {"user_id": "u", "time": 9, "title": "new", "option_1": "a", "option_2": "b", "output": "[1]"}
    (user,) = imported(table(tmp_path / "e.jsonl", [*papers, options]), get_task("lamp_1")).values()
    assert len(user.history) == 2
    assert user.queries[0].fields == {"title": "new", "option_1": "a", "option_2": "b"}


BAD_ROWS: dict[str, tuple[Any, str]] = {
    "not an object": ([], "is not an object but a list"),
    "no user": (event(None), "user_id must be text, but is missing"),
    "no time": (event(time=None), "time must be text, but is missing"),
    "another time": (event(time="5"), "time is not an ISO date as in the first rows ('5')"),
    "no such day": (event(time="2020-02-31"), "time is not an ISO date as in the first rows ('2020-02-31')"),
    "no output": (event(output=""), "tag must be text, but is missing"),
    "blank": (event(output=" "), "tag is empty"),
    "a list": (event(output=["comedy"]), "tag must be text, but is a list"),
    "broken": (event(output="\ud800"), "tag has a broken character (a lone surrogate) ('\\ud800')"),
}


@pytest.mark.parametrize(("bad", "reason"), BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_a_bad_row_is_left_out(tmp_path: Path, bad: Any, reason: str) -> None:
    rows = [event(), bad, event(), event(), event("v")]
    path = table(tmp_path / "e.jsonl", rows)
    assert len(imported(path)["u"].history) == 2
    assert rejected(path) == [f"event: {reason}"]
    assert read_jsonl(tmp_path / "out" / "rejected.jsonl")[0]["record"] == 2
    with pytest.raises(DataError, match=r"e.jsonl, record 2(, user 'u')?, event: "):
        imported(path, strict=True)


def test_bad_lines_are_left_out(tmp_path: Path) -> None:
    path = table(tmp_path / "e.jsonl", [event(), event()])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b'{"user_id"\n\n\xff\n' + b"[" * 5000 + b"\n{}")
    path.write_bytes(path.read_bytes() + '\n{"name": "é"}'.encode())
    assert len(imported(path)["u"].history) == 1
    rows = read_jsonl(tmp_path / "out" / "rejected.jsonl")
    assert [row["record"] for row in rows] == [3, 5, 6, 7, 8]
    assert [row["value"][:9].strip() for row in rows[:4]] == ['{"user_id', "\ufffd", "[[[[[[[[[", "{}"]
    assert rows[1]["reason"] == "event: is not UTF-8 text"
    path = tmp_path / "e.csv"
    path.write_bytes(
        b"user_id,time,input,output\nu,1,a,b\nu,2\nu,3,\xff,b\n\nu,4,a,b\n" + "u,5,é,b\n".encode()
    )
    assert len(imported(path)["u"].history) == 2
    assert rejected(path) == [
        "event: has another number of cells than the header (2, not 4)",
        "event: input is not UTF-8 text (b'\\xff')",
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("e.csv", b"", "the header is empty"),
        ("e.csv", b"user_id,time,time\nu,1,2\n", "the header has a column twice"),
        ("e.csv", b"user_id,time,input,output\n", "has no usable row"),
        ("e.csv", b'user_id,time,input,output\nu,1,"a,b\nu,1,a,b\n', "line 3: not the CSV"),
        (
            "e.csv",
            b"user_id,time,tag\nu,1,2\n",
            r"description must be text, but is missing. An event of lamp_2m",
        ),
        ("e.jsonl", b"", "has no usable row"),
        ("e.jsonl", b"nonsense\n" * 3, r"has no usable row \(record 1 is not JSON\)"),
        (
            "e.csv",
            b"user_id;time;input\nu;1;a\n",
            r"tag must be .*; these have 'user_id, time, input'",
        ),
        ("e.parquet", b"PAR1", "after record 0: not the Parquet"),
        ("e.parquet", b"", "after record 0: not the Parquet"),
        ("e.txt", b"", "the header is empty"),
    ],
)
def test_a_damaged_table_is_one_error(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}.*{message}"):
        import_files(tmp_path, tmp_path / "out", open_reader(tmp_path / name, "events", MOVIES))
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_a_folder_or_nothing_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder without files of events"):
        open_reader(tmp_path, "events", MOVIES)
    with pytest.raises(DataError, match="does not exist"):
        open_reader(tmp_path / "e.csv", "events", MOVIES)


def test_many_parts_lose_nothing_and_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [event(f"user {n % 50}", n, f"Film {n}.") for n in range(500)]
    path = table(tmp_path / "e.jsonl", rows)
    whole = imported(path)
    monkeypatch.setattr("oppu_core.data.importers.group_by_user._PART_BYTES", 5_000)
    monkeypatch.setattr("oppu_core.data.importers.group_by_user._BUFFER_BYTES", 1_000)
    assert list(imported(path).items()) == list(whole.items())
    monkeypatch.setattr("oppu_core.data.importers.group_by_user._USER_BYTES", 500)
    huge = table(
        tmp_path / "e.jsonl", [event("huge", n) for n in range(50)] + [event("small", n) for n in range(3)]
    )
    assert imported(huge).keys() == {"small"}
    assert rejected(huge) == ["user: has too many events"]
