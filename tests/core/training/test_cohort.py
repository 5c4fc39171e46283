"""Many users trained at once, held to the loop that trains one after the other."""

import dataclasses
import math
from typing import Any

import oppu_core.training.cohort
import pytest
import torch
from cohort_toys import USERS, Folder, Loaded, Trainee, finished, furthest, identical, make
from oppu_core.errors import TrainingError
from oppu_core.modeling.adapters import State, adapter_state, load_state
from oppu_core.modeling.packed_model import PackedModel
from oppu_core.modeling.packing import Packed, TokenizedExample, pack
from oppu_core.modeling.stacked_adapters import Drop
from oppu_core.training.cohort import Cohort, _dropout
from oppu_core.training.config import Peft
from oppu_core.training.loop import Progress
from oppu_core.training.row_adamw import RowAdamW
from packed_toys import Users, count_hooks, draw, example, filled, in_doubles, partitions, state_distance
from rounding import ADAPTERS, LOSSES, UNDECIDED
from toy_models import FAMILIES

CASES: list[tuple[str, Peft]] = [
    *((family, "lora") for family in FAMILIES),
    *((family, "ia3") for family in ("llama", "gemma3_text", "gpt2", "gpt_neox")),
    *((family, "prompt_tuning") for family in ("llama", "gemma2", "gpt2")),
]


def away_from_loop(trainee: Trainee, users: Users = USERS, losses_rel: float = LOSSES) -> float:
    """How far the cohort's adapters are from the loop's; the facts and every step must be the same."""
    steps: list[tuple[int, Progress]] = []
    outcomes = trainee.cohort(users, lambda place, progress: steps.append((place, progress)))
    away = 0.0
    for place, rows in enumerate(users):
        trained, state, theirs = trainee.loop(rows)
        facts, ours = finished(outcomes[place])
        assert (facts.steps, facts.tokens) == (trained.steps, trained.tokens)
        assert facts.first_loss == pytest.approx(trained.first_loss, rel=losses_rel)
        assert facts.last_loss == pytest.approx(trained.last_loss, rel=losses_rel)
        mine = [progress for who, progress in steps if who == place]
        assert [(p.step, p.steps, p.tokens) for p in mine] == [(p.step, p.steps, p.tokens) for p in theirs]
        assert [p.loss for p in mine] == pytest.approx([p.loss for p in theirs], rel=losses_rel)
        away = max(away, state_distance(ours, state))
    return away


@pytest.mark.parametrize(("family", "method"), CASES)
def test_a_cohort_is_trained_as_the_loop_trains_each_user(family: str, method: Peft, trainee: Loaded) -> None:
    bound = UNDECIDED if (family, method) == ("gpt2", "ia3") else ADAPTERS
    assert away_from_loop(trainee(family, method)) < bound


@pytest.mark.parametrize(
    ("family", "method"), [*CASES[: len(FAMILIES)], ("gpt2", "ia3"), ("llama", "prompt_tuning")]
)
def test_in_doubles_it_is_the_same_up_to_the_rate(
    family: str, method: Peft, family_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rates are kept in float32."""
    doubles = make(family_folder(family), method, lambda model: in_doubles(model, monkeypatch))
    assert {weight.dtype for weight in doubles.fresh.values()} == {torch.float64}
    assert away_from_loop(doubles, losses_rel=1e-7) < 1e-6


@pytest.mark.parametrize(
    "changes",
    [
        {"max_grad_norm": 1e9},
        {"max_grad_norm": 1e-3},
        {"warmup": 0.0},
        {"warmup": 0.6},
        {"weight_decay": 0.0},
        {"seed": 6},
        {"batch_size": 2},
        {"alpha": 3},
    ],
    ids=str,
)
def test_every_setting_does_what_it_does_in_the_loop(changes: dict[str, Any], family_folder: Folder) -> None:
    settings: dict[str, Any] = {"weight_decay": 3.0}
    plain = make(family_folder("llama"), **settings)
    other = make(family_folder("llama"), **(settings | changes))
    assert away_from_loop(other) < ADAPTERS
    assert state_distance(other.states(USERS)[0], plain.states(USERS)[0]) > 2 * ADAPTERS, (
        "the setting matters"
    )


def test_rows_of_any_kind(trainee: Loaded) -> None:
    """Prompts of no token or one, answers of one, twice the same example."""
    users = [
        [TokenizedExample(draw(count, count), prompt) for count, prompt in rows]
        for rows in (
            [(2, 0), (5, 1), (9, 8)],
            [(30, 29)] * 4,
            [(2, 1)],
        )
    ]
    assert away_from_loop(trainee("gemma2"), users) < ADAPTERS


def test_prompts_that_share_nothing_are_packed_all_the_same(
    trainee: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    supports_packing = spy_on_pack(monkeypatch)
    users = [[example(0, 20 + 5 * seed, 3, 10 * user + seed, user) for seed in range(5)] for user in range(3)]
    users[0][1] = example(0, 60, 3, 77, 0)
    users = [[dataclasses.replace(row, ids=(b, *row.ids[1:])) for b, row in enumerate(u)] for u in users]
    assert away_from_loop(trainee(), users) < ADAPTERS
    assert {packed.prefix for packed in supports_packing if packed.own_UB.shape[1] > 1} == {0}
    assert {packed.own_UB.shape for packed in supports_packing[:2]} == {(3, 3), (3, 2)}


def spy_on_pack(monkeypatch: pytest.MonkeyPatch) -> list[Packed]:
    supports_packing: list[Packed] = []

    def spy(*args: Any, **options: Any) -> Packed:
        supports_packing.append(pack(*args, **options))
        return supports_packing[-1]

    monkeypatch.setattr(oppu_core.training.cohort, "pack", spy)
    return supports_packing


def test_prefixes_are_read_once(trainee: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    supports_packing = spy_on_pack(monkeypatch)
    trainee().cohort(USERS)
    shared = [packed.prefix_U.tolist() for packed in supports_packing if packed.prefix_U.shape == (4,)]
    assert len(shared) == 2
    for one, other, _, last in shared:
        assert one >= 20
        assert other == 0
        assert last >= 6


# What a user gets, whoever else is there.


def test_any_partition_into_cohorts_comes_to_the_same(trainee: Loaded) -> None:
    for method in ("lora", "ia3"):
        one = trainee("llama", method)
        states = one.states(USERS)
        for groups in partitions(range(len(USERS))):
            parts: dict[int, State] = {}
            for group in groups:
                found = one.states([USERS[place] for place in group])
                parts |= dict(zip(group, found, strict=True))
            assert furthest([parts[place] for place in range(len(USERS))], states) < ADAPTERS
        assert furthest(one.states(USERS[::-1])[::-1], states) < ADAPTERS


def test_the_same_cohort_gives_the_same_bytes(family_folder: Folder, trainee: Loaded) -> None:
    states = trainee().states(USERS)
    assert identical(trainee().states(USERS), states)
    torch.manual_seed(99)
    assert identical(make(family_folder("llama")).states(USERS), states)


@pytest.mark.parametrize("method", ["lora", "ia3", "prompt_tuning"])
def test_a_user_does_not_depend_on_the_others_data(method: Peft, trainee: Loaded) -> None:
    one = trainee("gemma3_text" if method == "ia3" else "llama", method)
    state = one.states(USERS)[0]
    for others in (
        [[example(0, 50, 9, 500, 9)] * 12],
        [[TokenizedExample((1, 2), 1)], [example(3, 5, 3, 501, 7)]],
        [USERS[0], USERS[0]],
    ):
        assert state_distance(one.states([USERS[0], *others])[0], state) < ADAPTERS
        assert state_distance(one.states([*others, USERS[0]])[-1], state) < ADAPTERS
    changed = [*USERS[0][:-1], example(20, 22, 3, 502)]
    assert state_distance(one.states([changed])[0], state) > 2 * ADAPTERS, "but on the own data"


def test_users_come_as_they_are_finished(trainee: Loaded) -> None:
    users = [[], *USERS, [], USERS[3]]
    assert list(trainee().cohort(users)) == [0, 5, 2, 3, 4, 6, 1]
    seen: list[tuple[str, int, int]] = []
    train = Cohort(trainee().model, trainee().fresh, trainee().config, 0).train
    for place, _ in train(users, lambda place, progress: seen.append(("step", place, progress.step))):
        seen.append(("left", place, 0))
    assert [place for kind, place, _ in seen if kind == "left"] == [0, 5, 2, 3, 4, 6, 1]
    for place in (2, 3):  # handed out before the others go on
        assert seen.index(("left", place, 0)) < seen.index(("step", 1, 3))
    assert seen.index(("left", 4, 0)) < seen.index(("step", 1, 5))


def test_a_user_without_examples_is_a_failure_that_harms_nobody(trainee: Loaded) -> None:
    outcomes = trainee().cohort([[], *USERS, []])
    for place in (0, 5):
        outcome = outcomes[place]
        assert isinstance(outcome, TrainingError)
        with pytest.raises(TrainingError) as loop:
            trainee().loop([])
        assert str(outcome) == str(loop.value)
    ours = [finished(outcomes[place])[1] for place in range(1, 5)]
    assert identical(ours, trainee().states(USERS))
    nobody = trainee().cohort([[], []])
    assert all(isinstance(outcome, TrainingError) for outcome in nobody.values())
    assert trainee().cohort([]) == {}


@pytest.mark.parametrize(
    ("broken", "value"), [(0, math.nan), (1, math.nan), (2, math.inf), (3, math.nan), (0, math.inf)]
)
def test_a_user_who_diverges_leaves_and_harms_nobody(
    broken: int, value: float, trainee: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = trainee().cohort(USERS)
    step = RowAdamW.step

    def spoil(self: RowAdamW, *args: Any) -> None:
        step(self, *args)
        if self.steps == 1:
            self.weights_UP[broken] = value

    monkeypatch.setattr(RowAdamW, "step", spoil)
    seen: list[tuple[int, int]] = []
    outcomes = trainee().cohort(USERS, lambda place, progress: seen.append((place, progress.step)))
    monkeypatch.undo()
    outcome = outcomes.pop(broken)
    assert isinstance(outcome, TrainingError)
    assert str(outcome) == f"the loss became nan at step 2 of {finished(sound[broken])[0].steps}"
    assert [number for place, number in seen if place == broken] == [1]
    for place, other in outcomes.items():
        assert state_distance(finished(other)[1], finished(sound[place])[1]) < ADAPTERS


def test_a_rate_that_is_far_too_high_is_noticed_as_in_the_loop(trainee: Loaded) -> None:
    wild = trainee().with_(learning_rate=1e20, warmup=0.0)
    outcomes = wild.cohort(USERS)
    for place, rows in enumerate(USERS):
        with pytest.raises(TrainingError) as loop:
            wild.loop(rows)
        assert str(outcomes[place]) == str(loop.value)


def test_examples_without_an_answer_fail_as_in_the_loop(trainee: Loaded) -> None:
    silent = TokenizedExample((5, 6), 2)
    users = [USERS[1], [silent, *USERS[1][:2]], [silent] * 2, USERS[1]]
    outcomes = trainee().cohort(users)
    reasons = {
        1: "training diverged: the loss after the last step is nan",
        2: "the loss became nan at step 1 of 2",
    }
    for place, reason in reasons.items():
        with pytest.raises(TrainingError, match=reason):
            trainee().loop(users[place])
        assert str(outcomes[place]) == reason
    state = trainee().states([USERS[1]])[0]
    assert furthest([finished(outcomes[place])[1] for place in (0, 3)], [state, state]) < ADAPTERS


def test_weights_that_are_not_finite_after_the_last_step_are_noticed(trainee: Loaded) -> None:
    wild = trainee().with_(learning_rate=1e20, weight_decay=3e18, warmup=0.0, epochs=1, batch_size=99)
    fresh = {
        name: torch.full_like(weight, 10.0) if "lora_A" in name else weight  # decays to 10 (1 - 3e38)
        for name, weight in wild.fresh.items()
    }
    for outcome in dataclasses.replace(wild, fresh=fresh).cohort(USERS).values():
        assert "training diverged: the loss after the last step" in str(outcome)


def test_every_user_stops_early_as_in_the_loop(trainee: Loaded) -> None:
    plain = trainee().with_(learning_rate=3e-2, epochs=6)
    losses: list[float] = []
    plain.cohort(USERS, lambda place, progress: losses.append(progress.loss) if place == 0 else None)
    means = [sum(losses[start : start + 3]) / 3 for start in range(0, 18, 3)]
    assert means == sorted(means, reverse=True)
    for epochs, stop in enumerate([1e9, *(1.0001 * mean for mean in means[1:4])], 1):
        stopping = plain.with_(stop_loss=stop)
        outcomes = stopping.cohort(USERS)
        steps = []
        for place, rows in enumerate(USERS):
            trained, state, _ = stopping.loop(rows)
            facts, ours = finished(outcomes[place])
            assert (facts.steps, facts.tokens) == (trained.steps, trained.tokens)
            assert state_distance(ours, state) < ADAPTERS
            steps.append(facts.steps)
        assert steps[0] == 3 * epochs
        assert epochs > 1 or steps == [3, 1, 1, 2]


def test_the_model_is_left_as_it_was(trainee: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    one = trainee()
    own = filled(one.model, 3)
    load_state(one.model, own)
    ids = torch.arange(1, 30)[None]

    def look() -> tuple[Any, ...]:
        with torch.no_grad():
            logits = one.model(input_ids=ids).logits.numpy().tobytes()
        moving = {name for name, weight in one.model.named_parameters() if weight.requires_grad}
        training = {name for name, module in one.model.named_modules() if module.training}
        return logits, moving, training, count_hooks(one.model), one.model.config._attn_implementation

    before = look()
    fresh = {name: weight.clone() for name, weight in one.fresh.items()}
    one.cohort(USERS)
    assert look() == before
    cohort = Cohort(one.model, one.fresh, one.config, 0)
    some = cohort.train(USERS)
    next(some)
    assert look() == before, "also while the others are waiting"
    del some  # whoever asked goes away
    assert look() == before
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(PackedModel, "logits", lambda *_: 1 // 0)
        list(cohort.train(USERS))
    assert look() == before
    assert all(torch.equal(weight, own[name]) for name, weight in adapter_state(one.model).items())
    assert all(torch.equal(weight, fresh[name]) for name, weight in one.fresh.items())


def test_states_are_the_users_own_copies(trainee: Loaded) -> None:
    states = trainee().states([USERS[2], USERS[2]])
    kept = {name: weight.clone() for name, weight in states[0].items()}
    for weight in states[1].values():
        weight.fill_(7.0)
    assert all(torch.equal(weight, kept[name]) for name, weight in states[0].items())
    assert list(states[0]) == list(trainee().fresh)
    assert all(weight.untyped_storage().nbytes() == weight.nbytes for weight in states[0].values())


@pytest.mark.parametrize("method", ["lora", "ia3", "prompt_tuning"])
def test_gradient_checkpointing_changes_nothing(method: Peft, family_folder: Folder) -> None:
    plain = make(family_folder("gemma2"), method)
    saving = make(family_folder("gemma2"), method, gradient_checkpointing=True)
    assert furthest(saving.states(USERS), plain.states(USERS)) < 1e-6


def test_a_step_can_be_measured_beforehand(trainee: Loaded) -> None:
    """How long a packed row is, and what is kept for the backward pass."""
    one = trainee()
    cohort = Cohort(one.model, one.fresh, one.config, 0)
    before = one.states(USERS)
    measured = [cohort.measure(rows) for rows in USERS]
    assert [tokens for tokens, _ in measured] == [pack([rows], 0).ids_UT.shape[1] for rows in USERS]
    for rows, (_, size) in zip(USERS, measured, strict=True):
        fewer, less = cohort.measure(rows[:1])
        assert less < size or len(rows) == 1
        assert less > 4 * fewer * one.model.config.hidden_size * 10, "many activations a layer"
    frozen = sum(weight.nbytes for weight in one.model.parameters())
    assert cohort.measure(USERS[2])[1] < 5 * frozen
    assert identical(one.states(USERS), before)


# Dropout.


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


@pytest.mark.parametrize(("users", "advice"), [(4, "--cohort 2"), (1, "batch_size")])
def test_too_little_memory_says_what_to_do(
    users: int, advice: str, trainee: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Cohort, "_loss", full)
    with pytest.raises(TrainingError, match=f"{users} at once.*{advice}"):
        trainee().cohort(USERS[:users])
    assert count_hooks(trainee().model) == 0
