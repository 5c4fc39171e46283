"""Try every causal family of the installed transformers: ``uv run python benchmarks/families.py --help``.

Each is made tiny, with random weights and the tokenizer of the shipped base, and loaded as any base. Prints
which read packed rows, which padded batches, and which are asked one prompt at a time; then the answers to
prompts of unlike length, all at once, are held to the same prompts asked alone. What cannot be made or loaded
is listed with the reason. The numbers are in docs/own-model.md.
"""

import argparse
import collections
import contextlib
import dataclasses
import json
import multiprocessing
import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import transformers
from oppu_core.modeling.base import Base, load_base
from oppu_core.modeling.base_files import TINY_FOLDER
from oppu_core.runs.answering import AnswerRules, generate_answers
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

SECONDS, PARAMETERS, CONTEXT, WINDOW = 120, 30e6, 256, 8
VOCABULARY = len(AutoTokenizer.from_pretrained(TINY_FOLDER))
# What a configuration calls its sizes. A window is shorter than the prompts.
SIZES: tuple[tuple[int, str], ...] = (
    (1, "max_window_layers mp_num n_group n_groups n_shared_experts topk_group mamba_n_groups"),
    (2, "attention_heads decoder_attention_heads decoder_layers encoder_attention_heads encoder_layers"),
    (2, "index_n_heads linear_num_heads linear_num_key_heads linear_num_value_heads mamba_expand moe_k"),
    (2, "moe_topk n_head n_heads num_attention_heads num_decoder_attention_heads num_decoder_layers"),
    (2, "num_encoder_attention_heads num_encoder_layers num_experts_per_tok num_experts_per_token num_heads"),
    (2, "num_key_value_heads num_kv_heads swa_num_attention_heads swa_num_key_value_heads"),
    (4, "mamba_dt_rank mamba_n_heads mamba_num_heads moe_num_experts n_mamba_heads n_routed_experts"),
    (4, "num_experts num_local_experts time_step_rank"),
    (6, "n_layer n_layers num_blocks num_hidden_layers num_layers"),
    (8, "hidden_size_per_layer_input mamba_d_state qk_nope_head_dim qk_rope_head_dim rotary_dim"),
    (8, "hc_lowrank ssm_state_size state_size"),
    (WINDOW, "attention_chunk_size attention_window_size chunk_size floor_scale index_topk keep_window_size"),
    (WINDOW, "local_attention local_attention_window_len mamba_chunk_size sliding_window"),
    (WINDOW, "sliding_window_size window_size"),
    (16, "attention_head_dim d_head dim_head expert_ffn_hidden_size head_dim index_head_dim kv_channels"),
    (16, "kv_lora_rank linear_head_dim linear_key_head_dim linear_value_head_dim mamba_d_head"),
    (16, "mamba_head_dim moe_intermediate_size ple_embed_dim q_lora_rank qk_head_dim"),
    (16, "mamba_headdim query_pre_attn_scalar shared_expert_intermediate_size"),
    (16, "shared_experts_intermediate_size swa_head_dim v_head_dim"),
    (32, "attention_hidden_size d_model emb_dim embedding_dim embedding_size hidden_size lru_width n_embd"),
    (32, "word_embed_proj_dim"),
    (48, "d_inner decoder_ffn_dim dff dim_ff encoder_ffn_dim feed_forward_size ffn_dim ffn_hidden_size"),
    (48, "intermediate_size intermediate_size_mlp n_inner shared_intermediate_size"),
    (CONTEXT, "context_length encoder_hash_byte_group_vocab max_position_embeddings max_seq_len"),
    (CONTEXT, "max_target_positions n_ctx n_positions ngram_vocab_size_base"),
    (VOCABULARY, "decoder_vocab_size vocab_size vocab_size_per_layer_input"),
)
SHARED: dict[str, Any] = {
    **{name: size for size, names in SIZES for name in names.split()},
    "is_decoder": True,
    "use_sliding_window": True,
    "initializer_range": 0.3,  # large enough that one token matters to the others
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
# Where sizes have to fit each other in a family's own way, or a mix of layers has to be asked for.
_ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
_INDEXER = {"n_heads": 2, "kv_heads": 1, "head_dim": 16, "budget": WINDOW, "compress_ratio": 4}
OWN: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [2, 5]},
    "codegen": {"n_head": 4, "num_attention_heads": 4, "n_embd": 64, "hidden_size": 64},
    "cohere_compass_text": {"rope_parameters": {"full_attention": _ROPE, "sliding_attention": _ROPE}},
    "dots3_note": {"per_layer_config": {}},
    "dots3_note_text": {"per_layer_config": {}},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3n_text": {"num_hidden_layers": 10, "num_kv_shared_layers": 5},
    "gpt_neo": {"attention_types": [[["global", "local"], 3]]},
    "granitemoehybrid": {"layer_types": ["mamba", "mamba", "attention"] * 2},
    "lfm2": {"layer_types": ["conv", "conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 4},
    "mimo_v2_flash": {"head_dim": 48, "v_head_dim": 32},
    "qwen4_exp": {f"indexer_{name}": size for name, size in _INDEXER.items()},
    "qwen4_exp_text": {f"indexer_{name}": size for name, size in _INDEXER.items()},
    "reformer": {"axial_pos_embds": False},
    "xmod": {"default_language": "en_XX", "languages": ["en_XX"]},
    "zamba": {"num_hidden_layers": 12, "attention_hidden_size": 64, "attention_head_dim": 32},
    "zamba2": {
        "layers_block_type": ["mamba", "mamba", "hybrid"] * 2,
        "attention_hidden_size": 64,
        "attention_head_dim": 32,
    },
    "zaya": {"num_experts_per_tok": 1},
    **{name: {"head_dim": 8} for name in ("axk1", "deepseek_v3", "longcat_flash", "youtu")},
}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of one family.

    Attributes:
        family: Its name.
        way: ``packed``, ``padded``, ``alone``, ``not made`` or ``not loaded``.
        reason: Why not the way before; in the last two cases what was wrong.
        together: Whether the answers to all prompts at once are those of each prompt alone.
        rows_alone: Whether it is trained one example at a time.
    """

    family: str
    way: str
    reason: str = ""
    together: bool | None = None
    rows_alone: bool = False


def shrink(config: Any, own: Mapping[str, Any]) -> Any:
    """A configuration of the same class, made tiny."""
    known = set(config.to_dict()) | set(getattr(config, "attribute_map", {}))
    values = {name: value for name, value in (SHARED | dict(own)).items() if name in known}
    for name in config.sub_configs:
        if (part := getattr(config, name, None)) is not None:
            values[name] = shrink(part, own)
    return type(config)(**values)


def write_base(folder: Path, config: Any) -> None:
    """A model folder with random weights."""
    with torch.device("meta"):
        size = sum(weight.numel() for weight in AutoModelForCausalLM.from_config(config).parameters())
    if size > PARAMETERS:
        raise ValueError(f"{size / 1e6:.0f} M parameters are left, too many for a tiny one")
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY_FOLDER).save_pretrained(folder)


def answers_are_the_same(base: Base) -> bool:
    """Whether prompts answered at once are answered as they are alone."""
    prompts = [f"Item {'of many words ' * count}{count}:" for count in (0, 1, 3, 7, 15)]
    (together,) = generate_answers(base, [prompts], None, AnswerRules(8))
    alone = [generate_answers(base, [[prompt]], None, AnswerRules(8))[0][0] for prompt in prompts]
    return together == alone


def look(config_class: Any, results: Connection) -> None:
    """Make a family's model, load it, ask it; in a process of its own."""
    family, way = config_class.model_type, "not made"
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # families warn of their own; the reason is sent
    os.dup2(1, 2)
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            write_base(Path(folder), shrink(config_class(), OWN.get(family, {})))
            way = "not loaded"
            base = load_base(folder, device="cpu")
        way = "packed" if base.supports_packing else "padded" if base.supports_padding else "alone"
        together = answers_are_the_same(base)
        results.send(Outcome(family, way, base.caution or "", together, not base.supports_padded_training))
    except Exception as error:
        results.send(Outcome(family, way, f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"))


def outcome_of(config_class: Any, seconds: float) -> Outcome:
    """What comes of a family within a time."""
    context = multiprocessing.get_context("fork")  # libraries are loaded already
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=look, args=(config_class, theirs))
    process.start()
    theirs.close()
    outcome = Outcome(config_class.model_type, "not made", f"not done after {seconds:.0f} seconds")
    try:
        if ours.poll(seconds):
            outcome = ours.recv()
    except EOFError:
        outcome = dataclasses.replace(outcome, reason="the process died")
    process.kill()
    process.join()
    return outcome


def main(arguments: Sequence[str] | None = None) -> None:
    """Try the families and print what came of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--families", nargs="+", help="only these")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for each, at most")
    parser.add_argument("--json", type=Path, default=None, help="also write the table here")
    args = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()

    classes = {config_class.model_type: config_class for config_class in MODEL_FOR_CAUSAL_LM_MAPPING}
    outcomes = []
    for family in args.families or sorted(classes):
        outcomes.append(one := outcome_of(classes[family], args.seconds))
        same = {None: "", True: "same answers", False: "OTHER ANSWERS"}[one.together]
        print(f"{one.family:24} {one.way:10} {same:13} {one.reason}", flush=True)
    print(f"\ntransformers {transformers.__version__}")
    for way, count in collections.Counter(one.way for one in outcomes).most_common():
        print(f"{way:10} {count:4}")
    different = [one.family for one in outcomes if one.together is False]
    print(f"answers that depend on the batch: {', '.join(different) or 'none'}")
    if args.json:
        args.json.write_text(json.dumps([dataclasses.asdict(one) for one in outcomes], indent=1) + "\n")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
