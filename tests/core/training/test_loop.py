"""The reference loop, held to slow twins that are written out in full."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from oppu_core.errors import ConfigError, ModelError, TrainingError
from oppu_core.modeling.adapters import adapter_state, attach, load_state, merge
from oppu_core.modeling.base import Base, load_base
from oppu_core.modeling.packing import TokenizedExample, collate, epoch_order, tokenize
from oppu_core.prompting.builder import Example
from oppu_core.training import loop
from oppu_core.training.config import TrainConfig
from oppu_core.training.loop import Progress, Trained, target_loss, train, train_each
from oppu_core.training.trainer import Trainer
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP

CONFIG = TrainConfig(
    targets=("q_proj", "v_proj"),
    rank=4,
    alpha=8,
    dropout=0.0,
    learning_rate=2e-2,
    weight_decay=0.1,
    warmup=0.25,
    max_grad_norm=0.3,
    epochs=3,
    batch_size=3,
    seed=5,
    gradient_checkpointing=False,
)
EXAMPLES = [
    Example("a ship:", "action"),
    Example("two lovers on a boat:", "romance"),
    Example("x:", "sci-fi"),
    Example("a robot learns to dream:", "sci-fi"),
    Example("it is funny:", "comedy"),
    Example("nobody sees it coming:", "twist ending"),
    Example("a goat:", "comedy"),
]


@pytest.fixture
def base(toy_folder: Path) -> Base:
    return load_base(str(toy_folder), device="cpu")


def rows_for(base: Base) -> list[TokenizedExample]:
    return tokenize(EXAMPLES, base.tokenizer)


def trained_state(
    folder: Path, config: TrainConfig, examples: Sequence[Example] = EXAMPLES
) -> dict[str, torch.Tensor]:
    base = load_base(str(folder), device="cpu")
    model = attach(base.model, config)
    train(model, tokenize(examples, base.tokenizer), config, base.tokenizer.pad_id)
    return adapter_state(model)


def slow_loss(model: Any, rows: Sequence[TokenizedExample]) -> torch.Tensor:
    """Mean over all answer tokens of -log p(token | everything before it), row by row, no padding."""
    terms = []
    for row in rows:
        logits_TV = model(input_ids=torch.tensor([row.ids])).logits[0]
        for place in range(row.prompt_len, len(row.ids)):
            scores_V = logits_TV[place - 1]
            terms.append(torch.logsumexp(scores_V, 0) - scores_V[row.ids[place]])
    return torch.stack(terms).mean()


def slow_training(folder: Path, config: TrainConfig) -> tuple[dict[str, torch.Tensor], list[float]]:
    """AdamW (Loshchilov and Hutter, 2019), linear warm-up and decay, clipping by the global norm."""
    base = load_base(str(folder), device="cpu")
    model = attach(base.model, config)
    rows = rows_for(base)
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    first = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    second = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    steps = config.epochs * math.ceil(len(rows) / config.batch_size)
    warmup = round(config.warmup * steps)
    order = torch.Generator().manual_seed(config.seed)
    losses: list[float] = []
    for _ in range(config.epochs):
        for indices in epoch_order(rows, config.batch_size, order):
            loss = slow_loss(model, [rows[index] for index in indices])
            gradients = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
            norm = math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients.values()))
            scale = min(1.0, config.max_grad_norm / (norm + 1e-6))
            done, t = len(losses), len(losses) + 1
            rate = config.learning_rate * (
                done / warmup if done < warmup else (steps - done) / (steps - warmup)
            )
            with torch.no_grad():
                for name, weight in weights.items():
                    gradient = gradients[name] * scale
                    first[name] = 0.9 * first[name] + 0.1 * gradient
                    second[name] = 0.999 * second[name] + 0.001 * gradient**2
                    mean, square = first[name] / (1 - 0.9**t), second[name] / (1 - 0.999**t)
                    weight.mul_(1 - rate * config.weight_decay)
                    weight.sub_(rate * mean / (square.sqrt() + 1e-8))
            losses.append(loss.item())
    return adapter_state(model), losses


def distance(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """The largest relative difference (in norm) of any tensor."""
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).norm() / theirs[name].norm()) for name in theirs)


def test_the_loss_is_the_mean_log_loss_of_the_answer_tokens(base: Base) -> None:
    rows = rows_for(base)
    with torch.no_grad():
        for some in (rows, rows[:1], rows[2:5]):
            ours = float(target_loss(base.model, collate(some, base.tokenizer.pad_id)))
            theirs = float(slow_loss(base.model, some))
            assert ours == pytest.approx(theirs, rel=1e-6)


def test_what_stands_in_the_padding_does_not_matter(base: Base) -> None:
    rows = rows_for(base)
    with torch.no_grad():
        losses = [float(target_loss(base.model, collate(rows, pad_id))) for pad_id in (0, 7, 200)]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)


def test_training_is_that_of_the_slow_twin(toy_folder: Path) -> None:
    base = load_base(str(toy_folder), device="cpu")
    model = attach(base.model, CONFIG)
    fresh = adapter_state(model)
    steps: list[Progress] = []
    trained = train(model, rows_for(base), CONFIG, base.tokenizer.pad_id, steps.append)
    state, losses = slow_training(toy_folder, CONFIG)
    assert distance(adapter_state(model), state) < 1e-5
    assert [step.loss for step in steps] == pytest.approx(losses, rel=1e-5)
    assert distance(fresh, {name: weight + 1e-9 for name, weight in state.items()}) > 0.01, "it did train"
    assert losses[-1] < losses[0]

    assert [step.step for step in steps] == list(range(1, 10))
    assert {step.steps for step in steps} == {9}
    tokens = 3 * sum(len(row.ids) for row in rows_for(base))
    assert sum(step.tokens for step in steps) == tokens
    expected = Trained(sum(losses[:3]) / 3, sum(losses[-3:]) / 3, 9, tokens, trained.seconds)
    assert dataclasses.astuple(trained) == pytest.approx(dataclasses.astuple(expected), rel=1e-5)
    assert trained.seconds > 0
    assert trained == dataclasses.replace(trained, seconds=0), "the same training, however long it took"


@pytest.mark.parametrize(
    "changes",
    [
        {"max_grad_norm": 1e9},
        {"warmup": 0.0},
        {"weight_decay": 0.0},
        {"alpha": 4},
        {"seed": 6},
        {"epochs": 2},
    ],
    ids=str,
)
def test_every_setting_does_what_the_slow_twin_does(toy_folder: Path, changes: dict[str, Any]) -> None:
    config = dataclasses.replace(CONFIG, epochs=1, batch_size=2)
    other = dataclasses.replace(config, **changes)
    ours = trained_state(toy_folder, other)
    assert distance(ours, slow_training(toy_folder, other)[0]) < 1e-5
    assert distance(ours, trained_state(toy_folder, config)) > 1e-4, "the setting matters here"


def test_only_the_adapter_changes(toy_folder: Path) -> None:
    base = load_base(str(toy_folder), device="cpu")
    before = {name: weight.clone() for name, weight in base.model.state_dict().items()}
    model = attach(base.model, CONFIG)
    trainable = {name for name, weight in model.named_parameters() if weight.requires_grad}
    fresh = adapter_state(model)
    train(model, rows_for(base), CONFIG, base.tokenizer.pad_id)
    assert len(trainable) == len(fresh) == 2 * 2 * 2, "A and B of q and v in two layers"
    assert all("lora_" in name and ("q_proj" in name or "v_proj" in name) for name in trainable)
    trained = adapter_state(model)
    assert not any(torch.equal(fresh[name], trained[name]) for name in fresh)
    after = model.unload().state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_fresh_adapter_changes_no_answer_and_comes_from_the_seed(toy_folder: Path) -> None:
    base = load_base(str(toy_folder), device="cpu")
    ids = torch.tensor([base.tokenizer.prompt_ids("a ship:")])
    with torch.no_grad():
        before = base.model(ids).logits
        model = attach(base.model, CONFIG)
        assert torch.equal(model(ids).logits, before)
    states = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed * 100 + len(states))  # whatever happened before
        other = load_base(str(toy_folder), device="cpu")
        states.append(adapter_state(attach(other.model, dataclasses.replace(CONFIG, seed=seed))))
    same = [all(torch.equal(states[0][name], state[name]) for name in state) for state in states]
    assert same == [True, True, False]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(toy_folder: Path) -> None:
    one = trained_state(toy_folder, CONFIG)
    torch.manual_seed(99)
    torch.rand(7)
    two = trained_state(toy_folder, CONFIG)
    assert all(torch.equal(one[name], two[name]) for name in one)
    other = trained_state(toy_folder, dataclasses.replace(CONFIG, seed=6))
    assert not any(torch.equal(one[name], other[name]) for name in one)


def test_an_adapter_depends_on_its_own_examples_only(toy_folder: Path) -> None:
    """One model trains user after user, as :func:`train_personal` does: the former leaves no trace."""
    base = load_base(str(toy_folder), device="cpu")
    model = attach(base.model, CONFIG)
    fresh = adapter_state(model)
    states = {}
    for name, examples in (("giveaway", [Example("a ship:", "zzz zzz")] * 9), ("own", EXAMPLES)):
        load_state(model, fresh)
        train(model, tokenize(examples, base.tokenizer), CONFIG, base.tokenizer.pad_id)
        states[name] = adapter_state(model)
    alone = trained_state(toy_folder, CONFIG)
    assert all(torch.equal(states["own"][name], alone[name]) for name in alone)
    assert distance(states["giveaway"], alone) > 0.01


def test_users_are_trained_one_after_another(base: Base) -> None:
    model = attach(base.model, CONFIG)
    fresh = adapter_state(model)
    rows = rows_for(base)
    users = [rows[:4], [], rows[4:], rows[:4]]
    steps: list[tuple[int, Progress]] = []
    outcomes = train_each(
        model,
        fresh,
        users,
        CONFIG,
        base.tokenizer.pad_id,
        lambda place, progress: steps.append((place, progress)),
    )
    for index, (place, outcome) in enumerate(outcomes):
        assert place == index
        if not users[place]:
            assert isinstance(outcome, TrainingError)
            assert "nothing to train on" in str(outcome)
            continue
        assert not isinstance(outcome, TrainingError)
        load_state(model, fresh)
        own: list[Progress] = []
        assert outcome[0] == train(model, users[place], CONFIG, base.tokenizer.pad_id, own.append)
        assert [progress for who, progress in steps if who == place] == own
        state = adapter_state(model)
        assert all(torch.equal(outcome[1][name], state[name]) for name in state)
    assert [place for place, _ in steps] == [0] * 6 + [2] * 3 + [3] * 6


@pytest.mark.parametrize("stop", [0.0, 1e9])
def test_training_stops_after_an_epoch_of_low_loss(base: Base, stop: float) -> None:
    model = attach(base.model, CONFIG)
    fresh = adapter_state(model)
    losses: list[float] = []
    plain = train(model, rows_for(base), CONFIG, base.tokenizer.pad_id, lambda step: losses.append(step.loss))
    assert plain.steps == 9, "never without being asked"
    means = [sum(losses[start : start + 3]) / 3 for start in (0, 3, 6)]
    for bound, steps in ((stop, 3 if stop else 9), (means[1] * 1.001, 6)):
        load_state(model, fresh)
        stopping = dataclasses.replace(CONFIG, stop_loss=bound)
        trained = train(model, rows_for(base), stopping, base.tokenizer.pad_id)
        assert trained.steps == steps
        assert trained.last_loss == pytest.approx(means[steps // 3 - 1])


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


def test_a_loss_that_is_not_finite_ends_training(base: Base) -> None:
    model = attach(base.model, CONFIG)
    steps: list[Progress] = []
    for name, weight in model.named_parameters():
        if "layers.1" in name and "lora_B" in name:
            weight.data.fill_(float("nan"))
    with pytest.raises(TrainingError, match="the loss became nan at step 1 of 9"):
        train(model, rows_for(base), CONFIG, base.tokenizer.pad_id, steps.append)
    assert steps == []


def test_a_rate_that_is_far_too_high_is_noticed(base: Base) -> None:
    config = dataclasses.replace(CONFIG, learning_rate=1e30, warmup=0.0)
    with pytest.raises(TrainingError, match=r"the loss became (nan|inf) at step [2-9] of 9"):
        train(attach(base.model, config), rows_for(base), config, base.tokenizer.pad_id)


def test_weights_that_are_not_finite_after_the_last_step_are_noticed(base: Base) -> None:
    config = dataclasses.replace(
        CONFIG, learning_rate=1e20, weight_decay=3e18, warmup=0.0, epochs=1, batch_size=99
    )
    model = attach(base.model, config)
    for name, weight in model.named_parameters():
        if "lora_A" in name:
            weight.data.fill_(10.0)  # decays to 10 (1 - 3e38)
    with pytest.raises(TrainingError, match="diverged"):
        train(model, rows_for(base), config, base.tokenizer.pad_id)


def test_nothing_to_train_on_is_an_error(base: Base) -> None:
    with pytest.raises(TrainingError, match="nothing to train on"):
        train(attach(base.model, CONFIG), [], CONFIG, base.tokenizer.pad_id)


def test_a_base_without_the_targeted_modules_is_refused(base: Base) -> None:
    config = dataclasses.replace(CONFIG, targets=("q_proj", "c_attn"))
    with pytest.raises(ConfigError, match=r"no module called c_attn .*q_proj.*--set personal\.targets"):
        attach(base.model, config)


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


# --- rows one by one -------------------------------------------------------------------------------------


def test_rows_one_by_one_come_to_the_same_as_a_padded_batch(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [TokenizedExample((7, 8, 9, 5), 0), *rows_for(base), TokenizedExample((5, 6, 7, 8, 9), 5)]
    model = attach(base.model.double(), CONFIG).double()
    fresh = adapter_state(model)
    results = []
    widths: list[int] = []
    collate = loop.collate
    monkeypatch.setattr(
        loop, "collate", lambda some, pad_id: (widths.append(len(some)), collate(some, pad_id))[1]
    )
    for padded in (True, False):
        widths.clear()
        steps: list[Progress] = []
        load_state(model, fresh)
        trained = train(model, rows, CONFIG, base.tokenizer.pad_id, steps.append, padded)
        results.append((trained, steps, adapter_state(model), max(widths)))
    (trained, steps, state, widest), (alone, alone_steps, alone_state, alone_widest) = results
    assert (widest, alone_widest) == (3, 1)
    assert (alone.steps, alone.tokens) == (trained.steps, trained.tokens)
    assert [step.loss for step in alone_steps] == pytest.approx([step.loss for step in steps], rel=1e-6)
    assert distance(alone_state, state) < 1e-5


def test_a_base_that_padding_on_the_right_changes_is_trained_row_by_row(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = attach(base.model, CONFIG)
    fresh, rows = adapter_state(model), rows_for(base)
    widths: list[int] = []
    collate = loop.collate
    monkeypatch.setattr(
        loop, "collate", lambda some, pad_id: (widths.append(len(some)), collate(some, pad_id))[1]
    )
    for supports_padded_training, widest in ((True, 3), (False, 1)):
        widths.clear()
        adapted = dataclasses.replace(
            base, model=model, supports_packing=False, supports_padded_training=supports_padded_training
        )
        ((_, outcome),) = Trainer(adapted, CONFIG, fresh).train([rows])
        assert not isinstance(outcome, TrainingError)
        assert max(widths) == widest


def test_nothing_to_learn_is_a_failure_row_by_row_as_well(base: Base) -> None:
    model = attach(base.model, CONFIG)
    with pytest.raises(TrainingError, match="the loss became nan at step 1"):
        train(model, [TokenizedExample((5, 6), 2)] * 2, CONFIG, base.tokenizer.pad_id, padded=False)
