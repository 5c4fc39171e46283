"""Training adapters on a person's own history, on the task bases of a run.

The person is kept in a small dataset in the run's folder, so that the run's own data does not change. In the
store they are a user like any other: the same history gives the same bytes.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from oppu_core.data.dataset import MANIFEST
from oppu_core.data.dataset_writer import write_dataset
from oppu_core.data.history_files import Records, history_records, how_to
from oppu_core.data.importers.event_rows import suffix_of
from oppu_core.data.importers.text_files import decoded, read_unpacked
from oppu_core.data.intake import in_order
from oppu_core.data.parsing import as_date, as_history, as_id, as_object, as_text
from oppu_core.data.rejected import Unusable
from oppu_core.data.sample import GRAMMARS, sample_users
from oppu_core.data.schema import shown
from oppu_core.data.types import SPLITS, HistoryItem, User
from oppu_core.errors import ConfigError, DataError, TrainingError
from oppu_core.runs.options import Compute, RunOptions
from oppu_core.runs.progress import ProgressReporter
from oppu_core.runs.run import Run, open_run
from oppu_core.runs.start import start_run
from oppu_core.runs.variants import Variant, variants_of
from oppu_core.storage.store import Store
from oppu_core.tasks.task import Task
from oppu_core.tasks.task_files import TASKS, load_task

# The methods of a run made for one person: fewer than in a comparison, for a result within a minute.
METHODS = ("non_personalized", "rag_k1", "oppu_k0", "oppu_rag_k1")
OTHERS = 30


@dataclasses.dataclass(frozen=True)
class History:
    """A person's history: its usable items, oldest first, and the problem of each unusable one."""

    items: tuple[HistoryItem, ...]
    problems: tuple[str, ...]


def read_history(path: Path, task: Task) -> History:
    """Read a history: JSON, a table with a header line, the tweets of an X archive, or one item per line.

    An item has the task's history fields, or ``input`` and ``output``; ``id`` and ``date`` (or ``time``) are
    optional. If every item has a date, items are sorted by it. The file may be compressed with gzip.

    Raises:
        DataError: the file cannot be read, has an unknown structure, or has no usable item.
    """
    text = decoded(read_unpacked(path), str(path))
    if not text.strip():
        raise DataError(f"{path} has no usable item: it is empty. {how_to(task)}")
    history = usable(history_records(task, text, str(path), suffix_of(path)), task)
    if not history.items:
        problems = "".join(f"{problem}. " for problem in history.problems[:3])
        raise DataError(f"{path} has no usable item. {problems}{how_to(task)}")
    return history


def usable(records: Records, task: Task) -> History:
    """The usable items among some records, as in :func:`read_history`.

    Raises:
        DataError: the records are of several people.
    """
    items: list[HistoryItem] = []
    problems: list[str] = []
    ids: set[str] = set()
    people: set[str] = set()
    for number, record in records.rows:
        if isinstance(record, Mapping) and "user_id" in record and "user_id" not in task.history_fields:
            people.add(str(record["user_id"]))
        try:
            item = _item(task, record, number)
            if item.id in ids:
                raise Unusable("id occurs twice", shown(item.id))
        except Unusable as problem:
            detail = f" ({problem.detail})" if problem.detail else ""
            problems.append(f"{records.unit} {number}: {problem.reason}{detail}")
        else:
            ids.add(item.id)
            items.append(item)
    if len(people) > 1:
        some = ", ".join(map(shown, sorted(people)[:3])) + (" …" if len(people) > 3 else "")
        raise DataError(
            f"These are records of {len(people)} people (user_id {some}), and an adapter is one person's. "
            "Keep those of one, or import all with `oppu data import`."
        )
    return History(tuple(in_order(items)), tuple(problems))


def _item(task: Task, record: Any, number: int) -> HistoryItem:
    if isinstance(record, Unusable):
        raise record
    values = dict(as_object(record))
    if "input" in values and "input" not in task.history_fields:
        if task.output_field is None:
            raise Unusable(f"a history of {task.name} has no input and output but {task.history_fields[0]}")
        text = as_text(values, "input")
        values |= task.parse_input(text) or {task.long_field: text}
        values[task.output_field] = as_text(values, "output")
    fields = as_history(task, values)
    if task.output_field and task.labels and task.label_of(fields[task.output_field]) is None:
        answer = shown(fields[task.output_field])
        raise Unusable(f"{task.output_field} is none of {', '.join(task.labels)}", answer)
    name = "date" if "date" in values else "time"
    return HistoryItem(as_id({"id": str(number), **values}, "id"), fields, as_date(values, name))


def task_of(run: Run | None, name: str | None) -> Task:
    """The task of a person's history.

    Args:
        run: The run that it is for; None if one of the sample world will be made.
        name: The task's name or TOML file; may be None if the run has only one.

    Raises:
        ConfigError: it is unknown, must be given, or is not one of the run's.
    """
    names = list(run.config.data) if run is not None else []
    if name is None and len(names) != 1:
        raise ConfigError(f"Name the task with --task{': ' + ', '.join(names) if names else ''}.")
    name = name or names[0]
    if run is not None and name in names:
        return run.dataset(name).task
    task = load_task(name)
    if run is not None and (
        task.name not in names or run.dataset(task.name).task.fingerprint != task.fingerprint
    ):
        raise ConfigError(f"{run.path} has no such task {task.name}; it has {', '.join(names)}.")
    return task


@dataclasses.dataclass(frozen=True)
class Personalized:
    """The outcome: whether adapters were trained, and how many of an older history were removed."""

    trained: bool
    removed: int


def personalize(
    run: Run, task: Task, user_id: str, history: History, reporter: ProgressReporter, device: str
) -> Personalized:
    """Train a person's adapters, for every variant of the run that has personal adapters.

    After a kill, call it again: the old history is replaced only when the new one is complete.

    Args:
        run: A locked run.
        task: One of its tasks.
        user_id: The person's name.
        history: Their items.
        reporter: Shows progress and logs events.
        device: Where to compute.

    Raises:
        ConfigError: the name is taken, or the run has no personal method.
        TrainingError: the history cannot be trained on.
    """
    try:
        as_id({"user": user_id}, "user")
    except Unusable as problem:
        raise ConfigError(f"--user: {problem.reason}; choose another name.") from problem
    dataset = run.dataset(task.name)
    if any(user_id in dataset.user_ids(split) for split in SPLITS):
        raise ConfigError(
            f"{dataset.path} has a user {shown(user_id)} already; choose another name (--user)."
        )
    new = User(user_id, "test", history.items, ())
    known = {user.user_id: user for user in run.own_users(task.name)}
    with contextlib.closing(Store(run.store_path)) as store:

        def variants() -> Iterator[Variant]:
            # Not reused for another history: profiles are cached by user id.
            for variant in variants_of(run):
                if variant.own and variant.task.name == task.name:
                    yield dataclasses.replace(variant, users=[new])

        keys = {variant.key_of(new).folder for variant in variants()}
        if not keys:
            methods = ", ".join(run.config.methods)
            raise ConfigError(f"{run.path} has no method with personal adapters; it has {methods}.")
        there = _intact(store, variants(), new)
        from oppu_core.runs.jobs import VariantJobs  # loads torch; what could be refused has been

        for variant in variants():
            VariantJobs(variant, store, Compute(device=device), reporter).do(["bases", "personal"])
            if reason := store.failure(variant.key_of(new)):
                raise TrainingError(f"The history of {shown(user_id)} cannot be trained on: {reason}.")
        old = {v.key_of(known[user_id]).folder for v in variants()} if user_id in known else set()
        stale = [entry.folder for entry in store.entries() if entry.folder in old - keys]
        if stale:
            store.remove(stale)
    if known.get(user_id) != new:
        users = {**known, user_id: new}.values()
        write_dataset(run.own_path(task.name), task, users, {"kind": "own histories"})
    return Personalized(not there, len(stale))


def _intact(store: Store, variants: Iterator[Variant], user: User) -> bool:
    return all(store.intact(one.task_lora) and store.intact(one.key_of(user)) for one in variants)


def own_run(task: Task, folder: Path) -> Run:
    """A run of the sample world on the tiny base, for somebody without a run; an existing one is reused.

    Args:
        task: A task of the sample world.
        folder: The folder of runs.

    Raises:
        ConfigError: the sample world does not have the task.
    """
    if task.name not in GRAMMARS or TASKS[task.name] != task:
        raise ConfigError(
            f"For the task {task.name} a run with a dataset of it is needed: import other users' data (`oppu "
            "data import`), start `oppu base train --run … --data …`, and name the run here with --run."
        )
    path = folder / f"own-{task.name}"
    if (path / "run.json").exists():
        return open_run(path)
    data = folder / f"own-{task.name}-data" / task.name
    if not (data / MANIFEST).exists():
        users = sample_users(task, test_users=1, other_users=OTHERS)
        write_dataset(data, task, users, {"kind": "sample world", "for": "an own history"})
    return start_run(path, RunOptions(data=[data], methods=METHODS))
