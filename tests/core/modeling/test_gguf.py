"""A GGUF file is the base that it was made from: its weights, its tokens, its answers."""

import json
from pathlib import Path

import pytest
import torch
from oppu_core.errors import ConfigError, ModelError
from oppu_core.modeling import base_files, gguf_files
from oppu_core.modeling.base import Base, load_base
from oppu_core.modeling.base_files import TINY_FOLDER, base_folder, base_identity, gguf_file
from oppu_core.modeling.generation import generate
from oppu_core.modeling.gguf_files import import_gguf
from safetensors.torch import load_file

gguf = pytest.importorskip("gguf")
PROMPTS = ["Which tag fits? A wizard's ship, in 1984.\n", "né 🎬 {tag}", "</s> is five characters"]


def write_gguf(file: Path, kind: str = "F32", without: str = "") -> Path:
    """The shipped base as llama.cpp's converter would write it."""
    config = json.loads((TINY_FOLDER / "config.json").read_text())
    words = json.loads((TINY_FOLDER / "tokenizer.json").read_text())
    vocabulary = sorted(words["model"]["vocab"], key=words["model"]["vocab"].__getitem__)
    special = {token["content"] for token in words["added_tokens"]}
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3 if word in special else 1 for word in vocabulary])
    writer.add_token_merges([" ".join(pair) for pair in words["model"]["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(True)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, tensor in load_file(TINY_FOLDER / "model.safetensors").items():
        if without and without in name:
            continue
        weights = tensor.float()
        if ".q_proj." in name or ".k_proj." in name:  # llama.cpp turns pairs of places, not halves
            heads = config["num_attention_heads"]
            weights = (
                weights.view(heads, 2, weights.shape[0] // heads // 2, -1)
                .swapaxes(1, 2)
                .reshape(tensor.shape)
            )
        values = weights.numpy()
        key = names.get_name(name, (".weight",))
        if weights.dim() > 1 and kind != "F32":
            type_ = gguf.GGMLQuantizationType[kind]
            writer.add_tensor(key, gguf.quants.quantize(values, type_), raw_dtype=type_)
        else:
            writer.add_tensor(key, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.fixture(scope="module")
def tiny() -> Base:
    return load_base("tiny", device="cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "assets"
    monkeypatch.setattr("huggingface_hub.utils._cache_assets.HF_ASSETS_CACHE", str(folder))
    return folder


def answers(base: Base) -> list[str]:
    return generate(base.model, base.tokenizer, PROMPTS, max_new_tokens=8, batch_size=2)


def test_it_is_the_base_that_it_was_made_from(tiny: Base, tmp_path: Path) -> None:
    base = load_base(str(write_gguf(tmp_path / "base.gguf")), device="cpu")
    for name, weights in tiny.model.state_dict().items():
        assert torch.equal(base.model.state_dict()[name], weights), name
    for text in PROMPTS:
        assert base.tokenizer.prompt_ids(text) == tiny.tokenizer.prompt_ids(text)
        assert base.tokenizer.answer_ids(text) == tiny.tokenizer.answer_ids(text)
    assert base.tokenizer.context == tiny.tokenizer.context
    assert base.supports_packing
    assert answers(base) == answers(tiny)


def test_a_quantized_file_is_nearly_the_base_and_is_written_in_half_precision(
    tiny: Base, tmp_path: Path
) -> None:
    file = write_gguf(tmp_path / "base.Q8_0.gguf", "Q8_0")
    folder = base_folder(str(file))
    written = load_file(folder / "model.safetensors")
    assert {weights.dtype for weights in written.values()} == {torch.float16}
    for name, weights in written.items():
        exact = tiny.model.state_dict()[name]
        # 8 bits for the greatest of each 32: half a step of 1/127 of the greatest, and float16's rounding.
        assert (weights.float() - exact).abs().max() <= exact.abs().max() / 127, name


def test_its_bytes_alone_identify_it_and_it_is_turned_into_a_folder_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_gguf(tmp_path / "base.gguf")
    identity = base_identity(base_folder(str(file)), "float32")
    elsewhere = tmp_path / "models" / "renamed.gguf"
    elsewhere.parent.mkdir()
    file.rename(elsewhere)
    monkeypatch.setattr(gguf_files, "import_gguf", lambda *_: pytest.fail("again"))
    assert base_identity(base_folder(str(elsewhere)), "float32") == identity
    assert base_identity(base_folder(str(elsewhere.parent)), "float32") == identity, "its folder will do"


def test_the_imported_folder_is_the_same_base(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "base.gguf")
    import_gguf(file, tmp_path / "folder")
    assert base_identity(tmp_path / "folder", "float32") == base_identity(base_folder(str(file)), "float32")
    with pytest.raises(ConfigError, match="is there already"):
        import_gguf(file, tmp_path / "folder")


def test_what_cannot_be_read_is_said_and_nothing_is_left(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_gguf(tmp_path / "base.gguf")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(file.read_bytes()[:5000])
    none = tmp_path / "none.gguf"
    none.write_bytes(b"PK\x03\x04 is a zip")
    for wrong in (broken, none):
        with pytest.raises(ModelError, match=f"{wrong.name} cannot be read as a GGUF .* is damaged, cut off"):
            base_folder(str(wrong))
    with pytest.raises(ModelError, match=r"lacks 1 weights of a LlamaForCausalLM, e\.g\. model\.layers\.1"):
        base_folder(str(write_gguf(tmp_path / "less.gguf", without="layers.1.mlp.up_proj")))
    part = tmp_path / "base-00001-of-00002.gguf"
    file.rename(part)
    with pytest.raises(ModelError, match="a part of a split model"):
        base_folder(str(part))
    with pytest.raises(ModelError, match=r"There is no file \./away\.gguf"):
        base_folder("./away.gguf")
    with pytest.raises(ModelError, match=r"several GGUF files \(base-00001-of-00002.gguf, broken.gguf"):
        base_folder(str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ModelError, match=r"pip install 'oppu-core\[gguf\]'"):
        base_folder(str(broken))
    assert not [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_one_on_the_hub_is_named_by_its_repository_and_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    file = write_gguf(tmp_path / "base.gguf")

    def download(repository: str, path: str) -> str:
        asked.append((repository, path))
        return str(file)

    listed = ["README.md", "q4/base.gguf"]
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path / "empty"))
    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", lambda *_: listed)
    assert gguf_file("org/name/q4/base.gguf") == file
    folder = base_folder("org/name/q4/base.gguf")
    assert base_folder("org/name") == folder, "its only one"
    assert asked == [("org/name", "q4/base.gguf")] * 3
    listed.append("q8/base.gguf")
    with pytest.raises(ModelError, match=r"name one: org/name/q4/base\.gguf, org/name/q8/base\.gguf"):
        base_folder("org/name")
    assert base_files.is_gguf("org/name/q4/base.gguf") and not base_files.is_gguf("org/name")
