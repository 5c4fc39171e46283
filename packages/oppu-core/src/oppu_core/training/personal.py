"""Personal adapters: one per test user, trained only on that user's own history.

A user's adapter depends on the task base, the settings, the seed and the user's history. On the users that
are trained with it, it depends only by the rounding of shared products; the plan of who is trained together
is recorded, so that the same command gives the same bytes.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from oppu_core.data.types import User
from oppu_core.errors import TrainingError
from oppu_core.modeling.adapters import adapter_config_json
from oppu_core.modeling.packing import TokenizedExample
from oppu_core.storage.keys import Key
from oppu_core.storage.store import Store
from oppu_core.training.loop import Outcome, Progress
from oppu_core.training.plan import CohortPlan
from oppu_core.training.trainer import Trainer


@dataclasses.dataclass(frozen=True)
class UserDone:
    """The outcome for one user: trained now, found in the store (`cached`), or failed with a reason.

    `folder` is the adapter's path below the store.
    """

    user_id: str
    folder: str
    cached: bool
    reason: str | None = None
    loss: float | None = None


def train_personal(
    trainer: Trainer,
    users: Sequence[tuple[User, Key]],
    examples_of: Callable[[User], list[TokenizedExample]],
    store: Store,
    on_user: Callable[[UserDone], None],
    on_step: Callable[[Progress], None] | None = None,
    plan: CohortPlan | None = None,
) -> None:
    """Train the adapters that the store does not have.

    Users are trained together in cohorts if the trainer can. Failures are recorded, and the others go on.

    Args:
        trainer: Trains fresh adapters on the task base.
        users: The users, each with the key of their adapter (:func:`key_of`).
        examples_of: A user's examples.
        store: Where adapters are stored.
        on_user: Called for every user.
        on_step: Called after every training step.
        plan: Records who is trained together.
    """
    keys = {key.folder: (user, key) for user, key in users}
    present = {folder for folder, (_, key) in keys.items() if store.intact(key)}
    for folder in present:
        on_user(UserDone(keys[folder][0].user_id, folder, cached=True))
    if len(present) == len(keys):
        return

    missing = {
        folder: (user.user_id, len(user.training_history))
        for folder, (user, _) in keys.items()
        if folder not in present
    }
    batch_size = trainer.config.batch_size

    def trainings(folders: Sequence[str]) -> Iterator[tuple[str, int, Outcome]]:
        """(folder, examples, adapter or error) of one cohort."""
        examples = [examples_of(keys[folder][0]) for folder in folders]

        def step(place: int, progress: Progress) -> None:
            if on_step and folders[place] in missing:  # others were counted when they were first stored
                on_step(progress)

        for place, outcome in trainer.train(examples, step):
            yield folders[place], len(examples[place]), outcome

    def size() -> int:
        largest = max(missing, key=lambda folder: _largest_batch(keys[folder][0], batch_size))
        rows = sorted(examples_of(keys[largest][0]), key=lambda row: -len(row.ids))
        return trainer.auto_size(rows[:batch_size])

    if trainer.together:
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
            store.put(key, adapter_config_json(trainer.base.model), state, facts)
            on_user(UserDone(user.user_id, folder, cached=False, loss=trained.last_loss))


def _largest_batch(user: User, batch_size: int) -> int:
    """The approximate size of a user's largest batch, in characters."""
    lengths = sorted((sum(map(len, item.fields.values())) for item in user.training_history), reverse=True)
    return sum(lengths[:batch_size])
