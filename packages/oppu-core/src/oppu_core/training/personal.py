"""Personal adapters: one per test user, trained on nothing but that user's own history.

A user's adapter depends on the task base, the settings, the seed and the user's history. On who else is
trained it depends by the rounding of products that several users share, and no more; the plan of who is
trained together is recorded, so that the same command gives the same bytes.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from oppu_core.data.types import User
from oppu_core.errors import TrainingError
from oppu_core.modeling.adapters import adapter_config_json, adapter_state, attach
from oppu_core.modeling.base import Base, BaseIdentity
from oppu_core.modeling.packing import TokenizedExample, tokenize
from oppu_core.prompting.builder import PromptBuilder
from oppu_core.prompting.methods import variant_method
from oppu_core.storage.files import content_id
from oppu_core.storage.store import Key, Store, adapter_key
from oppu_core.tasks.task import Task
from oppu_core.training.cohort import Cohort, train_users
from oppu_core.training.config import TrainConfig
from oppu_core.training.loop import Outcome, Progress
from oppu_core.training.plan import CohortPlan, auto_size


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
    base = BaseIdentity(**task_lora.identity["base"])
    if not (base.takes_merging or base.quantize):  # there it was merged once, and rounded
        shared = {**shared, "task_lora_lies": "beside the weights"}
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
    users: Sequence[User],
    builder: PromptBuilder,
    config: TrainConfig,
    store: Store,
    on_user: Callable[[UserDone], None],
    on_step: Callable[[Progress], None] | None = None,
    plan: CohortPlan | None = None,
) -> Base:
    """Train every user's adapter that the store does not have.

    Users are trained together in cohorts; one after another where the base cannot read packed rows. A user
    whose training fails is recorded and set aside; the others go on.

    Args:
        base: The task base; its model is the returned one's afterwards.
        task_lora: What the task base was made with.
        variant: Its prompt construction.
        users: The users to train.
        builder: Makes the prompts.
        config: Training settings.
        store: Where adapters go.
        on_user: Told of every user.
        on_step: Told of every training step.
        plan: Where it is recorded who is trained together.

    Returns:
        The task base with an adapter attached, ready to carry users' adapters.
    """
    model = attach(base.model, config)
    base = dataclasses.replace(base, model=model)
    method = variant_method(variant)
    keys = {
        key.folder: (user, key)
        for user in users
        for key in [key_of(task_lora, builder.task, config, user, builder.profile_for(method, user))]
    }
    present = {folder for folder, (_, key) in keys.items() if store.intact(key)}
    for folder in present:
        on_user(UserDone(keys[folder][0].user_id, folder, cached=True))
    if len(present) == len(keys):
        return base

    missing = {
        folder: (user.user_id, len(user.training_history))
        for folder, (user, _) in keys.items()
        if folder not in present
    }
    fresh = adapter_state(model)

    def examples_of(folder: str) -> list[TokenizedExample]:
        return tokenize(builder.history_examples(variant, keys[folder][0]), base.tokenizer)

    def trainings(folders: Sequence[str]) -> Iterator[tuple[str, int, Outcome]]:
        """(folder, examples, what came of it) of one cohort."""
        examples = [examples_of(folder) for folder in folders]

        def step(place: int, progress: Progress) -> None:
            if on_step and folders[place] in missing:  # the others were counted when they were stored
                on_step(progress)

        for place, outcome in train_users(base, fresh, examples, config, step):
            yield folders[place], len(examples[place]), outcome

    if base.supports_packing:

        def size() -> int:
            largest = max(missing, key=lambda folder: _largest_batch(keys[folder][0], config.batch_size))
            rows = sorted(examples_of(largest), key=lambda row: -len(row.ids))
            return auto_size(Cohort(model, fresh, config, base.tokenizer.pad_id), rows[: config.batch_size])

        failed = {folder for folder in missing if store.failure(keys[folder][1]) is not None}
        cohorts = (plan or CohortPlan()).cohorts(missing, failed, present, size)
    else:
        cohorts = [[folder] for folder in missing]
    for folders in cohorts:
        for folder, examples, outcome in trainings(folders):
            user, key = keys[folder]
            if folder not in missing:
                continue
            if isinstance(outcome, TrainingError):
                store.put_failure(key, str(outcome))
                on_user(UserDone(user.user_id, folder, cached=False, reason=str(outcome)))
                continue
            trained, state = outcome
            facts = {**dataclasses.asdict(trained), "examples": examples, "cohort": len(folders)}
            store.put(key, adapter_config_json(model), state, facts)
            on_user(UserDone(user.user_id, folder, cached=False, loss=trained.last_loss))
    return base


def _largest_batch(user: User, batch_size: int) -> int:
    """About how much text the largest batch of a user's can hold, in characters."""
    lengths = sorted((sum(map(len, item.fields.values())) for item in user.training_history), reverse=True)
    return sum(lengths[:batch_size])
