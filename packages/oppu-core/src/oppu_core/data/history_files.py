"""Parsing a person's own history: JSON, a table, the tweets of an X archive, or one item per line.

Text with a structure is either understood or refused, never read as plain lines. This is one module because
each format is recognized by not being one of the others. Knows nothing of limits.
"""

import dataclasses
import datetime
import html
import io
import json
import re
from collections.abc import Iterator
from typing import Any

from oppu_core.data.importers.json_lines import PYTHON, looks_like_python, read_line
from oppu_core.data.importers.json_stream import DECODER
from oppu_core.data.importers.tables import DELIMITERS, SEP_LINE, Table, cells_of, delimiter_of
from oppu_core.data.rejected import Unusable
from oppu_core.errors import DataError
from oppu_core.tasks.task import Task

SEPARATORS = ("\t", " => ", " | ")  # between input and output; the first one found in a line is used

Row = tuple[int, Any]  # a number, and the value or the reason why it cannot be read

_JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
_TABLE_SUFFIXES = (".csv", ".tsv")
_SCRIPT = re.compile(
    r"((var|let|const)\s+[\w$]+|[\w$]+(\.[\w$]+)+)\s*=\s*(?=[\[{])"
    r"|window\.[\w$.]+\s*=|export\s+(default|const)\s"
)
_TWEETS = re.compile(r"window\.YTD\.tweets?\.part\d+\s*=")
# A document begins with a declaration, or with a tag alone on its line; plain text may begin with a tag, too.
_MARKUP = re.compile(r"<(!doctype|\?xml|html)\b|<[a-z!?/][^<>\n]*>\s*(\n|$)", re.IGNORECASE)
_PIECE = re.compile(r"[\s,;]*[\[\]{}][\s\[\]{},;]*")  # a line of brackets: part of JSON over several lines
_TELLING_LINES = 50
_HEAD_CHARS = 100_000


@dataclasses.dataclass(frozen=True)
class Records:
    """The records of a history, in the file's order.

    Attributes:
        unit: What the numbers count: "line", or "record" where a record may span several lines.
        rows: (number, value) of each record; for an unreadable one, (number, reason).
        columns: The number of columns of a table; 0 for other formats.
    """

    unit: str
    rows: Iterator[Row]
    columns: int = 0


def history_records(task: Task, text: str, where: str, suffix: str = "") -> Records:
    """The records of a history in any of the formats.

    Args:
        task: The task of the history; a table's header is recognized by its fields.
        text: The text.
        where: How messages begin, e.g. "The file".
        suffix: The suffix of the file's name, if there is one.

    Raises:
        DataError: the text has an unknown structure, or the task's items cannot be plain lines.
    """
    text = text.removeprefix("\ufeff")
    start, suffix = text.lstrip("\ufeff \t\r\n"), suffix.lower()
    if script := _SCRIPT.match(start):
        return _tweets(task, text, where, script[0])
    if _MARKUP.match(start):
        raise DataError(f"{where} is a web page or XML, which is not read. {how_to(task)}")
    if start.startswith("["):
        return Records("record", enumerate(map(_untweeted(task), _json_list(text, where)), 1))
    if start.startswith("{") or suffix in _JSON_SUFFIXES:
        if (objects := _long_objects(start, where)) is not None:
            return Records("record", enumerate(objects, 1))
        return Records("line", _json_lines(_lines(text)))
    if (table := _table(task, text, where, suffix in _TABLE_SUFFIXES)) is not None:
        return table
    lines = _lines(text)
    _refuse_structure(task, [line for line in lines if line.strip()][:_TELLING_LINES], where)
    return Records("line", _plain_lines(task, lines))


def how_to(task: Task) -> str:
    """How to write a history for a task, in a sentence or two."""
    names = ", ".join(task.history_fields)
    forms = f"JSON (a list, or an object a line) or a table (CSV, TSV) with {names}"
    if _one_text(task):
        forms += ", or the tweets.js of an X archive"
    if (plain := plain_fields(task)) is None:
        return f"Give {forms}; an item has too many fields for plain lines."
    line = " => ".join(plain)
    between = " (a tab or | may stand between, too)" if len(plain) > 1 else ""
    return f"Write one item a line: {line}{between}. Or give {forms}."


def plain_fields(task: Task) -> tuple[str, ...] | None:
    """The fields of a plain line: input and output, or the only field; None if an item has more."""
    inputs = [name for name in _required(task) if name != task.output_field]
    if len(inputs) != 1:
        return None
    return (inputs[0], task.output_field) if task.output_field else (inputs[0],)


def _required(task: Task) -> list[str]:
    return [name for name in task.history_fields if name not in task.optional_fields]


def _one_text(task: Task) -> bool:
    return task.output_field is None and len(task.history_fields) == 1


def _lines(text: str) -> list[str]:
    """The lines without line ends. Only LF, CR LF and CR count; rarer ones may be part of a text."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


# X archives


def _tweets(task: Task, text: str, where: str, script: str) -> Records:
    if not _TWEETS.match(script):
        raise DataError(
            f"{where} is a script ({script.strip()!r}), of which only the tweets.js of an X archive is read. "
            f"{how_to(task)}"
        )
    if not _one_text(task):
        raise DataError(
            f"{where} has tweets of an X archive, and a history of {task.name} is no tweets. {how_to(task)}"
        )
    values = _json_list(text.replace(script, "", 1).rstrip().removesuffix(";"), where)
    return Records("record", enumerate(map(_untweeted(task), values), 1))


def _untweeted(task: Task) -> Any:
    """A function that turns a tweet as X exports it into an item, and returns other values unchanged."""

    def item(value: Any) -> Any:
        if not (isinstance(value, dict) and value.keys() == {"tweet"} and isinstance(value["tweet"], dict)):
            return value
        if not _one_text(task):
            return Unusable(f"is a tweet, and a history of {task.name} is no tweets")
        tweet = value["tweet"]
        text, created = tweet.get("full_text"), tweet.get("created_at")
        if not isinstance(text, str):
            return Unusable("a tweet has no full_text")
        if text.startswith("RT @"):
            return Unusable("is a retweet: somebody else's words")
        found = {task.history_fields[0]: html.unescape(text)}
        if isinstance(number := tweet.get("id_str"), str):
            found["id"] = number
        if created is not None:
            try:
                moment = datetime.datetime.strptime(str(created), "%a %b %d %H:%M:%S %z %Y")
            except ValueError:
                return Unusable("created_at is no date of X")
            found["date"] = moment.astimezone(datetime.UTC).isoformat()
        return found

    return item


# JSON


def _json_list(text: str, where: str) -> list[Any]:
    try:
        value = DECODER.decode(text)
    except json.JSONDecodeError as error:
        problem = PYTHON if looks_like_python(text) else f"is not JSON ({error.msg}, line {error.lineno})"
        # A tweet may start with '[', but then not as the first line.
        hint = " Plain lines may not start so; put another line first." if re.match(r"\s*\[\w", text) else ""
        raise DataError(f"{where} starts with '[' as JSON does, but {problem}.{hint}") from error
    except RecursionError as error:
        raise DataError(f"{where} is nested too deeply.") from error
    return value if isinstance(value, list) else [value]


def _json_lines(lines: list[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield number, read_line(line.removeprefix("\ufeff"))
            except Unusable as problem:
                yield number, problem


def _long_objects(text: str, where: str) -> list[Any] | None:
    """JSON objects one after another, if the first spans several lines; else None."""
    try:
        _, end = DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        return None
    if "\n" not in text[:end] and "\r" not in text[:end]:
        return None
    values: list[Any] = []
    at = 0
    while at < len(text):
        try:
            value, at = DECODER.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            problem = f"what follows object {len(values)} is not JSON"
            raise DataError(f"{where}: {problem} ({error.args[0] if error.args else error}).") from error
        values.append(value)
        while text[at : at + 1] in (",", " ", "\t", "\r", "\n"):
            at += 1
    return values


# Tables


def _table(task: Task, text: str, where: str, must_be: bool) -> Records | None:
    """The records of a table with the task's columns; None if the text may be plain lines."""
    first, second = (*(line for line in _lines(text[:_HEAD_CHARS]) if line.strip()), "", "")[:2]
    delimiter = _header_delimiter(task, first, second)
    if delimiter is None and not must_be and not SEP_LINE.fullmatch(first):
        return None
    table = Table(io.StringIO(text, newline=""), where, delimiter)
    names = _own_names(task, table.names)
    if not _has_columns(task, names):
        raise _no_header(task, where)
    return Records("line", _table_rows(table, names), len(names))


def _header_delimiter(task: Task, first: str, second: str) -> str | None:
    """The delimiter of a header that names the task's fields; None if the line is not such a header."""
    for delimiter in delimiter_of(first, second) + DELIMITERS:
        names = cells_of(first, delimiter)
        # A single word may be an item's text.
        if _has_columns(task, _own_names(task, names) if len(names) > 1 else names):
            return delimiter
    return None


def _has_columns(task: Task, names: list[str]) -> bool:
    return set(_required(task)) <= set(names) or (
        bool(task.output_field) and {"input", "output"} <= set(names)
    )


def _own_names(task: Task, names: list[str]) -> list[str]:
    """Column names in the task's spelling: "Text" becomes "text"."""
    known = {name.casefold(): name for name in _known(task)}
    return [name if name in known.values() else known.get(name.casefold(), name) for name in names]


def _known(task: Task) -> tuple[str, ...]:
    return (*task.history_fields, "input", "output", "id", "date", "time")


def _no_header(task: Task, where: str) -> DataError:
    columns = ", ".join(sorted(_required(task)))
    return DataError(f"{where} has no header line with the columns {columns}.")


def _table_rows(table: Table, names: list[str]) -> Iterator[Row]:
    for cells in table.rows():
        if any(cells[len(names) :]):  # the text was cut at a comma in it
            yield table.line, Unusable("has more cells than columns; quote what has a comma")
        elif any(cells):
            yield table.line, {name: cell for name, cell in zip(names, cells, strict=False) if name and cell}


# Plain lines


def _refuse_structure(task: Task, lines: list[str], where: str) -> None:
    """Refuse lines that are JSON not from the first line on, YAML, or a table without the task's header."""
    if piece := next((line for line in lines if _PIECE.fullmatch(line)), None):
        raise DataError(
            f"{where} has JSON in it (a line {piece.strip()!r}) and other lines. Give the JSON alone."
        )
    keyed = re.compile(rf"\s*(- )?[\"']?({'|'.join(map(re.escape, _known(task)))})[\"']?:\s")
    if len(lines) > 1 and 2 * sum(keyed.match(line) is not None for line in lines) > len(lines):
        raise DataError(f"{where} looks like YAML, which is not read. {how_to(task)}")
    if _is_table(task, lines):
        raise DataError(f"{_no_header(task, where)} {how_to(task)}")


def _is_table(task: Task, lines: list[str]) -> bool:
    """Whether lines without a known header are the rows of a table nevertheless."""
    # A plain line may have one tab, between its two fields.
    plain = plain_fields(task) or ()
    if _steady(lines, "\t") > (2 if len(plain) == 2 else 1):
        return True
    if len(lines) < 3 or (len(plain) == 2 and any(sep in line for sep in SEPARATORS for line in lines)):
        return False
    # In prose a space follows a comma.
    return any(
        _steady(lines, each) > 1 and not any(re.search(f"{each} ", _unquoted(line)) for line in lines)
        for each in ",;"
    )


def _steady(lines: list[str], delimiter: str) -> int:
    """The number of cells that all lines have; 0 if they differ, or if there is only one line."""
    widths = {len(cells_of(line, delimiter)) for line in lines}
    return widths.pop() if len(widths) == 1 and len(lines) > 1 else 0


def _unquoted(line: str) -> str:
    return re.sub(r'"[^"]*"', "", line)


def _plain_lines(task: Task, lines: list[str]) -> Iterator[Row]:
    fields = plain_fields(task)
    if fields is None:
        raise DataError(how_to(task))
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        separator = next((each for each in SEPARATORS if each in line), None)
        if line.lstrip()[0] in "{[" and _is_json(line):
            yield number, Unusable("is JSON among plain lines")
        elif len(fields) == 1:
            yield number, {fields[0]: line.strip()}
        elif separator is None:
            yield number, Unusable(f"write {' => '.join(fields)}; there is no => in it, no tab and no |")
        else:
            given, _, output = line.rpartition(separator)
            yield number, {fields[0]: given.strip(), fields[1]: output.strip()}


def _is_json(line: str) -> bool:
    try:
        read_line(line.rstrip().removesuffix(","))
    except Unusable as problem:
        return problem.reason == PYTHON
    return True
