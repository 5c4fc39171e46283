"""The importer of the authors' release: what it refuses, and that it never half understands."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from oppu_core.data.dataset import Dataset
from oppu_core.data.importers.release import Release
from oppu_core.errors import DataError
from oppu_core.storage.files import read_jsonl
from release_toys import INSTRUCTION, LABELS, OTHERS, TEST, item, record, release, run_import, users


def rejected(dataset: Dataset) -> list[Any]:
    return read_jsonl(dataset.path / "rejected.jsonl")


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
