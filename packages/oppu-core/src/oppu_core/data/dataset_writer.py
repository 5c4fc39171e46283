"""Writing a dataset folder, or rewriting it without some users: as a stream, all or nothing."""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from oppu_core.data.dataset import FORMAT, MANIFEST, PROFILES, REJECTED, SHARD, Dataset
from oppu_core.data.schema import SplitWriter, schema_of, shown, to_row
from oppu_core.data.types import SPLITS, User
from oppu_core.errors import DataError
from oppu_core.storage.files import new_dir, scratch_dir, write_json
from oppu_core.tasks.task import Task, Words
from oppu_core.tasks.task_files import TASKS

_OURS = {MANIFEST, PROFILES, REJECTED}


def _refuse_strangers(path: Path) -> None:
    """Refuse to replace a folder that holds anything but a dataset: a person's other files are safe."""
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
    return name in _OURS or SHARD.fullmatch(name) is not None


def write_dataset(
    path: Path,
    task: Task,
    users: Iterable[User],
    source: Mapping[str, Any],
    beside: Path | None = None,
    words: Callable[[], Words] | None = None,
) -> "Dataset":
    """Write users as a dataset folder, as a stream, all or nothing.

    The same users give the same bytes, however the splits are interleaved. A dataset at `path` is replaced.

    Args:
        path: The folder to make.
        task: Decides which fields history items and queries have.
        users: Users of both splits in any order; the order within a split is kept.
        source: Where the users come from (JSON values, no absolute path). Read after the last user, so that
            a reader can complete it meanwhile.
        beside: A folder whose ``profiles.jsonl`` and ``rejected.jsonl``, if present after the last user, are
            copied into the dataset.
        words: Called after the last user; returns :attr:`Task.words`, where they depend on the texts.

    Returns:
        The dataset, open.

    Raises:
        DataError: a user (named) cannot be stored, `path` holds something else, or the disk refuses.
    """
    # Follow links to the folder; realpath, because Path.resolve raises on a loop of links.
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
                # Prediction files identify a test query by its id alone; the others' are not looked up.
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
    """Rewrite a dataset in place with only some of its users, all or nothing.

    Task, source and order stay. Profiles and refused records of removed users are removed too; records
    refused without a user id stay.

    Args:
        path: The dataset folder.
        keep: Whether to keep a user id.

    Returns:
        The new dataset, open.

    Raises:
        DataError: the folder is not a dataset or is damaged, or the disk refuses.
    """
    dataset = Dataset.open(path)
    with scratch_dir(Path(os.path.realpath(path))) as scratch:
        for name in (PROFILES, REJECTED):
            if (path / name).exists():
                _copy_rows(path / name, scratch / name, keep)
        users = (user for user in dataset.users() if keep(user.user_id))
        return write_dataset(path, dataset.task, users, dataset.source, scratch)


def _copy_rows(source: Path, target: Path, keep: Callable[[str], bool]) -> None:
    """Copy the lines whose ``user_id`` is kept."""
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
