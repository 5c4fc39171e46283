"""Bases with adapters of several users, for tests of answering."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

from oppu_core.modeling.adapters import State, attach, load_state
from oppu_core.modeling.base import Base
from oppu_core.modeling.generation import answer_groups, generate
from oppu_core.modeling.skeleton import projection_names
from oppu_core.training.config import Peft, personal_config
from packed_toys import filled

Folder = Callable[[str], Path]


METHODS: tuple[Peft, ...] = get_args(Peft)


GROUPS = [
    ["a ship is lost tag:", "a ship is found, after a long winter, tag:", "a goat:"],
    ["z"],
    ["two lovers tag:"] * 2,  # twice the same
    ["note: né 🎬 {x}\nsecond line:", "note: né", "note: né 🎬 {x}\nsecond line: and", "q"],
]


@dataclasses.dataclass(frozen=True)
class Personal:
    """A base with an adapter attached, and weights of several users."""

    base: Base
    model: Any
    states: Sequence[State]

    def one_group_at_a_time(self, groups: Sequence[Sequence[str]], **options: Any) -> list[list[str]]:
        answers = []
        for state, group in zip(self.states, groups, strict=True):
            load_state(self.model, state)
            answers.append(generate(self.model, self.base.tokenizer, group, **options))
        return answers

    def at_once(self, groups: Sequence[Sequence[str]], **options: Any) -> list[list[str]]:
        return answer_groups(self.model, self.base.tokenizer, groups, self.states, **options)


Loaded = Callable[[str, Peft], Personal]


def with_adapters(base: Base, method: Peft, users: int, scale: float) -> Personal:
    config = personal_config("lamp_2m", "tiny", 5, projection_names(base.model), method)
    model = attach(base.model, dataclasses.replace(config, virtual_tokens=7))
    return Personal(base, model, [filled(model, seed, scale) for seed in range(users)])
