"""What forgetting records in a workspace: the state of an unfinished call, and who was forgotten."""

import dataclasses
import hashlib
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oppu_core.errors import DataError
from oppu_core.storage.files import read_json, write_json
from oppu_core.storage.parsing import parse

_PENDING_FILE = ".forget.json"
_FORGOTTEN_FILE = "forgotten.json"


@dataclasses.dataclass
class Pending:
    """What must be known until the end, but can no longer be told after the first steps.

    Attributes:
        user_id: The user to forget.
        datasets: Datasets with the user.
        runs: (run, task, dataset) of runs that use such a dataset.
        answers: (run, task) where the user is one of the others, so that every answer depends on them.
        task_loras: (store, id) of task LoRAs trained on the user's queries.
        mixed: (run, task) whose answers by pooled and strangers' adapters may depend on the user.
        given_profiles: Runs that were given the user's profile in a file.
        kept: (keeper, folder) of other packages' folders with traces of the user.
    """

    user_id: str
    datasets: list[str] = dataclasses.field(default_factory=list)
    runs: list[list[str]] = dataclasses.field(default_factory=list)
    answers: list[list[str]] = dataclasses.field(default_factory=list)
    task_loras: list[list[str]] = dataclasses.field(default_factory=list)
    mixed: list[list[str]] = dataclasses.field(default_factory=list)
    given_profiles: list[str] = dataclasses.field(default_factory=list)
    kept: list[list[str]] = dataclasses.field(default_factory=list)


def read_pending(folder: Path) -> Pending | None:
    """The record of a killed call; None if there is none.

    Raises:
        DataError: it is damaged.
    """
    path = folder / _PENDING_FILE
    if not path.exists():
        return None
    try:
        return parse(Pending, read_json(path))
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}). Put it back from a backup.") from error


def write_pending(folder: Path, pending: Pending) -> None:
    """Write the record, before anything changes."""
    write_json(folder / _PENDING_FILE, dataclasses.asdict(pending))


def read_forgotten(folder: Path) -> dict[str, Any]:
    """The salt and, by hash of the user's id, (store, id) of task LoRAs that have seen them and were kept."""
    path = folder / _FORGOTTEN_FILE
    content: dict[str, Any] = (
        read_json(path) if path.exists() else {"salt": secrets.token_hex(16), "users": {}}
    )
    return content


def finish(folder: Path, user_id: str, left: list[list[str]]) -> None:
    """Record that a user is forgotten.

    Args:
        folder: The workspace's folder.
        user_id: The forgotten user.
        left: (store, id) of task LoRAs that have seen the user and are kept.
    """
    forgotten = read_forgotten(folder)
    forgotten["users"][id_hash(forgotten, user_id)] = left
    write_json(folder / _FORGOTTEN_FILE, forgotten)
    (folder / _PENDING_FILE).unlink()


def id_hash(forgotten: Mapping[str, Any], user_id: str) -> str:
    """The salted, slow hash by which a forgotten user is recorded."""
    salt = bytes.fromhex(forgotten["salt"])
    return hashlib.scrypt(user_id.encode("utf-8", "surrogatepass"), salt=salt, n=2**14, r=8, p=1).hex()
