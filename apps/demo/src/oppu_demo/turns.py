"""A lock that goes to whoever has waited longest."""

import collections
import contextlib
import threading
from collections.abc import Iterator


class Turns:
    """A fair lock: the longest waiting thread is next."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: collections.deque[threading.Event] = collections.deque()

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn, and have it for the block."""
        self._wait()
        try:
            yield
        finally:
            self._leave()

    def pass_on(self) -> None:
        """Within a turn: let those who wait go first."""
        self._leave()
        self._wait()

    def _wait(self) -> None:
        mine = threading.Event()
        with self._guard:
            self._waiting.append(mine)
            if len(self._waiting) == 1:
                mine.set()
        mine.wait()

    def _leave(self) -> None:
        with self._guard:
            self._waiting.popleft()
            if self._waiting:
                self._waiting[0].set()
