"""What this package keeps of users, for `oppu forget` (entry-point group ``oppu.keeps``)."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from oppu_core.data.dataset import Dataset
from oppu_core.data.types import SPLITS
from oppu_core.errors import ConfigError, DataError
from oppu_core.ownership.traces import Keeper, KeptFolder, Trace, counted
from oppu_core.runs.run import Run, open_run
from oppu_core.storage.files import remove

from oppu_eval import files
from oppu_eval.studies.histories import made_of


class ResultsKeeper(Keeper):
    """Results and reports of runs, and folders of studies.

    They are made from all users at once, so all go; the same commands make them again without the user.
    """

    def folders(self, places: Sequence[Path], runs: Sequence[Run]) -> Iterator[KeptFolder]:
        """The folders of studies: `--out`, and those of runs."""
        for path in (*places, *(run.path / files.STUDIES_FOLDER for run in runs)):
            if (path / files.STUDIES_FILE).is_file():
                yield KeptFolder(path, list(_runs_of(path)), path / files.STUDY_DATA)

    def in_run(self, run: Run, user_id: str, involved: bool) -> Iterator[Trace]:
        """Results made from answers that depend on the user."""
        made = [run.path / name for name in files.OF_RUNS if (run.path / name).exists()]
        if made and involved:
            names = ", ".join(path.name for path in made)
            yield Trace(run.path, f"{names} (made from all users)", partial(remove, *made))

    def in_folder(self, folder: KeptFolder, user_id: str, involved: bool) -> Iterator[Trace]:
        """Derived datasets, runs on them, and results."""
        inner = _run_files(folder.path)
        if involved or any(_stands_on(file, user_id) for file in inner):
            # The list of our files is removed last, so that a killed call finds it again.
            names = files.studies_made(folder.path)
            made = [entry for entry in folder.path.iterdir() if entry.name in names]
            what = f"{counted(len(inner), 'run')} and the results of studies (made from all users)"
            yield Trace(folder.path, what, partial(remove, *made, folder.path / files.STUDIES_FILE))

    def aliases(self, known: Iterable[str], user_id: str) -> list[str]:
        """The users that a study derived from each of the user's queries."""
        return [name for name in known if made_of(name, user_id)]


def _run_files(studies: Path) -> list[Path]:
    return sorted(studies.glob(f"{files.STUDY_RUNS}/*/run.json"))


def _runs_of(studies: Path) -> Iterator[Run]:
    """A study's runs; unreadable ones are left out."""
    for file in _run_files(studies):
        with contextlib.suppress(ConfigError, DataError):
            yield open_run(file.parent)


def _stands_on(run_file: Path, user_id: str) -> bool:
    """Whether a study's run may use a user's data; if it cannot be read, it may."""
    try:
        paths = [Path(path) for path in open_run(run_file.parent).config.data.values()]
        ids = {known for path in paths for split in SPLITS for known in Dataset.open(path).user_ids(split)}
    except (ConfigError, DataError):
        return True
    return any(known == user_id or made_of(known, user_id) for known in ids)
