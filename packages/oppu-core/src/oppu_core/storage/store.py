"""The store of trained weights: nothing is trained twice, and nothing damaged is ever loaded.

A store is a folder of plain PEFT folders and an SQLite manifest. An entry is identified by its *identity*, a
JSON value of everything that it was made from; only entries that are ``ok`` in the manifest exist. Knows
nothing of models or training.

Layout::

    manifest.sqlite
    task_loras/<id>/                          adapter_config.json, adapter_model.safetensors
    pooled/<id>/                              likewise
    adapters/<config id>/<aa>/<key>/          likewise; <key> is a hash, never the user's id

"""

import contextlib
import dataclasses
import json
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tenacity

from oppu_core.errors import StoreError
from oppu_core.storage.files import canonical_json, content_id, file_sha256, new_dir, write_json
from oppu_core.storage.keys import Key

if TYPE_CHECKING:
    from torch import Tensor

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    folder TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    config_id TEXT NOT NULL,
    user_id TEXT,
    status TEXT NOT NULL,
    reason TEXT,
    sha256 TEXT,
    identity TEXT NOT NULL,
    facts TEXT NOT NULL
)
"""
_MANIFEST = "manifest.sqlite"
_BUSY_SECONDS = 60  # how long one process waits for another
CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row of the manifest: `facts` are counts, losses and seconds, `sha256` covers the folder's files."""

    folder: str
    kind: str
    user_id: str | None
    status: str
    reason: str | None
    facts: Mapping[str, Any]
    config_id: str
    identity: Mapping[str, Any]
    sha256: str | None


def is_store(path: Path) -> bool:
    """Whether a folder is a store of weights."""
    return (path / _MANIFEST).is_file()


def _is_busy(error: BaseException) -> bool:
    return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode == sqlite3.SQLITE_BUSY


# SQLite does not wait by itself while another process makes the same manifest.
@tenacity.retry(
    retry=tenacity.retry_if_exception(_is_busy),
    wait=tenacity.wait_random(0.01, 0.1),
    stop=tenacity.stop_after_delay(_BUSY_SECONDS),
    reraise=True,
)
def _opened(file: Path) -> sqlite3.Connection:
    """The manifest, made if it is missing."""
    manifest = sqlite3.connect(file, timeout=_BUSY_SECONDS)
    try:
        manifest.execute("PRAGMA journal_mode=WAL")
        manifest.execute(_SCHEMA)
        manifest.commit()
    except BaseException:
        manifest.close()
        raise
    return manifest


class Store:
    """A folder of trained weights; safe to use from several processes at once.

    Args:
        path: Created if it does not exist.

    Raises:
        StoreError: the folder or its manifest cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._manifest = _opened(path / _MANIFEST)
        except (OSError, sqlite3.DatabaseError) as error:
            raise StoreError(f"The store {path} cannot be opened: {error}.") from error

    def close(self) -> None:
        """Close the manifest."""
        self._manifest.close()

    def has(self, key: Key) -> bool:
        """Whether these weights are stored."""
        row = self._row(key)
        return row is not None and row[0] == "ok"

    def digest(self, key: Key) -> str | None:
        """The sha256 of stored weights and their configuration; None if they are not stored."""
        row = self._row(key)
        return row[1] if row is not None and row[0] == "ok" else None

    def intact(self, key: Key) -> bool:
        """Whether these weights are stored and undamaged."""
        row = self._row(key)
        if row is None or row[0] != "ok":
            return False
        try:
            return _digest(self.path / key.folder) == row[1]
        except OSError:
            return False

    def load(self, key: Key) -> "dict[str, Tensor]":
        """The stored tensors.

        Raises:
            StoreError: they are missing, or their bytes have changed since they were written.
        """
        from safetensors.torch import load_file  # not at the top: lists of what is stored need no torch

        row = self._row(key)
        whom = f"of user {key.user_id!r} " if key.user_id is not None else ""
        if row is None or row[0] != "ok":
            raise StoreError(
                f"The store {self.path} has no {key.kind} {whom}at {key.folder}; train it first."
            )
        folder = self.path / key.folder
        if not self.intact(key):
            raise StoreError(
                f"The {key.kind} {whom}in {folder} is damaged: its bytes are not those that were stored. "
                "`oppu run` or `oppu personal train` makes it again."
            )
        state: dict[str, Tensor] = load_file(folder / WEIGHTS_FILE)
        return state

    def put(
        self, key: Key, config: Mapping[str, Any], state: "Mapping[str, Tensor]", facts: Mapping[str, Any]
    ) -> None:
        """Store weights: first the folder, then the row of the manifest that makes it count."""
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        with new_dir(self.path / key.folder) as folder:
            write_json(folder / CONFIG_FILE, dict(config))
            try:
                save_file(dict(state), folder / WEIGHTS_FILE, metadata={"format": "pt"})
            except SafetensorError as error:  # raised when the disk is full
                raise StoreError(f"{self.path / key.folder} cannot be written: {error}.") from error
            sha256 = _digest(folder)
        self._write(key, "ok", None, sha256, facts)

    def put_failure(self, key: Key, reason: str) -> None:
        """Record that training failed, and why; it is tried again the next time it is needed."""
        if not self.has(key):  # another process may have succeeded meanwhile
            self._write(key, "failed", reason, None, {})

    def entries(self, config_id: str | None = None) -> Iterator[Entry]:
        """The manifest's rows, sorted by folder; of one configuration or of all."""
        with self._readable():
            rows = self._manifest.execute(
                "SELECT folder, kind, user_id, status, reason, facts, config_id, identity, sha256 "
                "FROM entries WHERE ?1 IS NULL OR config_id = ?1 ORDER BY folder",
                (config_id,),
            ).fetchall()
        for row in rows:
            folder, kind, user_id, status, reason, facts, group, identity, sha256 = row
            yield Entry(
                folder, kind, user_id, status, reason, json.loads(facts), group, json.loads(identity), sha256
            )

    def unlisted(self) -> list[str]:
        """Folders of weights that are not in the manifest, left by killed writers."""
        listed = {entry.folder for entry in self.entries()}
        places = ("task_loras/*", "pooled/*", "adapters/*/*/*")
        weights = (path for place in places for path in self.path.glob(place))
        folders = (path.relative_to(self.path).as_posix() for path in weights)
        return sorted(folder for folder in folders if folder not in listed and "/.tmp-" not in folder)

    def remove(self, folders: Iterable[str]) -> None:
        """Remove entries completely: no folder, and no byte in the manifest, is left.

        Raises:
            StoreError: another process is reading the manifest.
        """
        doomed = list(folders)
        for folder in doomed:  # before the row, so that a killed caller can find it again
            shutil.rmtree(self.path / folder, ignore_errors=True)
            if (self.path / folder).exists():
                raise StoreError(f"{self.path / folder} cannot be removed; are its permissions right?")
            with contextlib.suppress(OSError):  # up to the first folder that is not empty
                for parent in (self.path / folder).parents:
                    if parent == self.path:
                        break
                    parent.rmdir()
        with self._readable():
            self._manifest.execute("PRAGMA secure_delete=ON")
            with self._manifest:
                self._manifest.executemany("DELETE FROM entries WHERE folder = ?", [(f,) for f in doomed])
            self._manifest.execute("VACUUM")
            (busy, *_) = self._manifest.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise StoreError(f"Another process is reading the store {self.path}; try again when it is done.")

    def condition(self, entry: Entry) -> Literal["ok", "failed", "missing", "damaged"]:
        """The current state of an entry: what the manifest says, checked against the disk."""
        if entry.status != "ok":
            return "failed"
        try:
            return "ok" if _digest(self.path / entry.folder) == entry.sha256 else "damaged"
        except OSError:
            return "damaged" if (self.path / entry.folder).is_dir() else "missing"

    def failure(self, key: Key) -> str | None:
        """Why training this entry failed, if it did."""
        row = self._row(key)
        return row[2] if row is not None and row[0] == "failed" else None

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise StoreError(
                f"The manifest {self.path / _MANIFEST} cannot be used: {error}. "
                "If it is damaged, remove the store; everything in it can be trained again."
            ) from error

    def _row(self, key: Key) -> tuple[str, str, str] | None:
        with self._readable():
            row: tuple[str, str, str] | None = self._manifest.execute(
                "SELECT status, sha256, reason FROM entries WHERE folder = ?", (key.folder,)
            ).fetchone()
        if row is not None and row[0] == "ok" and not (self.path / key.folder).is_dir():
            return None  # removed by hand: train it again
        return row

    def _write(
        self, key: Key, status: str, reason: str | None, sha256: str | None, facts: Mapping[str, Any]
    ) -> None:
        with self._readable(), self._manifest:
            self._manifest.execute(
                "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    key.folder,
                    key.kind,
                    key.config_id,
                    key.user_id,
                    status,
                    reason,
                    sha256,
                    canonical_json(dict(key.identity)),
                    canonical_json(dict(facts)),
                ),
            )


def _digest(folder: Path) -> str:
    return content_id([file_sha256(folder / name) for name in (CONFIG_FILE, WEIGHTS_FILE)])
