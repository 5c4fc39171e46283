"""Personal adapters: one per test user, trained on nothing but that user's own history.

The readable loop, one user after another. A user's adapter depends on the task base, the settings, the seed
and the user's history; not on who else is trained, or in which order.
"""

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from oppu_core.data.types import User
from oppu_core.errors import DataError, TrainingError
from oppu_core.files import content_id
from oppu_core.models import Base
from oppu_core.packing import tokenize
from oppu_core.prompts import PromptMaker, variant_method
from oppu_core.store import Key, Store, adapter_key
from oppu_core.tasks import Task
from oppu_core.training.config import TrainConfig
from oppu_core.training.loop import Progress, train
from oppu_core.training.peft_methods import adapter_config_json, adapter_state, attach, load_state


def history_hash(user: User, profile: str) -> str:
    """The hash of everything of a user's that an adapter is trained on."""
    items = [[item.id, dict(item.fields), item.date] for item in user.training_history]
    return content_id([items, profile])


def key_of(task_lora: Key, task: Task, config: TrainConfig, user: User, profile: str) -> Key:
    """A user's adapter on a task base; `profile` is the text in its prompts, empty without one."""
    shared: Mapping[str, Any] = {
        "task_lora": task_lora.config_id,
        "task": task.fingerprint,
        "training": dataclasses.asdict(config),
    }
    return adapter_key(shared, user.user_id, history_hash(user, profile))


@dataclasses.dataclass(frozen=True)
class UserDone:
    """What became of one user: trained now, found in the store (`cached`), or failed with a reason.

    `folder` is the adapter's place below the store.
    """

    user_id: str
    folder: str
    cached: bool
    reason: str | None = None
    loss: float | None = None


def train_personal(
    base: Base,
    task_lora: Key,
    variant: str,
    users: Iterable[User],
    maker: PromptMaker,
    config: TrainConfig,
    store: Store,
    on_user: Callable[[UserDone], None],
    on_step: Callable[[Progress], None] | None = None,
) -> Base:
    """Train every user's adapter that the store does not have.

    A user whose training fails is recorded and set aside; the others go on.

    Args:
        base: The task base; its model is the returned one's afterwards.
        task_lora: What the task base was made with.
        variant: Its prompt construction.
        users: The users to train.
        maker: Makes the prompts.
        config: Training settings.
        store: Where adapters go.
        on_user: Told of every user.
        on_step: Told of every training step.

    Returns:
        The task base with an adapter attached, ready to carry users' adapters.
    """
    model = attach(base.model, config)
    fresh = adapter_state(model)
    method = variant_method(variant)
    for user in users:
        key = key_of(task_lora, maker.task, config, user, maker.profile_for(method, user))
        if store.intact(key):
            on_user(UserDone(user.user_id, key.folder, cached=True))
            continue
        start = time.monotonic()
        load_state(model, fresh)
        try:
            examples = tokenize(maker.history_examples(variant, user), base.codec)
            trained = train(model, examples, config, base.codec.pad_id, on_step)
        except (TrainingError, DataError) as error:
            store.put_failure(key, str(error))
            on_user(UserDone(user.user_id, key.folder, cached=False, reason=str(error)))
            continue
        facts = {
            **dataclasses.asdict(trained),
            "examples": len(examples),
            "seconds": round(time.monotonic() - start, 3),
        }
        store.put(key, adapter_config_json(model), adapter_state(model), facts)
        on_user(UserDone(user.user_id, key.folder, cached=False, loss=trained.last_loss))
    return dataclasses.replace(base, model=model)
