"""Releases of the authors' form, for tests."""

import json
import tempfile
from pathlib import Path
from typing import Any

from oppu_core.data import User
from oppu_core.data.dataset import Dataset
from oppu_core.data.importers.detect import import_files
from oppu_core.data.importers.release import Release
from oppu_core.data.rejected import Rejects
from oppu_core.tasks.task_files import TASKS

OTHERS, TEST, LABELS = "user_others.json", "user_top_100_history.json", "user_top_100_history_label.json"


MOVIES = TASKS["lamp_2m"]


INSTRUCTION = MOVIES.instruction + " description: "


def item(number: int = 0, **changes: Any) -> dict[str, Any]:
    fields = {
        "id": f"h{number}",
        "description": f"Film {number}.",
        "tag": "comedy",
        "date": f"2020-01-{number + 1:02d}",
    }
    return fields | changes


def record(user_id: Any = "u", items: int = 2, **changes: Any) -> dict[str, Any]:
    query = {"id": f"q-{user_id}", "input": INSTRUCTION + "A film.", "gold": "action"}
    return {
        "user_id": user_id,
        "profile": [item(number) for number in range(items)],
        "query": [query],
    } | changes


def release(folder: Path, *test: Any, others: Any = (), labels: Any = None) -> Path:
    """A release folder of these records."""
    folder.mkdir(exist_ok=True)
    (folder / OTHERS).write_text(json.dumps(list(others)))
    (folder / TEST).write_text(json.dumps(list(test)))
    if labels is not None:
        (folder / LABELS).write_text(json.dumps(labels))
    return folder


def users(folder: Path, strict: bool = False) -> list[User]:
    with tempfile.TemporaryDirectory() as scratch:
        reader = Release(folder, MOVIES)
        return list(reader.users(Path(scratch), Rejects(Path(scratch), strict), lambda done, total: None))


def run_import(folder: Path, out: Path) -> Dataset:
    return import_files(folder, out, Release(folder)).dataset
