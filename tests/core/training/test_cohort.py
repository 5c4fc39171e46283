"""Many users trained at once, held to the loop that trains one after the other."""

import dataclasses
from typing import Any

import pytest
import torch
from cohort_spies import spy_on_pack
from cohort_toys import USERS, Folder, Loaded, Trainee, finished, furthest, identical, make
from oppu_core.modeling.adapters import State, adapter_state, load_state
from oppu_core.modeling.packed_model import PackedModel
from oppu_core.modeling.packing import TokenizedExample, pack
from oppu_core.training.cohort import Cohort
from oppu_core.training.config import Peft
from oppu_core.training.loop import Progress
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


def test_prefixes_are_read_once(trainee: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    supports_packing = spy_on_pack(monkeypatch)
    trainee().cohort(USERS)
    shared = [packed.prefix_U.tolist() for packed in supports_packing if packed.prefix_U.shape == (4,)]
    assert len(shared) == 2
    for one, other, _, last in shared:
        assert one >= 20
        assert other == 0
        assert last >= 6


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
