"""What scoring gives: rows of numbers and all else that tables, pictures and pages are made from.

In memory these are dataclasses; ``results.json`` is written and read here.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from oppu_core.errors import DataError
from oppu_core.storage.parsing import parse
from oppu_core.tasks.task import Kind, Task

from oppu_eval.scoring.metrics import metrics_for


@dataclasses.dataclass(frozen=True)
class ScoreRow:
    """One method under one metric, as it stands in ``results.json``.

    Differences are signed so that positive is better, also for errors. None where there is no such
    comparison; intervals are None with fewer than two users.

    Attributes:
        task: e.g. ``lamp_2m``.
        method: e.g. ``oppu_k0``, or a reference row.
        metric: e.g. ``accuracy``.
        value: The metric over the queries of all the method's users.
        ci95: Bootstrap interval over users.
        users: How many users were scored; None where a file of other origin does not say.
        queries: How many of their queries.
        delta: Difference to ``non_personalized`` on the common users, with its interval and p-value.
        delta_same_prompt: Difference to the same prompt without the personal adapter, with both.
        wins: Users better, equal and worse than under ``non_personalized``.
        reference: True for the rows that need no language model.
        higher_is_better: False for MAE and RMSE.
        other_queries: Whether a row of lm-evaluation-harness is on other queries than its table, and cannot
            be compared with it. It is never in ``results.json``, nor are such rows.
    """

    task: str
    method: str
    metric: str
    value: float
    ci95: tuple[float, float] | None
    users: int | None
    queries: int
    delta: float | None
    delta_ci95: tuple[float, float] | None
    p_value: float | None
    delta_same_prompt: float | None
    delta_same_prompt_ci95: tuple[float, float] | None
    p_value_same_prompt: float | None
    wins: Mapping[str, int] | None
    reference: bool
    higher_is_better: bool
    other_queries: bool = False


@dataclasses.dataclass(frozen=True)
class TaskResults:
    """Everything that tables and pictures of one task are made from.

    Attributes:
        task: The task's name.
        title: What a person calls it.
        kind: What is asked for.
        paper_id: The task's name in the paper.
        metrics: {metric: its title}; the primary one comes first.
        rows: Reference rows first, then methods in the order of the paper's Table 1; primary metric first.
        per_user: {method: {user id: value of the primary metric}}.
        history_lengths: {user id: items that personal training may see}.
        set_aside: {method: ids of the users for whom it has no answers}.
        warnings: What makes right answers look wrong (:mod:`oppu_core.runs.cautions`).
        notes: What else a reader has to know of the rows; never in ``results.json``.
    """

    task: str
    title: str
    kind: Kind
    paper_id: str
    metrics: Mapping[str, str]
    rows: Sequence[ScoreRow]
    per_user: Mapping[str, Mapping[str, float]]
    history_lengths: Mapping[str, int]
    set_aside: Mapping[str, Sequence[str]]
    warnings: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def primary(self) -> str:
        """The primary metric's name."""
        return next(iter(self.metrics))

    @property
    def primary_title(self) -> str:
        """What a person calls the primary metric."""
        return self.metrics[self.primary]

    @property
    def higher_is_better(self) -> bool:
        """Whether its metrics are no errors."""
        return self.rows[0].higher_is_better

    @property
    def sign(self) -> int:
        """+1 or -1: what makes a difference positive when it is an improvement."""
        return 1 if self.higher_is_better else -1

    def by_method(self) -> dict[str, dict[str, ScoreRow]]:
        """{method: {metric: row}}, in the order of the rows."""
        methods: dict[str, dict[str, ScoreRow]] = {}
        for row in self.rows:
            methods.setdefault(row.method, {})[row.metric] = row
        return methods

    def primary_rows(self) -> dict[str, ScoreRow]:
        """{method: its row under the primary metric}, in the order of the rows."""
        return {row.method: row for row in self.rows if row.metric == self.primary}

    def best_method(self) -> str | None:
        """The language-model method (no reference row) with the best value; the first among equals."""
        rows = [row for row in self.primary_rows().values() if not row.reference and not row.other_queries]
        return max(rows, key=lambda row: self.sign * row.value).method if rows else None

    def gains(self, method: str, baseline: str) -> dict[str, float]:
        """{user id: by how much `method` is better than `baseline`}, for the users who have both."""
        scores, plain = self.per_user[method], self.per_user[baseline]
        return {user: self.sign * (scores[user] - plain[user]) for user in scores if user in plain}


def about_task(task: Task) -> dict[str, Any]:
    """The attributes of :class:`TaskResults` that say what the task is."""
    return {
        "task": task.name,
        "title": task.title,
        "kind": task.kind,
        "paper_id": task.paper_id,
        "metrics": {metric.name: metric.title for metric in metrics_for(task)},
    }


@dataclasses.dataclass(frozen=True)
class Results:
    """The results of a run, or of files of lm-evaluation-harness.

    Attributes:
        tasks: By name, in the order in which they are shown.
        provenance: How the numbers came about, in JSON values.
    """

    tasks: Mapping[str, TaskResults]
    provenance: Mapping[str, Any]

    @property
    def rows(self) -> list[ScoreRow]:
        """The rows of all tasks."""
        return [row for one in self.tasks.values() for row in one.rows]

    def to_json(self) -> dict[str, Any]:
        """What is written as ``results.json``: JSON values only, no NaN, no time stamps."""
        tasks = self.tasks.items()
        values = {
            "rows": [{k: v for k, v in vars(row).items() if k != "other_queries"} for row in self.rows],
            "tasks": {
                name: {"title": one.title, "kind": one.kind, "paper_id": one.paper_id, "metrics": one.metrics}
                for name, one in tasks
            },
            "per_user": {name: one.per_user for name, one in tasks},
            "history_lengths": {name: one.history_lengths for name, one in tasks},
            "set_aside": {name: one.set_aside for name, one in tasks},
            "warnings": {name: one.warnings for name, one in tasks if one.warnings},
            "provenance": self.provenance,
        }
        return {key: _jsonable(value) for key, value in values.items()}

    @classmethod
    def from_json(cls, values: Any) -> "Results":
        """What :meth:`to_json` made, and a file gave back.

        Raises:
            DataError: a field is wrong; the message names the field, but not the file.
        """
        try:
            file = parse(_ResultsFile, values)
        except ValueError as error:
            raise DataError(str(error)) from error
        return cls({name: _task_results(file, name) for name in file.tasks}, file.provenance)


@dataclasses.dataclass(frozen=True)
class _TaskEntry:
    """What ``results.json`` says of a task itself; attributes as in :class:`TaskResults`."""

    title: str
    kind: Kind
    paper_id: str
    metrics: dict[str, str]


@dataclasses.dataclass(frozen=True)
class _ResultsFile:
    """``results.json`` as it is laid out: its keys are sorted, its rows are in order."""

    rows: list[ScoreRow]
    tasks: dict[str, _TaskEntry]
    per_user: dict[str, dict[str, dict[str, float]]]
    history_lengths: dict[str, dict[str, int]]
    set_aside: dict[str, dict[str, list[str]]]
    provenance: dict[str, Any]
    warnings: dict[str, list[str]] = dataclasses.field(default_factory=dict)


def _task_results(file: _ResultsFile, name: str) -> TaskResults:
    """What a file says of one task.

    Raises:
        DataError: something of it is missing.
    """
    about, rows = file.tasks[name], [row for row in file.rows if row.task == name]
    methods = {row.method for row in rows}
    if not rows or {(row.method, row.metric) for row in rows} != {*itertools.product(methods, about.metrics)}:
        raise DataError(f"'rows': not every method is under every metric of {name!r}")
    for field in ("per_user", "history_lengths", "set_aside"):
        if name not in getattr(file, field):
            raise DataError(f"{f'{field}.{name}'!r}: Field required")
    per_user, lengths, set_aside = file.per_user[name], file.history_lengths[name], file.set_aside[name]
    if per_user.keys() != methods or any(scores.keys() - lengths.keys() for scores in per_user.values()):
        raise DataError(f"{f'per_user.{name}'!r}: not the methods of rows, or users without a length")
    metrics = {row.metric: about.metrics[row.metric] for row in rows}
    head = (name, about.title, about.kind, about.paper_id, metrics)
    return TaskResults(*head, rows, per_user, lengths, set_aside, file.warnings.get(name, []))


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
