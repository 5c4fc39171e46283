"""Grouping rows by user in little memory, in whatever order they come.

A row goes to one of several files by the hash of its user's id, so that all rows of a user are in one file
and no file is large. Users come back in the order of the hash, which depends neither on the order of the rows
nor on the number of files.
"""

import collections
import hashlib
import heapq
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

TEST_USERS = 100

_PART_BYTES = 16 << 20
_BUFFER_BYTES = 32 << 20
_USER_BYTES = 64 << 20
_MOST_PARTS = 4096


class RowsByUser:
    """Rows (JSON values) in a folder, grouped by user."""

    def __init__(self, folder: Path, expected_bytes: int) -> None:
        """Make the folder, for rows of about `expected_bytes` in all."""
        folder.mkdir()
        count = min(expected_bytes // _PART_BYTES + 1, _MOST_PARTS)
        self._files = [folder / f"{number:05d}" for number in range(count)]
        self._buffers: dict[int, bytearray] = collections.defaultdict(bytearray)
        self._held = 0

    def add(self, user_id: str, row: Any) -> None:
        """Append a row of a user."""
        # What JSON has no form for (bytes that are not text) is null, and is refused where text is needed.
        line = json.dumps([user_id, row], separators=(",", ":"), default=lambda _: None).encode() + b"\n"
        # By the leading digits of the hash, so that the files are in the order of the users.
        number = int.from_bytes(_rank(user_id)[:8]) * len(self._files) >> 64
        self._buffers[number] += line
        self._held += len(line)
        if self._held > _BUFFER_BYTES:
            self._flush()

    def users(self) -> Iterator[tuple[str, list[Any] | None]]:
        """Yield every user and their rows in the order of adding, or None if they exceed 64 MB."""
        self._flush()
        for file in self._files:
            rows: dict[str, list[Any]] = collections.defaultdict(list)
            sizes: collections.Counter[str] = collections.Counter()
            if file.exists():
                with file.open("rb") as lines:
                    for line in lines:
                        user_id, row = json.loads(line)
                        sizes[user_id] += len(line)
                        if sizes[user_id] <= _USER_BYTES:
                            rows[user_id].append(row)
                        else:
                            rows[user_id].clear()
            for user_id in sorted(rows, key=_rank):
                yield user_id, rows.pop(user_id) if sizes[user_id] <= _USER_BYTES else None

    def _flush(self) -> None:
        for number, lines in self._buffers.items():
            with self._files[number].open("ab") as file:
                file.write(lines)
        self._buffers.clear()
        self._held = 0


def longest(users: Iterable[tuple[str, int]], wanted: int | None) -> set[str]:
    """The users with the longest histories, who become test users; among equals the first.

    Args:
        users: (user id, length of the history).
        wanted: How many; None takes 100, but at most half of the users, as the others train the task base.
    """
    seen = 0

    def counted() -> Iterator[tuple[str, int]]:
        nonlocal seen
        for user in users:
            seen += 1
            yield user

    top = heapq.nlargest(wanted or TEST_USERS, counted(), key=lambda user: user[1])
    return {user_id for user_id, _ in top[: wanted or max(1, seen // 2)]}


def _rank(user_id: str) -> bytes:
    return hashlib.sha256(user_id.encode()).digest()
