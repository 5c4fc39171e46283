"""Users of a cohort that cannot be trained: a failure of theirs alone."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from cohort_toys import USERS, Loaded, finished, furthest, identical
from oppu_core.errors import TrainingError
from oppu_core.modeling.packing import TokenizedExample
from oppu_core.training.cohort import Cohort
from oppu_core.training.row_adamw import RowAdamW
from packed_toys import count_hooks, state_distance
from rounding import ADAPTERS


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
