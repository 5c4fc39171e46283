"""Scoring users' answers for the rows and comparisons of studies.

The numbers are those of ``oppu evaluate`` (same statistics, same resampling, same generators); a study may
also take a subset of the users, or compare two settings.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from oppu_core.data.types import User
from oppu_core.runs.predictions import QueryId
from oppu_core.tasks.task import Task

from oppu_eval.scoring.evaluate import queries_with_gold, query_statistics
from oppu_eval.scoring.metrics import Array, Metric, total
from oppu_eval.scoring.significance import RESAMPLES, Comparison, bootstrap, generator, paired
from oppu_eval.studies.result import Column


@dataclasses.dataclass(frozen=True)
class Scored:
    """One method's answers under one metric.

    Attributes:
        metric: The metric.
        by_user: Each user's statistics, query by query [Q, S].
        names: The names of the random generators: task, method, metric, and the setting if there are several.
    """

    metric: Metric
    by_user: Mapping[str, Array]
    names: tuple[str, ...]

    @property
    def value(self) -> float:
        """The metric over all queries."""
        return float(self.metric.value(total(np.concatenate(list(self.by_user.values())))))

    @property
    def queries(self) -> int:
        """The number of scored queries."""
        return sum(map(len, self.by_user.values()))

    def of(self, users: Collection[str], *names: str) -> "Scored":
        """The same for a subset of the users."""
        kept = {user_id: rows for user_id, rows in self.by_user.items() if user_id in users}
        return Scored(self.metric, kept, (*self.names, *names))

    def sums(self, users: Sequence[str]) -> Array:
        """The users' summed statistics [U, S]."""
        return np.stack([total(self.by_user[user_id]) for user_id in users])

    def row(self, seed: int, resamples: int = RESAMPLES) -> dict[str, Any]:
        """The value, its interval over users, and the numbers of users and queries."""
        users = list(self.by_user)
        rng = generator(seed, *self.names)
        return {
            "metric": self.metric.name,
            "value": self.value,
            "ci95": bootstrap(self.metric, self.sums(users), rng, resamples),
            "users": len(users),
            "queries": self.queries,
        }

    def against(self, baseline: "Scored", seed: int, resamples: int = RESAMPLES) -> Comparison | None:
        """The paired comparison with a baseline on their common users; None without any."""
        common = [user_id for user_id in self.by_user if user_id in baseline.by_user]
        if not common:
            return None
        told_apart = [name for name in baseline.names if name not in self.names]
        rng = generator(seed, *self.names, *told_apart)
        return paired(self.metric, self.sums(common), baseline.sums(common), rng, resamples)


def score(
    metric: Metric,
    task: Task,
    users: Sequence[User],
    answers: Mapping[QueryId, str],
    names: tuple[str, ...],
    owner: Mapping[str, str] | None = None,
) -> Scored | None:
    """Score a method's answers; users without all answers are left out. None if that leaves nobody.

    Args:
        metric: The metric.
        task: The task that was answered.
        users: The test users.
        answers: {(user id, query id): answer}.
        names: See :class:`Scored`.
        owner: Maps a user's id to the person's, if several users of the data are one person: the statistics
            count the person as one user with all these queries.
    """
    scored = queries_with_gold(task, users)
    persons = {user_id: (owner or {}).get(user_id, user_id) for user_id in scored}
    incomplete = {
        persons[user_id]
        for user_id, queries in scored.items()
        if any((user_id, query.id) not in answers for query in queries)
    }
    by_user: dict[str, Array] = {}
    for user_id, person in persons.items():
        if person not in incomplete:
            rows_QS = query_statistics(metric, user_id, scored, answers)
            known = by_user.get(person)
            by_user[person] = rows_QS if known is None else np.concatenate([known, rows_QS])
    return Scored(metric, by_user, names) if by_user else None


def difference(comparison: Comparison | None, name: str = "delta") -> dict[str, Any]:
    """A comparison as fields of a row; see :func:`difference_columns`."""
    return {
        name: comparison.delta if comparison else None,
        f"{name}_ci95": comparison.ci95 if comparison else None,
        f"{name}_p": comparison.p_value if comparison else None,
        f"{name}_users": [comparison.better, comparison.equal, comparison.worse] if comparison else None,
    }


def difference_columns(title: str, name: str = "delta") -> list[Column]:
    """The columns of a comparison; positive is better."""
    return [
        Column(name, title, "signed"),
        Column(f"{name}_ci95", "95 % interval", "signed_interval"),
        Column(f"{name}_p", "p", "p"),
        Column(f"{name}_users", "users better, equal, worse", shown=False),
    ]


VALUE_COLUMNS = (
    Column("metric", "metric", shown=False),
    Column("value", "score", "score"),
    Column("ci95", "95 % interval", "interval"),
)
COUNT_COLUMNS = (Column("users", "users", "count"), Column("queries", "queries", "count", shown=False))
