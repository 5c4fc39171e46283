"""Downloading LaMP's files from its official host, resuming interrupted downloads.

A file is written as ``<file>.part`` and renamed when complete. ``download.json`` beside it records the task
and split of the folder, and for every file the length and the validator (ETag or Last-Modified) that the
server gave, so that only an unchanged file is continued.
"""

import contextlib
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import httpx2

from oppu_core.data.resumed_file import STATE, OnProgress, ResumedFile
from oppu_core.data.schema import shown
from oppu_core.errors import ConfigError, DataError
from oppu_core.storage.files import locked, read_json
from oppu_core.tasks.task import Task

HOST = "https://ciir.cs.umass.edu/downloads/LaMP/"
PARTS = ("train", "dev", "test")
LampSplit = Literal["time", "user"]

# Seconds to wait before each retry; one more try than pauses without a new byte, and the download fails.
PAUSES = (1.0, 2.0, 4.0, 8.0)
_TIMEOUT = 60.0


def lamp_files(task: Task, split: LampSplit, parts: Sequence[str]) -> dict[str, str]:
    """The files of a task's parts: {file name: path below the host}.

    Raises:
        ConfigError: an unknown part, or the task is not one of LaMP's.
    """
    if not task.official_folder:
        raise ConfigError(f"Task {task.name} is not one of LaMP's; there is nothing to download.")
    if unknown := [part for part in parts if part not in PARTS]:
        raise ConfigError(f"There is no part {shown(unknown[0])}; parts are {', '.join(PARTS)}.")
    if not parts:
        raise ConfigError(f"No part was named; parts are {', '.join(PARTS)}.")
    folder = ("time/" if split == "time" else "") + task.official_folder
    return {
        name: f"{folder}/{part}/{name}"
        for part in parts
        # LaMP withholds the test golds for its leaderboard.
        for name in (f"{part}_questions.json", f"{part}_outputs.json")[: 1 if part == "test" else 2]
    }


def download(
    task: Task,
    split: LampSplit,
    parts: Sequence[str],
    folder: Path,
    host: str = HOST,
    on_progress: OnProgress | None = None,
    pauses: Sequence[float] = PAUSES,
) -> list[Path]:
    """Download the files of a task; complete files are kept, interrupted ones are continued.

    Args:
        task: One of LaMP's tasks.
        split: By time (as in the paper) or by user.
        parts: Some of :data:`PARTS`.
        folder: Where the files go; one task and split per folder.
        host: The address that the paths of :func:`lamp_files` are appended to.
        on_progress: Called with the file's name, bytes so far, and bytes in all (None if unknown).
        pauses: Seconds to wait before each retry.

    Returns:
        The paths of the files.

    Raises:
        ConfigError: `folder` holds another task or split, or an option is wrong.
        DataError: a file cannot be downloaded or written; the message says what to do.
    """
    files = lamp_files(task, split, parts)
    if not _is_address(host):
        raise ConfigError(f"--host {shown(host)} is no address; it must start with https:// or http://.")
    busy = DataError(f"Another download into {folder} is running; wait for it to end.")
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder, busy))
        except OSError as error:
            raise DataError(
                f"{folder} cannot be used as a folder ({error.strerror}); choose another."
            ) from error
        client = stack.enter_context(_client())
        state = _state(folder, task, split)
        for name, path in files.items():
            url = f"{host.rstrip('/')}/{path}"
            ResumedFile(client, folder, name, url, state, on_progress or (lambda *_: None)).get(pauses)
    return [folder / name for name in files]


def _is_address(url: str) -> bool:
    """Whether a request can be sent to a URL; its special characters must be escaped already."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = parts.hostname, parts.port
        httpx2.URL(url)
    except (ValueError, httpx2.InvalidURL):
        return False
    return parts.scheme in ("http", "https") and bool(host) and url.isascii() and " " not in url


def _client() -> httpx2.Client:
    """An HTTP client that uses the proxy named in the environment."""
    # No compression: the length that the server gives must be the file's own.
    headers = {"User-Agent": "oppu", "Accept-Encoding": "identity"}
    try:
        return httpx2.Client(headers=headers, timeout=_TIMEOUT, follow_redirects=True)
    except (ImportError, ValueError, httpx2.InvalidURL) as error:
        raise ConfigError(f"The proxy that the environment names cannot be used: {error}") from error


def _state(folder: Path, task: Task, split: LampSplit) -> dict[str, Any]:
    new = {"task": task.name, "split": split, "files": {}}
    if not (folder / STATE).exists():
        return new
    state = read_json(folder / STATE)
    if not _is_state(state):
        raise DataError(f"{folder / STATE} is damaged; remove it, and the files are downloaded again.")
    if (state.get("task"), state.get("split")) != (task.name, split):
        raise ConfigError(
            f"{folder} holds {shown(state.get('task'))}, split {shown(state.get('split'))}; "
            "choose another folder for this download."
        )
    return dict(state)


def _is_state(state: Any) -> bool:
    """Whether ``download.json`` has everything that downloads rely on."""
    return (
        isinstance(state, dict)
        and isinstance(state.get("files"), dict)
        and all(
            isinstance(file, dict)
            and isinstance(file.get("bytes"), int | None)
            and isinstance(file.get("validator"), str | None)
            for file in state["files"].values()
        )
    )
