"""Visitors' sessions: what they have of their own, in memory and in a folder, until it is forgotten.

A session has an id that cannot be guessed. Everything in it is removed when it is forgotten, left unused, or
crowded out. Knows nothing of models and formats.
"""

import atexit
import contextlib
import dataclasses
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from oppu_core.data.types import User
from oppu_core.errors import ConfigError, OppuError

if TYPE_CHECKING:
    from oppu_core.modeling.adapters import State
    from oppu_core.training.loop import Trained

FORGOTTEN = "Your history and your adapter have been forgotten."
EXPIRED = (
    "Your history and your adapter were unused for long and have been removed. Paste your history again."
)
CROWDED_OUT = "Your history and your adapter were removed to make room for others. Paste your history again."
CLOSED = "The page was closed; your history and your adapter have been removed."
UNKNOWN = "This session is over and everything in it has been removed. Paste your history again."
WITH_ADAPTERS = 200
JOIN_SECONDS = 5


class CancelledError(OppuError):
    """A training was cancelled; nothing of it is kept."""

    def __init__(self) -> None:
        super().__init__("The training was cancelled; nothing of it was kept.")


@dataclasses.dataclass(frozen=True, repr=False)
class Own:
    """What was trained for a visitor.

    Attributes:
        task: The task's name.
        user: The visitor with their history.
        adapters: The adapters by variant.
        losses: The losses of all steps, by variant.
        facts: The results of training, by variant.
    """

    task: str
    user: User
    adapters: "dict[str, State]"
    losses: dict[str, list[float]]
    facts: "dict[str, Trained]"

    def clear(self) -> None:
        """Drop the contents, even if something still refers to this object."""
        for part in (self.adapters, self.losses, self.facts):
            part.clear()


@dataclasses.dataclass(repr=False)
class Training:
    """A training that can be cancelled; `on_cancel` is called then."""

    on_cancel: Callable[[], object]
    cancelled: bool = False
    thread: threading.Thread | None = None

    def cancel(self) -> None:
        """End it at its next step."""
        if not self.cancelled:
            self.cancelled = True
            self.on_cancel()


class Session:
    """One visitor's session.

    Attributes:
        id: An id that cannot be guessed.
        folder: The folder of its files; nobody else may read it.
        own: What was trained, if anything.
        ended: Why the session is over; empty while it lasts.
    """

    def __init__(self, folder: Path, on_keep: Callable[[], None]) -> None:
        self.id = secrets.token_urlsafe(32)
        self.folder = folder
        self.own: Own | None = None
        self.ended = ""
        self.training: Training | None = None
        self.used = time.monotonic()
        self._on_keep = on_keep
        self._lock = threading.RLock()

    def touch(self) -> None:
        """Record that the session is in use."""
        self.used = time.monotonic()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Within the block, keep the session from being forgotten.

        Raises:
            ConfigError: it is already over.
        """
        with self._lock:
            if self.ended:
                raise ConfigError(self.ended)
            self.touch()
            yield

    def begin(self, on_cancel: Callable[[], object]) -> Training:
        """Begin a new training; a running one is cancelled.

        Raises:
            ConfigError: the session is over.
        """
        with self.held():
            self.cancel()
            self.training = Training(on_cancel)
            return self.training

    def cancel(self) -> None:
        """Cancel the running training, if there is one."""
        if training := self.training:
            training.cancel()

    def keep(self, training: Training, own: Own) -> None:
        """Replace the session's adapters by newly trained ones.

        Raises:
            CancelledError: the training was cancelled, as all are when a session ends.
        """
        with self._lock:
            if training.cancelled:
                own.clear()
                raise CancelledError
            self.touch()
            for file in self.folder.iterdir():  # files of the previous adapters
                file.unlink()
            self.own, self.training = own, None
        self._on_keep()

    def end(self, why: str) -> None:
        """Remove everything; a running training ends at its next step. Further calls do nothing."""
        with self._lock:
            self.ended = self.ended or why
            self.cancel()
            if self.own:
                self.own.clear()
            self.own = self.training = None
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(self.folder)


class Sessions:
    """All sessions of a process, in a private temporary folder that is removed with the process.

    Args:
        with_adapters: The most sessions with adapters; beyond that, the least recently used ones are ended.

    Attributes:
        root: The folder.
    """

    def __init__(self, with_adapters: int = WITH_ADAPTERS) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="oppu-demo-"))
        self._limit = with_adapters
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()
        atexit.register(self.close)

    def new(self) -> Session:
        """A new session."""
        session = Session(Path(tempfile.mkdtemp(dir=self.root)), self._make_room)
        with self._lock:
            self._sessions[session.id] = session
        return session

    def get(self, session_id: str) -> Session:
        """The session with an id, which then counts as used.

        Raises:
            ConfigError: it is over, or never existed.
        """
        with self._lock:
            session = self._sessions.get(session_id)
        if session is None:
            raise ConfigError(UNKNOWN)
        session.touch()
        return session

    def forget(self, session: Session) -> None:
        """Remove every trace of a session from memory and disk."""
        self._end([session], FORGOTTEN)

    def expire(self, seconds: float) -> int:
        """End the sessions that were unused for this time; return their number."""
        oldest = time.monotonic() - seconds
        return self._end([session for session in self._all() if session.used < oldest], EXPIRED)

    def close(self) -> None:
        """End all sessions and remove the folder."""
        trainings = [session.training for session in self._all()]
        self._end(self._all(), CLOSED)
        for training in trainings:  # threads that compute while Python shuts down may crash
            if training and training.thread:
                training.thread.join(JOIN_SECONDS)
        shutil.rmtree(self.root, ignore_errors=True)
        atexit.unregister(self.close)

    def _make_room(self) -> None:
        holders = sorted((s for s in self._all() if s.own), key=lambda session: session.used)
        self._end(holders[: max(0, len(holders) - self._limit)], CROWDED_OUT)

    def _all(self) -> list[Session]:
        with self._lock:
            return list(self._sessions.values())

    def _end(self, sessions: list[Session], why: str) -> int:
        with self._lock:
            for session in sessions:
                self._sessions.pop(session.id, None)
        for session in sessions:
            session.end(why)
        return len(sessions)
