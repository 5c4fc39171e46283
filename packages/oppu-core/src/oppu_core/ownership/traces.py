"""Traces of a user, and the packages that keep them.

`oppu forget` knows what this package writes: datasets, runs and stores. A package that keeps other data of
users has an entry point in the group ``oppu.keeps`` that names a subclass of :class:`Keeper`::

    [project.entry-points."oppu.keeps"]
    notes = "my_package.forgetting:NotesKeeper"

A keeper that cannot be loaded or that fails ends the command with its name, so that nobody is half forgotten.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from oppu_core.errors import ConfigError, explained
from oppu_core.ownership.plugins import ADVICE, installed
from oppu_core.runs.run import Run
from oppu_core.storage.files import write_bytes

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Trace:
    """Something to remove.

    Attributes:
        place: The file or folder.
        what: A description with numbers, without any of the user's texts.
        remove: Removes it; calling it again is harmless.
        personal: Whether it certainly belongs to the user, rather than being left by some killed process.
    """

    place: Path
    what: str
    remove: Callable[[], object]
    personal: bool = True


@dataclasses.dataclass(frozen=True)
class KeptFolder:
    """A folder in which a package keeps runs or derived datasets, which are removed with the folder.

    Attributes:
        path: The folder.
        runs: Runs in it; the datasets and stores that they name are searched as well.
        data: Folders in it with derived datasets.
    """

    path: Path
    runs: Sequence[Run] = ()
    data: Path | None = None


class Keeper:
    """Finds what a package keeps of users in a workspace; to be subclassed.

    Methods change nothing: what they find is removed after confirmation. A call that was killed meanwhile
    asks again and removes the rest, so things that help to find others must come last. What can no longer be
    told once core has removed its own traces is remembered, and passed as `involved`.
    """

    def folders(self, places: Sequence[Path], runs: Sequence[Run]) -> Iterable[KeptFolder]:
        """The package's own folders.

        Args:
            places: The folder of runs, and the folders in it.
            runs: The runs among these.
        """
        return ()

    def in_run(self, run: Run, user_id: str, involved: bool) -> Iterable[Trace]:
        """Traces in a run's folder; they are removed before those of core.

        Args:
            run: A run; other users' answers may stay in it.
            user_id: The user to forget.
            involved: Whether the run uses the user's data, or its answers depend on the user.
        """
        return ()

    def in_folder(self, folder: KeptFolder, user_id: str, involved: bool) -> Iterable[Trace]:
        """Traces in one of the package's own folders; they are removed last.

        Args:
            folder: One of :meth:`folders`.
            user_id: The user to forget.
            involved: Whether a killed call has already found something here.
        """
        return ()

    def aliases(self, known: Iterable[str], user_id: str) -> Iterable[str]:
        """Those of some ids that the package derived from this user."""
        return ()


@dataclasses.dataclass(frozen=True)
class NamedKeeper:
    """A keeper of another package, with errors that name it.

    Attributes:
        name: The entry point.
        keeper: The keeper.
    """

    name: str
    keeper: Keeper

    def ask(self, question: Callable[[Keeper], Iterable[_T]]) -> list[_T]:
        """The keeper's answer to a question.

        Raises:
            ConfigError: the keeper fails.
        """
        with explained(f"Asking {self.name} what its package keeps of users", ConfigError, ADVICE):
            return list(question(self.keeper))

    def find(self, question: Callable[[Keeper], Iterable[Trace]]) -> list[Trace]:
        """The traces that the keeper finds; errors name it even if removing a trace fails."""
        return self.ask(
            lambda keeper: (
                dataclasses.replace(trace, remove=partial(self._remove, trace)) for trace in question(keeper)
            )
        )

    def _remove(self, trace: Trace) -> None:
        with explained(f"Removing what {self.name} found in {trace.place}", ConfigError, ADVICE):
            trace.remove()


def keepers() -> list[NamedKeeper]:
    """The keepers of all installed packages.

    Raises:
        ConfigError: one cannot be loaded.
    """
    named = []
    for name, make in installed("oppu.keeps"):
        with explained(f"Making {name}", ConfigError, ADVICE):
            named.append(NamedKeeper(name, make()))
    return named


def in_lines(files: Iterable[Path], about: Callable[[Mapping[str, Any]], bool]) -> Iterator[Trace]:
    """The lines of JSONL files about a user; a line torn by a kill may be anybody's and is included.

    Args:
        files: The files; missing ones are skipped.
        about: Whether a line's object is about the user.
    """
    for file in filter(Path.is_file, files):
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
                counted(number, word) for number, word in ((theirs, "line"), (torn, "torn line")) if number
            )
            yield Trace(file, what, partial(write_bytes, file, b"".join(kept)), personal=theirs > 0)


def counted(number: int, word: str, plural: str = "") -> str:
    """E.g. ``1 query``, ``2,000 queries``."""
    return f"{number:,} {word if number == 1 else plural or word + 's'}"
