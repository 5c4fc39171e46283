"""The run folder: what was asked for, with which versions and data, and what has come of it so far.

A run is continued by starting its command again; a run that was asked for something else refuses, and shows
the difference. One of which nothing has come, as its start failed, becomes what it is asked for now. Weights
lie in the store beside it, so that a new run trains nothing twice.
"""

import contextlib
import dataclasses
import importlib.metadata
import itertools
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from oppu_core.data.dataset import MANIFEST, Dataset
from oppu_core.data.schema import shown
from oppu_core.data.types import User
from oppu_core.errors import ConfigError, DataError
from oppu_core.modeling.base_files import BaseIdentity, base_folder, base_identity
from oppu_core.prompting.methods import parse_method
from oppu_core.prompting.profile_files import Profiles, check_covered, read_profiles
from oppu_core.runs.config import RunConfig, resolve_config
from oppu_core.runs.options import RunOptions
from oppu_core.runs.predictions import QueryId, read_answers
from oppu_core.storage.files import (
    content_id,
    locked,
    read_appended,
    read_json,
    write_json,
)

FORMAT = 1
OUTCOMES = ("task_lora", "user")  # events of the log that tell of something trained
PACKAGES = ("oppu-core", "torch", "transformers", "peft", "bitsandbytes", "tokenizers", "numpy")


@dataclasses.dataclass(frozen=True)
class Run:
    """A run folder.

    Attributes:
        path: The folder.
        config: What was asked for.
        provenance: Fingerprints of base and data, versions.
        store_path: Where its weights are.
    """

    path: Path
    config: RunConfig
    provenance: Mapping[str, Any]
    store_path: Path

    @property
    def log_path(self) -> Path:
        """The JSONL log."""
        return self.path / "log.jsonl"

    def base_identity(self) -> BaseIdentity:
        """The base that the run was started with."""
        return BaseIdentity(**self.provenance["base"])

    def dataset(self, task: str) -> Dataset:
        """The run's dataset of a task.

        Raises:
            DataError: it is gone, or no longer the one that the run was started with.
        """
        dataset = Dataset.open(Path(self.config.data[task]))
        if dataset.fingerprint != self.provenance["data"][task]:
            raise DataError(
                f"The dataset {dataset.path} is no longer the one that {self.path} was started with. "
                "Start a new run (weights of unchanged users are reused)."
            )
        return dataset

    def test_users(self, dataset: Dataset) -> list[User]:
        """The test users of this run."""
        return list(itertools.islice(dataset.users("test"), self.config.users))

    def profiles(self, dataset: Dataset) -> Profiles:
        """The profile texts of a dataset's users.

        Raises:
            DataError: a file of them is gone, or no longer says what it said when the run was started.
        """
        given = read_profiles([Path(path) for path in self.config.profiles])
        task = dataset.task.name
        if _hashes(given).get(task) != self.provenance.get("profiles", {}).get(task):
            raise DataError(
                f"The profiles of {task} in {', '.join(self.config.profiles)} are no longer those that "
                f"{self.path} was started with. Start a new run (what does not depend on them is reused)."
            )
        return Profiles(dataset.task, given.get(task))

    def own_path(self, task: str) -> Path:
        """The small dataset of the own users of a task (`oppu personalize`)."""
        return self.path / "own" / task

    def own_users(self, task: str) -> list[User]:
        """The own users of a task (`oppu personalize`)."""
        folder = self.own_path(task)
        return list(Dataset.open(folder).users("test")) if (folder / MANIFEST).exists() else []

    def user(self, task: str, user_id: str) -> User:
        """A user of the task's dataset or, first, an own one (`oppu personalize`).

        Raises:
            DataError: there is no such user.
        """
        own = {user.user_id: user for user in self.own_users(task)}
        return own[user_id] if user_id in own else self.dataset(task).user(user_id)

    def predictions_path(self, task: str, method: str) -> Path:
        """The prediction file of a method."""
        return self.path / task / "predictions" / f"{method}.jsonl"

    def predictions(self, task: str, method: str) -> dict[QueryId, str]:
        """A method's answers by (user id, query id); empty when it has not been answered yet."""
        path = self.predictions_path(task, method)
        if not path.exists():
            return {}
        return {key: one.answer for key, one in read_answers(path).items()}

    def profiles_path(self, task: str) -> Path:
        """The profile texts of a task."""
        return self.path / task / "profiles.jsonl"

    def plan_path(self, task: str) -> Path:
        """Who was trained together, for a task's personal adapters."""
        return self.path / task / "cohorts.jsonl"

    @property
    def begun(self) -> bool:
        """Whether anything has come of it: a plan, profile texts, answers, an own user, something trained."""
        folders = [self.path / "own", *(self.path / task for task in self.config.data)]
        return any(folder.exists() for folder in folders) or any(
            isinstance(row, dict) and row.get("event") in OUTCOMES for row in read_appended(self.log_path)
        )

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from working on the same run; the system lifts it if this one is killed.

        Raises:
            ConfigError: another process works on it, or has just asked it for something else.
        """
        busy = ConfigError(f"Another process is working on {self.path}; wait for it to end.")
        with locked(self.path, busy):
            if open_run(self.path) != self:
                raise ConfigError(f"Another process has just changed {self.path}; start the command again.")
            yield


def open_run(path: str | Path) -> Run:
    """Open an existing run.

    Raises:
        ConfigError: there is none, or it was written by another version.
    """
    path = Path(path)
    file = path / "run.json"
    if not file.is_file():
        raise ConfigError(f"{path} is no run (it has no run.json). Start one with `oppu run --run {path} …`.")
    values = read_json(file)
    try:
        if values["checksum"] != _checksum(values):
            raise ConfigError(
                f"{file} was changed after the run was started, and does not say how its answers came about. "
                "Undo the change, or start a new run."
            )
        if values["format"] != FORMAT:
            raise ConfigError(f"{file} has format {values['format']}; this version reads format {FORMAT}.")
        store = Path(values["store"]) if values["store"] else path.parent / "store"
        return Run(path, RunConfig.from_json(values["config"]), values["provenance"], store)
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{file} is not a run's description ({error}); start a new run.") from error


def follow_data(run: Run, fingerprints: Mapping[str, str]) -> None:
    """Let a run stand on datasets (and profiles) that a user was taken out of.

    Args:
        run: The run.
        fingerprints: {task: the dataset's new fingerprint}.
    """
    values = read_json(run.path / "run.json")
    values["provenance"]["data"] |= fingerprints
    values["provenance"]["profiles"] = profile_hashes(run.config.profiles)
    _describe(run.path, values)


def _checksum(values: Mapping[str, Any]) -> str:
    return content_id({name: value for name, value in values.items() if name != "checksum"})


def start_run(path: str | Path, asked: RunOptions | RunConfig, store: Path | None = None) -> Run:
    """Start a run, or continue one that was asked for the same; one that has not begun may have been asked
    for anything.

    Args:
        path: The run's folder.
        asked: Options, or what they came to.
        store: Where weights are kept, if the options do not say; by default beside the run.

    Raises:
        ConfigError: the folder holds a run with another configuration, or something else.
    """
    path = Path(path)
    config, store = (resolve_config(asked), asked.store) if isinstance(asked, RunOptions) else (asked, store)
    datasets = {task: Dataset.open(Path(folder)) for task, folder in config.data.items()}
    for task, dataset in datasets.items():
        dataset.verify()
        if not dataset.counts["test"]["queries"]:
            raise DataError(
                f"The dataset {dataset.path} ({task}) has no test queries; there is nothing to answer."
            )
    provenance = {
        "base": base_identity(
            base_folder(config.model), config.dtype, config.quantize, config.prompt_format
        ).to_json(),
        "data": {task: dataset.fingerprint for task, dataset in datasets.items()},
        "profiles": _check_profiles(config, datasets),
        "versions": versions(),
    }
    values = {
        "format": FORMAT,
        "config": config.to_json(),
        "provenance": provenance,
        "store": str(store.resolve()) if store else None,
    }
    if not (path / "run.json").exists():
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ConfigError(f"{path} exists and is no run; choose another --run.")
        path.mkdir(parents=True, exist_ok=True)
        _describe(path, values)
        return open_run(path)
    run = open_run(path)
    if not run.begun:
        with run.lock():
            if not run.begun:  # still
                _describe(path, values)
                return open_run(path)
    # A dataset or file may have moved: its fingerprint tells it, not its place.
    old, new = (
        {**c.to_json(), "base": p["base"], "data": p["data"], "profiles": p.get("profiles", {})}
        for c, p in ((run.config, run.provenance), (config, provenance))
    )
    changes = list(differences(old, new))
    if store is not None and store.resolve() != run.store_path.resolve():
        changes.append(("store", str(run.store_path), str(store)))
    if changes:
        raise ConfigError(
            f"{path} was started with another configuration:\n"
            + "\n".join(f"  {name}: {before!r} then, {after!r} now" for name, before, after in changes)
            + "\nUse the old one, or another --run (what is in the store is not trained again)."
        )
    if (run.config.data, run.config.profiles) != (config.data, config.profiles):
        _describe(path, {**read_json(path / "run.json"), "config": config.to_json()})
    return open_run(path)


def _describe(path: Path, values: Mapping[str, Any]) -> None:
    """Write ``run.json``."""
    write_json(path / "run.json", {**values, "checksum": _checksum(values)})


def versions() -> dict[str, str]:
    """Of Python and the packages that results depend on."""
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }


def _check_profiles(config: RunConfig, datasets: Mapping[str, Dataset]) -> dict[str, str]:
    """The hashes of given profiles by task, once they are seen to fit the run.

    Raises:
        ConfigError: they are of a task that the run does not have, or lack users who need one.
        DataError: a file is unusable.
    """
    given = read_profiles([Path(path) for path in config.profiles])
    if strangers := [task for task in given if task not in datasets]:
        raise ConfigError(
            f"--profiles {', '.join(config.profiles)}: profiles of {', '.join(map(shown, strangers))}, "
            f"but this run's tasks are {', '.join(datasets)}."
        )
    if any(parse_method(name).profile for name in config.methods):
        for task, texts in given.items():
            users = itertools.islice(datasets[task].users("test"), config.users)
            check_covered(texts, datasets[task], users, histories=config.examples == "queries+history")
    return _hashes(given)


def profile_hashes(paths: Sequence[str | Path]) -> dict[str, str]:
    """The hashes of the profile texts in some files, by task."""
    return _hashes(read_profiles([Path(path) for path in paths]))


def _hashes(given: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    return {task: content_id(texts) for task, texts in given.items()}


def differences(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two JSON values differ: (dotted name, old, new)."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            yield from differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    elif old != new:
        yield name, old, new
