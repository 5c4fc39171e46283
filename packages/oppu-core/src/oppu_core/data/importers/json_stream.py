"""Reading a JSON list of records one at a time from a file of any size.

The standard library's scanner runs on a window that slides over the file. ijson would be the obvious tool,
but its C backend (3.6.0) silently turns a lone surrogate into ``?`` and crashes the process on an integer of
more than 4,300 digits: a file could change silently or end the import without an error.
"""

import codecs
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from oppu_core.errors import DataError
from oppu_core.texts import number_text

_WINDOW_BYTES = 1 << 20
# An error this close to the window's end may only mean that the rest of a token has not been read yet.
_TOKEN_CHARS = 64
# No user's record is that long; it would not fit into memory either.
_RECORD_CHARS = 64 << 20
_SPACE = re.compile(r"[ \t\n\r]+")


# Numbers become text: ids and scores are strings here, and 5.0 is the score 5. NaN and Infinity are not JSON,
# but pandas and others write them for missing numbers.
_AS_TEXT: dict[str, Any] = {"parse_int": str, "parse_float": number_text, "parse_constant": lambda name: None}
DECODER = json.JSONDecoder(**_AS_TEXT)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    named = dict(pairs)
    if len(named) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(
            f"the name {next(name for name in names if names.count(name) > 1)!r:.80} occurs twice"
        )
    return named


# For single lines, where refusing one does no harm: by default Python takes the last of two values.
LINE_DECODER = json.JSONDecoder(**_AS_TEXT, object_pairs_hook=_once)


class Record(NamedTuple):
    """A record with its place in the file: its first byte, and its number of bytes."""

    start: int
    size: int
    value: Any


def read_records(path: Path, on_bytes: Callable[[int], object] | None = None) -> Iterator[Record]:
    """Yield the records of a file that holds one JSON list; numbers become strings.

    Args:
        path: The file (UTF-8).
        on_bytes: Called with the number of bytes of every block read.

    Raises:
        DataError: the file is missing, cannot be read, is not UTF-8, not JSON, or not a list, or a record is
            longer than 64 million characters. The message names the byte and the record (counted from 1).
    """
    if not path.is_file():
        raise DataError(f"{path} {'is not a file' if path.exists() else 'does not exist'}.")
    try:
        with path.open("rb") as file:
            yield from _Window(path, file, on_bytes).records()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}.") from error


def records_in(path: Path, file: Any) -> Iterator[Record]:
    """The records of an open file, as by :func:`read_records`.

    `path` is its name for messages; ``file.read(size)`` returns UTF-8.
    """
    return _Window(path, file, None).records()


def decode(content: bytes) -> Any:
    """One JSON value, with numbers as strings.

    Raises:
        ValueError: it is not UTF-8 or not JSON, or nested too deeply.
    """
    try:
        return DECODER.decode(content.decode())
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


class _Window:
    """The part of a file that is being decoded.

    `at` is the first character not yet used, `byte` its place in the file.
    """

    def __init__(self, path: Path, file: Any, on_bytes: Callable[[int], object] | None) -> None:
        self.path, self.file, self.on_bytes = path, file, on_bytes
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.text, self.at, self.byte = "", 0, 0
        self.record, self.ended = 0, False
        self.broken: UnicodeDecodeError | None = None

    def records(self) -> Iterator[Record]:
        self._open_list()
        while self._peek() != "]" or self.record:
            self.record += 1
            yield self._record()
            if (character := self._peek()) == "]":
                break
            if character != ",":
                self._fail("expected ',' or ']' after the record" if character else "the file ends here")
            self._use(self.at + 1)
        self._use(self.at + 1)
        if self._peek():
            self._fail("the list has ended, but the file goes on")

    def _open_list(self) -> None:
        if self._peek() == "\ufeff":
            self._use(self.at + 1)
        if (first := self._peek()) != "[":
            raise DataError(
                f"{self.path} must be a JSON list of records, but it "
                + (f"starts with {first!r}." if first else "is empty.")
            )
        self._use(self.at + 1)

    def _record(self) -> Record:
        self._peek()
        start = self.byte
        while True:
            try:
                value, end = DECODER.raw_decode(self.text, self.at)
                if end < len(self.text) or self.ended:
                    self._use(end)
                    return Record(start, self.byte - start, value)
                self._read(_WINDOW_BYTES)  # a number may go on
            except json.JSONDecodeError as error:
                # An error about a string that is still open names the string's start.
                cut = error.msg.startswith("Unterminated string")
                if self.ended or not (cut or error.pos >= len(self.text) - _TOKEN_CHARS):
                    self._fail("the file ends here" if cut else error.msg, error.pos)
                if len(self.text) - self.at > _RECORD_CHARS:
                    self._fail(f"the record has more than {_RECORD_CHARS:,} characters")
                # At least doubled, so that scanning a huge record does not take quadratic time.
                self._read(max(_WINDOW_BYTES, 2 * (len(self.text) - self.at)))
            except RecursionError:
                self._fail("nested too deeply")
            except ValueError as error:
                self._fail(str(error))

    def _peek(self) -> str:
        """The next character that is not white space; empty at the end of the file."""
        while True:
            if space := _SPACE.match(self.text, self.at):
                self._use(space.end())
            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]
            self._read(_WINDOW_BYTES)

    def _use(self, end: int) -> None:
        self.byte += len(self.text[self.at : end].encode())
        self.at = end

    def _read(self, size: int) -> None:
        if self.broken is not None:
            byte = self.byte + len(self.text[self.at :].encode())
            raise DataError(
                f"{self.path}, byte {byte:,}, in record {max(self.record, 1)}: not UTF-8 "
                f"({self.broken.reason}). Save the file as UTF-8."
            ) from self.broken
        block = self.file.read(size)
        try:
            more = self.decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            # Raised with the record that it lies in: the records before are used first.
            self.broken, more = error, error.object[: error.start].decode()
        self.ended = not block and self.broken is None
        self.text, self.at = self.text[self.at :] + more, 0
        if self.on_bytes is not None:
            self.on_bytes(len(block))

    def _fail(self, problem: str, at: int | None = None) -> NoReturn:
        byte = self.byte + len(self.text[self.at : self.at if at is None else at].encode())
        raise DataError(
            f"{self.path}, byte {byte:,}, in record {self.record}: not the JSON it should be ({problem}). "
            "Download or export the file again."
        )
