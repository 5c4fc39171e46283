"""Forget a user: everything that a workspace holds of them or made of them.

First comes what there is (:func:`find_traces`), then it is removed (:func:`erase`). What a half-cleaned
workspace cannot tell any more (which runs stood on a dataset, which task LoRAs have seen the user) is noted
before anything changes, so that the same call finishes a killed one. What stays is a salted, slow hash of the
user's id in ``forgotten.json``: it tells "nothing is left" from a misspelt id.
"""

import contextlib
import dataclasses
import difflib
import hashlib
import itertools
import json
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from oppu_core.data.dataset import MANIFEST, PROFILES, REJECTED, Dataset, rewrite_dataset
from oppu_core.data.schema import shown
from oppu_core.data.types import SPLITS
from oppu_core.errors import ConfigError, DataError
from oppu_core.runs.run import Run, follow_data, open_run
from oppu_core.storage.files import (
    read_json,
    remove_strays,
    strays_below,
    strays_of,
    write_bytes,
    write_json,
)
from oppu_core.storage.store import Store

PENDING_FILE = ".forget.json"
FORGOTTEN_FILE = "forgotten.json"
# What is computed from all users of a run at once; `oppu run` makes it again without the one.
RESULTS = ("results.json", "report.html", "figures", "leaderboard")

# Names what `oppu study` has made in a folder.
STUDIES_FILE = "studies.json"

About = Callable[[Mapping[str, Any]], bool]


@dataclasses.dataclass(frozen=True)
class Workspace:
    """Where a user's traces can be: a folder of runs, the runs' datasets, and stores.

    Also folders of studies; `derived` are datasets that these made of others and keep to themselves.
    """

    folder: Path
    runs: Sequence[Run]
    datasets: Sequence[Dataset]
    stores: Sequence[Path]
    studies: Sequence[Path]
    derived: Sequence[Dataset]


@dataclasses.dataclass
class Pending:
    """What has to be known to the end, although the first steps make it untellable.

    Attributes:
        user_id: Whom to forget.
        datasets: Those that have the user.
        runs: (run, task, dataset) where the run stands on such a dataset as it was.
        answers: (run, task) where the user is one of the others, on whom every answer stands.
        task_loras: (store, id) of task LoRAs that were trained on the user's queries.
        given_profiles: Runs that were given the user's profile in a file.
        studies: Folders of `oppu study` that the user has a part in.
    """

    user_id: str
    datasets: list[str] = dataclasses.field(default_factory=list)
    runs: list[list[str]] = dataclasses.field(default_factory=list)
    answers: list[list[str]] = dataclasses.field(default_factory=list)
    task_loras: list[list[str]] = dataclasses.field(default_factory=list)
    given_profiles: list[str] = dataclasses.field(default_factory=list)
    studies: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Trace:
    """Something to remove.

    Attributes:
        place: The file or folder.
        what: In words, with numbers; nothing of the user's texts.
        remove: Removes it; again does no harm.
        personal: Whether it is the user's for certain, not just what anybody's killed process left.
    """

    place: Path
    what: str
    remove: Callable[[], object]
    personal: bool = True


@dataclasses.dataclass(frozen=True)
class Traces:
    """Everything there is of a user.

    Attributes:
        found: What to remove, in this order.
        pending: What has to be remembered meanwhile.
        unfinished: Whether an earlier call was killed.
        kept: Task LoRAs that have seen the user and are to stay, with the number of adapters on them.
    """

    found: Sequence[Trace]
    pending: Pending
    unfinished: bool
    kept: Sequence[tuple[Path, int]]

    @property
    def nothing_left(self) -> bool:
        """Whether there is nothing to do; the user was forgotten before."""
        return not self.unfinished and not any(trace.personal for trace in self.found)


def open_workspace(folder: Path, data: Sequence[Path] = (), stores: Sequence[Path] = ()) -> Workspace:
    """A folder of runs with the datasets and stores that its runs name or that lie in it.

    Args:
        folder: The folder of runs, or one run.
        data: Further datasets.
        stores: Further stores.

    Raises:
        ConfigError: a place is not there or not what it should be.
        DataError: a dataset cannot be read.
    """
    if not folder.is_dir():
        raise ConfigError(f"There is no folder of runs at {folder}; name one with --runs.")
    for path in stores:
        if not (path / "manifest.sqlite").is_file():
            raise ConfigError(f"{path} is not a store (it has no manifest.sqlite).")
    _restore_datasets(folder)
    folders = [folder, *_folders(folder)]
    runs = [open_run(path) for path in folders if (path / "run.json").is_file()]
    places = [folder, *_folders(folder), *(run.path / "studies" for run in runs)]
    studies = [path for path in _distinct(places) if (path / STUDIES_FILE).is_file()]
    all_runs = [*runs, *(run for path in studies for run in _runs_of(path))]
    named = [Path(path) for run in all_runs for path in run.config.data.values()]
    inside = [path for one in folders for path in (*_folders(one), *_folders(one / "own"))]
    datasets = [path for path in (*named, *inside) if (path / MANIFEST).is_file()]
    kept = [path for path in (*(run.store_path for run in all_runs), *folders)
            if (path / "manifest.sqlite").is_file()]  # fmt: skip
    opened = [Dataset.open(path) for path in _distinct([*data, *datasets])]
    inner = [path.resolve() / "data" for path in studies]
    derived = [dataset for dataset in opened if dataset.path.resolve().parent in inner]
    return Workspace(
        folder,
        runs,
        [dataset for dataset in opened if dataset not in derived],
        _distinct([*stores, *kept]),
        studies,
        derived,
    )


def find_traces(space: Workspace, user_id: str, task_bases: bool) -> Traces:
    """Everything there is of a user; removes nothing.

    Args:
        space: Where to look.
        user_id: Whom.
        task_bases: Count task LoRAs that were trained on the user's queries, and what stands on them.

    Raises:
        ConfigError: another user's forgetting was killed and comes first.
        DataError: nobody here has that id, and nobody of that id was forgotten here.
    """
    pending = _read_pending(space.folder)
    unfinished = pending is not None
    pending = pending or Pending(user_id)
    if pending.user_id != user_id:
        raise ConfigError(
            f"Forgetting user {shown(pending.user_id)} was interrupted; start that command again first."
        )
    forgotten = _forgotten(space.folder)
    seen_before = forgotten["users"].get(_id_hash(forgotten, user_id))
    pending.task_loras += [pair for pair in seen_before or [] if pair not in pending.task_loras]
    holders = [d for d in space.datasets if any(user_id in d.user_ids(split) for split in SPLITS)]
    for dataset in (*holders, *(d for d in space.derived if user_id in d.user_ids("others"))):
        _note(pending, space, dataset)

    def of_user(row: Mapping[str, Any]) -> bool:
        return row.get("user_id") == user_id

    found = [trace for dataset in space.datasets for trace in _beside(dataset, of_user, user_id)]
    found += [_in_dataset(dataset, user_id) for dataset in holders]
    for run in space.runs:
        given = [
            t for file in map(Path, run.config.profiles) for t in _lines(file.parent, [file.name], of_user)
        ]
        if given and _name(run.path) not in pending.given_profiles:
            pending.given_profiles.append(_name(run.path))
        found += given
        found += _in_run(run, pending, of_user)
    kept = []
    for path in space.stores:
        traces, bases = _in_store(path, pending, task_bases)
        found += traces
        kept += bases
    found += _in_studies(space, pending)  # the last: they tell a killed call of their data and store
    if strays := list(_strays(space)):
        what = _count(len(strays), "temporary file or folder") + " that killed processes left"
        found.append(Trace(space.folder, what, partial(_remove_all, strays), personal=False))
    result = Traces(found, pending, unfinished, kept)
    if result.nothing_left and seen_before is None:
        raise DataError(_unknown(space, user_id))
    return result


def erase(space: Workspace, traces: Traces) -> None:
    """Remove what was found; killed anywhere, the same call finishes it."""
    pending = traces.pending
    write_json(space.folder / PENDING_FILE, dataclasses.asdict(pending))
    for trace in traces.found:
        trace.remove()
    for path in space.stores:
        with contextlib.closing(Store(path)) as store:
            store.remove([])  # rows that a killed call deleted may still be in the file
    for run in space.runs:
        moved = [(task, data) for name, task, data in pending.runs if name == _name(run.path)]
        if moved or _name(run.path) in pending.given_profiles:
            follow_data(run, {task: Dataset.open(Path(data)).fingerprint for task, data in moved})
    forgotten = _forgotten(space.folder)
    left = [[_name(base.parent.parent), base.name] for base, _ in traces.kept]
    forgotten["users"][_id_hash(forgotten, pending.user_id)] = left
    write_json(space.folder / FORGOTTEN_FILE, forgotten)
    (space.folder / PENDING_FILE).unlink()


def _note(pending: Pending, space: Workspace, dataset: Dataset) -> None:
    """Note what can only be told while the dataset is as it was."""
    other = pending.user_id in dataset.user_ids("others")
    new = Pending(pending.user_id, [_name(dataset.path)])
    for run in space.runs:
        for task, fingerprint in run.provenance["data"].items():
            if fingerprint == dataset.fingerprint:
                new.runs.append([_name(run.path), task, _name(dataset.path)])
                new.answers += [[_name(run.path), task]] * other
    for path in space.stores if other else ():
        with contextlib.closing(Store(path)) as store:
            new.task_loras += [
                [_name(path), entry.config_id]
                for entry in store.entries()
                if entry.kind == "task_lora" and entry.identity.get("data") == dataset.content("others")
            ]
    for field in ("datasets", "runs", "answers", "task_loras"):
        known = getattr(pending, field)
        known += [value for value in getattr(new, field) if value not in known]


def _beside(dataset: Dataset, of_user: About, user_id: str) -> Iterator[Trace]:
    yield from _lines(dataset.path, [PROFILES], of_user)
    # A refused record that tells no user may still be theirs: a gold, or a record cut short.
    has_user = any(user_id in dataset.user_ids(split) for split in SPLITS)
    queries = dataset.user(user_id).queries if has_user else ()
    quoted = [json.dumps(name, ensure_ascii=False) for name in (user_id, *(query.id for query in queries))]

    def refused(row: Mapping[str, Any]) -> bool:
        value = str(row.get("value"))
        return of_user(row) or (row.get("user_id") is None and any(name in value for name in quoted))

    yield from _lines(dataset.path, [REJECTED], refused)


def _in_dataset(dataset: Dataset, user_id: str) -> Trace:
    user = dataset.user(user_id)
    what = (
        f"{_count(len(user.history), 'history item')} and {_count(len(user.queries), 'query', 'queries')} "
        f"({'one of the others' if user.split == 'others' else 'a test user'})"
    )
    return Trace(dataset.path, what, partial(rewrite_dataset, dataset.path, user_id.__ne__))


def _in_run(run: Run, pending: Pending, of_user: About) -> Iterator[Trace]:
    quoted = repr(pending.user_id)
    predictions = []
    for task in run.config.data:
        folder = run.path / task / "predictions"
        names = sorted(file.name for file in folder.glob("*.jsonl"))  # partial ones too: .name.partial.jsonl
        if [_name(run.path), task] in pending.answers and names:
            doomed = [folder / name for name in names]
            what = "answers of all users, made by what has learned from this one"
            predictions.append(Trace(folder, what, partial(_remove_all, doomed)))
        else:
            predictions += _lines(folder, names, of_user)
    stands = any(name == _name(run.path) for name, *_ in pending.runs)
    results = [run.path / name for name in RESULTS if (run.path / name).exists()]
    if results and (stands or any(trace.personal for trace in predictions)):
        names = [path.name for path in results]
        yield Trace(run.path, f"{', '.join(names)} (made from all users)", partial(_remove_all, results))
    yield from predictions
    for task in run.config.data:
        yield from _lines(run.path / task, ["profiles.jsonl", "cohorts.jsonl"], of_user)
    yield from _lines(
        run.path, [run.log_path.name], lambda row: of_user(row) or quoted in str(row.get("reason", ""))
    )


def _in_studies(space: Workspace, pending: Pending) -> Iterator[Trace]:
    """What `oppu study` made of all users: histories cut in many ways, runs on them, results. The same
    command makes it again without the one."""
    for path in space.studies:
        inner = sorted(path.glob("runs/*/run.json"))
        if _name(path) not in pending.studies and any(_stands_on(file, pending.user_id) for file in inner):
            pending.studies.append(_name(path))
        if _name(path) in pending.studies:
            # The list of what is ours goes last: a killed call finds it again.
            names = studies_made(path)
            made = [entry for entry in path.iterdir() if entry.name in names]
            what = f"{_count(len(inner), 'run')} and the results of studies (made from all users)"
            yield Trace(path, what, partial(_remove_all, [*made, path / STUDIES_FILE]))


def studies_made(folder: Path) -> list[str]:
    """The names of what `oppu study` has made in a folder.

    Raises:
        DataError: the list is damaged.
    """
    values = read_json(folder / STUDIES_FILE)
    made = values.get("made") if isinstance(values, dict) else None
    if not isinstance(made, list) or not all(isinstance(name, str) for name in made):
        raise DataError(
            f"{folder / STUDIES_FILE} is damaged: it does not list what studies have made here. Remove "
            f"{folder}, if it holds nothing else; the same commands make it again."
        )
    return made


def _runs_of(studies: Path) -> Iterator[Run]:
    """A study's runs; what cannot be read is left out."""
    for file in sorted(studies.glob("runs/*/run.json")):
        with contextlib.suppress(ConfigError, DataError):
            yield open_run(file.parent)


def _stands_on(run_file: Path, user_id: str) -> bool:
    """Whether a study's run stands on a user's data; what cannot be read may."""
    try:
        paths = [Path(path) for path in open_run(run_file.parent).config.data.values()]
        ids = {known for path in paths for split in SPLITS for known in Dataset.open(path).user_ids(split)}
    except (ConfigError, DataError):
        return True
    return any(_is_of(known, user_id) for known in ids)


def _is_of(known: str, user_id: str) -> bool:
    """Whether an id is a user's, or that of one of their queries in a study that looks at each by itself."""
    return known == user_id or known.startswith(f"{user_id}#")


def _in_store(path: Path, pending: Pending, task_bases: bool) -> tuple[list[Trace], list[tuple[Path, int]]]:
    """The traces in a store, and the task LoRAs that have seen the user and are kept."""
    with contextlib.closing(Store(path)) as store:
        entries, unlisted = list(store.entries()), store.unlisted()

    def remove(folders: Sequence[str]) -> None:
        with contextlib.closing(Store(path)) as store:
            store.remove(folders)

    traces = []
    own = [entry for entry in entries if entry.user_id and _is_of(entry.user_id, pending.user_id)]
    if own:
        failed = sum(entry.status != "ok" for entry in own)
        what = _count(len(own) - failed, "adapter") + (
            f", {_count(failed, 'failed training')}" if failed else ""
        )
        traces.append(Trace(path, what, partial(remove, [entry.folder for entry in own])))
    ids = {lora for store_name, lora in pending.task_loras if store_name == _name(path)}
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
            f"{_count(len(bases), 'task LoRA')} that learned from the user's queries, "
            f"{_count(len(upon), 'adapter')} of other users on it"
        )
        traces.append(Trace(path, what, partial(remove, [*upon, *(base.folder for base in bases)])))
    if unlisted:
        what = _count(len(unlisted), "folder") + " of weights that killed processes left"
        traces.append(Trace(path, what, partial(remove, unlisted), personal=False))
    return traces, [] if task_bases else [(path / base.folder, len(on[base.config_id])) for base in bases]


def _lines(folder: Path, names: Sequence[str], about: About) -> Iterator[Trace]:
    """The lines of JSONL files about the user; a line torn by a kill can be anybody's and goes too."""
    for file in (folder / name for name in names):
        if not file.is_file():
            continue
        kept, theirs, torn = [], 0, 0
        for line in file.read_bytes().splitlines(keepends=True):
            try:
                row = json.loads(line)
            except ValueError:
                torn += 1
                continue
            if isinstance(row, dict) and about(row):
                theirs += 1
            else:
                kept.append(line)
        if theirs or torn:
            what = " and ".join(
                _count(number, word) for number, word in ((theirs, "line"), (torn, "torn line")) if number
            )
            yield Trace(file, what, partial(write_bytes, file, b"".join(kept)), personal=theirs > 0)


def _strays(space: Workspace) -> Iterator[Path]:
    for folder in _distinct([space.folder, *space.stores, *(run.path for run in space.runs)]):
        yield from strays_below(folder)
    for dataset in space.datasets:
        if not dataset.path.resolve().is_relative_to(space.folder.resolve()):
            yield from strays_of(dataset.path.resolve())


def _restore_datasets(folder: Path) -> None:
    """Put back a dataset that a killed call had just moved aside, the old one or the new one."""
    pending = _read_pending(folder)
    for path in map(Path, pending.datasets if pending else ()):
        for stray in strays_of(path):
            if not path.exists() and (stray / MANIFEST).is_file():
                with contextlib.suppress(DataError):  # not yet whole: then the other one is
                    Dataset.open(stray).verify()
                    stray.rename(path)
        remove_strays(path)


def _read_pending(folder: Path) -> Pending | None:
    path = folder / PENDING_FILE
    return Pending(**read_json(path)) if path.exists() else None


def _forgotten(folder: Path) -> dict[str, Any]:
    """A salt; by hash of the user's id, (store, id) of task LoRAs that have seen them and were kept."""
    path = folder / FORGOTTEN_FILE
    content: dict[str, Any] = (
        read_json(path) if path.exists() else {"salt": secrets.token_hex(16), "users": {}}
    )
    return content


def _id_hash(forgotten: Mapping[str, Any], user_id: str) -> str:
    salt = bytes.fromhex(forgotten["salt"])
    return hashlib.scrypt(user_id.encode("utf-8", "surrogatepass"), salt=salt, n=2**14, r=8, p=1).hex()


def _unknown(space: Workspace, user_id: str) -> str:
    ids = {known for dataset in space.datasets for split in SPLITS for known in dataset.user_ids(split)}
    for path in space.stores:
        with contextlib.closing(Store(path)) as store:
            ids |= {entry.user_id for entry in store.entries() if entry.user_id is not None}
    candidates = itertools.islice((known for known in sorted(ids) if len(known) < 100), 20_000)
    close = difflib.get_close_matches(user_id[:100], list(candidates), n=3)
    hint = f" Did you mean {' or '.join(shown(known) for known in close)}?" if close else ""
    return f"No dataset, run or store of {space.folder} has anything of a user {shown(user_id)}.{hint}"


def _folders(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".tmp-"))


def _distinct(paths: Sequence[Path]) -> list[Path]:
    return list({path.resolve(): path for path in paths}.values())


def _name(path: Path) -> str:
    return str(path.resolve())


def _count(number: int, word: str, plural: str = "") -> str:
    return f"{number:,} {word if number == 1 else plural or word + 's'}"


def _remove_all(paths: Sequence[Path]) -> None:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
