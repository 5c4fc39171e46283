"""What the speed of training is measured on: bases by name, and users with random tokens.

The tokens are random because only their numbers matter: users share an instruction, and every item has
tokens of its own and an answer of a few.
"""

import dataclasses
from typing import Any

import torch
from oppu_core.modeling.adapters import State, adapter_state, attach
from oppu_core.modeling.base import load_base, pick_device
from oppu_core.modeling.families import default_targets
from oppu_core.modeling.packing import TokenizedExample
from oppu_core.modeling.skeleton import projection_names
from oppu_core.training.config import TrainConfig
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

INSTRUCTION, ITEM_TOKENS, ANSWER_TOKENS = 70, (15, 60), (2, 4)
BATCH_SIZE = 16
Users = list[list[TokenizedExample]]


@dataclasses.dataclass(frozen=True)
class Shape:
    """A base of random weights.

    Attributes:
        config: The model's configuration.
        dtype: The type of its weights, if no other is asked for.
        cohort: How many users to train at once, if no other number is asked for.
    """

    config: Any
    dtype: str = "float32"
    cohort: int = 4


SHAPES = {
    # To see that everything runs; nothing to measure.
    "toy": Shape(
        LlamaConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            vocab_size=8_192,
        )
    ),
    "60m": Shape(
        LlamaConfig(
            hidden_size=512,
            intermediate_size=1536,
            num_hidden_layers=8,
            num_attention_heads=8,
            vocab_size=32_000,
        )
    ),
    # The size of Qwen2-0.5B.
    "0.5b": Shape(
        Qwen2Config(
            hidden_size=896,
            intermediate_size=4864,
            num_hidden_layers=24,
            num_attention_heads=14,
            num_key_value_heads=2,
            vocab_size=151_936,
            tie_word_embeddings=True,
        ),
        "bfloat16",
        32,
    ),
    # The size of Qwen3-0.6B.
    "qwen3-0.6b": Shape(
        Qwen3Config(
            hidden_size=1024,
            intermediate_size=3072,
            num_hidden_layers=28,
            num_attention_heads=16,
            num_key_value_heads=8,
            head_dim=128,
            vocab_size=151_936,
            tie_word_embeddings=True,
        ),
        "bfloat16",
        4,
    ),
    # The size of Qwen2-1.5B.
    "1.5b": Shape(
        Qwen2Config(
            hidden_size=1536,
            intermediate_size=8960,
            num_hidden_layers=28,
            num_attention_heads=12,
            num_key_value_heads=2,
            vocab_size=151_936,
            tie_word_embeddings=True,
        ),
        "bfloat16",
        16,
    ),
    # The size of Llama-2-7B.
    "7b": Shape(
        LlamaConfig(
            hidden_size=4096,
            intermediate_size=11_008,
            num_hidden_layers=32,
            num_attention_heads=32,
            vocab_size=32_000,
        ),
        "bfloat16",
        8,
    ),
}


@dataclasses.dataclass(frozen=True)
class Subject:
    """A base that is ready for personal training.

    Attributes:
        model: The PEFT model, LoRA on query and value.
        fresh: The adapter that every user starts from.
        config: Training settings.
        pad_id: Stands where there is no token.
        vocabulary: How many tokens there are.
    """

    model: Any
    fresh: State
    config: TrainConfig
    pad_id: int
    vocabulary: int


def load_subject(name: str, device: str = "cpu", dtype: str | None = None, epochs: int = 1) -> Subject:
    """A base with an adapter on it.

    Args:
        name: A key of :data:`SHAPES`, or what :func:`oppu_core.modeling.base.load_base` takes.
        device: Where random weights are made, and others loaded.
        dtype: The type of the weights.
        epochs: Passes over a user's items.
    """
    if name in SHAPES:
        shape, pad_id = SHAPES[name], 0
        torch.manual_seed(0)
        with torch.device(pick_device(device)):
            base = AutoModelForCausalLM.from_config(shape.config, dtype=getattr(torch, dtype or shape.dtype))
        base = base.eval().requires_grad_(False)
    else:
        loaded = load_base(name, "bfloat16" if dtype == "bfloat16" else "float32", device)
        base, pad_id = loaded.model, loaded.tokenizer.pad_id
    targets = default_targets(("query", "value"), projection_names(base))
    config = TrainConfig(targets, learning_rate=1e-3, epochs=epochs, batch_size=BATCH_SIZE, seed=0)
    model = attach(base, config)
    return Subject(model, adapter_state(model), config, pad_id, base.config.vocab_size)


def make_users(count: int, items: int, vocabulary: int, item_tokens: tuple[int, int] = ITEM_TOKENS) -> Users:
    """Users with histories of random tokens.

    Args:
        count: How many users; the first ones are the same whatever their number.
        items: How many items each has.
        vocabulary: How many tokens there are.
        item_tokens: The fewest and the most tokens of an item, beside the instruction and the answer.
    """

    def some(tokens: tuple[int, int], draw: torch.Generator) -> list[int]:
        length = int(torch.randint(tokens[0], tokens[1] + 1, (), generator=draw))
        ids: list[int] = torch.randint(vocabulary, (length,), generator=draw).tolist()
        return ids

    draw = torch.Generator().manual_seed(0)
    instruction = some((INSTRUCTION, INSTRUCTION), draw)
    users = []
    for _ in range(count):
        rows = []
        for _ in range(items):
            prompt = [*instruction, *some(item_tokens, draw)]
            rows.append(TokenizedExample((*prompt, *some(ANSWER_TOKENS, draw)), len(prompt)))
        users.append(rows)
    return users


def real_tokens(users: Users) -> int:
    """The tokens of all prompts and answers."""
    return sum(len(row.ids) for rows in users for row in rows)
