"""A run's jobs: task bases, personal adapters, answers; whatever is missing, and nothing twice."""

import contextlib
from collections.abc import Sequence

from rich.markup import escape

from oppu_core.modeling.base import base_tokenizer
from oppu_core.runs.cautions import scoring_warnings, tokenizer_warnings, version_warnings
from oppu_core.runs.progress import ProgressReporter
from oppu_core.runs.run import Run, versions
from oppu_core.runs.variants import Job, VariantWork, variant_works
from oppu_core.storage.files import write_jsonl
from oppu_core.storage.store import Store

JOBS: tuple[Job, ...] = ("bases", "personal", "answers")


def execute(
    run: Run,
    reporter: ProgressReporter,
    jobs: Sequence[Job],
    device: str = "auto",
    batch_size: int = 64,
    cohort: int | None = None,
) -> None:
    """Do what is missing of a run's jobs.

    Args:
        run: The run.
        reporter: Told of everything.
        jobs: Which of task bases, personal adapters and answers.
        device: Where to compute.
        batch_size: Prompts at a time when answering.
        cohort: Users to train at once; None decides by memory.

    Raises:
        OppuError: see :meth:`VariantWork.do`.
    """
    store = Store(run.store_path)
    with contextlib.closing(store):
        for warning in version_warnings(run.provenance.get("versions", {}), versions()):
            reporter.console.print(f"[yellow]{escape(warning)}[/]", highlight=False, soft_wrap=True)
            reporter.event("warning", text=warning)
        warned: set[str] = set()
        for work in variant_works(run, store, reporter, device, batch_size, cohort):
            task = work.dataset.task.name
            if task not in warned:
                warned.add(task)
                _warn(work, reporter)
            work.do(jobs)
            if "answers" in jobs and not run.profiles_path(task).exists():
                rows = [
                    {"task": task, "user_id": user.user_id, "profile": work.profiles(user)}
                    for user in work.users
                ]
                write_jsonl(run.profiles_path(task), rows)


def _warn(work: VariantWork, reporter: ProgressReporter) -> None:
    """Say beforehand what no training can mend."""
    task = work.dataset.task
    warnings = scoring_warnings(task, work.users)
    if task.labels:
        warnings += tokenizer_warnings(task, base_tokenizer(work.run.config.model))
    for warning in warnings:
        reporter.console.print(f"[yellow]{task.name}: {escape(warning)}[/]", highlight=False, soft_wrap=True)
        reporter.event("warning", task=task.name, text=warning)
