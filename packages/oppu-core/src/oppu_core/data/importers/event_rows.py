"""The rows of a table of events, one at a time: JSON lines, a JSON list, CSV or Parquet of any size.

A row is ``(number, values)`` or, if it cannot be read, ``(number, reason)``. Numbers become text; a cell that
is not valid text stays bytes. Knows nothing of what the columns mean.
"""

import contextlib
import datetime
import decimal
import math
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from oppu_core.data.importers.json_lines import looks_like_python, read_line
from oppu_core.data.importers.json_stream import records_in
from oppu_core.data.importers.tables import Table
from oppu_core.data.importers.text_files import BROKEN, TextFile, open_text
from oppu_core.data.parsing import as_object
from oppu_core.data.rejected import Unusable
from oppu_core.errors import DataError
from oppu_core.texts import number_text

Row = tuple[int, dict[str, Any] | Unusable]
OnBytes = Callable[[int], object]
Kind = Literal["JSON lines", "a JSON list", "a table", "Parquet"]

# Suffixes of files of events; each may be followed by .gz.
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")

_JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
_BATCH_ROWS = 1000
_INEXACT = 2**53  # from here on, floats do not represent every whole number
# Of a bad line; more than rejected.jsonl keeps.
_EXCERPT_CHARS = 20_000


def suffix_of(path: Path) -> str:
    """A file's suffix in lower case, ignoring ``.gz``."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def kind_of(path: Path, encoding: str | None = None) -> Kind:
    """The kind of a file, by its content, or by its name if the content is ambiguous.

    Raises:
        DataError: it is missing, cannot be read, or has no kind that can hold events.
    """
    if not path.is_file():
        raise DataError(f"{path} {'is not a file' if path.exists() else 'does not exist'}.")
    if _is_parquet(path):
        return "Parquet"
    with open_text(path, encoding) as text:
        return _kind_of_text(path, text.head)


def read_rows(
    path: Path, on_bytes: OnBytes, encoding: str | None = None, batch_rows: int = _BATCH_ROWS
) -> Iterator[Row]:
    """Yield the rows of a file, counted from 1 (JSON lines: the line's number).

    Args:
        path: The file; it may be compressed with gzip.
        on_bytes: Called with the number of bytes read from the file.
        encoding: The encoding of text; detected if not given.
        batch_rows: How many rows of Parquet are held at a time.

    Raises:
        DataError: the file is missing, cannot be read or is damaged; the message says where.
    """
    if kind_of(path, encoding) == "Parquet":
        try:
            yield from _parquet(path, on_bytes, batch_rows)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error}.") from error
        return
    with open_text(path, encoding, on_bytes) as text:
        match _kind_of_text(path, text.head):
            case "JSON lines":
                yield from _json_lines(path, text, encoding or "UTF-8")
            case "a JSON list":
                yield from _json_list(path, text)
            case _:
                yield from _table(path, text)


def _is_parquet(path: Path) -> bool:
    if suffix_of(path) == ".parquet":
        return path.suffix.lower() != ".gz"
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PAR1" and file.seek(-4, 2) > 0 and file.read() == b"PAR1"
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}.") from error


def _kind_of_text(path: Path, head: str) -> Kind:
    first, suffix = head[:1], suffix_of(path)
    if first == "<":
        raise DataError(f"{path} starts with '<': a web page or XML, and no table. Export it as CSV or JSON.")
    if first == "[" and (suffix == ".json" or head[1:].lstrip().startswith("{")):
        return "a JSON list"
    return "JSON lines" if first == "{" or suffix in _JSON_SUFFIXES else "a table"


def _json_lines(path: Path, text: TextFile, encoding: str) -> Iterator[Row]:
    nothing_yet = True
    for number, line in enumerate(text.lines(), 1):
        if not line.strip():
            continue
        if nothing_yet and line.strip() == "{":
            raise DataError(
                f"{path}, line {number}: an object goes on over several lines. Write one object a line, or a "
                "JSON list of objects."
            )
        nothing_yet = False
        try:
            if text.broken and BROKEN.search(line):
                raise Unusable(f"is not {encoding} text")
            yield number, as_object(read_line(line))
        except Unusable as problem:
            start = line[:_EXCERPT_CHARS].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            yield number, Unusable(problem.reason, problem.detail, start)


def _json_list(path: Path, text: TextFile) -> Iterator[Row]:
    if looks_like_python(text.head):
        raise DataError(f"{path} looks like Python, not JSON. Write it with json.dumps.")
    for number, record in enumerate(records_in(path, text), 1):
        try:
            yield number, as_object(record.value)
        except Unusable as problem:
            yield number, Unusable(problem.reason, value=record.value)


def _table(path: Path, text: TextFile) -> Iterator[Row]:
    table = Table(text.lines(), str(path))
    names = table.names
    for number, cells in enumerate(table.rows(), 1):
        surplus = cells[len(names) :]
        if len(cells) < len(names) or any(surplus):
            detail = f"{len(cells)}, not {len(names)}"
            yield number, Unusable("has another number of cells than the header", detail, cells)
        elif any(cells):  # spreadsheets end in rows of commas only
            values: list[Any] = list(map(_unescaped, cells)) if text.broken else cells
            yield number, {name: value for name, value in zip(names, values, strict=False) if name}


def _unescaped(cell: str) -> str | bytes:
    """A cell as text, or as bytes if it is not valid text."""
    return cell.encode("utf-8", "surrogateescape") if BROKEN.search(cell) else cell


def _parquet(path: Path, on_bytes: OnBytes, batch_rows: int) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number, size = 0, path.stat().st_size
    try:
        with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as parquet:
            names = parquet.schema_arrow.names
            if not names or len(set(names)) < len(names):
                problem = "has a column twice" if names else "has no column"
                raise DataError(f"{path}: the schema {problem}. Name every column, each in its own way.")
            uuids = {column.path for column in parquet.schema if column.logical_type.type == "UUID"}
            total = max(1, parquet.metadata.num_rows)
            for batch in parquet.iter_batches(batch_rows, use_threads=False):
                columns = [
                    _column(column, name in uuids) for name, column in zip(names, batch.columns, strict=True)
                ]
                for row in zip(*columns, strict=True):
                    number += 1
                    yield number, dict(zip(names, row, strict=True))
                on_bytes(size * number // total - size * (number - len(batch)) // total)
    except (pa.ArrowException, OSError, TypeError, ValueError, OverflowError, MemoryError) as error:
        problem = str(error).partition("\n")[0][:200]
        raise DataError(
            f"{path}, after record {number}: not the Parquet it should be ({problem}). Export it again."
        ) from error


def _column(column: Any, is_uuid: bool) -> list[Any]:
    """The cells of a column as JSON values."""
    import pyarrow as pa

    if pa.types.is_timestamp(column.type):  # Python's times have no nanoseconds
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    try:
        cells = column.to_pylist()
    except (pa.ArrowException, ValueError, OverflowError, ImportError):
        # Python has no such value (the year 12000); in a column that nobody uses it must not end the import.
        try:
            cells = column.cast(pa.string()).to_pylist()
        except pa.ArrowException:
            cells = [{}] * len(column)
    return [_plain(uuid.UUID(bytes=c) if is_uuid and isinstance(c, bytes) else c) for c in cells]


def _plain(value: Any) -> Any:
    """A cell as a JSON value: numbers as text, bytes decoded."""
    if isinstance(value, bool):
        return value
    if isinstance(value, float):
        if math.isnan(value):  # how pandas writes "missing"
            return None
        # This shows whether an id has lost digits.
        return f"{value:.15g}" if abs(value) >= _INEXACT else number_text(repr(value))
    if isinstance(value, decimal.Decimal):
        value = number_text(str(value))
    if isinstance(value, int | uuid.UUID):
        return str(value)
    if isinstance(value, bytes):
        with contextlib.suppress(UnicodeDecodeError):
            value = value.decode()
    return value.isoformat() if isinstance(value, datetime.date) else value
