"""Figure 3: users of different activity, by the length of their history."""

import dataclasses
import functools
import itertools
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np
from oppu_core.data.dataset import Dataset
from oppu_core.data.types import User
from oppu_core.errors import ConfigError, DataError

from oppu_eval.scoring.evaluate import same_prompt
from oppu_eval.scoring.metrics import Metric, metrics_for
from oppu_eval.scoring.significance import combined, generator, rank_correlation
from oppu_eval.studies.context import Done, StudyContext, Work
from oppu_eval.studies.picture import READING, draw_settings
from oppu_eval.studies.result import Picture, Result, Table
from oppu_eval.studies.scoring import Scored
from oppu_eval.studies.settings import (
    Cells,
    each,
    named,
    setting_columns,
    setting_panel,
    setting_rows,
    sure,
    told,
)
from oppu_eval.studies.study import FOUR, Plain

Range = tuple[int, int]  # items, both ends included


@dataclasses.dataclass(frozen=True)
class Activity(Plain):
    """Scores by length of history.

    Attributes:
        ranges: Ranges of items, both ends included; empty takes quantiles of the data.
        groups: The number of quantile ranges.
        per_range: The most users per range, drawn at random.
    """

    ranges: tuple[Range, ...] = ()
    groups: int = 4
    per_range: int = 20

    name: ClassVar[str] = "activity"
    title: ClassVar[str] = "Active and less active users"
    question: ClassVar[str] = "How long must a history be for an adapter to help?"
    paper: ClassVar[str] = (
        "Paper, Figure 3: adapters help at every level of activity, and with retrieval the more the longer "
        "the history. It prints no numbers."
    )

    def works(self, context: StudyContext) -> Sequence[Work]:
        """One run of the chosen users."""
        chosen = {task: self._chosen(context, task) for task in context.tasks}
        if all(len(_ids(chosen[task])) == len(context.users(task)) for task in context.tasks):
            return [context.work("four", FOUR)]
        data = {}
        for task, by_range in chosen.items():
            dataset, kept = context.dataset(task), set(_ids(by_range))
            users = functools.partial(_only, dataset, kept)
            data[task] = context.derive(
                f"{task}-active", dataset, {"users": sorted(kept)}, dataset.task, users
            )
        return [context.work("four", FOUR, data)]

    def conclude(self, context: StudyContext, done: Mapping[str, Done]) -> Result:
        """Scores by range, and whether the adapter's gain grows with the history."""
        seed = context.config.seed
        rows, findings, panels = [], [], []
        for task in context.tasks:
            about = context.dataset(task).task
            chosen = self._chosen(context, task)
            lengths = {u.user_id: len(u.training_history) for users in chosen.values() for u in users}
            names = {one: _name(one, chosen[one]) for one in chosen}
            for number, metric in enumerate(metrics_for(about)):
                scored = {method: done["four"].score(task, method, metric) for method in FOUR}
                cells = {
                    (names[one], method): part
                    for one, users in chosen.items()
                    for method, whole in scored.items()
                    if whole and (part := whole.of({user.user_id for user in users}, names[one])).by_user
                }
                new = setting_rows(task, cells, seed, shown=not number)
                rows += new
                if number:
                    continue
                pairs = [(prompt, method) for method in FOUR if (prompt := same_prompt(method))]
                for plain, personal in pairs:
                    whole = scored[plain], scored[personal]
                    ends = [names[one] for one in (min(chosen), max(chosen))]
                    pair = (plain, personal)
                    findings.append(_finding(task, metric, cells, whole, pair, ends, lengths, seed))
                series = each(FOUR, list(names.values()))
                panels.append(setting_panel(about, metric, new, _labels(chosen, names), series))
        picture = Picture(
            "activity",
            "Score by length of history",
            f"Users with few items on the left, with many on the right. {READING}",
            draw_settings(panels, "items in the user’s history (users)"),
        )
        notes = [
            "Test users only: the others have trained the task base. Ranges hold different users, whose "
            "queries may differ in difficulty; compare methods within a range."
        ]
        return Result(findings, Table(setting_columns("items"), rows), [picture], notes)

    def _chosen(self, context: StudyContext, task: str) -> dict[Range, list[User]]:
        """The users of each range; refuses given ranges without users, and too few users for quantiles."""
        users = [user for user in context.users(task) if user.training_history and user.queries]
        lengths = [len(user.training_history) for user in users]
        if not users:
            raise DataError(f"Nobody in the test users of {task} has both a history and queries.")
        ranges = self.ranges or quantile_ranges(lengths, self.groups)
        chosen = {}
        for low, high in ranges:
            within = [user for user in users if low <= len(user.training_history) <= high]
            if not within:
                raise DataError(
                    f"No test user of {task} has {low} to {high} items; they have {min(lengths)} to "
                    f"{max(lengths)}. Give other --ranges."
                )
            if len(within) > self.per_range:
                rng = random.Random(f"activity/{context.config.seed}/{task}/{low}-{high}")
                kept = set(rng.sample([user.user_id for user in within], self.per_range))
                within = [user for user in within if user.user_id in kept]
            chosen[low, high] = within
        return chosen


def quantile_ranges(lengths: Sequence[int], groups: int) -> list[Range]:
    """Ranges with about equally many users; fewer ranges if many users have the same length."""
    cuts = np.quantile(lengths, np.linspace(0, 1, groups + 1)[1:-1]).tolist()
    starts = sorted({min(lengths), *(int(np.floor(cut)) + 1 for cut in cuts if cut < max(lengths))})
    ranges = zip(starts, [*(start - 1 for start in starts[1:]), max(lengths)], strict=True)
    return [(low, high) for low, high in ranges if any(low <= length <= high for length in lengths)]


def read_ranges(text: str) -> tuple[Range, ...]:
    """Parse ranges such as ``1-10,11-30``.

    Raises:
        ConfigError: they cannot be parsed, or overlap.
    """
    try:
        ranges = []
        for part in text.split(","):
            low, high = map(int, part.split("-"))
            ranges.append((low, high))
    except ValueError as error:
        raise ConfigError(f"--ranges {text!r} is not understood; write e.g. 1-10,11-30,31-100.") from error
    ends = [end for one in ranges for end in one]
    if ends != sorted(ends) or ends[0] < 1 or any(a[1] >= b[0] for a, b in itertools.pairwise(ranges)):
        raise ConfigError(f"--ranges {text!r}: ranges ascend, begin at 1 or later, and do not overlap.")
    return tuple(ranges)


def _only(dataset: Dataset, kept: Collection[str]) -> Iterator[User]:
    """All others, and only these test users."""
    yield from dataset.users("others")
    yield from (user for user in dataset.users("test") if user.user_id in kept)


def _labels(chosen: Mapping[Range, Sequence[User]], names: Mapping[Range, str]) -> dict[str, str]:
    return {names[one]: f"{names[one]}\n({len(users)})" for one, users in chosen.items()}


def _ids(chosen: Mapping[Range, Sequence[User]]) -> list[str]:
    return [user.user_id for users in chosen.values() for user in users]


def _name(one: Range, users: Sequence[User]) -> str:
    """A range's name, by the lengths that occur in it."""
    lengths = [len(user.training_history) for user in users]
    low, high = min(lengths), max(lengths)
    return str(low) if low == high else f"{low}–{high}"


def _finding(
    task: str,
    metric: Metric,
    cells: Cells,
    whole: tuple[Scored | None, Scored | None],
    pair: tuple[str, str],
    ends: Sequence[str],
    lengths: Mapping[str, int],
    seed: int,
) -> str:
    """The adapter's gain in the first and the last range, and whether it depends on the length."""
    plain, personal = pair
    four = [cells.get((end, method)) for end in ends for method in pair]
    if any(one is None for one in (*four, *whole)) or len(set(ends)) < 2:
        return f"{task}: too few users or adapters to say how {personal} depends on activity."
    short_plain, short, long_plain, long = (one for one in four if one)
    terms = []
    for factor, personal_scored, plain_scored, people in (
        (1.0, long, long_plain, "long"), (-1.0, short, short_plain, "short")
    ):  # fmt: skip
        users = sorted(set(personal_scored.by_user) & set(plain_scored.by_user))
        terms += [(factor, personal_scored.sums(users), people), (-factor, plain_scored.sums(users), people)]
    change, interval = combined(metric, terms, generator(seed, task, metric.name, personal, "activity"))
    gains = [metric.sign * (short.value - short_plain.value), metric.sign * (long.value - long_plain.value)]
    before, after = (one for one in whole if one)
    users = sorted(set(before.by_user) & set(after.by_user))
    own = metric.value(after.sums(users)) - metric.value(before.sums(users))
    rng = generator(seed, task, metric.name, personal, "activity ranks")
    rho, p = rank_correlation([lengths[u] for u in users], list(metric.sign * own), rng)
    return (
        f"{task}, {named(metric)}: {personal} adds {told(gains[0], None)} to {plain} with {ends[0]} items "
        f"and {told(gains[1], None)} with {ends[1]}: a change of {told(change, interval)}; {sure(interval)}. "
        "Over all users the gain and the length of the history correlate with "
        f"ρ = {told(rho, None)} (p = {p:.3f})."
    )
