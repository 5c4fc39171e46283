"""Profiles state facts of the history, and of nothing else."""

import dataclasses
from typing import get_args

import pytest
from oppu_core.data import HistoryItem, Query, User
from oppu_core.prompting.profiles import PROFILES, compute_profile, most_frequent
from oppu_core.tasks.task import ProfileKind
from oppu_core.tasks.task_files import TASKS

MOVIE, NEWS = TASKS["lamp_2m"], TASKS["lamp_4"]


def movies(*tags: str) -> list[HistoryItem]:
    return [HistoryItem(str(t), {"description": f"film {t}", "tag": tag}) for t, tag in enumerate(tags)]


def news(*titles: str, text: str = "The mayor of Calder said yes.") -> list[HistoryItem]:
    return [HistoryItem(str(t), {"text": text, "title": title}) for t, title in enumerate(titles)]


def test_every_task_has_a_profile() -> None:
    assert set(get_args(ProfileKind)) == set(PROFILES)
    assert {task.profile for task in TASKS.values()} == set(PROFILES)


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


def reviews(*scores: str) -> list[HistoryItem]:
    return [HistoryItem(str(t), {"text": "fine", "score": score}) for t, score in enumerate(scores)]


@pytest.mark.parametrize(
    ("scores", "says"),
    [
        ("5 5 4 1 2 2", "most common positive score: 5, most common negative score: 2."),
        ("4 5 4", "most common positive score: 4."),
        ("1 3 3 3", "most common negative score: 1."),
        ("4 5 1 2", "most common positive score: 5, most common negative score: 2."),
        ("3 3", ""),
        ("five nan 9 0", ""),
        ("5.0 4.50 5.00 1.0", "most common positive score: 5, most common negative score: 1."),
        ("4.5 4.50 2", "most common positive score: 4.5, most common negative score: 2."),
    ],
)
def test_the_usual_scores_of_both_halves_of_the_scale(scores: str, says: str) -> None:
    assert compute_profile(TASKS["lamp_3"], reviews(*scores.split())) == says


def papers(*titles: str) -> list[HistoryItem]:
    fields = ({"title": title, "abstract": "unrelated words", "citation": ""} for title in titles)
    return [HistoryItem(str(t), field) for t, field in enumerate(fields)]


def test_topics_are_what_several_titles_are_about() -> None:
    profile = compute_profile(
        TASKS["lamp_1"],
        papers(
            "Neural Machine Translation of News", "Better machine translation", "Parsing news", "On parsing"
        ),
    )
    assert profile == "research topics: machine translation, news, parsing."


def test_topics_count_a_word_once_a_title_and_everyday_words_for_nothing() -> None:
    lamp_1 = TASKS["lamp_1"]
    assert compute_profile(lamp_1, papers("word word word", "another thing")) == ""
    assert compute_profile(lamp_1, papers("towards the of it", "towards the of it")) == ""
    many = compute_profile(lamp_1, papers(*(" ".join(f"t{n}x and" for n in range(20)) for _ in "ab")))
    assert many.count(",") == 7, "eight topics at most"


def tweets(*texts: str) -> list[HistoryItem]:
    return [HistoryItem(str(t), {"text": text}) for t, text in enumerate(texts)]


def test_a_tweets_style_leaves_out_everyday_words() -> None:
    profile = compute_profile(TASKS["lamp_7"], tweets("so i love the gym lol", "so the gym was great lol"))
    assert profile.startswith("text style: about 6 words; all lower case")
    favourites = profile.split("favourite words: ")[1].rstrip(".").split(", ")
    assert sorted(favourites) == ["gym", "lol"]


def test_a_headlines_style_does_leave_in_what_the_article_does_not_say() -> None:
    """With inputs, a favourite is what the input does not give; everyday words count as well."""
    profile = compute_profile(NEWS, news("what we know", "what they know", text="The mayor said yes."))
    assert set(profile.split("favourite words: ")[1].rstrip(".").split(", ")) == {"know", "what"}
