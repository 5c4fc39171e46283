"""Profiles state facts of the history, and of nothing else."""

import dataclasses

import pytest
from oppu_core.data import HistoryItem, Query, User
from oppu_core.profiles import PROFILES, compute_profile, most_frequent
from oppu_core.tasks import TASKS

MOVIE, NEWS = TASKS["lamp_2m"], TASKS["lamp_4"]


def movies(*tags: str) -> list[HistoryItem]:
    return [HistoryItem(str(t), {"description": f"film {t}", "tag": tag}) for t, tag in enumerate(tags)]


def news(*titles: str, text: str = "The mayor of Calder said yes.") -> list[HistoryItem]:
    return [HistoryItem(str(t), {"text": text, "title": title}) for t, title in enumerate(titles)]


def test_every_task_has_a_profile() -> None:
    assert {task.profile for task in TASKS.values()} <= set(PROFILES)


def test_an_empty_history_has_an_empty_profile() -> None:
    assert compute_profile(MOVIE, []) == ""
    assert compute_profile(NEWS, []) == ""
    assert compute_profile(NEWS, news("", "  ")) == ""


def test_the_most_frequent_tag_in_the_words_of_appendix_i() -> None:
    assert compute_profile(MOVIE, movies("comedy", "sci-fi", "comedy")) == "most popular tag: comedy."
    assert compute_profile(MOVIE, movies("dark comedy")) == "most popular tag: dark comedy."


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["a"], "a"),
        (["a", "b"], "b"),
        (["b", "a", "a", "b"], "b"),
        (["a", "b", "b", "a"], "a"),
        (["a", "a", "b"], "a"),
        (["c", "a", "b", "c", "a", "b", "x"], "b"),
    ],
)
def test_among_equally_frequent_answers_the_latest_counts(answers: list[str], expected: str) -> None:
    assert most_frequent(answers) == expected


@pytest.mark.parametrize(
    ("titles", "says"),
    [
        (("big yes in calder", "small no"), "all lower case"),
        (("BIG YES", "NO"), "all capitals"),
        (("Big Yes In Calder", "A Small No"), "every word capitalized"),
        (("Big yes in the north of Calder", "A small no"), "sentence case"),
    ],
)
def test_casing_is_measured(titles: tuple[str, ...], says: str) -> None:
    profile = compute_profile(NEWS, news(*titles))
    assert says in profile
    others = {"all lower case", "all capitals", "every word capitalized", "sentence case"} - {says}
    assert not [other for other in others if other in profile]


def test_length_is_measured_in_words() -> None:
    assert "about 3 words" in compute_profile(NEWS, news("one two", "one two three four"))
    assert "about 1 words" in compute_profile(NEWS, news("one"))


@pytest.mark.parametrize(
    ("titles", "says"),
    [
        (("Yes!",) * 9 + ("No",), 'always ends with "!"'),
        (("Yes!",) * 5 + ("No",) * 5, 'mostly ends with "!"'),
        (("Yes!",) * 2 + ("No",) * 8, 'sometimes ends with "!"'),
        (("Yes.",) * 10, 'always ends with "."'),
        (("Why?",) * 3 + ("So",) * 4, "sometimes asks a question"),
    ],
)
def test_closing_marks_are_counted(titles: tuple[str, ...], says: str) -> None:
    assert says in compute_profile(NEWS, news(*titles))


def test_rare_closing_marks_are_not_a_style() -> None:
    assert "ends" not in compute_profile(NEWS, news(*["Yes!"] + ["No"] * 9))


def test_openers_and_favourite_words_are_those_that_the_input_does_not_give() -> None:
    profile = compute_profile(
        NEWS, news("Breaking: mayor backs plan", "Breaking: Mayor backs it", "Breaking: mayor")
    )
    assert 'often starts with "breaking:"' in profile
    favourites = profile.split("favourite words: ")[1].rstrip(".").split(", ")
    assert favourites[0] == "breaking"
    assert "backs" in favourites
    assert "mayor" not in favourites, "the article gives it"
    assert "plan" not in favourites, "once is no habit"


def test_different_openers_are_no_opener() -> None:
    assert "starts with" not in compute_profile(NEWS, news("one thing", "two things", "three things"))


@pytest.mark.parametrize("task", [MOVIE, NEWS], ids=lambda task: task.name)
@pytest.mark.parametrize(
    "text", ["🎬", "été à Ærø", "映画", "\u202eab", "«»", "!", "?", "1974", "a\0b", "{x}", "ß"]
)
def test_any_text_has_a_profile_on_one_line(task: object, text: str) -> None:
    history = movies(text, text) if task is MOVIE else news(text, text)
    profile = compute_profile(MOVIE if task is MOVIE else NEWS, history)
    assert profile.endswith(".")
    assert len(profile.splitlines()) == 1
    assert PROFILES["style"](NEWS, news(text)) == PROFILES["style"](NEWS, news(f" {text}\n"))


def test_a_profile_depends_on_the_training_history_alone() -> None:
    history = tuple(movies("comedy", "comedy", "violence", "violence", "violence"))
    queries = (
        Query("q1", {"description": "x"}, "violence", 4, "violence"),
        Query("q0", {"description": "x"}, "violence", 2, "violence"),
    )
    user = User("u", "test", history, queries)
    assert user.training_history == history[:2], "the items before the earliest query"
    assert compute_profile(MOVIE, user.training_history) == "most popular tag: comedy."
    assert dataclasses.replace(user, queries=()).training_history == history
    assert dataclasses.replace(user, queries=queries[:1]).training_history == history[:4]
