"""Training users together in packed rows if the base can read them, else one after another."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from oppu_core.modeling.adapters import State, adapter_state, attach
from oppu_core.modeling.base import Base
from oppu_core.modeling.packing import TokenizedExample
from oppu_core.training.cohort import Batches, Cohort
from oppu_core.training.config import TrainConfig
from oppu_core.training.loop import Outcome, Progress, train_each
from oppu_core.training.plan import auto_size


class Trainer:
    """Trains adapters in the fastest way that the base allows.

    Args:
        base: A base with an adapter attached, which is left as it is if users are trained together.
        config: Training settings.
        fresh: The weights that every user starts from; by default those of the attached adapter.

    Attributes:
        base: The base.
        config: Training settings.
        together: Whether users are trained at once. If not, the model holds the adapter being trained.
    """

    def __init__(self, base: Base, config: TrainConfig, fresh: State | None = None) -> None:
        self.base = base
        self.together = base.supports_packing
        self.config = config
        self._fresh = adapter_state(base.model) if fresh is None else fresh

    @classmethod
    def of(cls, base: Base, config: TrainConfig) -> "Trainer":
        """A trainer of fresh adapters on a base that has none; the base is changed in place."""
        return cls(dataclasses.replace(base, model=attach(base.model, config)), config)

    def train(
        self, users: Batches, on_step: Callable[[int, Progress], None] | None = None
    ) -> Iterator[tuple[int, Outcome]]:
        """Train users, yielding (index, result and adapter, or error) as each is finished.

        Args:
            users: Each user's examples.
            on_step: Called after every step of every user with (index, progress).
        """
        pad_id = self.base.tokenizer.pad_id
        if self.together:
            return self._cohort().train(users, on_step)
        padded = self.base.supports_padded_training
        return train_each(self.base.model, self._fresh, users, self.config, pad_id, on_step, padded)

    def auto_size(self, heaviest: Sequence[TokenizedExample]) -> int:
        """How many users to train at once, given the largest batch of any."""
        return auto_size(self._cohort(), heaviest) if self.together else 1

    def without_validation(self) -> "Trainer":
        """The same trainer, holding no examples out."""
        return Trainer(self.base, dataclasses.replace(self.config, validate_share=0.0), self._fresh)

    def _cohort(self) -> Cohort:
        return Cohort(self.base.model, self._fresh, self.config, self.base.tokenizer.pad_id)
