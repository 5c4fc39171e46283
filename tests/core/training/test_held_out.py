"""Examples that are held out: training ends where they say, in cohorts as in the loop."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from cohort_toys import USERS, Loaded, finished, identical
from oppu_core.modeling.adapters import State, adapter_state
from oppu_core.modeling.packing import TokenizedExample, collate
from oppu_core.training import loop
from oppu_core.training.config import TrainConfig, personal_config
from oppu_core.training.loop import target_loss
from packed_toys import example, state_distance
from rounding import ADAPTERS, LOSSES

HELD_OUT = {"validate_share": 0.4, "epochs": 6, "learning_rate": 5e-2}


def test_users_stop_where_their_held_out_examples_say_in_cohorts_as_in_the_loop(
    trainee: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out = trainee().with_(**HELD_OUT)
    users = [*USERS, [example(4, 12 + seed, 3, seed + 60) for seed in range(12)]]
    seen: list[tuple[float, State]] = []
    measured = loop.held_out_loss

    def noting(model: Any, rows: Sequence[TokenizedExample], *others: Any) -> float:
        seen.append((measured(model, rows, *others), adapter_state(model)))
        return seen[-1][0]

    monkeypatch.setattr(loop, "held_out_loss", noting)
    outcomes = held_out.cohort(users)
    stopped = []
    for place, rows in enumerate(users):
        seen.clear()
        trained, state, _ = held_out.loop(rows)
        facts, ours = finished(outcomes[place])
        assert (facts.steps, facts.tokens) == (trained.steps, trained.tokens)
        assert facts.last_loss == pytest.approx(trained.last_loss, rel=LOSSES)
        assert state_distance(ours, state) < ADAPTERS
        if len(rows) < loop.FEWEST_TO_SPLIT:
            assert not seen
            continue
        losses = [loss for loss, _ in seen]
        assert identical([state], [seen[losses.index(min(losses))][1]])
        fell = all(later < earlier for earlier, later in itertools.pairwise(losses))
        assert fell or losses.index(min(losses)) == len(losses) - 2, "training ends when the loss rises"
        stopped.append(not fell)
    assert any(stopped)


def test_held_out_examples_are_the_last_and_are_not_trained_on(trainee: Loaded) -> None:
    rows = USERS[0]
    for share, held in ((0.0, 0), (0.01, 1), (0.3, 2), (0.99, 6)):
        head, tail = loop.split_tail(rows, share)
        assert [*head, *tail] == rows and len(tail) == held
    assert loop.split_tail(rows[:4], 0.5) == (rows[:4], ())
    held_out = trainee().with_(validate_share=0.3, epochs=1)
    plain = trainee().with_(epochs=1)
    assert identical(held_out.states([rows]), plain.states([rows[:5]]))


def test_the_held_out_loss_is_that_of_all_its_tokens(trainee: Loaded) -> None:
    model, rows = trainee().model, USERS[0]
    one_by_one = [target_loss(model, collate([row], 0)).item() for row in rows]
    counts = [len(row.ids) - row.prompt_len for row in rows]
    expected = sum(a * b for a, b in zip(one_by_one, counts, strict=True)) / sum(counts)
    for size, padded in ((2, True), (3, False), (7, True)):
        assert loop.held_out_loss(model, rows, size, 0, padded) == pytest.approx(expected, rel=1e-5)


def test_without_held_out_examples_settings_are_written_as_before() -> None:
    config = personal_config("lamp_2m", "tiny", 5)
    assert "validate_share" not in config.to_json()
    held_out = dataclasses.replace(config, validate_share=0.2)
    assert held_out.to_json() == {**config.to_json(), "validate_share": 0.2}
    assert TrainConfig.from_json(held_out.to_json()) == held_out
