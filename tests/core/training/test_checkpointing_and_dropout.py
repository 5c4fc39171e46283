"""Recomputed activations and dropout in the reference loop."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from loop_toys import CONFIG, distance, rows_for, trained_state
from oppu_core.modeling.adapters import adapter_state, attach, load_state
from oppu_core.modeling.base import Base, load_base
from oppu_core.modeling.packing import TokenizedExample, collate
from oppu_core.training.loop import target_loss, train
from transformers.models.llama.modeling_llama import LlamaMLP


def test_gradient_checkpointing_recomputes_and_changes_nothing(
    toy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    original = LlamaMLP.forward

    def count(self: Any, x: torch.Tensor) -> torch.Tensor:
        calls.append(torch.is_grad_enabled())
        return original(self, x)

    monkeypatch.setattr(LlamaMLP, "forward", count)
    config = dataclasses.replace(CONFIG, epochs=1)
    plain = trained_state(toy_folder, config)
    once = sum(calls)  # with gradients; the last look at the loss is without
    assert once == 2 * 3, "two layers, three steps"
    calls.clear()
    recomputed = trained_state(toy_folder, dataclasses.replace(config, gradient_checkpointing=True))
    assert sum(calls) == 2 * once, "each layer's forward runs again for the backward pass"
    assert distance(recomputed, plain) < 1e-6


@pytest.mark.parametrize("checkpointing", [False, True])
def test_dropout_of_the_base_is_never_active(
    toy_folder: Path, monkeypatch: pytest.MonkeyPatch, checkpointing: bool
) -> None:
    """The toy has attention dropout 0.5; training is the same as if it had none."""
    config = dataclasses.replace(CONFIG, epochs=1, gradient_checkpointing=checkpointing)
    state = trained_state(toy_folder, config)
    base = load_base(str(toy_folder), device="cpu")
    assert base.model.config.attention_dropout == 0.5
    model = attach(base.model, config)
    attention = [module for name, module in model.named_modules() if name.endswith("self_attn")]
    assert [module.attention_dropout for module in attention] == [0.5, 0.5]
    assert not any(module.training for module in attention)
    for module in attention:
        module.attention_dropout = 0.0
    train(model, rows_for(base), config, base.tokenizer.pad_id)
    assert all(torch.equal(weight, state[name]) for name, weight in adapter_state(model).items())
    # And the test would notice: with the layers in training mode the same training comes out otherwise.
    for module in attention:
        module.attention_dropout = 0.5
        module.train()
    train(model, rows_for(base), config, base.tokenizer.pad_id)
    assert not all(torch.equal(weight, state[name]) for name, weight in adapter_state(model).items())


def test_dropout_of_gpt2_layers_is_never_active() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    gpt = GPT2LMHeadModel(
        GPT2Config(vocab_size=64, n_positions=32, n_embd=16, n_layer=2, n_head=2,
                   resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5, bos_token_id=0, eos_token_id=0)
    )  # fmt: skip
    model = attach(gpt.eval().requires_grad_(False), dataclasses.replace(CONFIG, targets=("c_attn",)))
    rows = [TokenizedExample((1, 2, 3, 4, 0), 2), TokenizedExample((5, 6, 0), 1)]
    losses = {target_loss(model, collate(rows, 0)).item() for _ in range(3)}
    assert len(losses) == 1
    assert (
        train(model, rows, dataclasses.replace(CONFIG, targets=("c_attn",), epochs=1), 0).first_loss in losses
    )


def test_lora_dropout_acts_in_training_when_it_is_asked_for(base: Base, toy_folder: Path) -> None:
    config = dataclasses.replace(CONFIG, dropout=0.5)
    model = attach(base.model, config)
    fresh = adapter_state(model)
    states = []
    for _ in range(2):
        load_state(model, fresh)
        train(model, rows_for(base), config, base.tokenizer.pad_id)
        states.append(adapter_state(model))
    assert all(torch.equal(states[0][name], states[1][name]) for name in fresh), "seeded for every user anew"
    assert distance(states[0], trained_state(toy_folder, CONFIG)) > 1e-3
