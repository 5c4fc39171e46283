"""Raw LaMP: every question has its own profile; a user gets one history, and no question sees too much."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from oppu_core.data import User
from oppu_core.data.dataset import Dataset
from oppu_core.data.importers.detect import Imported, import_files, open_reader
from oppu_core.data.importers.merge_profiles import merge
from oppu_core.data.importers.raw_lamp import RawLamp
from oppu_core.data.importers.raw_lamp import TestSplit as LampSplit
from oppu_core.errors import ConfigError, DataError
from oppu_core.storage.files import read_jsonl
from oppu_core.tasks.task_files import get_task

INSTRUCTION = get_task("lamp_2m").instruction + " description: "


def item(number: int, **changes: Any) -> dict[str, Any]:
    date = f"2020-01-{number + 1:02d}"
    return {"id": f"h{number}", "description": f"Film {number}.", "tag": "comedy", "date": date} | changes


def question(name: str, user: str | None, numbers: list[int], **changes: Any) -> dict[str, Any]:
    owner = {} if user is None else {"user_id": user}
    profile = [item(number) for number in numbers]
    return {"id": name, "input": f"{INSTRUCTION}About {name}.", "profile": profile} | owner | changes


def lamp(folder: Path, gold: bool = True, nested: bool = False, **splits: list[Any]) -> Path:
    """A folder of LaMP's files."""
    for split, questions in splits.items():
        place = folder / split if nested else folder
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{split}_questions.json").write_text(json.dumps(questions))
        golds = [{"id": entry["id"], "output": f"gold {entry['id']}"} for entry in questions]
        if gold and split != "test":
            (place / f"{split}_outputs.json").write_text(json.dumps({"task": "LaMP_2", "golds": golds}))
    return folder


def imported(
    source: Path, test_users: int | None = None, strict: bool = False, test_split: LampSplit | None = None
) -> Imported:
    reader = open_reader(source, test_users=test_users, test_split=test_split)
    return import_files(source, source.parent / "out", reader, strict)


def about_profiles(result: Imported) -> list[str]:
    """Its notes, but those on golds: the golds here only say whose they are, and are no labels."""
    return [note for note in result.notes if "gold is none of the task's labels" not in note]


def users(source: Path, **options: Any) -> dict[str, User]:
    return {user.user_id: user for user in imported(source, **options).dataset.users()}


def item_ids(user: User) -> list[str]:
    return [entry.id for entry in user.history]


def test_growing_profiles_become_one_history_of_which_each_question_sees_its_own(tmp_path: Path) -> None:
    train = [question("b", "u", [2, 0, 1]), question("x", "v", [5]), question("a", "u", [0])]
    folder = lamp(tmp_path / "l", train=train, dev=[question("c", "u", [3, 1, 0, 2])], nested=True)
    user = users(folder)["u"]
    assert item_ids(user) == ["h0", "h1", "h2", "h3"]
    assert {query.id: query.history_len for query in user.queries} == {"a": 1, "b": 3, "c": 4}
    assert [item.id for item in user.training_history] == ["h0"]
    assert user.queries[0].gold == "gold b" and user.queries[0].fields == {"description": "About b."}
    assert not about_profiles(imported(folder))


def test_no_question_ever_sees_an_item_that_its_profile_had_not() -> None:
    for seed in range(300):
        rng = random.Random(seed)
        dates = [rng.choice([f"2020-0{rng.randrange(1, 4)}", None if seed % 2 else "2021"]) for _ in range(8)]
        profiles = [rng.sample(range(8), rng.randrange(9)) for _ in range(rng.randrange(1, 5))]
        order, seen = merge(profiles, dates)
        assert sorted(order) == sorted({index for profile in profiles for index in profile})
        for profile, length in zip(profiles, seen, strict=True):
            assert set(order[:length]) <= set(profile)
            # … and not one less than it may.
            assert length == len(order) or order[length] not in profile
        if all(dates[index] for index in order):
            assert [dates[index] for index in order] == sorted(str(dates[index]) for index in order)


def test_profiles_that_grow_are_seen_as_a_whole_with_or_without_dates() -> None:
    for dates in (["1"] * 6, [None] * 6, ["1", "1", "2", "2", "3", "3"]):
        profiles = [[4, 0, 1, 2, 5, 3], [1, 0], [2, 0, 3, 1]]
        assert merge(profiles, dates)[1] == [6, 2, 4]


def test_a_profile_that_is_no_prefix_is_said(tmp_path: Path) -> None:
    questions = [question("a", "u", [0, 2]), question("b", "u", [0, 1, 2]), question("c", "v", [0])]
    result = imported(lamp(tmp_path / "l", train=questions))
    assert {query.id: query.history_len for query in result.dataset.user("u").queries} == {"a": 1, "b": 3}
    assert result.dataset.source["queries_that_see_less"] == 1
    assert "1 queries see less than their own profile" in result.notes[0]


def test_the_longest_histories_are_the_test_users(tmp_path: Path) -> None:
    questions = [question(f"q{n}", f"u{n}", list(range(n + 1))) for n in random.Random(0).sample(range(9), 9)]
    folder = lamp(tmp_path / "l", train=questions)
    assert set(imported(folder, 2).dataset.user_ids("test")) == {"u7", "u8"}
    # By default a hundred, but the others need somebody, too.
    assert set(imported(folder).dataset.user_ids("test")) == {"u5", "u6", "u7", "u8"}
    everybody = imported(folder, 9)
    assert everybody.dataset.user_ids("others") == []
    assert about_profiles(everybody) == [
        "There are no others: a task base cannot be trained on this dataset."
    ]


def test_a_question_without_user_is_a_user_and_meets_no_namesake(tmp_path: Path) -> None:
    questions = [question("a", None, [0]), question("b", None, [1]), question("c", "a", [2])]
    dataset = imported(lamp(tmp_path / "l", train=questions)).dataset
    found = {user.user_id: user for user in dataset.users()}
    assert found.keys() == {"a", "b"}
    assert len(found["a"].history) == 1
    (row,) = read_jsonl(dataset.path / "rejected.jsonl")
    assert (row["user_id"], row["reason"].partition(" (")[0]) == ("a", "user: user_id occurs twice")


def test_ids_that_two_splits_share_are_told_apart(tmp_path: Path) -> None:
    folder = lamp(tmp_path / "l", train=[question("0", "u", [0])], dev=[question("0", "u", [0, 1])])
    (user,) = users(folder).values()
    assert [(query.id, query.gold) for query in user.queries] == [("0", "gold 0"), ("dev/0", "gold 0")]


def test_withheld_answers_are_missing_golds(tmp_path: Path) -> None:
    folder = lamp(tmp_path / "l", test=[question("a", "u", [0]), question("b", "v", [0])])
    assert [query.gold for user in users(folder).values() for query in user.queries] == [None, None]


def test_a_split_of_lamp_by_user_says_who_the_test_users_are(tmp_path: Path) -> None:
    # Every id of test also stands in train, and the longest history is one of the others'.
    folder = lamp(
        tmp_path / "l",
        train=[question("0", "long", [0, 1, 2, 3]), question("1", "u", [4])],
        dev=[question("2", "v", [5, 6])],
        test=[question("0", "w", [7, 8]), question("1", None, [9]), question("3", "w", [7, 8])],
    )
    result = imported(folder, test_split="test")
    dataset = result.dataset
    asked = {query.id: query.gold for user in dataset.users("test") for query in user.queries}
    assert asked == {"0": None, "1": None, "3": None}
    assert [item.id for item in dataset.user("w").training_history] == ["h7", "h8"]
    learnt = {user.user_id: user.queries[0].gold for user in dataset.users("others")}
    assert learnt == {"long": "gold 0", "u": "gold 1", "v": "gold 2"}
    assert (dataset.source["test_split"], dataset.source["questions_left_out"]) == ("test", 0)
    assert not about_profiles(result)
    assert imported(folder, test_split="test").dataset.fingerprint == dataset.fingerprint


def test_users_of_lamps_test_file_have_no_part_in_a_dev_split(tmp_path: Path) -> None:
    splits = {name: [question(name, f"of {name}", [0, 1])] for name in ("train", "dev", "test")}
    dataset = imported(lamp(tmp_path / "l", nested=True, **splits), test_split="dev").dataset
    found = {user.user_id: (user.split, user.queries[0].gold) for user in dataset.users()}
    assert found == {"of train": ("others", "gold train"), "of dev": ("test", "gold dev")}
    names = {entry["file"] for entry in dataset.source["files"]}
    assert names == {"dev_questions.json", "train_questions.json", "dev_outputs.json", "train_outputs.json"}


def test_a_user_of_several_splits_trains_no_task_base(tmp_path: Path) -> None:
    train = [question("a", "u", [0]), question("b", "u", [0, 1]), question("c", "v", [3])]
    dev, test = [question("d", "u", [0, 1, 2])], [question("e", "u", [0, 1, 2, 4])]
    result = imported(lamp(tmp_path / "l", train=train, dev=dev, test=test), test_split="test")
    user = result.dataset.user("u")
    assert (user.split, [(query.id, query.history_len) for query in user.queries]) == ("test", [("e", 4)])
    # Their earlier questions no longer cut what personal training sees.
    assert len(user.training_history) == 4
    assert result.dataset.user_ids("others") == ["v"]
    assert result.dataset.source["questions_left_out"] == 3
    (note,) = about_profiles(result)
    assert note.startswith("3 questions of the other files are left out")


def test_lamps_split_by_time_leaves_nobody_to_train_a_task_base(tmp_path: Path) -> None:
    folder = lamp(
        tmp_path / "l",
        train=[question(f"t{n}", f"u{n}", [0]) for n in range(3)],
        test=[question(f"q{n}", f"u{n}", [0, 1]) for n in range(3)],
    )
    with pytest.raises(DataError, match=r"leaves nobody to train the task base. Import with --test-users"):
        imported(folder, test_split="test")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["l"]
    assert len(imported(folder, 1).dataset.user_ids("others")) == 2


def test_questions_of_the_test_split_that_cannot_be_asked_are_said(tmp_path: Path) -> None:
    bad = [question("b", "v", []), question("c", "u", [0], input="What?"), question("d", "u", [], profile=1)]
    folder = lamp(tmp_path / "l", train=[question("t", "w", [0])], test=[question("a", "u", [0]), *bad])
    result = imported(folder, test_split="test")
    assert [query.id for user in result.dataset.users("test") for query in user.queries] == ["a"]
    assert result.notes[0].startswith("3 of the 4 questions of test cannot be asked")


def test_a_split_needs_its_files_and_no_other_choice_of_users(tmp_path: Path) -> None:
    folder = lamp(tmp_path / "l", train=[question("a", "u", [0])], dev=[question("b", "v", [0])])
    with pytest.raises(DataError, match=r"l: --test-split test also needs test_questions.json\. Give"):
        open_reader(folder, test_split="test")
    with pytest.raises(DataError, match=r"dev also needs train_questions.json, train_outputs.json\."):
        open_reader(folder / "dev_questions.json", test_split="dev")
    with pytest.raises(ConfigError, match=r"leave --test-users out"):
        open_reader(folder, test_users=1, test_split="dev")
    (folder / "train_outputs.json").unlink()
    with pytest.raises(DataError, match=r"dev also needs train_outputs.json\."):
        open_reader(folder, test_split="dev")
    (tmp_path / "e.csv").write_text("user_id,time,input,output\n")
    with pytest.raises(ConfigError, match=r"--test-split is for lamp.*; events has no dev"):
        open_reader(tmp_path / "e.csv", test_split="dev")


def test_one_file_is_enough(tmp_path: Path) -> None:
    folder = lamp(tmp_path / "l", dev=[question("a", "u", [0])], train=[question("b", "v", [0])])
    reader = open_reader(folder / "dev_questions.json")
    dataset = import_files(folder, tmp_path / "out", reader).dataset
    assert [user.queries[0].gold for user in dataset.users()] == ["gold a"]


def test_old_and_new_lamp_2_are_told_apart(tmp_path: Path) -> None:
    news = {"id": "1", "title": "t", "text": "x", "category": "travel"}
    text = 'Which category … categories: [ … "] article: An article.'
    old = lamp(tmp_path / "old", train=[question("a", "u", [], profile=[news], input=text)])
    new = lamp(tmp_path / "new", train=[question("a", "u", [0])])
    assert open_reader(old).task.name == "lamp_2n"
    assert open_reader(new).task.name == "lamp_2m"


def test_bad_parts_are_left_out_and_the_same_bad_item_is_named_once(tmp_path: Path) -> None:
    bad = item(1, tag=None)
    spoilt = [
        question("a", "u", [0], profile=[bad, item(0)]),
        question("b", "u", [0], profile=[bad, item(0), item(2)]),
        question("c", "u", [0], input="What?"),
        question("d", "u", [0], profile=None),
        question("e", "u" * 1001, [0]),
        question("a", "u", [0]),
        "text",
        question("z", "v", [0]),
    ]
    (folder := tmp_path / "l").mkdir()
    (folder / "train_questions.json").write_text(json.dumps(spoilt))
    dataset = imported(folder).dataset
    user = dataset.user("u")
    assert item_ids(user) == ["h0", "h2"]
    assert {query.id: query.history_len for query in user.queries} == {"a": 1, "b": 2}
    rows = {
        row["reason"].partition(" (")[0]: row["record"] for row in read_jsonl(dataset.path / "rejected.jsonl")
    }
    assert rows == {
        "question 'd': profile must be a list, but is null": 4,
        "question 'e': user_id has more than 1,000 characters": 5,
        "question 'a': id occurs twice in the file": 6,
        "question: is not an object but text or a number": 7,
        "history item 'h1': tag must be text, but is null": 1,
        "query 'c': input is not one of task lamp_2m": 3,
    }
    with pytest.raises(DataError, match=r"train_questions.json, record 4, question 'd': profile must be"):
        imported(folder, strict=True)


def test_files_that_are_missing_or_twice_are_one_error(tmp_path: Path) -> None:
    folder = lamp(tmp_path / "l", train=[question("a", "u", [0])], nested=True)
    lamp(tmp_path / "l", train=[question("a", "u", [0])])
    with pytest.raises(DataError, match="are the same questions; remove one"):
        open_reader(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"the format is none that oppu knows.*--format with one of"):
        open_reader(tmp_path / "empty")
    with pytest.raises(DataError, match=r"has none of train_questions.json, dev"):
        open_reader(tmp_path / "empty", "lamp")


def test_a_file_that_changes_between_the_passes_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = lamp(tmp_path / "l", train=[question("a", "u", [0]), question("b", "v", [0])])
    file = folder / "train_questions.json"
    reader = open_reader(folder)
    find = RawLamp._find

    def changing(*arguments: Any) -> Any:
        places = find(*arguments)
        file.write_bytes(b" " + file.read_bytes()[:-40])
        return places

    monkeypatch.setattr(RawLamp, "_find", changing)
    with pytest.raises(DataError, match=r"train_questions.json, record \d, .*: the file changed"):
        import_files(folder, tmp_path / "out", reader)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["l"]


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    folder = lamp(tmp_path / "l", train=[question(f"q{n}", f"u{n}", [n]) for n in range(20)])
    first = Dataset.open(imported(folder).dataset.path).fingerprint
    assert imported(folder).dataset.fingerprint == first
