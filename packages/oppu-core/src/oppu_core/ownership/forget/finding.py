"""Finding everything that a workspace holds of a user or made from them; nothing is removed here."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from oppu_core.data.dataset import PROFILES, REJECTED, Dataset
from oppu_core.data.dataset_writer import rewrite_dataset
from oppu_core.data.schema import shown
from oppu_core.data.types import SPLITS
from oppu_core.errors import ConfigError, DataError, did_you_mean
from oppu_core.ownership.forget.pending import Pending, id_hash, read_forgotten, read_pending
from oppu_core.ownership.forget.workspace import Workspace, distinct, full_name
from oppu_core.ownership.traces import KeptFolder, NamedKeeper, Trace, counted, in_lines
from oppu_core.prompting.methods import parse_method
from oppu_core.runs.run import Run
from oppu_core.storage.files import remove, strays_below, strays_of
from oppu_core.storage.store import Store

About = Callable[[Mapping[str, Any]], bool]


@dataclasses.dataclass(frozen=True)
class Traces:
    """All traces of a user.

    Attributes:
        found: What to remove, in this order.
        pending: What to remember meanwhile.
        unfinished: Whether an earlier call was killed.
        kept: Task LoRAs that have seen the user but stay: (folder, number of adapters on them).
    """

    found: Sequence[Trace]
    pending: Pending
    unfinished: bool
    kept: Sequence[tuple[Path, int]]

    @property
    def nothing_left(self) -> bool:
        """Whether there is nothing to do because the user was forgotten before."""
        return not self.unfinished and not any(trace.personal for trace in self.found)


def find_traces(space: Workspace, user_id: str, task_bases: bool) -> Traces:
    """Find all traces of a user; nothing is removed.

    Args:
        space: Where to look.
        user_id: The user to forget.
        task_bases: Whether to include task LoRAs trained on the user's queries, and all adapters on them.

    Raises:
        ConfigError: forgetting another user was interrupted and has to be finished first.
        DataError: nobody here has this id, and nobody with this id was forgotten here.
    """
    pending = read_pending(space.folder)
    unfinished = pending is not None
    pending = pending or Pending(user_id)
    if pending.user_id != user_id:
        raise ConfigError(
            f"Forgetting user {shown(pending.user_id)} was interrupted; start that command again first."
        )
    forgotten = read_forgotten(space.folder)
    seen_before = forgotten["users"].get(id_hash(forgotten, user_id))
    pending.task_loras += [pair for pair in seen_before or [] if pair not in pending.task_loras]
    holders = [d for d in space.datasets if any(user_id in d.user_ids(split) for split in SPLITS)]
    for dataset in (*holders, *(d for d in space.derived if user_id in d.user_ids("others"))):
        _note(pending, space, dataset)

    def of_user(row: Mapping[str, Any]) -> bool:
        return row.get("user_id") == user_id

    found = [trace for dataset in space.datasets for trace in _beside(dataset, of_user, user_id)]
    found += [_in_dataset(dataset, user_id) for dataset in holders]
    for run in space.runs:
        given = list(in_lines(map(Path, run.config.profiles), of_user))
        if given and full_name(run.path) not in pending.given_profiles:
            pending.given_profiles.append(full_name(run.path))
        found += given
        found += _in_run(space, run, pending, of_user)
    kept = []
    for path in space.stores:
        traces, bases = _in_store(space, path, pending, task_bases)
        found += traces
        kept += bases
    for keeper, folder in space.kept:  # last, as they name further data and stores after a kill
        found += _in_folder(keeper, folder, pending)
    if strays := list(_strays(space)):
        what = counted(len(strays), "temporary file or folder") + " that killed processes left"
        found.append(Trace(space.folder, what, partial(remove, *strays), personal=False))
    result = Traces(found, pending, unfinished, kept)
    if result.nothing_left and seen_before is None:
        raise DataError(_unknown(space, user_id))
    return result


def _note(pending: Pending, space: Workspace, dataset: Dataset) -> None:
    """Record what can only be told while the dataset is unchanged."""
    other = pending.user_id in dataset.user_ids("others")
    new = Pending(pending.user_id, [full_name(dataset.path)])
    for run in space.runs:
        for task, fingerprint in run.provenance["data"].items():
            if fingerprint == dataset.fingerprint:
                new.runs.append([full_name(run.path), task, full_name(dataset.path)])
                new.answers += [[full_name(run.path), task]] * other
    for path in space.stores if other else ():
        with contextlib.closing(Store(path)) as store:
            new.task_loras += [
                [full_name(path), entry.config_id]
                for entry in store.entries()
                if entry.kind == "task_lora" and entry.identity.get("data") == dataset.content("others")
            ]
    for field in ("datasets", "runs", "answers", "task_loras"):
        known = getattr(pending, field)
        known += [value for value in getattr(new, field) if value not in known]


def _beside(dataset: Dataset, of_user: About, user_id: str) -> Iterator[Trace]:
    yield from in_lines([dataset.path / PROFILES], of_user)
    # A refused record without a user may still be theirs: a gold, or a truncated record.
    has_user = any(user_id in dataset.user_ids(split) for split in SPLITS)
    queries = dataset.user(user_id).queries if has_user else ()
    quoted = [json.dumps(name, ensure_ascii=False) for name in (user_id, *(query.id for query in queries))]

    def refused(row: Mapping[str, Any]) -> bool:
        value = str(row.get("value"))
        return of_user(row) or (row.get("user_id") is None and any(name in value for name in quoted))

    yield from in_lines([dataset.path / REJECTED], refused)


def _in_dataset(dataset: Dataset, user_id: str) -> Trace:
    user = dataset.user(user_id)
    what = (
        f"{counted(len(user.history), 'history item')} and {counted(len(user.queries), 'query', 'queries')} "
        f"({'one of the others' if user.split == 'others' else 'a test user'})"
    )
    return Trace(dataset.path, what, partial(rewrite_dataset, dataset.path, user_id.__ne__))


def _in_run(space: Workspace, run: Run, pending: Pending, of_user: About) -> Iterator[Trace]:
    quoted = repr(pending.user_id)
    predictions = []
    for task in run.config.data:
        folder = run.path / task / "predictions"
        files = sorted(folder.glob("*.jsonl"))  # includes partial ones: .name.partial.jsonl
        if [full_name(run.path), task] in pending.answers and files:
            what = "answers of all users, made by what has learned from this one"
            predictions.append(Trace(folder, what, partial(remove, *files)))
            continue
        place = [full_name(run.path), task]
        known = any([name, of_task] == place for name, of_task, _ in pending.runs)
        traces = in_lines([*files, run.profiles_path(task), run.plan_path(task)], of_user)
        # Also where the dataset has changed meanwhile: the run's own files tell whose adapters it used.
        if place not in pending.mixed and (known or any(trace.personal for trace in traces)):
            pending.mixed.append(place)
        if mixed := [file for file in files if place in pending.mixed and _by_other_adapters(file)]:
            what = "answers of all users, by adapters that may have learned from this one"
            predictions.append(Trace(folder, what, partial(remove, *mixed)))
        predictions += in_lines([file for file in files if file not in mixed], of_user)
    stands = any(name == full_name(run.path) for name, *_ in pending.runs)
    involved = stands or any(trace.personal for trace in predictions)
    for keeper in space.keepers:
        yield from keeper.find(lambda one: one.in_run(run, pending.user_id, involved))
    yield from predictions
    for task in run.config.data:
        yield from in_lines([run.profiles_path(task), run.plan_path(task)], of_user)
    yield from in_lines([run.log_path], lambda row: of_user(row) or quoted in str(row.get("reason", "")))


def _by_other_adapters(file: Path) -> bool:
    """Whether a prediction file (or its journal) is of a method that answers by adapters of other users."""
    name = file.name.removeprefix(".").partition(".")[0]
    with contextlib.suppress(ConfigError):
        return parse_method(name).adapter in ("pooled", "stranger")
    return False


def _in_store(
    space: Workspace, path: Path, pending: Pending, task_bases: bool
) -> tuple[list[Trace], list[tuple[Path, int]]]:
    """The traces in a store, and the task LoRAs that have seen the user but are kept."""
    with contextlib.closing(Store(path)) as store:
        entries, unlisted = list(store.entries()), store.unlisted()

    def take_out(folders: Sequence[str]) -> None:
        with contextlib.closing(Store(path)) as store:
            store.remove(folders)

    traces = []
    known = {entry.user_id for entry in entries if entry.user_id is not None}
    made_up = [a for k in space.keepers for a in k.ask(lambda one: one.aliases(known, pending.user_id))]
    theirs = {pending.user_id, *made_up}
    own = [entry for entry in entries if entry.user_id in theirs]
    if own:
        failed = sum(entry.status != "ok" for entry in own)
        what = counted(len(own) - failed, "adapter") + (
            f", {counted(failed, 'failed training')}" if failed else ""
        )
        traces.append(Trace(path, what, partial(take_out, [entry.folder for entry in own])))
    if pools := [entry for entry in entries if theirs & set(entry.identity.get("histories", ()))]:
        what = (
            counted(len(pools), "pooled adapter") + " on the histories of several users, this one among them"
        )
        traces.append(Trace(path, what, partial(take_out, [entry.folder for entry in pools])))
    ids = {lora for store_name, lora in pending.task_loras if store_name == full_name(path)}
    bases = [entry for entry in entries if entry.kind == "task_lora" and entry.config_id in ids]
    on = {
        base.config_id: [
            entry
            for entry in entries
            if entry.user_id != pending.user_id
            and entry.identity.get("config", {}).get("task_lora") == base.config_id
        ]
        for base in bases
    }
    if task_bases and bases:
        upon = [entry.folder for some in on.values() for entry in some]
        what = (
            f"{counted(len(bases), 'task LoRA')} that learned from the user's queries, "
            f"{counted(len(upon), 'adapter')} of other users on it"
        )
        traces.append(Trace(path, what, partial(take_out, [*upon, *(base.folder for base in bases)])))
    if unlisted:
        what = counted(len(unlisted), "folder") + " of weights that killed processes left"
        traces.append(Trace(path, what, partial(take_out, unlisted), personal=False))
    return traces, [] if task_bases else [(path / base.folder, len(on[base.config_id])) for base in bases]


def _in_folder(keeper: NamedKeeper, folder: KeptFolder, pending: Pending) -> list[Trace]:
    """The traces in another package's folder; if there are any, this is recorded."""
    name = [keeper.name, full_name(folder.path)]
    involved = name in pending.kept
    traces = keeper.find(lambda one: one.in_folder(folder, pending.user_id, involved))
    if traces and not involved:
        pending.kept.append(name)
    return traces


def _strays(space: Workspace) -> Iterator[Path]:
    for folder in distinct([space.folder, *space.stores, *(run.path for run in space.runs)]):
        yield from strays_below(folder)
    for dataset in space.datasets:
        if not dataset.path.resolve().is_relative_to(space.folder.resolve()):
            yield from strays_of(dataset.path.resolve())


def _unknown(space: Workspace, user_id: str) -> str:
    ids = {known for dataset in space.datasets for split in SPLITS for known in dataset.user_ids(split)}
    for path in space.stores:
        with contextlib.closing(Store(path)) as store:
            ids |= {entry.user_id for entry in store.entries() if entry.user_id is not None}
    hint = did_you_mean(user_id, sorted(ids), shown, most=3)
    return f"No dataset, run or store of {space.folder} has anything of a user {shown(user_id)}.{hint}"
