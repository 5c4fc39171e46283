"""What commands share."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from oppu_core.errors import Interrupted
from oppu_core.runs.options import Compute
from oppu_core.runs.tracking import ReportTo

if TYPE_CHECKING:
    from oppu_core.runs.jobs import Job
    from oppu_core.runs.run import Run


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Say how to go on when a person presses Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted("Interrupted. Start the same command again to continue.") from error


def work(run: "Run", jobs: Sequence["Job"], compute: Compute, report_to: ReportTo = "none") -> None:
    """Do a run's jobs with live progress."""
    from oppu_core.runs.jobs import execute_visibly

    with interruptible():
        execute_visibly(run, jobs, compute, report_to)
