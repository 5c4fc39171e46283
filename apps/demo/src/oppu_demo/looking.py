"""What a visitor is looking at: known here, because a browser may still send what was chosen before."""

import dataclasses
import threading

from oppu_demo.views.comparison import Column


@dataclasses.dataclass(frozen=True)
class Asked:
    """A comparison: its question and its answers."""

    task: str
    question: str
    gold: str | None
    columns: tuple[Column, ...]


@dataclasses.dataclass
class Looking:
    """What one visitor is looking at.

    Attributes:
        task: The task.
        user_id: The person.
        query_id: The question; None for own words.
        asked: The latest comparison.
        pressed: Whether the visitor asked for it; what the page fills in itself must not take its place.
    """

    task: str
    user_id: str
    query_id: str | None
    asked: Asked | None = None
    pressed: bool = False

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._token = object()

    def begin(self, pressed: bool = False) -> object:
        """Begin a new comparison in place of the latest one; returns a token for :meth:`keep`."""
        with self._lock:
            self.asked, self.pressed, self._token = None, pressed, object()
            return self._token

    def keep(self, token: object, asked: Asked) -> bool:
        """Record how far a comparison is; False if another one has begun."""
        with self._lock:
            if self._token is not token:
                return False
            self.asked = asked
            return True
