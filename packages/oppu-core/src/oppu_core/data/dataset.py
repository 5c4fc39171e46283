"""The dataset on disk: a folder of Parquet shards, one row per user, described by ``dataset.json``.

It is read user by user. Each test user has a row group, so that one user is read without the others. Every
page has a checksum, every shard a sha256, and every split the sha256 of its contents (``content``), which
does not depend on how Parquet wrote it. :mod:`oppu_core.data.dataset_writer` writes datasets.
"""

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from oppu_core.data.schema import NUMBERS, from_row, schema_of, shown
from oppu_core.data.types import SPLITS, Split, User
from oppu_core.errors import ConfigError, DataError, did_you_mean
from oppu_core.storage.files import file_sha256, read_json
from oppu_core.storage.parsing import parse
from oppu_core.tasks.task import Task
from oppu_core.tasks.task_files import get_task, task_from

FORMAT = 1
MANIFEST = "dataset.json"

# Files beside the users: their profile texts, and the records refused at import.
PROFILES, REJECTED = "profiles.jsonl", "rejected.jsonl"

SHARD = re.compile(r"(others|test)-\d{5,}\.parquet")


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file of users, as ``dataset.json`` lists it."""

    file: str
    split: Split
    users: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What reading relies on in ``dataset.json``.

    Attributes:
        task: The task's name.
        source: Where the users come from.
        counts: {split: {one of :data:`~oppu_core.data.schema.NUMBERS`: number}}.
        content: {split: sha256 of its users}.
        shards: All files of users, in order.
        task_definition: The task itself, if it is not a packaged one.
    """

    task: str
    source: dict[str, Any]
    counts: dict[Split, dict[str, int]]
    content: dict[Split, str]
    shards: list[Shard]
    task_definition: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        """Check what types do not say.

        Raises:
            ValueError: a shard's name leads elsewhere, or numbers are missing or do not agree.
        """
        for shard in self.shards:
            if not SHARD.fullmatch(shard.file):
                raise ValueError(f"{shard.file!r} is no name of a shard")
        for split in SPLITS:
            if not self.counts.get(split, {}).keys() >= set(NUMBERS) or split not in self.content:
                raise ValueError(f"a number or the checksum of {split} is missing")
            users = sum(shard.users for shard in self.shards if shard.split == split)
            if users != self.counts[split]["users"]:
                raise ValueError(f"the shards of {split} do not have as many users as it says")


class Dataset:
    """A dataset folder, open for reading.

    Attributes:
        path: The folder.
        task: Its task.
        source: Where the users come from.
        counts: ``users``, ``queries`` and ``history_items`` of each split.
        fingerprint: The sha256 of ``dataset.json``, which covers all users (but not the files beside them).

    Example:
        >>> dataset = Dataset.open(Path("data/movies"))  # doctest: +SKIP
        >>> dataset.user("8311").training_history[:3]  # doctest: +SKIP
    """

    def __init__(self, path: Path, task: Task, manifest: Manifest, fingerprint: str) -> None:
        """Use :meth:`open`, which checks the folder."""
        self.path = path
        self.task = task
        self.source = manifest.source
        self.counts = manifest.counts
        self.fingerprint = fingerprint
        self._content = manifest.content
        self._shards = manifest.shards
        self._index: dict[str, tuple[int, int, int]] | None = None

    @classmethod
    def open(cls, path: str | Path) -> "Dataset":
        """Open a dataset folder.

        Raises:
            DataError: the folder is missing, not a dataset, of a newer oppu or unknown task, or incomplete.
        """
        path = Path(path)
        file = path / MANIFEST
        if not file.is_file():
            problem = (
                "is not a dataset folder (it has no dataset.json)" if path.exists() else "does not exist"
            )
            raise DataError(f"{path} {problem}; `oppu data import` makes one.")
        values = read_json(file)
        written = values.get("format") if isinstance(values, dict) else None
        if type(written) is int and written > FORMAT:
            raise DataError(
                f"{file} has format {written}, newer than this oppu reads ({FORMAT}); upgrade oppu."
            )
        if written != FORMAT:
            raise DataError(f"{file} is damaged or not of a dataset; import the dataset again.")
        try:
            manifest = parse(Manifest, values)
            own = manifest.task_definition
            task = get_task(manifest.task) if own is None else task_from(own, "task_definition")
        except ValueError as error:
            raise DataError(f"{file} is damaged ({error}); import the dataset again.") from error
        except ConfigError as error:
            raise DataError(f"{file}: {error}") from error
        for shard in manifest.shards:
            if not (path / shard.file).is_file():
                raise DataError(f"{path} lacks its shard {shard.file}; import the dataset again.")
        return cls(path, task, manifest, file_sha256(file))

    def content(self, split: Split) -> str:
        """The sha256 of the split's users, in order; independent of how Parquet wrote them."""
        return self._content[split]

    def users(self, split: Split | None = None) -> Iterator[User]:
        """Yield users in order, one row group at a time; for `split` None the others before the test users.

        Raises:
            DataError: a shard is damaged.
        """
        for shard in self._shards:
            if split in (None, shard.split):
                with self._reading(shard) as parquet:
                    for group in range(parquet.num_row_groups):
                        for row in parquet.read_row_group(group, use_threads=False).to_pylist():
                            yield from_row(row)

    def user(self, user_id: str) -> User:
        """One user, read without the others: the column of user ids (once), then a single row group.

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
        """The ids of a split's users, in order; nothing else is read.

        Raises:
            DataError: a shard is damaged.
        """
        index = self._users_index().items()
        return [user_id for user_id, (number, _, _) in index if self._shards[number].split == split]

    def verify(self) -> None:
        """Compare every shard with its checksum.

        Raises:
            DataError: a shard has changed or cannot be read.
        """
        for shard in self._shards:
            try:
                intact = file_sha256(self.path / shard.file) == shard.sha256
            except OSError as error:
                raise DataError(f"{self.path / shard.file} cannot be read: {error}.") from error
            if not intact:
                raise DataError(_damaged(self.path / shard.file, "its checksum differs"))

    def _users_index(self) -> dict[str, tuple[int, int, int]]:
        """{user id: (shard, row group, row)}."""
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
    def _reading(self, shard: Shard) -> Iterator[Any]:
        """An open shard; any failure of Parquet inside the block becomes a DataError."""
        file = self.path / shard.file
        try:
            with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
                known = (schema_of(self.task), schema_of(self.task, query_dates=False))
                if parquet.schema_arrow not in known:
                    raise DataError(_damaged(file, f"its columns are not those of task {self.task.name}"))
                if parquet.metadata.num_rows != shard.users:
                    raise DataError(_damaged(file, "its number of users differs"))
                yield parquet
        except (pa.ArrowException, OSError, TypeError, ValueError, MemoryError) as error:
            raise DataError(_damaged(file, str(error).partition("\n")[0].rstrip("."))) from error


def _damaged(file: Path, problem: str) -> str:
    return f"{file} is damaged: {problem}. Copy it again or import the dataset again."
