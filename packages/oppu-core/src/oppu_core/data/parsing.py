"""Turning a file's values into history items, queries and their parts, or refusing them.

The smallest possible unit is refused: the item, the query, else the user. Knows no file format.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from oppu_core.data.moments import any_time, why_no_time
from oppu_core.data.rejected import Unusable
from oppu_core.data.schema import shown
from oppu_core.data.types import HistoryItem, Query
from oppu_core.tasks.task import Task
from oppu_core.texts import as_number, number_text

MAX_ID_CHARS = 1_000
MAX_TEXT_CHARS = 1_000_000
# Missing ids and times as pandas, SQL and Spark write them.
MISSING = (None, "", "nan", "NaN", "None", "NULL", "null", "<NA>", "NaT", "\\N")
_ROUNDED = re.compile(r"[+-]?\d(\.\d+)?[eE]\+\d+|[+-]?\d\.\d+[eE]\d+")
_NAMES = {
    dict: "an object", list: "a list", bool: "true or false", type(None): "null", bytes: "bytes",
}  # fmt: skip


def as_object(value: Any) -> dict[str, Any]:
    """The value, which must be a JSON object."""
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
    """A field that must be text and, unless `empty`, not blank."""
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
    """An id, kept exactly as it is; its length is limited."""
    value = as_text(record, name)
    if len(value) > MAX_ID_CHARS:
        raise Unusable(f"{name} has more than {MAX_ID_CHARS:,} characters", f"{len(value):,}")
    return value


def as_user_id(record: Mapping[str, Any], name: str = "user_id") -> str:
    """A user's id; placeholders for missing ids are refused, as they would form one giant user."""
    if record.get(name) in MISSING[2:]:
        raise Unusable(f"{name} is missing", shown(record[name]))
    user_id = as_id(record, name)
    if _ROUNDED.fullmatch(user_id):  # two users may have become one
        raise Unusable(f"{name} is a number that has lost its last digits", shown(user_id))
    return user_id


def as_date(record: Mapping[str, Any], name: str = "date") -> str | None:
    """A date, or a time in UTC (:class:`oppu_core.data.moments.Moment`); None if missing, null or empty."""
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
    """Several fields in composed Unicode (NFC); optional ones may be missing, null or empty."""
    return {
        name: ""
        if name in optional and record.get(name) is None
        else unicodedata.normalize("NFC", as_text(record, name, name in optional))
        for name in names
    }


def as_history(task: Task, record: Mapping[str, Any]) -> dict[str, str]:
    """The fields of a history item, with its answer as by :func:`as_answer`."""
    fields = as_fields(record, task.history_fields, task.optional_fields)
    if task.output_field is not None and fields[task.output_field]:
        fields[task.output_field] = as_answer(task, fields[task.output_field], task.output_field)
    return fields


def as_answer(task: Task, text: str, name: str) -> str:
    """An answer: the label that it means (:meth:`Task.label_of`), else a rating's number, else the text."""
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
        if not field.strip() and name not in task.optional_fields:
            raise Unusable(f"input has no {name}", shown(text))
    gold = None if record.get("gold") is None else as_answer(task, as_text(record, "gold"), "gold")
    fields = {name: unicodedata.normalize("NFC", field) for name, field in fields.items()}
    return Query(query_id, fields, gold, history_len, date=as_date(record))


def _name(value: Any) -> str:
    return _NAMES.get(type(value), "text or a number")
