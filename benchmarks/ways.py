"""Three ways to train one adapter a user, one after the other or together, all from the same start."""

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from flops import user_batches
from oppu_core.errors import OppuError
from oppu_core.modeling.adapters import State, adapter_state, load_state
from oppu_core.modeling.packing import TokenizedExample, collate
from oppu_core.training.cohort import Cohort
from oppu_core.training.loop import Progress
from shapes import Subject, Users
from transformers import PrinterCallback, Trainer, TrainingArguments, get_linear_schedule_with_warmup


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of one user's training: the losses of its steps (of the Trainer their mean), the adapter."""

    losses: tuple[float, ...]
    state: State


Way = Callable[[Users], list[Result]]


def ways(subject: Subject, cohort: int) -> dict[str, Way]:
    """The ways by name: ``plain``, ``trainer``, ``fast``.

    Args:
        subject: What is trained on.
        cohort: How many users the fast way trains at once.
    """
    return {
        "plain": lambda users: [plain(subject, rows) for rows in users],
        "trainer": lambda users: [trainer(subject, rows) for rows in users],
        "fast": lambda users: [
            result
            for start in range(0, len(users), cohort)
            for result in fast(subject, users[start : start + cohort])
        ],
    }


def plain(subject: Subject, rows: Sequence[TokenizedExample]) -> Result:
    """A PEFT loop as most people write it: padded rows, logits everywhere."""
    model, config = subject.model, subject.config
    load_state(model, subject.fresh)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    batches = user_batches(rows, config)
    schedule = get_linear_schedule_with_warmup(optimizer, round(config.warmup * len(batches)), len(batches))
    losses = []
    model.train()
    for examples in batches:
        batch = collate(examples, subject.pad_id).to(model.device)
        loss = model(
            input_ids=batch.ids_BT, attention_mask=batch.mask_BT, labels=batch.labels_BT, use_cache=False
        ).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    model.eval()
    return Result(tuple(losses), adapter_state(model))


def trainer(subject: Subject, rows: Sequence[TokenizedExample]) -> Result:
    """Hugging Face's Trainer with the authors' settings: grouped by length, gradient checkpointing."""
    model, config = subject.model, subject.config
    load_state(model, subject.fresh)

    def to_batch(features: Sequence[dict[str, TokenizedExample]]) -> dict[str, torch.Tensor]:
        batch = collate([feature["example"] for feature in features], subject.pad_id)
        return {"input_ids": batch.ids_BT, "attention_mask": batch.mask_BT, "labels": batch.labels_BT}

    with tempfile.TemporaryDirectory() as folder, _without_checkpointing_afterwards(model):
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=config.batch_size,
            num_train_epochs=config.epochs,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            warmup_steps=config.warmup,  # below 1: a share of the steps
            max_grad_norm=config.max_grad_norm,
            optim="adamw_torch",
            seed=config.seed,
            train_sampling_strategy="group_by_length",
            activation_checkpointing=True,
            activation_checkpointing_kwargs={"use_reentrant": False},
            use_cpu=model.device.type == "cpu",
            remove_unused_columns=False,
            dataloader_pin_memory=model.device.type == "cuda",
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        # The sampler takes the lengths from "input_ids".
        features = [{"input_ids": row.ids, "example": row} for row in rows]
        run: Any = Trainer(model, arguments, data_collator=to_batch, train_dataset=features)
        run.remove_callback(PrinterCallback)
        loss = run.train().training_loss
    return Result((loss,), adapter_state(model))


@contextlib.contextmanager
def _without_checkpointing_afterwards(model: Any) -> Iterator[None]:
    try:
        yield
    finally:
        model.activation_checkpointing_disable()
        model.eval()


def fast(subject: Subject, users: Users) -> list[Result]:
    """Packed rows and stacked adapters: all of these users at once."""
    losses: dict[int, list[float]] = {place: [] for place in range(len(users))}
    states: dict[int, State] = {}

    def on_step(place: int, progress: Progress) -> None:
        losses[place].append(progress.loss)

    cohort = Cohort(subject.model, subject.fresh, subject.config, subject.pad_id)
    for place, outcome in cohort.train(users, on_step):
        if isinstance(outcome, OppuError):
            raise outcome
        states[place] = outcome[1]
    return [Result(tuple(losses[place]), states[place]) for place in losses]
