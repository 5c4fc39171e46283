"""Training settings as data: the paper's for each task, and measured ones for small bases."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from oppu_core.modeling.families import LLAMA, default_targets
from oppu_core.storage.parsing import parse

Peft = Literal["lora", "ia3", "prompt_tuning"]
PresetName = Literal["paper", "medium", "small", "tiny"]
Preset = Literal["auto", "paper", "medium", "small", "tiny"]


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How one adapter is trained.

    The defaults are the authors', except for dropout.

    Attributes:
        targets: The adapted projections, by the ends of their module names; none for prompt tuning.
        learning_rate: Peak of AdamW's linear schedule.
        epochs: Passes over the examples.
        batch_size: Examples per step.
        seed: For the initial weights and the order of examples.
        method: LoRA, (IA)³ (Liu et al., 2022) or prompt tuning (Lester et al., 2021).
        virtual_tokens: The number of embeddings that prompt tuning learns; they count as context.
        rank: LoRA r.
        alpha: LoRA scaling numerator; the update is (alpha / rank) B A.
        dropout: LoRA dropout; 0 so that fast and plain training agree (the authors' code has 0.05).
        weight_decay: AdamW's weight decay.
        warmup: Share of the steps in which the learning rate rises from 0.
        max_grad_norm: Gradients are clipped to this norm.
        stop_loss: Stop after an epoch whose mean loss is below this; 0 for never.
        gradient_checkpointing: Trade time for memory; off, as the base is frozen and prompts are short.
        validate_share: Hold out this share of the examples, the last ones (of a history: the latest), and
            keep the weights of the epoch after which their loss is least; training ends when it rises.
    """

    targets: tuple[str, ...]
    learning_rate: float
    epochs: int
    batch_size: int
    seed: int
    method: Peft = "lora"
    virtual_tokens: int = 20
    rank: int = 8
    alpha: int = 8
    dropout: float = 0.0
    weight_decay: float = 1e-2
    warmup: float = 0.1
    max_grad_norm: float = 0.3
    stop_loss: float = 0.0
    gradient_checkpointing: bool = False
    validate_share: float = 0.0

    # A setting of a later version must not be lost unnoticed.
    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    def to_json(self) -> dict[str, Any]:
        """Its form in files and identities, which is that of before where nothing is held out."""
        values = dataclasses.asdict(self)
        if not self.validate_share:
            del values["validate_share"]
        return values

    @classmethod
    def from_json(cls, values: Any) -> "TrainConfig":
        """The inverse of :meth:`to_json`, after a round trip through JSON.

        Raises:
            ValueError: a field is wrong; the message names it.
        """
        return parse(cls, values)

    @property
    def prefix(self) -> int:
        """The number of context tokens that the adapter takes."""
        return self.virtual_tokens if self.method == "prompt_tuning" else 0


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

# The roles of the adapted projections (modeling/families.py has their names).
TASK_ROLES = ("query", "key", "value", "output")
PERSONAL_ROLES: Mapping[Peft, tuple[str, ...]] = {
    "lora": ("query", "value"),
    "ia3": ("key", "value", "down"),
    "prompt_tuning": (),
}
# Settings that only one method uses.
ONLY_OF: Mapping[str, Peft] = {
    "rank": "lora",
    "alpha": "lora",
    "dropout": "lora",
    "virtual_tokens": "prompt_tuning",
}
PERSONAL_RATES: Mapping[Peft, Mapping[PresetName, float]] = {
    "lora": {"paper": 1e-4, "medium": 1e-3, "small": 3e-3, "tiny": 3e-2},
    "ia3": {"paper": 3e-3, "medium": 5e-3, "small": 1e-2, "tiny": 3e-2},
    "prompt_tuning": {"paper": 3e-2, "medium": 5e-2, "small": 1e-1, "tiny": 3e-1},
}


def resolve_preset(preset: Preset, parameters: int) -> PresetName:
    """Resolve ``auto`` for a base of this many parameters."""
    if preset != "auto":
        return preset
    limits: Mapping[PresetName, int] = {"tiny": 3_000_000, "small": 100_000_000, "medium": 1_000_000_000}
    return next((name for name, limit in limits.items() if parameters < limit), "paper")


def task_config(task: str, preset: PresetName, seed: int, projections: Sequence[str] = LLAMA) -> TrainConfig:
    """Settings of a task LoRA: the authors' (with their ``out_proj``, which Llama lacks, as ``o_proj``)."""
    rate = {"paper": 1e-4, "medium": 5e-4, "small": 1e-3, "tiny": 2e-3}[preset]
    epochs, batch_size = (2, 16) if preset == "tiny" else (1 if preset == "medium" else 3, _paper(task)[1])
    return TrainConfig(
        default_targets(TASK_ROLES, projections),
        learning_rate=rate,
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
    )


def personal_config(
    task: str,
    preset: PresetName,
    seed: int,
    projections: Sequence[str] = LLAMA,
    method: Peft = "lora",
    text_history: bool = False,
) -> TrainConfig:
    """Settings of a personal adapter: Table 5 and the authors' code; a small base needs a higher learning
    rate, but less so if the history is read as text, not in the task's format (docs/presets.md)."""
    epochs, batch_size = (6, 8) if preset == "tiny" else _paper(task)
    rate = PERSONAL_RATES[method][preset]
    return TrainConfig(
        default_targets(PERSONAL_ROLES[method], projections),
        learning_rate=rate / 10 if text_history and preset == "tiny" else rate,
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        method=method,
        # LoRA's B decays toward no change; scales and embeddings would decay to zero.
        weight_decay=1e-2 if method == "lora" else 0.0,
    )


def _paper(task: str) -> tuple[int, int]:
    return PAPER_EPOCHS.get(task, (3, 8))
