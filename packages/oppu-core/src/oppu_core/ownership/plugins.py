"""Extensions of this room by other packages, through entry points."""

import importlib.metadata
from typing import Any

from oppu_core.errors import ConfigError, reason

ADVICE = "Mend, update or uninstall its package, and start the command again."


def installed(group: str) -> list[tuple[str, Any]]:
    """The entry points of a group: (``module:attribute``, loaded object).

    Raises:
        ConfigError: one cannot be loaded; skipping it would silently leave out what only it knows.
    """
    found = []
    for entry in importlib.metadata.entry_points(group=group):
        try:
            found.append((entry.value, entry.load()))
        except Exception as error:
            problem = f"{entry.value}, which a package offers as {group}, cannot be loaded"
            raise ConfigError(f"{problem}: {reason(error, ADVICE)}") from error
    return found
