"""Figure 8 and Appendix B: how training time grows with the items of a history and with their words."""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from oppu_core.runs.options import Compute
from oppu_core.runs.progress import ProgressReporter
from oppu_core.runs.variants import variants_of
from oppu_core.storage.files import append_jsonl, content_id, read_appended
from oppu_core.storage.store import Store
from rich.console import Console

from oppu_eval.studies.context import Done, StudyContext, Work
from oppu_eval.studies.cost_lines import result
from oppu_eval.studies.result import Result
from oppu_eval.studies.study import Plain
from oppu_eval.studies.training_times import ITEMS, SIZES, WORDS, Point, data_words, measure

if TYPE_CHECKING:
    from oppu_core.runs.jobs import VariantJobs

_TOKENS_A_WORD, _INSTRUCTION = 1.6, 90  # roughly, for the expected time


@dataclasses.dataclass(frozen=True)
class Cost(Plain):
    """Measured trainings of one user.

    Attributes:
        repeats: Trainings of each size.
    """

    repeats: int = 3

    name: ClassVar[str] = "cost"
    title: ClassVar[str] = "What a training costs"
    question: ClassVar[str] = "How does the time of one user's training grow with the history?"
    paper: ClassVar[str] = (
        "Paper, Figure 8: time grows linearly with the number of items, and about linearly with the words of "
        "an item. It prints no numbers."
    )

    def works(self, context: StudyContext) -> Sequence[Work]:
        """The task bases; the trainings are measured separately."""
        return [context.work("bases", ("oppu_k0",), jobs=("bases",))]

    def own_tokens(self, context: StudyContext, done: Mapping[str, Done]) -> float:
        """The tokens of what is not measured yet: all sizes of a task, per repeat and once to warm up."""
        words = sum(size * WORDS for size in SIZES) + sum(ITEMS * size for size in SIZES)
        items = sum(SIZES) + ITEMS * len(SIZES)
        total = words * _TOKENS_A_WORD + items * _INSTRUCTION
        tokens = 0.0
        for task in context.tasks:
            measured = len(self._points(context, done["bases"], task))
            left = max(0.0, 1 - measured / (2 * len(SIZES) * self.repeats))
            tokens += total * left * (self.repeats + 0.3) * context.config.personal[task].epochs
        return tokens

    def conclude(self, context: StudyContext, done: Mapping[str, Done]) -> Result:
        """Measure what has not been measured yet; medians and lines."""
        from oppu_core.runs.jobs import VariantJobs

        one = done["bases"]
        points: list[Point] = []
        reporter = ProgressReporter(Console(stderr=True), one.run.log_path)
        with contextlib.closing(Store(one.run.store_path)) as store:
            for variant in variants_of(one.run):
                jobs = VariantJobs(variant, store, Compute(device=context.device), reporter)
                points += self._measured(context, one, jobs, reporter)
        return result(points)

    def _measured(
        self, context: StudyContext, one: Done, jobs: "VariantJobs", reporter: ProgressReporter
    ) -> list[Point]:
        variant, task = jobs.variant, jobs.variant.task.name
        points = self._points(context, one, task)
        total = 2 * len(SIZES) * self.repeats
        if len(points) >= total:
            return points
        base, builder = jobs.task_base()
        words = data_words(variant.users)
        with reporter.stage(f"{task} trainings timed", total, "trainings") as stage:
            stage.advance(len(points))
            for point in measure(
                base,
                builder,
                variant.personal_config,
                words,
                sizes=SIZES,
                repeats=self.repeats,
                done=tuple(points),
            ):
                append_jsonl(self._file(context, one, task), [point.to_json()])
                points.append(point)
                stage.advance()
        return points

    def _file(self, context: StudyContext, one: Done, task: str) -> Path:
        """The file of the times for one base, training, dataset and device."""
        provenance = {name: one.run.provenance[name] for name in ("base", "data", "versions")}
        training = dataclasses.asdict(one.run.config.personal[task])
        name = content_id([task, provenance, training, context.device, context.config.users])[:12]
        return context.folder / self.name / f"times-{task}-{name}.jsonl"

    def _points(self, context: StudyContext, one: Done, task: str) -> list[Point]:
        return [Point.from_json(values) for values in read_appended(self._file(context, one, task))]
