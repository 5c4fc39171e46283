"""(IA)³ and prompt tuning beside LoRA: where they start, what their loss is, and that users stay apart."""

import dataclasses
import json
from pathlib import Path
from typing import get_args

import pytest
import torch
from oppu_core.errors import ConfigError
from oppu_core.modeling.adapters import (
    adapter_config_json,
    adapter_shapes,
    adapter_state,
    attach,
    load_state,
    soft_prompt,
)
from oppu_core.modeling.base import Base, load_base
from oppu_core.modeling.dtypes import Dtype
from oppu_core.modeling.packing import IGNORED, collate, tokenize
from oppu_core.prompting.builder import Example
from oppu_core.runs.config import _override, check_training
from oppu_core.training.config import Peft, TrainConfig, personal_config
from oppu_core.training.loop import target_loss, train

METHODS: tuple[Peft, ...] = get_args(Peft)
EXAMPLES = [
    Example("a ship:", "action"),
    Example("two lovers on a boat:", "romance"),
    Example("x:", "sci-fi"),
    Example("a robot learns to dream:", "sci-fi"),
]


def config_for(method: Peft) -> TrainConfig:
    config = personal_config("lamp_2m", "tiny", 5, method=method)
    return dataclasses.replace(config, learning_rate=3e-2, epochs=2, batch_size=3, virtual_tokens=7)


@pytest.fixture
def base(toy_folder: Path) -> Base:
    return load_base(str(toy_folder), device="cpu")


def test_the_loss_behind_a_soft_prompt_is_that_of_the_targets_alone(base: Base) -> None:
    """Twin: all logits, and the soft prompt's positions labelled as ignored."""
    model = attach(base.model, config_for("prompt_tuning"))
    rows = tokenize(EXAMPLES, base.tokenizer)
    for some in (rows, rows[:1], rows[1:3]):
        batch = collate(some, base.tokenizer.pad_id)
        with torch.no_grad():
            logits_BTV = model(input_ids=batch.ids_BT, attention_mask=batch.mask_BT).logits
            assert logits_BTV.shape[1] == 7 + batch.ids_BT.shape[1]
            labels_BT = torch.cat([torch.full((len(some), 7), IGNORED), batch.labels_BT], dim=1)
            theirs = torch.nn.functional.cross_entropy(
                logits_BTV[:, :-1].flatten(0, 1), labels_BT[:, 1:].flatten(), ignore_index=IGNORED
            )
            assert float(target_loss(model, batch)) == pytest.approx(float(theirs), rel=1e-6)
            shifted = target_loss(base.model, batch)
        assert float(shifted) != pytest.approx(float(theirs), rel=1e-3), "the soft prompt matters"


@pytest.mark.parametrize("method", METHODS)
def test_where_adapters_start(method: Peft, toy_folder: Path) -> None:
    states = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed * 100 + len(states))  # whatever happened before
        base = load_base(str(toy_folder), device="cpu")
        ids = torch.tensor([base.tokenizer.prompt_ids("a ship:")])
        with torch.no_grad():
            before = base.model(ids).logits
            model = attach(base.model, dataclasses.replace(config_for(method), seed=seed))
            if method != "prompt_tuning":
                assert torch.equal(model(ids).logits, before)
        states.append(adapter_state(model))
    same = [all(torch.equal(states[0][name], state[name]) for name in state) for state in states]
    assert same == [True, True, method == "ia3"], "(IA)³ starts at one, the others at random"
    if method == "ia3":
        assert all(bool((weight == 1).all()) for weight in states[0].values())
        assert len(states[0]) == 2 * 3, "key, value and the feed-forward's last, in two layers"
    if method == "prompt_tuning":
        words_Vd = base.model.get_input_embeddings().weight
        prompt_vd = states[0]["prompt_embeddings"]
        assert prompt_vd.shape == (7, 32)
        assert all(bool((words_Vd == row).all(dim=1).any()) for row in prompt_vd)


def test_ia3_scales_what_the_feed_forward_takes(base: Base) -> None:
    shapes = adapter_shapes(attach(base.model, config_for("ia3")))
    layer = "base_model.model.model.layers.0"
    assert shapes[f"{layer}.mlp.down_proj.ia3_l"] == (1, 64)
    assert shapes[f"{layer}.self_attn.k_proj.ia3_l"] == (32, 1)


@pytest.mark.parametrize("method", METHODS)
def test_an_adapter_depends_on_its_own_examples_only(method: Peft, toy_folder: Path) -> None:
    """One model trains user after user, as :func:`train_personal` does: the former leaves no trace."""
    config = config_for(method)

    def trained(*users: list[Example]) -> dict[str, torch.Tensor]:
        base = load_base(str(toy_folder), device="cpu")
        model = attach(base.model, config)
        fresh = adapter_state(model)
        for examples in users:
            load_state(model, fresh)
            train(model, tokenize(examples, base.tokenizer), config, base.tokenizer.pad_id)
        return adapter_state(model)

    alone = trained(EXAMPLES)
    after = trained([Example("a ship:", "zzz zzz")] * 9, EXAMPLES)
    assert all(torch.equal(alone[name], after[name]) for name in alone)
    assert not any(torch.equal(alone[name], weight) for name, weight in trained(EXAMPLES[:3]).items())


@pytest.mark.parametrize("method", METHODS)
def test_shapes_and_configuration_need_no_weights(method: Peft, toy_folder: Path) -> None:
    from oppu_core.modeling.skeleton import base_skeleton

    config = config_for(method)
    real = attach(load_base(str(toy_folder), device="cpu").model, config)
    empty = attach(base_skeleton(toy_folder), config)
    assert adapter_shapes(empty) == {name: weight.shape for name, weight in adapter_state(real).items()}
    assert adapter_config_json(empty) == adapter_config_json(real)
    text = json.dumps(adapter_config_json(real))
    assert str(toy_folder) not in text
    assert json.loads(text)["peft_type"] == method.upper()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("method", METHODS)
def test_adapters_of_a_low_precision_base_are_float32(method: Peft, dtype: Dtype, toy_folder: Path) -> None:
    base = load_base(str(toy_folder), dtype, device="cpu")
    model = attach(base.model, config_for(method))
    assert {weight.dtype for weight in adapter_state(model).values()} == {torch.float32}
    loss = target_loss(model, collate(tokenize(EXAMPLES, base.tokenizer), base.tokenizer.pad_id))
    torch.autograd.backward(loss)
    gradients = [weight.grad for weight in model.parameters() if weight.requires_grad]
    assert all(gradient is not None and gradient.dtype == torch.float32 for gradient in gradients)


def test_a_soft_prompt_takes_its_place_in_the_context(base: Base) -> None:
    assert config_for("prompt_tuning").prefix == 7
    assert config_for("lora").prefix == config_for("ia3").prefix == 0
    shorter = base.tokenizer.leaving(7)
    assert shorter.context == base.tokenizer.context - 7
    assert shorter.prompt_ids("a ship:") == base.tokenizer.prompt_ids("a ship:")
    soft = soft_prompt(attach(base.model, config_for("prompt_tuning")))
    assert soft is not None and soft.shape == (7, 32)
    assert soft_prompt(attach(load_base(base.name, device="cpu").model, config_for("ia3"))) is None


@pytest.mark.parametrize("method", METHODS)
def test_gradient_checkpointing_changes_nothing_but_memory(
    method: Peft, toy_folder: Path, recwarn: pytest.WarningsRecorder
) -> None:
    states = []
    for checkpointing in (False, True):
        base = load_base(str(toy_folder), device="cpu")
        config = dataclasses.replace(config_for(method), gradient_checkpointing=checkpointing)
        model = attach(base.model, config)
        train(model, tokenize(EXAMPLES, base.tokenizer), config, base.tokenizer.pad_id)
        states.append(adapter_state(model))
    for name, weight in states[0].items():
        torch.testing.assert_close(states[1][name], weight, rtol=1e-5, atol=1e-6)
    assert not [warning for warning in recwarn if "checkpointing" in str(warning.message)]


def test_settings_that_make_no_sense_are_refused() -> None:
    config = config_for("prompt_tuning")
    with pytest.raises(ConfigError, match=r"personal\.virtual_tokens is 0"):
        check_training("personal", dataclasses.replace(config, virtual_tokens=0))
    with pytest.raises(ConfigError, match=r"personal\.targets is q_proj; prompt tuning adapts no projection"):
        check_training("personal", dataclasses.replace(config, targets=("q_proj",)))
    with pytest.raises(ConfigError, match=r"prompt_tuning has no rank; it is a setting of lora"):
        _override("personal", config, ["personal.rank=4"])
    assert _override("personal", config, ["personal.virtual_tokens=4"]).virtual_tokens == 4
