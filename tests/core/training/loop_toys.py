"""Examples and settings for tests of the reference loop."""

from collections.abc import Sequence
from pathlib import Path

import torch
from oppu_core.modeling.adapters import adapter_state, attach
from oppu_core.modeling.base import Base, load_base
from oppu_core.modeling.packing import TokenizedExample, tokenize
from oppu_core.prompting.builder import Example
from oppu_core.training.config import TrainConfig
from oppu_core.training.loop import train

CONFIG = TrainConfig(
    targets=("q_proj", "v_proj"),
    rank=4,
    alpha=8,
    dropout=0.0,
    learning_rate=2e-2,
    weight_decay=0.1,
    warmup=0.25,
    max_grad_norm=0.3,
    epochs=3,
    batch_size=3,
    seed=5,
    gradient_checkpointing=False,
)


EXAMPLES = [
    Example("a ship:", "action"),
    Example("two lovers on a boat:", "romance"),
    Example("x:", "sci-fi"),
    Example("a robot learns to dream:", "sci-fi"),
    Example("it is funny:", "comedy"),
    Example("nobody sees it coming:", "twist ending"),
    Example("a goat:", "comedy"),
]


def rows_for(base: Base) -> list[TokenizedExample]:
    return tokenize(EXAMPLES, base.tokenizer)


def trained_state(
    folder: Path, config: TrainConfig, examples: Sequence[Example] = EXAMPLES
) -> dict[str, torch.Tensor]:
    base = load_base(str(folder), device="cpu")
    model = attach(base.model, config)
    train(model, tokenize(examples, base.tokenizer), config, base.tokenizer.pad_id)
    return adapter_state(model)


def distance(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """The largest relative difference (in norm) of any tensor."""
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).norm() / theirs[name].norm()) for name in theirs)
