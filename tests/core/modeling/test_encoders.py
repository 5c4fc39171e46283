"""Sentence encoders: their own pooling, safetensors alone, and an identity of all that vectors hang on."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from oppu_core.errors import ModelError
from oppu_core.modeling.encoders import Encoder
from toy_encoder import write_encoder

pytest.importorskip("sentence_transformers")
TEXTS = ["A robot dreams.", "the sea", "a ship at sea, and " * 20, "the sea", "x"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoders") / "bert")


def means(folder: Path, texts: list[str]) -> np.ndarray:
    """The slow twin: one text at a time through plain transformers, the mean of its last hidden states."""
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    vectors = []
    for text in texts:
        inputs = tokenizer(text, truncation=True, max_length=64, return_tensors="pt")
        with torch.inference_mode():
            mean_d = model(**inputs).last_hidden_state[0].mean(0).numpy()
        vectors.append(mean_d / np.linalg.norm(mean_d))
    return np.array(vectors)


def test_vectors_are_the_mean_of_the_last_hidden_states(folder: Path) -> None:
    encoder, slow = Encoder(str(folder), device="cpu"), means(folder, TEXTS)
    vectors = encoder.documents(TEXTS)
    np.testing.assert_allclose(vectors, slow, atol=1e-5)
    np.testing.assert_allclose([encoder.query(text) for text in TEXTS], slow, atol=1e-5)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, Encoder(str(folder), device="cpu").documents(TEXTS))
    assert abs(slow @ slow.T - 1).max() > 0.05, "texts differ"


def test_an_encoders_own_pooling_counts_and_is_a_part_of_its_identity(folder: Path, tmp_path: Path) -> None:
    first = write_encoder(tmp_path / "cls", pooling="cls")
    assert np.abs(Encoder(str(first), device="cpu").documents(TEXTS) - means(folder, TEXTS)).max() > 0.05
    plain = Encoder(str(folder)).identity
    copied = shutil.copytree(folder, tmp_path / "copied")
    assert Encoder(str(copied)).identity == plain, "the place does not matter"
    others = [first, write_encoder(tmp_path / "seed", seed=1)]
    assert len({plain, *(Encoder(str(other)).identity for other in others)}) == 3


def test_another_encoder_in_the_same_place_is_refused(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "encoder"
    shutil.copytree(folder, place)
    known = Encoder(str(place)).identity
    before = Encoder(str(place), known, "cpu").documents(TEXTS)
    shutil.rmtree(place)
    write_encoder(place, seed=1)
    with pytest.raises(ModelError, match=r"no longer the one that the run was started with\. Put it back"):
        Encoder(str(place), known, "cpu").query("x")
    assert np.abs(Encoder(str(place), device="cpu").documents(TEXTS) - before).max() > 0.05


def edit(file: str, **values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def pickled(folder: Path) -> None:
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def pickled_part(folder: Path) -> None:
    (folder / "2_Dense").mkdir()
    torch.save({}, folder / "2_Dense" / "pytorch_model.bin")


def foreign_part(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([*modules[:1], {**modules[1], "type": "shutil.Error"}]))


def less(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights.pop("encoder.layer.1.output.dense.weight")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def wordless(folder: Path) -> None:
    words = json.loads((folder / "tokenizer.json").read_text())
    words["model"]["vocab"] = {word: n for word, n in words["model"]["vocab"].items() if n < 4}
    (folder / "tokenizer.json").write_text(json.dumps(words))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (pickled, r"pickled weights are never loaded\. .*save_pretrained"),
        (pickled_part, r"2_Dense/pytorch_model\.bin is pickled"),
        (edit("config.json", auto_map={"AutoModel": "code.Model"}), "code of its own"),
        (foreign_part, r"shutil\.Error"),
        (less, r"lack weights of the model, as encoder\.layer\.1\.output\.dense\.weight"),
        (wordless, "knows no words"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"?"), "It is damaged"),
    ],
)
def test_what_cannot_be_trusted_or_read_is_refused(
    folder: Path, tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    broken = shutil.copytree(folder, tmp_path / "broken")
    damage(broken)
    with pytest.raises(ModelError, match=rf"(?s)The encoder '.*broken' cannot be used: .*{said}"):
        Encoder(str(broken), device="cpu").query("x")


@pytest.mark.parametrize("name", ["nowhere", "./no/where", "a/b/c"])
def test_a_name_that_is_no_folder_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match=r"it is no folder\. Use a local folder, or a hub id"):
        Encoder(name).query("x")


def test_without_the_package_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "sentence_transformers" else found(name)
    )
    with pytest.raises(ModelError, match=r"pip install 'oppu-core\[dense\]'"):
        Encoder(str(folder)).query("x")
