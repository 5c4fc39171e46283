"""Given profiles: read strictly, complete or refused, and used instead of computed ones."""

import json
from pathlib import Path

import pytest
from oppu_core.data import HistoryItem, Query, User
from oppu_core.data.dataset import Dataset
from oppu_core.data.dataset_writer import write_dataset
from oppu_core.errors import ConfigError, DataError
from oppu_core.prompting.profile_files import Profiles, check_covered, read_profiles
from oppu_core.tasks.task_files import TASKS

MOVIE = TASKS["lamp_2m"]


def user(user_id: str, split: str = "test", queries: int = 1, items: int = 2) -> User:
    history = tuple(HistoryItem(str(t), {"description": "d", "tag": "comedy"}) for t in range(items))
    asked = tuple(Query(f"{user_id}/{q}", {"description": "x"}, "comedy", items) for q in range(queries))
    return User(user_id, "others" if split == "others" else "test", history, asked)


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(user_id: str, text: str = "p", task: str = "lamp_2m") -> dict[str, str]:
    return {"task": task, "user_id": user_id, "profile": text}


def test_files_are_read_together_by_task_and_user(tmp_path: Path) -> None:
    one = write(tmp_path / "1", row("a", "likes\n  ships "), {**row("a", "", "lamp_4"), "more": 3})
    two = write(tmp_path / "2", row("b"))
    assert read_profiles([one, two]) == {"lamp_2m": {"a": "likes ships", "b": "p"}, "lamp_4": {"a": ""}}
    assert read_profiles([]) == {}


@pytest.mark.parametrize(
    "bad",
    [
        {"task": "lamp_2m", "user_id": "b"},
        {**row("b"), "profile": None},
        {**row("b"), "user_id": 3},
        ["x"],
        "x",
    ],
)
def test_a_line_that_is_no_profile_is_refused_with_its_place(tmp_path: Path, bad: object) -> None:
    with pytest.raises(DataError, match=r"file, line 2: not a profile"):
        read_profiles([write(tmp_path / "file", row("a"), bad)])


def test_a_second_profile_is_refused_also_in_another_file(tmp_path: Path) -> None:
    one, two = write(tmp_path / "1", row("a")), write(tmp_path / "2", row("b"), row("a"))
    with pytest.raises(DataError, match=r"2, line 2: user 'a' has a profile for 'lamp_2m' already"):
        read_profiles([one, two])


def test_a_missing_or_broken_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_profiles([tmp_path / "nowhere"])
    (tmp_path / "broken").write_text(json.dumps(row("a")) + "\n{")
    with pytest.raises(DataError, match="line 2: not JSON"):
        read_profiles([tmp_path / "broken"])


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    users = [user("asked", "others"), user("silent", "others", queries=0), user("t0"), user("t1")]
    return write_dataset(tmp_path / "data", MOVIE, users, {"kind": "test"})


def test_everybody_who_needs_a_profile_must_have_one(dataset: Dataset) -> None:
    tests = list(dataset.users("test"))
    texts = dict.fromkeys(("asked", "silent", "t0", "t1"), "p")
    check_covered(texts, dataset, tests, histories=True)
    check_covered({**texts, "stranger": "p"}, dataset, tests, histories=True)

    def without(*names: str) -> dict[str, str]:
        return {name: text for name, text in texts.items() if name not in names}

    check_covered(without("silent"), dataset, tests, histories=False)
    check_covered(without("t1"), dataset, tests[:1], histories=True)
    for names, histories, said in (
        (("silent",), True, "1 users .*'silent'"),
        (("asked",), False, "1 users .*'asked'"),
        (("t1", "asked"), False, "2 users .*'t1', 'asked'"),
    ):
        with pytest.raises(ConfigError, match=said):
            check_covered(without(*names), dataset, tests, histories=histories)


def test_the_given_text_counts_else_the_computed_one() -> None:
    assert Profiles(MOVIE)(user("a")) == "most popular tag: comedy."
    given = Profiles(MOVIE, {"a": "likes ships", "empty": ""})
    assert given(user("a")) == "likes ships"
    assert given(user("empty")) == ""
    assert given(user("who comes later")) == "most popular tag: comedy."


def test_the_hash_is_of_the_others_texts_alone(dataset: Dataset) -> None:
    texts = dict.fromkeys(("asked", "silent", "t0", "t1"), "p")
    content = Profiles(MOVIE, texts).content(dataset)
    assert content is not None
    assert Profiles(MOVIE).content(dataset) is None
    assert Profiles(MOVIE, {**texts, "t0": "other", "stranger": "x"}).content(dataset) == content
    assert Profiles(MOVIE, dict(reversed(texts.items()))).content(dataset) == content
    assert Profiles(MOVIE, {**texts, "asked": "other"}).content(dataset) != content
