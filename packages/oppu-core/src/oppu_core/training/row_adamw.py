"""AdamW for many adapters at once, one in each row."""

import math
from collections.abc import Sequence

import torch


class RowAdamW:
    """AdamW (Loshchilov & Hutter, 2019) for adapters in rows, each with its own learning rate.

    The arithmetic is that of :class:`torch.optim.AdamW`, which has one learning rate for a whole tensor; all
    rows have done the same number of steps.

    Args:
        weights_UP: The adapters [U, P]; changed in place.
        weight_decay: AdamW's weight decay.
    """

    BETAS, EPS = (0.9, 0.999), 1e-8

    def __init__(self, weights_UP: torch.Tensor, weight_decay: float) -> None:
        self.weights_UP = weights_UP
        self._decay = weight_decay
        self._mean_UP = torch.zeros_like(weights_UP)
        self._square_UP = torch.zeros_like(weights_UP)
        self.steps = 0

    def step(self, grads_UP: torch.Tensor, rate_U: torch.Tensor) -> None:
        """Do one step, given gradients [U, P] and learning rates [U]."""
        self.steps += 1
        (beta1, beta2), rate_U1 = self.BETAS, rate_U[:, None]
        self._mean_UP.lerp_(grads_UP, 1 - beta1)
        self._square_UP.mul_(beta2).addcmul_(grads_UP, grads_UP, value=1 - beta2)
        scale_UP = (self._square_UP.sqrt() / math.sqrt(1 - beta2**self.steps)).add_(self.EPS)
        self.weights_UP.mul_(1 - rate_U1 * self._decay)
        self.weights_UP.sub_(self._mean_UP / scale_UP * (rate_U1 / (1 - beta1**self.steps)))

    def keep(self, rows: Sequence[int]) -> None:
        """Keep only these rows."""
        index = torch.tensor(rows, dtype=torch.long, device=self.weights_UP.device)
        self.weights_UP, self._mean_UP, self._square_UP = (
            x.index_select(0, index) for x in (self.weights_UP, self._mean_UP, self._square_UP)
        )
