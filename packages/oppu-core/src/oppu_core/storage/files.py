"""Atomic writing: files are either complete or absent.

A file or folder is written under a temporary name beside its path, flushed to disk, and renamed. A process
killed at any moment leaves the old content or the new, plus at most a stray ``.tmp-*`` entry, which the next
writer of the same path removes.
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

    Lone surrogates, which UTF-8 cannot encode, are hashed by ``surrogatepass``.
    """
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()


def file_sha256(path: Path) -> str:
    """The sha256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync_dir(path: Path) -> None:
    """Flush a folder's entries to disk, so that a rename in it survives a power cut."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _temporary(path: Path) -> Path:
    """A temporary name beside `path` that identifies its target and the writing process."""
    target = hashlib.sha256(path.name.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    return path.parent / f".tmp-{target}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def remove_strays(path: Path) -> None:
    """Remove what killed writers of `path` left beside it, but not what a running process is writing.

    Processes are identified by their ids, so all writers of a folder must run on one machine.
    """
    for stray in strays_of(path):
        remove(stray)


def strays_of(path: Path) -> Iterator[Path]:
    """Temporary files that killed writers of `path` left beside it."""
    prefix = _temporary(path).name.rsplit("-", 2)[0]
    return filter(_is_stray, path.parent.glob(f"{prefix}-*"))


def strays_below(folder: Path) -> Iterator[Path]:
    """Temporary files that killed writers left anywhere below a folder."""
    return filter(_is_stray, folder.rglob(".tmp-*"))


def _is_stray(path: Path) -> bool:
    import psutil

    name = _STRAY.fullmatch(path.name)
    return name is not None and not psutil.pid_exists(int(name[1]))


def _swap(new: Path, path: Path, aside: Path) -> None:
    """Move `path` to `aside` and `new` to `path`; of concurrent writers the last one wins."""
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
    """Remove files and whole folders; missing ones are ignored."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file (UTF-8) atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
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
            error.filename, error.filename2 = str(path), None  # instead of the temporary name
        raise
    fsync_dir(path.parent)
    remove_strays(path)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON with sorted keys, atomically."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def write_jsonl(path: Path, rows: list[Any]) -> None:
    """Write one JSON value per line, atomically."""
    write_text(path, "".join(canonical_json(row) + "\n" for row in rows))


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: the file is missing, is not a file or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text: {error}.") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not JSON ({error.msg}).") from error
    except (ValueError, RecursionError) as error:  # not JSON, integers of thousands of digits, deep nesting
        raise DataError(f"{path}: not usable as JSON ({error}).") from error


def read_jsonl(path: Path) -> list[Any]:
    """Read a file with one JSON value per line; errors as in :func:`read_json`, and name the line."""
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
    """Append one JSON value per line, even to a file whose last writer was killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        if file.tell():  # a torn last line must not run into the next one
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        for row in rows:
            file.write(canonical_json(row).encode() + b"\n")


def read_appended(path: Path) -> Iterator[Any]:
    """The values in a file of :func:`append_jsonl`, without lines torn by a kill; none if it is missing."""
    if path.exists():
        for line in path.read_bytes().split(b"\n")[:-1]:
            with contextlib.suppress(ValueError):
                yield json.loads(line)


@contextlib.contextmanager
def new_dir(path: Path) -> Iterator[Path]:
    """A folder with a temporary name to fill; it is moved to `path` when the block ends without an error.

    An existing folder at `path` is replaced: it is moved aside first, so that a kill leaves the old folder,
    none, or the new one, never a part.
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
    """A temporary folder for the block, on the disk of `path`, for the writer of `path`.

    If the process is killed, it is removed with the other strays.
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
    """Hold the lock ``.lock`` in a folder for the block; the system releases it if the process is killed.

    Args:
        folder: An existing folder.
        busy: Raised if another process holds the lock.
    """
    from filelock import FileLock, Timeout

    # Not the fallback for file systems without locks: it would outlive a killed process.
    lock = FileLock(folder / ".lock", blocking=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise busy from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows does not remove open files
            Path(lock.lock_file).unlink()
        lock.release()
