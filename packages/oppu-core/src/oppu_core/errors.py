"""Every error that oppu raises on purpose.

A message says what is wrong, where (file, line, user, field), and what to do. The command line prints it
without a traceback; callers of the library catch :class:`OppuError`. :func:`explained` turns exceptions of
other libraries into the same form.
"""

import contextlib
import difflib
import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError

_LONGEST = 300  # characters that are kept of a library's message
_COMPARED = 20_000  # names that are compared at most; it takes a while
_LONGEST_NAME = 100
_ADVICE = "Most likely the base, settings and libraries do not fit together: try the same with --model tiny."


class OppuError(Exception):
    """Base class of all errors raised on purpose; the message is meant for people."""


class ConfigError(OppuError):
    """An option, method name or run configuration is wrong or disagrees with what is on disk."""


class DataError(OppuError):
    """A file, record or dataset cannot be used."""


class ModelError(OppuError):
    """A base model or tokenizer cannot be used."""


class StoreError(OppuError):
    """Stored weights are missing, damaged or belong to something else."""


class TrainingError(OppuError):
    """An adapter could not be trained (non-finite loss, nothing to train on)."""


class Interrupted(OppuError):  # noqa: N818 (a request, not an error)
    """Someone pressed Ctrl-C; the message says how to continue."""


class HubError(OppuError):
    """The Hugging Face hub cannot be reached, or refuses a request."""


def did_you_mean(
    name: str, known: Iterable[str], show: Callable[[str], str] = str, *, most: int = 1, cutoff: float = 0.6
) -> str:
    """`` Did you mean …?`` with the known names that are close to an unknown one; empty if none is.

    Args:
        name: The unknown name.
        known: The known names.
        show: Formats a known name.
        most: How many to suggest at most.
        cutoff: How close they have to be, from 0 to 1.
    """
    compared = itertools.islice((one for one in known if len(one) < _LONGEST_NAME), _COMPARED)
    close = difflib.get_close_matches(name[:_LONGEST_NAME], list(compared), most, cutoff)
    return f" Did you mean {' or '.join(map(show, close))}?" if close else ""


@contextlib.contextmanager
def explained(what: str, kind: type[OppuError], advice: str = _ADVICE) -> Iterator[None]:
    """Turn exceptions of libraries inside the block into one sentence: what failed, why, and what to do.

    Our own errors, those of the operating system, and a cancelled training pass through unchanged.

    Args:
        what: What is being done, e.g. ``Training the task LoRA``.
        kind: The error class to raise.
        advice: What to do, unless memory ran out.
    """
    try:
        yield
    except (OppuError, OSError, CancelledError):
        raise
    except Exception as error:
        raise kind(f"{what} failed: {reason(error, advice)}") from error


def reason(error: Exception, advice: str = _ADVICE) -> str:
    """A library's exception in one line, and what to do about it.

    Args:
        error: The exception.
        advice: What to do, unless memory ran out.
    """
    text = str(error)
    if (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"  # torch's; torch is not imported just for this
        or any(words in text.lower() for words in ("out of memory", "can't allocate memory"))
    ):
        return (
            "there is too little memory. Train fewer users at once (--cohort 1), answer fewer prompts at a "
            "time (--batch-size 1), hold the base in 4 bits (--quantize nf4), or take a smaller --model."
        )
    first = next(iter(text.strip().splitlines()), "")
    said = f"{type(error).__name__}: {first[:_LONGEST]}".rstrip(": .")
    return f"{said}. {advice} --debug shows where it happened."
