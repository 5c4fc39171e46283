"""What is the same in another form is imported as the same: labels, numbers, ids, times; the rest is said"""

import dataclasses
import json
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from oppu_core.data import HistoryItem, User
from oppu_core.data.importers.detect import Imported, import_files, open_reader
from oppu_core.data.intake import in_order
from oppu_core.errors import DataError
from oppu_core.storage.files import read_jsonl
from oppu_core.tasks.task import Task
from oppu_core.tasks.task_files import TASKS

GENRES = Task(
    name="genres",
    kind="classification",
    input_fields=("text",),
    output_field="genre",
    instruction="Which of {labels}?",
    query_template="text: {text} genre:",
    labels=("true story", "théâtre", "1"),
)
STARS, MOVIES, NEWS = TASKS["lamp_3"], TASKS["lamp_2m"], TASKS["lamp_4"]


def rows(outputs: list[Any], users: int = 3, first: int = 1, **more: Any) -> list[dict[str, Any]]:
    """Events of some users, a day each, with these outputs in turn."""
    return [
        {"user_id": f"u{u}", "time": f"2024-05-{n + first:02d}", "input": f"text {u} {n}", "output": output}
        | more
        for u in range(users)
        for n, output in enumerate(outputs)
    ]


def take(
    path: Path, events: list[dict[str, Any]], task: Task = GENRES, strict: bool = False, words: Any = None
) -> Imported:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
    elif path.suffix == ".csv":
        lines = [
            ",".join(f'"{value}"' for value in row) for row in (events[0], *(e.values() for e in events))
        ]
        path.write_text("\n".join(lines), encoding="utf-8")
    reader = open_reader(path, "events", task, test_users=1)
    return import_files(path, path.with_suffix(".out"), reader, strict, words=words)


def content(result: Imported) -> tuple[str, str]:
    return result.dataset.content("test"), result.dataset.content("others")


@pytest.mark.parametrize("kind", [".jsonl", ".csv"])
@pytest.mark.parametrize(
    "outputs",
    [
        ["true\u00a0story", unicodedata.normalize("NFD", "théâtre"), "1.0", " 1.00"],
        ["true  story\ufeff", " théâtre ", "01", "1."],
    ],
)
def test_labels_in_other_forms_are_the_same_dataset(tmp_path: Path, kind: str, outputs: list[str]) -> None:
    plain = take(tmp_path / f"plain{kind}", rows(["true story", "théâtre", "1", "1"]))
    other = take(tmp_path / f"other{kind}", rows(outputs))
    assert content(other) == content(plain)
    assert other.notes == plain.notes == ()


@pytest.mark.parametrize("numbers", [[5.0, 4.0, 1.0, 3.5], ["5.00", "4.0", "1", "3.50"]])
def test_numbers_are_read_one_way_in_every_format(tmp_path: Path, numbers: list[Any]) -> None:
    plain = content(take(tmp_path / "plain.jsonl", rows(["5", "4", "1", "3.5"]), STARS))
    for kind in (".jsonl", ".csv"):
        assert content(take(tmp_path / f"n{kind}", rows(numbers), STARS)) == plain
    for arrow, values in (
        (pa.float32(), [5.0, 4.0, 1.0, 3.7]),
        (pa.float64(), [5.0, 4.0, 1.0, 3.7]),
        (pa.float64(), [5.0, 4.0, 1.0, 3.700000047683716]),
        (pa.decimal128(5, 2), [5, 4, 1, "3.70"]),
    ):
        table = pa.Table.from_pylist(rows(["x"] * 4))
        column = pa.array([str(value) for value in values] * 3).cast(arrow)
        pq.write_table(table.set_column(3, "output", column), tmp_path / "t.parquet")
        found = content(take(tmp_path / "t.parquet", [], STARS))
        assert found == content(take(tmp_path / "same.jsonl", rows(["5", "4", "1", "3.7"]), STARS))


@pytest.mark.parametrize(
    ("score", "hint"), [("five", "'five'"), ("5,0", "a decimal comma"), ("nan", "'nan'")]
)
def test_a_rating_that_is_none_is_found_at_import_with_its_row(tmp_path: Path, score: str, hint: str) -> None:
    events = rows(["5", "4", "3", "2"])
    events[6]["output"] = score
    result = take(tmp_path / "e.csv", events, STARS)
    (refused,) = read_jsonl(tmp_path / "e.out" / "rejected.jsonl")
    assert (refused["record"], refused["user_id"]) == (7, "u1")
    assert "score is no number" in refused["reason"] and hint in refused["reason"]
    assert "first in record 7" in result.notes[-1]
    with pytest.raises(DataError, match=r"record 7.*score is no number"):
        take(tmp_path / "e.csv", events, STARS, strict=True)


def test_golds_outside_the_labels_are_counted_and_refused_with_strict(tmp_path: Path) -> None:
    events = rows(["true story", "theatre", "1", "comedy"])
    result = take(tmp_path / "e.jsonl", events)
    golds, history = result.notes
    assert golds.startswith("3 × gold is none of the task's labels: 'comedy' (3); no answer")
    assert history.startswith(
        "3 × genre of the history is none of the task's labels: 'theatre' (3); adapters"
    )
    with pytest.raises(DataError, match="gold 'comedy' is none of the labels true story, théâtre, 1"):
        take(tmp_path / "e.jsonl", events, strict=True)


@pytest.mark.parametrize("missing", ["nan", "NaN", "NULL", "None", "\\N", "<NA>", ""])
def test_a_missing_user_id_is_no_user(tmp_path: Path, missing: str) -> None:
    events = rows(["1", "1"]) + [event | {"user_id": missing} for event in rows(["1"] * 9, 1)]
    result = take(tmp_path / "e.csv", events)
    assert {user.user_id for user in result.dataset.users()} == {"u0", "u1", "u2"}
    assert "9 × user_id" in result.notes[-1] and "missing" in result.notes[-1]


def test_a_line_that_says_a_thing_twice_is_refused(tmp_path: Path) -> None:
    lines = [json.dumps(event) for event in rows(["1"] * 3)]
    lines[4] = lines[4].replace('"output": "1"', '"output": "1", "output": "théâtre"')
    (tmp_path / "e.jsonl").write_text("\n".join(lines), encoding="utf-8")
    reader = open_reader(tmp_path / "e.jsonl", "events", GENRES, test_users=1)
    result = import_files(tmp_path / "e.jsonl", tmp_path / "out", reader)
    assert (
        "1 × is not JSON with every name once (first in record 5: the name 'output' occurs twice)"
        in result.notes[-1]
    )


def test_a_missing_time_is_refused(tmp_path: Path) -> None:
    result = take(tmp_path / "e.csv", [*rows(["1", "1"]), rows(["1"], time="NaT")[0]])
    assert "1 × time is missing" in result.notes[-1]


def test_an_id_that_a_table_program_made_a_decimal_is_the_id(tmp_path: Path) -> None:
    events = rows(["1"] * 4, 1) + rows(["1"] * 4, 1, 5) + rows(["1"] * 4)
    for number, event in enumerate(events):
        event["user_id"] = "123" if number < 4 else "123.0" if number < 8 else event["user_id"]
    result = take(tmp_path / "e.csv", events)
    users = {user.user_id: user for user in result.dataset.users()}
    assert len(users["123"].history) + len(users["123"].queries) == 8
    assert "4 rows have a user_id such as 123.0" in result.notes[0]


# --- times -----------------------------------------------------------------------------------------------


def dates(user: User) -> list[str | None]:
    return [thing.date for thing in (*user.history, *user.queries)]


def only_test(result: Imported) -> User:
    (user,) = result.dataset.users("test")
    return user


def timed(path: Path, times: list[Any], **options: Any) -> Imported:
    events = rows(["1"] * len(times))
    for number, event in enumerate(events):
        event["time"] = times[number % len(times)]
    return take(path, events, **options)


def test_unlike_offsets_are_sorted_as_instants(tmp_path: Path) -> None:
    times = ["2024-05-01T23:00:00-05:00", "2024-05-02T01:00:00+00:00", "2024-05-02T08:00:00+09:00"]
    user = only_test(timed(tmp_path / "e.jsonl", times))
    assert [item.fields["text"][-1] for item in user.history] + [user.queries[0].fields["text"][-1]] == list(
        "210"
    )
    assert dates(user) == [
        f"2024-05-0{day}T{hour}:00:00+00:00" for day, hour in ((1, 23), (2, "01"), (2, "04"))
    ]


@pytest.mark.parametrize(
    "bad", ["2024-02-31", "2024-13-45", "2024-05-02Tlunch", "9999-12-31", "1,714,521,600"]
)
def test_an_impossible_date_is_refused_and_said(tmp_path: Path, bad: str) -> None:
    result = timed(tmp_path / "e.jsonl", ["2024-05-01", "2024-05-02", "2024-05-03", bad])
    assert dates(only_test(result)) == ["2024-05-01", "2024-05-02", "2024-05-03"]
    assert "3 × time is no" in result.notes[-1] and bad[:10] in result.notes[-1]


def test_seconds_and_milliseconds_are_told_apart_and_dated(tmp_path: Path) -> None:
    result = timed(tmp_path / "e.csv", ["1714521600000", "1714608000", "1714694400"])
    assert [str(date)[:10] for date in dates(only_test(result))] == ["2024-05-01", "2024-05-02", "2024-05-03"]
    assert "seconds (6) and milliseconds (3)" in result.notes[0]


def test_small_numbers_say_an_order_alone(tmp_path: Path) -> None:
    user = only_test(timed(tmp_path / "e.csv", ["10", "9", "8.5"]))
    assert [item.fields["text"][-1] for item in user.history] == ["2", "1"]
    assert dates(user) == [None, None, None]


def test_a_counter_may_grow_and_keeps_its_order_to_the_last_digit(tmp_path: Path) -> None:
    counts = ["5", "6", "7", "99999999", "100000000", "9007199254740993", "9007199254740992"]
    result = timed(tmp_path / "e.csv", counts)
    user = only_test(result)
    assert [thing.fields["text"][-1] for thing in (*user.history, *user.queries)] == list("0123465")
    assert dates(user) == [None] * 7
    assert result.notes == ()
    refused = timed(tmp_path / "f.csv", ["5", "6", "7", "1e9999"])
    assert "3 × time is not a number as in the first rows" in refused.notes[-1]


def test_a_unix_time_of_zero_is_no_time(tmp_path: Path) -> None:
    result = timed(tmp_path / "e.csv", ["1714521600", "1714608000", "0"])
    assert "3 × time is not a Unix time as in the first rows" in result.notes[-1]


def test_events_in_the_future_are_said(tmp_path: Path) -> None:
    result = timed(tmp_path / "e.csv", ["2024-05-01", "2024-05-02", "2190-01-01"])
    assert "3 events lie in the future, up to 2190-01-01" in result.notes[0]


def test_newest_first_is_not_read_backwards_within_a_day(tmp_path: Path) -> None:
    times = ["2024-05-03", "2024-05-02", "2024-05-02", "2024-05-01", "2024-05-01"]
    result = timed(tmp_path / "e.csv", times)
    user = only_test(result)
    assert [item.fields["text"][-1] for item in user.history] == ["4", "3", "2", "1"]
    assert "3 histories stand newest first" in result.notes[0]
    forward = only_test(timed(tmp_path / "f.csv", times[::-1]))
    assert [item.fields["text"][-1] for item in forward.history] == ["0", "1", "2", "3"]


def test_a_release_is_sorted_as_instants_and_newest_first_is_turned(tmp_path: Path) -> None:
    offsets = ["2024-05-01T23:00:00-05:00", "2024-05-02T01:00:00Z", "2024-05-02T08:00:00+09:00"]
    falling = ["2024-05-03", "2024-05-02", "2024-05-02"]

    def user(name: str, days: list[str]) -> dict[str, Any]:
        items = [
            {"id": str(n), "description": f"a ship {n}", "tag": "sci-fi", "date": day}
            for n, day in enumerate(days)
        ]
        query = {
            "id": f"q{name}",
            "input": f"{MOVIES.instruction} description: a robot {name}",
            "gold": "sci-fi",
        }
        return {"user_id": name, "profile": items, "query": [query]}

    (tmp_path / "user_top_100_history.json").write_text(json.dumps([user("a", offsets), user("b", falling)]))
    (tmp_path / "user_others.json").write_text(json.dumps([user("c", falling[::-1])]))
    result = import_files(tmp_path, tmp_path / "out", open_reader(tmp_path, task=MOVIES))
    order = {one.user_id: "".join(item.id for item in one.history) for one in result.dataset.users()}
    assert order == {"a": "210", "b": "210", "c": "012"}
    assert "1 histories stand newest first" in result.notes[0]


# --- words -----------------------------------------------------------------------------------------------

CHINESE = [
    f"{subject}今天{verb}，市民可以免费参观。"
    for subject in ("新桥", "工厂", "学校")
    for verb in ("通车", "开放")
]


def test_words_go_by_script_where_the_official_ones_see_little(tmp_path: Path) -> None:
    events = rows(CHINESE)
    for event in events:
        event["input"] = f"{event['output']}据报道。"
    for words, expected in ((None, "script"), ("official", "official"), ("script", "script")):
        result = take(tmp_path / "e.jsonl", events, NEWS, words=words)
        assert result.dataset.task.words == expected
        assert result.dataset.task.name == "lamp_4"
        assert any("words go by script" in note for note in result.notes) == (expected == "script")
    latin = take(tmp_path / "l.jsonl", rows(["A new bridge"] * 5), NEWS)
    assert latin.dataset.task == NEWS
    assert latin.notes == ()


def test_words_by_script_are_another_task_to_the_store_and_official_ones_the_same_as_ever() -> None:
    by_script = dataclasses.replace(NEWS, words="script")
    assert by_script.fingerprint != NEWS.fingerprint
    item = HistoryItem("1", {"text": "x", "title": "y"})
    assert by_script.history_line(item.fields) == NEWS.history_line(item.fields)


@pytest.mark.parametrize("kind", ["float64", "text"])
def test_ids_that_have_lost_digits_are_not_made_one_user(tmp_path: Path, kind: str) -> None:
    ids = [1029384756647382910, 1029384756647382911, 77]
    events = [event | {"user_id": one} for one in ids for event in rows(["1", "1", "1"], 1)]
    if kind == "text":  # as spreadsheets write them
        for event in events:
            event["user_id"] = "1.02938E+18" if event["user_id"] > 2**53 else "77"
        result = take(tmp_path / "e.csv", events)
    else:
        table = pa.Table.from_pylist(events)
        ids_column = pa.array([float(event["user_id"]) for event in events])
        pq.write_table(table.set_column(0, "user_id", ids_column), tmp_path / "e.parquet")
        result = take(tmp_path / "e.parquet", [])
    assert [user.user_id for user in result.dataset.users()] == ["77"]
    assert "6 × user_id is a number that has lost its last digits" in result.notes[-1]
    whole = [event | {"user_id": str(one)} for one in ids for event in rows(["1", "1", "1"], 1)]
    exact = take(tmp_path / "whole.csv", whole)
    assert {user.user_id for user in exact.dataset.users()} == {str(one) for one in ids}


def test_a_history_with_some_dates_keeps_its_order_or_is_turned_and_both_are_said() -> None:
    def items(*dates: str | None) -> list[HistoryItem]:
        return [HistoryItem(str(n), {"text": "x"}, date) for n, date in enumerate(dates)]

    def order(*dates: str | None) -> str:
        return "".join(item.id for item in in_order(items(*dates)))

    assert order("2024-05-03", None, "2024-05-01") == "210"
    assert order("2024-05-01", None, "2024-05-03") == "012"
    assert order("2024-05-02", None, "2024-05-03", "2024-05-01") == "0123"
    assert order(None, None) == "01"
    assert order("2024-05-03", "2024-05-02", "2024-05-01") == "210"


def test_histories_with_some_dates_are_counted(tmp_path: Path) -> None:
    def user(name: str, *days: str | None) -> dict[str, Any]:
        items = [
            {"id": str(n), "description": "a ship", "tag": "sci-fi", "date": day}
            for n, day in enumerate(days)
        ]
        query = {
            "id": f"q{name}",
            "input": f"{MOVIES.instruction} description: a robot {name}",
            "gold": "sci-fi",
        }
        return {"user_id": name, "profile": items, "query": [query]}

    half = user("a", "2024-05-03", None, "2024-05-01")
    (tmp_path / "user_top_100_history.json").write_text(json.dumps([half, user("b", None, None)]))
    (tmp_path / "user_others.json").write_text(json.dumps([user("c", "2024-05-01", "2024-05-02")]))
    result = import_files(tmp_path, tmp_path / "out", open_reader(tmp_path, task=MOVIES))
    assert any("1 histories stand newest first" in note for note in result.notes)
    assert any("1 histories have dates for some items alone" in note for note in result.notes)
