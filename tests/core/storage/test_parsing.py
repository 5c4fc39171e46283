"""Our own files as dataclasses."""

import dataclasses
import json
from typing import Any, ClassVar, Literal

import pytest
from oppu_core.storage.parsing import parse
from oppu_core.training.config import TrainConfig


@dataclasses.dataclass(frozen=True)
class Part:
    names: tuple[str, ...]
    kind: Literal["a", "b"] = "a"


@dataclasses.dataclass(frozen=True)
class Whole:
    parts: dict[str, Part]
    rate: float | None = None

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}


def test_lists_become_tuples_and_numbers_are_kept() -> None:
    read = parse(Whole, {"parts": {"x": {"names": ["m", "n"]}}, "rate": 1})
    assert read == Whole({"x": Part(("m", "n"))}, 1.0)
    assert parse(Part, {"names": [], "later": 1}) == Part(())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "'the whole'"),
        ({}, "'parts'"),
        ({"parts": {"x": {"names": "m"}}}, "'parts.x.names'"),
        ({"parts": {"x": {"names": [], "kind": "c"}}}, "'parts.x.kind'"),
        ({"parts": {}, "later": 1}, "'later'"),
    ],
)
def test_the_message_names_the_field(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(Whole, values)


def test_a_setting_of_a_later_version_is_not_lost() -> None:
    known = TrainConfig(("q_proj",), 1e-4, 3, 4, 0)
    assert TrainConfig.from_json(json.loads(json.dumps(known.to_json()))) == known
    with pytest.raises(ValueError, match="'of_tomorrow'"):
        TrainConfig.from_json({**known.to_json(), "of_tomorrow": 1})
