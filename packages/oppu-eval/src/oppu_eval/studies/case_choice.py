"""Choosing queries as cases to read (Figure 5).

Cases are chosen for their differences, so they say nothing about how often an adapter helps; therefore counts
over all queries always go with them.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from oppu_core.data.types import Query, User
from oppu_core.storage.files import content_id
from oppu_core.tasks.task import Task

from oppu_eval.scoring.evaluate import Predictions, method_order, queries_with_gold, same_prompt
from oppu_eval.scoring.metrics import metrics_for


@dataclasses.dataclass(frozen=True)
class Pair:
    """In how many of all queries a personal method was better, equal and worse than its prompt alone."""

    method: str
    baseline: str
    better: int
    equal: int
    worse: int


@dataclasses.dataclass(frozen=True)
class Counts:
    """Counts over all queries of a task, not only the chosen ones.

    Attributes:
        title: The task's title.
        metric: The metric's title.
        queries: Queries with a gold answer.
        users: Users who asked them.
        alike: Queries on which all methods have the same score.
        pairs: One for each personal method whose prompt was also answered without the adapter.
    """

    title: str
    metric: str
    queries: int
    users: int
    alike: int
    pairs: tuple[Pair, ...]


@dataclasses.dataclass(frozen=True)
class Chosen:
    """A query and every method's score on it.

    Attributes:
        user: The user who asked.
        query: The query; it has a gold answer.
        scores: {method: primary metric on this query alone}, in the order of the paper's Table 1.
        gains: {(personal method, same prompt without adapter): difference, positive is better}.
        spread: The difference between the best and the worst score.
    """

    user: User
    query: Query
    scores: Mapping[str, float]
    gains: Mapping[tuple[str, str], float]
    spread: float

    @property
    def pair(self) -> tuple[str, str] | None:
        """The pair with the largest absolute gain; the first among equals, None without pairs."""
        return max(self.gains, key=lambda pair: abs(self.gains[pair]), default=None)

    @property
    def gain(self) -> float:
        """That pair's gain; 0 without pairs."""
        return self.gains[self.pair] if self.pair else 0.0


def choose(
    task: Task, users: Sequence[User], predictions: Predictions, *, cases: int = 8
) -> tuple[list[Chosen], Counts]:
    """Choose the queries on which the methods differ most, and count over all queries.

    Queries are ranked by the absolute gain of the adapter, then by the spread over all methods, then by a
    hash, so that the choice among equals is arbitrary but repeatable. In half of the cases the adapter
    helps, in half it harms, as far as there are any; no user is shown twice while there are others for whom
    it does either. Queries on which methods differ for other reasons come last.

    Args:
        task: The task that was answered.
        users: The users whose queries to choose from.
        predictions: {method: {(user id, query id): answer}}; users whom a method lacks count for the others.
        cases: The most cases; queries on which all methods score the same are never chosen.

    Returns:
        The cases where adapters help, then where they harm, then where other things matter; and the counts.

    Raises:
        DataError: the queries cannot be scored, see :func:`oppu_eval.scoring.evaluate.queries_with_gold`.
    """
    metric = metrics_for(task)[0]
    methods = sorted(predictions, key=method_order)
    pairs = [(method, base) for method in methods if (base := same_prompt(method)) in methods and base]
    scored = queries_with_gold(task, users)
    everything = []
    for user in users:
        for query in scored.get(user.user_id, ()):
            key = user.user_id, query.id
            scores = {
                method: metric.score([predictions[method][key]], [query.gold or ""])
                for method in methods
                if key in predictions[method]
            }
            # Rounded, so that sums in another order do not differ; + 0.0 turns -0.0 into 0.0.
            gains = {
                (method, base): round(metric.sign * (scores[method] - scores[base]), 9) + 0.0
                for method, base in pairs
                if method in scores and base in scores
            }
            spread = round(max(scores.values()) - min(scores.values()), 9) if scores else 0.0
            everything.append(Chosen(user, query, scores, gains, spread))
    counts = Counts(
        title=task.title,
        metric=metric.title,
        queries=len(everything),
        users=len(scored),
        alike=sum(one.spread == 0 for one in everything),
        pairs=tuple(
            _pair(pair, [one.gains[pair] for one in everything if pair in one.gains]) for pair in pairs
        ),
    )
    return _pick([one for one in everything if one.spread], cases), counts


def _pair(pair: tuple[str, str], gains: Sequence[float]) -> Pair:
    better, worse = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
    return Pair(*pair, better, len(gains) - better - worse, worse)


def _pick(candidates: Sequence[Chosen], cases: int) -> list[Chosen]:
    """Choose case by case: users without a case first, then the side that lacks its half, then by rank."""
    ranked = sorted(
        candidates,
        key=lambda one: (-abs(one.gain), -one.spread, content_id([one.user.user_id, one.query.id])),
    )
    # The side with fewer users chooses first, or the other one might take its users.
    users_of_sides = {(one.user.user_id, one.gain > 0) for one in ranked if one.gain}
    supply = collections.Counter(helps for _, helps in users_of_sides)
    of_user: collections.Counter[str] = collections.Counter()
    of_side: collections.Counter[bool] = collections.Counter()
    picked: list[Chosen] = []

    def order(one: Chosen) -> tuple[Any, ...]:
        helps = one.gain > 0
        return one.gain == 0, of_user[one.user.user_id], 2 * of_side[helps] >= cases, supply[helps]

    while ranked and len(picked) < cases:
        best = ranked.pop(min(range(len(ranked)), key=lambda index: order(ranked[index])))
        of_user[best.user.user_id] += 1
        of_side[best.gain > 0] += 1
        picked.append(best)
    return sorted(picked, key=lambda one: (one.gain <= 0, one.gain == 0, -abs(one.gain)))
