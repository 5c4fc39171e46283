"""What forgetting notes in a workspace: what a killed call has to know, and who was forgotten."""

import dataclasses
import hashlib
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oppu_core.storage.files import read_json, write_json

_PENDING_FILE = ".forget.json"
_FORGOTTEN_FILE = "forgotten.json"


@dataclasses.dataclass
class Pending:
    """What has to be known to the end, although the first steps make it untellable.

    Attributes:
        user_id: Whom to forget.
        datasets: Those that have the user.
        runs: (run, task, dataset) where the run stands on such a dataset as it was.
        answers: (run, task) where the user is one of the others, on whom every answer stands.
        task_loras: (store, id) of task LoRAs that were trained on the user's queries.
        given_profiles: Runs that were given the user's profile in a file.
        kept: (keeper, folder) of other packages' folders that the user has a part in.
    """

    user_id: str
    datasets: list[str] = dataclasses.field(default_factory=list)
    runs: list[list[str]] = dataclasses.field(default_factory=list)
    answers: list[list[str]] = dataclasses.field(default_factory=list)
    task_loras: list[list[str]] = dataclasses.field(default_factory=list)
    given_profiles: list[str] = dataclasses.field(default_factory=list)
    kept: list[list[str]] = dataclasses.field(default_factory=list)


def read_pending(folder: Path) -> Pending | None:
    """What a killed call has noted, if there was one."""
    path = folder / _PENDING_FILE
    return Pending(**read_json(path)) if path.exists() else None


def write_pending(folder: Path, pending: Pending) -> None:
    """Note it before anything changes."""
    write_json(folder / _PENDING_FILE, dataclasses.asdict(pending))


def read_forgotten(folder: Path) -> dict[str, Any]:
    """A salt; by hash of the user's id, (store, id) of task LoRAs that have seen them and were kept."""
    path = folder / _FORGOTTEN_FILE
    content: dict[str, Any] = (
        read_json(path) if path.exists() else {"salt": secrets.token_hex(16), "users": {}}
    )
    return content


def finish(folder: Path, user_id: str, left: list[list[str]]) -> None:
    """Note that a user is forgotten.

    Args:
        folder: The workspace's.
        user_id: Whom.
        left: (store, id) of task LoRAs that have seen the user and are kept.
    """
    forgotten = read_forgotten(folder)
    forgotten["users"][id_hash(forgotten, user_id)] = left
    write_json(folder / _FORGOTTEN_FILE, forgotten)
    (folder / _PENDING_FILE).unlink()


def id_hash(forgotten: Mapping[str, Any], user_id: str) -> str:
    """Under what a user is noted: a salted, slow hash."""
    salt = bytes.fromhex(forgotten["salt"])
    return hashlib.scrypt(user_id.encode("utf-8", "surrogatepass"), salt=salt, n=2**14, r=8, p=1).hex()
