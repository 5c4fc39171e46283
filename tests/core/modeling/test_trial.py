"""The trial of a base: whether it takes packed rows or padded batches, and how long the trial looks."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from oppu_core.modeling.base import load_base
from oppu_core.modeling.packed_model import PackedModel
from oppu_core.modeling.trial import Trial, _bounds, try_out
from packed_toys import SIZE
from toy_models import FAMILIES
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

Folder = Callable[[str], Path]
# Gemma 2 caps its scores, which sdpa refuses to do.
PAIRS = [
    (family, kind)
    for family in FAMILIES
    for kind in ("sdpa", "eager")
    if (family, kind) != ("gemma2", "sdpa")
]
LLAMA_LIKE = FAMILIES["llama"]
MOE = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
SIZES: dict[str, dict[str, Any]] = {
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 2},
    "cpmant": {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "dim_head": 16, "dim_ff": 48,
    },
    "deepseek_v4": {
        **LLAMA_LIKE, **MOE, "num_hidden_layers": 4, "q_lora_rank": 16, "o_lora_rank": 16, "o_groups": 2,
        "qk_rope_head_dim": 8, "n_routed_experts": 4, "index_n_heads": 2, "index_head_dim": 16,
        "index_topk": 8, "sliding_window": 8, "hc_mult": 2,
    },
    "doge": {**LLAMA_LIKE, "sliding_window": 64},
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 2, "rotary_dim": 8},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2},
    "opt": {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 64,
        "word_embed_proj_dim": 32,
    },
    "phi3": {
        **LLAMA_LIKE,
        "num_key_value_heads": 2,
        "original_max_position_embeddings": 64,
        "rope_parameters": {
            "rope_type": "longrope", "rope_theta": 10_000.0, "original_max_position_embeddings": 64,
            "short_factor": [1.0] * 8, "long_factor": [9.0] * 8,
        },
    },
    "phimoe": {**LLAMA_LIKE, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 64},
    "rwkv": {"hidden_size": 32, "num_hidden_layers": 2, "context_length": 256},
}  # fmt: skip


def small(family: str) -> Any:
    """A random model of a family that is not among the tested ones."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        family, vocab_size=SIZE, bos_token_id=0, eos_token_id=0, pad_token_id=0, **SIZES[family]
    )
    config.initializer_range = 0.3
    model = AutoModelForCausalLM.from_config(config).eval()
    model.generation_config = GenerationConfig()
    return model


def load(folder: Folder, family: str, attention: str | None = None) -> Any:
    """A family's random model; Mistral's window is made shorter than the rows."""
    model = load_base(str(folder(family)), device="cpu").model
    if family == "mistral":
        model.config.sliding_window = 16
    if attention:
        model.config._attn_implementation = attention
    return model


def tried(model: Any, context: int = 256, pad_id: int = 1) -> Trial:
    return try_out(model, range(2, SIZE), pad_id, context)


@pytest.mark.parametrize(("family", "attention"), PAIRS)
def test_no_tested_family_is_refused(family: str, attention: str, family_folder: Folder) -> None:
    assert tried(load(family_folder, family, attention)) == Trial()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("bloom", "cannot be asked with its attention exchanged (RuntimeError"),
        ("gptj", "has 2 layers, of which 0 take another attention"),
        ("mamba", "has 2 layers, of which 0 take another attention"),
        ("opt", "cannot be asked with its attention exchanged (RuntimeError"),
    ],
)
def test_a_model_whose_attention_is_its_own_is_padded(family: str, reason: str, dtype: torch.dtype) -> None:
    model = small(family).to(dtype)
    before = model.config._attn_implementation
    trial = tried(model)
    assert f"{type(model).__name__} {reason}" in (trial.packing_problem or "")
    assert (trial.padding_problem, trial.padded_training_problem) == (None, None)
    assert model.config._attn_implementation == before
    assert PackedModel.reading is None


@pytest.mark.parametrize("family", ["rwkv", "cpmant", "deepseek_v4"])
def test_a_model_that_padding_changes_is_asked_alone(family: str) -> None:
    trial = tried(small(family))
    assert trial.packing_problem
    assert "gives other answers in padded batches (off by" in (trial.padding_problem or "")
    # CPM-Ant's positions go by the padding on its left, so that padding on the right is none to it.
    assert (trial.padded_training_problem is not None) == (family == "cpmant")


@pytest.mark.parametrize("family", ["phimoe", "doge"])
def test_a_window_that_is_not_handed_on_is_found_beyond_it(family: str) -> None:
    model = small(family)
    assert "gives other answers with its attention exchanged" in (tried(model).packing_problem or "")
    assert tried(model, context=64) == Trial(), "a prompt that is never longer than the window"


def test_positions_that_go_by_the_longest_prompt_of_a_batch_are_found() -> None:
    """Scaled rotary positions change with the longest prompt there is."""
    model = small("phi3")
    trial = tried(model)
    assert trial.packing_problem and trial.padding_problem
    assert tried(model, context=64) == Trial()


def test_the_trial_is_as_long_as_it_has_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    widths: list[int] = []

    def widest(model: Any, context: int) -> int:
        widths.clear()
        kind = type(model)
        original = kind.generate
        with monkeypatch.context() as patch:
            patch.setattr(
                kind,
                "generate",
                lambda self, **options: (
                    widths.append(options["input_ids"].shape[1]),
                    original(self, **options),
                )[1],
            )
            tried(model, context)
        return max(widths)

    assert widest(small("opt"), 256) < 24, "an ordinary model"
    assert 64 < widest(small("phimoe"), 256) < 80
    assert widest(small("phimoe"), 70) + 2 == 70, "but not longer than the context"
    assert widest(small("phimoe"), 64) < 24


@pytest.mark.parametrize(
    ("settings", "longest"),
    [
        ({"sliding_window": 128}, 128),
        ({"attention_chunk_size": 100, "sliding_window": 64}, 100),
        ({"text_config": {"sliding_window": 32}}, 32),
        ({"rope_parameters": {"original_max_position_embeddings": 99}}, 99),
        ({"sliding_windows": [[7, 3], [90, 1]]}, 90),
        ({"local_attention": 128, "hidden_size": 200, "vocab_size": 250}, 128),
        ({"sliding_window": None, "use_sliding_window": True, "window": 0, "index_topk": 2048}, 0),
        ({"sliding_window": 256}, 0),
        ({"sliding_window": 255}, 255),
    ],
    ids=str,
)
def test_a_bound_has_many_names(settings: dict[str, Any], longest: int) -> None:
    assert max(_bounds(settings, 256), default=0) == longest


def hooked(model: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    model.register_forward_pre_hook(lambda _, args, options: (args, change(options)), with_kwargs=True)
    return model


def test_a_mask_that_is_not_heeded_is_found(family_folder: Folder) -> None:
    def deaf(options: dict[str, Any]) -> dict[str, Any]:
        return {**options, "attention_mask": None}

    assert "in padded batches (off by" in (
        tried(hooked(load(family_folder, "llama"), deaf)).padding_problem or ""
    )


def test_a_mask_that_is_forgotten_after_the_first_token_is_found(family_folder: Folder) -> None:
    """What comes out of the cache is tried as well."""

    def forgetful(options: dict[str, Any]) -> dict[str, Any]:
        later = options["input_ids"].shape[1] == 1 and options.get("use_cache")
        return {**options, "attention_mask": None} if later else options

    trial = tried(hooked(load(family_folder, "llama"), forgetful))
    assert trial.packing_problem is None
    assert "in padded batches (off by" in (trial.padding_problem or "")


def test_an_exception_in_padded_batches_means_alone(family_folder: Folder) -> None:
    def touchy(options: dict[str, Any]) -> dict[str, Any]:
        assert len(options["input_ids"]) == 1, "one row\nplease"
        return options

    model = hooked(load(family_folder, "llama"), touchy)
    trial = tried(model)
    assert "LlamaForCausalLM cannot be asked in padded batches (AssertionError: one row" in str(
        trial.padding_problem
    )
    assert "cannot be asked in batches padded on the right" in str(trial.padded_training_problem)


def test_numbers_that_are_none_are_no_likeness(family_folder: Folder) -> None:
    model = load(family_folder, "llama")

    def spoilt(_: Any, __: Any, output: Any) -> Any:
        output.logits[1:] = math.nan  # of the rows behind the first
        return output

    model.register_forward_hook(spoilt)
    trial = tried(model)
    assert "off by nan" in (trial.packing_problem or "")
    assert "off by nan" in (trial.padding_problem or "")


def test_attention_that_does_not_do_as_it_is_told_is_refused(
    family_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(family_folder, "llama")
    plain = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def deaf(module: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any) -> Any:
        """Causal, whatever the mask says."""
        rows = torch.zeros(query.shape[2], key.shape[2])
        causal = rows.masked_fill(torch.ones_like(rows).tril(key.shape[2] - query.shape[2]) == 0, -math.inf)
        return plain(module, query, key, value, causal[None, None], **options)

    assert tried(model).packing_problem is None
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "sdpa", deaf)
    assert "gives other answers with its attention exchanged (off by" in (tried(model).packing_problem or "")


def test_positions_that_are_not_heeded_are_refused(family_folder: Folder) -> None:
    model = hooked(load(family_folder, "llama"), lambda options: {**options, "position_ids": None})
    assert "gives other answers with its attention exchanged" in (tried(model).packing_problem or "")


def test_loading_tells_how_a_base_is_asked(family_folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(family_folder("llama"))
    base = load_base(folder, device="cpu")
    assert (base.supports_packing, base.supports_padding, base.supports_padded_training, base.caution) == (
        True,
        True,
        True,
        None,
    )
    for trial, slower in (
        (Trial(None, "why"), None),
        (Trial("this"), "Slower, with padded batches: this."),
        (Trial("this", "that"), "Slower, answered one prompt at a time: this; that."),
        (
            Trial("this", None, "and this"),
            "Slower, with padded batches, trained one example at a time: this; and this.",
        ),
    ):
        monkeypatch.setattr("oppu_core.modeling.base.try_out", lambda *_, trial=trial: trial)
        base = load_base(folder, device="cpu")
        found = (base.supports_packing, base.supports_padding, base.supports_padded_training)
        assert found == tuple(value is None for value in dataclasses.astuple(trial)[:3])
        assert base.caution == slower
