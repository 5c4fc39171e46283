"""Settings that a process makes for itself before torch is loaded."""

import contextlib
import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of glibc's mallopt


def tune_process() -> None:
    """Make waiting threads sleep, and keep freed memory for the next step.

    Where other programs want the cores too, threads that wait by spinning make everything many times slower
    (benchmarks/threads.py). And by default glibc returns large blocks to the system as soon as they are freed
    and requests them again in the next step, page by page: a fifth of a step's time on a CPU. Settings from
    the environment take precedence; without glibc, nothing happens.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not any(name.startswith("MALLOC_") for name in os.environ):
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None)
            libc.mallopt(_TRIM_THRESHOLD, -1)
            libc.mallopt(_MMAP_THRESHOLD, 1 << 30)


def release_memory() -> None:
    """Return freed memory to the system; a server does so when it is idle."""
    with contextlib.suppress(OSError, AttributeError):  # no glibc
        ctypes.CDLL(None).malloc_trim(0)
