"""A tiny random sentence encoder; heavy imports stay inside."""

from pathlib import Path


def write_encoder(folder: Path, seed: int = 0, pooling: str = "mean") -> Path:
    """A random BERT with a tokenizer of single letters, as a folder of sentence-transformers."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    letters = [chr(code) for code in range(33, 127)]
    vocab = [*special, *letters, *(f"##{letter}" for letter in letters)]
    plain = folder.with_name(f"{folder.name}-plain")
    plain.mkdir(parents=True)
    (plain / "vocab.txt").write_text("\n".join(vocab))
    config = BertConfig(
        vocab_size=len(vocab),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        initializer_range=0.5,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        BertModel(config).save_pretrained(plain)
    BertTokenizerFast(vocab={word: index for index, word in enumerate(vocab)}).save_pretrained(plain)
    body = Transformer(str(plain), max_seq_length=64)
    SentenceTransformer(modules=[body, Pooling(32, pooling)], device="cpu").save(str(folder))
    return folder
