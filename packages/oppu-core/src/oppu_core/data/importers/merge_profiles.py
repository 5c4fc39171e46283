"""Merging the profiles of a user's questions into one history."""

from collections.abc import Sequence

from oppu_core.data.intake import at_of


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
