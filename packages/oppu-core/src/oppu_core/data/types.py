"""A user's data as frozen dataclasses without behaviour, shared by all modules."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

Split = Literal["others", "test"]
SPLITS: tuple[Split, ...] = ("others", "test")


@dataclasses.dataclass(frozen=True)
class HistoryItem:
    """One past item of a user. A history is a sequence of items, oldest first.

    Attributes:
        id: The item's id in its source.
        fields: The task's history fields, e.g. ``{"description": …, "tag": …}``.
        date: ISO date, or time in UTC (:class:`oppu_core.data.moments.Moment`); text order is time order.
    """

    id: str
    fields: Mapping[str, str]
    date: str | None = None


@dataclasses.dataclass(frozen=True)
class Query:
    """One question, to be answered as the user would.

    Attributes:
        id: Unique within its dataset.
        fields: The task's input fields, e.g. ``{"description": …}``.
        gold: The user's own answer; None if it is withheld.
        history_len: How many items of the history, from its start, this query may see.
        oracle: The best possible answer, if known (sample world).
        date: When it was asked, if known; in the form of a history item's date.
    """

    id: str
    fields: Mapping[str, str]
    gold: str | None
    history_len: int
    oracle: str | None = None
    date: str | None = None


@dataclasses.dataclass(frozen=True)
class User:
    """One user's history and queries.

    Attributes:
        user_id: Any string; never used as a path.
        split: ``others`` train the task base, ``test`` get personal adapters.
        history: Oldest first.
        queries: In the source's order.
    """

    user_id: str
    split: Split
    history: tuple[HistoryItem, ...]
    queries: tuple[Query, ...]

    @property
    def training_history(self) -> tuple[HistoryItem, ...]:
        """What personal training and profiles may see: the items before the earliest query."""
        if not self.queries:
            return self.history
        return self.history[: min(query.history_len for query in self.queries)]
