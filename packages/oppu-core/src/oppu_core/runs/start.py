"""Starting a run, or continuing one with the same configuration."""

import importlib.metadata
import itertools
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from oppu_core.data.dataset import Dataset
from oppu_core.data.schema import shown
from oppu_core.errors import ConfigError, DataError
from oppu_core.modeling.base_files import base_folder, base_identity
from oppu_core.modeling.encoders import Encoder
from oppu_core.prompting.methods import parse_method
from oppu_core.prompting.profile_files import check_covered, read_profiles
from oppu_core.runs.config import RunConfig, resolve_config, uses_encoder
from oppu_core.runs.options import RunOptions
from oppu_core.runs.run import FORMAT, Run, describe, hashes, open_run
from oppu_core.storage.files import read_json

PACKAGES = ("oppu-core", "torch", "transformers", "peft", "bitsandbytes", "tokenizers", "numpy")


def start_run(path: str | Path, asked: RunOptions | RunConfig, store: Path | None = None) -> Run:
    """Start a run, or continue one with the same configuration; one without any results is replaced.

    Args:
        path: The run's folder.
        asked: Options, or a resolved configuration.
        store: Where weights are kept, unless the options say; by default beside the run.

    Raises:
        ConfigError: the folder holds a run with another configuration, or something else.
    """
    path = Path(path)
    config, store = (resolve_config(asked), asked.store) if isinstance(asked, RunOptions) else (asked, store)
    datasets = {task: Dataset.open(Path(folder)) for task, folder in config.data.items()}
    fresh = not (path / "run.json").exists()  # one begun goes on, though others may have been forgotten
    strangers = fresh and any(parse_method(name).adapter == "stranger" for name in config.methods)
    for task, dataset in datasets.items():
        dataset.verify()
        if strangers and len(dataset.user_ids("test")[: config.users]) < 2:
            raise ConfigError(
                f"The methods stranger_… need two test users of {task}: with one there is no other's adapter."
            )
        if not dataset.counts["test"]["queries"]:
            raise DataError(
                f"The dataset {dataset.path} ({task}) has no test queries; there is nothing to answer."
            )
    provenance: dict[str, Any] = {
        "base": base_identity(
            base_folder(config.model), config.dtype, config.quantize, config.prompt_format
        ).to_json(),
        "data": {task: dataset.fingerprint for task, dataset in datasets.items()},
        "profiles": _check_profiles(config, datasets),
        "versions": versions(),
    }
    if uses_encoder(config.methods):
        provenance["encoder"] = Encoder(config.encoder).identity
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
        describe(path, values)
        return open_run(path)
    run = open_run(path)
    if not run.begun:
        with run.lock():
            if not run.begun:  # still
                describe(path, values)
                return open_run(path)
    # A dataset or file may have moved: its fingerprint counts, not its path.
    old, new = (
        {
            **c.to_json(),
            "base": p["base"],
            "data": p["data"],
            "profiles": p.get("profiles", {}),
            "encoder's files": p.get("encoder"),
        }
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
        describe(path, {**read_json(path / "run.json"), "config": config.to_json()})
    return open_run(path)


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that results depend on."""
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }


def _check_profiles(config: RunConfig, datasets: Mapping[str, Dataset]) -> dict[str, str]:
    """The hashes of given profiles by task; refuses those of other tasks, or without users who need one."""
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
    return hashes(given)


def differences(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The differences of two JSON values: (dotted name, old, new)."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            yield from differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    elif old != new:
        yield name, old, new
