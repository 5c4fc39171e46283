"""The sample world's mechanism: users with planted preferences answer scenes from a grammar.

A grammar knows how to draw preferences and scenes and how a user answers a scene; everything else (how
active users are, dates, splits, who may see which text) is the same for every task and lives here.

Texts are split by their own hash: a text that belongs to the test users can never be drawn for the others
or for pretraining, whatever the seeds. So no base can have read a test user's text.
"""

import datetime
import hashlib
import math
import random
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Protocol

from oppu_core.data.sample.categories import CATEGORIES
from oppu_core.data.sample.citations import CitationGrammar
from oppu_core.data.sample.headlines import HeadlineGrammar
from oppu_core.data.sample.ratings import RatingGrammar
from oppu_core.data.sample.tagging import TAGGING
from oppu_core.data.sample.titles import TitleGrammar
from oppu_core.data.sample.tweets import TweetGrammar
from oppu_core.data.types import SPLITS, HistoryItem, Query, Split, User
from oppu_core.tasks import Task

Audience = Literal["others", "test", "pretraining"]
_SHARE: Mapping[Audience, range] = {"test": range(0, 8), "others": range(8, 12), "pretraining": range(12, 16)}
_FIRST_DAY = datetime.date(2020, 1, 1)


class Grammar(Protocol):
    """What a task adds to the world. Preferences and scenes are the grammar's own types."""

    @property
    def task(self) -> Task:
        """The task whose items, queries and answers it makes."""

    def preferences(self, rng: random.Random) -> Any:
        """Draw a user's planted preferences."""

    def scene(self, rng: random.Random) -> Any:
        """Draw something to be answered; no user is involved."""

    def fields(self, scene: Any) -> Mapping[str, str]:
        """The task's input fields for a scene; no user is involved, so a query gives nothing away."""

    def item(self, scene: Any, preferences: Any, rng: random.Random) -> Mapping[str, str]:
        """The history fields that the user leaves behind for a scene."""

    def answer(self, scene: Any, preferences: Any, rng: random.Random | None) -> str:
        """How the user answers; without `rng` the most probable answer (the oracle)."""


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


def _scene_for(grammar: Grammar, audience: Audience, rng: random.Random) -> tuple[Any, str]:
    """Draw scenes until one belongs to this audience: the scene, and the text that decides it."""
    while True:
        scene = grammar.scene(rng)
        fields = grammar.fields(scene)
        # The part of a query that a history holds too: a paper's title without the options of a query.
        text = "\n".join(fields[name] for name in fields if name in grammar.task.history_fields)
        if hashlib.sha256(text.encode()).digest()[0] % 16 in _SHARE[audience]:
            return scene, text


def _world_user(
    grammar: Grammar, split: Split, index: int, seed: int, items: tuple[int, int], queries: int
) -> User:
    """One planted user; all that is drawn depends on (seed, task, split, index) alone."""
    rng = random.Random(f"sample world/{seed}/{grammar.task.name}/{split}/{index}")
    preferences = grammar.preferences(rng)
    # Activity is log-uniform: many users with short histories, few with long ones, as in real data.
    length = round(math.exp(rng.uniform(math.log(items[0]), math.log(items[1]))))
    day = _FIRST_DAY + datetime.timedelta(days=rng.randrange(200))
    seen: set[str] = set()
    history: list[HistoryItem] = []
    asked: list[Query] = []
    while len(asked) < queries:
        scene, text = _scene_for(grammar, split, rng)
        if text in seen:
            continue
        seen.add(text)
        number = len(seen)
        day += datetime.timedelta(days=rng.randrange(1, 4))
        item_id = f"{split}-{index:03d}-{number:04d}"
        if len(history) < length:
            item = grammar.item(scene, preferences, rng)
            history.append(HistoryItem(item_id, item, day.isoformat()))
        else:
            gold = grammar.answer(scene, preferences, rng)
            oracle = grammar.answer(scene, preferences, None)
            asked.append(Query(item_id, grammar.fields(scene), gold, length, oracle))
    return User(f"{split}-{index:03d}", split, tuple(history), tuple(asked))


def sample_users(
    task: Task,
    *,
    test_users: int = 20,
    other_users: int = 100,
    history: tuple[int, int] = (40, 120),
    queries: int = 10,
    seed: int = 0,
) -> Iterator[User]:
    """The users of a planted dataset, others first.

    Args:
        task: A task of :data:`GRAMMARS`.
        test_users: How many users get a personal adapter.
        other_users: How many users train the task base; they have 4 to 12 history items and 4 queries.
        history: The range of the test users' history lengths (log-uniform).
        queries: Queries of each test user.
        seed: The same seed gives the same users.
    """
    grammar = GRAMMARS[task.name]
    for split in SPLITS:
        for index in range(other_users if split == "others" else test_users):
            if split == "others":
                yield _world_user(grammar, split, index, seed, (4, 12), 4)
            else:
                yield _world_user(grammar, split, index, seed, history, queries)


def world_texts(task: Task, rng: random.Random, items: int) -> User:
    """A passing user of the pretraining audience: `items` history items and one query.

    Preferences are drawn anew for every call and the user is never seen again, so a base that reads these
    texts learns what headlines and tags look like, and nobody's preferences.
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
