"""The run folder: what was asked for, with which versions and data, and what has come of it so far.

A run is continued by starting its command again; a run that was asked for something else refuses, and shows
the difference. Weights lie in the store beside it, so that a new run trains nothing twice.
"""

import contextlib
import dataclasses
import fcntl
import importlib.metadata
import itertools
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from oppu_core.data.dataset import Dataset
from oppu_core.data.types import User
from oppu_core.errors import ConfigError, DataError
from oppu_core.files import canonical_json, read_json, read_jsonl, write_json, write_jsonl
from oppu_core.inference import Answer, QueryId
from oppu_core.models import BaseIdentity, Dtype, base_folder, base_identity
from oppu_core.prompts import parse_method
from oppu_core.training.config import (
    Preset,
    TrainConfig,
    personal_config,
    resolve_preset,
    task_config,
)

FORMAT = 1
PACKAGES = ("oppu-core", "torch", "transformers", "peft", "tokenizers", "numpy", "rank-bm25")


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Everything that a run's results depend on.

    Attributes:
        data: Dataset folders by task.
        model: ``tiny``, a folder or a hub id.
        methods: Names of methods, in the order of the table.
        task_lora: Training settings of task LoRAs by task.
        personal: Training settings of personal adapters by task.
        dtype: The type of the base's weights.
        seed: Of training, random retrieval and sampling.
        users: How many test users (the dataset's first ones); None takes all.
        sample: Whether answers are sampled as in the paper instead of greedy.
    """

    data: Mapping[str, str]
    model: str
    methods: tuple[str, ...]
    task_lora: Mapping[str, TrainConfig]
    personal: Mapping[str, TrainConfig]
    dtype: Dtype
    seed: int
    users: int | None
    sample: bool

    def to_json(self) -> dict[str, Any]:
        """As it stands in ``run.json``."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "RunConfig":
        """Read :meth:`to_json`'s value."""

        def training(by_task: Mapping[str, Any]) -> dict[str, TrainConfig]:
            return {t: TrainConfig(**{**v, "targets": tuple(v["targets"])}) for t, v in by_task.items()}

        return cls(
            **{
                **values,
                "methods": tuple(values["methods"]),
                "task_lora": training(values["task_lora"]),
                "personal": training(values["personal"]),
            }
        )


def resolve_config(
    *,
    data: Sequence[Path],
    model: str,
    methods: Sequence[str],
    preset: Preset,
    overrides: Sequence[str],
    dtype: Dtype,
    seed: int,
    users: int | None,
    sample: bool,
) -> RunConfig:
    """Turn what a person asked for into a complete configuration.

    Args:
        data: Dataset folders, each of another task.
        model: The base.
        methods: Their names.
        preset: Training settings to start from.
        overrides: ``personal.epochs=3``, ``task_lora.learning_rate=1e-4`` …
        dtype: The type of the base's weights.
        seed: The seed of everything.
        users: At most so many test users.
        sample: Sample answers.

    Raises:
        ConfigError: an option is wrong.
        DataError: a dataset cannot be opened.
        ModelError: the base is not there.
    """
    names = tuple(dict.fromkeys(parse_method(name).name for name in methods))
    if not names:
        raise ConfigError("No method was asked for; see --methods.")
    if users is not None and users < 1:
        raise ConfigError(f"--users {users}: at least one test user is needed.")
    datasets = [Dataset.open(path) for path in data]
    tasks = [dataset.task.name for dataset in datasets]
    if not tasks or len(set(tasks)) < len(tasks):
        raise ConfigError(
            f"--data names {len(tasks)} datasets of the tasks {', '.join(tasks) or '(none)'}; "
            "one dataset of each task is needed."
        )
    folder = base_folder(model)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    chosen = resolve_preset(preset, size // 2)  # two bytes a parameter; the presets are orders apart
    settings = [
        {task: _override(kind, make(task, chosen, seed), overrides) for task in tasks}
        for kind, make in (("task_lora", task_config), ("personal", personal_config))
    ]
    return RunConfig(
        data={dataset.task.name: str(dataset.path.resolve()) for dataset in datasets},
        model=model if folder != Path(model).expanduser() else str(folder.resolve()),
        methods=names,
        task_lora=settings[0],
        personal=settings[1],
        dtype=dtype,
        seed=seed,
        users=users,
        sample=sample,
    )


def _override(kind: str, config: TrainConfig, overrides: Sequence[str]) -> TrainConfig:
    """Apply ``kind.field=value`` settings to a training configuration."""
    types = get_type_hints(TrainConfig)
    fields = [name for name in types if name != "seed"]
    for text in overrides:
        name, separator, value = text.partition("=")
        target, _, field = name.strip().partition(".")
        if not separator or target not in ("task_lora", "personal") or field not in fields:
            raise ConfigError(
                f"--set {text!r} is not understood. Write --set personal.epochs=3 or "
                f"--set task_lora.learning_rate=1e-4; fields: {', '.join(fields)}."
            )
        if target != kind:
            continue
        try:
            new: Any
            if field == "targets":
                new = tuple(part.strip() for part in value.split(",") if part.strip())
            elif types[field] is bool:
                new = {"true": True, "false": False}[value.strip().lower()]
            else:
                new = types[field](value)
        except (ValueError, KeyError) as error:
            raise ConfigError(f"--set {text!r}: {value!r} is no {types[field].__name__}.") from error
        config = dataclasses.replace(config, **{field: new})
    return check_training(kind, config)


def check_training(kind: str, config: TrainConfig) -> TrainConfig:
    """Refuse settings that cannot train.

    Raises:
        ConfigError: naming the field.
    """
    positive = ("rank", "alpha", "learning_rate", "max_grad_norm", "epochs", "batch_size")
    for field in positive:
        value = getattr(config, field)
        if not 0 < value < float("inf"):
            raise ConfigError(f"{kind}.{field} is {value}; it has to be above 0.")
    for field in ("dropout", "warmup"):
        if not 0 <= getattr(config, field) < 1:
            raise ConfigError(f"{kind}.{field} is {getattr(config, field)}; it has to be in [0, 1).")
    if not config.targets:
        raise ConfigError(f"{kind}.targets is empty; name at least one projection.")
    return config


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

    def predictions_path(self, task: str, method: str) -> Path:
        """The prediction file of a method."""
        return self.path / task / "predictions" / f"{method}.jsonl"

    def predictions(self, task: str, method: str) -> dict[QueryId, str]:
        """A method's answers by (user id, query id); empty when it has not been answered yet."""
        path = self.predictions_path(task, method)
        if not path.exists():
            return {}
        return {(row["user_id"], row["id"]): row["answer"] for row in read_jsonl(path)}

    def profiles_path(self, task: str) -> Path:
        """The profile texts of a task."""
        return self.path / task / "profiles.jsonl"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from working on the same run; the system lifts it if this one is killed.

        Raises:
            ConfigError: another process works on it.
        """
        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConfigError(
                    f"Another process is working on {self.path}; wait for it to end."
                ) from error
            yield


class Journal:
    """Answers of one method that are finished but not yet a whole prediction file.

    Args:
        path: The prediction file; the journal lies beside it.
    """

    def __init__(self, path: Path) -> None:
        self._target = path
        self._path = path.parent / f".{path.stem}.partial.jsonl"

    def read(self) -> dict[QueryId, Answer]:
        """What is answered already; a line torn by a kill is dropped."""
        rows = read_jsonl(self._target) if self._target.exists() else []
        if self._path.exists():
            for line in self._path.read_bytes().split(b"\n")[:-1]:
                with contextlib.suppress(ValueError):
                    rows.append(json.loads(line))
        return {(row["user_id"], row["id"]): Answer(**row) for row in rows}

    def add(self, answers: Sequence[Answer]) -> None:
        """Append finished answers."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a+b") as file:
            if file.tell():  # a killed writer's torn last line must not run into the next one
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            for one in answers:
                file.write(canonical_json(dataclasses.asdict(one)).encode() + b"\n")

    def finish(self, answers: Mapping[QueryId, Answer], order: Sequence[QueryId]) -> None:
        """Write the prediction file whole, in the order of the dataset, and drop the journal."""
        write_jsonl(self._target, [dataclasses.asdict(answers[key]) for key in order if key in answers])
        self._path.unlink(missing_ok=True)


def open_run(path: Path, store: Path | None = None) -> Run:
    """Open an existing run.

    Raises:
        ConfigError: there is none, or it was written by another version.
    """
    file = path / "run.json"
    if not file.is_file():
        raise ConfigError(f"{path} is no run (it has no run.json). Start one with `oppu run --run {path} …`.")
    values = read_json(file)
    try:
        if values["format"] != FORMAT:
            raise ConfigError(f"{file} has format {values['format']}; this version reads format {FORMAT}.")
        return Run(
            path, RunConfig.from_json(values["config"]), values["provenance"], store or path.parent / "store"
        )
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{file} is not a run's description ({error}); start a new run.") from error


def start_run(path: Path, config: RunConfig, store: Path | None = None) -> Run:
    """Start a run, or continue one that was asked for the same.

    Raises:
        ConfigError: the folder holds a run with another configuration, or something else.
    """
    provenance = {
        "base": dataclasses.asdict(base_identity(base_folder(config.model), config.dtype)),
        "data": {task: Dataset.open(Path(folder)).fingerprint for task, folder in config.data.items()},
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in PACKAGES},
        },
    }
    if (path / "run.json").exists():
        run = open_run(path, store)
        new = {**config.to_json(), "base": provenance["base"], "data fingerprint": provenance["data"]}
        old = {
            **run.config.to_json(),
            "base": run.provenance["base"],
            "data fingerprint": run.provenance["data"],
        }
        changes = list(_differences(old, new))
        if changes:
            raise ConfigError(
                f"{path} was started with another configuration:\n"
                + "\n".join(f"  {name}: {before!r} then, {after!r} now" for name, before, after in changes)
                + "\nUse the old one, or another --run (what is in the store is not trained again)."
            )
        return run
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(f"{path} exists and is no run; choose another --run.")
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / "run.json", {"format": FORMAT, "config": config.to_json(), "provenance": provenance})
    return open_run(path, store)


def _differences(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            yield from _differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    elif old != new:
        yield name, old, new
