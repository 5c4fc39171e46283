"""Statistics of a dataset, as in the paper's Table 2: sizes, lengths, dates and answers.

Reads every user once, as a stream, and keeps only counts. Lengths are in words (split at spaces): of the
input with its instruction, as LaMP counts them, and of the gold.
"""

import collections
import dataclasses
from collections.abc import Callable, Mapping

from oppu_core.data.dataset import Dataset
from oppu_core.data.types import SPLITS, Split, User
from oppu_core.tasks.task import Task

NO_LABEL = "(no label)"
Counts = collections.Counter[int]


@dataclasses.dataclass(frozen=True)
class Spread:
    """Four numbers that summarize whole numbers, given how often each occurs."""

    mean: float
    median: float
    min: int
    max: int

    @classmethod
    def of(cls, counts: Mapping[int, int]) -> "Spread | None":
        """The summary; None if there is nothing to summarize."""
        total = sum(counts.values())
        if not total:
            return None
        mean = sum(value * count for value, count in counts.items()) / total
        middle = (_at(counts, (total - 1) // 2) + _at(counts, total // 2)) / 2
        return cls(mean, middle, min(counts), max(counts))


def _at(counts: Mapping[int, int], place: int) -> int:
    """The value at a place of the sorted list that `counts` stands for."""
    for value in sorted(counts):
        place -= counts[value]
        if place < 0:
            return value
    raise IndexError(place)


@dataclasses.dataclass(frozen=True)
class SplitFacts:
    """Statistics of one split.

    Attributes:
        users: Number of users.
        queries: Number of queries.
        history: Items per history; None without users.
        history_lengths: {items: users}.
        words_in: Words per query with its instruction; None without queries.
        words_out: Words per gold; None without golds.
        first_date: The earliest date in a history, if any is known.
        last_date: The latest.
        gold_labels: {label: queries}, with other golds under :data:`NO_LABEL`; empty if the task has no
            labels or nothing was counted.
        history_labels: {label: history items}, likewise.
        empty: {"query.gold": share, "history.abstract": share, …} of missing or empty texts.
    """

    users: int
    queries: int
    history: Spread | None
    history_lengths: dict[int, int]
    words_in: Spread | None
    words_out: Spread | None
    first_date: str | None
    last_date: str | None
    gold_labels: dict[str, int]
    history_labels: dict[str, int]
    empty: dict[str, float]


def describe(dataset: Dataset, on_user: Callable[[], object] = lambda: None) -> dict[Split, SplitFacts]:
    """The statistics of each split.

    Raises:
        DataError: a shard is damaged.
    """
    facts = {}
    for split in SPLITS:
        tally = _Tally(dataset.task)
        for user in dataset.users(split):
            tally.add(user)
            on_user()
        facts[split] = tally.facts()
    return facts


class _Tally:
    """Counts over the users of a split."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.instruction = len(task.instruction.split())
        self.history: Counts = collections.Counter()
        self.words_in: Counts = collections.Counter()
        self.words_out: Counts = collections.Counter()
        self.golds = _Labels(task)
        self.answers = _Labels(task)
        self.empty: collections.Counter[str] = collections.Counter()
        self.first: str | None = None
        self.last: str | None = None

    def add(self, user: User) -> None:
        self.history[len(user.history)] += 1
        for query in user.queries:
            self.words_in[self.instruction + len(self.task.query_text(query.fields).split())] += 1
            self._note_empty("query", {**query.fields, "gold": query.gold or ""})
            if query.gold is not None:
                self.words_out[len(query.gold.split())] += 1
                self.golds.add(query.gold)
        for item in user.history:
            self._note_empty("history", item.fields)
            if self.task.output_field is not None:
                self.answers.add(item.fields[self.task.output_field])
            if item.date:
                self.first = min(self.first or item.date, item.date)
                self.last = max(self.last or item.date, item.date)

    def _note_empty(self, place: str, fields: Mapping[str, str]) -> None:
        self.empty.update(f"{place}.{name}" for name, text in fields.items() if not text.strip())

    def facts(self) -> SplitFacts:
        queries = self.words_in.total()
        items = sum(length * users for length, users in self.history.items())
        shares = (
            *((f"query.{name}", queries) for name in (*self.task.input_fields, "gold")),
            *((f"history.{name}", items) for name in self.task.history_fields),
        )
        return SplitFacts(
            users=self.history.total(),
            queries=queries,
            history=Spread.of(self.history),
            history_lengths=dict(sorted(self.history.items())),
            words_in=Spread.of(self.words_in),
            words_out=Spread.of(self.words_out),
            first_date=self.first,
            last_date=self.last,
            gold_labels=self.golds.counts(),
            history_labels=self.answers.counts(),
            empty={name: self.empty[name] / total for name, total in shares if total},
        )


class _Labels:
    """How often each label occurs; all other answers are counted together, so that memory stays bounded."""

    def __init__(self, task: Task) -> None:
        self.label_of = task.label_of
        self.known = dict.fromkeys(task.labels, 0)
        self.unknown = 0

    def add(self, answer: str) -> None:
        if (label := self.label_of(answer)) is not None:
            self.known[label] += 1
        else:
            self.unknown += 1

    def counts(self) -> dict[str, int]:
        """{label: count}; empty if the task has no labels, or nothing was counted."""
        if not self.known or not any((*self.known.values(), self.unknown)):
            return {}
        return self.known | ({NO_LABEL: self.unknown} if self.unknown else {})
