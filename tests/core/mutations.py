"""Small valid files of every format, a thousand ways to spoil them, and what an import must then do."""

import collections
import dataclasses
import functools
import io
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from oppu_core.data.dataset import Dataset
from oppu_core.data.importers.detect import import_files, open_reader
from oppu_core.errors import OppuError
from oppu_core.storage.files import content_id
from oppu_core.tasks.task_files import get_task

TASK = get_task("lamp_2m")
INSTRUCTION = TASK.instruction + " description: "
Outcome = Literal["imported", "refused"]


@dataclasses.dataclass(frozen=True)
class Valid:
    """Files of one format.

    Attributes:
        files: Contents by name.
        victims: The files that are worth spoiling.
        pieces: By user, the bytes that say something about the user, all of which have to be intact.
        path: What is imported, in the folder of the files.
    """

    files: dict[str, bytes]
    victims: tuple[str, ...]
    pieces: dict[str, list[bytes]]
    path: str = ""


def name(*parts: object) -> str:
    """An id that no slip turns into another one."""
    return content_id(parts)[:12]


def item(user: int, number: int) -> dict[str, Any]:
    return {
        "id": name("item", user, number),
        "description": f"Film {number}, é🎬",
        "tag": "comedy",
        "date": f"2020-01-{number + 1:02d}",
    }


def listed(records: list[Any]) -> bytes:
    return b"[" + b", ".join(map(encoded, records)) + b"]"


def encoded(record: Any) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode()


def release() -> Valid:
    records = [
        {
            "user_id": name("user", user),
            "profile": [item(user, number) for number in range(3)],
            "query": [{"id": name("query", user), "input": INSTRUCTION + "A film.", "gold": "action"}],
        }
        for user in range(6)
    ]
    golds = [{"id": record["query"][0]["id"], "output": "comedy"} for record in records[:3]]
    profiles = [{"id": record["user_id"], "output": "likes films"} for record in records]
    files = {
        "user_others.json": listed(records[3:]),
        "user_top_100_history.json": listed(records[:3]),
        "user_top_100_history_label.json": encoded({"task": "LaMP_2M", "golds": golds}),
        "profile_user_100.json": listed(profiles),
    }
    return Valid(files, tuple(files), {record["user_id"]: [encoded(record)] for record in records})


def lamp() -> Valid:
    files, pieces = {}, collections.defaultdict(list)
    for split, sees in (("train", 2), ("dev", 4)):
        questions = []
        for user in range(6):
            profile = [item(user, number) for number in range(sees)]
            question = {"id": name(split, user), "input": INSTRUCTION + "A film.", "profile": profile}
            questions.append(question | {"user_id": name("user", user)})
            pieces[name("user", user)].append(encoded(questions[-1]))
        golds = [{"id": question["id"], "output": "comedy"} for question in questions]
        files[f"{split}_questions.json"] = listed(questions)
        files[f"{split}_outputs.json"] = encoded({"task": "LaMP_2", "golds": golds})
    return Valid(files, tuple(files), pieces)


def events(suffix: str) -> Valid:
    rows = [
        {
            "user_id": name("user", user),
            "time": f"2020-01-{number + 1:02d}",
            "description": f'A "film" {number}, é',
            "tag": "comedy",
        }
        for number in range(4)
        for user in range(6)
    ]
    if suffix == "csv":
        lines = [
            ",".join(
                '"' + value.replace('"', '""') + '"' if "," in value else value for value in row.values()
            )
            for row in rows
        ]
        pieces = [line.encode() + b"\n" for line in lines]
        content = b"user_id,time,description,tag\n" + b"".join(pieces)
    else:
        pieces = [encoded(row) + b"\n" for row in rows]
        content = b"".join(pieces)
    if suffix == "parquet":
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), sink)
        # A flipped byte in the middle of a Parquet page can be any other text: nobody's rows are intact.
        return Valid({"e.parquet": sink.getvalue()}, ("e.parquet",), {}, "e.parquet")
    of_user = collections.defaultdict(list)
    for row, piece in zip(rows, pieces, strict=True):
        of_user[row["user_id"]].append(piece)
    return Valid({f"e.{suffix}": content}, (f"e.{suffix}",), of_user, f"e.{suffix}")


FORMATS: dict[str, Callable[[], Valid]] = {
    "release": release,
    "lamp": lamp,
    **{suffix: functools.partial(events, suffix) for suffix in ("jsonl", "csv", "parquet")},
}


def mutate(value: Any, rng: random.Random) -> Any:
    """The value with one random place dropped, renamed, retyped or doubled."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        rest = {other: entry for other, entry in value.items() if other != key}
        changed = value | {key: mutate(value[key], rng)}
        return rng.choice([rest, rest | {key + "x": value[key]}, changed, changed])
    if isinstance(value, list) and value and rng.random() < 0.9:
        place = rng.randrange(len(value))
        doubled = [value[place]] * rng.choice([0, 2])
        return value[:place] + rng.choice([[mutate(value[place], rng)], doubled]) + value[place + 1 :]
    return rng.choice(
        [
            None,
            True,
            7,
            -0.5,
            10**400,
            "",
            " ",
            "\ud800",
            "\0",
            "../../x",
            "x" * 10_000,
            [],
            {},
            [[]],
            {"id": {}},
        ]
    )


INSERTED = (
    b"\0", b"\xff", b"\xed\xa0\x80", b"\\ud800", b'"', b"\\", b"\n", b",", b"[" * 3000, b"]", b"{", b"}",
    b"1e999", b"9" * 5000, b"NaN", b"null", b'"user_id": "x", ', b'"id": 5, ', b"x" * 20_000, b"\xef\xbb\xbf",
    b"\r",
)  # fmt: skip


def spoiled(content: bytes, rng: random.Random) -> bytes:
    """The file with one to three slips."""
    for _ in range(rng.choice([1, 1, 2, 3])):
        at, size = rng.randrange(len(content) + 1), rng.choice([1, 3, 20, 300])
        kind = rng.randrange(7)
        if kind == 0:
            content = content[:at]
        elif kind == 1:
            content = content[:at] + content[at + size :]
        elif kind == 2:
            content = content[: at + size] + content[at:]
        elif kind == 3:
            content = content[:at] + rng.choice(INSERTED) + content[at:]
        elif kind == 4:
            content = (
                content[:at]
                + bytes(byte ^ 1 << rng.randrange(8) for byte in content[at : at + 1])
                + content[at + 1 :]
            )
        else:
            content = _mutated_json(content, rng)
    return content


def _mutated_json(content: bytes, rng: random.Random) -> bytes:
    try:
        value = mutate(json.loads(content), rng)
        return listed(value) if isinstance(value, list) else json.dumps(value).encode()
    except (ValueError, RecursionError):
        pass
    lines = content.splitlines(keepends=True)
    if lines:
        place = rng.randrange(len(lines))
        try:
            lines[place] = json.dumps(mutate(json.loads(lines[place]), rng)).encode() + b"\n"
        except (ValueError, RecursionError):
            lines[place] = lines[place] * rng.choice([0, 2])
    return b"".join(lines)


def attempt(valid: Valid, rng: random.Random, folder: Path) -> Outcome:
    """Spoil one file and import all: it works and loses nobody who is intact, or is one clear error."""
    source, out = folder / "source", folder / "out"
    source.mkdir(exist_ok=True)
    victim = rng.choice(valid.victims)
    contents = valid.files | {victim: spoiled(valid.files[victim], rng)}
    for file, content in contents.items():
        (source / file).write_bytes(content)
    everything = b"".join(contents.values())
    path = source / valid.path if valid.path else source
    try:
        reader = open_reader(path, task=rng.choice([None, TASK]))
        dataset = import_files(path, out, reader, strict=rng.random() < 0.1).dataset
    except OppuError as error:
        assert str(source) in str(error), error
        assert len(str(error)) < 2000
        assert sorted(entry.name for entry in folder.iterdir()) == ["source"]
        return "refused"
    dataset.verify()
    users = {user.user_id: len(user.history) for user in dataset.users()}
    assert len(users) == sum(counts["users"] for counts in dataset.counts.values())
    for user_id, pieces in valid.pieces.items():
        if all(piece in everything for piece in pieces):
            assert user_id in users, user_id
    refused = dataset.path / "rejected.jsonl"
    rows = refused.read_text().splitlines() if refused.exists() else []
    assert len(rows) == dataset.source["rejected"]
    for row in rows:
        assert json.loads(row).keys() == {"file", "record", "user_id", "reason", "value"}
    shutil.rmtree(Dataset.open(out).path)
    return "imported"
