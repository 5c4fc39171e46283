"""Merging the profiles of a user's questions into one history."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from oppu_core.data.intake import Intake, at_of, newest_first
from oppu_core.data.rejected import Place
from oppu_core.data.types import HistoryItem, Query, Split, User


def user_of(
    first: Place,
    split: Split,
    questions: Iterable[tuple[Place, list[Any], Mapping[str, Any]]],
    intake: Intake,
) -> tuple[User, int]:
    """A user with one history from the profiles of their questions.

    Args:
        first: The place of the user.
        split: Whether they are a test user.
        questions: The place, the profile and the ``{"id", "input", "gold"}`` of each question.
        intake: Checks items and queries.

    Returns:
        The user, and how many queries see less than their own profile.

    Raises:
        Unusable: nothing usable is left.
    """
    intake.new_user(first)
    known: dict[str, int | None] = {}
    items: list[HistoryItem] = []
    profiles: list[list[int]] = []
    queries: list[tuple[Query, int]] = []
    for place, profile, asked in questions:
        indices = (_index(value, place, known, items, intake) for value in profile)
        profiles.append(list(dict.fromkeys(index for index in indices if index is not None)))
        if (query := intake.query(place, asked, 0)) is not None:
            queries.append((query, len(profiles) - 1))
    dates = [item.date for item in items]
    if newest_first([dates[index] for index in max(profiles, key=len, default=[])]):
        intake.turned += 1
        profiles = [profile[::-1] for profile in profiles]
    order, seen = merge(profiles, dates)
    user = intake.user(
        first,
        split,
        [items[index] for index in order],
        [dataclasses.replace(query, history_len=seen[at]) for query, at in queries],
    )
    return user, sum(seen[at] < len(profiles[at]) for _, at in queries)


def _index(
    value: Any, place: Place, known: dict[str, int | None], items: list[HistoryItem], intake: Intake
) -> int | None:
    """An item's index in `items`; most are in the profiles of all questions, but are checked once."""
    text = repr(value)
    if text not in known:
        item = intake.item(place, value)
        known[text] = None if item is None else len(items)
        items += [] if item is None else [item]
    return known[text]


def merge(profiles: Sequence[Sequence[int]], dates: Sequence[str | None]) -> tuple[list[int], list[int]]:
    """Merge the profiles of a user's questions into one history, and find how much of it each question sees.

    A question sees the longest prefix whose items are all in its own profile, never an item that it did not
    have. The history is sorted by date if all items have one; otherwise, and for equal dates, the items of
    the shortest profile come first, then those that the next one adds, each in its own order. So profiles
    that only grow, or that are equal, are seen as a whole.

    Args:
        profiles: The distinct items of each question's profile, as indices into `dates`.
        dates: The items' dates.

    Returns:
        The indices in order, and the number of items that each question sees.
    """
    first: dict[int, tuple[int, int]] = {}
    for rank, profile in enumerate(sorted(profiles, key=len)):
        for place, index in enumerate(profile):
            first.setdefault(index, (rank, place))
    dated = all(dates[index] for index in first)
    order = sorted(first, key=lambda index: (at_of(dates[index] or "") if dated else 0, *first[index]))
    visible = []
    for profile in profiles:
        own = set(profile)
        visible.append(next((n for n, index in enumerate(order) if index not in own), len(order)))
    return order, visible
