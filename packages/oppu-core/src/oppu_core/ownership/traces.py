"""What is kept of a user, and the packages that keep it.

`oppu forget` knows what this package writes: datasets, runs and stores. A package that keeps anything else of
users says so by an entry point of the group ``oppu.keeps``, which names a subclass of :class:`Keeper`::

    [project.entry-points."oppu.keeps"]
    notes = "my_package.forgetting:NotesKeeper"

A keeper that cannot be loaded or that fails is named and ends the command: nobody is forgotten by half.
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
        what: In words, with numbers; nothing of the user's texts.
        remove: Removes it; again does no harm.
        personal: Whether it is the user's for certain, not just what anybody's killed process left.
    """

    place: Path
    what: str
    remove: Callable[[], object]
    personal: bool = True


@dataclasses.dataclass(frozen=True)
class KeptFolder:
    """A folder in which a package keeps runs, or data made of others, that go with the folder.

    Attributes:
        path: The folder.
        runs: Runs in it; the datasets and stores that these name are looked into as well.
        data: Where in it datasets lie that were made of others.
    """

    path: Path
    runs: Sequence[Run] = ()
    data: Path | None = None


class Keeper:
    """What a package keeps of users in a workspace; a subclass says what there is of this.

    No method changes anything: what was found is removed when a person has agreed to it. A call that was
    killed meanwhile asks again and removes what is left, so that by which other things are found goes last.
    What cannot be told any more once core has removed its own is remembered, and comes as `involved`.
    """

    def folders(self, places: Sequence[Path], runs: Sequence[Run]) -> Iterable[KeptFolder]:
        """The package's own folders.

        Args:
            places: The folder of runs, and the folders in it.
            runs: The runs among these.
        """
        return ()

    def in_run(self, run: Run, user_id: str, involved: bool) -> Iterable[Trace]:
        """What there is in a run's folder; it is removed before what core has there.

        Args:
            run: A run; it may be one that other users' answers stay in.
            user_id: Whom to forget.
            involved: Whether the run stands on the user's data, or its answers know of the user.
        """
        return ()

    def in_folder(self, folder: KeptFolder, user_id: str, involved: bool) -> Iterable[Trace]:
        """What there is in one of the package's own folders; it is removed last of all.

        Args:
            folder: One of :meth:`folders`.
            user_id: Whom to forget.
            involved: Whether something was found here before, by a call that was killed.
        """
        return ()

    def aliases(self, known: Iterable[str], user_id: str) -> Iterable[str]:
        """Those of some ids that the package made up for something of this user's."""
        return ()


@dataclasses.dataclass(frozen=True)
class NamedKeeper:
    """A keeper of another package; where it fails, the error says which.

    Attributes:
        name: The entry point.
        keeper: What it names.
    """

    name: str
    keeper: Keeper

    def ask(self, question: Callable[[Keeper], Iterable[_T]]) -> list[_T]:
        """What the keeper answers.

        Raises:
            ConfigError: it fails.
        """
        with explained(f"Asking {self.name} what its package keeps of users", ConfigError, ADVICE):
            return list(question(self.keeper))

    def find(self, question: Callable[[Keeper], Iterable[Trace]]) -> list[Trace]:
        """The traces that the keeper answers with; the error names it also where removing one fails."""
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
    """The lines of JSONL files about a user; a line torn by a kill can be anybody's and goes too.

    Args:
        files: Those that do not exist are left out.
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
