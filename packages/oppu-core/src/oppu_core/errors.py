"""Every error that oppu raises on purpose.

A message says three things: what is wrong, where (file, line, user, field), and what to do. The command
line prints it without a traceback; a library user catches :class:`OppuError`.
"""


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
