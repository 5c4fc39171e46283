"""The reference loop, held to slow twins that are written out in full."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from loop_toys import CONFIG, EXAMPLES, distance, rows_for, trained_state
from oppu_core.errors import TrainingError
from oppu_core.modeling.adapters import adapter_state, attach, load_state
from oppu_core.modeling.base import Base, load_base
from oppu_core.modeling.packing import TokenizedExample, collate, epoch_order, tokenize
from oppu_core.prompting.builder import Example
from oppu_core.training import loop
from oppu_core.training.config import TrainConfig
from oppu_core.training.loop import Progress, Trained, target_loss, train, train_each
from oppu_core.training.trainer import Trainer


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
