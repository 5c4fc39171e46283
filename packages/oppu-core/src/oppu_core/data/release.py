"""The authors' processed release of LaMP ("OPPU release"): a folder of JSON files for one task.

``user_others.json`` has the users that train the task base, ``user_top_100_history.json`` (tweets:
``user_more_100_history.json``) the test users, ``…_label.json`` beside it the test users' golds. Read as a
stream: the files run to gigabytes.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from oppu_core.data.json_stream import DECODER, read_records
from oppu_core.data.rows import shown
from oppu_core.data.types import HistoryItem, Query, Split, User
from oppu_core.errors import DataError
from oppu_core.tasks import TASKS, Task

OTHERS_FILE = "user_others.json"
TEST_FILES = ("user_top_100_history.json", "user_more_100_history.json")

_ISO_DATE = re.compile(r"\d{4}(-\d\d(-\d\d([T ].*)?)?)?")
_NAMES = {dict: "an object", list: "a list", bool: "true or false", type(None): "null"}


@dataclasses.dataclass(frozen=True)
class Labels:
    """The label file of the test users: a task's LaMP name and golds by query id (both may be missing)."""

    task: str | None = None
    golds: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Release:
    """A folder in the release's layout.

    Attributes:
        folder: The folder.
        task: The given or detected task.
        source: Where the data comes from, for :func:`oppu_core.data.dataset.write_dataset`: `kind`, the
            `files` (name, bytes, sha256), and in how many queries (`gold_disagreements`) the label file has
            another gold than the query. Complete when :meth:`users` has run to its end.
    """

    def __init__(self, folder: Path, task: Task | None = None) -> None:
        """Find the files and, unless it is given, the task.

        Raises:
            DataError: a file is missing or unusable, or the task cannot be told.
        """
        self.folder = folder
        if not folder.is_dir():
            raise DataError(f"{folder} {'is not a folder' if folder.exists() else 'does not exist'}.")
        found = [name for name in TEST_FILES if (folder / name).exists()]
        if len(found) != 1 or not (folder / OTHERS_FILE).exists():
            raise DataError(
                f"{folder} must have {OTHERS_FILE} and one of {' or '.join(TEST_FILES)}; "
                f"it has {', '.join([OTHERS_FILE] * (folder / OTHERS_FILE).exists() + found) or 'neither'}."
            )
        self._files: dict[Split, Path] = {"others": folder / OTHERS_FILE, "test": folder / found[0]}
        self._label_file = self._files["test"].with_name(found[0].replace(".json", "_label.json"))
        self._labels = read_labels(self._label_file) if self._label_file.exists() else Labels()
        self.source: dict[str, Any] = {"kind": "oppu-release"}
        self.task = task or detect_task(folder, self._labels, list(self._files.values())[::-1])

    def users(self, on_progress: Callable[[int, int], None] | None = None) -> Iterator[User]:
        """Yield every user, the others first.

        Each history is sorted by date, stably, when all of its items have one: "what came before" has to be
        a prefix. Otherwise it stays in the file's order. Every query sees the whole history.

        Args:
            on_progress: Called with the bytes read so far and in all.

        Raises:
            DataError: a file or record is unusable; the message names file, user and field.
        """
        # The same object: whoever holds it sees it completed.
        self.source.update(files=[], gold_disagreements=0)
        total = sum(file.stat().st_size for file in self._files.values() if file.is_file())
        done = 0
        for split, file in self._files.items():
            digest, start = hashlib.sha256(), done

            def count(block: bytes, digest: Any = digest) -> None:
                nonlocal done
                digest.update(block)
                done += len(block)
                if on_progress is not None:
                    on_progress(done, total)

            for number, record in enumerate(read_records(file, count), 1):
                yield self._user(record, split, f"{file}, record {number}", str(file))
            self._note_file(file, done - start, digest.hexdigest())
        if self._label_file.exists():
            content = self._label_file.read_bytes()
            self._note_file(self._label_file, len(content), hashlib.sha256(content).hexdigest())

    def _note_file(self, file: Path, size: int, sha256: str) -> None:
        self.source["files"].append({"file": file.name, "bytes": size, "sha256": sha256})

    def _user(self, record: Any, split: Split, where: str, file: str) -> User:
        user = _object(record, where)
        user_id = _id(user, "user_id", where)
        where = f"{file}, user {shown(user_id)}"
        items = [self._item(item, where) for item in _list(user, "profile", where)]
        if all(item.date for item in items):
            items.sort(key=lambda item: item.date or "")
        queries = [self._query(query, split, len(items), where) for query in _list(user, "query", where)]
        return User(user_id, split, tuple(items), tuple(queries))

    def _item(self, value: Any, where: str) -> HistoryItem:
        record = _object(value, f"{where}, profile")
        item_id = _id(record, "id", f"{where}, profile")
        where = f"{where}, item {shown(item_id)}"
        date = (_text(record, "date", where) if record.get("date") is not None else "") or None
        if date and not _ISO_DATE.fullmatch(date):
            _refuse(
                where, "date", f"{shown(date)} is not an ISO date", "Write it as YYYY-MM-DD or leave it out."
            )
        fields = {name: _text(record, name, where) for name in self.task.history_fields}
        return HistoryItem(item_id, fields, date)

    def _query(self, value: Any, split: Split, history_len: int, where: str) -> Query:
        record = _object(value, f"{where}, query")
        query_id = _id(record, "id", f"{where}, query")
        where = f"{where}, query {shown(query_id)}"
        fields = parse_input(self.task, _text(record, "input", where), where)
        gold = _text(record, "gold", where) if record.get("gold") is not None else None
        if split == "test":
            label = self._labels.golds.get(query_id)
            self.source["gold_disagreements"] += None not in (gold, label) and gold != label
            gold = label if gold is None else gold
        return Query(query_id, fields, gold, history_len)


def parse_input(task: Task, text: str, where: str) -> dict[str, str]:
    """The query's field out of a raw LaMP `input`: everything after the task's marker, unchanged.

    The first marker counts: it ends the instruction, and later ones belong to the text.

    Raises:
        DataError: there is no marker, or the task's queries have several fields.
    """
    if len(task.input_fields) != 1:
        raise DataError(
            f"{where}: inputs of task {task.name} have several fields, which this reader cannot cut."
        )
    _, marker, rest = text.partition(task.marker)
    if not marker:
        _refuse(
            where, "input", f"{shown(text)} has no {task.marker!r} before the text", "Is it another task's?"
        )
    return {task.input_fields[0]: rest}


def read_labels(file: Path) -> Labels:
    """Read a ``…_label.json``: ``{"task": "LaMP_2M", "golds": [{"id", "output"}, …]}``.

    Raises:
        DataError: the file cannot be read or has another shape.
    """
    try:
        content = _object(DECODER.decode(file.read_text(encoding="utf-8")), str(file))
    except (OSError, ValueError, RecursionError) as error:
        problem = (
            f"line {error.lineno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else str(error)
        )
        raise DataError(
            f"{file} cannot be read as JSON ({problem}). Download it again or remove it."
        ) from error
    golds = {}
    for value in _list(content, "golds", str(file)):
        gold = _object(value, f"{file}, golds")
        gold_id = _id(gold, "id", f"{file}, golds")
        golds[gold_id] = _text(gold, "output", f"{file}, gold {shown(gold_id)}")
    return Labels(_text(content, "task", str(file)) if "task" in content else None, golds)


def detect_task(folder: Path, labels: Labels, files: list[Path]) -> Task:
    """Tell the task by the label file, else the folder's name, else the fields of the first history item.

    Raises:
        DataError: none of them says it, or a file is unusable.
    """
    for task in TASKS.values():
        if labels.task in task.lamp_ids:
            return task
    for task in TASKS.values():
        if folder.resolve().name == task.release_name:
            return task
    fields = next((fields for file in files if (fields := _first_item_fields(file))), frozenset())
    matching = [task for task in TASKS.values() if fields == set(task.history_fields)]
    if len(matching) == 1:
        return matching[0]
    raise DataError(
        f"{folder}: cannot tell the task, neither by the label file nor by the folder's name nor by the "
        f"fields of the history ({shown(', '.join(sorted(fields)))}). "
        f"Say --task with one of {', '.join(TASKS)}."
    )


def _first_item_fields(file: Path) -> frozenset[str]:
    for number, record in enumerate(read_records(file), 1):
        where = f"{file}, record {number}"
        for item in _list(_object(record, where), "profile", where):
            return frozenset(_object(item, where)) - {"id", "date"}
    return frozenset()


def _refuse(where: str, name: str, problem: str, advice: str) -> NoReturn:
    raise DataError(f"{where}: {name} {problem}. {advice}")


def _object(value: Any, where: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise DataError(f"{where}: expected an object, found {_name(value)}.")


def _list(record: Mapping[str, Any], name: str, where: str) -> list[Any]:
    value = record.get(name)
    if isinstance(value, list):
        return value
    raise DataError(
        f"{where}: {name} must be a list, but is {_name(value) if name in record else 'missing'}."
    )


def _text(record: Mapping[str, Any], name: str, where: str) -> str:
    value = record.get(name)
    if isinstance(value, str):
        return value
    raise DataError(
        f"{where}: {name} must be text, but is {_name(value) if name in record else 'missing'}. "
        "Correct the record or take it out."
    )


def _id(record: Mapping[str, Any], name: str, where: str) -> str:
    value = _text(record, name, where)
    if value:
        return value
    raise DataError(f"{where}: {name} is empty. Give every record an id.")


def _name(value: Any) -> str:
    return _NAMES.get(type(value), "text or a number")
