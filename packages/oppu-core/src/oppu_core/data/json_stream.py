"""A JSON list of records, read one record at a time from a file of any size.

The standard library's scanner on a window that slides over the file. ijson would be the obvious tool, but its
C backend (3.6.0) turns a lone surrogate into ``?`` without a word and crashes the process on an integer of
more than 4,300 digits: a file could change silently or end the import without an error.
"""

import codecs
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from oppu_core.errors import DataError

_WINDOW_BYTES = 1 << 20
# An error this close to the window's end may only mean that the rest of a token has not been read yet.
_TOKEN_CHARS = 64
_SPACE = re.compile(r"[ \t\n\r]+")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# Numbers stay the text they were: ids and scores are strings with us, and 5.0 is the score 5.
DECODER = json.JSONDecoder(
    parse_int=str,
    parse_float=lambda text: text.removesuffix(".0"),
    parse_constant=_no_constant,
)


def read_records(path: Path, on_bytes: Callable[[bytes], object] | None = None) -> Iterator[Any]:
    """Yield the records of a file that holds one JSON list; numbers arrive as strings.

    Args:
        path: The file (UTF-8).
        on_bytes: Called with every block of bytes read, in order.

    Raises:
        DataError: the file is missing, cannot be read, is no UTF-8, no JSON, or no list. The message says at
            which byte and in which record (counted from 1).
    """
    if not path.is_file():
        raise DataError(f"{path} {'is not a file' if path.exists() else 'does not exist'}.")
    try:
        with path.open("rb") as file:
            yield from _Window(path, file, on_bytes).records()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}.") from error


class _Window:
    """The part of a file that is being decoded; `at` is the first character not yet used."""

    def __init__(self, path: Path, file: Any, on_bytes: Callable[[bytes], object] | None) -> None:
        self.path, self.file, self.on_bytes = path, file, on_bytes
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.text, self.at = "", 0
        self.bytes_read, self.record, self.ended = 0, 0, False

    def records(self) -> Iterator[Any]:
        self._open_list()
        while self._peek() != "]" or self.record:
            self.record += 1
            yield self._record()
            if (character := self._peek()) == "]":
                break
            if character != ",":
                self._fail("expected ',' or ']' after the record" if character else "the file ends here")
            self.at += 1
        self.at += 1
        if self._peek():
            self._fail("the list has ended, but the file goes on")

    def _open_list(self) -> None:
        if self._peek() == "\ufeff":
            self.at += 1
        if (first := self._peek()) != "[":
            raise DataError(
                f"{self.path} must be a JSON list of users, but it "
                + (f"starts with {first!r}." if first else "is empty.")
            )
        self.at += 1

    def _record(self) -> Any:
        self._peek()
        while True:
            try:
                record, self.at = DECODER.raw_decode(self.text, self.at)
                return record
            except json.JSONDecodeError as error:
                # A string that is open at the window's end reports where it began.
                cut = error.msg.startswith("Unterminated string")
                if self.ended or not (cut or error.pos >= len(self.text) - _TOKEN_CHARS):
                    self._fail("the file ends here" if cut else error.msg, error.pos)
                # At least twice as much, so that a huge record is not scanned quadratically often.
                self._read(max(_WINDOW_BYTES, 2 * (len(self.text) - self.at)))
            except RecursionError:
                self._fail("nested too deeply")
            except ValueError as error:
                self._fail(str(error))

    def _peek(self) -> str:
        """The next character that is not space, or nothing at the end of the file."""
        while True:
            if space := _SPACE.match(self.text, self.at):
                self.at = space.end()
            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]
            self._read(_WINDOW_BYTES)

    def _read(self, size: int) -> None:
        block = self.file.read(size)
        try:
            more = self.decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            # The decoder may hold up to three bytes from the block before.
            pending = len(error.object) - len(block)
            byte = self.bytes_read - pending + error.start
            raise DataError(
                f"{self.path}, byte {byte:,}, in or after record {self.record}: not UTF-8 ({error.reason})."
            ) from error
        self.bytes_read += len(block)
        self.ended = not block
        self.text, self.at = self.text[self.at :] + more, 0
        if self.on_bytes is not None:
            self.on_bytes(block)

    def _fail(self, problem: str, at: int | None = None) -> NoReturn:
        rest = self.text[self.at if at is None else at :].encode("utf-8", "surrogatepass")
        byte = self.bytes_read - len(self.decoder.getstate()[0]) - len(rest)
        raise DataError(
            f"{self.path}, byte {byte:,}, in record {self.record}: not the JSON it should be ({problem}). "
            "Download or export the file again."
        )
