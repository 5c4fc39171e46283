"""How alike planted preferences are, and what can be asked for."""

import dataclasses
import math
import re

import pytest
from oppu_core.data.sample import (
    GRAMMARS,
    Planted,
    planted_likeness,
    planted_preferences,
)
from oppu_core.errors import ConfigError
from oppu_core.tasks.task import Task
from oppu_core.tasks.task_files import TASKS
from world_toys import EACH, mean

# Rankings agree on half of all pairs; each part of a style is equal as often as two draws from its choices.
CHANCE = {
    "lamp_1": 1 / 2,
    "lamp_2n": 1 / 2,
    "lamp_2m": 1 / 2,
    "lamp_3": (1 / 5 + 1 / 5) / 2,
    "lamp_4": (1 / 3 + 1 / 3 + 1 / 6 + 1 / 8 + 1 / 5 + 1 / 3) / 6,
    "lamp_5": (1 / 6 + 1 / 5 + 1 / 8) / 3,
    "lamp_7": (1 / 6 + 1 / 6 + 1 / 6 + 1 / 5 + 1 / 5 + 1 / 3 + 1 / 6 + 1 / 6 + 1 / 3 + 1 / 4) / 10,
}

pytestmark = pytest.mark.slow  # draws thousands of users


@EACH
def test_strangers_are_alike_by_chance(task: Task) -> None:
    likeness_UU = planted_likeness(task, [f"test-{index:03d}" for index in range(60)], 0)
    strangers = [value for i, row in enumerate(likeness_UU) for value in row[:i]]
    assert mean(strangers) == pytest.approx(CHANCE[task.name], abs=0.02)


def test_likeness_counts_pairs_parts_and_cases() -> None:
    ranked, order = GRAMMARS["lamp_2m"], planted_preferences(TASKS["lamp_2m"], "test-000", 0)
    assert ranked.likeness(order, order[::-1]) == 0
    neighbours = (order[1], order[0], *order[2:])
    assert ranked.likeness(order, neighbours) == pytest.approx(1 - 1 / 105)
    headlines, style = GRAMMARS["lamp_4"], planted_preferences(TASKS["lamp_4"], "test-000", 0)
    assert headlines.likeness(style, style._replace(casing="none")) == pytest.approx(1 - 1 / 6)
    city = style._replace(forms={**style.forms, "city": "none"})
    assert headlines.likeness(style, city) == pytest.approx(1 - 1 / 6 / 4)
    verb = style._replace(verbs=(*style.verbs[:-1], -1))
    assert headlines.likeness(style, verb) == pytest.approx(1 - 1 / 6 / 8)


@pytest.mark.parametrize(
    ("name", "values", "bounds"),
    [
        ("shift", (-0.1, 1.0, math.nan), "[0, 1)"),
        ("irrelevant", (-0.1, 1.0, math.nan), "[0, 1)"),
        ("inactive", (-0.1, 1.1, math.nan), "[0, 1]"),
    ],
)
def test_shares_out_of_range_are_refused(name: str, values: tuple[float, ...], bounds: str) -> None:
    for value in values:
        with pytest.raises(ConfigError, match=rf"{name} is {value}.*{re.escape(bounds)}\.$"):
            Planted(**{name: value})
    assert getattr(Planted(**{name: 0.99}), name) == 0.99


def test_what_a_person_writes_is_read() -> None:
    assert Planted.read([]) == Planted()
    assert Planted.read(["shift=0.5", " inactive=1"]) == Planted(shift=0.5, inactive=1.0)
    for text in ("shift", "shift=", "shift=half", "taste=0.5", "=0.5", ""):
        with pytest.raises(ConfigError, match=r"--plant .*shift=0.5"):
            Planted.read([text])
    with pytest.raises(ConfigError, match="irrelevant"):
        Planted.read(["irrelevant=1"])


@pytest.mark.parametrize("user_id", ["others-000", "test-3", "test-0003", "test-", "me", "test--01"])
def test_only_test_users_have_preferences_to_tell(user_id: str) -> None:
    with pytest.raises(ConfigError, match=f"'{user_id}' is no test user"):
        planted_preferences(TASKS["lamp_2m"], user_id, 0)
    own = dataclasses.replace(TASKS["lamp_2m"], name="recipes")
    with pytest.raises(ConfigError, match="task recipes"):
        planted_likeness(own, ["test-000"], 0)
