"""The run folder: its configuration, versions and data, and its results so far.

A run is continued by starting its command again; with another configuration it refuses, and shows the
differences. A run without any results, because its start failed, takes the new configuration. Weights are in
the store beside it, so that a new run trains nothing twice.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from oppu_core.data.dataset import MANIFEST, Dataset
from oppu_core.data.types import User
from oppu_core.errors import ConfigError, DataError
from oppu_core.modeling.base_files import BaseIdentity
from oppu_core.modeling.encoders import Encoder
from oppu_core.prompting.profile_files import Profiles, read_profiles
from oppu_core.runs.config import RunConfig
from oppu_core.runs.predictions import QueryId, read_answers
from oppu_core.storage.files import content_id, locked, read_appended, read_json, write_json

_LOG = "log.jsonl"
FORMAT = 1
OUTCOMES = ("task_lora", "user")  # events in the log that mean something was trained


@dataclasses.dataclass(frozen=True)
class Run:
    """A run folder.

    Attributes:
        path: The folder.
        config: Its configuration.
        provenance: Fingerprints of base and data, and versions of packages.
        store_path: The store of its weights.
    """

    path: Path
    config: RunConfig
    provenance: Mapping[str, Any]
    store_path: Path

    @property
    def log_path(self) -> Path:
        """The JSONL log."""
        return self.path / _LOG

    def base_identity(self) -> BaseIdentity:
        """The base that the run was started with."""
        return BaseIdentity(**self.provenance["base"])

    def encoder(self, device: str = "auto") -> Encoder:
        """The sentence encoder that the run was started with."""
        return Encoder(self.config.encoder, self.provenance.get("encoder"), device)

    def dataset(self, task: str) -> Dataset:
        """The run's dataset of a task.

        Raises:
            DataError: it is gone, or has changed since the run was started.
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
            DataError: a file of profiles is gone, or has changed since the run was started.
        """
        given = read_profiles([Path(path) for path in self.config.profiles])
        task = dataset.task.name
        if hashes(given).get(task) != self.provenance.get("profiles", {}).get(task):
            raise DataError(
                f"The profiles of {task} in {', '.join(self.config.profiles)} are no longer those that "
                f"{self.path} was started with. Start a new run (what does not depend on them is reused)."
            )
        return Profiles(dataset.task, given.get(task))

    def own_path(self, task: str) -> Path:
        """The small dataset of a task's users that were added by `oppu personalize`."""
        return self.path / "own" / task

    def own_users(self, task: str) -> list[User]:
        """A task's users that were added by `oppu personalize`."""
        folder = self.own_path(task)
        return list(Dataset.open(folder).users("test")) if (folder / MANIFEST).exists() else []

    def user(self, task: str, user_id: str) -> User:
        """A user added by `oppu personalize`, or else a user of the task's dataset.

        Raises:
            DataError: there is no such user.
        """
        own = {user.user_id: user for user in self.own_users(task)}
        return own[user_id] if user_id in own else self.dataset(task).user(user_id)

    def predictions_path(self, task: str, method: str) -> Path:
        """The prediction file of a method."""
        return self.path / task / "predictions" / f"{method}.jsonl"

    def predictions(self, task: str, method: str) -> dict[QueryId, str]:
        """A method's answers by (user id, query id); empty if there are none yet."""
        path = self.predictions_path(task, method)
        if not path.exists():
            return {}
        return {key: one.answer for key, one in read_answers(path).items()}

    def profiles_path(self, task: str) -> Path:
        """The profile texts of a task."""
        return self.path / task / "profiles.jsonl"

    def plan_path(self, task: str) -> Path:
        """The plan of who is trained together, for a task's personal adapters."""
        return self.path / task / "cohorts.jsonl"

    @property
    def begun(self) -> bool:
        """Whether there is any result: a plan, profile texts, answers, an added user, something trained."""
        folders = [self.path / "own", *(self.path / task for task in self.config.data)]
        return any(folder.exists() for folder in folders) or any(
            isinstance(row, dict) and row.get("event") in OUTCOMES for row in read_appended(self.log_path)
        )

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the run for the block; the system releases the lock if this process is killed.

        Raises:
            ConfigError: another process is working on it, or has just changed it.
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
    try:
        values = read_json(file)
    except DataError as error:
        if isinstance(error.__cause__, PermissionError):
            raise ConfigError(f"{file} cannot be read: you have no permission to.") from error
        raise ConfigError(
            f"{str(error).rstrip('.')}. It is damaged: start a new run with the same options beside it; "
            "what the store has is not trained again."
        ) from error
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
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{file} is not a run's description ({error}); start a new run.") from error


def last_run(folder: Path) -> Path:
    """The run in a folder of runs that was worked on last.

    Raises:
        ConfigError: there is none.
    """
    runs = [file.parent for file in folder.glob("*/run.json")]
    if not runs:
        raise ConfigError(
            f"There is no run in {folder}. Name one with --run, or make one: `oppu quickstart`."
        )

    def worked_on(run: Path) -> tuple[int, str]:
        files = (file for file in (run / "run.json", run / _LOG) if file.exists())
        return max(file.stat().st_mtime_ns for file in files), run.name

    return max(runs, key=worked_on)


def follow_data(run: Run, fingerprints: Mapping[str, str]) -> None:
    """Point a run to datasets (and profiles) from which a user was removed.

    Args:
        run: The run.
        fingerprints: {task: the dataset's new fingerprint}.
    """
    values = read_json(run.path / "run.json")
    values["provenance"]["data"] |= fingerprints
    values["provenance"]["profiles"] = profile_hashes(run.config.profiles)
    describe(run.path, values)


def _checksum(values: Mapping[str, Any]) -> str:
    return content_id({name: value for name, value in values.items() if name != "checksum"})


def describe(path: Path, values: Mapping[str, Any]) -> None:
    """Write ``run.json``."""
    write_json(path / "run.json", {**values, "checksum": _checksum(values)})


def profile_hashes(paths: Sequence[str | Path]) -> dict[str, str]:
    """The hashes of the profile texts in some files, by task."""
    return hashes(read_profiles([Path(path) for path in paths]))


def hashes(given: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    return {task: content_id(texts) for task, texts in given.items()}
