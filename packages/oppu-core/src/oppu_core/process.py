"""What a process of ours sets for itself, before torch is loaded."""

import contextlib
import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of glibc's mallopt


def tune_process() -> None:
    """Make threads that wait sleep, and keep freed memory for the next step.

    Where other programs want the cores too, threads that wait by spinning make everything many times slower
    (benchmarks/threads.py). And by default glibc gives large blocks back to the system as soon as they are
    free, only to be asked for them again in the next step, page by page: a fifth of the time of a step on a
    CPU. Settings from outside are left alone; where there is no glibc, nothing happens.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not any(name.startswith("MALLOC_") for name in os.environ):
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None)
            libc.mallopt(_TRIM_THRESHOLD, -1)
            libc.mallopt(_MMAP_THRESHOLD, 1 << 30)


def release_memory() -> None:
    """Give the memory that was freed back to the system; a server does so when it has time."""
    with contextlib.suppress(OSError, AttributeError):  # where there is no glibc
        ctypes.CDLL(None).malloc_trim(0)
