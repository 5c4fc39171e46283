"""The plain training loop: one adapter, one list of examples, padded batches.

Fast training (:mod:`oppu_core.training.cohort`) is tested against it, and models that cannot read packed rows
are trained with it. It knows models with trainable parameters and token ids, but no users, tasks or storage.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from transformers import get_linear_schedule_with_warmup

from oppu_core.errors import TrainingError
from oppu_core.modeling.adapters import State, adapter_state, load_state, soft_prompt, training_mode
from oppu_core.modeling.packing import IGNORED, Batch, TokenizedExample, collate, epoch_order
from oppu_core.modeling.precision import overflow_advice
from oppu_core.training.config import TrainConfig

NOTHING = "there is nothing to train on (no item has an answer that fits into the context)"


# Fewer examples than this are not split: one held-out text says too little.
FEWEST_TO_SPLIT = 5


def split_tail(
    examples: Sequence[TokenizedExample], share: float
) -> tuple[Sequence[TokenizedExample], Sequence[TokenizedExample]]:
    """(examples to train on, the last `share` of them to validate on); none of few, and never all."""
    if not share or len(examples) < FEWEST_TO_SPLIT:
        return examples, ()
    held = min(max(1, round(share * len(examples))), len(examples) - 1)
    return examples[: len(examples) - held], examples[len(examples) - held :]


def target_count(rows: Sequence[TokenizedExample]) -> int:
    """The number of target tokens."""
    return sum(len(row.ids) - max(row.prompt_len, 1) for row in rows)


@dataclasses.dataclass(frozen=True)
class Progress:
    """The state of a training after a step.

    Attributes:
        step: Steps done, from 1.
        steps: Steps in all.
        loss: Mean cross entropy of the batch's target tokens before the step, in nats.
        tokens: Tokens in the batch, without padding.
    """

    step: int
    steps: int
    loss: float
    tokens: int


@dataclasses.dataclass(frozen=True)
class Trained:
    """The result of a training: mean losses of the first and last epoch in nats, steps, tokens without
    padding, and its time in seconds (in a cohort, its share)."""

    first_loss: float
    last_loss: float
    steps: int
    tokens: int
    seconds: float = dataclasses.field(compare=False)


Outcome = tuple[Trained, State] | TrainingError


def at_least_float32(logits: torch.Tensor) -> torch.Tensor:
    """Logits in the type in which cross entropy is computed."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def target_loss(model: Any, batch: Batch) -> torch.Tensor:
    """Mean cross entropy of the target tokens, each given the tokens before it: CE(Θ(φ(x)), r).

    Logits are computed only at positions where some row predicts a target; a soft prompt shifts them.
    """
    next_BT = batch.labels_BT[:, 1:]
    positions_c = (next_BT != IGNORED).any(dim=0).nonzero().squeeze(1)
    prefix_vd = soft_prompt(model)
    logits_BcV = model(
        input_ids=batch.ids_BT,
        attention_mask=batch.mask_BT,
        use_cache=False,
        logits_to_keep=positions_c if prefix_vd is None else positions_c + len(prefix_vd),
    ).logits
    return torch.nn.functional.cross_entropy(
        at_least_float32(logits_BcV).flatten(0, 1), next_BT[:, positions_c].flatten(), ignore_index=IGNORED
    )


def _parts(
    rows: Sequence[TokenizedExample], padded: bool
) -> Iterator[tuple[Sequence[TokenizedExample], float]]:
    """The parts of a batch that are read at once: (rows, share of the batch's target tokens)."""
    if padded:
        yield rows, 1.0
        return
    targets = [len(row.ids) - max(row.prompt_len, 1) for row in rows]
    for row, count in zip(rows, targets, strict=True):
        if count or not any(targets):
            yield [row], count / (sum(targets) or 1)


@torch.no_grad()
def held_out_loss(
    model: Any, rows: Sequence[TokenizedExample], batch_size: int, pad_id: int, padded: bool
) -> float:
    """Mean cross entropy of the target tokens of rows that are not trained on."""
    total = 0.0
    for start in range(0, len(rows), batch_size):
        some = rows[start : start + batch_size]
        for part, share in _parts(some, padded):
            loss = target_loss(model, collate(part, pad_id).to(model.device))
            total += loss.item() * share * target_count(some)
    return total / max(1, target_count(rows))


def train(
    model: Any,
    examples: Sequence[TokenizedExample],
    config: TrainConfig,
    pad_id: int,
    on_step: Callable[[Progress], None] | None = None,
    padded: bool = True,
) -> Trained:
    """Train the model's trainable parameters in place.

    AdamW, linear schedule with warm-up, clipped gradients. The order of examples depends only on the
    configuration's seed, so that two users' trainings differ only by their examples.

    Args:
        model: A model with an adapter attached.
        examples: The training examples.
        config: Training settings.
        pad_id: The padding token.
        on_step: Called after every step.
        padded: Whether to read a batch at once; else row by row, which gives the same gradient.

    Raises:
        TrainingError: there is nothing to train on, or a loss is not finite.
    """
    if not examples:
        raise TrainingError(NOTHING)
    start = time.monotonic()
    examples, held = split_tail(examples, config.validate_share)
    best: tuple[float, State] | None = None
    kept = 0
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    per_epoch = math.ceil(len(examples) / config.batch_size)
    steps = config.epochs * per_epoch
    schedule = get_linear_schedule_with_warmup(optimizer, round(config.warmup * steps), steps)
    order = torch.Generator().manual_seed(config.seed)
    torch.manual_seed(config.seed)  # for LoRA dropout
    losses: list[float] = []
    tokens = 0
    for _ in range(config.epochs):
        with training_mode(model):
            for indices in epoch_order(examples, config.batch_size, order):
                rows = [examples[index] for index in indices]
                optimizer.zero_grad()
                value = 0.0
                for part, share in _parts(rows, padded):
                    loss = target_loss(model, collate(part, pad_id).to(model.device)) * share
                    value += loss.item()
                    if not math.isfinite(value):
                        step = f"step {len(losses) + 1} of {steps}"
                        raise TrainingError(f"the loss became {value} at {step}{overflow_advice(model)}")
                    torch.autograd.backward(loss)
                torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
                optimizer.step()
                schedule.step()
                losses.append(value)
                tokens += (count := sum(len(row.ids) for row in rows))
                if on_step:
                    on_step(Progress(len(losses), steps, value, count))
        if held:
            value = held_out_loss(model, held, config.batch_size, pad_id, padded)
            if best is not None and not value < best[0]:
                break
            best, kept = (value, adapter_state(model)), len(losses)
        if sum(losses[-per_epoch:]) / per_epoch < config.stop_loss:
            break
    if best is not None:
        load_state(model, best[1])
    with torch.no_grad():  # each loss above was taken before its step, so check the last step
        final = target_loss(model, collate([examples[indices[0]]], pad_id).to(model.device)).item()
    if not (math.isfinite(final) and all(bool(torch.isfinite(p).all()) for p in parameters)):
        why = overflow_advice(model)
        raise TrainingError(f"training diverged: the loss after the last step is {final}{why}")
    kept = kept or len(losses)  # steps up to the weights that are kept
    first, last = (sum(epoch) / per_epoch for epoch in (losses[:per_epoch], losses[kept - per_epoch : kept]))
    return Trained(first, last, len(losses), tokens, round(time.monotonic() - start, 3))


def train_each(
    peft_model: Any,
    fresh: State,
    users: Sequence[Sequence[TokenizedExample]],
    config: TrainConfig,
    pad_id: int,
    on_step: Callable[[int, Progress], None] | None = None,
    padded: bool = True,
) -> Iterator[tuple[int, Outcome]]:
    """Train one user after another from the same fresh weights by :func:`train`: (index, result)."""
    for place, examples in enumerate(users):
        load_state(peft_model, fresh)
        try:
            step = functools.partial(on_step, place) if on_step else None
            trained = train(peft_model, examples, config, pad_id, step, padded)
        except TrainingError as error:
            yield place, error
        else:
            yield place, (trained, adapter_state(peft_model))
