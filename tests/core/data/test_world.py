"""The planted world: users, their texts and dates; nobody shares a text."""

import hashlib
import itertools
import random
import re

import pytest
from oppu_core.data import User
from oppu_core.data.sample import GRAMMARS, sample_users, world_texts
from oppu_core.data.sample.ranked import NOISE
from oppu_core.tasks.task import Task
from oppu_core.tasks.task_files import TASKS
from world_toys import EACH, RANKED, input_text, mean

pytestmark = pytest.mark.slow  # draws thousands of users


def texts_of(task: Task, user: User) -> list[str]:
    return [input_text(task, item) for item in (*user.history, *user.queries)]


@EACH
def test_the_same_seed_gives_the_same_users(task: Task) -> None:
    def draw(seed: int) -> list[User]:
        return list(sample_users(task, test_users=3, other_users=3, seed=seed))

    assert draw(5) == draw(5)
    assert all(a != b for a, b in zip(draw(5), draw(6), strict=True))


@EACH
def test_more_users_change_no_other_user(task: Task) -> None:
    few = {user.user_id: user for user in sample_users(task, test_users=2, other_users=3, seed=1)}
    many = {user.user_id: user for user in sample_users(task, test_users=4, other_users=7, seed=1)}
    assert len(few) == 5
    assert len(many) == 11
    assert {user_id: many[user_id] for user_id in few} == few


@EACH
def test_no_two_users_are_alike(task: Task) -> None:
    users = list(sample_users(task, test_users=4, other_users=4, seed=1))
    assert len({texts_of(task, user)[0] for user in users}) == len(users)
    assert len({tuple(item.date for item in user.history) for user in users}) == len(users)


@EACH
def test_audiences_share_no_text_whatever_the_seeds(task: Task) -> None:
    seen: dict[str, set[str]] = {"others": set(), "test": set(), "pretraining": set()}
    asked: dict[str, set[str]] = {"others": set(), "test": set(), "pretraining": set()}
    for seed in range(4):
        rng = random.Random(seed)
        passing = [("pretraining", world_texts(task, rng, 20)) for _ in range(10)]
        users = sample_users(task, test_users=4, other_users=20, seed=seed)
        for audience, user in [*passing, *((user.split, user) for user in users)]:
            seen[audience].update(texts_of(task, user))
            asked[audience].update(input_text(task, query) for query in user.queries)
    assert all(len(texts) > 300 for texts in seen.values())
    assert not (seen["test"] & seen["others"] or (seen["test"] | seen["others"]) & seen["pretraining"])
    # Not by luck: a text's own hash tells whose it is, so two audiences cannot ever draw the same one. A
    # tweet tells all of its text, so that tweets differ where their texts do.
    texts = asked if task.output_field is None else seen
    for audience, share in {"test": range(8), "others": range(8, 12), "pretraining": range(12, 16)}.items():
        assert {hashlib.sha256(text.encode()).digest()[0] % 16 for text in texts[audience]} == set(share)


@EACH
def test_no_text_of_a_test_user_stands_inside_a_text_of_another_audience(task: Task) -> None:
    users = list(sample_users(task, test_users=10, other_users=60, seed=3))
    elsewhere = [text for user in users if user.split == "others" for text in texts_of(task, user)]
    rng = random.Random(0)
    elsewhere += [text for _ in range(20) for text in texts_of(task, world_texts(task, rng, 20))]
    everything = "\n\n".join(elsewhere)
    for user in users:
        if user.split == "test":
            assert not [text for text in texts_of(task, user) if text in everything]


@EACH
def test_passing_users_of_the_pretraining_audience_are_new_every_time(task: Task) -> None:
    rng = random.Random(0)
    first, second = world_texts(task, rng, 30), world_texts(task, rng, 30)
    assert len(first.history) == 30
    assert len(first.queries) == 1
    assert first.split == "others"
    assert not set(texts_of(task, first)) & set(texts_of(task, second))
    assert world_texts(task, random.Random(0), 30) == first


@EACH
def test_a_text_occurs_once_in_a_user(task: Task) -> None:
    for user in sample_users(task, test_users=5, other_users=5, seed=2):
        texts = texts_of(task, user)
        assert len(set(texts)) == len(texts)
        ids = [item.id for item in (*user.history, *user.queries)]
        assert len(set(ids)) == len(ids)


@EACH
def test_users_differ_in_activity_within_the_stated_range(task: Task) -> None:
    users = list(sample_users(task, test_users=60, other_users=60, history=(20, 80), queries=2, seed=0))
    lengths = sorted(len(user.history) for user in users if user.split == "test")
    assert 20 <= lengths[0] < 26
    assert 68 < lengths[-1] <= 80
    assert 30 < lengths[30] < 50, "log-uniform: the median is near the geometric mean, 40"
    others = {len(user.history) for user in users if user.split == "others"}
    # Seven tasks draw their own users: at this seed nobody of lamp_5 has exactly 11 items.
    assert {4, 7, 12 if task.name == "lamp_5" else 11} <= others <= set(range(4, 13))
    for user in users:
        assert len(user.queries) == (2 if user.split == "test" else 4)
        assert all(query.history_len == len(user.history) for query in user.queries)


@EACH
def test_dates_rise_strictly_from_item_to_item(task: Task) -> None:
    for user in sample_users(task, test_users=10, other_users=10, seed=4):
        dates = [item.date or "" for item in user.history]
        assert all(re.fullmatch(r"20\d\d-\d\d-\d\d", date) for date in dates)
        assert all(earlier < later for earlier, later in itertools.pairwise(dates))


@RANKED
def test_who_ranks_labels_follows_the_planted_order_but_for_the_stated_noise(
    name: str, users_of: dict[str, list[User]]
) -> None:
    queries = [query for user in users_of[name] for query in user.queries]
    agreement = mean([float(query.gold == query.oracle) for query in queries])
    assert NOISE == 0.04
    assert 0.93 < agreement < 0.99
    assert all(query.oracle in TASKS[name].labels for query in queries)


def test_queries_show_only_input_fields(users_of: dict[str, list[User]]) -> None:
    for name, users in users_of.items():
        task = TASKS[name]
        for user in users:
            assert all(tuple(query.fields) == task.input_fields for query in user.queries)
            assert all(set(item.fields) == set(task.history_fields) for item in user.history)


@pytest.mark.parametrize("name", GRAMMARS)
def test_there_are_tens_of_thousands_of_texts(name: str) -> None:
    grammar, rng = GRAMMARS[name], random.Random(0)
    first = grammar.task.input_fields[0]
    assert len({grammar.fields(grammar.scene(rng))[first] for _ in range(60_000)}) > 30_000
