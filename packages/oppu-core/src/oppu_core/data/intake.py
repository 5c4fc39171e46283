"""What all importers share: the protocol of a reader, and the checks between it and a dataset."""

import collections
import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from oppu_core.data.moments import moment
from oppu_core.data.parsing import as_item, as_query
from oppu_core.data.rejected import Place, Rejects, Unusable
from oppu_core.data.schema import shown
from oppu_core.data.types import HistoryItem, Query, Split, User
from oppu_core.errors import DataError
from oppu_core.storage.files import file_sha256
from oppu_core.tasks.task import Task
from oppu_core.texts import unseen

T = TypeVar("T")
OnProgress = Callable[[int, int], object]
TestSplit = Literal["dev", "val", "test"]  # LaMP says dev where LongLaMP says val
_DIFFERENT = 1_000  # answers that are counted separately: memory stays bounded
_LOOKED_AT = 10_000  # texts, and characters of each, that are examined to find the script


class Reader(Protocol):
    """Reads files of one format; constructors raise if the files are unusable.

    Attributes:
        task: The given or detected task.
        source: Where the data comes from, for :func:`oppu_core.data.dataset_writer.write_dataset`: `kind`,
            `files` and the reader's counts. Complete once :meth:`users` is exhausted.
        notes: Notes for the person who imports. Complete once :meth:`users` is exhausted.
        intake: Checks the users; set when :meth:`users` starts.
    """

    task: Task
    source: dict[str, Any]
    notes: list[str]
    intake: "Intake"

    def users(self, scratch: Path, rejects: Rejects, on_progress: OnProgress) -> Iterator[User]:
        """Yield every usable user, using little memory.

        Args:
            scratch: A folder for temporary files; ``profiles.jsonl`` in it is kept.
            rejects: Collects refused records.
            on_progress: Called with the bytes read so far and in all.

        Raises:
            DataError: a whole file cannot be used, or `rejects` is strict.
        """
        ...


def id_of(value: Any) -> str:
    """A unit's id as part of a message; empty if it has none."""
    return f" {shown(value['id'])}" if isinstance(value, dict) and isinstance(value.get("id"), str) else ""


class Intake:
    """Checks users on their way into a dataset: user ids and ids of test queries must be unique.

    Attributes:
        outside: Counts of the golds, and of the history's answers, that are not labels of the task.
        texts: Of the first texts, the number of all (``all``) and of those that the official scorer does not
            see (``unseen``).
        turned: Number of histories that came newest first and were reversed.
        undated: Number of histories in which only some items have a date.
    """

    def __init__(self, task: Task, rejects: Rejects) -> None:
        self.task, self.rejects = task, rejects
        self.outside: dict[str, collections.Counter[str]] = {"gold": collections.Counter()}
        self.texts: collections.Counter[str] = collections.Counter()
        self.turned = self.undated = 0
        self._users: dict[bytes, tuple[Path, int | None]] = {}
        self._queries: dict[str, Place] = {}

    def keep(self, place: Place, unit: str, value: Any, check: Callable[[Any], T]) -> T | None:
        """The result of `check`; None if it refuses the value."""
        try:
            return check(value)
        except Unusable as problem:
            self.rejects.add(place, unit, problem, value)
            return None

    def items(self, place: Place, values: list[Any]) -> list[HistoryItem]:
        """The usable history items, stably sorted by date if all have one."""
        checked = (self.item(place, value) for value in values)
        return self.in_order([item for item in checked if item is not None])

    def in_order(self, items: list[HistoryItem]) -> list[HistoryItem]:
        """Like :func:`in_order`, and counts what was reversed."""
        dates = [item.date for item in items]
        self.turned += newest_first(dates)
        self.undated += 0 < dates.count(None) < len(dates)
        return in_order(items)

    def item(self, place: Place, value: Any) -> HistoryItem | None:
        """A usable history item."""
        unit = f"history item{id_of(value)}"
        return self.keep(place, unit, value, lambda value: as_item(self.task, value))

    def query(self, place: Place, value: Any, history_len: int) -> Query | None:
        """A usable query."""
        return self.keep(
            place, f"query{id_of(value)}", value, lambda value: as_query(self.task, value, history_len)
        )

    def has(self, user_id: str) -> bool:
        """Whether a user with this id has been accepted."""
        return digest(user_id) in self._users

    def new_user(self, place: Place) -> None:
        """Refuse a user whose id was seen before."""
        first = self._users.get(digest(place.user_id or ""))
        if first is not None:
            raise Unusable("user_id occurs twice", f"first in {first[0].name}, record {first[1]}")

    def user(
        self, place: Place, split: Split, items: Iterable[HistoryItem], queries: Iterable[Query]
    ) -> User:
        """An accepted user: test users need a history, others a history or queries.

        Raises:
            Unusable: nothing usable is left.
            DataError: another test user has a query of the same id.
        """
        assert place.user_id is not None
        own: dict[str, Query] = {}
        for query in queries:
            if own.setdefault(query.id, query) is not query:
                problem = Unusable("its id occurs twice with this user")
                self.rejects.add(place, f"query {shown(query.id)}", problem, dataclasses.asdict(query))
        user = User(place.user_id, split, tuple(items), tuple(own.values()))
        if not user.history and (split == "test" or not user.queries):
            raise Unusable("has no usable history" if split == "test" else "has nothing usable")
        self._look(place, user)
        for query in user.queries if split == "test" else ():
            first = self._queries.setdefault(query.id, place)
            if first != place:
                raise DataError(
                    f"{place}: query {shown(query.id)} has the id of a query of {first}. Rename one of them."
                )
        self._users[digest(place.user_id)] = (place.file, place.record)
        return user

    def _look(self, place: Place, user: User) -> None:
        """Count answers that are not labels, and texts in scripts that the official scorer does not see."""
        output, labels = self.task.output_field, self.task.labels
        answers = [("gold", query.gold) for query in user.queries if query.gold is not None]
        if output is not None:
            answers += [(f"{output} of the history", item.fields[output]) for item in user.history]
        for what, answer in answers if labels else ():
            if self.task.label_of(answer) is None:
                counts = self.outside.setdefault(what, collections.Counter())
                counts[shown(answer) if len(counts) < _DIFFERENT else "others"] += 1
                if what == "gold" and self.rejects.strict:
                    raise DataError(
                        f"{place}: the gold {shown(answer)} is none of the labels {', '.join(labels)}. "
                        "Correct it, or import without --strict."
                    )
        if self.texts["all"] < _LOOKED_AT:
            texts = [
                text
                for item in user.history
                for name, text in item.fields.items()
                if name != output or not labels
            ]
            texts += [text for query in user.queries for text in query.fields.values()]
            self.texts["all"] += len(texts)
            self.texts["unseen"] += sum(unseen(text[:_LOOKED_AT]) for text in texts)

    def notes(self) -> list[str]:
        """Notes on the imported users, for the person who imports."""
        notes = []
        for what, counts in self.outside.items():
            if counts:
                some = ", ".join(f"{answer} ({count:,})" for answer, count in counts.most_common(3))
                more = ", …" if len(counts) > 3 else ""
                so = outside_labels(self.task) if what == "gold" else "adapters learn them all the same"
                notes.append(f"{counts.total():,} × {what} is none of the task's labels: {some}{more}; {so}.")
        if self.turned:
            notes.append(
                f"{self.turned:,} histories stand newest first in the file; items of one day, or without a "
                "date, were put in the opposite order, as all the others."
            )
        if self.undated:
            notes.append(
                f"{self.undated:,} histories have dates for some items alone and keep the file's order; is "
                "it the order of time?"
            )
        return notes


def outside_labels(task: Task) -> str:
    """How golds that are not labels are scored."""
    return "they are scored by distance" if task.kind == "rating" else "no answer to them can be right"


def in_order(items: list[HistoryItem]) -> list[HistoryItem]:
    """Items stably sorted by date if all have one, so that "what came before" is a prefix.

    A history that is newest first is reversed, so that items of one day, or without a date, are in order too.
    """
    dates = [item.date for item in items]
    ordered = items[::-1] if newest_first(dates) else items
    return ordered if None in dates else sorted(ordered, key=when)


def newest_first(dates: Sequence[str | None]) -> bool:
    """Whether dates decrease from first to last, and some are equal or missing."""
    known = [at_of(date) for date in dates if date is not None]
    if len(set(known)) < 2 or len(set(known)) == len(dates):
        return False
    return all(one >= other for one, other in itertools.pairwise(known))


def when(item: HistoryItem) -> int:
    """The sort key of an item with a date."""
    return at_of(item.date or "")


def at_of(date: str) -> int:
    """Microseconds since 1970; 0 if the text is not a date."""
    read = moment(date)
    return read.at if read else 0


def described(files: Iterable[Path]) -> list[dict[str, Any]]:
    """Name, size in bytes and sha256 of files, for a dataset's source.

    Raises:
        DataError: a file cannot be read.
    """
    try:
        return [
            {"file": file.name, "bytes": file.stat().st_size, "sha256": file_sha256(file)} for file in files
        ]
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error}.") from error


def digest(text: str) -> bytes:
    """A short hash in place of an id, where very many have to be remembered."""
    return hashlib.sha256(text.encode()).digest()[:16]
