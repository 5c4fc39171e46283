"""Training the adapters of many users at once on one frozen model.

One row of a batch is one user's packed examples; adapters are stacked, and everything that decides a user's
training is that user's own: loss, clipping, schedule, optimizer state, early stopping, failure. The readable
reference is :mod:`oppu_core.training.loop`; docs/performance.md explains why both agree.

Axes: U users, N targets, V vocabulary, P parameters of one adapter.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from oppu_core.errors import TrainingError
from oppu_core.modeling.adapters import State, training_mode
from oppu_core.modeling.packed_model import PackedModel
from oppu_core.modeling.packing import IGNORED, TokenizedExample, pack
from oppu_core.modeling.precision import overflow_advice
from oppu_core.modeling.stacked_adapters import Drop, StackedAdapters
from oppu_core.storage.files import content_id
from oppu_core.training.cohort_member import Member
from oppu_core.training.config import TrainConfig
from oppu_core.training.loop import (
    NOTHING,
    Outcome,
    Progress,
    at_least_float32,
    split_tail,
    target_count,
)
from oppu_core.training.row_adamw import RowAdamW

Batches = Sequence[Sequence[TokenizedExample]]  # each user's


class Cohort:
    """Trains users together.

    Args:
        peft_model: A model with an adapter attached; its own adapter is left as it is.
        fresh: The weights that every user starts from.
        config: Training settings.
        pad_id: The padding token.
    """

    def __init__(self, peft_model: Any, fresh: State, config: TrainConfig, pad_id: int) -> None:
        self._model = peft_model.get_base_model()
        self._fresh, self._config, self._pad_id = fresh, config, pad_id
        self._advice = overflow_advice(self._model)
        self._stacked = StackedAdapters(peft_model)
        self._sizes = [tensor.numel() for tensor in fresh.values()]

    @property
    def device(self) -> torch.device:
        """The model's device."""
        device: torch.device = self._model.device
        return device

    def measure(self, batch: Sequence[TokenizedExample]) -> tuple[int, int]:
        """(tokens, bytes): the length of a batch's packed row, and what a step keeps for backpropagation."""
        frozen = {parameter.untyped_storage().data_ptr() for parameter in self._model.parameters()}
        kept: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in frozen:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        flat_P = torch.cat([tensor.flatten() for tensor in self._fresh.values()]).to(self.device)
        leaves = [tensor.requires_grad_() for tensor in self._views(flat_P[None])]
        with (
            self._ready() as packed_model,
            torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        ):
            loss_U = self._loss(packed_model, [batch], leaves, 0)
        del loss_U
        packed = pack([batch], self._pad_id, share=not self._config.dropout, virtual=self._config.prefix)
        return packed.ids_UT.shape[1], sum(kept.values())

    @contextlib.contextmanager
    def _ready(self) -> Iterator[PackedModel]:
        """The model, set up for packed rows and stacked adapters; it is restored after every step."""
        with PackedModel(self._model) as packed_model, self._stacked.active(), training_mode(self._model):
            yield packed_model

    def train(
        self, users: Batches, on_step: Callable[[int, Progress], None] | None = None
    ) -> Iterator[tuple[int, Outcome]]:
        """Train a fresh adapter for every user.

        A user's adapter depends on that user's examples, and on the others only by floating-point rounding.

        Args:
            users: Each user's examples.
            on_step: Called after every step of every user with (index of the user, progress).

        Yields:
            (index of the user, result), as each user is finished.

        Raises:
            TrainingError: a step does not fit into the device's memory.
        """
        share = self._config.validate_share
        members = [
            Member(place, *split_tail(rows, share), self._config) for place, rows in enumerate(users) if rows
        ]
        yield from ((place, TrainingError(NOTHING)) for place, rows in enumerate(users) if not rows)
        if not members:
            return
        flat_P = torch.cat([tensor.flatten() for tensor in self._fresh.values()]).to(self.device)
        optimizer = RowAdamW(flat_P.repeat(len(members), 1), self._config.weight_decay)
        while members:
            start, leaving = time.monotonic(), dict[int, Outcome]()
            rate_U = torch.tensor([member.rate for member in members], dtype=torch.float64).to(flat_P)
            try:
                loss_U = self._step([m.next_batch() for m in members], optimizer, rate_U)
            except torch.OutOfMemoryError as error:
                raise TrainingError(_too_little(len(members))) from error
            for u, (member, loss) in enumerate(zip(members, loss_U.tolist(), strict=True)):
                if not math.isfinite(loss):
                    step = f"step {len(member.losses) + 1} of {member.steps}"
                    leaving[u] = TrainingError(f"the loss became {loss} at {step}{self._advice}")
                    continue
                progress = member.add(loss)
                member.seconds += (time.monotonic() - start) / len(members)
                if on_step:
                    on_step(member.place, progress)
            staying = [u for u, m in enumerate(members) if u not in leaving and m.held and m.whole]
            self._validate({u: members[u] for u in staying}, optimizer.weights_UP)
            done = [u for u, member in enumerate(members) if u not in leaving and member.done]
            leaving |= self._finish(members, done, optimizer.weights_UP)
            yield from ((members[u].place, leaving[u]) for u in sorted(leaving))
            if leaving:
                staying = [u for u in range(len(members)) if u not in leaving]
                optimizer.keep(staying)
                members = [members[u] for u in staying]

    def _validate(self, members: Mapping[int, Member], weights_UP: torch.Tensor) -> None:
        """Note the weights of users whose epoch has ended, if their held-out loss fell; else they are done.

        Args:
            members: These users, by their row of the weights.
            weights_UP: The weights of all.
        """
        totals = dict.fromkeys(members, 0.0)
        longest = max((len(member.held) for member in members.values()), default=0)
        for start in range(0, longest, self._config.batch_size):
            end = start + self._config.batch_size
            parts = {u: rows for u, member in members.items() if (rows := member.held[start:end])}
            with torch.no_grad(), self._ready() as packed_model:
                leaves = self._views(weights_UP[list(parts)])
                loss_U = self._loss(packed_model, list(parts.values()), leaves, None)
            for (u, rows), loss in zip(parts.items(), loss_U.tolist(), strict=True):
                totals[u] += loss * target_count(rows)
        for u, total in totals.items():
            member, loss = members[u], total / max(1, target_count(members[u].held))
            if member.best is not None and not loss < member.best[0]:
                member.worse = True
            else:
                member.best, member.kept = (loss, weights_UP[u].detach().clone()), len(member.losses)

    def _step(self, batches: Batches, optimizer: RowAdamW, rate_U: torch.Tensor) -> torch.Tensor:
        """Do one step for every user and return their losses [U] before it."""
        leaves = [tensor.requires_grad_() for tensor in self._views(optimizer.weights_UP)]
        with self._ready() as packed_model:
            loss_U = self._loss(packed_model, batches, leaves, optimizer.steps)
            # No user's loss depends on another's weights: the sum's gradient is each user's own gradient.
            grads = torch.autograd.grad(loss_U.sum(), leaves)
        grads_UP = torch.cat([grad.flatten(1) for grad in grads], dim=1)
        norm_U1 = grads_UP.norm(dim=1, keepdim=True)
        grads_UP.mul_((self._config.max_grad_norm / (norm_U1 + 1e-6)).clamp(max=1))
        optimizer.step(grads_UP, rate_U)
        return loss_U.detach()

    def _views(self, weights_UP: torch.Tensor) -> list[torch.Tensor]:
        """The adapters' tensors [U, ...] as views of the rows."""
        parts = torch.split(weights_UP.detach(), self._sizes, dim=1)
        return [
            part.view(len(part), *tensor.shape)
            for part, tensor in zip(parts, self._fresh.values(), strict=True)
        ]

    def _loss(
        self, packed_model: PackedModel, batches: Batches, leaves: Sequence[torch.Tensor], step: int | None
    ) -> torch.Tensor:
        """Every user's mean cross entropy of the target tokens: CE(Θ(φ(x)), r) [U]; step None: no dropout."""
        self._stacked.weights = dict(zip(self._fresh, leaves, strict=True))
        dropout = self._config.dropout if step is not None else 0.0
        # With dropout no prefix is shared: all examples would get the same mask, unlike in the loop.
        packed = pack(batches, self._pad_id, share=not dropout, virtual=self._config.prefix)
        packed = packed.to(self.device)
        self._stacked.drop = _dropout(dropout, self._config.seed, step or 0) if dropout else None
        logits_UNV = packed_model.logits(packed, self._stacked.soft_prompt)
        labels_UN = packed.labels_UN
        losses = torch.nn.functional.cross_entropy(
            at_least_float32(logits_UNV).flatten(0, 1),
            labels_UN.flatten(),
            ignore_index=IGNORED,
            reduction="none",
        )
        return losses.view(labels_UN.shape).sum(dim=1) / (labels_UN != IGNORED).sum(dim=1)

    def _finish(
        self, members: Sequence[Member], done: Sequence[int], weights_UP: torch.Tensor
    ) -> dict[int, Outcome]:
        """The results of users who are done. Losses are taken before their step, so check the last step."""
        if not done:
            return {}
        best = [member.best for member in members]
        last_UP = torch.stack([weights_UP[u] if (one := best[u]) is None else one[1] for u in done])
        with torch.no_grad(), self._ready() as packed_model:
            batches = [members[u].batch[:1] for u in done]
            final_U = self._loss(packed_model, batches, self._views(last_UP), 0)
        outcomes: dict[int, Outcome] = {}
        here_UP = last_UP.to("cpu")  # in one transfer instead of hundreds, one for each tensor
        for u, row_P, final in zip(done, here_UP, final_U.tolist(), strict=True):
            if not (math.isfinite(final) and bool(torch.isfinite(row_P).all())):
                outcomes[u] = TrainingError(
                    f"training diverged: the loss after the last step is {final}{self._advice}"
                )
                continue
            state = {
                name: tensor[0].clone()
                for name, tensor in zip(self._fresh, self._views(row_P[None]), strict=True)
            }
            outcomes[u] = (members[u].trained, state)
        return outcomes


def _too_little(users: int) -> str:
    """What to do when a step does not fit into the device's memory."""
    if users > 1:
        advice = f"Train fewer with --cohort {users // 2}."
    else:
        advice = "Take smaller batches (--set personal.batch_size=…, task_lora.batch_size=…) or --quantize."
    return f"The device has too little memory to train {users} at once. {advice}"


def _dropout(share: float, seed: int, step: int) -> Drop:
    """LoRA dropout that does not depend on the other users: one mask for all, drawn row by row from (seed,
    step, layer), so that gradient checkpointing draws the same again."""

    def drop(name: str, x_UTd: torch.Tensor) -> torch.Tensor:
        draw = torch.Generator().manual_seed(int(content_id([seed, step, name])[:15], 16))
        kept_Td = torch.rand(x_UTd.shape[1:], generator=draw) >= share
        return x_UTd * (kept_Td.to(x_UTd) / (1 - share))

    return drop
