"""What cannot be trained is an error that says so."""

import dataclasses

import pytest
from loop_toys import CONFIG, rows_for
from oppu_core.errors import ConfigError, TrainingError
from oppu_core.modeling.adapters import attach
from oppu_core.modeling.base import Base
from oppu_core.modeling.packing import TokenizedExample
from oppu_core.training.loop import Progress, train


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


def test_nothing_to_learn_is_a_failure_row_by_row_as_well(base: Base) -> None:
    model = attach(base.model, CONFIG)
    with pytest.raises(TrainingError, match="the loss became nan at step 1"):
        train(model, [TokenizedExample((5, 6), 2)] * 2, CONFIG, base.tokenizer.pad_id, padded=False)
