"""LaMP's files from its official host, resumed where a download broke off.

A file grows under the name ``<file>.part`` and gets its own name when it is whole. ``download.json`` beside
it says which task and split the folder holds, and for every file the length and the validator (ETag or
Last-Modified) that the server gave, so that only a file that has not changed is continued.
"""

import contextlib
import dataclasses
import errno
import itertools
import os
import shutil
import socket
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, NoReturn

import httpx2
import tenacity

from oppu_core.data.schema import shown
from oppu_core.errors import ConfigError, DataError
from oppu_core.storage.files import fsync_dir, locked, read_json, write_json
from oppu_core.tasks.task import Task

HOST = "https://ciir.cs.umass.edu/downloads/LaMP/"
STATE = "download.json"
PARTS = ("train", "dev", "test")
LampSplit = Literal["time", "user"]
OnProgress = Callable[[str, int, int | None], object]

# Tries without a new byte before we give up: the first one, and one after each pause (seconds).
PAUSES = (1.0, 2.0, 4.0, 8.0)
_TIMEOUT = 60.0
_TRY_AGAIN = (408, 429, 500, 502, 503, 504)


class _BrokenOffError(Exception):
    """The connection or the server failed in a way that another try may mend."""


@dataclasses.dataclass(frozen=True)
class _Remote:
    """What a server said of a file: its length in bytes, and what tells this version from another."""

    length: int | None
    validator: str | None


def lamp_files(task: Task, split: LampSplit, parts: Sequence[str]) -> dict[str, str]:
    """Where the parts of a task lie: {file name: path below the host}.

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
        # The test golds are withheld for the leaderboard.
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
    """Get the files of a task; what is there and whole is left alone, what broke off is continued.

    Args:
        task: One of LaMP's tasks.
        split: By time (as in the paper) or by user.
        parts: Of :data:`PARTS`.
        folder: Where the files go; one task and split a folder.
        host: The address that the paths of :func:`lamp_files` are added to.
        on_progress: Called with file name, bytes here, and bytes in all (None: not known).
        pauses: Seconds to wait before each further try.

    Raises:
        ConfigError: `folder` holds another task or split, or an option is wrong.
        DataError: a file cannot be had or written; the message says what to do.
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
            _File(client, folder, name, url, state, on_progress or (lambda *_: None)).get(pauses)
    return [folder / name for name in files]


def _is_address(url: str) -> bool:
    """Whether a request can be sent there: what is special in a URL has to be escaped already."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = parts.hostname, parts.port
        httpx2.URL(url)
    except (ValueError, httpx2.InvalidURL):
        return False
    return parts.scheme in ("http", "https") and bool(host) and url.isascii() and " " not in url


def _client() -> httpx2.Client:
    """What makes the requests, through the proxy that the environment names."""
    # The bytes of the file itself are wanted, whose count the server tells.
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
    """Whether ``download.json`` has everything that we rely on."""
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


class _File:
    """One file of a folder on its way from the server."""

    def __init__(
        self,
        client: httpx2.Client,
        folder: Path,
        name: str,
        url: str,
        state: dict[str, Any],
        on_progress: OnProgress,
    ) -> None:
        self.client, self.name, self.url = client, name, url
        self.state, self.on_progress = state, on_progress
        self.target = folder / name
        self.part = folder / f"{name}.part"

    @property
    def known(self) -> _Remote:
        """What the server said when the file was begun."""
        known = self.state["files"].get(self.name)
        return _Remote(known.get("bytes"), known.get("validator")) if known else _Remote(None, None)

    def note(self, remote: _Remote) -> None:
        """Keep what the server said, before the bytes that it is about."""
        self.state["files"][self.name] = {"bytes": remote.length, "validator": remote.validator}
        write_json(self.target.with_name(STATE), self.state)

    def here(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def get(self, pauses: Sequence[float]) -> None:
        """Get the file, in as many tries as bring it on, and `pauses` more.

        Raises:
            DataError: it cannot be had or written.
        """
        if self.target.is_dir():
            raise DataError(f"{self.target} is a folder where a file should come; move it away.")
        if self.target.exists() and self.target.stat().st_size == self.known.length:
            self.on_progress(self.name, self.target.stat().st_size, self.known.length)
            return
        most = self.here()

        def count(state: tenacity.RetryCallState) -> None:
            """Count tries from the last one that brought something; only what is new does, so this ends."""
            nonlocal most
            if self.here() > most:
                most, state.attempt_number = self.here(), 1

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_BrokenOffError),
            after=count,
            stop=tenacity.stop_after_attempt(len(pauses) + 1),
            wait=tenacity.wait_chain(*map(tenacity.wait_fixed, (*pauses, 0))),
            reraise=True,
        )
        try:
            retrying(self._one_try)
        except _BrokenOffError as error:
            raise DataError(
                f"{self.url}: {error}, after {len(pauses) + 1} tries without a new byte. What has come "
                "is kept: start the same command again to continue."
            ) from error
        self._finish()

    def _one_try(self) -> None:
        """Bring the part as far as one connection does.

        Raises:
            _BrokenOffError: not to its end, but it may be tried again.
        """
        known, here = self.known, self.here()
        if here and here == known.length:
            return
        headers = {}
        if known.validator is not None and known.length is not None and 0 < here < known.length:
            headers = {"Range": f"bytes={here}-", "If-Range": known.validator}
        try:
            with self.client.stream("GET", self.url, headers=headers) as response:
                if not response.is_success:
                    self._refused(response)
                start, remote = _offered(response)
                # A continuation need not repeat the validator.
                if start and (
                    start != here
                    or remote.length != known.length
                    or remote.validator not in (None, known.validator)
                ):
                    self.part.unlink()
                    raise _BrokenOffError("the file has changed on the server")
                self._receive(response, start, known if start else remote)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            if isinstance(cause := _root(error), socket.gaierror):
                raise DataError(
                    f"{self.url}: the host cannot be found ({cause.strerror}). Is this machine "
                    "online, and --host right? Start the same command again to continue."
                ) from error
            raise _BrokenOffError(f"no connection ({error})") from error
        except httpx2.RequestError as error:
            raise _BrokenOffError(f"the connection failed ({error})") from error

    def _refused(self, response: httpx2.Response) -> NoReturn:
        code = response.status_code
        if code == httpx2.codes.RANGE_NOT_SATISFIABLE:
            self.part.unlink()
            raise _BrokenOffError("the file has become shorter on the server")
        problem = f"the server answered {code} {response.reason_phrase}"
        if code in _TRY_AGAIN:
            raise _BrokenOffError(problem)
        advice = {
            404: "The layout of the host may have changed; --host names another address",
            403: "The host does not give this file away; try later, or name a copy with --host",
        }.get(code, "Open the address in a browser to see what is wrong")
        raise DataError(f"{self.url}: {problem}. {advice}.")

    def _receive(self, response: httpx2.Response, start: int, remote: _Remote) -> None:
        blocks = _blocks(response)
        first = next(blocks, b"")
        if not first:
            raise _BrokenOffError("the connection was closed")
        if not start and first.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] not in (b"[", b"{"):
            start_of_it = shown(first[:40].decode("utf-8", "replace"))
            raise DataError(
                f"{self.url}: this is no JSON; it starts with {start_of_it}. "
                "An error page, or a login? Open the address in a browser; --host names another one."
            )
        if not start:
            with self._writing():
                self.note(remote)
        with self._writing():
            self._check_space(remote.length, start)
            file = self.part.open("ab" if start else "wb")
        with file:
            self._copy(itertools.chain([first], blocks), file, start, remote)

    def _copy(self, blocks: Iterator[bytes], file: BinaryIO, here: int, remote: _Remote) -> None:
        for block in blocks:
            with self._writing():
                file.write(block)
                file.flush()
            here += len(block)
            self.on_progress(self.name, here, remote.length)
        if remote.length is not None and here != remote.length:
            raise _BrokenOffError(f"{here:,} bytes came of {remote.length:,}")
        with self._writing():
            os.fsync(file.fileno())

    def _check_space(self, length: int | None, here: int) -> None:
        if length is not None and shutil.disk_usage(self.part.parent).free < length - here:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            advice = "Make room" if error.errno == errno.ENOSPC else "Choose another folder"
            raise DataError(
                f"{self.part} cannot be written: {error.strerror}. {advice}, then start the same command "
                "again to continue."
            ) from error

    def _finish(self) -> None:
        """Check the end, and give the file its name."""
        with self.part.open("rb") as file:
            file.seek(max(0, self.here() - 64))
            end = file.read().rstrip()[-1:]
        if end not in (b"]", b"}"):
            self.part.unlink()
            raise DataError(
                f"{self.url}: what the server calls the whole file ends in the middle of its JSON (wrong "
                "Content-Length?). Start the command again; --host names another address."
            )
        with self._writing():
            # Also where the server did not tell the length: from now on we know it.
            self.note(_Remote(self.here(), self.known.validator))
            self.part.replace(self.target)
            fsync_dir(self.target.parent)


def _blocks(response: httpx2.Response) -> Iterator[bytes]:
    """The body as it comes; one that breaks off is an error, or shows by its length."""
    try:
        yield from response.iter_raw()
    except httpx2.RemoteProtocolError as error:
        if "Content-Length" not in response.headers:
            raise _BrokenOffError(f"the connection broke off ({error})") from error
    except httpx2.TransportError as error:
        raise _BrokenOffError(f"the connection broke off ({error})") from error


def _root(error: BaseException) -> BaseException:
    """What an error came from, in the first place."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return error


def _offered(response: httpx2.Response) -> tuple[int, _Remote]:
    """From which byte on the body starts, and what the server says of the whole file."""
    # A weak ETag does not promise the same bytes.
    etag, modified = response.headers.get("ETag"), response.headers.get("Last-Modified")
    validator = etag if etag and not etag.startswith("W/") else modified
    try:
        if response.status_code != httpx2.codes.PARTIAL_CONTENT:
            length = response.headers.get("Content-Length")
            return 0, _Remote(int(length) if length else None, validator)
        span, _, total = response.headers["Content-Range"].removeprefix("bytes ").partition("/")
        return int(span.partition("-")[0]), _Remote(None if total == "*" else int(total), validator)
    except (KeyError, ValueError) as error:
        raise _BrokenOffError("the server's headers make no sense") from error
