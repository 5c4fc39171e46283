"""The dataset on disk: a folder of Parquet shards, one row per user, described by ``dataset.json``.

Written as a stream and whole or not at all; read user by user. A test user is a row group of its own, so
that one user is read without the others. Every page carries a checksum, every shard a sha256, and every split
the sha256 of what it says (``content``), which does not depend on how Parquet wrote it.
"""

import contextlib
import dataclasses
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from oppu_core.data.schema import NUMBERS, SplitWriter, from_row, schema_of, shown, to_row
from oppu_core.data.types import SPLITS, Split, User
from oppu_core.errors import ConfigError, DataError, did_you_mean
from oppu_core.storage.files import file_sha256, new_dir, read_json, scratch_dir, write_json
from oppu_core.tasks.task import TASKS, Task, Words, get_task, task_from

FORMAT = 1
MANIFEST = "dataset.json"

# Beside the users: texts about them, and what was refused at import.
PROFILES, REJECTED = "profiles.jsonl", "rejected.jsonl"

_SHARD = re.compile(r"(others|test)-\d{5,}\.parquet")
_OURS = {MANIFEST, PROFILES, REJECTED}


def _refuse_strangers(path: Path) -> None:
    """Only what writers of datasets leave behind may be replaced: never a person's other files."""
    if not path.exists():
        return
    if not path.is_dir():
        problem = "is not a folder"
    elif strangers := sorted(entry.name for entry in path.iterdir() if not _is_ours(entry.name)):
        problem = f"is not a dataset folder, or not only: it has {shown(strangers[0])}"
    else:
        return
    raise DataError(
        f"{path} exists and {problem}. Nothing was changed; choose another place or move it away."
    )


def _is_ours(name: str) -> bool:
    return name in _OURS or _SHARD.fullmatch(name) is not None


def write_dataset(
    path: Path,
    task: Task,
    users: Iterable[User],
    source: Mapping[str, Any],
    beside: Path | None = None,
    words: Callable[[], Words] | None = None,
) -> "Dataset":
    """Write users as a dataset folder, as a stream, whole or not at all.

    The same users give the same bytes, however the two splits are interleaved. A dataset at `path` is
    replaced.

    Args:
        path: The folder to be made.
        task: Decides which fields history items and queries have.
        users: Users of both splits in any order; the order within a split is kept.
        source: Where the users come from (JSON values, no absolute path). Looked at after the last user, so
            that a reader can complete it on the way.
        beside: A folder whose ``profiles.jsonl`` and ``rejected.jsonl``, where they are there after the last
            user, go into the dataset's.
        words: Asked after the last user: the task's :attr:`Task.words`, where these go by the texts.

    Raises:
        DataError: a user cannot be stored (the message names user and field), `path` holds something else,
            or the disk refuses.
    """
    # Through a link to the folder it names; realpath, because a loop of links makes Path.resolve raise.
    target = Path(os.path.realpath(path))
    user_ids: set[str] = set()
    test_query_ids: dict[str, str] = {}
    try:
        _refuse_strangers(target)
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(new_dir(target))
            writers = {split: SplitWriter(folder, split, schema_of(task)) for split in SPLITS}
            for writer in writers.values():
                stack.callback(writer.release)
            for user in users:
                row = to_row(user, task)
                if user.user_id in user_ids:
                    raise DataError(f"user {shown(user.user_id)} occurs twice; a user is one record.")
                user_ids.add(user.user_id)
                # Prediction files know a test query by its id alone; nobody looks up the others' queries.
                for query in user.queries if user.split == "test" else ():
                    if (first := test_query_ids.setdefault(query.id, user.user_id)) != user.user_id:
                        message = f"user {shown(user.user_id)}: query {shown(query.id)} has the id"
                        raise DataError(f"{message} of a query of test user {shown(first)}; rename one.")
                writers[user.split].add(row)
            for writer in writers.values():
                writer.finish_shard()
            if words is not None:
                task = dataclasses.replace(task, words=words())
            manifest = {
                "format": FORMAT,
                "task": task.name,
                **({"task_definition": dataclasses.asdict(task)} if TASKS.get(task.name) != task else {}),
                "source": dict(source),
                "counts": {split: writer.counts for split, writer in writers.items()},
                "content": {split: writer.content.hexdigest() for split, writer in writers.items()},
                "shards": [shard for writer in writers.values() for shard in writer.shards],
            }
            for name in (PROFILES, REJECTED):
                if beside is not None and (beside / name).exists():
                    shutil.copyfile(beside / name, folder / name)
            write_json(folder / MANIFEST, manifest)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error}.") from error
    return Dataset.open(path)


def rewrite_dataset(path: Path, keep: Callable[[str], bool]) -> "Dataset":
    """Write a dataset again with some of its users, in its place, whole or not at all.

    Task, source and order stay. Of the profiles and refused records those of the other users go, too; what
    was refused without a user id stays.

    Args:
        path: The dataset folder.
        keep: Whether a user id stays.

    Raises:
        DataError: the folder is no dataset or is damaged, or the disk refuses.
    """
    dataset = Dataset.open(path)
    with scratch_dir(Path(os.path.realpath(path))) as scratch:
        for name in (PROFILES, REJECTED):
            if (path / name).exists():
                _copy_rows(path / name, scratch / name, keep)
        users = (user for user in dataset.users() if keep(user.user_id))
        return write_dataset(path, dataset.task, users, dataset.source, scratch)


def _copy_rows(source: Path, target: Path, keep: Callable[[str], bool]) -> None:
    """Copy the lines whose ``user_id`` stays."""
    try:
        with source.open(encoding="utf-8") as lines, target.open("w", encoding="utf-8") as out:
            for number, line in enumerate(lines, 1):
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise DataError(f"{source}, line {number}: expected an object. Correct or remove it.")
                user_id = row.get("user_id")
                if not isinstance(user_id, str) or keep(user_id):
                    out.write(line)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{source} cannot be copied: {error}. Correct or remove it.") from error


class Dataset:
    """A dataset folder, open for reading.

    Attributes:
        path: The folder.
        task: Its task.
        source: Where the users come from.
        counts: ``users``, ``queries`` and ``history_items`` of each split.
        fingerprint: The sha256 of ``dataset.json``, and so of all users (not of what lies beside them).

    Example:
        >>> dataset = Dataset.open(Path("data/movies"))  # doctest: +SKIP
        >>> dataset.user("8311").training_history[:3]  # doctest: +SKIP
    """

    def __init__(self, path: Path, task: Task, manifest: Mapping[str, Any], fingerprint: str) -> None:
        """Use :meth:`open`, which checks the folder."""
        self.path = path
        self.task = task
        self.source: dict[str, Any] = manifest["source"]
        self.counts: dict[Split, dict[str, int]] = manifest["counts"]
        self.fingerprint = fingerprint
        self._content: dict[Split, str] = manifest["content"]
        self._shards: list[dict[str, Any]] = manifest["shards"]
        self._index: dict[str, tuple[int, int, int]] | None = None

    @classmethod
    def open(cls, path: str | Path) -> "Dataset":
        """Open a dataset folder.

        Raises:
            DataError: the folder is missing, is no dataset, was written by a newer oppu, is of an unknown
                task, or lacks a shard.
        """
        path = Path(path)
        file = path / MANIFEST
        if not file.is_file():
            problem = (
                "is not a dataset folder (it has no dataset.json)" if path.exists() else "does not exist"
            )
            raise DataError(f"{path} {problem}; `oppu data import` makes one.")
        manifest = read_json(file)
        written = manifest.get("format") if isinstance(manifest, dict) else None
        if type(written) is int and written > FORMAT:
            raise DataError(
                f"{file} has format {written}, newer than this oppu reads ({FORMAT}); upgrade oppu."
            )
        if written != FORMAT or not _is_manifest(manifest):
            raise DataError(f"{file} is damaged or not of a dataset; import the dataset again.")
        try:
            own = manifest.get("task_definition")
            task = get_task(manifest["task"]) if own is None else task_from(own, "task_definition")
        except ConfigError as error:
            raise DataError(f"{file}: {error}") from error
        for shard in manifest["shards"]:
            if not (path / shard["file"]).is_file():
                raise DataError(f"{path} lacks its shard {shard['file']}; import the dataset again.")
        return cls(path, task, manifest, file_sha256(file))

    def content(self, split: Split) -> str:
        """The sha256 of what the split's users say, in order; independent of how Parquet wrote it."""
        return self._content[split]

    def users(self, split: Split | None = None) -> Iterator[User]:
        """Users in order, row group by row group; the others before the test users when `split` is None.

        Raises:
            DataError: a shard is damaged.
        """
        for shard in self._shards:
            if split in (None, shard["split"]):
                with self._reading(shard) as parquet:
                    for group in range(parquet.num_row_groups):
                        for row in parquet.read_row_group(group, use_threads=False).to_pylist():
                            yield from_row(row)

    def user(self, user_id: str) -> User:
        """One user, read without the others: the column of user ids (once), then one row group.

        Raises:
            DataError: there is no such user, or the shard is damaged.
        """
        index = self._users_index()
        if user_id not in index:
            hint = did_you_mean(user_id, index, shown, most=3)
            raise DataError(f"{self.path} has no user {shown(user_id)}.{hint}")
        number, group, place = index[user_id]
        with self._reading(self._shards[number]) as parquet:
            return from_row(parquet.read_row_group(group, use_threads=False).slice(place, 1).to_pylist()[0])

    def user_ids(self, split: Split) -> list[str]:
        """The ids of a split's users, in order, without reading anything else.

        Raises:
            DataError: a shard is damaged.
        """
        index = self._users_index().items()
        return [user_id for user_id, (number, _, _) in index if self._shards[number]["split"] == split]

    def verify(self) -> None:
        """Compare every shard with the checksum it was written with.

        Raises:
            DataError: a shard has changed or cannot be read.
        """
        for shard in self._shards:
            try:
                intact = file_sha256(self.path / shard["file"]) == shard["sha256"]
            except OSError as error:
                raise DataError(f"{self.path / shard['file']} cannot be read: {error}.") from error
            if not intact:
                raise DataError(_damaged(self.path / shard["file"], "its checksum differs"))

    def _users_index(self) -> dict[str, tuple[int, int, int]]:
        """Shard, row group and row of every user id."""
        if self._index is None:
            index = {}
            for number, shard in enumerate(self._shards):
                with self._reading(shard) as parquet:
                    for group in range(parquet.num_row_groups):
                        table = parquet.read_row_group(group, columns=["user_id"], use_threads=False)
                        for place, user_id in enumerate(table["user_id"].to_pylist()):
                            index[user_id] = (number, group, place)
            self._index = index
        return self._index

    @contextlib.contextmanager
    def _reading(self, shard: Mapping[str, Any]) -> Iterator[Any]:
        """An open shard; whatever Parquet stumbles over inside the block becomes one DataError."""
        file = self.path / shard["file"]
        try:
            with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
                known = (schema_of(self.task), schema_of(self.task, query_dates=False))
                if parquet.schema_arrow not in known:
                    raise DataError(_damaged(file, f"its columns are not those of task {self.task.name}"))
                if parquet.metadata.num_rows != shard["users"]:
                    raise DataError(_damaged(file, "its number of users differs"))
                yield parquet
        except (pa.ArrowException, OSError, TypeError, ValueError, MemoryError) as error:
            raise DataError(_damaged(file, str(error).partition("\n")[0].rstrip("."))) from error


def _damaged(file: Path, problem: str) -> str:
    return f"{file} is damaged: {problem}. Copy it again or import the dataset again."


def _is_manifest(manifest: Mapping[str, Any]) -> bool:
    """Whether ``dataset.json`` has everything that a reader relies on."""
    try:
        return (
            isinstance(manifest["task"], str)
            and isinstance(manifest.get("task_definition"), dict | None)
            and isinstance(manifest["source"], dict)
            and all(type(manifest["counts"][split][name]) is int for split in SPLITS for name in NUMBERS)
            and all(isinstance(manifest["content"][split], str) for split in SPLITS)
            # A name that leads out of the folder is no shard of ours.
            and all(
                _SHARD.fullmatch(shard["file"])
                and shard["split"] in SPLITS
                and type(shard["users"]) is int
                and isinstance(shard["sha256"], str)
                for shard in manifest["shards"]
            )
            and all(
                sum(shard["users"] for shard in manifest["shards"] if shard["split"] == split)
                == manifest["counts"][split]["users"]
                for split in SPLITS
            )
        )
    except (KeyError, TypeError, AttributeError):
        return False
