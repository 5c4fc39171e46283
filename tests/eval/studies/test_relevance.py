"""Sentence features against the obvious way (one text at a time), and what relevance makes of them."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from oppu_core.data import HistoryItem, Query, User
from oppu_core.errors import DataError, ModelError
from oppu_core.modeling.base import Base, load_base
from oppu_core.tasks.task import Task
from oppu_core.tasks.task_files import get_task
from oppu_eval.scoring.metrics import Array
from oppu_eval.studies.relevance import relevance, sentence_features

TEXTS = (
    "a robot dreams of the sea",
    "robot",
    "",
    "the sea of the robot " * 30,  # beyond the context of the encoder
    "a dream robot </s> [SEP] ?",
    *(" ".join(["sea", "robot", "dreams"][: n % 4] * n) for n in range(1, 20)),  # more than a batch
)


def no_base() -> NoReturn:
    raise AssertionError("the base is not needed")


@pytest.fixture(scope="module")
def tiny() -> Base:
    return load_base("tiny", device="cpu")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random DeBERTa-v2 of at most 16 tokens with a tokenizer of a few words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import AutoModel, DebertaV2Config, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("encoder") / "deberta"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *["a", "robot", "dreams", "of", "the", "sea"]]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
    config = DebertaV2Config(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=16,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        initializer_range=0.5,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModel.from_config(config).half().save_pretrained(folder)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return folder


def broken(encoder: Path, folder: Path, *without: str) -> Path:
    """A copy of the encoder that lacks some files."""
    folder.mkdir()
    for file in encoder.iterdir():
        if file.name not in without:
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


def unit(hidden_Td: Any) -> Array:
    mean_d = hidden_Td.double().mean(0).numpy()
    vector: Array = mean_d / np.linalg.norm(mean_d)
    return vector


@pytest.mark.slow
def test_features_of_the_base_are_the_mean_of_its_last_hidden_states(tiny: Base) -> None:
    import torch

    features, told = sentence_features("base", lambda: tiny, TEXTS)
    texts = [*TEXTS, "x " * 2 * tiny.tokenizer.context]
    vectors = features(texts)
    assert (
        told
        == f"Sentence features: mean-pooled last hidden states of the base tiny ({vectors.shape[1]} numbers)."
    )
    for text, vector in zip(texts, vectors, strict=True):
        ids = tiny.tokenizer.prompt_ids(text)[: tiny.tokenizer.context]
        if not ids:
            assert not text and not vector.any()
            continue
        with torch.inference_mode():
            states = tiny.model(torch.tensor([ids]), output_hidden_states=True).hidden_states
        np.testing.assert_allclose(vector, unit(states[-1][0]), atol=1e-5)


def test_features_of_an_encoder_are_the_mean_of_its_last_hidden_states(encoder: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    features, told = sentence_features(str(encoder), no_base, TEXTS, "cpu")
    assert told.endswith(f"of the encoder {encoder} (32 numbers).")
    vectors = features(TEXTS)
    model = AutoModel.from_pretrained(encoder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    for text, vector in zip(TEXTS, vectors, strict=True):
        ids = tokenizer(text)["input_ids"]
        if len(ids) > 16:
            ids = [*ids[:15], ids[-1]]  # the closing token stays
        with torch.inference_mode():
            hidden_Td = model(torch.tensor([ids])).last_hidden_state[0]
        np.testing.assert_allclose(vector, unit(hidden_Td), atol=1e-5)


@pytest.mark.parametrize("kind", ["base", "encoder"])
def test_what_shares_a_batch_does_not_change_a_vector(kind: str, tiny: Base, encoder: Path) -> None:
    name = "base" if kind == "base" else str(encoder)
    features, _ = sentence_features(name, lambda: tiny, TEXTS, "cpu")
    short = "a robot dreams"
    alone, beside = features([short])[0], features([short, "the sea " * 6])[0]
    np.testing.assert_allclose(alone, beside, atol=1e-6)
    assert np.abs(alone - features(["the sea"])[0]).max() > 1e-3
    assert np.linalg.norm(alone) == pytest.approx(1)


def test_tfidf_compares_words_and_the_rare_ones_more() -> None:
    texts = ["robot sea", "robot moon", "robot river", "sea"]
    features, told = sentence_features("tfidf", no_base, texts)
    assert told == "Sentence features: TF-IDF of the 4 most frequent words in these texts."
    vectors = features(["robot sea", "sea robot", "moon river", "sea", "robot", "unheard of", ""])
    cosines = vectors @ vectors.T
    np.testing.assert_allclose(np.diag(cosines), [1, 1, 1, 1, 1, 0, 0])
    assert cosines[0, 1] == pytest.approx(1)
    assert cosines[0, 2] == 0
    assert cosines[0, 3] > cosines[0, 4] > 0


def test_texts_without_a_word_have_no_tfidf() -> None:
    with pytest.raises(DataError, match="choose another encoder"):
        sentence_features("tfidf", no_base, ["?", ""])


# --- relevance -------------------------------------------------------------------------------------------


def film(number: int, text: str, tag: str) -> HistoryItem:
    return HistoryItem(f"h{number}", {"description": text, "tag": tag})


@pytest.fixture
def user() -> User:
    items = (film(0, "north", "comedy"), film(1, "east", "action"), film(2, "later", "comedy"))
    queries = tuple(
        Query(f"q{i}", {"description": text}, "comedy", 2 + i) for i, text in enumerate(["up", "down"])
    )
    return User("u", "test", items, queries)


def test_relevance_is_the_mean_cosine_of_the_rendered_item_with_the_queries(
    tagging: Task, user: User
) -> None:
    vectors = {
        "description: north tag: comedy": [1.0, 0.0, 0.0],
        "description: east tag: action": [0.0, 0.6, 0.8],
        "up": [0.6, 0.8, 0.0],
        "down": [-1.0, 0.0, 0.0],
    }

    def features(texts: Sequence[str]) -> Array:
        return np.array([vectors[text] for text in texts])  # an item of the future has no vector

    both = relevance(tagging, user, user.queries, features)
    np.testing.assert_allclose(both, [(0.6 - 1) / 2, 0.48 / 2])
    np.testing.assert_allclose(relevance(tagging, user, user.queries[1:], features), [-1, 0], atol=1e-12)


def test_all_input_fields_of_a_query_count() -> None:
    task, seen = get_task("lamp_1"), []

    def features(texts: Sequence[str]) -> Array:
        seen.extend(texts)
        return np.ones((len(texts), 1))

    item = HistoryItem("h", {"title": "Mine", "abstract": "", "citation": ""})
    query = Query("q", {"option_2": "C", "option_1": "B", "title": "A"}, "[1]", 1)
    relevance(task, User("u", "test", (item,), (query,)), (query,), features)
    assert seen == ["paper title: Mine", "A B C"]


def test_a_user_without_history_has_no_relevances_and_one_without_queries_is_refused(
    tagging: Task, user: User
) -> None:
    features, _ = sentence_features("tfidf", no_base, ["north east up down"])
    query = Query("q", {"description": "up"}, None, 0)
    assert relevance(tagging, User("u", "test", (), (query,)), (query,), features).shape == (0,)
    with pytest.raises(DataError, match="'u' has no query"):
        relevance(tagging, user, (), features)


def test_items_that_share_words_with_the_query_are_the_relevant_ones(tagging: Task) -> None:
    sea, war = "A quiet boat drifts on the silver sea.", "Soldiers march to war at dawn."
    items = tuple(film(i, text, "comedy") for i, text in enumerate([sea, war] * 3))
    query = Query("q", {"description": "The sea is quiet and a boat drifts."}, "comedy", 6)
    one = User("u", "test", items, (query,))
    features, _ = sentence_features("tfidf", no_base, [sea, war, query.fields["description"]])
    found = relevance(tagging, one, one.queries, features)
    assert found[::2].min() > found[1::2].max()


# --- encoders that cannot be used ------------------------------------------------------------------------


def refusal(name: Path | str, texts: Sequence[str] = ("a robot",)) -> str:
    with pytest.raises(ModelError) as raised:
        sentence_features(str(name), no_base, texts, "cpu")
    message = str(raised.value)
    assert message.startswith(f"The encoder {str(name)!r} cannot be used: ")
    return message


@pytest.mark.parametrize("name", ["nope", "tiny", "/nowhere/at/all", "./nowhere"])
def test_what_is_no_folder_is_refused(name: str) -> None:
    assert "Use 'base', 'tfidf', a local folder, or a hub id" in refusal(name)


def test_a_hub_id_is_fetched_without_pickles(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def fetched(name: str, allow_patterns: Sequence[str]) -> str:
        assert name == "some/encoder" and not any("bin" in pattern for pattern in allow_patterns)
        return str(encoder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetched)
    _, told = sentence_features("some/encoder", no_base, TEXTS, "cpu")
    assert "of the encoder some/encoder (" in told

    def unreachable(name: str, allow_patterns: Sequence[str]) -> str:
        raise OSError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    assert "could not be fetched from the hub: no route" in refusal("some/encoder")


def test_pickled_weights_are_refused_with_the_way_to_convert_them(encoder: Path, tmp_path: Path) -> None:
    folder = broken(encoder, tmp_path / "pickled", "model.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"never opened")
    message = refusal(folder)
    assert "pickled weights are never loaded" in message and "save_pretrained" in message
    (folder / "other.safetensors").write_bytes((encoder / "model.safetensors").read_bytes())
    assert "no file named model.safetensors" in refusal(folder), "the pickle is not looked at"


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path, encoder: Path) -> None:
    assert "no config.json" in refusal(tmp_path)
    folder = broken(encoder, tmp_path / "list", "config.json")
    (folder / "config.json").write_text("{")
    assert "config.json" in refusal(folder)
    (folder / "config.json").write_text('{"model_type": "unheard_of"}')
    assert "unheard_of" in refusal(folder)


def test_code_that_comes_with_a_model_is_never_run(encoder: Path, tmp_path: Path) -> None:
    folder = broken(encoder, tmp_path / "code")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "own.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert "code of its own" in refusal(folder)
    assert not (tmp_path / "ran").exists()


def test_a_tokenizer_that_is_missing_or_knows_nothing_is_refused(encoder: Path, tmp_path: Path) -> None:
    folder = broken(encoder, tmp_path / "mute", "tokenizer.json", "tokenizer_config.json")
    assert "tokenizer.json" in refusal(folder)
    assert "knows no word of these texts" in refusal(encoder, ["xylophone", "zither"])
    sentence_features(str(encoder), no_base, ["xylophone", "the zither"], "cpu")  # a word is enough


def test_weights_that_are_missing_are_not_made_up(encoder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = broken(encoder, tmp_path / "partial")
    weights = load_file(folder / "model.safetensors")
    del weights["embeddings.word_embeddings.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "lack weights of the model, as embeddings.word_embeddings.weight" in refusal(folder)


def test_an_encoder_with_a_decoder_is_refused(encoder: Path, tmp_path: Path) -> None:
    from transformers import T5Config, T5Model

    folder = broken(encoder, tmp_path / "t5", "config.json", "model.safetensors")
    config = T5Config(vocab_size=10, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    T5Model(config).save_pretrained(folder)
    assert "only encodes" in refusal(folder)


@pytest.mark.slow
def test_nothing_heavy_is_loaded_before_it_is_needed() -> None:
    code = (
        "import sys, oppu_eval.studies.relevance, oppu_eval.studies.histories;"
        "print({'torch', 'sklearn', 'scipy', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "set()"
