"""Progress on the terminal, and a JSONL log in the run's folder. Knows nothing of what is being done."""

import collections
import contextlib
import datetime
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from oppu_core.runs.tracking import Tracker
from oppu_core.texts import clock

_QUIET_SECONDS = 30.0  # between lines of a stage where there is no terminal to draw a bar on


class _Bar(Progress):
    """A bar below a line about all stages."""

    whole = ""

    def get_renderables(self) -> Iterator[RenderableType]:
        if self.whole:
            yield Text(self.whole, style="dim")
        yield from super().get_renderables()


class Stage:
    """One progress bar with a line of facts beside it; without a terminal, a line every half minute."""

    def __init__(self, bar: Progress, task: TaskID, title: str, unit: str) -> None:
        self._bar, self._task = bar, task
        self._title, self._unit = title, unit
        self._tokens, self._start = 0, time.monotonic()
        self._written = self._start

    def advance(self, amount: float = 1, *, loss: float | None = None, tokens: int = 0) -> None:
        """Advance by `amount` of the stage's total; loss and tokens per second are shown."""
        self._tokens += tokens
        now = time.monotonic()
        facts = [f"loss {loss:.2f}"] if loss is not None else []
        rate = f"{self._tokens / max(now - self._start, 1e-9):,.0f} tokens/s"
        if self._tokens and self._bar.console.width >= 100:
            facts.append(rate)
        if facts:
            self._bar.update(self._task, facts="  ".join(facts))
        self._bar.advance(self._task, amount)
        if not (self._bar.console.is_terminal or self._bar.disable) and now - self._written >= _QUIET_SECONDS:
            self._written = now
            self._write(facts if rate in facts or not self._tokens else [*facts, rate])

    def _write(self, facts: Sequence[str]) -> None:
        """Write how far it is."""
        (task,) = self._bar.tasks
        about = [f"{int(task.completed):,} of {int(task.total or 0):,} {self._unit}"]
        if task.time_remaining is not None:
            about.append(f"about {clock(task.time_remaining)} left")
        self._bar.console.print(f"{self._title}: {', '.join([*about, *facts])}", highlight=False)


class ProgressReporter:
    """Shows progress and logs events of a run.

    Args:
        console: The terminal.
        log: A JSONL file to which events are appended; None keeps no log.
        tracker: Receives losses, if given.
        bars: Whether to show progress bars; other output on the console is not affected.
    """

    def __init__(
        self, console: Console, log: Path | None = None, tracker: Tracker | None = None, bars: bool = True
    ) -> None:
        self.console = console
        self._bars = bars
        self._log = log
        self._tracker = tracker
        self._said: set[tuple[Any, ...]] = set()
        self._coming: collections.Counter[str] = collections.Counter()
        self._of = 0
        self._seconds: dict[str, list[float]] = collections.defaultdict(list)

    def expect(self, units: Sequence[str]) -> None:
        """Announce stages by their units; each says then which it is, and how long all will still take."""
        self._coming, self._of = collections.Counter(units), len(units)

    def _whole(self, unit: str) -> str:
        """``step 7 of 26, about 50 s left``; empty for a stage that was not announced."""
        if self._of < 2 or not self._coming[unit]:
            return ""
        step = f"step {self._of - self._coming.total() + 1} of {self._of}"
        if not all(self._seconds[kind] for kind in self._coming):
            return step
        left = sum(count * statistics.fmean(self._seconds[kind]) for kind, count in self._coming.items())
        return f"{step}, about {clock(left)} left"

    def report(self, name: str, loss: float, **labels: str) -> None:
        """Send a loss to the tracker. A tracker that fails is dropped: training goes on."""
        if self._tracker is not None:
            try:
                self._tracker.log(name, loss, labels)
            except Exception as error:  # lost network, full disk: each tracker raises its own kinds
                self._tracker = None
                self.console.print(f"[yellow]Losses are no longer reported: {escape(repr(error))}[/]")

    def event(self, kind: str, **facts: Any) -> None:
        """Append a line to the log."""
        if self._log is not None:
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
            with self._log.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"time": now, "event": kind, **facts}, ensure_ascii=False) + "\n")

    def warn(self, text: str | None, **facts: Any) -> None:
        """Show and log a warning, if there is one; each once."""
        if text and (said := (text, *facts.values())) not in self._said:
            self._said.add(said)
            about = "".join(f"{fact}: " for fact in facts.values())
            self.console.print(f"[yellow]{about}{escape(text)}[/]", highlight=False, soft_wrap=True)
            self.event("warning", **facts, text=text)

    @contextlib.contextmanager
    def stage(self, title: str, total: int, unit: str) -> Iterator[Stage]:
        """Show a bar while the block runs; its start and end are logged."""
        self.event("start", stage=title, total=total, unit=unit)
        start = time.monotonic()
        whole = Column(no_wrap=True)
        columns = (
            TextColumn("{task.description}", table_column=whole),
            BarColumn(bar_width=12),
            MofNCompleteColumn(table_column=whole),
            TextColumn(f"{unit}, eta", table_column=whole),
            TimeRemainingColumn(table_column=whole, compact=True),
            TextColumn("{task.fields[facts]}", style="dim", table_column=whole),
        )
        with _Bar(*columns, console=self.console, disable=not self._bars) as bar:
            bar.whole = self._whole(unit)
            task = bar.add_task(title, total=total, facts="")
            yield Stage(bar, task, title, unit)
            bar.update(task, completed=total)
            bar.whole = ""  # the finished bar stays, the line does not
        seconds = time.monotonic() - start
        self._seconds[unit].append(seconds)
        self._coming -= collections.Counter([unit])  # of a stage that was not announced there is none
        self.event("end", stage=title, seconds=round(seconds, 3))


def quiet() -> ProgressReporter:
    """A reporter that shows and logs nothing."""
    return ProgressReporter(Console(quiet=True))
