"""High-level functions for Python programs; :mod:`oppu_core` exports them along with those of the rooms.

Values in memory go through the same readers as files, so the same rules apply. Progress bars are drawn only
on request; warnings go to standard error, as on the command line.
"""

import contextlib
import dataclasses
import datetime
import json
import os
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from oppu_core.data.dataset import Dataset
from oppu_core.data.history_files import Records
from oppu_core.data.importers.detect import import_files, open_reader
from oppu_core.data.importers.json_lines import read_line
from oppu_core.errors import DataError
from oppu_core.ownership import personalize as own
from oppu_core.runs.asking import ask
from oppu_core.runs.execute import execute as execute_jobs
from oppu_core.runs.options import JOBS, Compute, Job
from oppu_core.runs.predictions import read_answers
from oppu_core.runs.progress import ProgressReporter
from oppu_core.runs.run import Run
from oppu_core.storage.files import scratch_dir
from oppu_core.tasks.task import Task
from oppu_core.tasks.task_files import load_task

if TYPE_CHECKING:
    from pandas import DataFrame


def build_dataset(
    events: "Iterable[Mapping[str, Any]] | DataFrame | str | Path",
    out: str | Path,
    task: Task | str | None = None,
    *,
    test_users: int | None = None,
    queries: int | None = None,
    strict: bool = False,
) -> Dataset:
    """Write events into a dataset folder, as ``oppu data import`` does.

    Args:
        events: What users did, in any order: dicts with ``user_id``, ``time``, ``input`` and ``output`` (or
            the task's own fields in place of the latter two), a pandas DataFrame with such columns, or the
            path of a file or folder that ``oppu data import`` takes.
        out: The dataset folder to make; a dataset that is there is replaced.
        task: The task, its name, or the path of its TOML file; told by the fields if left out.
        test_users: How many users, those with the longest histories, get adapters; the others train the task
            base. By default 100, at most half.
        queries: How many of a test user's latest events are queries. By default a fifth, 1 to 20.
        strict: Whether the first event that cannot be used is an error. Otherwise it is left out, counted in
            a warning, and kept in the dataset's ``rejected.jsonl``.

    Returns:
        The dataset, open.

    Raises:
        ConfigError: the task is unknown, or an argument does not fit the files.
        DataError: nothing can be used, a field is missing everywhere, or `strict`.
    """
    out = Path(out)
    chosen = load_task(task) if isinstance(task, str) else task
    with contextlib.ExitStack() as stack:
        if isinstance(events, str | Path):
            path = Path(events)
        else:
            path = _as_file(events, stack.enter_context(scratch_dir(Path(os.path.realpath(out)))))
        done = import_files(path, out, open_reader(path, None, chosen, test_users, queries), strict)
    for note in done.notes:
        warnings.warn(note, stacklevel=2)
    return done.dataset


def _as_file(events: "Iterable[Mapping[str, Any]] | DataFrame", folder: Path) -> Path:
    """Events in memory as a file in a folder."""
    if hasattr(events, "to_parquet"):
        try:
            events.to_parquet(folder / "events.parquet", engine="pyarrow", index=False)
        except (TypeError, ValueError) as error:  # pyarrow's are of these, too
            raise DataError(f"The DataFrame has a column of mixed or unknown types: {error}.") from error
        return folder / "events.parquet"
    with (folder / "events.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in _json_lines(events))
    return folder / "events.jsonl"


def _json_lines(records: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    def date(value: Any) -> str:
        if isinstance(value, datetime.date):
            return value.isoformat()
        raise TypeError(f"{type(value).__name__} is no text, number or date")

    for number, record in enumerate(records, 1):
        try:
            yield json.dumps(dict(record), default=date)
        except (TypeError, ValueError) as error:
            raise DataError(f"Item {number} cannot be used: {error}. Give a dict of texts.") from error


def execute(
    run: Run, jobs: Sequence[Job] = JOBS, compute: Compute | None = None, *, progress: bool = False
) -> None:
    """Train and answer: do whatever is still missing of a run's jobs.

    After an interruption, call it again to continue. The run is locked for other processes meanwhile.

    Args:
        run: The run.
        jobs: ``bases`` (train the task LoRAs), ``personal`` (train the users' adapters), ``answers``.
        compute: Device and batch sizes; by default a GPU is used if there is one.
        progress: Show progress on standard error.

    Raises:
        ConfigError: another process is working on the run.
        OppuError: the data or the base have changed since the run was started, a task base cannot be trained,
            or adapters that answers need are missing. Users whose training fails are reported and skipped.
    """
    with run.lock():
        execute_jobs(run, jobs, compute, _reporter(run, progress))


def _reporter(run: Run, progress: bool) -> ProgressReporter:
    # No widgets: without ipywidgets rich would warn of each of them, and a line a stage is enough.
    return ProgressReporter(Console(stderr=True, force_jupyter=False), run.log_path, bars=progress)


def predictions(run: Run) -> "DataFrame":
    """A run's answers as a table; needs pandas.

    Args:
        run: A run; queries without an answer yet are left out.

    Returns:
        One row per test query and method: ``task``, ``method``, ``user_id``, ``id`` (the query's),
        ``answer``, ``gold`` (None where it is withheld).

    Raises:
        DataError: a prediction file is damaged.
    """
    import pandas as pd

    rows = [
        (task, method, one.user_id, one.id, one.answer, one.gold)
        for task in run.config.data
        for method in run.config.methods
        if (path := run.predictions_path(task, method)).exists()
        for one in read_answers(path).values()
    ]
    return pd.DataFrame(rows, columns=["task", "method", "user_id", "id", "answer", "gold"])


@dataclasses.dataclass(frozen=True, eq=False)
class Personal:
    """A person whose history was learned (:func:`personalize`).

    Attributes:
        run: The run whose task bases the adapters belong to; everything is below ``run.path.parent``.
        task: The task of the history.
        user_id: The person's name in the run.
        history: The usable items, and the problem of each unusable one.
    """

    run: Run
    task: Task
    user_id: str
    history: own.History

    def ask(self, text: str, others: Mapping[str, str] | None = None, device: str = "auto") -> dict[str, str]:
        """Answer a query as this person would.

        Args:
            text: The query's text, e.g. a movie's description.
            others: The texts of the task's other input fields, where it has any.
            device: Where to compute: ``auto``, ``cpu``, ``cuda`` …

        Returns:
            Answers by method; those of ``oppu`` methods use the person's adapter, others only the prompt.

        Raises:
            ConfigError: a text is empty, missing, or not for one of the task's fields.
        """
        return ask(self.run, self.user_id, text, self.task.name, device, others)


def personalize(
    items: Iterable[Mapping[str, Any]],
    task: str | None = None,
    *,
    run: Run | None = None,
    folder: str | Path | None = None,
    user_id: str = "me",
    device: str = "auto",
    progress: bool = False,
) -> Personal:
    """Train adapters on one person's history, as ``oppu personalize`` does.

    The history and the adapters are kept in the run, where ``oppu forget`` finds them. Without a run, one of
    the sample world is made in `folder` (and reused next time); its tiny base knows nothing but the sample
    world. Without a folder either, everything is in a temporary one, which is removed with the returned
    object, or at the latest when Python exits. Nothing leaves this machine.

    Args:
        items: The history: dicts with the task's fields (for lamp_2m ``description`` and ``tag``), or
            ``input`` and ``output``; ``id`` and ``date`` are optional. An adapter needs about ten items to
            learn habits. Unusable items are left out with a warning.
        task: A task's name, or the path of its TOML file; optional if the run has only one.
        run: A run with personal methods; its base and settings are used.
        folder: Where to make the run of the sample world if `run` is not given.
        user_id: The person's name in the run. A changed history of the same name replaces the old one.
        device: Where to compute: ``auto``, ``cpu``, ``cuda`` …
        progress: Show progress on standard error.

    Returns:
        The person, ready to answer queries.

    Raises:
        ConfigError: the task is unknown or not the run's, or the name is taken.
        DataError: no item can be used.
        TrainingError: the history cannot be trained on.
    """
    chosen = own.task_of(run, task)
    rows = ((number, read_line(line)) for number, line in enumerate(_json_lines(items), 1))
    history = own.usable(Records("item", rows), chosen)
    if problems := "; ".join(history.problems[:3]):
        problems = f"Items that cannot be used: {len(history.problems)} ({problems})."
    if not history.items:
        raise DataError(f"There is no item to learn from. {problems}")
    if problems:
        warnings.warn(problems, stacklevel=2)
    with contextlib.ExitStack() as stack:
        if run is None:
            if folder is None:
                folder = tempfile.mkdtemp(prefix="oppu-")
                stack.callback(shutil.rmtree, folder, ignore_errors=True)
            run = own.own_run(chosen, Path(folder))
        with run.lock():
            own.personalize(run, chosen, user_id, history, _reporter(run, progress), device)
        person = Personal(run, chosen, user_id, history)
        weakref.finalize(person, stack.pop_all().close)
    return person
