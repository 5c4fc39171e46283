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
import json
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import tenacity

from oppu_core.errors import StoreError
from oppu_core.storage.files import canonical_json
from oppu_core.storage.keys import Key
from oppu_core.storage.weights import Entry, Weights, digest_of

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
_SELECT = "SELECT folder, kind, user_id, status, reason, facts, config_id, identity, sha256 FROM entries"


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


class Store(Weights):
    """A folder of trained weights; safe to use from several processes at once.

    Args:
        path: Created if it does not exist.

    Raises:
        StoreError: the folder or its manifest cannot be used.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._manifest = _opened(path / _MANIFEST)
        except (OSError, sqlite3.DatabaseError) as error:
            raise StoreError(f"The store {path} cannot be opened: {error}.") from error

    def close(self) -> None:
        """Close the manifest."""
        self._manifest.close()

    def entries(self, config_id: str | None = None) -> Iterator[Entry]:
        """The manifest's rows, sorted by folder; of one configuration or of all."""
        with self._readable():
            rows = self._manifest.execute(
                f"{_SELECT} WHERE ?1 IS NULL OR config_id = ?1 ORDER BY folder", (config_id,)
            ).fetchall()
        yield from map(_entry, rows)

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
            return "ok" if digest_of(self.path / entry.folder) == entry.sha256 else "damaged"
        except OSError:
            return "damaged" if (self.path / entry.folder).is_dir() else "missing"

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise StoreError(
                f"The manifest {self.path / _MANIFEST} cannot be used: {error}. "
                "If it is damaged, remove the store; everything in it can be trained again."
            ) from error

    def entry(self, key: Key) -> Entry | None:
        """See :meth:`Weights.entry`."""
        with self._readable():
            row = self._manifest.execute(f"{_SELECT} WHERE folder = ?", (key.folder,)).fetchone()
        return None if row is None else _entry(row)

    def record(self, entry: Entry) -> None:
        """Write an entry into the manifest, in place of an earlier one of its folder."""
        with self._readable(), self._manifest:
            self._manifest.execute(
                "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    entry.folder,
                    entry.kind,
                    entry.config_id,
                    entry.user_id,
                    entry.status,
                    entry.reason,
                    entry.sha256,
                    canonical_json(dict(entry.identity)),
                    canonical_json(dict(entry.facts)),
                ),
            )


def _entry(row: tuple[Any, ...]) -> Entry:
    folder, kind, user_id, status, reason, facts, group, identity, sha256 = row
    return Entry(
        folder, kind, user_id, status, reason, json.loads(facts), group, json.loads(identity), sha256
    )
