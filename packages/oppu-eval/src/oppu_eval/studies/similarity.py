"""Figure 7 and Appendix F: how similar users' adapters are, and whether that reflects similar habits."""

import contextlib
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from oppu_core.data.dataset import Dataset
from oppu_core.data.sample import planted_likeness
from oppu_core.data.types import User
from oppu_core.errors import ConfigError, DataError
from oppu_core.prompting.methods import parse_method
from oppu_core.runs.variants import find_variant
from oppu_core.storage.store import Store

from oppu_eval.reporting.paper import paper_cosine_range
from oppu_eval.scoring.metrics import Array
from oppu_eval.scoring.significance import generator
from oppu_eval.studies.adapter_cosines import (
    State,
    average,
    cluster_order,
    habit_likeness,
    mantel,
    tensor_cosines,
    update_cosines,
    user_interval,
)
from oppu_eval.studies.context import Done, StudyContext, Work, sample_seed
from oppu_eval.studies.result import Column, Picture, Result, Table
from oppu_eval.studies.similarity_picture import Group, draw
from oppu_eval.studies.study import Plain

_FEWEST = 6  # users for a correlation over pairs; the three pairs of three users say nothing
PAPER, UPDATE = "A and B (paper)", "update BA"


@dataclasses.dataclass(frozen=True)
class Similarity(Plain):
    """Cosines between users' adapters.

    Attributes:
        method: The method whose adapters to compare.
    """

    method: str = "oppu_k0"

    name: ClassVar[str] = "similarity"
    title: ClassVar[str] = "How alike adapters are"
    question: ClassVar[str] = "Are users' adapters alike, and do alike adapters mean alike habits?"
    paper: ClassVar[str] = (
        "Paper, Figure 7 and Appendix F: the cosine of each tensor, averaged over tensors, lies mostly "
        "between 0.4 and 0.7, and varies more in classification. It looks at A and B alone."
    )

    def __post_init__(self) -> None:
        """Refuse a method without adapters."""
        if not parse_method(self.method).personal:
            raise ConfigError(f"--method {self.method} has no adapter of each user; choose one like oppu_k0.")

    def works(self, context: StudyContext) -> Sequence[Work]:
        """The adapters; nothing is answered."""
        return [context.work("adapters", (self.method,), jobs=("bases", "personal"))]

    def conclude(self, context: StudyContext, done: Mapping[str, Done]) -> Result:
        """Cosines by task and kind of tensor, and their relation to habits."""
        rows: list[dict[str, Any]] = []
        findings, groups, details, measured = [], [], {}, {}
        for task in context.tasks:
            dataset = context.dataset(task)
            users, states = self._adapters(done["adapters"], task)
            kinds = cosines_by_kind(states)
            likeness, measured[task] = habit_likeness(dataset.task, users)
            planted = _planted(dataset, users)
            new = [
                _row(context.config.seed, task, kind, values, likeness, planted)
                for kind, values in kinds.items()
            ]
            rows += new
            shown = UPDATE if UPDATE in kinds else next(iter(kinds))
            order, _ = cluster_order(kinds[shown])
            pairs = np.triu_indices(len(users), 1)
            groups.append(
                Group(
                    f"{dataset.task.title}: {shown}, {len(users)} users",
                    kinds[shown],
                    order,
                    {kind: values[pairs] for kind, values in kinds.items()},
                )
            )
            findings.append(_finding(task, new))
            details[task] = {
                "users": [user.user_id for user in users],
                "order": order,
                "cosines": {kind: _plain(values) for kind, values in kinds.items()},
                "measured likeness": _plain(likeness),
                "planted likeness": None if planted is None else _plain(planted),
            }
        columns = [
            Column("task", "task"),
            Column("kind", "cosine of"),
            Column("mean", "mean", "score"),
            Column("ci95", "95 % interval", "interval"),
            Column("spread", "middle 80 %\nof pairs", "interval"),
            Column("habits", "r with\nmeasured habits", "signed"),
            Column("habits_p", "p", "p"),
            Column("planted", "r with\nplanted habits", "signed"),
            Column("planted_p", "p", "p"),
            Column("users", "users", "count"),
            Column("paper", "paper: mostly", "interval"),
        ]
        picture = Picture(
            "similarity",
            "Cosines between users’ adapters: a clustered heat map and distributions",
            "Left, every two users, alike ones side by side. Right, all pairs by what is compared, with "
            "median and quartiles; the shaded range is the paper’s, which holds for A and B together.",
            draw(groups),
        )
        notes = [
            "A and B alone are not identifiable: (B M, M⁻¹ A) is the same update. All users start from the "
            "same random A, which makes A alike whatever they learn; the update BA has neither fault.",
            "r: Mantel’s correlation over pairs of users, p by permuting users. "
            + " ".join(f"Measured habits in {task}: {what}." for task, what in measured.items()),
        ]
        return Result(findings, Table(columns, rows), [picture], notes, details)

    def _adapters(self, done: Done, task: str) -> tuple[list[User], list[State]]:
        """The users who have an adapter (at least three, else a DataError), and their tensors."""
        with contextlib.closing(Store(done.run.store_path)) as store:
            variant = find_variant(done.run, task, parse_method(self.method).variant, personal=True)
            users = [user for user in variant.users if store.has(variant.key_of(user))]
            states: list[State] = [store.load(variant.key_of(user)) for user in users]
        if len(users) < 3:
            raise DataError(f"{len(users)} users have an adapter for {task}; likeness needs three or more.")
        return users, states


def cosines_by_kind(states: Sequence[State]) -> dict[str, Array]:
    """{what is compared: cosines [U, U]}: the paper's mean over tensors first; of LoRA A, B and BA too."""
    tensors = tensor_cosines(states)
    updates = update_cosines(states)
    if not updates:
        return {"all tensors (paper)": average(tensors)}
    return {
        PAPER: average(tensors),
        "A": average(tensors, "lora_A"),
        "B": average(tensors, "lora_B"),
        UPDATE: average(updates),
    }


def _planted(dataset: Dataset, users: Sequence[User]) -> Array | None:
    """How similar the users' planted habits are; None if the data is not of the sample world."""
    seed = sample_seed(dataset)
    if seed is None:
        return None
    return np.array(planted_likeness(dataset.task, [user.user_id for user in users], seed))


def _row(
    seed: int, task: str, kind: str, values: Array, likeness: Array, planted: Array | None
) -> dict[str, Any]:
    """One kind of cosine: its distribution, and its correlation with habits."""
    pairs = values[np.triu_indices(len(values), 1)]
    known = pairs[~np.isnan(pairs)]
    row: dict[str, Any] = {
        "task": task,
        "kind": kind,
        "mean": _number(known.mean()) if len(known) else None,
        "ci95": _interval(user_interval(values, generator(seed, task, kind, "cosine"))),
        "spread": _interval(tuple(np.percentile(known, (10, 90)))) if len(known) else None,
        "users": len(values),
        "paper": paper_cosine_range() if "paper" in kind else None,
    }
    for name, other in (("habits", likeness), ("planted", planted)):
        row[name], row[f"{name}_p"] = None, None
        if other is not None and len(values) >= _FEWEST:
            r, p = mantel(values, other, generator(seed, task, kind, name))
            row |= {name: _number(r), f"{name}_p": p if math.isfinite(r) else None}
    return row


def _finding(task: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """The range of the paper's cosines here, and which kinds are correlated with habits."""
    first = rows[0]
    low, high = first["spread"] or (math.nan, math.nan)
    text = (
        f"{task}: the paper's cosines lie around {_two(first['mean'])} "
        f"(middle 80 %: {_two(low)} to {_two(high)})."
    )
    for name, words in (("planted", "planted"), ("habits", "measured")):
        told = [
            f"{row['kind']} r = {_two(row[name])} (p = {row[f'{name}_p']:.3f})"
            for row in rows
            if row[name] is not None
        ]
        if told:
            text += f" With {words} habits: {', '.join(told)}."
    return text


def _two(value: float) -> str:
    """Two decimals with a proper minus sign, and no minus before zero."""
    return f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _interval(values: Sequence[float]) -> tuple[float, float] | None:
    low, high = (float(value) for value in values)
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None


def _plain(matrix: Array) -> list[list[float | None]]:
    return [[None if math.isnan(value) else round(value, 6) for value in row] for row in matrix.tolist()]
