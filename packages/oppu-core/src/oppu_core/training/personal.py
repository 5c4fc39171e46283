"""Personal adapters: one per test user, trained only on that user's own history.

A user's adapter depends on the task base, the settings, the seed and the user's history. On the users that
are trained with it, it depends only by the rounding of shared products; the plan of who is trained together
is recorded, so that the same command gives the same bytes.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Protocol

from oppu_core.data.types import User
from oppu_core.errors import TrainingError
from oppu_core.modeling.adapters import adapter_config_json
from oppu_core.modeling.packing import TokenizedExample
from oppu_core.storage.keys import Key
from oppu_core.storage.weights import Entry, Weights
from oppu_core.training.loop import Progress
from oppu_core.training.plan import CohortPlan
from oppu_core.training.trainer import Trainer

OnStep = Callable[[Progress], None]


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


class Cohorts(Protocol):
    """Whoever trains cohorts: this process (:class:`LocalCohorts`), or workers elsewhere."""

    @property
    def together(self) -> bool:
        """Whether users are trained at once, so that it has to be planned who."""
        ...

    def size(self, folders: Collection[str]) -> int:
        """How many of these users to train at once.

        Args:
            folders: Their adapters' folders.
        """
        ...

    def train(
        self, cohorts: Sequence[Sequence[str]], wanted: Collection[str], on_step: OnStep | None
    ) -> Iterator[Entry]:
        """Train cohorts, store the adapters, and yield what is known of them.

        Args:
            cohorts: The folders of the adapters of each.
            wanted: Those that are to be stored; the others are only trained along.
            on_step: Called after every training step of a wanted one.
        """
        ...


class LocalCohorts:
    """Trains cohorts in this process.

    Args:
        trainer: Trains fresh adapters on the task base.
        users: Users, each with the key of their adapter (:func:`key_of`).
        examples_of: A user's examples.
        weights: Where adapters are stored, and failures recorded.
    """

    def __init__(
        self,
        trainer: Trainer,
        users: Iterable[tuple[User, Key]],
        examples_of: Callable[[User], list[TokenizedExample]],
        weights: Weights,
    ) -> None:
        self.together = trainer.together
        self._trainer, self._examples_of, self._weights = trainer, examples_of, weights
        self._users = {key.folder: (user, key) for user, key in users}

    def size(self, folders: Collection[str]) -> int:
        """See :meth:`Cohorts.size`."""
        batch_size = self._trainer.config.batch_size
        largest = max(folders, key=lambda folder: _largest_batch(self._users[folder][0], batch_size))
        rows = sorted(self._examples_of(self._users[largest][0]), key=lambda row: -len(row.ids))
        return self._trainer.auto_size(rows[:batch_size])

    def train(
        self, cohorts: Sequence[Sequence[str]], wanted: Collection[str], on_step: OnStep | None
    ) -> Iterator[Entry]:
        """See :meth:`Cohorts.train`."""
        for folders in cohorts:
            yield from self._train(folders, wanted, on_step)

    def _train(
        self, folders: Sequence[str], wanted: Collection[str], on_step: OnStep | None
    ) -> Iterator[Entry]:
        examples = [self._examples_of(self._users[folder][0]) for folder in folders]

        def step(place: int, progress: Progress) -> None:
            if on_step and folders[place] in wanted:  # others were counted when they were first stored
                on_step(progress)

        for place, outcome in self._trainer.train(examples, step):
            _, key = self._users[folders[place]]
            if key.folder not in wanted:
                continue
            if isinstance(outcome, TrainingError):
                self._weights.put_failure(key, str(outcome))
            else:
                trained, state = outcome
                facts = {
                    **dataclasses.asdict(trained),
                    "examples": len(examples[place]),
                    "cohort": len(folders),
                }
                self._weights.put(key, adapter_config_json(self._trainer.base.model), state, facts)
            entry = self._weights.entry(key)
            assert entry is not None
            yield entry


def train_personal(
    cohorts: Cohorts,
    users: Iterable[tuple[User, Key]],
    weights: Weights,
    on_user: Callable[[UserDone], None],
    on_step: OnStep | None = None,
    plan: CohortPlan | None = None,
) -> None:
    """Train the adapters that are not stored.

    Users are trained together in cohorts if possible. Failures are recorded, and the others go on.

    Args:
        cohorts: Trains them.
        users: The users, each with the key of their adapter (:func:`key_of`).
        weights: Knows what is stored.
        on_user: Called for every user.
        on_step: Called after every training step.
        plan: Records who is trained together.
    """
    keys = {key.folder: (user, key) for user, key in users}
    present = {folder for folder, (_, key) in keys.items() if weights.intact(key)}
    for folder in present:
        on_user(UserDone(keys[folder][0].user_id, folder, cached=True))
    missing = {
        folder: (user.user_id, len(user.training_history))
        for folder, (user, _) in keys.items()
        if folder not in present
    }
    if not missing:
        return
    if cohorts.together:
        failed = {folder for folder in missing if weights.failure(keys[folder][1]) is not None}
        size = functools.partial(cohorts.size, missing)
        planned = (plan or CohortPlan()).cohorts(missing, failed, present, size)
    else:
        planned = [[folder] for folder in missing]
    for entry in cohorts.train(planned, missing, on_step):
        user_id = keys[entry.folder][0].user_id
        loss = entry.facts.get("last_loss")
        on_user(UserDone(user_id, entry.folder, cached=False, reason=entry.reason, loss=loss))


def _largest_batch(user: User, batch_size: int) -> int:
    """The approximate size of a user's largest batch, in characters."""
    lengths = sorted((sum(map(len, item.fields.values())) for item in user.training_history), reverse=True)
    return sum(lengths[:batch_size])
