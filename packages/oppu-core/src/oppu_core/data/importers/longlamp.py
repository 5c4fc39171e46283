"""Importing LongLaMP (arXiv 2407.11016): a folder of Parquet shards of the splits train, val and test.

The folder is one configuration of the hub's repository, e.g. ``product_review_user``. A row is a question
with its answer and a profile of its own; a user may have several rows, also in several splits.
"""

import collections
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from oppu_core.data.importers.event_rows import read_rows
from oppu_core.data.importers.group_by_user import TEST_USERS, RowsByUser, longest
from oppu_core.data.importers.merge_profiles import user_of
from oppu_core.data.intake import Intake, OnProgress, TestSplit, described
from oppu_core.data.moments import moment
from oppu_core.data.parsing import as_list, as_text, as_user_id
from oppu_core.data.rejected import Place, Rejects, Unusable
from oppu_core.data.schema import shown
from oppu_core.data.types import User
from oppu_core.errors import DataError
from oppu_core.storage.files import content_id
from oppu_core.tasks.task import Task
from oppu_core.tasks.task_files import TASKS

SETTINGS = ("user", "temporal")
# The column that names the user, by configuration.
USER_COLUMNS = {"abstract_generation": "name", "product_review": "reviewerId", "topic_writing": "author"}

_SHARD = re.compile(r"(train|val|test)(?:-(\d{5})-of-(\d{5}))?\.parquet")
_COLUMNS = {"input", "output", "profile"}
_BATCH_ROWS = 16  # a profile may have thousands of items


def shards(path: Path) -> dict[str, list[Path]]:
    """The files of each split; empty if the folder is no configuration of LongLaMP.

    Raises:
        DataError: a shard is missing.
    """
    found: dict[str, list[Path]] = collections.defaultdict(list)
    counts: dict[str, int] = {}
    for file in sorted(path.iterdir()) if path.is_dir() else []:
        if match := _SHARD.fullmatch(file.name):
            found[match[1]].append(file)
            counts[match[1]] = int(match[3] or 1)
    if not found or _COLUMNS - set(_columns(next(iter(found.values()))[0])):
        return {}
    for split, files in found.items():
        if len(files) != counts[split]:
            raise DataError(
                f"{path}: {split} has {len(files)} of its {counts[split]} files. Download the others, too."
            )
    return found


def _columns(file: Path) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return list(pq.read_schema(file).names)
    except (pa.ArrowException, OSError, ValueError):
        return []


class LongLamp:
    """A folder of LongLaMP; a :class:`oppu_core.data.intake.Reader`."""

    def __init__(
        self,
        path: Path,
        task: Task | None = None,
        test_users: int | None = None,
        test_split: TestSplit = "test",
    ) -> None:
        """Find the files and, unless it is given, the task.

        Args:
            path: The folder.
            task: The task; detected by the users' column if not given.
            test_users: How many users of `test_split`, those with the longest profiles, become test users;
                None takes 100, but at most half of all users.
            test_split: The split whose rows are the test users' queries.

        Raises:
            DataError: a file is missing or unusable, or the task cannot be told.
        """
        files = shards(path)
        if test_split not in files:
            problem = f"has no {test_split}-*.parquet" if path.exists() else "does not exist"
            raise DataError(
                f"{path} {problem} with the columns input, output, profile; give the folder of one "
                "configuration of LongLaMP, e.g. product_review_user."
            )
        self._test_users, self._test_split = test_users, test_split
        self._files = {split: files[split] for split in ("train", test_split) if split in files}
        columns = _columns(files[test_split][0])
        configs = [config for config, column in USER_COLUMNS.items() if column in columns]
        if len(configs) != 1:
            raise DataError(
                f"{files[test_split][0]} must name the user in one of the columns "
                f"{', '.join(USER_COLUMNS.values())}; it has {shown(', '.join(columns))}."
            )
        self._user_column = USER_COLUMNS[configs[0]]
        self.task = task or next(task for task in TASKS.values() if task.longlamp_config == configs[0])
        self.source: dict[str, Any] = {"kind": "longlamp", "test_split": test_split}
        self.notes: list[str] = []

    def users(self, scratch: Path, rejects: Rejects, on_progress: OnProgress) -> Iterator[User]:
        """Yield the test users with their rows of `test_split`, and the others with their rows of ``train``.

        Who is tested trains nothing for others, and no other row is read: neither the remaining rows of
        `test_split`, whose answers a comparison of all users would be measured by, nor the remaining split.

        Raises:
            DataError: a file is damaged, or `rejects` is strict.
        """
        # Updated in place, for whoever holds it already.
        self.source.update(files=described([file for files in self._files.values() for file in files]))
        self._lengths: dict[str, int] = {}
        self._trained: set[str] = set()
        gathered = self._gather(scratch, rejects, on_progress)
        half = max(1, len(self._trained | self._lengths.keys()) // 2)
        chosen = longest(self._lengths.items(), self._test_users or min(TEST_USERS, half))
        intake = self.intake = Intake(self.task, rejects)
        left_out = see_less = 0
        for user_id, rows in gathered.users():
            split = self._test_split if user_id in chosen else "train"
            asked = [row for row in rows or [] if row[0] == split]
            left_out += sum(row[0] == "train" for row in rows or []) if user_id in chosen else 0
            if rows is not None and not asked:
                continue
            place = self._place(asked[0], user_id) if asked else Place(self._files[split][0], None, user_id)
            try:
                if rows is None:
                    raise Unusable("has more than 64 MB of rows")
                questions = ((self._place(row, user_id), row[4], row[3]) for row in asked)
                user, less = user_of(place, "test" if user_id in chosen else "others", questions, intake)
            except Unusable as problem:
                rejects.add(place, "user", problem, {"user_id": user_id, "rows": len(asked)})
                continue
            see_less += less
            yield user
        self.source.update(queries_that_see_less=see_less, questions_left_out=left_out)
        if len(chosen) < len(self._lengths):
            self.notes.append(
                f"{len(chosen):,} of the {len(self._lengths):,} users of {self._test_split} are asked, those "
                "with the longest profiles; --test-users asks more."
            )
        if left_out:
            self.notes.append(f"{left_out:,} rows of train are left out: their users are test users.")
        if see_less:
            self.notes.append(
                f"{see_less:,} queries see less than their own profile: it is no prefix of the history."
            )
        self.notes += intake.notes()

    def _gather(self, scratch: Path, rejects: Rejects, on_progress: OnProgress) -> RowsByUser:
        """The rows by user: (split, number of the shard, record in it, query, profile)."""
        total, done = sum(file["bytes"] for file in self.source["files"]), 0

        def count(size: int) -> None:
            nonlocal done
            done += size
            on_progress(done, total)

        gathered = RowsByUser(scratch / "rows", 4 * total)  # Parquet is compressed
        for split, files in self._files.items():
            before = 0
            for shard, file in enumerate(files):
                number = 0
                for number, row in read_rows(file, count, batch_rows=_BATCH_ROWS):
                    user = row.get(self._user_column) if isinstance(row, dict) else None
                    place = Place(file, number, user if isinstance(user, str) else None)
                    try:
                        if isinstance(row, Unusable):
                            raise row
                        user_id = as_user_id(row, self._user_column)
                        profile = [_item(value) for value in as_list(row, "profile")]
                        query = {"id": f"{split}-{before + number}", "input": as_text(row, "input")}
                        query["gold"] = as_text(row, "output")
                    except Unusable as problem:
                        rejects.add(place, "row", problem, row if isinstance(row, dict) else problem.value)
                        continue
                    gathered.add(user_id, [split, shard, number, query, profile])
                    if split == "train":
                        self._trained.add(user_id)
                    else:
                        self._lengths[user_id] = max(self._lengths.get(user_id, 0), len(profile))
                before += number
        return gathered

    def _place(self, row: list[Any], user_id: str) -> Place:
        return Place(self._files[row[0]][row[1]], row[2], user_id)


def _item(value: Any) -> Any:
    """A profile's item as one of LaMP: with an id (reviews have none), its year as date, numbers as text (5.0
    stays 5.0, as in a query)."""
    if not isinstance(value, dict):
        return value
    item = {name: _text(cell) for name, cell in value.items()}
    year = moment(item["year"]) if isinstance(item.get("year"), str) else None
    date = {"date": item["year"]} if year and year.plausible else {}
    return {**item, "id": item.get("id") or content_id(repr(sorted(item.items())))[:16], **date}


def _text(cell: Any) -> Any:
    if isinstance(cell, bool) or not isinstance(cell, int | float):
        return cell
    return None if math.isnan(cell) else str(cell)  # NaN is how pandas writes "missing"
