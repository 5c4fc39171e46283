"""The pooled adapter: one on the histories of all test users together, as a control for personal ones.

It shows how much of a gain comes from more training on the task's format, rather than from knowing the user.
It is trained with the settings of the personal adapters.
"""

import dataclasses
from collections.abc import Callable, Sequence

from oppu_core.errors import TrainingError
from oppu_core.modeling.adapters import adapter_config_json
from oppu_core.modeling.packing import TokenizedExample
from oppu_core.storage.keys import Key
from oppu_core.storage.weights import Weights
from oppu_core.training.loop import Progress
from oppu_core.training.trainer import Trainer


def train_pooled(
    trainer: Trainer,
    key: Key,
    examples: Sequence[TokenizedExample],
    store: Weights,
    on_step: Callable[[Progress], None] | None = None,
) -> str | None:
    """Train and store the pooled adapter.

    Args:
        trainer: Trains fresh adapters on the task base.
        key: The adapter's key (:func:`oppu_core.training.keys.of_pooled`).
        examples: All users' examples; they are held in memory.
        store: Where the adapter is stored.
        on_step: Called after every training step.

    Returns:
        Why training failed, which is recorded; None if it did not.
    """
    step = (lambda _, progress: on_step(progress)) if on_step else None
    # The last examples are one user's, and say nothing about the others.
    ((_, outcome),) = trainer.without_validation().train([list(examples)], step)
    if isinstance(outcome, TrainingError):
        store.put_failure(key, str(outcome))
        return str(outcome)
    trained, state = outcome
    facts = {**dataclasses.asdict(trained), "examples": len(examples)}
    store.put(key, adapter_config_json(trainer.base.model), state, facts)
    return None
