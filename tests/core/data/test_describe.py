"""A dataset in numbers: the same as counting by hand."""

import random
import statistics
from collections import Counter
from pathlib import Path

from oppu_core.data import HistoryItem, Query, Split, User
from oppu_core.data.dataset_writer import write_dataset
from oppu_core.data.statistics import NO_LABEL, SplitFacts, Spread, describe
from oppu_core.tasks.task_files import TASKS

MOVIES = TASKS["lamp_2m"]
INSTRUCTION = len(MOVIES.instruction.split())


def item(text: str, tag: str, date: str | None = None) -> HistoryItem:
    return HistoryItem("h", {"description": text, "tag": tag}, date)


def asked(
    name: str, *golds: str | None, split: Split = "test", history: tuple[HistoryItem, ...] = ()
) -> User:
    queries = tuple(
        Query(f"{name}-{n}", {"description": "two words"}, gold, len(history)) for n, gold in enumerate(golds)
    )
    return User(name, split, history, queries)


def test_spread_is_what_the_standard_library_says() -> None:
    chance = random.Random(0)
    for size in (1, 2, 5, 40, 41):
        values = [chance.randrange(12) for _ in range(size)]
        expected = (statistics.mean(values), statistics.median(values), min(values), max(values))
        assert Spread.of(Counter(values)) == Spread(*expected)
    assert Spread.of({}) is None


def test_facts_of_both_splits(tmp_path: Path) -> None:
    users = [
        asked("o", "comedy", "action", split="others", history=(item("A film.", "comedy", "2020-02-01"),)),
        asked(
            "t1",
            " true story ",
            history=(item("", "comedy", "2019-01-01"), item("x", "funny"), item("y", "action", "2021-03-04")),
        ),
        asked("t2", None, " "),
    ]
    facts = describe(write_dataset(tmp_path / "d", MOVIES, users, {}))
    others, test = facts["others"], facts["test"]
    assert (others.users, others.queries, test.users, test.queries) == (1, 2, 2, 3)
    assert others.history == Spread(1, 1, 1, 1)
    assert test.history == Spread(1.5, 1.5, 0, 3)
    assert test.history_lengths == {0: 1, 3: 1}
    # "description: two words tag:" behind the instruction.
    words = INSTRUCTION + 4
    assert test.words_in == Spread(words, words, words, words)
    assert test.words_out == Spread(1, 1, 0, 2)
    assert (test.first_date, test.last_date) == ("2019-01-01", "2021-03-04")
    assert others.gold_labels == dict.fromkeys(MOVIES.labels, 0) | {"comedy": 1, "action": 1}
    assert test.gold_labels == dict.fromkeys(MOVIES.labels, 0) | {"true story": 1, NO_LABEL: 1}
    assert test.history_labels == dict.fromkeys(MOVIES.labels, 0) | {"comedy": 1, "action": 1, NO_LABEL: 1}
    assert test.empty == {
        "query.description": 0,
        "query.gold": 2 / 3,
        "history.description": 1 / 3,
        "history.tag": 0,
    }


def test_tasks_without_labels_and_splits_without_users(tmp_path: Path) -> None:
    task = TASKS["lamp_4"]
    user = User("u", "test", (HistoryItem("a", {"text": "A text.", "title": "A title"}),), ())
    facts = describe(write_dataset(tmp_path / "d", task, [user], {}))
    assert facts["others"] == SplitFacts(0, 0, None, {}, None, None, None, None, {}, {}, {})
    assert facts["test"].history_labels == {}
    assert facts["test"].first_date is None
    authors = TASKS["lamp_1"]  # has labels, but its history has no answers
    paper = HistoryItem("a", {"title": "On ships", "abstract": "", "citation": ""})
    query = Query("q", {"title": "t", "option_1": "a", "option_2": "b"}, "[2]", 1)
    facts = describe(write_dataset(tmp_path / "e", authors, [User("u", "test", (paper,), (query,))], {}))
    assert facts["test"].gold_labels == {"[1]": 0, "[2]": 1}
    assert facts["test"].history_labels == {}
    assert facts["test"].empty["history.abstract"] == 1
