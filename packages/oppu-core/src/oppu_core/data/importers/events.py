"""Importing plain events: one row per event with `user_id`, `time`, `input` and `output`, in any order.

Instead of `input` and `output`, columns may have the names of the task's fields. Rows are grouped by user on
disk; a user's latest events become the queries.
"""

import bisect
import collections
import itertools
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from oppu_core.data.importers.event_files import event_files
from oppu_core.data.importers.event_rows import OnBytes, kind_of, read_rows
from oppu_core.data.importers.group_by_user import RowsByUser, longest
from oppu_core.data.importers.lamp_files import detect_task
from oppu_core.data.importers.text_files import check_encoding
from oppu_core.data.intake import Intake, OnProgress, described, newest_first
from oppu_core.data.moments import Moment, is_counter, is_grouped, moment, unix_time, unix_unit, why_no_time
from oppu_core.data.parsing import MISSING, as_answer, as_fields, as_history, as_text, as_user_id
from oppu_core.data.rejected import Place, Rejects, Unusable
from oppu_core.data.schema import shown
from oppu_core.data.types import HistoryItem, Query, Split, User
from oppu_core.errors import ConfigError, DataError
from oppu_core.tasks.task import Task
from oppu_core.texts import as_number, number_text

# The last fifth of a user's events become queries, at least one and at most this many.
MOST_QUERIES: Mapping[Split, int] = {"test": 20, "others": 3}

_SAMPLED = 1_000
# If one id is missing, table programs turn all of them into decimals.
_DECIMAL_ID = re.compile(r"\d+\.0+")
# How times are read: as dates, as Unix times, or as numbers that only give an order.
_TIMES: dict[str, Callable[[str], Moment | bool | None]] = {
    "an ISO date": moment,
    "a Unix time": unix_time,
    "a number": is_counter,
}
_UNIT_NAMES = ("seconds", "milliseconds", "microseconds", "nanoseconds")
_DAY = 86_400 * 10**6
_LARGEST = 10**30  # of numbers that only give an order


class Events:
    """A table of events, in one file or in parts; a :class:`oppu_core.data.intake.Reader`."""

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
            task: The task; detected by the columns' names if not given.
            test_users: How many users, those with the longest histories, become test users
                (:func:`oppu_core.data.importers.group_by_user.longest`).
            queries: How many of a test user's latest events become queries; None takes the last fifth, at
                least 1 and at most 20. At least one event stays in the history.
            encoding: The encoding of text; detected for each file if not given.

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
        # The number of each file's last row, counted over all files.
        self._ends: list[int] = []
        self.source: dict[str, Any] = {"kind": "events"}
        self.notes: list[str] = []
        self._now = time.time_ns() // 1000
        self._units: collections.Counter[int] = collections.Counter()
        self._future, self._latest, self._decimal_ids = 0, "", 0
        columns = self._look()
        # Few lines have a mistyped name.
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
        """Count the columns of the first rows, and detect the form of the times."""
        readable: list[dict[str, Any]] = []
        why = ""
        for place, _, row in itertools.islice(self._rows(lambda _: None), _SAMPLED):
            if isinstance(row, Unusable):
                why = why or f" (record {place.record} {row.reason})"
            else:
                readable.append(row)
        times = [time for row in readable if isinstance(time := row.get("time"), str) and time]
        self._form = max(_TIMES, key=lambda form: sum(bool(_TIMES[form](time)) for time in times))
        grouped = [text for text in times if is_grouped(text)]
        if 2 * len(grouped) > len(times):
            raise DataError(
                f"{self._path}: the times have thousands separators, as in {shown(grouped[0])}. Write plain "
                "numbers, or ISO dates."
            )
        if not any(readable):
            raise DataError(f"{self._path} has no usable row{why}. Is it a table of events?")
        return collections.Counter(name for row in readable for name in row)

    def _rows(self, on_bytes: OnBytes) -> Iterator[tuple[Place, int, dict[str, Any] | Unusable]]:
        """The rows of all files: (place, number counted over all files, values or the reason for refusal)."""
        before = 0
        self._ends.clear()
        for file in self._files:
            number = 0
            for number, row in read_rows(file, on_bytes, self._encoding):
                yield Place(file, number), before + number, row
            before += number
            self._ends.append(before)

    def _place(self, number: int, user_id: str) -> Place:
        """The place of a row, given its number over all files."""
        at = bisect.bisect_left(self._ends, number)
        return Place(self._files[at], number - (self._ends[at - 1] if at else 0), user_id)

    def _allowed_names(self) -> dict[str, str]:
        """Alternative column names of fields."""
        if self.task.output_field is None:
            return {self.task.text_field: "output"}
        return {self.task.long_field: "input", self.task.output_field: "output"}

    def _values(self, row: dict[str, Any]) -> tuple[str, str, dict[str, str], str | None]:
        """User id, time, fields, and gold (None for history) of a row; Unusable if something is missing."""
        record = {name: value for name, value in row.items() if value not in (None, "", "\\N", "<NA>")}
        user_id, when = as_user_id(record), as_text(record, "time")
        if _DECIMAL_ID.fullmatch(user_id):
            user_id = number_text(user_id)
            self._decimal_ids += 1
        if when in MISSING:
            raise Unusable("time is missing", shown(when))
        if self.task.output_field is None:
            asked = _named(record, self.task.input_fields, {self.task.long_field: "input"})
            if asked.keys() == set(self.task.input_fields) and "output" in record:
                gold = as_answer(self.task, as_text(record, "output"), "output")
                return user_id, when, as_fields(asked, asked), gold
        named = _named(record, self.task.history_fields, self._aliases)
        return user_id, when, as_history(self.task, named), None

    def users(self, scratch: Path, rejects: Rejects, on_progress: OnProgress) -> Iterator[User]:
        """Yield every user, with events sorted by time, and in the file's order for equal times.

        Raises:
            DataError: the file is damaged, or `rejects` is strict.
        """
        # Updated in place, for whoever holds it already.
        self.source.update(files=described(self._files))
        gathered = self._gather(scratch, rejects, on_progress)
        lengths = ((user_id, len(rows or [])) for user_id, rows in gathered.users())
        chosen = longest(lengths, self._test_users)
        intake = self.intake = Intake(self.task, rejects)
        for user_id, rows in gathered.users():
            place = self._place(rows[0][0], user_id) if rows else Place(self._path, None, user_id)
            split: Split = "test" if user_id in chosen else "others"
            try:
                if rows is None:
                    raise Unusable("has too many events")
                yield intake.user(place, split, *self._cut(rows, split))
            except Unusable as problem:
                rejects.add(place, "user", problem, {"user_id": user_id, "events": len(rows or [])})
        self.notes += [*intake.notes(), *self._notes()]

    def _notes(self) -> Iterator[str]:
        """Notes on odd times and ids."""
        if len(self._units) > 1:
            units = " and ".join(
                f"{_UNIT_NAMES[unit]} ({count:,})" for unit, count in self._units.most_common()
            )
            yield f"The Unix times are in {units}; each was read in the unit that its size tells."
        if self._future:
            yield (
                f"{self._future:,} events lie in the future, up to {self._latest}: correct them if these are "
                "no real times, since the latest events of a user become queries."
            )
        if self._decimal_ids:
            yield f"{self._decimal_ids:,} rows have a user_id such as 123.0, which is read as 123."

    def _gather(self, scratch: Path, rejects: Rejects, on_progress: OnProgress) -> RowsByUser:
        """The rows grouped by user: (number, sort key, date, fields, gold)."""
        total, done = sum(file.stat().st_size for file in self._files), 0

        def count(size: int) -> None:
            nonlocal done
            done += size
            on_progress(done, total)

        # Twice the files' size: every row repeats the keys, and Parquet is compressed; gzip much more so.
        packed = 5 if any(file.suffix.lower() == ".gz" for file in self._files) else 1
        rows = RowsByUser(scratch / "events", 2 * packed * total)
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
        """The sort key, and the date or the time in UTC; None for times that only give an order."""
        number = as_number(text) if self._form == "a number" else None
        if number is not None and abs(number) < _LARGEST:  # counters grow
            return int(number) if number == number.to_integral_value() else float(number), None
        read = _TIMES[self._form](text)
        if not isinstance(read, Moment):
            problem = shown(text) + why_no_time(text)
            raise Unusable(f"time is not {self._form} as in the first rows", problem)
        if not read.plausible:
            raise Unusable("time is no plausible date", shown(text))
        if self._form == "a Unix time":
            self._units[unix_unit(text)] += 1
        if read.at > self._now + _DAY:
            self._future += 1
            self._latest = max(self._latest, read.text)
        return read.at, read.text

    def _cut(self, rows: list[Any], split: Split) -> tuple[list[HistoryItem], list[Query]]:
        if newest_first([row[2] for row in rows]):
            rows.reverse()
            self.intake.turned += 1
        rows.sort(key=lambda row: row[1])
        history: list[HistoryItem] = []
        queries: list[Query] = []
        first = len(rows) - self._query_count(len(rows), split)
        for place, (number, _, date, fields, gold) in enumerate(rows):
            if gold is not None:
                queries.append(Query(str(number), fields, gold, len(history), date=date))
            elif place < first or self.task.output_field is None:
                history.append(HistoryItem(str(number), fields, date))
            else:
                asked = {name: fields[name] for name in self.task.input_fields}
                own = fields[self.task.output_field]
                queries.append(Query(str(number), asked, own, len(history), date=date))
        return history, queries

    def _query_count(self, events: int, split: Split) -> int:
        usual = max(1, min(events // 5, MOST_QUERIES[split]))
        if split == "others":
            return usual
        return min(self._queries or usual, events - 1)


def _named(record: Mapping[str, Any], names: Iterable[str], aliases: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a row that it has, under their proper names."""
    columns = {name: name if name in record else aliases.get(name, name) for name in names}
    return {name: record[column] for name, column in columns.items() if column in record}
