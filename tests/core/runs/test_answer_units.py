"""Which queries are answered at once."""

from collections.abc import Sequence

import pytest
from oppu_core.data.types import Query, User
from oppu_core.runs.answering import plan_units


def asking(name: str, *lengths: int) -> User:
    """A user with queries of these lengths."""
    queries = [
        Query(f"{name}{number}", {"text": "x" * length}, None, 0) for number, length in enumerate(lengths)
    ]
    return User(name, "test", (), tuple(queries))


USERS = [
    asking("a", 5, 90, 3),
    asking("b", 7),
    asking("c", *range(1, 12)),
    asking("d"),
    asking("e", 40, 40, 40),
    asking("f", 2, 2),
    asking("g", 8),
]


IDS = sorted((user.user_id, query.id) for user in USERS for query in user.queries)


def planned(users: Sequence[User], personal: bool, batch_size: int) -> list[list[list[tuple[User, Query]]]]:
    """What `answer` asks at once."""
    asked = [(user, query) for user in users for query in user.queries]
    lengths = [len(query.fields["text"]) for _, query in asked]
    owners = [user.user_id for user, _ in asked] if personal else None
    units = plan_units(lengths, owners, batch_size)
    return [[[asked[index] for index in group] for group in unit] for unit in units]


@pytest.mark.parametrize("personal", [True, False])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 5, 7, 11, 64])
def test_every_query_is_asked_once_and_no_unit_is_too_large(personal: bool, batch_size: int) -> None:
    units = planned(USERS, personal, batch_size)
    asked = [(user.user_id, query.id) for unit in units for group in unit for user, query in group]
    assert sorted(asked) == IDS
    for unit in units:
        assert all(unit) and len(unit) * max(len(group) for group in unit) <= batch_size
        if personal:
            assert all(len({user.user_id for user, _ in group}) == 1 for group in unit)
        else:
            assert len(unit) == 1
    assert planned(USERS, personal, batch_size) == units


def test_users_are_mixed_and_units_are_full() -> None:
    sizes = [[len(group) for group in unit] for unit in planned(USERS, True, 6)]
    assert sizes == [[6], [5], [3, 3], [2, 1, 1]], "the eleven of one user in two parts"
    assert [len(unit[0]) for unit in planned(USERS, False, 6)] == [6, 6, 6, 3]
    assert len(planned(USERS, True, 1)) == len(IDS)


@pytest.mark.parametrize("personal", [True, False])
def test_long_queries_come_first_and_next_to_each_other(personal: bool) -> None:
    users = [asking("a", 1, 50), asking("b", 9, 100), asking("c", 8, 2)]
    first = planned(users, personal, 2)[0][0]
    assert [query.id for _, query in first] == (["b1", "b0"] if personal else ["b1", "a1"])


def test_nobody_asks_nothing() -> None:
    assert planned([], True, 4) == planned([asking("a")], False, 4) == []
