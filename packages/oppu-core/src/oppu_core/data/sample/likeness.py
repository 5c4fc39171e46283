"""How similar two users' planted preferences are, from 0 to 1 (equal)."""

import itertools
import statistics
from collections.abc import Mapping, Sequence


def same_order(one: Sequence[str], other: Sequence[str]) -> float:
    """The share of all pairs of labels that two rankings have in the same order."""
    rank = {label: place for place, label in enumerate(other)}
    return statistics.fmean(rank[first] < rank[second] for first, second in itertools.combinations(one, 2))


def same_parts(one: Sequence[object], other: Sequence[object]) -> float:
    """The share of equal parts of two styles; a part with several cases counts by its equal ones."""
    return statistics.fmean(
        statistics.fmean(a == b for a, b in zip(_cases(mine), _cases(theirs), strict=True))
        for mine, theirs in zip(one, other, strict=True)
    )


def _cases(part: object) -> tuple[object, ...]:
    """A part of a style in each of the cases that it depends on (an event, a topic, …)."""
    if isinstance(part, Mapping):
        return tuple(part.values())
    return part if isinstance(part, tuple) else (part,)
