"""Every error that oppu raises on purpose.

A message says three things: what is wrong, where (file, line, user, field), and what to do. The command
line prints it without a traceback; a library user catches :class:`OppuError`. :func:`explained` gives what
libraries raise the same form.
"""

import contextlib
import difflib
import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError

_LONGEST = 300  # characters of a library's message
_COMPARED = 20_000  # names; comparing takes a while
_LONGEST_NAME = 100
_ADVICE = "Most likely the base, settings and libraries do not fit together: try the same with --model tiny."


class OppuError(Exception):
    """Base of all errors raised on purpose; the text is meant for a person."""


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


class Interrupted(OppuError):  # noqa: N818 (a wish, no error)
    """A person pressed Ctrl-C; the text says how to go on."""


class HubError(OppuError):
    """The Hugging Face hub cannot be reached, or does not do what it is asked."""


def did_you_mean(
    name: str,
    known: Iterable[str],
    show: Callable[[str], str] = str,
    *,
    most: int = 1,
    cutoff: float = 0.6,
) -> str:
    """`` Did you mean …?`` with what is known and close to a name; empty where nothing is.

    Args:
        name: What there is not.
        known: What there is.
        show: How a known one is written.
        most: So many are named.
        cutoff: How close they have to be, from 0 to 1.
    """
    compared = itertools.islice((one for one in known if len(one) < _LONGEST_NAME), _COMPARED)
    close = difflib.get_close_matches(name[:_LONGEST_NAME], list(compared), most, cutoff)
    return f" Did you mean {' or '.join(map(show, close))}?" if close else ""


@contextlib.contextmanager
def explained(what: str, kind: type[OppuError], advice: str = _ADVICE) -> Iterator[None]:
    """Turn what libraries raise inside the block into one sentence: what failed, why, and what to do.

    Errors of ours, of the operating system, and a cancelled training pass as they are.

    Args:
        what: What is being done, e.g. ``Training the task LoRA``.
        kind: Which error to raise.
        advice: What to do, where memory is not what was missing.
    """
    try:
        yield
    except (OppuError, OSError, CancelledError):
        raise
    except Exception as error:
        raise kind(f"{what} failed: {reason(error, advice)}") from error


def reason(error: Exception, advice: str = _ADVICE) -> str:
    """What a library's exception says, in one line, and what to do about it.

    Args:
        error: The exception.
        advice: What to do, where memory is not what was missing.
    """
    text = str(error)
    if (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"  # torch's, which is not imported for this
        or any(words in text.lower() for words in ("out of memory", "can't allocate memory"))
    ):
        return (
            "there is too little memory. Train fewer users at once (--cohort 1), answer fewer prompts at a "
            "time (--batch-size 1), hold the base in 4 bits (--quantize nf4), or take a smaller --model."
        )
    first = next(iter(text.strip().splitlines()), "")
    said = f"{type(error).__name__}: {first[:_LONGEST]}".rstrip(": .")
    return f"{said}. {advice} --debug shows where it happened."
