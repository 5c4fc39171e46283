"""Bases of 4 and 8 bits, and task LoRAs that lie beside weights instead of in them."""

import dataclasses
import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from oppu_core.modeling.adapters import (
    State,
    adapter_config_json,
    adapter_state,
    attach,
    load_state,
    merge,
    stack,
)
from oppu_core.modeling.base import Base, load_base
from oppu_core.modeling.base_files import TINY_FOLDER, base_identity
from oppu_core.modeling.dtypes import Quantize
from oppu_core.modeling.generation import generate
from oppu_core.modeling.packing import tokenize
from oppu_core.prompting.builder import Example
from oppu_core.training.config import Peft, TrainConfig, personal_config, task_config
from oppu_core.training.loop import train
from peft import PeftModel
from safetensors.torch import save_file

METHODS: tuple[Peft, ...] = get_args(Peft)
KINDS: tuple[Quantize, ...] = get_args(Quantize)
EXAMPLES = [
    Example("a ship:", "action"),
    Example("two lovers on a boat:", "romance"),
    Example("x:", "sci-fi"),
    Example("a robot learns to dream:", "sci-fi"),
]
# Its dropout must never act on a user's training.
TASK = dataclasses.replace(task_config("lamp_2m", "tiny", 1), dropout=0.5)
IDS = torch.arange(1, 30)[None]


def config_for(method: Peft) -> TrainConfig:
    config = personal_config("lamp_2m", "tiny", 5, method=method)
    rate = 3e-2 if method == "lora" else 1e-1
    return dataclasses.replace(config, learning_rate=rate, epochs=6, batch_size=4, virtual_tokens=7)


def filled(model: Any, seed: int) -> dict[str, torch.Tensor]:
    """Weights of an attached adapter that do something."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: weight + 0.1 * torch.randn(weight.shape, generator=generator)
        for name, weight in adapter_state(model).items()
    }


@pytest.fixture(scope="module")
def task_state(toy_folder: Path) -> State:
    return filled(attach(load_base(str(toy_folder), device="cpu").model, TASK), 1)


def close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """To 1e-5 of the largest value."""
    return float((ours - theirs).abs().max()) < 1e-5 * float(theirs.abs().max())


def train_on(base: Base, config: TrainConfig) -> tuple[Any, list[float]]:
    model = attach(base.model, config)
    losses: list[float] = []
    rows = tokenize(EXAMPLES, base.tokenizer)
    train(model, rows, config, base.tokenizer.pad_id, lambda step: losses.append(step.loss))
    return model, losses


@pytest.mark.parametrize("method", METHODS)
def test_a_stacked_task_lora_is_the_merged_one(method: Peft, toy_folder: Path, task_state: State) -> None:
    bases = [load_base(str(toy_folder), device="cpu") for _ in range(3)]
    plain, merged, stacked = (
        bases[0].model,
        merge(bases[1].model, TASK, task_state),
        stack(bases[2].model, TASK, task_state),
    )
    with torch.no_grad():
        assert close(stacked(IDS).logits, merged(IDS).logits)
        assert float((stacked(IDS).logits - plain(IDS).logits).abs().max()) > 0.1
        on_merged, on_stacked = (attach(model, config_for(method)) for model in (merged, stacked))
        state = filled(on_merged, 2)
        assert {name: weight.shape for name, weight in adapter_state(on_stacked).items()} == {
            name: weight.shape for name, weight in state.items()
        }
        before = on_stacked(IDS).logits
        for model in (on_merged, on_stacked):
            load_state(model, state)
        assert close(on_stacked(IDS).logits, on_merged(IDS).logits)
        assert float((on_stacked(IDS).logits - before).abs().max()) > 0.1
    assert adapter_config_json(on_stacked) == adapter_config_json(on_merged)


@pytest.mark.parametrize("method", METHODS)
def test_training_on_a_stacked_task_lora_leaves_it_as_it_was(
    method: Peft, toy_folder: Path, task_state: State
) -> None:
    states = []
    for join in (stack, merge):
        base = load_base(str(toy_folder), device="cpu")
        base = dataclasses.replace(base, model=join(base.model, TASK, task_state))
        model, _ = train_on(base, dataclasses.replace(config_for(method), learning_rate=1e-2))
        states.append(adapter_state(model))
        if join is stack:
            inside = {name: weight for name, weight in model.named_parameters() if ".task." in name}
            assert len(inside) == len(task_state)
            assert not any(weight.requires_grad for weight in inside.values())
            expected = sorted(float(weight.sum()) for weight in task_state.values())
            assert sorted(float(weight.sum()) for weight in inside.values()) == expected
    assert all(float((states[0][name] - w).norm() / w.norm()) < 1e-3 for name, w in states[1].items())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_user_is_learned_on_a_quantized_task_base(
    kind: Quantize, method: Peft, toy_folder: Path, task_state: State, tmp_path: Path
) -> None:
    config = config_for(method)
    base = load_base(str(toy_folder), device="cpu", quantize=kind)
    base = dataclasses.replace(base, model=stack(base.model, TASK, task_state))
    frozen = {value.numpy().tobytes() for value in base.model.state_dict().values()}
    model, losses = train_on(base, config)
    assert losses[-1] < 0.97 * losses[0]
    state = adapter_state(model)
    assert {weight.dtype for weight in state.values()} == {torch.float32}
    assert frozen <= {value.numpy().tobytes() for value in base.model.state_dict().values()}

    if kind == "nf4":  # int8 looks for outliers in the whole batch
        prompts = ["a ship:", "two lovers drift on a little boat:"]
        alone = generate(model, base.tokenizer, prompts, max_new_tokens=6, batch_size=1)
        assert generate(model, base.tokenizer, prompts, max_new_tokens=6, batch_size=2) == alone

    for name, config_json, weights in (
        ("task", adapter_config_json(attach(load_base(str(toy_folder)).model, TASK)), task_state),
        ("own", adapter_config_json(model), state),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text(json.dumps(config_json))
        save_file(dict(weights), tmp_path / name / "adapter_model.safetensors")
    again = load_base(str(toy_folder), device="cpu", quantize=kind).model
    plain = PeftModel.from_pretrained(again, str(tmp_path / "task"), adapter_name="task")
    if method == "lora":
        plain.load_adapter(str(tmp_path / "own"), "own")
        plain.base_model.set_adapter(["task", "own"])
    else:
        plain = PeftModel.from_pretrained(plain.get_base_model(), str(tmp_path / "own"))
    with torch.no_grad():
        torch.testing.assert_close(plain(input_ids=IDS).logits, model(input_ids=IDS).logits)


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantized_base_is_another_base_that_says_nearly_the_same(kind: Quantize) -> None:
    base = load_base("tiny", "bfloat16", device="cpu", quantize=kind)
    assert base.identity == base_identity(TINY_FOLDER, "bfloat16", kind)
    assert base.identity != base_identity(TINY_FOLDER, "bfloat16")
    plain = load_base("tiny", "bfloat16", device="cpu")
    assert base.parameters == plain.parameters, "counted as numbers, not as bytes that hold two of them"
    projection = base.model.model.layers[0].self_attn.q_proj
    assert type(projection).__name__ == {"nf4": "Linear4bit", "int8": "Linear8bitLt"}[kind]
    if kind == "nf4":
        assert projection.compute_dtype == torch.bfloat16
        assert projection.weight.quant_type == "nf4"
    with torch.no_grad():
        ours, theirs = base.model(IDS).logits.float(), plain.model(IDS).logits.float()
    assert ours.dtype == theirs.dtype
    difference = float((ours - theirs).norm() / theirs.norm())
    assert 1e-3 < difference < 0.3
