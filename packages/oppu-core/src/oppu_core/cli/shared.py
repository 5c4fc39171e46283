"""What commands share."""

import contextlib
from collections.abc import Iterator

from oppu_core.errors import Interrupted


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Say how to go on when a person presses Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted("Interrupted. Start the same command again to continue.") from error
