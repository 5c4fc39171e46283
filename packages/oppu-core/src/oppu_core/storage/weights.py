"""Folders of trained weights, and what is known of them: what every user of a store needs.

:class:`oppu_core.storage.store.Store` keeps what is known in a manifest. A worker on another machine has
:class:`HandedWeights`: it is told what is there, and hands over what it made.
"""

import abc
import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oppu_core.errors import StoreError
from oppu_core.storage.files import content_id, file_sha256, new_dir, write_json
from oppu_core.storage.keys import Key

if TYPE_CHECKING:
    from torch import Tensor

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"


@dataclasses.dataclass(frozen=True)
class Entry:
    """What is known of weights: `facts` are counts, losses, seconds; `sha256` covers the folder's files."""

    folder: str
    kind: str
    user_id: str | None
    status: str
    reason: str | None
    facts: Mapping[str, Any]
    config_id: str
    identity: Mapping[str, Any]
    sha256: str | None


class Weights(abc.ABC):
    """Plain PEFT folders below a path; only those that an entry calls ``ok`` exist.

    Args:
        path: The store's folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @abc.abstractmethod
    def record(self, entry: Entry) -> None:
        """Make an entry count, in place of an earlier one of its folder."""

    @abc.abstractmethod
    def entry(self, key: Key) -> Entry | None:
        """What is known of weights, whether or not they are still there; None if nothing is."""

    def has(self, key: Key) -> bool:
        """Whether these weights are stored."""
        return self._stored(key) is not None

    def digest(self, key: Key) -> str | None:
        """The sha256 of stored weights and their configuration; None if they are not stored."""
        entry = self._stored(key)
        return entry.sha256 if entry else None

    def intact(self, key: Key) -> bool:
        """Whether these weights are stored and undamaged."""
        entry = self._stored(key)
        try:
            return entry is not None and digest_of(self.path / key.folder) == entry.sha256
        except OSError:
            return False

    def failure(self, key: Key) -> str | None:
        """Why training this entry failed, if it did."""
        entry = self.entry(key)
        return entry.reason if entry and entry.status == "failed" else None

    def load(self, key: Key) -> "dict[str, Tensor]":
        """The stored tensors.

        Raises:
            StoreError: they are missing, or their bytes have changed since they were written.
        """
        from safetensors.torch import load_file  # not at the top: lists of what is stored need no torch

        whom = f"of user {key.user_id!r} " if key.user_id is not None else ""
        if not self.has(key):
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
        """Store weights: first the folder, then the entry that makes it count."""
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        with new_dir(self.path / key.folder) as folder:
            write_json(folder / CONFIG_FILE, dict(config))
            try:
                save_file(dict(state), folder / WEIGHTS_FILE, metadata={"format": "pt"})
            except SafetensorError as error:  # raised when the disk is full
                raise StoreError(f"{self.path / key.folder} cannot be written: {error}.") from error
            sha256 = digest_of(folder)
        self.record(_entry(key, "ok", sha256=sha256, facts=facts))

    def put_failure(self, key: Key, reason: str) -> None:
        """Record that training failed, and why; it is tried again the next time it is needed."""
        if not self.has(key):  # another process may have succeeded meanwhile
            self.record(_entry(key, "failed", reason=reason))

    def _stored(self, key: Key) -> Entry | None:
        entry = self.entry(key)
        if entry and entry.status == "ok" and (self.path / key.folder).is_dir():  # not removed by hand
            return entry
        return None


class HandedWeights(Weights):
    """Weights of which is known what was handed over.

    Args:
        path: The store's folder.
        entries: What is there.

    Attributes:
        made: What was recorded since.
    """

    def __init__(self, path: Path, entries: Iterable[Entry] = ()) -> None:
        super().__init__(path)
        self._entries = {entry.folder: entry for entry in entries}
        self.made: list[Entry] = []

    def record(self, entry: Entry) -> None:
        """See :meth:`Weights.record`."""
        self._entries[entry.folder] = entry
        self.made.append(entry)

    def entry(self, key: Key) -> Entry | None:
        """See :meth:`Weights.entry`."""
        return self._entries.get(key.folder)


def digest_of(folder: Path) -> str:
    """The sha256 of a folder's weights and their configuration."""
    return content_id([file_sha256(folder / name) for name in (CONFIG_FILE, WEIGHTS_FILE)])


def _entry(
    key: Key,
    status: str,
    *,
    sha256: str | None = None,
    reason: str | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Entry:
    return Entry(
        folder=key.folder,
        kind=key.kind,
        user_id=key.user_id,
        status=status,
        reason=reason,
        facts=dict(facts or {}),
        config_id=key.config_id,
        identity=key.identity,
        sha256=sha256,
    )
