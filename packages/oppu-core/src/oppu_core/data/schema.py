"""One user as one row of Parquet: a task's schema, users to rows and back, and the writer of a split.

Rows are checked when they are made, so that everything on disk is usable; every error names the user and the
field. Knows nothing of dataset folders.
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from oppu_core.data.types import SPLITS, HistoryItem, Query, Split, User
from oppu_core.errors import DataError
from oppu_core.storage.files import canonical_json, file_sha256
from oppu_core.tasks.task import Task

Row = dict[str, Any]

SHARD_USERS = 1000
# Test users are read one at a time, for their adapters; the others only all together.
GROUP_USERS: dict[Split, int] = {"others": 64, "test": 1}
# A group holds fewer users if their histories are very long, to bound the memory of writer and reader.
_GROUP_BYTES = 16 << 20
NUMBERS = ("users", "queries", "history_items")


def shown(text: object) -> str:
    """Any value for an error message: quoted, on one line, and short."""
    quoted = repr(text) if isinstance(text, str | int | float | None) else type(text).__name__
    return quoted if len(quoted) <= 80 else f"{quoted[:60]}… ({len(quoted):,} characters)"


def schema_of(task: Task, query_dates: bool = True) -> pa.Schema:
    """The columns of a task's dataset; the earliest datasets have no query dates.

    Fields are in a struct of their own, so that a task may have a field called ``id`` or ``gold``.
    """

    def fields(names: tuple[str, ...]) -> pa.StructType:
        return pa.struct([(name, pa.string()) for name in names])

    item = pa.struct([("id", pa.string()), ("date", pa.string()), ("fields", fields(task.history_fields))])
    query = pa.struct(
        [
            ("id", pa.string()),
            ("fields", fields(task.input_fields)),
            ("gold", pa.string()),
            ("history_len", pa.int32()),
            ("oracle", pa.string()),
            *([("date", pa.string())] if query_dates else []),
        ]
    )
    return pa.schema(
        [
            ("user_id", pa.string()),
            ("split", pa.string()),
            ("history", pa.list_(item)),
            ("queries", pa.list_(query)),
        ]
    )


def _text(value: Any, where: str, optional: bool = False) -> Any:
    if isinstance(value, str) or (optional and value is None):
        return value
    raise DataError(f"{where} must be text, not {shown(value)}.")


def _fields(fields: Mapping[str, str], names: tuple[str, ...], where: str) -> dict[str, str]:
    for name in names:
        if name not in fields:
            raise DataError(f"{where}: field {name!r} is missing.")
    for name in fields:
        if name not in names:
            raise DataError(f"{where}: the task has no field {shown(name)}; it has {', '.join(names)}.")
    return {name: _text(fields[name], f"{where}, field {name!r}") for name in names}


def to_row(user: User, task: Task) -> Row:
    """A checked user as plain values, as hashed and as stored in Parquet.

    Raises:
        DataError: something is missing, empty, repeated, of a wrong type or out of range.
    """
    where = f"user {shown(user.user_id)}"
    if not _text(user.user_id, "user_id"):
        raise DataError("A user has an empty user_id; give every user an id of its own.")
    if user.split not in SPLITS:
        raise DataError(f"{where}: split is {shown(user.split)}; it must be one of {', '.join(SPLITS)}.")
    history = []
    for number, item in enumerate(user.history):
        place = f"{where}, history item {number} ({shown(item.id)})"
        history.append(
            {
                "id": _text(item.id, f"{place}, id"),
                "date": _text(item.date, f"{place}, date", optional=True),
                "fields": _fields(item.fields, task.history_fields, place),
            }
        )
    queries: dict[str, Row] = {}
    for query in user.queries:
        place = f"{where}, query {shown(query.id)}"
        if not _text(query.id, f"{place}, id"):
            raise DataError(f"{where}: a query has an empty id; give every query an id of its own.")
        if query.id in queries:
            raise DataError(f"{place}: the user has two queries of this id; rename or drop one.")
        if type(query.history_len) is not int or not 0 <= query.history_len <= len(history):
            raise DataError(
                f"{place}: history_len is {shown(query.history_len)}, "
                f"but the user has {len(history)} history items."
            )
        queries[query.id] = {
            "id": query.id,
            "fields": _fields(query.fields, task.input_fields, place),
            "gold": _text(query.gold, f"{place}, gold", optional=True),
            "history_len": query.history_len,
            "oracle": _text(query.oracle, f"{place}, oracle", optional=True),
        }
        if query.date is not None:  # queries without a date keep their old hash
            queries[query.id]["date"] = _text(query.date, f"{place}, date")
    return {
        "user_id": user.user_id,
        "split": user.split,
        "history": history,
        "queries": list(queries.values()),
    }


def encoded(row: Row) -> bytes:
    """A row's canonical JSON, for hashing.

    Raises:
        DataError: a text has a lone surrogate, which neither UTF-8 nor Parquet can hold.
    """
    try:
        return canonical_json(row).encode()
    except UnicodeEncodeError as error:
        # Half an emoji, cut by a tool that counts in UTF-16.
        for place, text in _strings(row, ""):
            if any("\ud800" <= character <= "\udfff" for character in text):
                message = f"user {shown(row['user_id'])}, {place}: a lone surrogate in {shown(text)}"
                raise DataError(f"{message}; replace that broken character in the source.") from error
        raise


def _strings(value: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from _strings(entry, f"{place}.{key}".lstrip("."))
    elif isinstance(value, list):
        for number, entry in enumerate(value):
            yield from _strings(entry, f"{place}[{number}]")


def from_row(row: Row) -> User:
    """The user that :func:`to_row` turned into this row."""
    return User(
        user_id=row["user_id"],
        split=row["split"],
        history=tuple(HistoryItem(item["id"], item["fields"], item["date"]) for item in row["history"]),
        queries=tuple(
            Query(
                query["id"],
                query["fields"],
                query["gold"],
                query["history_len"],
                query["oracle"],
                query.get("date"),
            )
            for query in row["queries"]
        ),
    )


class SplitWriter:
    """Writes the shards of one split; holds at most one row group of users in memory.

    Attributes:
        counts: How many users, queries and history items were added.
        content: The sha256 of the rows' canonical JSON, one per line.
        shards: File, split, number of users and, once finished, sha256 of each shard.
    """

    def __init__(self, folder: Path, split: Split, schema: pa.Schema) -> None:
        self.folder, self.split, self.schema = folder, split, schema
        self.counts = dict.fromkeys(NUMBERS, 0)
        self.content = hashlib.sha256()
        self.shards: list[dict[str, Any]] = []
        self._rows: list[Row] = []
        self._held = 0
        self._writer: Any = None

    def add(self, row: Row) -> None:
        """Append one user.

        Raises:
            DataError: a text cannot be stored.
        """
        line = encoded(row) + b"\n"
        self.content.update(line)
        self._rows.append(row)
        self._held += len(line)
        sizes = (1, len(row["queries"]), len(row["history"]))
        for name, size in zip(NUMBERS, sizes, strict=True):
            self.counts[name] += size
        if len(self._rows) == GROUP_USERS[self.split] or self._held >= _GROUP_BYTES:
            self._write_group()
        if self.counts["users"] % SHARD_USERS == 0:
            self.finish_shard()

    def _write_group(self) -> None:
        if self._writer is None:
            name = f"{self.split}-{len(self.shards):05d}.parquet"
            self.shards.append({"file": name, "split": self.split, "users": 0})
            self._writer = pq.ParquetWriter(
                self.folder / name,
                self.schema,
                compression="zstd",
                write_statistics=False,
                write_page_checksum=True,
            )
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self.schema))
        self.shards[-1]["users"] += len(self._rows)
        self._rows, self._held = [], 0

    def finish_shard(self) -> None:
        """Write the users still in memory and close the shard; the next user starts a new one."""
        if self._rows:
            self._write_group()
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            self.shards[-1]["sha256"] = file_sha256(self.folder / self.shards[-1]["file"])

    def release(self) -> None:
        """Close the open file, even after an error."""
        if self._writer is not None:
            self._writer.close()
