"""Plain events: a row for each thing a user did, with `user_id`, `time`, `input` and `output`, in any order.

A task with several fields, or with names of its own, has columns called like its fields. Rows are gathered
by user on the disk; a user's latest ones become the queries.
"""

import bisect
import collections
import datetime
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from oppu_core.data.event_rows import SUFFIXES, OnBytes, kind_of, read_rows, suffix_of
from oppu_core.data.lamp_files import detect_task
from oppu_core.data.reading import ISO_DATE, Intake, OnProgress, as_fields, as_id, as_text, described
from oppu_core.data.rejects import Place, Rejects, Unusable
from oppu_core.data.rows import shown
from oppu_core.data.spill import Spill, longest
from oppu_core.data.text_files import check_encoding
from oppu_core.data.types import HistoryItem, Query, Split, User
from oppu_core.errors import ConfigError, DataError
from oppu_core.tasks import Task

# The last fifth of a user's events are queries, at least one and at most this many.
MOST_QUERIES: Mapping[Split, int] = {"test": 20, "others": 3}

_NUMBER = re.compile(r"[+-]?\d{1,18}(\.\d{1,18})?([eE][+-]?\d{1,2})?")
_GROUPED_NUMBER = re.compile(r"[+-]?\d{1,3}(([,'\u2019 \u00a0\u202f]\d{3})+|(\.\d{3}){2,})")
_SAMPLED = 1_000
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_UNIT = datetime.timedelta(microseconds=1)


def event_files(path: Path) -> list[Path]:
    """The file itself, or the parts in a folder, by name; hidden ones, ``_SUCCESS`` and the like are none.

    Raises:
        DataError: there is none, or the folder cannot be taken as parts of one table.
    """
    try:
        if not path.is_dir():
            return [path]
        names = {entry.name: entry for entry in path.iterdir()}
        parts = [names[name] for name in sorted(names) if not name.startswith((".", "_"))]
        folder = next((part for part in parts if part.is_dir()), None)
        files = [part for part in parts if part.stat().st_size]  # who writes in parallel leaves empty ones
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
    """Whether a folder's files, which nobody has named, are parts of a table by their names."""
    try:
        suffixes = {suffix_of(file) for file in event_files(path)}
    except DataError:
        return False
    return len(suffixes) == 1 and suffixes <= set(SUFFIXES)


class Events:
    """A table of events, in one file or in parts; a :class:`oppu_core.data.reading.Reader`."""

    def __init__(
        self,
        path: Path,
        task: Task | None = None,
        test_users: int | None = None,
        queries: int | None = None,
        encoding: str | None = None,
    ) -> None:
        """Check that the files are a table with the task's columns.

        Args:
            path: The file (JSON lines, a JSON list, CSV, Parquet), or a folder of part files of one kind.
            task: The task; told by the columns' names if it is not given.
            test_users: How many users, those with the longest histories, become test users
                (:func:`oppu_core.data.spill.longest`).
            queries: How many of a test user's latest events are queries; None takes the last fifth, at least
                1 and at most 20. One event at least stays history.
            encoding: The encoding of text; told by each file if it is not given.

        Raises:
            ConfigError: there is no such encoding, or the files are not text.
            DataError: a file is unusable or lacks a column, or the task cannot be told.
        """
        self._encoding = check_encoding(encoding) if encoding else None
        self._path, self._test_users, self._queries = path, test_users, queries
        self._files = event_files(path)
        kinds = {kind_of(file, self._encoding): file for file in self._files}
        if len(kinds) > 1:
            found = " and ".join(f"{kind} ({file.name})" for kind, file in kinds.items())
            raise DataError(f"{path} has {found}; the parts of a table are of one kind. Remove what is none.")
        if encoding and "Parquet" in kinds:
            raise ConfigError("--encoding is for text; Parquet files say themselves what they hold.")
        # The number of the last row of each file, counted over all of them.
        self._ends: list[int] = []
        self.source: dict[str, Any] = {"kind": "events"}
        self.notes: list[str] = []
        columns = self._look()
        # Of a line with a slip in a name there are few.
        usual = {name for name, rows in columns.items() if 2 * rows > max(columns.values())}
        self.task = task or detect_task(path, None, [([dict.fromkeys(usual - {"user_id", "time"})], [])])
        self._aliases = self._allowed_names()
        names = (*self.task.history_fields, *self.task.input_fields)
        self._used = frozenset({"user_id", "time", "input", "output", *names})
        try:
            self._values(dict.fromkeys(columns, "0"))
        except Unusable as problem:
            fields = [
                f"{name} (or {self._aliases[name]})" if name in self._aliases else name
                for name in self.task.history_fields
                if name not in self.task.optional_fields
            ]
            raise DataError(
                f"{path}: {problem}. An event of {self.task.name} has user_id, time, {', '.join(fields)}; "
                f"these have {shown(', '.join(columns))}."
            ) from None

    def _look(self) -> collections.Counter[str]:
        """The columns of the first rows, and how many have them; tells times that are numbers from dates."""
        readable: list[dict[str, Any]] = []
        why = ""
        for place, _, row in itertools.islice(self._rows(lambda _: None), _SAMPLED):
            if isinstance(row, Unusable):
                why = why or f" (record {place.record} {row.reason})"
            else:
                readable.append(row)
        times = [time for row in readable if isinstance(time := row.get("time"), str) and time]
        grouped = [time for time in times if _GROUPED_NUMBER.fullmatch(time)]
        if 2 * len(grouped) > len(times):
            raise DataError(
                f"{self._path}: the times have thousands separators, as in {shown(grouped[0])}. Write plain "
                "numbers, or ISO dates."
            )
        self._numeric = 2 * sum(_NUMBER.fullmatch(time) is not None for time in times) > len(times)
        if not any(readable):
            raise DataError(f"{self._path} has no usable row{why}. Is it a table of events?")
        return collections.Counter(name for row in readable for name in row)

    def _rows(self, on_bytes: OnBytes) -> Iterator[tuple[Place, int, dict[str, Any] | Unusable]]:
        """The rows of all files: the place of each, its number counted over all of them, and what it says."""
        before = 0
        self._ends.clear()
        for file in self._files:
            number = 0
            for number, row in read_rows(file, on_bytes, self._encoding):
                yield Place(file, number), before + number, row
            before += number
            self._ends.append(before)

    def _place(self, number: int, user_id: str) -> Place:
        """The place of a row, by its number over all files."""
        at = bisect.bisect_left(self._ends, number)
        return Place(self._files[at], number - (self._ends[at - 1] if at else 0), user_id)

    def _allowed_names(self) -> dict[str, str]:
        """What fields may be called instead."""
        if self.task.output_field is None:
            return {self.task.text_field: "output"}
        return {self.task.long_field: "input", self.task.output_field: "output"}

    def _values(self, row: dict[str, Any]) -> tuple[str, str, dict[str, str], str | None]:
        """User id, time, fields, and the gold of a row that is a query (None: history).

        Raises:
            Unusable: something is missing or empty.
        """
        record = {name: value for name, value in row.items() if value not in (None, "")}
        user_id, time = as_id(record, "user_id"), as_text(record, "time")
        if self.task.output_field is None:
            asked = _named(record, self.task.input_fields, {self.task.long_field: "input"})
            if asked.keys() == set(self.task.input_fields) and "output" in record:
                return user_id, time, as_fields(asked, asked), as_text(record, "output")
        named = _named(record, self.task.history_fields, self._aliases)
        return user_id, time, as_fields(named, self.task.history_fields, self.task.optional_fields), None

    def users(self, scratch: Path, rejects: Rejects, on_progress: OnProgress) -> Iterator[User]:
        """Yield every user, events in the order of time (of one time: of the file).

        Raises:
            DataError: the file is damaged, or `rejects` is strict.
        """
        # The same object: whoever holds it sees it completed.
        self.source.update(files=described(self._files))
        gathered = self._gather(scratch, rejects, on_progress)
        lengths = ((user_id, len(rows or [])) for user_id, rows in gathered.users())
        chosen = longest(lengths, self._test_users)
        intake = Intake(self.task, rejects)
        for user_id, rows in gathered.users():
            place = self._place(rows[0][0], user_id) if rows else Place(self._path, None, user_id)
            split: Split = "test" if user_id in chosen else "others"
            try:
                if rows is None:
                    raise Unusable("has too many events")
                yield intake.user(place, split, *self._cut(rows, split))
            except Unusable as problem:
                rejects.add(place, "user", problem, {"user_id": user_id, "events": len(rows or [])})

    def _gather(self, scratch: Path, rejects: Rejects, on_progress: OnProgress) -> Spill:
        """Rows by user: (number, key to sort by, date, fields, gold)."""
        total, done = sum(file.stat().st_size for file in self._files), 0

        def count(size: int) -> None:
            nonlocal done
            done += size
            on_progress(done, total)

        # Twice the files' size: keys are written out in every row, and Parquet is compressed; gzip much more.
        packed = 5 if any(file.suffix.lower() == ".gz" for file in self._files) else 1
        rows = Spill(scratch / "events", 2 * packed * total)
        for place, number, row in self._rows(count):
            try:
                if isinstance(row, Unusable):
                    raise row
                for name, value in row.items():
                    if isinstance(value, bytes) and name in self._used:
                        encoding = self._encoding or "UTF-8"
                        raise Unusable(f"{name} is not {encoding} text", ascii(value)[:80])
                user_id, time, fields, gold = self._values(row)
                key, date = self._moment(time)
            except Unusable as problem:
                user = row.get("user_id") if isinstance(row, dict) else None
                whose = place._replace(user_id=user if isinstance(user, str) else None)
                rejects.add(whose, "event", problem, row if isinstance(row, dict) else problem.value)
                continue
            rows.add(user_id, [number, key, date, fields, gold])
        return rows

    def _moment(self, text: str) -> tuple[float, str | None]:
        """What to sort by, and the ISO date (times in UTC)."""
        if self._numeric:
            if not _NUMBER.fullmatch(text):
                raise Unusable("time is not a number as in the first rows", shown(text))
            return (int(text) if text.lstrip("+-").isdecimal() else float(text)), None
        try:
            if not ISO_DATE.fullmatch(text):
                raise ValueError(text)
            moment = datetime.datetime.fromisoformat(text + "-01-01"[len(text) - 4 :])
            moment = (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).astimezone(
                datetime.UTC
            )
        except (ValueError, OverflowError):
            raise Unusable("time is not an ISO date as in the first rows", shown(text)) from None
        return (moment - _EPOCH) // _UNIT, text if len(text) <= 10 else moment.isoformat()

    def _cut(self, rows: list[Any], split: Split) -> tuple[list[HistoryItem], list[Query]]:
        rows.sort(key=lambda row: row[1])
        history: list[HistoryItem] = []
        queries: list[Query] = []
        first = len(rows) - self._query_count(len(rows), split)
        for place, (number, _, date, fields, gold) in enumerate(rows):
            if gold is not None:
                queries.append(Query(str(number), fields, gold, len(history)))
            elif place < first or self.task.output_field is None:
                history.append(HistoryItem(str(number), fields, date))
            else:
                asked = {name: fields[name] for name in self.task.input_fields}
                queries.append(Query(str(number), asked, fields[self.task.output_field], len(history)))
        return history, queries

    def _query_count(self, events: int, split: Split) -> int:
        usual = max(1, min(events // 5, MOST_QUERIES[split]))
        if split == "others":
            return usual
        return min(self._queries or usual, events - 1)


def _named(record: Mapping[str, Any], names: Iterable[str], aliases: Mapping[str, str]) -> dict[str, Any]:
    """The fields that a row has, under their own names."""
    columns = {name: name if name in record else aliases.get(name, name) for name in names}
    return {name: record[column] for name, column in columns.items() if column in record}
