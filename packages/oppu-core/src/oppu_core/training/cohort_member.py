"""One user's part in a cohort: batches, learning rate, losses, and when it is done."""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import torch

from oppu_core.modeling.packing import TokenizedExample, epoch_order
from oppu_core.training.config import TrainConfig
from oppu_core.training.loop import Progress, Trained


@dataclasses.dataclass
class Member:
    """The training state of one user in a cohort."""

    place: int
    examples: Sequence[TokenizedExample]
    held: Sequence[TokenizedExample]
    config: TrainConfig
    best: tuple[float, torch.Tensor] | None = None  # the least held-out loss, and the weights [P] then
    kept: int = 0  # the steps up to then
    worse: bool = False
    losses: list[float] = dataclasses.field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.per_epoch = math.ceil(len(self.examples) / self.config.batch_size)
        self.steps = self.config.epochs * self.per_epoch
        self._batches = self._draw()
        self.batch: list[TokenizedExample] = []

    def _draw(self) -> Iterator[list[int]]:
        order = torch.Generator().manual_seed(self.config.seed)
        for _ in range(self.config.epochs):
            yield from epoch_order(self.examples, self.config.batch_size, order)

    def next_batch(self) -> list[TokenizedExample]:
        self.batch = [self.examples[index] for index in next(self._batches)]
        return self.batch

    @property
    def rate(self) -> float:
        """The learning rate of the next step: rising from 0, then falling to 0."""
        done, rising = len(self.losses), round(self.config.warmup * self.steps)
        if done < rising:
            return self.config.learning_rate * done / max(1, rising)
        return self.config.learning_rate * max(0.0, (self.steps - done) / max(1, self.steps - rising))

    def add(self, loss: float) -> Progress:
        self.losses.append(loss)
        self.tokens += (count := sum(len(row.ids) for row in self.batch))
        return Progress(len(self.losses), self.steps, loss, count)

    @property
    def last_epoch(self) -> float:
        """The mean loss of the last whole epoch."""
        return sum(self.losses[-self.per_epoch :]) / self.per_epoch

    @property
    def whole(self) -> bool:
        """Whether an epoch has just ended."""
        return len(self.losses) % self.per_epoch == 0

    @property
    def done(self) -> bool:
        low = self.whole and self.last_epoch < self.config.stop_loss
        return len(self.losses) == self.steps or self.worse or low

    @property
    def trained(self) -> Trained:
        first = sum(self.losses[: self.per_epoch]) / self.per_epoch
        kept = self.kept or len(self.losses)
        last = sum(self.losses[kept - self.per_epoch : kept]) / self.per_epoch
        return Trained(first, last, len(self.losses), self.tokens, round(self.seconds, 3))
