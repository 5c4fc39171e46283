"""Task bases: the base adapted once to a task and a prompt variant, on the queries of other users.

The task LoRA is stored. Merged into the base (or beside it, if weights of fewer than 32 bits would round it
away), it is the frozen model that personal adapters of this variant are trained on, without test users' data.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator

from oppu_core.data.dataset import Dataset
from oppu_core.data.types import User
from oppu_core.errors import TrainingError
from oppu_core.modeling.adapters import adapter_config_json, merge, stack
from oppu_core.modeling.base import Base
from oppu_core.modeling.packing import tokenize
from oppu_core.prompting.builder import Example, PromptBuilder
from oppu_core.prompting.methods import Examples
from oppu_core.storage.keys import Key
from oppu_core.storage.weights import Weights
from oppu_core.training.config import TrainConfig
from oppu_core.training.loop import Progress
from oppu_core.training.trainer import Trainer


def train_task_lora(
    base: Base,
    key: Key,
    dataset: Dataset,
    builder: PromptBuilder,
    config: TrainConfig,
    store: Weights,
    on_step: Callable[[Progress], None] | None = None,
    others: Iterable[User] | None = None,
) -> Base:
    """Load a variant's task LoRA from the store, or train and store it, and apply it to the base.

    Args:
        base: Changed in place: it becomes the task base.
        key: The task LoRA's key (:func:`key_of`), which has the variant and what it is trained on.
        dataset: Its ``others`` are trained on.
        builder: Makes the prompts.
        config: Training settings.
        store: The store of the LoRA.
        on_step: Called after every training step.
        others: The others, if they are not to be read from the dataset.

    Raises:
        TrainingError: no query of the others has an answer and fits, or the loss is not finite.
    """
    if not store.intact(key):
        variant = key.identity["variant"]
        others = dataset.users("others") if others is None else others
        rows = tokenize(_examples(others, variant, builder, key.identity["examples"]), base.tokenizer)
        if not rows:
            raise TrainingError(
                f"No query of the others of {dataset.path} has an answer and fits into the base's context of "
                f"{base.tokenizer.context} tokens; a task base needs some."
            )
        trainer = Trainer.of(base, config)
        step = (lambda _, progress: on_step(progress)) if on_step else None
        ((_, outcome),) = trainer.train([rows], step)
        if isinstance(outcome, TrainingError):
            raise TrainingError(
                f"The task LoRA ({dataset.task.name}, {variant}) could not be trained on the others' queries "
                f"of {dataset.path}: {outcome}. Try a lower --set task_lora.learning_rate=…."
            ) from outcome
        trained, state = outcome
        facts = {**dataclasses.asdict(trained), "examples": len(rows)}
        peft_model = trainer.base.model
        store.put(key, adapter_config_json(peft_model), state, facts)
        base = dataclasses.replace(base, model=peft_model.unload())
    join = merge if base.identity.takes_merging else stack
    return dataclasses.replace(base, model=join(base.model, config, store.load(key)))


def _examples(
    others: Iterable[User], variant: str, builder: PromptBuilder, examples: Examples
) -> Iterator[Example]:
    for user in others:
        yield from builder.query_examples(variant, user)
        if examples == "queries+history":
            yield from builder.history_examples(variant, user)
