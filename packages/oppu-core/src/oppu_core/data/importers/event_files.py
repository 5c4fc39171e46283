"""Finding the files of a table of events: one file, or the parts in a folder."""

from pathlib import Path

from oppu_core.data.importers.event_rows import SUFFIXES, suffix_of
from oppu_core.data.schema import shown
from oppu_core.errors import DataError


def event_files(path: Path) -> list[Path]:
    """The file itself, or a folder's part files by name, without hidden ones, ``_SUCCESS`` and the like.

    Raises:
        DataError: there is no file, or the folder's files are not parts of one table.
    """
    try:
        if not path.is_dir():
            return [path]
        names = {entry.name: entry for entry in path.iterdir()}
        parts = [names[name] for name in sorted(names) if not name.startswith((".", "_"))]
        folder = next((part for part in parts if part.is_dir()), None)
        files = [part for part in parts if part.stat().st_size]  # parallel writers leave empty ones
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    if "_delta_log" in names:
        raise DataError(
            f"{path} is a Delta table, whose files may be out of date. Export it as plain Parquet or CSV."
        )
    if folder is not None:
        raise DataError(
            f"{path} has a folder in it, {shown(folder.name)}, where events are files of one folder. Import "
            "the inner one, or put all files together."
        )
    if not files:
        raise DataError(f"{path} is a folder without files of events ({', '.join(SUFFIXES)}).")
    return files


def looks_like_parts(path: Path) -> bool:
    """Whether a folder's files are parts of one table, by their names."""
    try:
        suffixes = {suffix_of(file) for file in event_files(path)}
    except DataError:
        return False
    return len(suffixes) == 1 and suffixes <= set(SUFFIXES)
