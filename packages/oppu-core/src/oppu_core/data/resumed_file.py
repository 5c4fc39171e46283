"""Downloading one file, continuing where an earlier try stopped."""

import contextlib
import dataclasses
import errno
import itertools
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import httpx2
import tenacity

from oppu_core.data.schema import shown
from oppu_core.errors import DataError
from oppu_core.storage.files import fsync_dir, write_json

STATE = "download.json"
OnProgress = Callable[[str, int, int | None], object]
_TRY_AGAIN = (408, 429, 500, 502, 503, 504)


class _BrokenOffError(Exception):
    """The connection or the server failed in a way that a retry may fix."""


@dataclasses.dataclass(frozen=True)
class _Remote:
    """What a server says of a file: its length in bytes, and a validator that identifies this version."""

    length: int | None
    validator: str | None


class ResumedFile:
    """One file of a folder that is being downloaded."""

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
        """What the server said when the download began."""
        known = self.state["files"].get(self.name)
        return _Remote(known.get("bytes"), known.get("validator")) if known else _Remote(None, None)

    def note(self, remote: _Remote) -> None:
        """Record what the server said, before any of the bytes are written."""
        self.state["files"][self.name] = {"bytes": remote.length, "validator": remote.validator}
        write_json(self.target.with_name(STATE), self.state)

    def here(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def get(self, pauses: Sequence[float]) -> None:
        """Download the file; give up after ``len(pauses) + 1`` tries in a row without a new byte.

        Raises:
            DataError: it cannot be downloaded or written.
        """
        if self.target.is_dir():
            raise DataError(f"{self.target} is a folder where a file should come; move it away.")
        if self.target.exists() and self.target.stat().st_size == self.known.length:
            self.on_progress(self.name, self.target.stat().st_size, self.known.length)
            return
        most = self.here()

        def count(state: tenacity.RetryCallState) -> None:
            """Restart the count after a try with new bytes; there are only so many, so this ends."""
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
        """Download as much as one connection gives; a _BrokenOffError if a retry may help."""
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
                # A partial response need not repeat the validator.
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
        """Check the file's end and rename it."""
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
            # From now on the length is known, even if the server did not give it.
            self.note(_Remote(self.here(), self.known.validator))
            self.part.replace(self.target)
            fsync_dir(self.target.parent)


def _blocks(response: httpx2.Response) -> Iterator[bytes]:
    """The body as it arrives; a body that breaks off raises, or is noticed by its length."""
    try:
        yield from response.iter_raw()
    except httpx2.RemoteProtocolError as error:
        if "Content-Length" not in response.headers:
            raise _BrokenOffError(f"the connection broke off ({error})") from error
    except httpx2.TransportError as error:
        raise _BrokenOffError(f"the connection broke off ({error})") from error


def _root(error: BaseException) -> BaseException:
    """The first error in a chain of causes."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return error


def _offered(response: httpx2.Response) -> tuple[int, _Remote]:
    """The byte at which the body starts, and what the server says of the whole file."""
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
