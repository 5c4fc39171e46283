"""The page's tabs: each lays out its controls and handles their events; what they show is in ``views``."""

from typing import Any

# Of events that are neither endpoints nor worth a sign of work.
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
