"""Answers: greedy is the plain argmax loop whatever the batch, sampling is seeded, bases are checked."""

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from oppu_core.errors import ConfigError, ModelError, OppuError
from oppu_core.modeling.base import Base, load_base
from oppu_core.modeling.base_files import MAX_LENGTH, base_identity
from oppu_core.modeling.generation import Sampling, generate, plan_batches
from oppu_core.modeling.tokenizer import Tokenizer
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer as HFTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

PROMPTS = [
    "a:",
    "description: a ship is lost tag:",
    "x" * 150,
    "né 🎬 {tag}\nsecond line",
    "description: two lovers tag:",
    "b:",
    "z",
]


@pytest.fixture(scope="module")
def toy(toy_folder: Path) -> Base:
    return load_base(str(toy_folder), device="cpu")


def greedy_twin(base: Base, prompt: str, max_new_tokens: int) -> str:
    """The obvious loop: the whole text again for every token, no cache, no padding."""
    ids = base.tokenizer.prompt_ids(prompt)
    start = len(ids)
    with torch.no_grad():
        for _ in range(max_new_tokens):
            ids.append(int(base.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] in base.tokenizer.stop_ids:
                break
    return base.tokenizer.answer_text(ids[start:])


@pytest.fixture(scope="module")
def expected(toy: Base) -> list[str]:
    return [greedy_twin(toy, prompt, 12) for prompt in PROMPTS]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 32])
def test_greedy_answers_are_those_of_the_plain_loop_whatever_the_batch(
    toy: Base, expected: list[str], batch_size: int
) -> None:
    assert generate(toy.model, toy.tokenizer, PROMPTS, max_new_tokens=12, batch_size=batch_size) == expected
    backwards = generate(toy.model, toy.tokenizer, PROMPTS[::-1], max_new_tokens=12, batch_size=batch_size)
    assert backwards == expected[::-1]
    assert len(set(expected)) == len(expected), "a model that always says the same would prove nothing"


def test_batches_hold_every_prompt_once_and_the_longest_come_first() -> None:
    lengths = [3, 9, 1, 9, 5]
    assert plan_batches(lengths, 2) == [[1, 3], [4, 0], [2]]
    assert plan_batches([], 4) == []


def spelling_base(toy_folder: Path, folder: Path, chains: list[str]) -> Base:
    """The toy, made to follow each character of a chain by the next; ``$`` stands for the end of text.

    Attention and feed-forward layers are silenced, so that only the last token counts; the output row of a
    token's successor is the token's own direction.
    """
    shutil.copytree(toy_folder, folder)
    weights = load_file(folder / "model.safetensors")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocab: dict[str, int] = {**tokenizer["model"]["vocab"], "$": 0, " ": tokenizer["model"]["vocab"]["Ġ"]}
    vocab["\n"] = vocab["Ċ"]
    for name, weight in weights.items():
        if "o_proj" in name or "down_proj" in name:
            weights[name] = torch.zeros_like(weight)
    directions = torch.nn.functional.normalize(weights["model.embed_tokens.weight"], dim=-1)
    head = torch.zeros_like(directions)
    for chain in chains:
        for first, second in itertools.pairwise(chain):
            head[vocab[second]] += directions[vocab[first]]
    weights["model.embed_tokens.weight"] = directions
    weights["lm_head.weight"] = head
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return load_base(str(folder), device="cpu")


def test_an_answer_ends_at_end_of_text_or_newline_and_is_stripped(toy_folder: Path, tmp_path: Path) -> None:
    base = spelling_base(toy_folder, tmp_path / "base", [": abc$d", "?ef\nghi", ";\n", "!klmnop"])
    prompts = ["x:", "a long prompt in front?", "y;", "z!"]
    seen: list[Any] = []
    original = base.model.generate

    def reporter(**arguments: Any) -> Any:
        seen.append(original(**arguments))
        return seen[-1]

    base.model.generate = reporter
    assert generate(base.model, base.tokenizer, prompts, max_new_tokens=5) == ["abc", "ef", "", "klmno"]
    for prompt, new_tokens in zip(prompts, (5, 3, 1, 5), strict=True):
        seen.clear()
        generate(base.model, base.tokenizer, [prompt], max_new_tokens=5)
        assert seen[0].shape[1] - len(base.tokenizer.prompt_ids(prompt)) == new_tokens, "it stops at once"


def test_every_token_with_a_newline_in_it_ends_an_answer() -> None:
    tokenizer = Tokenizer(byte_tokenizer(merges=[("x", "Ċ"), ("Ċ", "Ċ")]), 100)
    texts = {tokenizer.hf.decode([index]) for index in tokenizer.stop_ids}
    assert texts == {"<end>", "\n", "x\n", "\n\n"}


def test_a_sampled_answer_depends_on_its_prompt_and_seed_alone(toy: Base) -> None:
    def sample(prompts: list[str], seed: int, batch_size: int = 32) -> list[str]:
        sampling = Sampling(temperature=3.0, top_k=50, top_p=1.0, seed=seed)
        torch.manual_seed(len(prompts))  # whatever happened before
        return generate(
            toy.model, toy.tokenizer, prompts, max_new_tokens=8, batch_size=batch_size, sampling=sampling
        )

    together = sample(["a:", "b:", "c: and more"], 0)
    assert together == [sample([prompt], 0)[0] for prompt in ("a:", "b:", "c: and more")]
    assert together == sample(["c: and more", "b:", "a:"], 0, batch_size=2)[::-1]
    assert together != sample(["a:", "b:", "c: and more"], 1)
    assert together != generate(toy.model, toy.tokenizer, ["a:", "b:", "c: and more"], max_new_tokens=8)


def test_the_papers_sampling_is_the_default() -> None:
    assert Sampling() == Sampling(temperature=0.1, top_k=10, top_p=0.9, seed=0)


# --- tokenizer conventions -------------------------------------------------------------------------------


def byte_tokenizer(merges: list[tuple[str, str]] | None = None, **special: str) -> Any:
    pieces = [
        "<end>",
        *sorted(pre_tokenizers.ByteLevel.alphabet()),
        *("".join(pair) for pair in merges or []),
    ]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = HFTokenizer(models.BPE(vocab=vocab, merges=merges or []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{"eos_token": "<end>", **special})


def metaspace_tokenizer() -> Any:
    """As Llama 2 has it: a space is put before every text, special tokens stand around it."""
    pieces = ["<unk>", "<s>", "</s>", "▁", "▁tag", "▁comedy", ":", *"acdegmnoty"]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = HFTokenizer(models.Unigram([(piece, -1.0) for piece in pieces], 0))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", vocab["<s>"]), ("</s>", vocab["</s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def test_byte_level_answers_begin_with_a_space_and_end_with_end_of_text() -> None:
    tokenizer = Tokenizer(byte_tokenizer(), 100)
    assert tokenizer.hf.convert_ids_to_tokens(tokenizer.answer_ids("ab")) == ["Ġ", "a", "b", "<end>"]
    assert tokenizer.prompt_ids("tag:") == tokenizer.hf("tag:")["input_ids"]
    assert tokenizer.prompt_ids("tag:") + tokenizer.answer_ids("ab")[:-1] == tokenizer.prompt_ids("tag: ab")


def test_answers_of_sentencepiece_like_tokenizers_get_no_second_space() -> None:
    tokenizer = Tokenizer(metaspace_tokenizer(), 100)
    pieces = tokenizer.hf.convert_ids_to_tokens
    assert pieces(tokenizer.answer_ids("comedy")) == ["▁comedy", "</s>"]
    assert pieces(tokenizer.prompt_ids("tag:")) == ["<s>", "▁tag", ":"], (
        "in front stays, behind would end the text"
    )
    assert tokenizer.answer_text(tokenizer.answer_ids("comedy")) == "comedy"


@pytest.mark.parametrize("text", ["comedy", "based on a book", "né 🎬", "x", "Why?", "  two  spaces"])
def test_an_answers_tokens_spell_the_answer(text: str) -> None:
    tokenizer = Tokenizer(byte_tokenizer(), 100)
    assert tokenizer.answer_text(tokenizer.answer_ids(text)) == text.strip()
    assert (
        tokenizer.answer_text([*tokenizer.answer_ids(text)[:-1], *tokenizer.answer_ids("\nmore")])
        == text.strip()
    )


def test_padding_is_the_tokenizers_own_or_end_of_text() -> None:
    assert Tokenizer(byte_tokenizer(), 100).pad_id == 0
    own = byte_tokenizer(pad_token="!")
    assert Tokenizer(own, 100).pad_id == own.convert_tokens_to_ids("!") != 0


def test_a_tokenizer_without_end_of_text_is_refused() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no end-of-text token"):
        Tokenizer(tokenizer, 100)


# --- tokens that the model does not know -----------------------------------------------------------------


def with_tokens(toy_folder: Path, folder: Path, special: bool = True, **names: str) -> Path:
    """The toy with tokens added to its tokenizer alone; as ``pad_token=…`` or as a word."""
    shutil.copytree(toy_folder, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    words = [names.pop("word")] if "word" in names else []
    tokenizer.add_tokens(words, special_tokens=special)
    tokenizer.add_special_tokens(names)
    tokenizer.save_pretrained(folder)
    return folder


def test_padding_beyond_the_embedding_falls_back_to_the_end_of_text(toy_folder: Path, tmp_path: Path) -> None:
    base = load_base(str(with_tokens(toy_folder, tmp_path / "base", pad_token="[PAD]")), device="cpu")
    assert base.tokenizer.hf.pad_token_id == base.model.config.vocab_size == 257
    assert base.tokenizer.pad_id == base.tokenizer.eos_id
    plain = load_base(str(toy_folder), device="cpu")
    found = generate(base.model, base.tokenizer, PROMPTS, max_new_tokens=6)
    assert found == generate(plain.model, plain.tokenizer, PROMPTS, max_new_tokens=6)


@pytest.mark.parametrize(
    ("options", "token"),
    [
        ({"eos_token": "<|over|>"}, "<|over|>"),
        ({"word": "zorp", "special": False}, "zorp"),
    ],
)
def test_tokens_beyond_the_embedding_are_refused_when_the_base_is_loaded(
    toy_folder: Path, tmp_path: Path, options: dict[str, Any], token: str
) -> None:
    folder = with_tokens(toy_folder, tmp_path / "base", **options)
    with pytest.raises(ModelError, match="resize_token_embeddings") as caught:
        load_base(str(folder), device="cpu")
    assert f"writes {token!r} as token 257" in str(caught.value)
    assert "embedding has 257 rows" in str(caught.value)


def test_a_special_token_beyond_it_is_refused_where_it_is_written(toy_folder: Path, tmp_path: Path) -> None:
    """Gemma's tokenizers have one for images, which the smallest model does not know."""
    base = load_base(str(with_tokens(toy_folder, tmp_path / "base", word="<image>")), device="cpu")
    assert base.tokenizer.prompt_ids("an <image>:") == list(base.tokenizer.hf("an ").input_ids) + list(
        base.tokenizer.hf("<image>:", split_special_tokens=True).input_ids
    ), "in a text it is seven characters"
    with pytest.raises(ModelError, match="writes '<image>' as token 257"):
        base.tokenizer.ending(["\n"], chat=True).prompt_ids("an <image>:")


# --- bases -----------------------------------------------------------------------------------------------


def test_a_base_is_frozen_and_evaluates(toy: Base) -> None:
    assert toy.identity.context == 256
    assert toy.tokenizer.context == 256
    assert not any(parameter.requires_grad for parameter in toy.model.parameters())
    assert not any(module.training for module in toy.model.modules())
    assert toy.parameters == sum(parameter.numel() for parameter in toy.model.parameters()) > 10_000
    assert toy.device == torch.device("cpu")


def test_the_fingerprint_changes_with_weights_tokenizer_and_configuration(
    toy_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(toy_folder, folder)
    whole = base_identity(toy_folder, "float32")
    assert base_identity(folder, "float32") == whole, "the place does not matter"
    assert base_identity(folder, "bfloat16") != whole
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json", "config.json"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content + b" ")
        assert base_identity(folder, "float32").fingerprint != whole.fingerprint, name
        (folder / name).write_bytes(content)
    assert base_identity(folder, "float32") == whole


def test_the_context_is_the_models_or_the_authors_limit(toy_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(toy_folder, tmp_path / "base")
    file = tmp_path / "base" / "config.json"
    config = json.loads(file.read_text())
    for changes, context in (
        ({"max_position_embeddings": 100}, 100),
        ({"max_position_embeddings": 131_072}, MAX_LENGTH),
        ({"max_position_embeddings": None, "n_positions": 1024}, 1024),
        ({"max_position_embeddings": None}, MAX_LENGTH),
    ):
        file.write_text(json.dumps({**config, **changes}))
        assert base_identity(file.parent, "float32").context == context


def pickled(folder: Path) -> None:
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda folder: (folder / "config.json").unlink(), r"no config\.json"),
    "pickled weights": (pickled, r"no \*\.safetensors; pickled weights are never loaded"),
    "broken config": (lambda folder: (folder / "config.json").write_text("{"), r"config\.json"),
    "unknown kind": (
        lambda folder: (folder / "config.json").write_text('{"model_type": "no such model"}'),
        "cannot be loaded",
    ),
    "cut weights": (
        lambda folder: (folder / "model.safetensors").write_bytes(
            (folder / "model.safetensors").read_bytes()[:-100]
        ),
        "cannot be loaded",
    ),
    "no tokenizer": (
        lambda folder: [file.unlink() for file in folder.glob("tokenizer*")],
        r"^The base in \S+ has no tokenizer that can be loaded; it needs .*tokenizer\.json [^\n]*$",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_base_is_an_error_that_names_the_folder(toy_folder: Path, tmp_path: Path, what: str) -> None:
    folder = tmp_path / "base"
    shutil.copytree(toy_folder, folder)
    spoil, message = BROKEN[what]
    spoil(folder)
    with pytest.raises(OppuError, match=message) as caught:
        load_base(str(folder), device="cpu")
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    "name", ["no/such/folder/here", "./missing", "/missing/base", "tinny", "", "~/none/here"]
)
def test_a_missing_base_is_an_error_that_says_what_to_use(name: str) -> None:
    with pytest.raises(ModelError, match=r"Use .tiny., a folder, a GGUF file, or|has no config\.json"):
        load_base(name, device="cpu")


def test_a_file_is_no_base(toy_folder: Path) -> None:
    with pytest.raises(ModelError, match="is no folder"):
        load_base(str(toy_folder / "config.json"), device="cpu")


@pytest.mark.parametrize("device", ["gpu", "", "cpu:x", "CPU!"])
def test_an_unknown_device_is_refused(toy_folder: Path, device: str) -> None:
    with pytest.raises(ConfigError, match=r"is no device; use auto, cpu, cuda"):
        load_base(str(toy_folder), device=device)


def test_an_absent_gpu_is_refused(toy_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for device in ("cuda", "cuda:99", "cpu:1"):
        with pytest.raises(ConfigError, match="no such device here"):
            load_base(str(toy_folder), device=device)
    with pytest.raises(ConfigError, match="not supported"):
        load_base(str(toy_folder), device="meta")
    assert load_base(str(toy_folder), device="auto").device == torch.device("cpu")
