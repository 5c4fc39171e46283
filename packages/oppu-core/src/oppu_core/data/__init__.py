"""Users, their histories and queries: types, the dataset on disk, readers, the sample world."""

from oppu_core.data.types import HistoryItem, Query, Split, User

__all__ = ["HistoryItem", "Query", "Split", "User"]
