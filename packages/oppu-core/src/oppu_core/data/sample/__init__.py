"""The sample world: planted users in plain English, with nothing to download.

:mod:`world` is the mechanism; the grammars of the tasks plug into it.
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
