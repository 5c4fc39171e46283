"""Keys: what an entry of the store is identified by, and where it lies."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from oppu_core.storage.files import content_id


@dataclasses.dataclass(frozen=True)
class Key:
    """Identifies an entry, and says where it is stored.

    Attributes:
        kind: ``task_lora``, ``adapter`` or ``pooled``.
        folder: Its path below the store, in POSIX form.
        config_id: Shared by entries that differ only in the user.
        identity: Everything that the weights depend on.
        user_id: The user of a personal adapter.
    """

    kind: str
    folder: str
    config_id: str
    identity: Mapping[str, Any]
    user_id: str | None = None


def task_lora_key(identity: Mapping[str, Any]) -> Key:
    """The key of a task LoRA: base, task, variant, training settings and a hash of the data."""
    entry_id = content_id(identity)[:24]
    return Key("task_lora", f"task_loras/{entry_id}", entry_id, identity)


def adapter_key(config: Mapping[str, Any], user_id: str, history: str) -> Key:
    """The key of a personal adapter.

    Args:
        config: What all users share: task LoRA, PEFT and training settings, seed.
        user_id: Any string.
        history: The hash of what the adapter is trained on, so that a changed history makes another entry.
    """
    config_id = content_id(config)[:24]
    key = content_id([user_id, history])[:32]
    identity = {"config": dict(config), "user_id": user_id, "history": history}
    return Key("adapter", f"adapters/{config_id}/{key[:2]}/{key}", config_id, identity, user_id)


def pooled_key(config: Mapping[str, Any], histories: Mapping[str, str]) -> Key:
    """The key of an adapter on several users' histories, {user id: hash of the history}."""
    identity = {"config": dict(config), "histories": dict(histories)}
    entry_id = content_id(identity)[:24]
    return Key("pooled", f"pooled/{entry_id}", entry_id, identity)
