"""What can be planted into the world: shifts, inactive users, irrelevant items."""

import collections
import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from oppu_core.data import HistoryItem, Query, User
from oppu_core.data.sample import (
    GRAMMARS,
    Planted,
    planted_likeness,
    planted_preferences,
    sample_users,
    tweets,
)
from oppu_core.data.sample.citations import FIELDS
from oppu_core.data.sample.headlines import EVENTS
from oppu_core.data.sample.ranked import RankedGrammar
from oppu_core.data.sample.ratings import PRODUCTS
from oppu_core.storage.files import content_id
from oppu_core.tasks.task import Task
from oppu_core.tasks.task_files import TASKS
from world_toys import (
    EACH,
    RANKED,
    REVIEWERS_SAY,
    field_of,
    mean,
    scorer,
    touched_fields,
)

# The users as they were before anything could be planted; runs and stored adapters rest on them.
PLAIN = {
    "lamp_1": "9bd09c83199b2c59a27a86069ee6eb65e03629d85b28d106e67e5ed5f37f659a",
    "lamp_2n": "4d715b316e8962554c271bbefcc308cea5210b6c916d20b0b015cb53f874215b",
    "lamp_2m": "832ccea8ce99ed8c9def8b1368710701e0a94af89996b07a6afdf49795925cc9",
    "lamp_3": "1e0b370293f6cd5f1de7e51e92cd6d2fa44f470f265f2d396344d5f1b19b37fc",
    "lamp_4": "2466934667f07e09a6f703a5a585374eae32d5fc82932758a0055cf54127f710",
    "lamp_5": "2785b465532b4786abda39d8b80f851b221e020ac59dbead075d4703b03072c7",
    "lamp_7": "47351e55db39d6fbc76ff95af869eb4446bbc1e867e68435925a900afc9dce36",
}

pytestmark = pytest.mark.slow  # draws thousands of users


# Words that tell what an item or query is about.
CLUES: dict[str, dict[str, str]] = {
    "lamp_1": {clue: name for name, field in FIELDS.items() for clue in (*field.topics, *field.subjects)},
    "lamp_3": {product: product for product in PRODUCTS},
    "lamp_4": {thing: event.desk for event in EVENTS for thing in event.objects},
    "lamp_5": {"We apply": "method", "We compare": "study", "We make": "resource"},
    "lamp_7": {thing: name for name, topic in tweets.TOPICS.items() for thing in topic.things},
}


for _grammar in GRAMMARS.values():
    if isinstance(_grammar, RankedGrammar):
        CLUES[_grammar.task.name] = {
            text: label for label, texts in _grammar.sentences.items() for text in texts
        }


def about(task: Task, item: HistoryItem | Query) -> set[str]:
    text = "\n".join(item.fields.values())
    return {subject for clue, subject in CLUES[task.name].items() if re.search(rf"\b{re.escape(clue)}", text)}


@EACH
def test_users_with_nothing_planted_are_as_ever(task: Task) -> None:
    def identity(**planted: Planted) -> str:
        users = sample_users(task, test_users=3, other_users=5, history=(6, 9), queries=3, seed=11, **planted)
        values = [dataclasses.asdict(user) for user in users]
        for query in (query for user in values for query in user["queries"]):
            assert query.pop("date") is None  # a field that came later
        return content_id(values)

    assert identity() == PLAIN[task.name]
    assert identity(plant=Planted()) == PLAIN[task.name]
    assert identity(plant=Planted(shift=0.5)) != PLAIN[task.name]


@EACH
def test_planting_changes_test_users_only(task: Task) -> None:
    plant = Planted(shift=0.5, inactive=0.5, irrelevant=0.5)
    plain = list(sample_users(task, test_users=2, other_users=5))
    planted = list(sample_users(task, test_users=2, other_users=5, plant=plant))
    assert planted[:5] == plain[:5]
    assert all(a != b for a, b in zip(planted[5:], plain[5:], strict=True))
    assert planted == list(sample_users(task, test_users=2, other_users=5, plant=plant))


# The parts of a style that show in every answer.
STYLE_SHOWS: dict[str, Callable[[Any, str], bool]] = {
    "lamp_4": lambda style, oracle: oracle.endswith(style.closing) and style.adjective in oracle.lower(),
    "lamp_5": lambda style, oracle: oracle.endswith(style.closing),
    "lamp_7": lambda style, oracle: style.speaker in oracle and style.intensifier in oracle,
}


def planted_part(task: Task, preferences: Any, query: Query) -> bool:
    """Whether the oracle's answer is the planted preferences', as far as it shows in every query."""
    oracle = query.oracle or ""
    if task.name == "lamp_1":
        fields = [field_of(query.fields[option]) for option in ("option_1", "option_2")]
        if not set(fields) <= touched_fields(query.fields["title"]):
            return True  # anybody would choose so
        return oracle == f"[{1 + fields.index(min(fields, key=preferences.index))}]"
    if task.name == "lamp_3":
        told = [found for text, found in REVIEWERS_SAY.items() if text in query.fields["text"]]
        score = 3 + preferences.leniency + sum(way * (1 + (name == preferences.aspect)) for name, way in told)
        return oracle == str(min(5, max(1, score)))
    if task.name in STYLE_SHOWS:
        return STYLE_SHOWS[task.name](preferences, oracle)
    return oracle == min(about(task, query), key=preferences.index)


@EACH
def test_queries_are_answered_by_the_planted_preferences_whatever_else_is_planted(task: Task) -> None:
    plant = Planted(shift=0.5, inactive=0.4, irrelevant=0.3)
    shown = []
    for user in sample_users(task, test_users=6, other_users=0, seed=5, plant=plant):
        own = planted_preferences(task, user.user_id, seed=5)
        assert all(planted_part(task, own, query) for query in user.queries)
        stranger = planted_preferences(task, user.user_id, seed=6)
        shown += [planted_part(task, stranger, query) for query in user.queries]
    assert not all(shown), "a stranger's preferences do not explain the answers"


@EACH
@pytest.mark.parametrize("share", [0.3, 0.75])
def test_a_shift_changes_the_answers_of_the_oldest_items_only(task: Task, share: float) -> None:
    output = task.text_field if task.output_field is None else task.output_field
    output = "citation" if task.name == "lamp_1" else output
    changed = []
    plain = list(sample_users(task, test_users=8, other_users=0, seed=3))
    for before, user in zip(
        plain,
        sample_users(task, test_users=8, other_users=0, seed=3, plant=Planted(shift=share)),
        strict=True,
    ):
        old = round(share * len(before.history))
        assert user.queries == before.queries
        assert user.history[old:] == before.history[old:]
        for was, item in zip(before.history[:old], user.history[:old], strict=True):
            assert (item.id, item.date) == (was.id, was.date)
            assert {**item.fields, output: ""} == {**was.fields, output: ""}
            changed.append(item.fields[output] != was.fields[output])
    assert mean([float(change) for change in changed]) > 0.45


@RANKED
def test_old_items_follow_one_other_order_and_new_ones_the_users_own(name: str) -> None:
    task = TASKS[name]
    own_old, own_new, old_old = [], [], []
    for user in sample_users(task, test_users=20, other_users=0, seed=2, plant=Planted(shift=0.5)):
        order = planted_preferences(task, user.user_id, seed=2)
        middle = round(0.5 * len(user.history))
        won: collections.Counter[tuple[str, str]] = collections.Counter()
        for number, item in enumerate(user.history):
            labels, chosen = about(task, item), item.fields[str(task.output_field)]
            own = float(chosen == min(labels, key=order.index))
            (own_old if number < middle else own_new).append(own)
            if number < middle:
                for other in labels - {chosen}:
                    old_old += [float(won[chosen, other] >= won[other, chosen])]
                    won[chosen, other] += 1
    assert mean(own_new) > 0.93
    assert 0.25 < mean(own_old) < 0.42, "by chance a third"
    assert mean(old_old) > 0.9, "the old items contradict each other seldom"


def test_a_share_of_the_users_is_inactive_spread_evenly() -> None:
    task = TASKS["lamp_4"]

    def lengths(share: float) -> list[int]:
        plant = Planted(inactive=share)
        users = sample_users(task, test_users=100, other_users=0, history=(8, 12), queries=1, plant=plant)
        return [len(user.history) for user in users]

    plain = lengths(0.0)
    assert min(plain) >= 8
    for share, count in ((0.29, 29), (1 / 3, 33), (0.5, 50), (0.07, 7), (1.0, 100)):
        planted = lengths(share)
        inactive = [length <= 6 for length in planted]
        assert sum(inactive) == count
        assert all(length == was for length, was in zip(planted, plain, strict=True) if length > 6)
        for stretch in range(0, 100, 20):
            assert abs(sum(inactive[stretch : stretch + 20]) - 20 * share) <= 1
    assert set(lengths(1.0)) == {2, 3, 4, 5, 6}
    assert [length <= 6 for length in lengths(0.5)[:4]] == [False, True, False, True]


@EACH
def test_an_inactive_user_keeps_the_latest_items_and_all_queries(task: Task) -> None:
    plain = sample_users(task, test_users=4, other_users=0)
    planted = sample_users(task, test_users=4, other_users=0, plant=Planted(shift=0.5, inactive=1.0))
    for before, user in zip(plain, planted, strict=True):
        count = len(user.history)
        assert 2 <= count <= 6
        assert [item.id for item in user.history] == [item.id for item in before.history[-count:]]
        new = count - round(0.5 * count)
        assert user.history[-new:] == before.history[-new:]
        assert user.queries == tuple(
            dataclasses.replace(query, history_len=count) for query in before.queries
        )


@EACH
def test_irrelevant_items_are_about_what_no_query_touches(task: Task) -> None:
    def draw(plant: Planted) -> Iterator[tuple[User, set[str], list[set[str]]]]:
        # So many queries that they touch all subjects that they may.
        users = sample_users(
            task, test_users=6, other_users=0, history=(30, 60), queries=60, seed=1, plant=plant
        )
        for user in users:
            asked = set().union(*(about(task, query) for query in user.queries))
            yield user, asked, [about(task, item) for item in user.history]

    everything = set(GRAMMARS[task.name].all_subjects)
    assert everything == set(CLUES[task.name].values())
    for _, asked, subjects in draw(Planted()):
        assert len(asked) > math.ceil(len(everything) / 2), "by itself nobody asks about a half only"
        assert all(subjects)
    halves, places, near, golds = set(), [], [], []
    for user, asked, subjects in draw(Planted(irrelevant=0.4)):
        assert len(asked) == math.ceil(len(everything) / 2)
        apart = [not about_what & asked for about_what in subjects]
        assert sum(apart) == round(0.4 * len(user.history))
        assert all(about_what <= asked for about_what, far in zip(subjects, apart, strict=True) if not far)
        places += [number / len(apart) for number, far in enumerate(apart) if far]
        near += [number / len(apart) for number, far in enumerate(apart) if not far]
        halves.add(frozenset(asked))
        golds += [scorer(task)(query.oracle or "", query.gold or "") for query in user.queries]
    assert len(halves) > 1, "each user has an own half"
    assert abs(mean(places) - mean(near)) < 0.1, "evenly over time"
    assert mean(golds) > 0.93, "the oracle answers as ever"


@EACH
def test_likeness_is_one_with_oneself_and_symmetric(task: Task) -> None:
    ids = [user.user_id for user in sample_users(task, test_users=12, other_users=0, history=(2, 3))]
    likeness_UU = planted_likeness(task, ids, 0)
    for i, row in enumerate(likeness_UU):
        assert row[i] == 1
        assert row == [other[i] for other in likeness_UU]
        assert all(0 <= value <= 1 for value in row)
    assert min(map(min, likeness_UU)) < 0.4
    assert planted_likeness(task, ids[::-1], 0)[0][1] == likeness_UU[-1][-2], "in the order of the ids"
