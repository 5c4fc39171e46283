"""LongLaMP's Parquet files become a dataset: who is tested trains nothing for others, whatever the setting.

The files are made here, in the form of the hub's repository; the real ones were never read.
"""

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from oppu_core.data.importers.detect import Imported, import_files, open_reader, tell_format
from oppu_core.data.types import User
from oppu_core.errors import ConfigError, DataError
from oppu_core.tasks.task_files import get_task

Rows = dict[str, list[dict[str, Any]]]
REVIEW = (
    "Generate the review text written by a reviewer who has a given an overall rating of "
    '"{overall}" for a product with description "{description}". '
    'The summary of the review text is "{summary}".'
)


def review(number: int, overall: float = 5.0) -> dict[str, Any]:
    about = {"overall": overall, "description": f"Thing {number}", "summary": f"Sum {number}"}
    return {**about, "reviewText": f"Text\n{number}."}


def row(user: str, number: int, profile: list[dict[str, Any]], column: str = "reviewerId") -> dict[str, Any]:
    own = review(number)
    return {column: user, "input": REVIEW.format(**own), "output": own["reviewText"], "profile": profile}


def write(folder: Path, rows: Rows, shards: int = 1) -> Path:
    """The files of a configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, theirs in rows.items():
        for shard in range(shards):
            part = theirs[shard * len(theirs) // shards : (shard + 1) * len(theirs) // shards]
            file = folder / f"{split}-{shard:05d}-of-{shards:05d}.parquet"
            pq.write_table(pa.Table.from_pylist(part, pa.Table.from_pylist(theirs).schema), file)
    return folder


def imported(folder: Path, **options: Any) -> Imported:
    out = folder.parent / f"{folder.name}-data"
    return import_files(folder, out, open_reader(folder, **options))


def users(result: Imported) -> dict[str, User]:
    return {user.user_id: user for user in result.dataset.users()}


BY_USER: Rows = {
    "train": [row("ann", 1, [review(n) for n in (2, 3)]), row("bob", 4, [review(5)])],
    "val": [row("cat", 6, [review(7)])],
    "test": [row("dan", 8, [review(n) for n in (9, 10, 11)]), row("eve", 12, [review(13)])],
}


def test_a_row_becomes_a_user_with_history_and_query(tmp_path: Path) -> None:
    folder = write(tmp_path / "product_review_user", BY_USER)
    assert tell_format(folder) == "longlamp"
    result = imported(folder)
    assert result.dataset.task == get_task("longlamp_review")
    dan = users(result)["dan"]
    assert dan.split == "test" and len(dan.history) == 3
    assert dan.history[0].fields == {
        "overall": "5.0", "description": "Thing 9", "summary": "Sum 9", "reviewText": "Text\n9.",
    }  # fmt: skip
    (query,) = dan.queries
    assert query.id == "test-1" and query.gold == "Text\n8." and query.history_len == 3
    assert query.fields == {"overall": "5.0", "description": "Thing 8", "summary": "Sum 8"}
    assert result.dataset.source["kind"] == "longlamp"


def test_in_the_user_setting_train_trains_and_test_is_tested(tmp_path: Path) -> None:
    folder = write(tmp_path / "product_review_user", BY_USER)
    result = imported(folder)
    assert {name: user.split for name, user in users(result).items()} == {
        "ann": "others", "bob": "others", "dan": "test", "eve": "test",
    }  # fmt: skip
    one = imported(folder, test_users=1)
    assert set(users(one)) == {"ann", "bob", "dan"}, "nobody trains on the answers of the test split"
    assert any("1 of the 2 users of test are asked" in note for note in one.notes)
    held = users(imported(folder, test_split="val"))
    assert {name: user.split for name, user in held.items()} == {
        "ann": "others", "bob": "others", "cat": "test",
    }  # fmt: skip


def test_in_the_temporal_setting_a_test_user_s_other_rows_are_left_out(tmp_path: Path) -> None:
    """All users are in all splits; each split's target comes later, and is in no profile before it."""
    names = ("ann", "bob", "cat", "dan")
    items = {name: [review(10 * n + i) for i in range(2 + n)] for n, name in enumerate(names)}
    rows: Rows = {
        split: [row(name, 100 * n + place, items[name]) for n, name in enumerate(names)]
        for place, split in enumerate(("train", "val", "test"))
    }
    result = imported(write(tmp_path / "product_review_temporal", rows))
    found = users(result)
    assert {name for name, user in found.items() if user.split == "test"} == {"cat", "dan"}, (
        "half, the longest"
    )
    assert [query.id for name in ("ann", "bob") for query in found[name].queries] == ["train-1", "train-2"]
    assert [query.id for name in ("cat", "dan") for query in found[name].queries] == ["test-3", "test-4"]
    assert result.dataset.source["questions_left_out"] == 2
    assert any("2 rows of train are left out: their users are test users" in note for note in result.notes)


def test_a_gold_never_reaches_the_history_that_its_adapter_learns_from(tmp_path: Path) -> None:
    """A user's rows have one history; what one row asks may stand in another row's profile. Held to a search
    of all texts, over random profiles."""
    rng = random.Random(0)
    test = []
    for user in range(20):
        asked = [1000 * user + n for n in range(rng.randrange(1, 4))]
        pool = asked + [1000 * user + 100 + n for n in range(6)]
        for number in asked:
            seen = rng.sample([n for n in pool if n != number], rng.randrange(1, len(pool)))
            test.append(row(f"u{user}", number, [review(n) for n in seen]))
    train = [row(f"t{n}", -n - 1, [review(-n - 100)]) for n in range(30)]
    result = imported(write(tmp_path / "product_review_user", {"train": train, "test": test}))
    tested = [user for user in users(result).values() if user.split == "test"]
    assert len(tested) >= 10 and any(len(user.queries) > 1 for user in tested)
    for user in tested:
        golds = {query.gold for query in user.queries}
        assert not golds & {item.fields["reviewText"] for item in user.training_history}
        for query in user.queries:
            visible = {item.fields["reviewText"] for item in user.history[: query.history_len]}
            (own,) = [one for one in test if one["output"] == query.gold]
            assert visible <= {item["reviewText"] for item in own["profile"]}


def test_abstracts_are_sorted_by_year_and_posts_keep_their_order(tmp_path: Path) -> None:
    def paper(number: int, year: Any) -> dict[str, Any]:
        return {"abstract": f"We {number}.", "id": f"p{number}", "title": f"T{number}", "year": year}

    asked = 'Generate an abstract for the title "T" using the following items: 1. one\n2. two'
    abstract = {
        "name": "Li, A.",
        "input": asked,
        "output": "We do.",
        "profile": [paper(1, 2014), paper(2, 2009)],
    }
    folder = write(tmp_path / "any_name", {"train": [abstract], "test": [{**abstract, "name": "B"}]})
    result = imported(folder)
    assert result.dataset.task.name == "longlamp_abstract"
    user = users(result)["Li, A."]
    assert [(item.id, item.date) for item in user.history] == [("p2", "2009"), ("p1", "2014")]
    assert user.history[0].fields == {"title": "T2", "items": "", "abstract": "We 2."}
    assert user.queries[0].fields == {"title": "T", "items": "1. one\n2. two"}

    posts = [{"author": "a", "content": f"C{n}", "id": f"x{n}", "summary": f"S{n}"} for n in (3, 1, 2)]
    topic = {
        "author": "a",
        "input": "Generate the content for a reddit post Cats",
        "output": "Mew.",
        "profile": posts,
    }
    folder = write(tmp_path / "topic_writing_user", {"train": [topic], "test": [{**topic, "author": "b"}]})
    result = imported(folder)
    assert result.dataset.task.name == "longlamp_topic"
    assert [item.id for item in users(result)["b"].history] == ["x3", "x1", "x2"]


def test_many_shards_are_one_split(tmp_path: Path) -> None:
    rows: Rows = {
        "train": [row(f"t{n}", n, [review(n + 100)]) for n in range(40)],
        "test": [row(f"u{n % 7}", n + 500, [review(n % 7 + 900)]) for n in range(40)],
    }
    one, many = (imported(write(tmp_path / str(n), rows, n)) for n in (1, 3))
    assert users(one) == users(many)
    (tmp_path / "3" / "test-00001-of-00003.parquet").unlink()
    with pytest.raises(DataError, match="3: test has 2 of its 3 files"):
        open_reader(tmp_path / "3")


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no user": ({"reviewerId": None}, "reviewerId must be text, but is null"),
    "a placeholder": ({"reviewerId": "nan"}, "reviewerId is missing"),
    "no answer": ({"output": " "}, "output is empty"),
    "another task's input": ({"input": "Write me a poem."}, "input is not one of task longlamp_review"),
    "no profile": ({"profile": None}, "profile must be a list, but is null"),
    "an empty profile": ({"profile": []}, "has no usable history"),
    "a review without text": ({"profile": [{**review(3), "reviewText": None}]}, "reviewText must be text"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_left_out_and_named(case: str, tmp_path: Path) -> None:
    changes, reason = BAD[case]
    rows: Rows = {**BY_USER, "test": [BY_USER["test"][0], {**BY_USER["test"][1], **changes}]}
    folder = write(tmp_path / "product_review_user", rows)
    result = imported(folder, test_users=2)
    assert "dan" in users(result) and result.dataset.source["rejected"]
    lines = (result.dataset.path / "rejected.jsonl").read_text().splitlines()
    (named,) = [line for line in map(json.loads, lines) if reason in line["reason"]]
    assert named["file"] == "test-00000-of-00001.parquet" and named["record"] == 2
    with pytest.raises(DataError, match=rf"test-00000-of-00001.parquet, record 2.*{reason}"):
        import_files(folder, tmp_path / "out", open_reader(folder, test_users=2), strict=True)


def test_gaps_that_reviews_have_are_no_fault(tmp_path: Path) -> None:
    bare = {**review(3), "description": None, "summary": "", "overall": float("nan")}
    asked = REVIEW.format(overall=4.0, description="", summary="")
    rows: Rows = {**BY_USER, "test": [{**row("dan", 8, [bare, review(4)]), "input": asked}]}
    result = imported(write(tmp_path / "product_review_user", rows))
    dan = users(result)["dan"]
    assert dan.history[0].fields | {"reviewText": ""} == dict.fromkeys(dan.history[0].fields, "")
    assert dan.queries[0].fields == {"overall": "4.0", "description": "", "summary": ""}


def test_files_that_are_not_longlamp_s_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "product_review_user", BY_USER)
    with pytest.raises(ConfigError, match=r"--test-split is for lamp \(dev or test\) and longlamp.*no dev"):
        open_reader(folder, test_split="dev")
    with pytest.raises(ConfigError, match="--queries is for events"):
        open_reader(folder, queries=3)
    for file in folder.glob("test-*"):
        file.unlink()
    with pytest.raises(DataError, match=r"has no test-\*.parquet with the columns input, output, profile"):
        open_reader(folder)
    with pytest.raises(DataError, match="does not exist"):
        open_reader(tmp_path / "nowhere", "longlamp")
    nameless = write(tmp_path / "x", {"test": [row("u", 1, [review(2)], column="who")]})
    with pytest.raises(
        DataError, match="name the user in one of the columns name, reviewerId, author; it has"
    ):
        open_reader(nameless)
    # The same names with the columns of events stay events.
    events = [{"user_id": "u", "time": str(n), "input": "a", "output": "b"} for n in range(3)]
    assert tell_format(write(tmp_path / "events", {"train": events})) == "events"
    damaged = write(tmp_path / "damaged", BY_USER)
    file = damaged / "train-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"train-00000-of-00001.parquet.*not the Parquet it should be"):
        imported(damaged)


def test_an_own_task_can_read_the_files(tmp_path: Path) -> None:
    own = dataclasses.replace(get_task("longlamp_review"), name="own", metrics=("rouge_l",))
    assert imported(write(tmp_path / "product_review_user", BY_USER), task=own).dataset.task == own
