"""Figure 4: the number of retrieved items, with and without the personal adapter."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import ClassVar

from oppu_core.errors import ConfigError

from oppu_eval.reporting.paper import paper_value
from oppu_eval.scoring.metrics import Metric, metrics_for
from oppu_eval.scoring.significance import combined, generator
from oppu_eval.studies.context import Done, StudyContext, Work
from oppu_eval.studies.picture import draw_settings
from oppu_eval.studies.result import Picture, Result, Table
from oppu_eval.studies.settings import Cells, named, setting_columns, setting_panel, setting_rows, sure, told
from oppu_eval.studies.study import Plain


@dataclasses.dataclass(frozen=True)
class RetrievedItems(Plain):
    """Score against k.

    Attributes:
        k: Numbers of items in the prompt, ascending.
    """

    k: tuple[int, ...] = (0, 1, 2, 4)

    name: ClassVar[str] = "k"
    title: ClassVar[str] = "How many retrieved items"
    question: ClassVar[str] = "Do more retrieved items help, and is the adapter still needed beside them?"
    paper: ClassVar[str] = (
        "Paper, Figure 4: both improve with k, and the adapter's lead narrows. The figure prints no numbers; "
        "those beside ours are Table 1's."
    )

    def __post_init__(self) -> None:
        """Refuse what cannot be compared."""
        if len(set(self.k)) < 2 or list(self.k) != sorted(set(self.k)) or self.k[0] < 0:
            raise ConfigError(
                f"--k {','.join(map(str, self.k))}: give two or more numbers, ascending, from 0."
            )

    def pair(self, k: int) -> tuple[str, str]:
        """The methods with k items, without and with the adapter."""
        return (f"rag_k{k}", f"oppu_rag_k{k}") if k else ("non_personalized", "oppu_k0")

    def works(self, context: StudyContext) -> Sequence[Work]:
        """One run with two methods for each k."""
        return [context.work("k", [method for k in self.k for method in self.pair(k)])]

    def conclude(self, context: StudyContext, done: Mapping[str, Done]) -> Result:
        """Scores, gains, and whether the gain changes with k."""
        seed = context.config.seed
        rows, findings, panels = [], [], []
        for task in context.tasks:
            about = context.dataset(task).task
            for number, metric in enumerate(metrics_for(about)):
                cells = {
                    (str(k), method): scored
                    for k in self.k
                    for method in self.pair(k)
                    if (scored := done["k"].score(task, method, metric))
                }
                rows += setting_rows(
                    task, cells, seed, shown=not number,
                    paper=functools.partial(_paper, about.paper_id),
                )  # fmt: skip
                if number:
                    continue
                findings.append(self._finding(task, metric, cells, seed))
                series = {
                    label: {str(k): self.pair(k)[personal] for k in self.k}
                    for personal, label in enumerate(("no adapter", "with adapter"))
                }
                settings = {str(k): str(k) for k in self.k}
                panels.append(setting_panel(about, metric, rows[-len(cells) :], settings, series))
        picture = Picture(
            "k",
            "Score against the number of retrieved items, without and with the adapter",
            "More items in the prompt, from left to right. Filled markers have the personal adapter, open "
            "ones do not. Whiskers are 95 % intervals over users.",
            draw_settings(panels, "retrieved items in the prompt (k)"),
        )
        notes = [
            "Each k has a task base of its own, trained with prompts of k items. Texts are cut where items "
            "do not fit into the context of the base."
        ]
        return Result(findings, Table(setting_columns("k"), rows), [picture], notes)

    def _finding(self, task: str, metric: Metric, cells: Cells, seed: int) -> str:
        """Whether the adapter's gain shrinks from the fewest to the most items."""
        ends = (self.k[0], self.k[-1])
        four = [cells.get((str(k), method)) for k in ends for method in self.pair(k)]
        few_plain, few, many_plain, many = four
        if few_plain is None or few is None or many_plain is None or many is None:
            return f"{task}: adapters are missing; nothing follows about k."
        users = sorted(set.intersection(*(set(one.by_user) for one in (few_plain, few, many_plain, many))))
        terms = [
            (factor, one.sums(users), "users")
            for factor, one in ((1.0, many), (-1.0, many_plain), (-1.0, few), (1.0, few_plain))
        ]
        rng = generator(seed, task, metric.name, "change of the gain with k")
        change, interval = combined(metric, terms, rng)
        gains = [
            metric.sign * (with_adapter.value - plain.value)
            for plain, with_adapter in ((few_plain, few), (many_plain, many))
        ]
        retrieval = metric.sign * (many_plain.value - few_plain.value)
        return (
            f"{task}: from k={ends[0]} to k={ends[1]} {named(metric)} without adapters gains "
            f"{told(retrieval, None)}; the adapter adds {told(gains[0], None)} at k={ends[0]} and "
            f"{told(gains[1], None)} at k={ends[1]}: a change of {told(change, interval)}; {sure(interval)}."
        )


def _paper(paper_id: str, setting: str, method: str, metric: str) -> float | None:
    return paper_value(paper_id, method, metric)
