"""Dropout in a cohort."""

import oppu_core.training.cohort
import pytest
import torch
from cohort_spies import spy_on_pack
from cohort_toys import USERS, Folder, furthest, identical, make
from oppu_core.modeling.stacked_adapters import Drop
from oppu_core.training.cohort import _dropout
from packed_toys import state_distance
from rounding import ADAPTERS


def test_dropout_does_not_depend_on_the_others(
    family_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropping = make(family_folder("llama"), dropout=0.4)
    supports_packing = spy_on_pack(monkeypatch)
    states = dropping.states(USERS)
    assert identical(dropping.states(USERS), states)
    for place in range(len(USERS)):  # alone, a row is shorter
        assert state_distance(dropping.states([USERS[place]])[0], states[place]) < ADAPTERS
    assert furthest(dropping.states(USERS[::-1])[::-1], states) < ADAPTERS
    assert len({packed.ids_UT.shape[1] for packed in supports_packing}) > 3
    assert {packed.prefix for packed in supports_packing} == {0}, (
        "a dropped-out prefix would be the same for all rows"
    )
    none = make(family_folder("llama"), dropout=0.0).states(USERS)
    assert min(map(state_distance, states, none)) > 0.01


def test_dropout_drops_its_share_anew_in_every_layer_and_step(
    family_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = _dropout
    drops: list[torch.Tensor] = []

    def spy(share: float, seed: int, step: int) -> Drop:
        drop = inside(share, seed, step)

        def recorded(name: str, x_UTd: torch.Tensor) -> torch.Tensor:
            drops.append(drop(name, torch.ones_like(x_UTd)).detach())
            return drop(name, x_UTd)

        return recorded

    monkeypatch.setattr(oppu_core.training.cohort, "_dropout", spy)
    make(family_folder("llama"), dropout=0.4).cohort([USERS[2] * 3])
    assert {round(value, 4) for drop in drops for value in set(drop.flatten().tolist())} == {
        0.0,
        round(1 / 0.6, 4),
    }
    assert float(torch.cat([drop.flatten() for drop in drops]).mean()) == pytest.approx(1, abs=0.02)
    distinct = {drop.numpy().tobytes() for drop in drops}
    assert len(distinct) == 2 * 2 * 2 + 2 * 2, "q and v of two layers in two steps, and after the last one"


def test_dropout_and_gradient_checkpointing_go_together(family_folder: Folder) -> None:
    """What is computed again is computed with the same mask."""
    plain = make(family_folder("llama"), dropout=0.4)
    saving = make(family_folder("llama"), dropout=0.4, gradient_checkpointing=True)
    assert furthest(saving.states(USERS), plain.states(USERS)) < 1e-6
