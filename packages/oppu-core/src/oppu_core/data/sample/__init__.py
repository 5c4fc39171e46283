"""The sample world: made-up users with planted preferences, in plain English; nothing to download.

:mod:`world` is the mechanism; each task has a grammar that plugs into it.
"""

from oppu_core.data.sample.planted import Planted
from oppu_core.data.sample.world import (
    GRAMMARS,
    planted_likeness,
    planted_preferences,
    sample_users,
    world_texts,
)

__all__ = ["GRAMMARS", "Planted", "planted_likeness", "planted_preferences", "sample_users", "world_texts"]
