"""Users' stacked adapters: each row goes through its own user's, as PEFT alone would have it."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from oppu_core.modeling.adapters import State, adapter_state, attach, load_state, stack
from oppu_core.modeling.base import load_base
from oppu_core.modeling.dtypes import Quantize
from oppu_core.modeling.packed_model import PackedModel, prompts
from oppu_core.modeling.packing import IGNORED, Packed, pack
from oppu_core.modeling.skeleton import projection_names
from oppu_core.modeling.stacked_adapters import StackedAdapters, stack_states
from oppu_core.modeling.trial import try_out
from oppu_core.training.config import Peft, TrainConfig, personal_config, task_config
from packed_toys import (
    SIZE,
    USERS,
    Users,
    count_hooks,
    distance,
    filled,
    in_doubles,
    logits_alone,
    loss_alone,
)
from toy_models import FAMILIES

Folder = Callable[[str], Path]
METHODS: tuple[Peft, ...] = get_args(Peft)
KINDS: tuple[Quantize, ...] = get_args(Quantize)
WIDE: tuple[Peft, ...] = ("lora", "ia3")
CASES = [(family, method) for family in FAMILIES for method in WIDE]
SOFT: list[tuple[str, Peft]] = [(family, "prompt_tuning") for family in ("llama", "gemma2", "gpt2")]


def config_for(model: Any, method: Peft) -> TrainConfig:
    config = personal_config("lamp_2m", "tiny", 5, projection_names(model), method)
    return dataclasses.replace(config, alpha=24, virtual_tokens=7)  # LoRA's are scaled by 3


def toy(folder: Folder, family: str, method: Peft) -> tuple[Any, TrainConfig]:
    model = load_base(str(folder(family)), device="cpu").model
    config = config_for(model, method)
    return attach(model, config), config


def states_of(peft_model: Any, count: int = len(USERS)) -> list[dict[str, torch.Tensor]]:
    return [filled(peft_model, seed) for seed in range(count)]


def stacked_logits(
    peft_model: Any, config: TrainConfig, weights: dict[str, torch.Tensor], users: Users = USERS
) -> tuple[Packed, torch.Tensor]:
    """Packed rows, each through its own user's adapter; logits [U, N, V]."""
    stacked = StackedAdapters(peft_model)
    stacked.weights = weights
    packed = pack(users, 0, virtual=config.prefix)
    with PackedModel(peft_model.get_base_model()) as packed_model, stacked.active():
        return packed, packed_model.logits(packed, stacked.soft_prompt)


def together(peft_model: Any, config: TrainConfig, states: Sequence[State]) -> list[torch.Tensor]:
    """Every user's logits [N, V] at targets."""
    with torch.no_grad():
        packed, logits_UNV = stacked_logits(peft_model, config, stack_states(states, peft_model.device))
    return [x[labels != IGNORED] for x, labels in zip(logits_UNV, packed.labels_UN, strict=True)]


def alone(peft_model: Any, states: Sequence[State]) -> list[torch.Tensor]:
    """The same by PEFT, user by user and row by row."""
    logits = []
    with torch.no_grad():
        for batch, state in zip(USERS, states, strict=True):
            load_state(peft_model, state)
            logits.append(torch.cat([logits_alone(peft_model, row) for row in batch]))
    return logits


def furthest(ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor]) -> float:
    return max(distance(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(("family", "method"), CASES + SOFT)
def test_stacked_logits_are_each_users_own(family: str, method: Peft, family_folder: Folder) -> None:
    peft_model, config = toy(family_folder, family, method)
    states = states_of(peft_model)
    theirs = alone(peft_model, states)
    load_state(peft_model, states[0])  # what the model itself carries must not matter
    ours = together(peft_model, config, states)
    assert furthest(ours, theirs) < 1e-5
    mixed = together(peft_model, config, [states[1], *states[1:]])
    assert distance(mixed[0], theirs[0]) > 0.01, "the adapters matter"
    assert furthest(mixed[1:], theirs[1:]) < 1e-5


@pytest.mark.parametrize(("family", "method"), CASES + SOFT)
def test_gradients_are_each_users_own(
    family: str, method: Peft, family_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Users of very different lengths: what pads the shorter ones has no part in it."""
    model = in_doubles(load_base(str(family_folder(family)), device="cpu").model, monkeypatch)
    config = config_for(model, method)
    peft_model = attach(model, config).double()
    states = states_of(peft_model)
    leaves = {k: v.requires_grad_() for k, v in stack_states(states, peft_model.device).items()}
    packed, logits_UNV = stacked_logits(peft_model, config, leaves)
    losses = torch.nn.functional.cross_entropy(
        logits_UNV.flatten(0, 1), packed.labels_UN.flatten(), ignore_index=IGNORED, reduction="none"
    )
    counts_U = (packed.labels_UN != IGNORED).sum(1)
    loss_U = losses.view(packed.labels_UN.shape).sum(1) / counts_U
    ours = dict(zip(leaves, torch.autograd.grad(loss_U.sum(), list(leaves.values())), strict=True))
    for u, (batch, state) in enumerate(zip(USERS, states, strict=True)):
        load_state(peft_model, state)
        own = {name: weight for name, weight in peft_model.named_parameters() if weight.requires_grad}
        loss = loss_alone(peft_model, batch)
        theirs = torch.autograd.grad(loss, list(own.values()))
        assert loss_U[u].item() == pytest.approx(loss.item(), rel=1e-10)
        for name, gradient in zip(own, theirs, strict=True):
            plain = name.replace(".default", "") if method != "prompt_tuning" else "prompt_embeddings"
            assert distance(ours[plain][u], gradient) < 1e-9, name


@pytest.mark.parametrize("broken", range(3))
@pytest.mark.parametrize("method", METHODS)
def test_a_user_whose_weights_are_not_numbers_harms_nobody_else(
    broken: int, method: Peft, family_folder: Folder
) -> None:
    peft_model, config = toy(family_folder, "llama", method)
    states = states_of(peft_model, 3)
    users = [USERS[0], USERS[3], USERS[4]]

    def gradients(states: Sequence[State]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        leaves = {k: v.requires_grad_() for k, v in stack_states(states, peft_model.device).items()}
        packed, logits_UNV = stacked_logits(peft_model, config, leaves, users)
        losses = torch.nn.functional.cross_entropy(
            logits_UNV.flatten(0, 1), packed.labels_UN.flatten(), ignore_index=IGNORED, reduction="none"
        )
        loss_U = losses.view(packed.labels_UN.shape).sum(1)
        grads = torch.autograd.grad(loss_U.sum(), list(leaves.values()))
        return loss_U.detach(), dict(zip(leaves, grads, strict=True))

    loss_U, sound = gradients(states)
    for value in (float("nan"), float("inf")):
        spoilt = [dict(state) for state in states]
        spoilt[broken] = {name: torch.full_like(w, value) for name, w in states[broken].items()}
        spoilt_U, theirs = gradients(spoilt)
        others = [u for u in range(3) if u != broken]
        assert not spoilt_U[broken].isfinite()
        assert torch.equal(spoilt_U[others], loss_U[others])
        for name, gradient in sound.items():
            assert torch.equal(theirs[name][others], gradient[others]), name


@pytest.mark.filterwarnings("ignore:Position ids are not supported")  # PEFT's, of prompt tuning
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_greedy_answers_are_each_users_own(family: str, method: Peft, family_folder: Folder) -> None:
    peft_model, config = toy(family_folder, family, method)
    asked = [[row.ids[: row.prompt_len] for row in batch] for batch in USERS]
    states = states_of(peft_model)
    stacked = StackedAdapters(peft_model)
    stacked.weights = stack_states(states, peft_model.device)
    packed = pack([prompts(user) for user in asked], 0, virtual=config.prefix)
    with PackedModel(peft_model.get_base_model()) as packed_model, stacked.active():
        ours = packed_model.greedy(packed, 8, [], stacked.soft_prompt)
    for user, answers, state in zip(asked, ours, states, strict=True):
        load_state(peft_model, state)
        for ids, answer in zip(user, answers, strict=False):
            ids_BT = torch.tensor([ids])
            output_BT = peft_model.generate(
                input_ids=ids_BT,
                attention_mask=torch.ones_like(ids_BT),
                max_new_tokens=8,
                eos_token_id=None,
                pad_token_id=0,
                do_sample=False,
            )
            assert answer == output_BT[0, len(ids) :].tolist()


@pytest.mark.parametrize("method", METHODS)
def test_the_models_own_adapter_is_back_afterwards(method: Peft, family_folder: Folder) -> None:
    peft_model, config = toy(family_folder, "llama", method)
    base = peft_model.get_base_model()
    state = filled(peft_model, 99)
    load_state(peft_model, state)
    row = USERS[0][0]

    def look() -> tuple[torch.Tensor, list[torch.Tensor], set[str], list[Any], int]:
        weights = {name: weight for name, weight in peft_model.named_parameters() if weight.requires_grad}
        gradients = torch.autograd.grad(loss_alone(peft_model, [row]), list(weights.values()))
        active = [m.active_adapters for m in base.modules() if hasattr(m, "active_adapters")]
        with torch.no_grad():
            return logits_alone(peft_model, row), list(gradients), set(weights), active, count_hooks(base)

    before = look()
    together(peft_model, config, states_of(peft_model))
    with pytest.raises(ZeroDivisionError), StackedAdapters(peft_model).active():
        raise ZeroDivisionError
    after = look()
    assert torch.equal(before[0], after[0])
    assert all(torch.equal(a, b) for a, b in zip(before[1], after[1], strict=True))
    assert any(float(gradient.norm()) > 0 for gradient in after[1])
    assert before[2:] == after[2:]
    assert all(torch.equal(weight, state[name]) for name, weight in adapter_state(peft_model).items())
    with StackedAdapters(peft_model).active():
        moving = {name for name, weight in base.named_parameters() if weight.requires_grad}
    assert not moving, "what is stacked is trained, nothing else"


@pytest.mark.parametrize("method", METHODS)
def test_adapters_stay_float32_beside_a_base_of_half_precision(method: Peft, family_folder: Folder) -> None:
    model = load_base(str(family_folder("llama")), "bfloat16", device="cpu").model
    config = config_for(model, method)
    peft_model = attach(model, config)
    states = states_of(peft_model)
    assert {weight.dtype for weight in states[0].values()} == {torch.float32}
    theirs, ours = alone(peft_model, states), together(peft_model, config, states)
    assert {x.dtype for x in ours} == {x.dtype for x in theirs} == {torch.bfloat16}
    assert max(float((a - b).norm() / b.norm()) for a, b in zip(ours, theirs, strict=True)) < 0.05


def on_task_base(name: str, quantize: Quantize | None = None) -> Any:
    """A base that carries a task LoRA beside its weights."""
    model = load_base(name, device="cpu", quantize=quantize).model
    task = dataclasses.replace(task_config("lamp_2m", "tiny", 1, projection_names(model)), dropout=0.5)
    state = filled(attach(load_base(name, device="cpu").model, task), 1)
    return stack(model, task, state)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2"])
def test_a_task_lora_stays_active(family: str, method: Peft, family_folder: Folder) -> None:
    model = on_task_base(str(family_folder(family)))
    with torch.no_grad():
        task_base = logits_alone(model, USERS[0][0])
    peft_model, config = attach(model, config_for(model, method)), config_for(model, method)
    states = states_of(peft_model)
    theirs = alone(peft_model, states)
    assert furthest(together(peft_model, config, states), theirs) < 1e-5
    moving = {name for name, weight in peft_model.named_parameters() if weight.requires_grad}
    assert moving
    assert not any(".task." in name for name in moving)

    plain, _ = toy(family_folder, family, method)
    assert distance(alone(plain, states)[0], theirs[0]) > 0.01, "the task LoRA matters"
    fresh, _ = toy(family_folder, family, method)
    if method != "prompt_tuning":  # fresh adapters of the others change nothing
        same = together(peft_model, config, [adapter_state(fresh)] * len(USERS))[0]
        assert distance(same[: len(task_base)], task_base) < 1e-5


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_adapters_on_a_quantized_task_base(kind: Quantize, method: Peft, family_folder: Folder) -> None:
    model = on_task_base(str(family_folder("llama")), kind)
    assert try_out(model, range(1, SIZE), 0, 256).packing_problem is None
    config = config_for(model, method)
    peft_model = attach(model, config)
    states = states_of(peft_model)
    theirs, ours = alone(peft_model, states), together(peft_model, config, states)
    # 8 bits look for outliers in the whole batch: there a user's answers depend on the others a little.
    assert furthest(ours, theirs) < {"nf4": 1e-5, "int8": 0.1}[kind]
