"""Adapters' states: saved, loaded, merged, refused."""

from pathlib import Path

import pytest
import torch
from loop_toys import CONFIG, rows_for, trained_state
from oppu_core.errors import ModelError
from oppu_core.modeling.adapters import adapter_state, attach, load_state, merge
from oppu_core.modeling.base import Base, load_base
from oppu_core.training.loop import train
from transformers import LlamaForCausalLM


def test_a_state_is_a_copy_and_loads_as_it_was_saved(base: Base) -> None:
    model = attach(base.model, CONFIG)
    fresh = adapter_state(model)
    copies = {name: weight.clone() for name, weight in fresh.items()}
    train(model, rows_for(base), CONFIG, base.tokenizer.pad_id)
    assert all(torch.equal(fresh[name], copies[name]) for name in fresh)
    load_state(model, fresh)
    assert all(torch.equal(weight, fresh[name]) for name, weight in adapter_state(model).items())
    assert list(fresh) == sorted(fresh)


def test_weights_that_do_not_fit_are_refused(base: Base) -> None:
    model = attach(base.model, CONFIG)
    state = adapter_state(model)
    name = next(iter(state))
    short = {other: weight for other, weight in state.items() if other != name}
    for wrong in (
        short,
        {**short, name + "x": state[name]},
        {**state, "more": state[name]},
        {**state, name: torch.zeros(3, 3)},
        {},
    ):
        with pytest.raises(ModelError, match="does not fit"):
            load_state(model, wrong)


def test_a_merged_adapter_answers_as_the_stacked_one(toy_folder: Path) -> None:
    state = trained_state(toy_folder, CONFIG)
    ids = torch.arange(1, 30)[None]
    with torch.no_grad():
        plain = load_base(str(toy_folder), device="cpu").model
        untouched = plain(ids).logits
        stacked = attach(load_base(str(toy_folder), device="cpu").model, CONFIG)
        load_state(stacked, state)
        merged = merge(plain, CONFIG, state)
        assert isinstance(merged, LlamaForCausalLM)
        assert not any("lora" in name for name, _ in merged.named_parameters())
        torch.testing.assert_close(merged(ids).logits, stacked(ids).logits, rtol=1e-4, atol=1e-4)
        assert float((merged(ids).logits - untouched).abs().max()) > 0.1
