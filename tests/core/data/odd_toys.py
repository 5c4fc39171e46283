"""Tables of events in odd forms, for tests."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from oppu_core.data import User
from oppu_core.data.importers.detect import import_files, open_reader
from oppu_core.errors import ConfigError, DataError
from oppu_core.storage.files import read_jsonl
from oppu_core.tasks.task_files import get_task

RATINGS = get_task("lamp_3")


COLUMNS = ["user_id", "time", "text", "score"]


ROWS: list[dict[str, Any]] = [
    {
        "user_id": f"u{n % 3}",
        "time": f"2024-05-{n + 1:02d}",
        "text": f'A "café", {n}',
        "score": str(n % 5 + 1),
    }
    for n in range(24)
]


def table(
    delimiter: str = ",", end: str = "\n", rows: list[dict[str, str]] = ROWS, names: list[str] = COLUMNS
) -> str:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, lineterminator=end)
    writer.writerow(names)
    writer.writerows(row.values() for row in rows)
    return out.getvalue()


def lines(rows: list[dict[str, Any]] = ROWS) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def imported(path: Path, encoding: str | None = None) -> dict[str, User]:
    reader = open_reader(path, None, RATINGS, encoding=encoding)
    dataset = import_files(path, path.parent / "out", reader).dataset
    return {user.user_id: user for user in dataset.users()}


def refused(path: Path, encoding: str | None = None) -> str:
    with pytest.raises((DataError, ConfigError)) as caught:
        imported(path, encoding)
    message = str(caught.value)
    assert message.count(str(path)) == 1 or isinstance(caught.value, ConfigError)
    return message.replace(str(path), path.name)


def rejected(path: Path) -> list[str]:
    return [row["reason"] for row in read_jsonl(path.parent / "out" / "rejected.jsonl")]


def content_of(users: dict[str, User]) -> dict[str, list[tuple[object, ...]]]:
    """What users say, without the ids that number records."""
    return {
        name: [
            *((item.date, *item.fields.values()) for item in user.history),
            *((*query.fields.values(), query.gold) for query in user.queries),
        ]
        for name, user in users.items()
    }
