"""The mechanism of the sample world: users with planted preferences answer scenes from a grammar.

A grammar draws preferences and scenes, and says how a user answers a scene; everything else (users' activity,
dates, splits, who may see which text) is the same for every task and is done here.

Texts are split by their own hash: a text of the test users can never be drawn for the others or for
pretraining, whatever the seeds. So no base can have read a test user's text.

Effects that studies look for can be planted into the test users' data (:class:`Planted`). They have random
draws of their own, so that nothing else changes.
"""

import datetime
import hashlib
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

from oppu_core.data.sample.categories import CATEGORIES
from oppu_core.data.sample.citations import CitationGrammar
from oppu_core.data.sample.headlines import HeadlineGrammar
from oppu_core.data.sample.planted import NOTHING, Planted
from oppu_core.data.sample.ratings import RatingGrammar
from oppu_core.data.sample.tagging import TAGGING
from oppu_core.data.sample.titles import TitleGrammar
from oppu_core.data.sample.tweets import TweetGrammar
from oppu_core.data.types import SPLITS, HistoryItem, Query, Split, User
from oppu_core.errors import ConfigError
from oppu_core.tasks.task import Task

Audience = Literal["others", "test", "pretraining"]
_SHARE: Mapping[Audience, range] = {"test": range(0, 8), "others": range(8, 12), "pretraining": range(12, 16)}
_FIRST_DAY = datetime.date(2020, 1, 1)
_INACTIVE = (2, 6)


class Grammar(Protocol):
    """A task's part of the world. Preferences and scenes have the grammar's own types."""

    @property
    def task(self) -> Task:
        """The task whose items, queries and answers this makes."""

    @property
    def all_subjects(self) -> tuple[str, ...]:
        """All subjects of scenes; there are scenes for any half of them."""

    def preferences(self, rng: random.Random) -> Any:
        """Draw a user's planted preferences."""

    def scene(self, rng: random.Random) -> Any:
        """Draw a scene to be answered, independent of users."""

    def subjects(self, scene: Any) -> frozenset[str]:
        """The subjects that a scene is about."""

    def fields(self, scene: Any) -> Mapping[str, str]:
        """The task's input fields for a scene, independent of users, so that a query reveals nothing."""

    def item(self, scene: Any, preferences: Any, rng: random.Random) -> Mapping[str, str]:
        """The history fields of a scene that the user has answered."""

    def answer(self, scene: Any, preferences: Any, rng: random.Random | None) -> str:
        """The user's answer; without `rng`, the most probable one (the oracle)."""

    def likeness(self, one: Any, other: Any) -> float:
        """How similar two users' preferences are, from 0 to 1 (equal)."""


GRAMMARS: dict[str, Grammar] = {
    g.task.name: g
    for g in (
        CitationGrammar(),
        CATEGORIES,
        TAGGING,
        RatingGrammar(),
        HeadlineGrammar(),
        TitleGrammar(),
        TweetGrammar(),
    )
}


def _scene_for(
    grammar: Grammar, audience: Audience, rng: random.Random, about: frozenset[str] | None = None
) -> tuple[Any, str]:
    """Draw a scene for this audience (with `about`, only of these subjects), and the text that decides it."""
    while True:
        scene = grammar.scene(rng)
        if about is not None and not grammar.subjects(scene) <= about:
            continue
        fields = grammar.fields(scene)
        # The fields of a query that histories have too: a paper's title without the query's options.
        text = "\n".join(fields[name] for name in fields if name in grammar.task.history_fields)
        if hashlib.sha256(text.encode()).digest()[0] % 16 in _SHARE[audience]:
            return scene, text


def _user_id(split: Split, index: int) -> str:
    return f"{split}-{index:03d}"


def _user_key(task: Task, split: Split, index: int, seed: int) -> str:
    """The seed of everything drawn for a user; planted effects have keys of their own derived from it."""
    return f"sample world/{seed}/{task.name}/{split}/{index}"


def _chosen(index: int, share: float) -> bool:
    """Whether a user belongs to this share of all users; those chosen are evenly spread."""
    # The small term corrects rounding: 100 * 0.29 is below 29.
    return math.floor((index + 1) * share + 1e-9) > math.floor(index * share + 1e-9)


def _halves(subjects: tuple[str, ...], rng: random.Random) -> tuple[frozenset[str], frozenset[str]]:
    """The subjects of a user's queries (half of all, rounded up), and the other subjects."""
    near = frozenset(rng.sample(subjects, math.ceil(len(subjects) / 2)))
    return near, frozenset(subjects) - near


def _world_user(
    grammar: Grammar,
    split: Split,
    index: int,
    seed: int,
    items: tuple[int, int],
    queries: int,
    plant: Planted = NOTHING,
) -> User:
    """One made-up user; all draws depend only on (seed, task, split, index) and `plant`."""
    key = _user_key(grammar.task, split, index, seed)
    rng = random.Random(key)
    preferences = grammar.preferences(rng)
    # Activity is log-uniform: many users with short histories, few with long ones, as in real data.
    length = round(math.exp(rng.uniform(math.log(items[0]), math.log(items[1]))))
    kept = length
    if _chosen(index, plant.inactive):
        kept = min(length, random.Random(f"{key}/inactive").randint(*_INACTIVE))
    places = range(length - kept, length)

    former_rng = random.Random(f"{key}/shift")
    former = grammar.preferences(former_rng)
    while former == preferences:
        former = grammar.preferences(former_rng)
    shifted = places[: round(plant.shift * kept)]

    irrelevant_rng = random.Random(f"{key}/irrelevant")
    irrelevant = irrelevant_rng.sample(places, round(plant.irrelevant * kept))
    near, far = _halves(grammar.all_subjects, irrelevant_rng) if plant.irrelevant else (None, None)

    day = _FIRST_DAY + datetime.timedelta(days=rng.randrange(200))
    seen: set[str] = set()
    history: list[HistoryItem] = []
    asked: list[Query] = []
    while len(asked) < queries:
        place = len(history)
        scene, text = _scene_for(grammar, split, rng, far if place in irrelevant else near)
        if text in seen:
            continue
        seen.add(text)
        number = len(seen)
        day += datetime.timedelta(days=rng.randrange(1, 4))
        item_id = f"{_user_id(split, index)}-{number:04d}"
        if place < length:
            item = grammar.item(scene, preferences, rng)
            if place in shifted:  # after the draw above, so that later draws do not depend on the shift
                item = grammar.item(scene, former, former_rng)
            history.append(HistoryItem(item_id, item, day.isoformat()))
        else:
            gold = grammar.answer(scene, preferences, rng)
            oracle = grammar.answer(scene, preferences, None)
            asked.append(Query(item_id, grammar.fields(scene), gold, kept, oracle))
    return User(_user_id(split, index), split, tuple(history[length - kept :]), tuple(asked))


def sample_users(
    task: Task,
    *,
    test_users: int = 20,
    other_users: int = 100,
    history: tuple[int, int] = (40, 120),
    queries: int = 10,
    seed: int = 0,
    plant: Planted = NOTHING,
) -> Iterator[User]:
    """The users of a made-up dataset, others first.

    Args:
        task: A task of :data:`GRAMMARS`.
        test_users: How many users get a personal adapter.
        other_users: How many users train the task base; they have 4 to 12 history items and 4 queries.
        history: The range of the test users' history lengths (log-uniform).
        queries: Queries of each test user.
        seed: The same seed gives the same users.
        plant: Effects planted into the test users' data; the others do not depend on it.
    """
    grammar = GRAMMARS[task.name]
    for split in SPLITS:
        for index in range(other_users if split == "others" else test_users):
            if split == "others":
                yield _world_user(grammar, split, index, seed, (4, 12), 4)
            else:
                yield _world_user(grammar, split, index, seed, history, queries, plant)


def planted_preferences(task: Task, user_id: str, seed: int) -> Any:
    """The preferences by which a test user's queries are answered, in the grammar's own type.

    Args:
        task: A task of :data:`GRAMMARS`.
        user_id: A test user of :func:`sample_users`, e.g. ``test-003``.
        seed: The seed given to :func:`sample_users`.

    Raises:
        ConfigError: the task has no grammar, or no test user has such an id.
    """
    if task.name not in GRAMMARS:
        raise ConfigError(f"task {task.name}: the sample world has only {', '.join(GRAMMARS)}")
    index = user_id.removeprefix("test-")
    if not (index.isdecimal() and user_id == _user_id("test", int(index))):
        raise ConfigError(f"user {user_id!r} is no test user of the sample world; give one like 'test-003'")
    return GRAMMARS[task.name].preferences(random.Random(_user_key(task, "test", int(index), seed)))


def planted_likeness(task: Task, user_ids: Sequence[str], seed: int) -> list[list[float]]:
    """How similar the planted preferences of every two test users are.

    Args:
        task: A task of :data:`GRAMMARS`.
        user_ids: Test users of :func:`sample_users`.
        seed: The seed given to :func:`sample_users`.

    Returns:
        likeness_UU: [U, U] in the given order, from 0 to 1, symmetric, with 1 on the diagonal.

    Raises:
        ConfigError: the task has no grammar, or no test user has such an id.
    """
    planted = [planted_preferences(task, user_id, seed) for user_id in user_ids]
    return [[GRAMMARS[task.name].likeness(one, other) for other in planted] for one in planted]


def world_texts(task: Task, rng: random.Random, items: int) -> User:
    """A one-off user of the pretraining audience: `items` history items and one query.

    Preferences are drawn anew in every call and the user never reappears, so a base trained on these texts
    learns what headlines and tags look like, but nobody's preferences.
    """
    grammar = GRAMMARS[task.name]
    preferences = grammar.preferences(rng)
    history = []
    for number in range(items):
        scene, _ = _scene_for(grammar, "pretraining", rng)
        history.append(HistoryItem(str(number), grammar.item(scene, preferences, rng)))
    scene, _ = _scene_for(grammar, "pretraining", rng)
    query = Query("query", grammar.fields(scene), grammar.answer(scene, preferences, rng), items)
    return User("pretraining", "others", tuple(history), (query,))
