"""The dataset on disk: what is written is what is read, one user at a time, whole or not at all."""

import json
import random
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from oppu_core.data import HistoryItem, Query, Split, User
from oppu_core.data.dataset import Dataset
from oppu_core.data.dataset_writer import write_dataset
from oppu_core.errors import DataError
from oppu_core.tasks.task_files import TASKS

TASK = TASKS["lamp_2m"]
SOURCE = {"kind": "test"}


def make_user(user_id: str, split: Split = "test", items: int = 3, text: str = "a film") -> User:
    history = tuple(
        HistoryItem(f"h{t}", {"description": f"{text} {t}", "tag": "comedy"}, f"2020-01-{t + 1:02d}")
        for t in range(items)
    )
    query = Query(f"q of {user_id}", {"description": text}, "comedy", items)
    return User(user_id, split, history, (query,))


def write(path: Path, *users: User) -> Dataset:
    return write_dataset(path, TASK, users, SOURCE)


def folder_bytes(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def spoil(file: Path, start: int, end: int) -> None:
    content = bytearray(file.read_bytes())
    content[start:end] = bytes(byte ^ 0x5A for byte in content[start:end])
    file.write_bytes(bytes(content))


STRANGE = [
    "",
    "🎬 família",
    "../../x",
    "x" * 10_000,
    "two\nlines\r\n\t",
    "nul \0 inside",
    "'\"; --",
    "\u202e{tag}",
]


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    users = [
        User(
            user_id=f"{text} {number}",
            split="test" if number % 2 else "others",
            history=(
                HistoryItem(text, {"description": text, "tag": text}, None),
                HistoryItem(text, {"description": "", "tag": ""}, text),
            ),
            queries=(
                Query(f"{text}1-{number}", {"description": text}, None, 0),
                Query(f"{text}2-{number}", {"description": text}, text, 2, oracle=text),
            ),
        )
        for number, text in enumerate(STRANGE)
    ]
    users.append(User("has nothing", "test", (), ()))
    dataset = write(tmp_path / "d", *users)
    assert list(dataset.users()) == [u for s in ("others", "test") for u in users if u.split == s]
    assert [dataset.user(user.user_id) for user in users] == users
    assert dataset.user_ids("test") == [user.user_id for user in users if user.split == "test"]
    assert dataset.counts["test"] == {"users": 5, "queries": 8, "history_items": 8}
    assert dataset.source == SOURCE
    dataset.verify()


def test_no_users_make_an_empty_dataset(tmp_path: Path) -> None:
    dataset = write(tmp_path / "d")
    assert list(dataset.users()) == []
    assert [file.name for file in dataset.path.iterdir()] == ["dataset.json"]


def test_same_users_give_the_same_bytes_however_the_splits_are_interleaved(tmp_path: Path) -> None:
    others = [make_user(f"o{n}", "others") for n in range(70)]
    tests = [make_user(f"t{n}") for n in range(5)]
    first = write(tmp_path / "1", *others, *tests)
    second = write(tmp_path / "2", *tests, *others)
    assert folder_bytes(first.path) == folder_bytes(second.path)
    assert first.fingerprint == second.fingerprint


def test_content_depends_on_what_is_said_and_on_order(tmp_path: Path) -> None:
    a, b = make_user("a"), make_user("b")
    other = write(tmp_path / "0", a, make_user("o", "others"))
    plain, turned, changed = (
        write(tmp_path / str(number), *users).content("test")
        for number, users in enumerate([(a, b), (b, a), (a, make_user("b", text="a play"))], 1)
    )
    assert len({plain, turned, changed}) == 3
    assert write(tmp_path / "4", a).content("test") == other.content("test")


def test_shards_hold_at_most_a_thousand_users(tmp_path: Path) -> None:
    dataset = write(tmp_path / "d", *(make_user(f"{n}", "others", items=0) for n in range(2001)))
    manifest = json.loads((dataset.path / "dataset.json").read_text())
    assert [shard["users"] for shard in manifest["shards"]] == [1000, 1000, 1]
    assert dataset.user("2000").user_id == "2000"
    assert [user.user_id for user in dataset.users("others")] == [str(n) for n in range(2001)]


def test_reading_one_user_reads_one_row_group(tmp_path: Path) -> None:
    """Everything but the user ids and one user's row group is spoilt, and that user can still be read."""
    users = [make_user(f"u{n}") for n in range(6)]
    dataset = write(tmp_path / "d", *users)
    file = dataset.path / "test-00000.parquet"
    groups = pq.read_metadata(file)
    for number in range(groups.num_row_groups):
        for column in range(groups.num_columns):
            chunk = groups.row_group(number).column(column)
            if number != 3 and chunk.path_in_schema != "user_id":
                start = chunk.dictionary_page_offset or chunk.data_page_offset
                spoil(file, start, start + chunk.total_compressed_size)
    assert Dataset.open(dataset.path).user("u3") == users[3]
    with pytest.raises(DataError, match=r"test-00000.parquet is damaged"):
        Dataset.open(dataset.path).user("u2")


def test_users_with_long_histories_are_fewer_to_a_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = [make_user(f"u{number}", "others", items=20) for number in range(10)]
    whole = write(tmp_path / "whole", *users)
    monkeypatch.setattr("oppu_core.data.schema._GROUP_BYTES", 3000)
    small = write(tmp_path / "small", *users)
    groups = [
        pq.ParquetFile(dataset.path / "others-00000.parquet").num_row_groups for dataset in (whole, small)
    ]
    assert groups[0] == 1 < groups[1] <= 10
    assert list(small.users()) == list(whole.users()) == users
    assert small.content("others") == whole.content("others")


def test_writing_holds_one_user_at_a_time(tmp_path: Path) -> None:
    made: list[weakref.ref[User]] = []
    most = 0

    def users() -> Iterator[User]:
        nonlocal most
        for number in range(300):
            user = make_user(f"{number}", "others", items=0)
            made.append(weakref.ref(user))
            most = max(most, sum(ref() is not None for ref in made))
            yield user
            del user

    write_dataset(tmp_path / "d", TASK, users(), SOURCE)
    assert most <= 2


def test_any_flipped_byte_is_noticed_or_harmless(tmp_path: Path) -> None:
    users = [make_user("a", "others"), make_user("b"), make_user("c")]
    dataset = write(tmp_path / "d", *users)
    rng = random.Random(5)
    for shard in ("others-00000.parquet", "test-00000.parquet"):
        file = dataset.path / shard
        whole = file.read_bytes()
        for place in rng.sample(range(len(whole)), 60):
            spoil(file, place, place + 1)
            with pytest.raises(DataError, match="its checksum differs"):
                dataset.verify()
            try:
                assert list(Dataset.open(dataset.path).users()) == users
                assert Dataset.open(dataset.path).user("b") == users[1]
            except DataError as error:
                assert shard in str(error)
            file.write_bytes(whole)


@pytest.mark.parametrize("keep", [0, 3, 500])
def test_a_truncated_shard_is_one_clear_error(tmp_path: Path, keep: int) -> None:
    dataset = write(tmp_path / "d", make_user("a"))
    file = dataset.path / "test-00000.parquet"
    file.write_bytes(file.read_bytes()[:keep])
    for read in (dataset.verify, lambda: list(dataset.users()), lambda: dataset.user("a")):
        with pytest.raises(DataError, match=r"test-00000.parquet is damaged"):
            read()


def replaced(user: User, **changes: Any) -> User:
    """The user with another query."""
    query: dict[str, Any] = {
        "id": "q",
        "fields": {"description": "x"},
        "gold": "comedy",
        "history_len": 0,
        "oracle": None,
    }
    return User(user.user_id, user.split, user.history, (Query(**(query | changes)),))


A = make_user("a")
BAD_USERS = {
    "empty user_id": ([make_user("")], "empty user_id"),
    "twice in a split": ([A, A], "user 'a' occurs twice"),
    "in both splits": ([make_user("a", "others"), A], "user 'a' occurs twice"),
    "split": ([User("a", "train", (), ())], "split is 'train'"),  # type: ignore[arg-type]
    "query id twice": ([User("a", "others", (), replaced(A).queries * 2)], "query 'q': .* two queries"),
    "test query id of another": ([replaced(A), replaced(make_user("b"))], "'b': query 'q' .* test user 'a'"),
    "empty query id": ([replaced(A, id="")], "'a': a query has an empty id"),
    "history_len": ([replaced(A, history_len=4)], "'q': history_len is 4, but the user has 3"),
    "negative history_len": ([replaced(A, history_len=-1)], "history_len is -1"),
    "missing field": ([replaced(A, fields={})], "'a', query 'q': field 'description' is missing"),
    "unknown field": ([replaced(A, fields={"description": "x", "y": "z"})], "no field 'y'"),
    "number": ([replaced(A, gold=5)], "'a', query 'q', gold must be text, not 5"),
    "missing history field": (
        [User("a", "test", (HistoryItem("h", {"tag": "x"}),), ())],
        r"history item 0 \('h'\): field 'description' is missing",
    ),
    "surrogate": (
        [make_user("a", text="half \ud83d")],
        r"'a', history\[0\].fields.description: a lone surrogate",
    ),
    "surrogate in the id": ([make_user("\ud83d")], r"user '\\ud83d', user_id: a lone surrogate"),
}


@pytest.mark.parametrize(("users", "message"), BAD_USERS.values(), ids=BAD_USERS.keys())
def test_a_user_that_cannot_be_stored_is_named_and_nothing_is_left(
    tmp_path: Path, users: list[User], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        write(tmp_path / "d", make_user("fine", "others"), *users)
    assert list(tmp_path.iterdir()) == []


def test_others_may_share_a_query_id(tmp_path: Path) -> None:
    users = [replaced(make_user("a", "others")), replaced(make_user("b", "others")), replaced(make_user("c"))]
    assert list(write(tmp_path / "d", *users).users()) == users


def test_a_dataset_is_replaced_as_a_whole(tmp_path: Path) -> None:
    write(tmp_path / "d", make_user("old"), make_user("old too", "others"))
    new = write(tmp_path / "d", make_user("new"))
    assert [user.user_id for user in new.users()] == ["new"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["d"]
    with pytest.raises(DataError):
        write(tmp_path / "d", A, A)
    assert [user.user_id for user in Dataset.open(tmp_path / "d").users()] == ["new"]


@pytest.mark.parametrize("name", ["thesis.txt", "others-1.parquet"])
def test_what_is_no_dataset_is_not_overwritten(tmp_path: Path, name: str) -> None:
    write(tmp_path / "d", A)
    (tmp_path / "d" / "dataset.json").unlink()
    (tmp_path / "d" / name).write_text("precious")
    with pytest.raises(DataError, match=f"it has '{name}'.*Nothing was changed"):
        write(tmp_path / "d", make_user("b"))
    assert (tmp_path / "d" / name).read_text() == "precious"


def test_a_file_or_an_unwritable_place_is_one_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "dataset.json"
    file.write_text("{}")
    for place in (file, file / "d", tmp_path / ("n" * 300)):
        with pytest.raises(DataError, match=r"exists and|cannot be written"):
            write(place, A)
    assert file.read_text() == "{}"


def change(path: Path, **values: Any) -> None:
    manifest = json.loads((path / "dataset.json").read_text())
    (path / "dataset.json").write_text(json.dumps(manifest | values))


def test_open_says_what_is_wrong(tmp_path: Path) -> None:
    path = write(tmp_path / "d", A).path
    whole = (path / "dataset.json").read_text()
    shard = {"split": "test", "users": 1, "sha256": "0"}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"format": 2}, "newer than this oppu"),
        ({"format": "1"}, "is damaged"),
        ({"task": "lamp_99"}, "no task 'lamp_99'"),
        ({"task": 5}, "is damaged"),
        ({"counts": {}}, "is damaged"),
        ({"shards": [shard | {"file": "../../etc/passwd"}]}, "is damaged"),
        ({"shards": []}, "is damaged"),
        ({"shards": [shard | {"file": "test-00001.parquet"}]}, "lacks its shard test-00001.parquet"),
    ]
    for values, message in cases:
        change(path, **values)
        with pytest.raises(DataError, match=message):
            Dataset.open(path)
        (path / "dataset.json").write_text(whole)
    for content, message in [("[]", "is damaged"), ("{", "not JSON"), ('"x"', "is damaged")]:
        (path / "dataset.json").write_text(content)
        with pytest.raises(DataError, match=message):
            Dataset.open(path)
    with pytest.raises(DataError, match="does not exist"):
        Dataset.open(tmp_path / "nowhere")
    with pytest.raises(DataError, match="is not a dataset folder"):
        Dataset.open(tmp_path)


def test_a_shard_of_another_task_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "d", A).path
    change(path, task="lamp_4")
    with pytest.raises(DataError, match="its columns are not those of task lamp_4"):
        Dataset.open(path).user("a")


def test_an_unknown_user_gets_a_hint(tmp_path: Path) -> None:
    dataset = write(tmp_path / "d", make_user("user-8311"), make_user("x" * 10_000))
    with pytest.raises(DataError, match=r"no user 'user-8312'. Did you mean 'user-8311'\?"):
        dataset.user("user-8312")
    with pytest.raises(DataError, match=r"10,001 characters|10,003 characters"):
        dataset.user("x" * 10_001)
