"""How alike two users' planted preferences are: 0 to 1, and 1 for the same."""

import itertools
import statistics
from collections.abc import Mapping, Sequence


def same_order(one: Sequence[str], other: Sequence[str]) -> float:
    """The share of all pairs that two rankings of the same labels have in the same order."""
    rank = {label: place for place, label in enumerate(other)}
    return statistics.fmean(rank[first] < rank[second] for first, second in itertools.combinations(one, 2))


def same_parts(one: Sequence[object], other: Sequence[object]) -> float:
    """The mean over a style's parts of whether they are equal; a part with many cases has a share of them."""
    return statistics.fmean(
        statistics.fmean(a == b for a, b in zip(_cases(mine), _cases(theirs), strict=True))
        for mine, theirs in zip(one, other, strict=True)
    )


def _cases(part: object) -> tuple[object, ...]:
    """What a part of a style is in each case on which it depends (an event, a topic, …)."""
    if isinstance(part, Mapping):
        return tuple(part.values())
    return part if isinstance(part, tuple) else (part,)
