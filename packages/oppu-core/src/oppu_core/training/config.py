"""Training settings, as data: the paper's per task, and measured ones for small bases."""

import dataclasses
from typing import Literal

Preset = Literal["auto", "paper", "small"]
SMALL_BASE = 100_000_000  # parameters; below this "auto" takes the settings for small bases


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How one adapter is trained.

    The defaults are the authors', but for the dropout.

    Attributes:
        targets: The projections that get a LoRA, by the last part of their module names.
        learning_rate: Peak of AdamW's linear schedule.
        epochs: Passes over the examples.
        batch_size: Examples a step.
        seed: For the initial A matrices and the order of examples.
        rank: LoRA r.
        alpha: LoRA scaling numerator; the update is (alpha / rank) B A.
        dropout: LoRA dropout; 0 so that fast and plain training agree (the authors' code has 0.05).
        weight_decay: AdamW's.
        warmup: Share of the steps in which the rate rises from 0.
        max_grad_norm: Gradient clipping.
        gradient_checkpointing: Trade time for memory; off, as the base is frozen and prompts are short.
    """

    targets: tuple[str, ...]
    learning_rate: float
    epochs: int
    batch_size: int
    seed: int
    rank: int = 8
    alpha: int = 8
    dropout: float = 0.0
    weight_decay: float = 1e-2
    warmup: float = 0.1
    max_grad_norm: float = 0.3
    gradient_checkpointing: bool = False


# (epochs, batch size) of personal training: OPPU Table 5.
PAPER_EPOCHS: dict[str, tuple[int, int]] = {
    "lamp_1": (3, 16),
    "lamp_2n": (3, 16),
    "lamp_2m": (3, 4),
    "lamp_3": (3, 3),
    "lamp_4": (2, 8),
    "lamp_5": (2, 4),
    "lamp_7": (2, 8),
}

PERSONAL = ("q_proj", "v_proj")
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


def resolve_preset(preset: Preset, parameters: int) -> Literal["paper", "small"]:
    """What ``auto`` means for a base of this many parameters."""
    if preset == "auto":
        return "small" if parameters < SMALL_BASE else "paper"
    return preset


def task_config(task: str, preset: Literal["paper", "small"], seed: int) -> TrainConfig:
    """Settings for a task LoRA: the authors' (their ``out_proj``, which Llama lacks, read as ``o_proj``)."""
    epochs, batch_size = (3, PAPER_EPOCHS.get(task, (3, 8))[1]) if preset == "paper" else (2, 16)
    rate = 1e-4 if preset == "paper" else 2e-3
    return TrainConfig(ATTENTION, learning_rate=rate, epochs=epochs, batch_size=batch_size, seed=seed)


def personal_config(task: str, preset: Literal["paper", "small"], seed: int) -> TrainConfig:
    """Settings for a personal adapter: Table 5 and the authors' code, or measured ones for small bases."""
    epochs, batch_size = PAPER_EPOCHS.get(task, (3, 8)) if preset == "paper" else (6, 8)
    rate = 1e-4 if preset == "paper" else 1e-2
    return TrainConfig(PERSONAL, learning_rate=rate, epochs=epochs, batch_size=batch_size, seed=seed)
