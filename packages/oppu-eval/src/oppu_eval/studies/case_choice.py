"""Which queries are cases to read (Figure 5).

Cases are picked for their difference, so they say nothing about how often an adapter helps; therefore the
counts over all queries always go with them.
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
    """What holds for all queries of a task, not for the chosen ones only.

    Attributes:
        title: The task's.
        metric: What a person calls the score.
        queries: With a gold answer.
        users: Who asked them.
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
    """A query and how every method fared on it.

    Attributes:
        user: Whose query.
        query: One with a gold answer.
        scores: {method: primary metric on this query alone}, in the order of the paper's Table 1.
        gains: {(personal method, the same prompt's without adapter): difference, positive is better}.
        spread: The distance between the best and the worst score.
    """

    user: User
    query: Query
    scores: Mapping[str, float]
    gains: Mapping[tuple[str, str], float]
    spread: float

    @property
    def pair(self) -> tuple[str, str] | None:
        """The pair with the largest gain in absolute value; the first among equals, None where none is."""
        return max(self.gains, key=lambda pair: abs(self.gains[pair]), default=None)

    @property
    def gain(self) -> float:
        """That pair's gain; 0 where there is no pair."""
        return self.gains[self.pair] if self.pair else 0.0


def choose(
    task: Task, users: Sequence[User], predictions: Predictions, *, cases: int = 8
) -> tuple[list[Chosen], Counts]:
    """The queries on which the methods differ most, and counts over all queries.

    Queries rank by the absolute gain of the adapter, then by the spread over all methods, then by a hash, so
    that the choice among equals is arbitrary and repeatable. Half of the cases are such that the adapter
    helps, half such that it harms, as far as there are any; nobody is shown twice while there are others
    for whom it does either. Only then come queries on which the methods differ for other reasons.

    Args:
        task: The task that was answered.
        users: Whose queries.
        predictions: {method: {(user id, query id): answer}}; users whom a method lacks count for the others.
        cases: How many, at most; queries on which all methods score the same are never chosen.

    Returns:
        The cases where adapters help, those where they harm, those where other things matter; the counts.

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
            # Rounded, because sums in another order are no difference; + 0.0, because -0.0 is none either.
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
    """Case by case: users who have none yet first, then a side that lacks its half, then the rank."""
    ranked = sorted(
        candidates,
        key=lambda one: (-abs(one.gain), -one.spread, content_id([one.user.user_id, one.query.id])),
    )
    # The side that fewer users can stand for chooses first, or the other one might take its users.
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
