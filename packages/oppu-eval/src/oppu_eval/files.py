"""The names of the files that this package writes into runs and into folders of studies."""

from pathlib import Path

from oppu_core.errors import DataError
from oppu_core.storage.files import read_json

RESULTS = "results.json"
REPORT = "report.html"
FIGURES = "figures"
LEADERBOARD = "leaderboard"
OF_RUNS = (RESULTS, REPORT, FIGURES, LEADERBOARD)  # all are made from all users of a run at once

STUDIES_FOLDER = "studies"  # in a run: the folder of studies
STUDIES_FILE = "studies.json"  # in a folder of studies: the names of what `oppu study` has made there
STUDY_RUNS = "runs"  # in a folder of studies
STUDY_DATA = "data"  # likewise: derived datasets


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
