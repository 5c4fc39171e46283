"""Doing a run's jobs for all its variants."""

import contextlib
from collections.abc import Iterator, Sequence

from rich.console import Console

from oppu_core.modeling.base_files import base_tokenizer
from oppu_core.modeling.tokenizer import Tokenizer
from oppu_core.runs.cautions import scoring_warnings, tokenizer_warnings, version_warnings
from oppu_core.runs.jobs import VariantJobs
from oppu_core.runs.options import JOBS, Cluster, Compute, Job
from oppu_core.runs.progress import ProgressReporter, quiet
from oppu_core.runs.ray_cluster import RayCluster
from oppu_core.runs.run import Run
from oppu_core.runs.start import versions
from oppu_core.runs.tracking import ReportTo, reporting
from oppu_core.runs.variants import Variant, variants_of
from oppu_core.storage.files import write_jsonl
from oppu_core.storage.store import Store


def execute(
    run: Run,
    jobs: Sequence[Job] = JOBS,
    compute: Compute | None = None,
    reporter: ProgressReporter | None = None,
    cluster: Cluster | None = None,
) -> None:
    """Do whatever is missing of a run's jobs.

    Args:
        run: The run.
        jobs: Some of task bases, personal adapters and answers.
        compute: Device and batch sizes.
        reporter: Shows progress and logs events; by default nothing is shown.
        cluster: Where personal adapters are trained; by default in this process.

    Raises:
        OppuError: see :meth:`VariantJobs.do`.
    """
    reporter = reporter or quiet()
    with contextlib.closing(Store(run.store_path)) as store, _connected(cluster, reporter) as elsewhere:
        tokenizer = base_tokenizer(run.config.model, run.config.prompt_format)
        warnings = version_warnings(run.provenance.get("versions", {}), versions())
        if run.config.prompt_format == "plain" and tokenizer.hf.chat_template:
            warnings.append(
                "The base has a chat template, but prompts are plain, as in the paper; --prompt-format chat "
                "puts them into it."
            )
        for warning in warnings:
            reporter.warn(warning)
        warned: set[str] = set()
        work = [VariantJobs(variant, store, compute, reporter, elsewhere) for variant in variants_of(run)]
        todo = [one.todo(jobs) for one in work]
        reporter.expect([unit for one in todo for unit in one.units])
        for one, missing in zip(work, todo, strict=True):
            variant, task = one.variant, one.variant.task.name
            if task not in warned:
                warned.add(task)
                _warn(variant, tokenizer, reporter)
            one.do(jobs, missing)
            if "answers" in jobs and not run.profiles_path(task).exists():
                rows = [
                    {"task": task, "user_id": user.user_id, "profile": variant.profiles(user)}
                    for user in variant.users
                ]
                write_jsonl(run.profiles_path(task), rows)


@contextlib.contextmanager
def _connected(cluster: Cluster | None, reporter: ProgressReporter) -> Iterator[RayCluster | None]:
    if cluster is None or cluster.ray is None:
        yield None
        return
    with contextlib.closing(RayCluster(cluster, reporter)) as connection:
        yield connection


def execute_visibly(
    run: Run,
    jobs: Sequence[Job],
    compute: Compute | None = None,
    report_to: ReportTo = "none",
    cluster: Cluster | None = None,
) -> None:
    """Lock a run and do its jobs, with progress on the terminal and a log in its folder.

    Args:
        run: The run.
        jobs: Some of task bases, personal adapters and answers.
        compute: Device and batch sizes.
        report_to: Where to send training losses as well.
        cluster: Where personal adapters are trained.
    """
    with run.lock(), reporting(report_to, run) as tracker:
        execute(run, jobs, compute, ProgressReporter(Console(stderr=True), run.log_path, tracker), cluster)


def _warn(variant: Variant, tokenizer: Tokenizer, reporter: ProgressReporter) -> None:
    """Warn in advance about problems that no training can fix."""
    task = variant.task
    warnings = scoring_warnings(task, variant.users)
    if task.labels:
        warnings += tokenizer_warnings(task, tokenizer)
    for warning in warnings:
        reporter.warn(warning, task=task.name)
