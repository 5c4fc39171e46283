"""What every reader shares: a value of a file becomes a history item, a query or a user, or is refused.

The smallest unit is refused: the item, the query, else the user. Knows no file format.
"""

import collections
import dataclasses
import hashlib
import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from oppu_core.data.moments import any_time, moment, why_no_time
from oppu_core.data.rejected import Place, Rejects, Unusable
from oppu_core.data.schema import shown
from oppu_core.data.types import HistoryItem, Query, Split, User
from oppu_core.errors import DataError
from oppu_core.storage.files import file_sha256
from oppu_core.tasks.task import Task
from oppu_core.texts import as_number, number_text, unseen

T = TypeVar("T")
OnProgress = Callable[[int, int], object]

MAX_ID_CHARS = 1_000
MAX_TEXT_CHARS = 1_000_000
# What stands for nothing in an id or a time: pandas, SQL and Spark write it as text.
MISSING = (None, "", "nan", "NaN", "None", "NULL", "null", "<NA>", "NaT", "\\N")
_ROUNDED = re.compile(r"[+-]?\d(\.\d+)?[eE]\+\d+|[+-]?\d\.\d+[eE]\d+")
_DIFFERENT = 1_000  # answers that are counted one by one: memory stays bounded
_LOOKED_AT = 10_000  # texts, and characters of each, that tell a script
_NAMES = {
    dict: "an object", list: "a list", bool: "true or false", type(None): "null", bytes: "bytes",
}  # fmt: skip


class Reader(Protocol):
    """Files of one format, found and understood; the constructors raise what makes them unusable.

    Attributes:
        task: The given or detected task.
        source: Where the data comes from, for :func:`oppu_core.data.dataset.write_dataset`: `kind`, `files`
            and what the reader counts. Complete when :meth:`users` has run to its end.
        notes: What a person should know of, once :meth:`users` has run to its end.
        intake: Saw the users, from the start of :meth:`users` on.
    """

    task: Task
    source: dict[str, Any]
    notes: list[str]
    intake: "Intake"

    def users(self, scratch: Path, rejects: Rejects, on_progress: OnProgress) -> Iterator[User]:
        """Yield every usable user, in little memory.

        Args:
            scratch: A folder for what is needed on the way; ``profiles.jsonl`` in it is kept.
            rejects: Where refused records go.
            on_progress: Called with the bytes read so far and in all.

        Raises:
            DataError: a whole file cannot be used, or `rejects` is strict.
        """
        ...


def as_object(value: Any) -> dict[str, Any]:
    """The value, if it is a JSON object."""
    if isinstance(value, dict):
        return value
    raise Unusable(f"is not an object but {_name(value)}")


def as_list(record: Mapping[str, Any], name: str) -> list[Any]:
    """A field that must be a list."""
    value = record.get(name)
    if isinstance(value, list):
        return value
    raise Unusable(f"{name} must be a list, but is {_name(value) if name in record else 'missing'}")


def as_text(record: Mapping[str, Any], name: str, empty: bool = False) -> str:
    """A field that must be text and, unless `empty`, must say something."""
    value = record.get(name)
    if not isinstance(value, str):
        raise Unusable(f"{name} must be text, but is {_name(value) if name in record else 'missing'}")
    if not empty and not value.strip():
        raise Unusable(f"{name} is empty")
    if len(value) > MAX_TEXT_CHARS:
        raise Unusable(f"{name} has more than {MAX_TEXT_CHARS:,} characters", f"{len(value):,}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Unusable(f"{name} has a broken character (a lone surrogate)", shown(value)) from None
    return value


def as_id(record: Mapping[str, Any], name: str) -> str:
    """A field that identifies: kept exactly as it is, so that there is a limit to it."""
    value = as_text(record, name)
    if len(value) > MAX_ID_CHARS:
        raise Unusable(f"{name} has more than {MAX_ID_CHARS:,} characters", f"{len(value):,}")
    return value


def as_user_id(record: Mapping[str, Any]) -> str:
    """The id of a user; what stands for a missing one would be one giant user."""
    if record.get("user_id") in MISSING[2:]:
        raise Unusable("user_id is missing", shown(record["user_id"]))
    user_id = as_id(record, "user_id")
    if _ROUNDED.fullmatch(user_id):  # two users may have become one
        raise Unusable("user_id is a number that has lost its last digits", shown(user_id))
    return user_id


def as_date(record: Mapping[str, Any], name: str = "date") -> str | None:
    """A date or a time in UTC (:class:`oppu_core.data.moments.Moment`), or None where it is missing, null or
    empty."""
    if record.get(name) in MISSING:
        return None
    text = as_text(record, name)
    if (date := any_time(text)) is None:
        raise Unusable(f"{name} is not an ISO date", shown(text) + why_no_time(text))
    if not date.plausible:
        raise Unusable(f"{name} is no plausible date", shown(text))
    return date.text


def as_fields(
    record: Mapping[str, Any], names: Iterable[str], optional: Iterable[str] = ()
) -> dict[str, str]:
    """Several fields in composed Unicode; the optional ones may be missing, null or empty."""
    return {
        name: ""
        if name in optional and record.get(name) is None
        else unicodedata.normalize("NFC", as_text(record, name, name in optional))
        for name in names
    }


def as_history(task: Task, record: Mapping[str, Any]) -> dict[str, str]:
    """The fields of a history item, its answer as :func:`as_answer`."""
    fields = as_fields(record, task.history_fields, task.optional_fields)
    if task.output_field is not None and fields[task.output_field]:
        fields[task.output_field] = as_answer(task, fields[task.output_field], task.output_field)
    return fields


def as_answer(task: Task, text: str, name: str) -> str:
    """An answer: the label that it is (:meth:`Task.label_of`), another number of a rating, or the text."""
    if (label := task.label_of(text)) is not None:
        return label
    if task.kind == "rating" and as_number(text) is None:
        hint = "; a decimal comma? Write 4.5" if as_number(text.replace(",", ".", 1)) is not None else ""
        raise Unusable(f"{name} is no number", shown(text) + hint)
    return number_text(text) if task.kind == "rating" else unicodedata.normalize("NFC", text)


def as_item(task: Task, value: Any) -> HistoryItem:
    """A history item of LaMP: ``{"id", "date"?, …}``."""
    record = as_object(value)
    item_id, date = as_id(record, "id"), as_date(record)
    return HistoryItem(item_id, as_history(task, record), date)


def as_query(task: Task, value: Any, history_len: int = 0) -> Query:
    """A query of LaMP: ``{"id", "input", "gold"?, "date"?}``."""
    record = as_object(value)
    query_id, text = as_id(record, "id"), as_text(record, "input")
    fields = task.parse_input(text)
    if fields is None:
        raise Unusable(f"input is not one of task {task.name}", shown(text))
    for name, field in fields.items():
        if not field.strip():
            raise Unusable(f"input has no {name}", shown(text))
    gold = None if record.get("gold") is None else as_answer(task, as_text(record, "gold"), "gold")
    fields = {name: unicodedata.normalize("NFC", field) for name, field in fields.items()}
    return Query(query_id, fields, gold, history_len, date=as_date(record))


def id_of(value: Any) -> str:
    """How a unit is called in a message: by its id, where it has one."""
    return f" {shown(value['id'])}" if isinstance(value, dict) and isinstance(value.get("id"), str) else ""


class Intake:
    """Users on their way into a dataset: a user id and a test query's id may occur once.

    Attributes:
        outside: How often golds, and answers of the history, occur that are none of the task's labels.
        texts: Of the first texts, how many (``all``) and how many that the official scorer does not see
            (``unseen``).
        turned: How many histories came with the newest item first and were turned round.
        undated: How many have a date for some items alone.
    """

    def __init__(self, task: Task, rejects: Rejects) -> None:
        self.task, self.rejects = task, rejects
        self.outside: dict[str, collections.Counter[str]] = {"gold": collections.Counter()}
        self.texts: collections.Counter[str] = collections.Counter()
        self.turned = self.undated = 0
        self._users: dict[bytes, tuple[Path, int | None]] = {}
        self._queries: dict[str, Place] = {}

    def keep(self, place: Place, unit: str, value: Any, check: Callable[[Any], T]) -> T | None:
        """What `check` makes of the value, or None: then it is refused."""
        try:
            return check(value)
        except Unusable as problem:
            self.rejects.add(place, unit, problem, value)
            return None

    def items(self, place: Place, values: list[Any]) -> list[HistoryItem]:
        """The usable history items, sorted by date, stably, when all of them have one."""
        checked = (self.item(place, value) for value in values)
        return self.in_order([item for item in checked if item is not None])

    def in_order(self, items: list[HistoryItem]) -> list[HistoryItem]:
        """:func:`in_order`, counting what was turned round."""
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
        """Whether there is a user of this id by now."""
        return digest(user_id) in self._users

    def new_user(self, place: Place) -> None:
        """Refuse a user whose id has come before."""
        first = self._users.get(digest(place.user_id or ""))
        if first is not None:
            raise Unusable("user_id occurs twice", f"first in {first[0].name}, record {first[1]}")

    def user(
        self, place: Place, split: Split, items: Iterable[HistoryItem], queries: Iterable[Query]
    ) -> User:
        """A user who is used: test users need history, others history or queries.

        Raises:
            Unusable: nothing is left to use.
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
        """Count what is no label, and texts in scripts that the official scorer does not see."""
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
        """What a person should know of the users that came in."""
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
    """What comes of golds that are no labels."""
    return "they are scored by distance" if task.kind == "rating" else "no answer to them can be right"


def in_order(items: list[HistoryItem]) -> list[HistoryItem]:
    """Sorted by date, stably, when all items have one: "what came before" has to be a prefix.

    Where the newest stand first, all are turned round: those of one day, and those without a date.
    """
    dates = [item.date for item in items]
    ordered = items[::-1] if newest_first(dates) else items
    return ordered if None in dates else sorted(ordered, key=when)


def newest_first(dates: Sequence[str | None]) -> bool:
    """Whether dates fall from first to last, but some are the same or missing."""
    known = [at_of(date) for date in dates if date is not None]
    if len(set(known)) < 2 or len(set(known)) == len(dates):
        return False
    return all(one >= other for one, other in itertools.pairwise(known))


def when(item: HistoryItem) -> int:
    """What an item with a date is sorted by."""
    return at_of(item.date or "")


def at_of(date: str) -> int:
    """Microseconds since 1970; 0 for what is no date."""
    read = moment(date)
    return read.at if read else 0


def described(files: Iterable[Path]) -> list[dict[str, Any]]:
    """Name, size and sha256 of files, for a source.

    Raises:
        DataError: one cannot be read.
    """
    try:
        return [
            {"file": file.name, "bytes": file.stat().st_size, "sha256": file_sha256(file)} for file in files
        ]
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error}.") from error


def digest(text: str) -> bytes:
    """What stands for an id where very many have to be remembered."""
    return hashlib.sha256(text.encode()).digest()[:16]


def _name(value: Any) -> str:
    return _NAMES.get(type(value), "text or a number")
