"""Tiny random models of the families that people use; heavy imports stay inside."""

from pathlib import Path
from typing import Any

# One random model a family, two layers of 32; the names are those of their configuration classes.
LLAMA_LIKE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 256,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": LLAMA_LIKE,
    "mistral": LLAMA_LIKE,
    "qwen2": LLAMA_LIKE,
    "qwen3": LLAMA_LIKE,
    "gemma": LLAMA_LIKE,
    "gemma2": {**LLAMA_LIKE, "sliding_window": 16, "query_pre_attn_scalar": 16},
    "gemma3_text": {**LLAMA_LIKE, "sliding_window": 16, "query_pre_attn_scalar": 16},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256},
    "gpt_neox": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 256,
    },
}


def write_model(folder: Path, config: Any, end: str = "<end>") -> Path:
    """A random model with a byte-level tokenizer (no merges), as an ordinary Hugging Face folder.

    Args:
        folder: To be made.
        config: The model's configuration; the vocabulary's size and the end of text are set here.
        end: The end-of-text token.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    vocab = {piece: index for index, piece in enumerate([end, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    config.vocab_size = len(vocab)
    config.bos_token_id, config.eos_token_id, config.pad_token_id = None, 0, None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end).save_pretrained(folder)
    return folder
