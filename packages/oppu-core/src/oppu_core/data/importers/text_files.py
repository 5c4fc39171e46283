"""Detecting compression and text encoding of files. Knows nothing of what the text means."""

import codecs
import contextlib
import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from oppu_core.errors import ConfigError, DataError

HEAD_BYTES = 4096
GZIP = b"\x1f\x8b"

_LINE_CHARS = 64 << 20
_REPORT_CHARS = 1 << 20
# The encoding is judged by at most so many lines that are not plain ASCII.
_TELLING = 20
_PACKED = {
    rb"PK\x03\x04": "a zip file or spreadsheet",
    rb"PK\x05\x06": "a zip file",
    rb"\x1f\x8b": "a gzip file",
    rb"\x28\xb5\x2f\xfd": "a zstd file",
    rb"BZh[1-9]1AY&SY": "a bzip2 file",
    rb"\xfd7zXZ\x00": "an xz file",
    rb"\x04\x22\x4d\x18": "an lz4 file",
    rb"\xff\x06\x00\x00sNaPpY": "a snappy file",
    rb"7z\xbc\xaf\x27\x1c": "a 7-Zip file",
    rb"Rar!\x1a\x07": "a RAR file",
    rb".{257}ustar": "a tar file",
    rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "a file of old Excel or Word",
    rb"%PDF-": "a PDF",
    rb"\{\\rtf": "a rich-text file (RTF)",
    rb"SQLite format 3\x00": "an SQLite database",
    rb"PAR1(\x15|.*PAR1\Z)": "a Parquet file",
    rb"ARROW1\x00\x00": "an Arrow file",
    rb"Obj\x01": "an Avro file",
    rb"ORC.*ORC.?\Z": "an ORC file",
}
_BOMS = {  # UTF-32's little-endian mark begins with UTF-16's
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
BROKEN = re.compile("[\udc80-\udcff]")  # stands for a byte that is not text
_ESCAPE = "surrogateescape"
_LONE = re.compile(rb"(?<![\x80-\xff])[\x80-\xff](?![\x80-\xff])")
_PUNCTUATION = frozenset("‘’“”–—…€•œŒ™")


def packed(content: bytes) -> str | None:
    """What kind of packed or binary file this is, as in "a zip file"; None where it may be text."""
    kinds = (kind for magic, kind in _PACKED.items() if re.match(magic, content, re.DOTALL))
    return next(kinds, None)


def codec_of(head: bytes) -> str:
    """The codec of text, by its first bytes: UTF-16 or UTF-32 by its mark or its NULs, else UTF-8."""
    for bom, codec in _BOMS.items():
        if head.startswith(bom):
            return codec
    even, odd = head[0::2], head[1::2]
    nuls = (even.count(0) / max(1, len(even)), odd.count(0) / max(1, len(odd)))
    if max(nuls) > 0.4 and min(nuls) < 0.05 and len(head) >= 4:
        return "utf-16-le" if nuls[1] > nuls[0] else "utf-16-be"
    return "utf-8"


def looks_like_cp1252(line: bytes) -> bool:
    """Whether a line that is not UTF-8 reads well in Windows-1252: single letters with accents, quotes."""
    other = re.findall(rb"[\x80-\xff]", line)
    single = _LONE.findall(line)
    # Letters below 0xa0 are rare: a text that is full of them has another encoding.
    usual = (byte >= b"\xa0" or byte.decode("cp1252", "replace") in _PUNCTUATION for byte in single)
    return 2 * len(single) > len(other) and all(usual)


def check_encoding(name: str) -> str:
    """Python's name of a text encoding.

    Raises:
        ConfigError: Python does not know it.
    """
    try:
        "".encode(name)
        return codecs.lookup(name).name
    except (LookupError, UnicodeError, ValueError) as error:
        raise ConfigError(
            f"There is no text encoding {name!r}; usual ones are utf-8, utf-16, cp1252, cp1251, gb18030 and "
            "shift_jis."
        ) from error


def decoded(content: bytes, where: str) -> str:
    """The text of a small file.

    Raises:
        DataError: it is not text; the message starts with `where`.
    """
    if kind := packed(content):
        raise DataError(f"{where} is {kind}, which is not unpacked. Save it as CSV or text (UTF-8).")
    codec = codec_of(content[:HEAD_BYTES])
    try:
        text = content.decode(codec, _errors(codec) if codec != "utf-8" else "strict")
    except UnicodeDecodeError as error:
        problem = f"byte {error.start + 1:,} cannot be read"
        lines = (line for line in content.splitlines() if not _is_utf8(line))
        if codec == "utf-8" and all(map(looks_like_cp1252, lines)):
            problem += ", it looks like Windows-1252"
        name = "UTF-8" if codec == "utf-8" else codec.upper()
        raise DataError(f"{where} is no {name} text ({problem}). Save it as UTF-8.") from error
    if "\0" in text:
        raise DataError(f"{where} is no text (it holds NUL characters). Save it as UTF-8 text.")
    return text.removeprefix("\ufeff")


def read_unpacked(path: Path) -> bytes:
    """A small file's bytes, decompressed if it is a gzip file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content.startswith(GZIP) else content
    except (OSError, EOFError, zlib.error) as error:
        problem = getattr(error, "strerror", None) or error
        raise DataError(f"{path} cannot be read: {problem}.") from error


class TextFile:
    """A text file of any size, read line by line.

    Attributes:
        head: The beginning of the text, without leading white space.
        broken: How many lines so far are not text in the file's encoding; :data:`BROKEN` finds their bytes.
    """

    def __init__(
        self,
        path: Path,
        file: BinaryIO,
        stream: BinaryIO | gzip.GzipFile,
        encoding: str | None,
        on_bytes: Callable[[int], object],
    ) -> None:
        """Detect the encoding of `stream`, the decompressed bytes of `file`, unless it is given."""
        self._path, self._file, self._encoding, self._on_bytes = path, file, encoding, on_bytes
        head = stream.read(HEAD_BYTES)
        stream.seek(0)
        if kind := packed(head):
            what = f"is {kind}" if stream is file else f"has {kind} in it, packed by gzip"
            raise DataError(f"{path} {what}, which is not read. Save it as CSV, JSON lines or Parquet.")
        self._codec = encoding or codec_of(head)
        self._escapes = _errors(self._codec) == _ESCAPE
        self._text = io.TextIOWrapper(stream, self._codec, _errors(self._codec), newline="")
        self.head = head.decode(self._codec, "ignore").lstrip("\ufeff \t\r\n")
        self.broken = self._whole = self._done = 0

    def lines(self) -> Iterator[str]:
        """The lines, with their ends (LF, CR LF or CR).

        Raises:
            DataError: most lines that are not plain ASCII are not UTF-8 and no encoding was named, or a line
                is endless.
        """
        number = waiting = first = 0
        example = ""
        while line := self._text.readline(_LINE_CHARS):
            number += 1
            if len(line) == _LINE_CHARS:
                size = f"{_LINE_CHARS >> 20} million characters"
                raise DataError(f"{self._path}, line {number}: longer than {size}; not a table.")
            waiting += len(line)
            if waiting >= _REPORT_CHARS:
                self._report()
                waiting = 0
            if not line.isascii():
                if self._escapes and BROKEN.search(line):
                    if not self.broken:
                        first, example = number, line
                    self.broken += 1
                else:
                    self._whole += 1
                if self.broken + self._whole == _TELLING:
                    self._check(first, example)
            # Concatenated files have a byte order mark in the middle.
            yield line.lstrip("\ufeff") if line[0] == "\ufeff" else line
        self._check(first, example)
        self._report()

    def read(self, size: int) -> bytes:
        """The next characters as UTF-8, for readers of bytes; bytes that are not text stay as they are."""
        text = self._text.read(size)
        self._report()
        return text.encode("utf-8", _errors(self._codec))

    def _check(self, line: int, example: str) -> None:
        if self._encoding is not None or self.broken <= self._whole:
            return
        if "\0" in self.head:
            raise DataError(f"{self._path} is no text (it holds NUL characters).")
        where = f"{self._path}, line {line} is not UTF-8"
        rest = "or utf-8, to leave such lines out"
        if looks_like_cp1252(example.encode("utf-8", _ESCAPE)):
            raise DataError(f"{where}; it looks like Windows-1252: add --encoding cp1252 ({rest}).")
        raise DataError(
            f"{where}; name the file's encoding, e.g. --encoding cp1251, gb18030 or shift_jis ({rest})."
        )

    def _report(self) -> None:
        place = self._file.tell()
        self._on_bytes(place - self._done)
        self._done = place


@contextlib.contextmanager
def open_text(
    path: Path, encoding: str | None = None, on_bytes: Callable[[int], object] = lambda _: None
) -> Iterator[TextFile]:
    """Open a text file, decompressing gzip whatever its name.

    Args:
        path: The file.
        encoding: Its encoding; detected by its first bytes if not given.
        on_bytes: Called with the number of bytes read from the file.

    Raises:
        DataError: it is not text, is damaged or cannot be read; raised while reading, too.
    """
    try:
        with path.open("rb") as file:
            zipped = file.peek(2)[:2] == GZIP
            with contextlib.closing(gzip.GzipFile(fileobj=file) if zipped else file) as stream:
                yield TextFile(path, file, stream, encoding, on_bytes)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: the gzip file is damaged or cut off ({error}). Get it again.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    except UnicodeError as error:
        raise DataError(f"{path} is damaged or not in the encoding it should be in ({error}).") from error


def _errors(codec: str) -> str:
    return "surrogatepass" if codec.startswith(("utf-16", "utf-32")) else _ESCAPE


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True
