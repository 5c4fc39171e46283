"""Progress on the terminal, and a JSONL log in the run's folder. Knows nothing of what is being done."""

import contextlib
import datetime
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column

from oppu_core.runs.tracking import Tracker


class Stage:
    """One progress bar with a line of facts beside it."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar, self._task = bar, task
        self._tokens, self._start = 0, time.monotonic()

    def advance(self, amount: float = 1, *, loss: float | None = None, tokens: int = 0) -> None:
        """Advance by `amount` of the stage's total; loss and tokens per second are shown."""
        self._tokens += tokens
        facts = [f"loss {loss:.2f}"] if loss is not None else []
        if self._tokens and self._bar.console.width >= 100:
            facts.append(f"{self._tokens / max(time.monotonic() - self._start, 1e-9):,.0f} tokens/s")
        if facts:
            self._bar.update(self._task, facts="  ".join(facts))
        self._bar.advance(self._task, amount)


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
        with Progress(*columns, console=self.console, disable=not self._bars) as bar:
            task = bar.add_task(title, total=total, facts="")
            yield Stage(bar, task)
            bar.update(task, completed=total)
        self.event("end", stage=title, seconds=round(time.monotonic() - start, 3))


def quiet() -> ProgressReporter:
    """A reporter that shows and logs nothing."""
    return ProgressReporter(Console(quiet=True))
