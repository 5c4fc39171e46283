"""The rows of a table of events, one at a time: JSON lines, CSV or Parquet of any size.

A row is ``(number, values)`` or, where it cannot be read, ``(number, why not)``; numbers become text. Knows
nothing of what the columns mean.
"""

import csv
import datetime
import decimal
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from oppu_core.data.json_stream import decode
from oppu_core.data.reading import as_object
from oppu_core.data.rejects import Unusable
from oppu_core.errors import DataError

Row = tuple[int, dict[str, Any] | Unusable]
OnBytes = Callable[[int], object]

_LINE_BYTES = 64 << 20
# Far above what a text may have: only a quote that is never closed gets there.
_CELL_CHARS = 16 << 20
_REPORT_BYTES = 1 << 20
_BATCH_ROWS = 1000
# Of a bad line, more than rejected.jsonl keeps.
_EXCERPT_BYTES = 40_000


def read_rows(path: Path, on_bytes: OnBytes) -> Iterator[Row]:
    """Yield the rows of a file, counted from 1 (JSON lines: the line's number).

    Raises:
        DataError: the file is missing, cannot be read or is damaged; the message says where.
    """
    if not path.is_file():
        raise DataError(f"{path} {'is not a file' if path.exists() else 'does not exist'}.")
    try:
        yield from FORMATS[path.suffix.lower()](path, on_bytes)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}.") from error


def _lines(path: Path, on_bytes: OnBytes) -> Iterator[bytes]:
    waiting = 0
    with path.open("rb") as file:
        number = 0
        while line := file.readline(_LINE_BYTES):
            number += 1
            if len(line) == _LINE_BYTES:
                raise DataError(f"{path}, line {number}: longer than {_LINE_BYTES >> 20} MB; not a table.")
            waiting += len(line)
            if waiting >= _REPORT_BYTES:
                on_bytes(waiting)
                waiting = 0
            yield line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
    on_bytes(waiting)


def _json_lines(path: Path, on_bytes: OnBytes) -> Iterator[Row]:
    for number, line in enumerate(_lines(path, on_bytes), 1):
        if not line.strip():
            continue
        try:
            yield number, as_object(decode(line))
        except Unusable as problem:
            yield number, Unusable(problem.reason, value=line[:_EXCERPT_BYTES].decode(errors="replace"))
        except ValueError as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            start = line[:_EXCERPT_BYTES].decode(errors="replace")
            yield number, Unusable("is not JSON in UTF-8", reason[:200], start)


def _csv(path: Path, on_bytes: OnBytes) -> Iterator[Row]:
    csv.field_size_limit(_CELL_CHARS)
    # What is not UTF-8 becomes a broken character, which is the row's fault and not the file's.
    lines = (line.decode(errors="surrogateescape") for line in _lines(path, on_bytes))
    rows = csv.reader(lines, strict=True)
    header: list[str] | None = None
    number = 0
    try:
        for cells in rows:
            if header is None:
                header = _header(path, cells)
            elif cells:
                number += 1
                if len(cells) == len(header):
                    yield number, dict(zip(header, cells, strict=True))
                else:
                    detail = f"{len(cells)}, not {len(header)}"
                    yield number, Unusable("has another number of cells than the header", detail, cells)
    except csv.Error as error:
        raise DataError(
            f"{path}, line {rows.line_num}, record {number + 1}: not the CSV it should be ({error}). "
            "Check the quotes and export it again."
        ) from error
    _header(path, header or [])


def _header(path: Path, names: list[str]) -> list[str]:
    if not names or len(set(names)) < len(names):
        problem = "has a column twice" if names else "is empty"
        raise DataError(f"{path}: the header {problem}. Name every column, each in its own way.")
    return names


def _parquet(path: Path, on_bytes: OnBytes) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number, size = 0, path.stat().st_size
    try:
        with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as parquet:
            _header(path, parquet.schema_arrow.names)
            total = max(1, parquet.metadata.num_rows)
            for batch in parquet.iter_batches(_BATCH_ROWS, use_threads=False):
                table = pa.Table.from_batches([batch])
                for place, field in enumerate(table.schema):
                    if pa.types.is_timestamp(field.type):  # Python's times have no nanoseconds
                        exact = table.column(place).cast(pa.timestamp("us", field.type.tz), safe=False)
                        table = table.set_column(place, field.name, exact)
                for row in table.to_pylist():
                    number += 1
                    yield number, {name: _plain(value) for name, value in row.items()}
                on_bytes(size * number // total - size * (number - len(table)) // total)
    except (pa.ArrowException, OSError, TypeError, ValueError, OverflowError, MemoryError) as error:
        problem = str(error).partition("\n")[0][:200]
        raise DataError(
            f"{path}, after record {number}: not the Parquet it should be ({problem}). Export it again."
        ) from error


def _plain(value: Any) -> Any:
    """What stands in a cell, as JSON would say it; numbers as text."""
    if isinstance(value, bool):
        return value
    if isinstance(value, float):
        # pandas writes "missing" as NaN.
        return None if math.isnan(value) else repr(value).removesuffix(".0")
    if isinstance(value, int | decimal.Decimal):
        return str(value)
    return value.isoformat() if isinstance(value, datetime.date) else value


FORMATS: dict[str, Callable[[Path, OnBytes], Iterator[Row]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".csv": _csv,
    ".parquet": _parquet,
}
