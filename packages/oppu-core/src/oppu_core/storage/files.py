"""Files that are either whole or absent.

A file or folder is written under a temporary name beside its place, flushed to the disk, and renamed. A
process killed at any moment leaves the old content or the new, plus at most a stray ``.tmp-*`` entry, which
the next writer of the same place removes.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from oppu_core.errors import DataError, OppuError

_STRAY = re.compile(r"\.tmp-[0-9a-f]{12}-([0-9]{1,9})-[0-9a-f]{8}")


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def content_id(value: Any) -> str:
    """The sha256 (hex) of a JSON value's canonical text.

    Lone surrogates cannot be encoded as UTF-8; they are kept apart by ``surrogatepass``.
    """
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()


def file_sha256(path: Path) -> str:
    """The sha256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync_dir(path: Path) -> None:
    """Flush a folder's entries, so that a rename in it survives a power cut."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _temporary(path: Path) -> Path:
    """A name beside `path` that tells its target and the process that writes it."""
    target = hashlib.sha256(path.name.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    return path.parent / f".tmp-{target}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def remove_strays(path: Path) -> None:
    """Remove what killed writers of `path` left beside it; what a living process writes is left alone.

    Processes are told by their ids, so the writers of one folder have to run on one machine.
    """
    for stray in strays_of(path):
        remove(stray)


def strays_of(path: Path) -> Iterator[Path]:
    """What killed writers of `path` left beside it."""
    prefix = _temporary(path).name.rsplit("-", 2)[0]
    return filter(_is_stray, path.parent.glob(f"{prefix}-*"))


def strays_below(folder: Path) -> Iterator[Path]:
    """What killed writers of anything left anywhere below a folder."""
    return filter(_is_stray, folder.rglob(".tmp-*"))


def _is_stray(path: Path) -> bool:
    import psutil

    name = _STRAY.fullmatch(path.name)
    return name is not None and not psutil.pid_exists(int(name[1]))


def _swap(new: Path, path: Path, aside: Path) -> None:
    """Put `new` at `path`, what was there at `aside`; of several writers at once the last one wins."""
    for _ in range(100):
        remove(aside)
        with contextlib.suppress(FileNotFoundError):
            path.rename(aside)
        try:
            new.rename(path)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                if aside.exists():
                    aside.rename(path)
                raise
    raise DataError(f"{path} cannot be written: other processes keep replacing it.")


def remove(*paths: Path) -> None:
    """Remove files and whole folders; what is not there does no harm."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a whole text file (UTF-8) or nothing."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None  # not the temporary name, which says nothing
        raise
    fsync_dir(path.parent)
    remove_strays(path)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON with sorted keys, whole or not at all."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def write_jsonl(path: Path, rows: list[Any]) -> None:
    """Write one JSON value a line, whole or not at all."""
    write_text(path, "".join(canonical_json(row) + "\n" for row in rows))


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: the file is missing, is no file or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text: {error}.") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not JSON ({error.msg}).") from error
    except (ValueError, RecursionError) as error:  # integers of thousands of digits, very deep nesting
        raise DataError(f"{path}: not usable as JSON ({error}).") from error


def read_jsonl(path: Path) -> list[Any]:
    """Read a file of one JSON value a line.

    Raises:
        DataError: as :func:`read_json`, naming the line.
    """
    rows = []
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    rows.append(json.loads(line))
                except (ValueError, RecursionError) as error:
                    raise DataError(f"{path}, line {number}: not JSON ({error}).") from error
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text: {error}.") from error
    return rows


def append_jsonl(path: Path, rows: Sequence[Any]) -> None:
    """Append one JSON value a line to what may be the file of a killed writer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        if file.tell():  # a killed writer's torn last line must not run into the next one
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        for row in rows:
            file.write(canonical_json(row).encode() + b"\n")


def read_appended(path: Path) -> Iterator[Any]:
    """The values of a file of :func:`append_jsonl`; lines torn by a kill are dropped, no file has none."""
    if path.exists():
        for line in path.read_bytes().split(b"\n")[:-1]:
            with contextlib.suppress(ValueError):
                yield json.loads(line)


@contextlib.contextmanager
def new_dir(path: Path) -> Iterator[Path]:
    """Fill a folder under a temporary name; it appears at `path` when the block ends without an error.

    An existing folder at `path` is replaced: it is moved aside first, so that a kill leaves it whole, or
    absent, or replaced, never in part.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_strays(path)
    temporary, aside = _temporary(path), _temporary(path)
    temporary.mkdir()
    try:
        yield temporary
        for file in sorted(temporary.rglob("*")):
            if file.is_file():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
        fsync_dir(temporary)
        _swap(temporary, path, aside)
    except BaseException:
        remove(temporary)
        raise
    fsync_dir(path.parent)
    remove(aside)


@contextlib.contextmanager
def scratch_dir(path: Path) -> Iterator[Path]:
    """A folder for the time of the block, on the disk of `path`: what the writer of `path` needs on the way.

    What a killed process leaves of it goes with its other strays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = _temporary(path)
    scratch.mkdir()
    try:
        yield scratch
    finally:
        remove(scratch)


@contextlib.contextmanager
def locked(folder: Path, busy: OppuError) -> Iterator[None]:
    """Hold ``.lock`` in a folder for the time of the block; the system lifts it when the process is killed.

    Args:
        folder: It exists.
        busy: Raised where another process holds it.
    """
    from filelock import FileLock, Timeout

    # The fallback, for file systems that lock nothing, would outlive a killed process.
    lock = FileLock(folder / ".lock", blocking=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise busy from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows keeps what is open
            Path(lock.lock_file).unlink()
        lock.release()
