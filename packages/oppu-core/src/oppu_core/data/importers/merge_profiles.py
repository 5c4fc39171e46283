"""One history out of the profiles of a user's questions."""

from collections.abc import Sequence

from oppu_core.data.intake import at_of


def merge(profiles: Sequence[Sequence[int]], dates: Sequence[str | None]) -> tuple[list[int], list[int]]:
    """One history out of the profiles of a user's questions, and how much of it each question sees.

    A question sees the longest prefix of which every item is in its own profile: never one that it did not
    have. The history is sorted by date when all items have one; for the rest (ties, or no dates) the items of
    the shortest profile come first, then what the next one adds, each in its own order. Profiles that only
    grow, or that are the same, are thus seen as a whole.

    Args:
        profiles: The different items of each question's profile, as indices into `dates`.
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
