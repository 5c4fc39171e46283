"""Table 4: histories reduced to their inputs, or to their outputs."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from oppu_core.data.dataset import Dataset
from oppu_core.data.types import User

from oppu_eval.reporting.paper import paper_format
from oppu_eval.reporting.table import number
from oppu_eval.scoring.metrics import Metric, metrics_for
from oppu_eval.studies.context import Done, StudyContext, Work
from oppu_eval.studies.histories import Side, one_sided, one_sided_user
from oppu_eval.studies.picture import READING, draw_settings
from oppu_eval.studies.result import Picture, Result, Table
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

SIDES: tuple[Side, ...] = ("input", "output")
SETTINGS = {"input": "input only", "output": "output only", "both": "both sides"}


@dataclasses.dataclass(frozen=True)
class Format(Plain):
    """One side of the history against both."""

    name: ClassVar[str] = "format"
    title: ClassVar[str] = "Histories with one side only"
    question: ClassVar[str] = (
        "What is left when a history has only what the user read, or only what the user wrote?"
    )
    paper: ClassVar[str] = (
        "Paper, Table 4: with one side, adapters with retrieval stay close to the full history; in movie "
        "tagging adapters alone fall back. Its two one-sided rows cannot be told apart in its text; the "
        "column shows both."
    )

    def works(self, context: StudyContext) -> Sequence[Work]:
        """The four methods on the full history, and on each side of it."""
        return [
            context.work("four", FOUR),
            *(context.work(side, FOUR, self._data(context, side)) for side in SIDES),
        ]

    def _data(self, context: StudyContext, side: Side) -> dict[str, Path]:
        data = {}
        for name in _two_sided(context):
            dataset = context.dataset(name)
            task = one_sided(dataset.task, side)
            users = functools.partial(_one_sided, context, name, side)
            how = {"side": side, "test users": context.config.users}
            data[name] = context.derive(f"{name}-{side}", dataset, how, task, users)
        return data

    def conclude(self, context: StudyContext, done: Mapping[str, Done]) -> Result:
        """Scores by side, each against both sides."""
        seed = context.config.seed
        rows, findings, panels = [], [], []
        for task in _two_sided(context):
            about = context.dataset(task).task
            for place, metric in enumerate(metrics_for(about)):
                cells = {
                    (setting, method): scored
                    for setting in SETTINGS
                    for method in FOUR
                    if (scored := _run(done, setting).score(task, method, metric, *_names(setting)))
                }
                paper = functools.partial(_paper, about.paper_id)
                new = setting_rows(
                    task, cells, seed, shown=not place, reference="both", whole="both", paper=paper
                )
                rows += new
                if not place:
                    findings.append(_finding(task, metric, cells, seed))
                    series = each(FOUR[1:], list(SETTINGS))
                    panels.append(setting_panel(about, metric, new, SETTINGS, series, FOUR[0]))
        picture = Picture(
            "format",
            "Score with one side of the history and with both",
            f"The dotted line is the task base without history. {READING}",
            draw_settings(panels, "what is left of the history", joined=False),
        )
        notes = [
            "A history with one side has not the task’s format: adapters learn to continue its text, as for "
            "tweets in the paper, and retrieved items show this side alone. The others’ histories are "
            "reduced alike, so that each task base has learnt the prompts that it answers.",
            "Learning rates are those for both sides. The query alone (non_personalized) does not depend on "
            "the history.",
        ]
        left_out = [task for task in context.tasks if task not in _two_sided(context)]
        if left_out:
            notes.append(f"Left out: {', '.join(left_out)}, whose histories have no output side.")
        columns = setting_columns("history", "both\nsides", paper="text")
        return Result(findings, Table(columns, rows), [picture], notes)


def _two_sided(context: StudyContext) -> list[str]:
    """The tasks whose histories have both sides; if none has, all of them, to be refused by name."""
    both = [task for task in context.tasks if context.dataset(task).task.output_field]
    return both or context.tasks


def _one_sided(context: StudyContext, task: str, side: Side) -> Iterator[User]:
    dataset: Dataset = context.dataset(task)
    for user in dataset.users("others"):
        yield one_sided_user(dataset.task, user, side)
    for user in context.users(task):
        yield one_sided_user(dataset.task, user, side)


def _run(done: Mapping[str, Done], setting: str) -> Done:
    return done["four" if setting == "both" else setting]


def _names(setting: str) -> tuple[str, ...]:
    """The full history's numbers are those of `oppu evaluate`."""
    return () if setting == "both" else (setting,)


def _paper(paper_id: str, setting: str, method: str, metric: str) -> str | None:
    return " / ".join(map(number, paper_format(paper_id, setting, method, metric))) or None


def _finding(task: str, metric: Metric, cells: Cells, seed: int) -> str:
    """How much of each method's score is left with each side."""
    parts = []
    for side in SIDES:
        for method in FOUR[1:]:
            one, both = cells.get((side, method)), cells.get(("both", method))
            change = one.against(both, seed) if one and both else None
            if change:
                parts.append(
                    f"{method} {told(change.delta, change.ci95)} with the {side} alone ({sure(change.ci95)})"
                )
    return f"{task}, {named(metric)} against both sides: {'; '.join(parts)}."
