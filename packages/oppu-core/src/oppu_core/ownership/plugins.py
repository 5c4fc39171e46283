"""What other installed packages add to this room, by entry points."""

import importlib.metadata
from typing import Any

from oppu_core.errors import ConfigError, reason

ADVICE = "Mend, update or uninstall its package, and start the command again."


def installed(group: str) -> list[tuple[str, Any]]:
    """What packages offer in a group of entry points: its name (``module:attribute``), and the thing itself.

    Raises:
        ConfigError: one of them cannot be loaded; what only it knows would be left out in silence.
    """
    found = []
    for entry in importlib.metadata.entry_points(group=group):
        try:
            found.append((entry.value, entry.load()))
        except Exception as error:
            problem = f"{entry.value}, which a package offers as {group}, cannot be loaded"
            raise ConfigError(f"{problem}: {reason(error, ADVICE)}") from error
    return found
