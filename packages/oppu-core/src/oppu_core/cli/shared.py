"""Helpers shared by commands."""

import contextlib
import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer.core import TyperGroup

from oppu_core.errors import Interrupted
from oppu_core.runs.options import Cluster, Compute, Job
from oppu_core.runs.tracking import ReportTo

if TYPE_CHECKING:
    from oppu_core.runs.run import Run

# The groups of commands in ``oppu --help``.
START, DATA, TRAIN = "Start here", "Data", "Train step by step"
ASK, OWN, EVALUATE = "Ask", "Own it", "Evaluate"
# The commands in the order in which people need them; others come after.
_ORDER = (
    *("quickstart", "demo", "run"),
    "data",
    *("profiles", "base", "personal", "answer"),
    "ask",
    *("personalize", "adapters", "forget"),
    *("evaluate", "report", "study", "lm-eval"),
)


class Grouped(TyperGroup):
    """A group that lists commands in the order above, whichever package they come from."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The commands' names."""
        place = {name: number for number, name in enumerate(_ORDER)}
        return sorted(super().list_commands(ctx), key=lambda name: place.get(name, len(place)))


@contextlib.contextmanager
def interruptible(said: str = "Interrupted. Start the same command again to continue.") -> Iterator[None]:
    """Say how to continue when someone presses Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(said) from error


def work(
    run: "Run",
    jobs: Sequence[Job],
    compute: Compute,
    report_to: ReportTo = "none",
    cluster: Cluster | None = None,
) -> None:
    """Do a run's jobs with live progress."""
    from rich.console import Console

    with interruptible():
        with Console(stderr=True).status("loading torch …"):  # some seconds
            from oppu_core.runs.execute import execute_visibly
        execute_visibly(run, jobs, compute, report_to, cluster)


def next_steps(*commands: Sequence[str | Path]) -> None:
    """Print commands to go on with, each on a line that can be pasted whatever the terminal's width.

    They begin as this one did: `uv run` tells its children of itself.
    """
    from rich.console import Console
    from rich.markup import escape

    program = ["uv", "run", "oppu"] if "UV_RUN_RECURSION_DEPTH" in os.environ else ["oppu"]
    console = Console(highlight=False, soft_wrap=True)
    for number, command in enumerate(commands):
        line = escape(shlex.join([*program, *map(str, command)]))
        console.print(f"{'  or' if number else 'Next'}: [bold]{line}[/bold]")
