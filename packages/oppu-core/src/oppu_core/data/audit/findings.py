"""The findings of an audit: the cases of each kind, counted, with the first few as examples."""

import collections
import dataclasses
from collections.abc import Mapping

from oppu_core.data.audit.kinds import KINDS, Severity
from oppu_core.data.schema import shown
from oppu_core.data.types import HistoryItem, Query, User


@dataclasses.dataclass(frozen=True)
class Occurrence:
    """One case: its user, its item or query, and an excerpt on one line."""

    user_id: str
    id: str
    text: str


@dataclasses.dataclass(frozen=True)
class Finding:
    """All cases of one kind.

    Attributes:
        name: A key of :data:`KINDS`.
        severity: An `error` makes results wrong, a `warning` may; `info` is good to know.
        meaning: One sentence.
        advice: What to do.
        count: Number of cases.
        total: Number of things checked, in `unit`; None if unknown.
        unit: What is counted.
        users: Number of users with a case.
        examples: The first few.
    """

    name: str
    severity: Severity
    meaning: str
    advice: str
    count: int
    total: int | None
    unit: str
    users: int
    examples: tuple[Occurrence, ...]


class Cases:
    """Collects counts and first examples of every kind, user by user."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.counts: collections.Counter[str] = collections.Counter()
        self.users: collections.Counter[str] = collections.Counter()
        self.last: dict[str, str] = {}
        self.examples: dict[str, list[Occurrence]] = collections.defaultdict(list)

    def add(self, kind: str, user: User, place: HistoryItem | Query | None = None, text: str = "") -> None:
        self.counts[kind] += 1
        if self.last.get(kind) != user.user_id:
            self.last[kind] = user.user_id
            self.users[kind] += 1
        self.example(kind, Occurrence(user.user_id, place.id if place else "", shown(text) if text else ""))

    def example(self, kind: str, example: Occurrence) -> None:
        if len(self.examples[kind]) < self.most:
            self.examples[kind].append(example)

    def findings(self, totals: Mapping[str, int]) -> list[Finding]:
        return [
            Finding(
                name,
                kind.severity,
                kind.meaning,
                kind.advice,
                self.counts[name],
                totals.get(kind.unit),
                kind.unit,
                self.users[name],
                tuple(self.examples[name]),
            )
            for name, kind in KINDS.items()
            if self.counts[name]
        ]
