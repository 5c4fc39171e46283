"""Fixtures that several test files share; heavy imports stay inside them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from toy_models import FAMILIES, write_model


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Llama.

    Its weights are large, so that the greedy choice is never a near tie; its context is 256 tokens.
    """
    from transformers import LlamaConfig

    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        initializer_range=0.3,
        attention_dropout=0.5,  # must never be active
    )
    return write_model(tmp_path_factory.mktemp("toy") / "base", config)


@pytest.fixture(scope="session")
def family_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a random model of a family of :data:`FAMILIES`, made when it is first asked for."""
    from transformers import AutoConfig

    root = tmp_path_factory.mktemp("families")

    def folder(family: str) -> Path:
        if not (root / family).exists():
            config = AutoConfig.for_model(family, initializer_range=0.3, **FAMILIES[family])
            write_model(root / family, config, "<|endoftext|>")  # what Qwen's tokenizer class expects to find
        return root / family

    return folder
