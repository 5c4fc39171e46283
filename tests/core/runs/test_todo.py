"""What is missing of a variant's jobs, and which stages of progress the work will have."""

import pytest
from oppu_core.data.types import User
from oppu_core.prompting.methods import parse_method
from oppu_core.runs.todo import Todo

ANN = User("ann", "test", (), ())
ALL = ("bases", "personal", "pooled", "answers")
PLAIN, OWN = parse_method("non_personalized"), parse_method("oppu_k0")


@pytest.mark.parametrize(
    ("todo", "units"),
    [
        (Todo(ALL, [], [], False, False), []),
        (Todo(ALL, [PLAIN, OWN], [ANN], True, True), ["%", "users", "%", "queries", "queries"]),
        (Todo(ALL, [OWN], [], False, False), ["queries"]),
        (Todo(["bases"], [], [ANN], True, True), ["%"]),
        (Todo(["personal"], [], [ANN], False, True), ["%", "users"]),
        (Todo(["answers"], [], [ANN], True, True), []),  # a base without work is not made
    ],
)
def test_stages_are_those_of_the_work_that_is_missing(todo: Todo, units: list[str]) -> None:
    assert todo.units == units
    assert todo.nothing == (not units)
