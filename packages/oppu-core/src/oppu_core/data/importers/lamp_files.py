"""What LaMP's own files and the authors' release share: the file of golds, and detecting the task."""

import collections
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from oppu_core.data.importers.json_stream import decode, read_records
from oppu_core.data.parsing import as_answer, as_id, as_list, as_object, as_text
from oppu_core.data.rejected import Place, Rejects, Unusable
from oppu_core.data.schema import shown
from oppu_core.errors import DataError
from oppu_core.tasks.task import Task
from oppu_core.tasks.task_files import TASKS

# The task is detected from at most so many items and inputs, and at most so many records.
_LOOKED_AT, _SAMPLED = 20, 1_000


def read_labels(file: Path, rejects: Rejects, task: Task) -> dict[str, str]:
    """The golds of a label file by query id, as by :func:`as_answer`; of two for a query the first counts.

    Raises:
        DataError: the file cannot be read or has another structure.
    """
    golds: dict[str, str] = {}
    for number, value in enumerate(_labels(file)["golds"], 1):
        try:
            gold = as_object(value)
            query_id, output = as_id(gold, "id"), as_answer(task, as_text(gold, "output"), "output")
            if golds.setdefault(query_id, output) != output:
                raise Unusable("id has two golds")
        except Unusable as problem:
            rejects.add(Place(file, number), "gold", problem, value)
    return golds


def read_lamp_id(file: Path) -> str | None:
    """The task's name in a label file, if any; None without the file. Errors as in :func:`read_labels`."""
    name = _labels(file).get("task") if file.exists() else None
    return name if isinstance(name, str) else None


def _labels(file: Path) -> dict[str, Any]:
    """``{"task": "LaMP_2M", "golds": [{"id", "output"}, …]}``."""
    try:
        content = as_object(decode(file.read_bytes()))
        as_list(content, "golds")
        return content
    except json.JSONDecodeError as error:
        problem = f"line {error.lineno}: {error.msg}"
    except (OSError, ValueError, Unusable) as error:
        problem = str(error)
    raise DataError(f"{file} cannot be read as a file of golds ({problem}). Download it again or remove it.")


def detect_task(where: Path, lamp_id: str | None, samples: Iterable[tuple[Any, Any]]) -> Task:
    """Detect a LaMP task by the name in its label file, the fields of history items and the queries' inputs.

    Args:
        where: What is to be imported, for the message.
        lamp_id: The name in the label file.
        samples: (history items, inputs of queries) of a few records, as in the file.

    Raises:
        DataError: the task cannot be told.
    """
    lamp = [
        task for task in TASKS.values() if task.lamp_ids
    ]  # LongLaMP's abstracts have the fields of LaMP-5
    matching = [task for task in lamp if lamp_id in task.lamp_ids] or lamp
    shapes: collections.Counter[frozenset[str]] = collections.Counter()
    texts: list[str] = []
    for items, inputs in samples:
        shapes.update(frozenset(item) - {"id", "date"} for item in items if isinstance(item, dict))
        texts += [text for text in inputs if isinstance(text, str)]
        if shapes.total() >= _LOOKED_AT and len(texts) >= _LOOKED_AT:
            break
    # By majority: a few records may be broken.
    fields = shapes.most_common(1)[0][0] if shapes else frozenset()
    if fields:
        matching = [task for task in matching if _has_fields(task, fields)]
    if len(matching) > 1 and texts:
        cut = {task.name: sum(task.parse_input(text) is not None for text in texts) for task in matching}
        matching = [task for task in matching if 2 * cut[task.name] > len(texts)]
    if len(matching) == 1:
        return matching[0]
    found = f"the fields of the history are {shown(', '.join(sorted(fields)))}" if fields else "no history"
    found += f", the golds are those of {shown(lamp_id)}" if lamp_id else ""
    raise DataError(
        f"{where}: cannot tell the task by its names, fields and inputs ({found}). "
        f"Say --task with one of {', '.join(TASKS)}, or the .toml file of your own."
    )


def sample_records(files: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """The first objects of files of records, from which to detect a task."""
    for file in files:
        for number, record in enumerate(read_records(file)):
            if number == _SAMPLED:
                break
            if isinstance(record.value, dict):
                yield record.value


def list_in(record: Mapping[str, Any], name: str) -> list[Any]:
    """A list in a record of unknown shape; empty if it is not there."""
    value = record.get(name)
    return value if isinstance(value, list) else []


def _has_fields(task: Task, fields: frozenset[str]) -> bool:
    return set(task.history_fields) - set(task.optional_fields) <= fields <= set(task.history_fields)
