"""Refused records: each is logged with its place and reason, and the import goes on.

Knows nothing of what makes a record unusable.
"""

import collections
import contextlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from oppu_core.data.dataset import REJECTED
from oppu_core.data.schema import shown
from oppu_core.errors import DataError

_VALUE_CHARS = 10_000


class Unusable(Exception):  # noqa: N818 - no error: it never leaves the reader
    """Why a record cannot be used.

    Attributes:
        reason: The field and what is wrong with it; the same for many records, so that it can be counted.
        detail: What this record has instead, where that helps.
        value: The record, where the caller does not have it.
    """

    def __init__(self, reason: str, detail: str = "", value: Any = None) -> None:
        super().__init__(reason)
        self.reason, self.detail, self.value = reason, detail, value


class Place(NamedTuple):
    """Where a record is: its file, its number in it (from 1; None for the file as a whole), and its user."""

    file: Path
    record: int | None = None
    user_id: str | None = None

    def __str__(self) -> str:
        """The place as the beginning of a message."""
        record = "" if self.record is None else f", record {self.record}"
        return f"{self.file}{record}" + ("" if self.user_id is None else f", user {shown(self.user_id)}")


class Rejects:
    """The records refused so far.

    Attributes:
        count: Number of records.
        reasons: Number of records for each reason.
    """

    def __init__(self, folder: Path, strict: bool = False) -> None:
        """Rows are written to ``rejected.jsonl`` in `folder`; with `strict`, the first one is an error."""
        self.file = folder / REJECTED
        self.strict = strict
        self.reasons: collections.Counter[str] = collections.Counter()
        self._first: dict[str, str] = {}
        self._open: Any = None

    @property
    def count(self) -> int:
        """How many records were refused."""
        return self.reasons.total()

    def add(self, place: Place, unit: str, problem: Unusable, value: Any) -> None:
        """Log that `unit` of a record (e.g. "history item 'h3'") is refused.

        Raises:
            DataError: with `strict`.
        """
        reason = f"{unit}: {problem.reason}" + (f" ({problem.detail})" if problem.detail else "")
        if self.strict:
            raise DataError(f"{place}, {reason}. Correct it, or import without --strict to leave it out.")
        text = value if isinstance(value, str) else _as_text(value)
        row = {
            "file": place.file.name,
            "record": place.record,
            "user_id": place.user_id,
            "reason": reason,
            "value": text if len(text) <= _VALUE_CHARS else text[: _VALUE_CHARS - 1] + "…",
        }
        if self._open is None:
            self._open = self.file.open("w", encoding="utf-8")
        # Escaped: half an emoji is not UTF-8, but may be the reason why the record is refused.
        self._open.write(json.dumps(row) + "\n")
        self.reasons[problem.reason] += 1
        if problem.detail and place.record is not None:
            self._first.setdefault(problem.reason, f" (first in record {place.record:,}: {problem.detail})")

    def close(self) -> None:
        """Finish the file."""
        file, self._open = self._open, None
        if file is not None:
            file.close()

    def release(self) -> None:
        """Close the file even after an error, as when the disk is full."""
        with contextlib.suppress(OSError):
            self.close()

    def summary(self, most: int = 3) -> str:
        """The count and the most common reasons: ``7 records refused: 5 × tag is empty; …``."""
        reasons = "; ".join(
            f"{count:,} × {reason}{self._first.get(reason, '')}"
            for reason, count in self.reasons.most_common(most)
        )
        more = len(self.reasons) - most
        others = f"; {more} more reason{'s' * (more != 1)}" if more > 0 else ""
        return f"{self.count:,} record{'s' * (self.count != 1)} refused: {reasons}{others}"


def _as_text(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):  # nested too deeply
        return shown(value)
