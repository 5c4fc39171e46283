"""Personal adapters of every method on small random models of every family."""

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from oppu_core.errors import ConfigError
from oppu_core.modeling.adapters import adapter_config_json, adapter_state, attach, merge
from oppu_core.modeling.base import Base, load_base
from oppu_core.modeling.families import check_targets, default_targets
from oppu_core.modeling.generation import generate
from oppu_core.modeling.packing import tokenize
from oppu_core.modeling.skeleton import base_skeleton, projection_names, shared_projections
from oppu_core.prompting.builder import Example
from oppu_core.training.config import TASK_ROLES, Peft, TrainConfig, personal_config
from oppu_core.training.loop import train
from oppu_core.training.trainer import Trainer
from packed_toys import state_distance
from peft import PeftModel
from rounding import ADAPTERS
from safetensors.torch import save_file
from toy_models import FAMILIES, write_model
from transformers import AutoConfig

EXAMPLES = [
    Example("a ship:", "action"),
    Example("two lovers on a boat:", "romance"),
    Example("x:", "sci-fi"),
    Example("a goat:", "comedy"),
]
PROMPTS = ["a ship:", "two lovers drift on a little boat, far from everybody:", "x:", "a goat"]
METHODS: tuple[Peft, ...] = get_args(Peft)
SEPARATE = {
    "task": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "lora": ("q_proj", "v_proj"),
    "ia3": ("k_proj", "v_proj", "down_proj"),
}
TARGETS = {
    **dict.fromkeys(FAMILIES, SEPARATE),
    "gpt2": {"task": ("c_attn", "attn.c_proj"), "lora": ("c_attn",), "ia3": ("c_attn", "mlp.c_proj")},
    "gpt_neox": {
        "task": ("query_key_value", "attention.dense"),
        "lora": ("query_key_value",),
        "ia3": ("query_key_value", "mlp.dense_4h_to_h"),
    },
}
FRAGMENTS = {"lora": "lora_", "ia3": "ia3_l", "prompt_tuning": "prompt_e"}


@dataclasses.dataclass(frozen=True)
class Trained:
    """A PEFT model that was trained on EXAMPLES, and what there was before."""

    base: Base
    model: Any
    before: list[torch.Tensor]
    fresh: dict[str, torch.Tensor]
    losses: list[float]

    @property
    def state(self) -> dict[str, torch.Tensor]:
        return adapter_state(self.model)


def config_for(folder: Path, method: Peft) -> TrainConfig:
    projections = projection_names(base_skeleton(folder))
    config = personal_config("lamp_2m", "tiny", 5, projections, method)
    rate = {"lora": 2e-2, "ia3": 5e-2, "prompt_tuning": 1e-1}[method]
    return dataclasses.replace(config, learning_rate=rate, batch_size=4, virtual_tokens=7, warmup=0.0)


TrainerOf = Callable[[str, Peft], Trained]


@pytest.fixture(scope="module")
def trained(family_folder: Callable[[str], Path]) -> TrainerOf:
    @functools.cache
    def make(family: str, method: Peft) -> Trained:
        folder = family_folder(family)
        config = config_for(folder, method)
        base = load_base(str(folder), device="cpu")
        before = [weight.clone() for weight in base.model.parameters()]
        model = attach(base.model, config)
        fresh = adapter_state(model)
        losses: list[float] = []
        rows = tokenize(EXAMPLES, base.tokenizer)
        train(model, rows, config, base.tokenizer.pad_id, lambda step: losses.append(step.loss))
        return Trained(base, model, before, fresh, losses)

    return make


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_training_lowers_the_loss_and_moves_the_adapter_alone(
    family: str, method: Peft, trained: TrainerOf
) -> None:
    done = trained(family, method)
    assert done.losses[-1] < done.losses[0] * 0.95
    moving = {name: weight for name, weight in done.model.named_parameters() if weight.requires_grad}
    assert all(FRAGMENTS[method] in name for name in [*moving, *done.state])
    assert sum(weight.numel() for weight in moving.values()) == sum(w.numel() for w in done.state.values())
    assert {weight.dtype for weight in done.state.values()} == {torch.float32}
    assert not any(torch.equal(weight, done.fresh[name]) for name, weight in done.state.items())
    frozen = [weight for weight in done.model.parameters() if not weight.requires_grad]
    assert len(frozen) == len(done.before)
    assert all(torch.equal(now, then) for now, then in zip(frozen, done.before, strict=True))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_plain_peft_opens_it_and_answers_the_same_whatever_the_batch(
    family: str, method: Peft, trained: TrainerOf, tmp_path: Path
) -> None:
    done = trained(family, method)
    tokenizer = done.base.tokenizer
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter_config_json(done.model)))
    save_file(done.state, tmp_path / "adapter_model.safetensors")
    plain = PeftModel.from_pretrained(load_base(done.base.name, device="cpu").model, str(tmp_path))
    answers = []
    for prompt in PROMPTS:
        ids = torch.tensor([tokenizer.prompt_ids(prompt)])
        with torch.no_grad():
            assert torch.equal(plain(input_ids=ids).logits, done.model(input_ids=ids).logits)
            output = plain.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=6,
                eos_token_id=tokenizer.stop_ids,
                pad_token_id=tokenizer.pad_id,
                do_sample=False,
            )
        answers.append(tokenizer.answer_text(output[0, ids.shape[1] :].tolist()))
    assert any(answers)
    for size in (2, 4):
        assert generate(done.model, tokenizer, PROMPTS, max_new_tokens=6, batch_size=size) == answers


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "gemma3_text"])
def test_a_task_lora_merges_into_fused_and_transposed_weights(
    family: str, family_folder: Callable[[str], Path]
) -> None:
    folder = family_folder(family)
    config = dataclasses.replace(config_for(folder, "lora"), targets=TARGETS[family]["task"], rank=4, alpha=8)
    ids = torch.arange(1, 30)[None]
    with torch.no_grad():
        stacked = attach(load_base(str(folder), device="cpu").model, config)
        for name, weight in stacked.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
        merged = merge(load_base(str(folder), device="cpu").model, config, adapter_state(stacked))
        torch.testing.assert_close(merged(ids).logits, stacked(ids).logits, rtol=1e-4, atol=1e-4)
        plain = load_base(str(folder), device="cpu").model
        assert float((merged(ids).logits - plain(ids).logits).abs().max()) > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_targets_are_known_from_the_configuration_alone(
    family: str, family_folder: Callable[[str], Path]
) -> None:
    skeleton = base_skeleton(family_folder(family))
    assert {weight.device.type for weight in skeleton.parameters()} == {"meta"}
    projections = projection_names(skeleton)
    assert default_targets(TASK_ROLES, projections) == TARGETS[family]["task"]
    for method in METHODS:
        found = personal_config("lamp_2m", "paper", 0, projections, method).targets
        assert found == TARGETS[family].get(method, ())


@pytest.mark.parametrize(
    ("family", "sizes", "targets"),
    [
        ("opt", {"ffn_dim": 64, "word_embed_proj_dim": 32}, ("q_proj", "k_proj", "v_proj", "out_proj")),
        ("phi3", {"intermediate_size": 64}, ("qkv_proj", "o_proj")),
        ("mamba", {}, ()),
    ],
)
def test_families_that_nobody_listed(
    family: str, sizes: dict[str, int], targets: tuple[str, ...], tmp_path: Path
) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "pad_token_id": 0, **sizes}
    config = AutoConfig.for_model(family, **sizes)
    config.save_pretrained(tmp_path)
    projections = projection_names(base_skeleton(tmp_path))
    assert default_targets(TASK_ROLES, projections) == targets
    if not targets:
        with pytest.raises(ConfigError, match=r"no module .*mixer\.in_proj.*--set personal\.targets"):
            check_targets(targets, projections)
        check_targets(("in_proj",), projections)


def test_a_target_is_the_end_of_a_modules_name(family_folder: Callable[[str], Path]) -> None:
    projections = projection_names(base_skeleton(family_folder("gpt2")))
    check_targets(("c_attn", "mlp.c_proj", "h.0.attn.c_proj", "lm_head"), projections)
    for wrong in ("proj", "attn", "c.attn", "mlp.c_attn", "wte", "h"):
        with pytest.raises(ConfigError, match=f"no module called {wrong} for"):
            check_targets(("c_attn", wrong), projections)


@pytest.mark.parametrize("method", ["lora", "ia3"])
def test_an_output_head_of_its_own_can_be_adapted(
    method: Peft, family_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """The adapter's own weights are all that is kept, in cohorts and one by one."""
    base = load_base(str(family_folder("llama")), device="cpu")
    config = config_for(family_folder("llama"), method)
    model = attach(base.model, dataclasses.replace(config, targets=(*config.targets, "lm_head")))
    fresh, rows = adapter_state(model), tokenize(EXAMPLES, base.tokenizer)
    assert any("lm_head" in name for name in fresh)
    assert all(FRAGMENTS[method] in name for name in fresh)
    states = []
    for supports_packing in (True, False):
        adapted = dataclasses.replace(base, model=model, supports_packing=supports_packing)
        ((_, outcome),) = Trainer(adapted, config, fresh).train([rows])
        assert isinstance(outcome, tuple)
        states.append(outcome[1])
    assert state_distance(*states) < ADAPTERS
    assert all(not torch.equal(weight, fresh[name]) for name, weight in states[0].items())
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter_config_json(model)))
    save_file(states[1], tmp_path / "adapter_model.safetensors")
    plain = PeftModel.from_pretrained(load_base(base.name, device="cpu").model, str(tmp_path))
    ids = torch.arange(1, 9)[None]
    with torch.no_grad():
        assert torch.equal(plain(input_ids=ids).logits, model(input_ids=ids).logits)


def test_weights_that_two_modules_share_are_not_adapted(tmp_path: Path) -> None:
    """Merging into a tied head would change the embedding."""
    tied = AutoConfig.for_model("llama", **{**FAMILIES["llama"], "tie_word_embeddings": True})
    folder = write_model(tmp_path / "tied", tied)
    skeleton = base_skeleton(folder)
    assert shared_projections(skeleton) == {"lm_head": "model.embed_tokens"}
    config = dataclasses.replace(config_for(folder, "lora"), targets=("q_proj", "lm_head"))
    for model in (skeleton, load_base(str(folder), device="cpu").model):
        with pytest.raises(ConfigError, match=r"lm_head has the same weights as model\.embed_tokens.*Leave"):
            attach(model, config)
    kept = attach(load_base(str(folder), device="cpu").model, config_for(folder, "lora"))
    assert shared_projections(kept) == {"base_model.model.lm_head": "base_model.model.model.embed_tokens"}


def test_nothing_is_shared_where_an_adapter_lies_on_a_module(
    family_folder: Callable[[str], Path],
) -> None:
    model = load_base(str(family_folder("llama")), device="cpu").model
    assert shared_projections(model) == {}
    assert shared_projections(attach(model, config_for(family_folder("llama"), "lora"))) == {}
