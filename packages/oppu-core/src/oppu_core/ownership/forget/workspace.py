"""The places where a user's traces can be."""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from oppu_core.data.dataset import MANIFEST, Dataset
from oppu_core.errors import ConfigError, DataError
from oppu_core.ownership.forget.pending import read_pending
from oppu_core.ownership.traces import KeptFolder, NamedKeeper, keepers
from oppu_core.runs.run import Run, open_run
from oppu_core.storage.files import remove_strays, strays_of
from oppu_core.storage.store import is_store


@dataclasses.dataclass(frozen=True)
class Workspace:
    """The places where a user's traces can be: a folder of runs, the runs' datasets, and stores.

    Attributes:
        folder: The folder of runs, or one run.
        runs: The runs in it.
        datasets: Datasets that runs name, or that are beside them.
        stores: Likewise.
        keepers: The keepers of other packages.
        kept: Their own folders.
        derived: Derived datasets in these folders.
        absent: Datasets that runs name and that are not there.
    """

    folder: Path
    runs: Sequence[Run]
    datasets: Sequence[Dataset]
    stores: Sequence[Path]
    keepers: Sequence[NamedKeeper]
    kept: Sequence[tuple[NamedKeeper, KeptFolder]]
    derived: Sequence[Dataset]
    absent: Sequence[Path]


def open_workspace(folder: Path, data: Sequence[Path] = (), stores: Sequence[Path] = ()) -> Workspace:
    """A folder of runs with the datasets and stores that its runs name or that are in it.

    Args:
        folder: The folder of runs, or one run.
        data: Further datasets.
        stores: Further stores.

    Raises:
        ConfigError: a path is missing or not what it should be, or another package's keeper is broken.
        DataError: a dataset cannot be read.
    """
    if not folder.is_dir():
        raise ConfigError(f"There is no folder of runs at {folder}; name one with --runs.")
    for path in stores:
        if not is_store(path):
            raise ConfigError(f"{path} is not a store (it has no manifest.sqlite).")
    asked = keepers()
    _restore_datasets(folder)
    folders = [folder, *_folders(folder)]
    runs = [_opened(path) for path in folders if (path / "run.json").is_file()]
    kept = [(keeper, one) for keeper in asked for one in keeper.ask(lambda k: k.folders(folders, runs))]
    kept = list({(keeper.name, one.path.resolve()): (keeper, one) for keeper, one in kept}.values())
    all_runs = [*runs, *(run for _, one in kept for run in one.runs)]
    named = [Path(path) for run in all_runs for path in run.config.data.values()]
    inside = [path for one in folders for path in (*_folders(one), *_folders(one / "own"))]
    datasets = [path for path in (*named, *inside) if (path / MANIFEST).is_file()]
    known = [path for path in (*(run.store_path for run in all_runs), *folders)
             if is_store(path)]  # fmt: skip
    opened = [Dataset.open(path) for path in distinct([*data, *datasets])]
    inner = [one.data.resolve() for _, one in kept if one.data is not None]
    derived = [dataset for dataset in opened if dataset.path.resolve().parent in inner]
    return Workspace(
        folder,
        runs,
        [dataset for dataset in opened if dataset not in derived],
        distinct([*stores, *known]),
        asked,
        kept,
        derived,
        distinct([path for run in runs for path in map(Path, run.config.data.values()) if not path.is_dir()]),
    )


def _opened(path: Path) -> Run:
    try:
        return open_run(path)
    except ConfigError as error:
        raise ConfigError(
            f"{error} Until {path} can be read, it is not known what it holds of whom: put its run.json "
            "back, or move the folder away if nobody needs it."
        ) from error


def distinct(paths: Sequence[Path]) -> list[Path]:
    """The paths without duplicates."""
    return list({path.resolve(): path for path in paths}.values())


def full_name(path: Path) -> str:
    """The form in which paths are recorded."""
    return str(path.resolve())


def _folders(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".tmp-"))


def _restore_datasets(folder: Path) -> None:
    """Restore a dataset, old or new, that a killed call had just moved aside."""
    pending = read_pending(folder)
    for path in map(Path, pending.datasets if pending else ()):
        for stray in strays_of(path):
            if not path.exists() and (stray / MANIFEST).is_file():
                with contextlib.suppress(DataError):  # incomplete: then the other one is complete
                    Dataset.open(stray).verify()
                    stray.rename(path)
        remove_strays(path)
