"""A base that is not what it says is refused when it is loaded; small updates of its weights are not lost."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from oppu_core.data.dataset_writer import write_dataset
from oppu_core.data.sample import sample_users
from oppu_core.errors import ModelError
from oppu_core.modeling.adapters import adapter_state, attach, load_state, merge, stack
from oppu_core.modeling.base import load_base
from oppu_core.modeling.base_files import TINY_FOLDER, base_identity
from oppu_core.runs.config import resolve_config
from oppu_core.runs.options import RunOptions
from oppu_core.tasks.task_files import TASKS
from oppu_core.training.config import PERSONAL_RATES, TrainConfig
from safetensors.torch import load_file, save_file
from toy_models import write_model

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
IDS = torch.tensor([[0, 50, 61, 70, 8, 90, 33]])


def copy_of(folder: Path, place: Path) -> Path:
    return Path(shutil.copytree(folder, place))


def test_a_base_that_lacks_weights_is_refused(tmp_path: Path, toy_folder: Path) -> None:
    folder = copy_of(toy_folder, tmp_path / "base")
    weights = load_file(folder / "model.safetensors")
    gone = weights.pop("model.layers.1.mlp.down_proj.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights of a LlamaForCausalLM.*layers\.1\.mlp\.down_proj"):
        load_base(str(folder), device="cpu")
    weights["model.layers.1.mlp.down_proj.weight"] = gone[:, :-1].contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights.*other shapes, e\.g\. model\.layers\.1\.mlp"):
        load_base(str(folder), device="cpu")


def test_an_adapter_beside_the_base_is_refused(tmp_path: Path, toy_folder: Path) -> None:
    folder = copy_of(toy_folder, tmp_path / "base")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(ModelError, match="has an adapter beside the base's weights"):
        load_base(str(folder), device="cpu")


@pytest.mark.parametrize("looks_ahead", [True, False])
def test_a_base_that_looks_ahead_is_told(tmp_path: Path, looks_ahead: bool) -> None:
    from transformers import BertConfig

    config = BertConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        is_decoder=not looks_ahead,
        initializer_range=0.3,
    )
    folder = str(write_model(tmp_path / "bert", config))
    caution = load_base(folder, device="cpu").caution or ""
    assert ("A BertLMHeadModel is not causal" in caution) == looks_ahead


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_task_base_is_the_model_that_was_trained(dtype: Any) -> None:
    """Updates as small as the paper's rate makes them; merged into few bits, most are rounded away."""
    config = TrainConfig(TARGETS, 1e-3, 1, 1, 0)

    def logits(join: Any) -> torch.Tensor:
        base = load_base("tiny", dtype=dtype, device="cpu")
        model = join(base.model)
        with torch.no_grad():
            result: torch.Tensor = model(IDS).logits.float()
        return result

    draw = torch.Generator().manual_seed(0)
    fresh = adapter_state(attach(load_base("tiny", dtype=dtype, device="cpu").model, config))
    state = {name: torch.randn(tensor.shape, generator=draw) * 0.003 for name, tensor in fresh.items()}

    def trained(model: Any) -> Any:
        peft_model = attach(model, config)
        load_state(peft_model, state)
        return peft_model

    as_trained = logits(trained)
    exact = base_identity(TINY_FOLDER, dtype).takes_merging
    assert exact == (dtype == "float32")
    joined = logits(lambda model: (merge if exact else stack)(model, config, state))
    assert (joined - as_trained).abs().max() <= 1e-5 * as_trained.abs().max()


def test_settings_go_by_the_number_of_parameters_not_by_the_files_size(tmp_path: Path) -> None:
    from transformers import LlamaConfig

    config = LlamaConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=8,
        num_attention_heads=2,
        max_position_embeddings=256,
    )
    folder = write_model(tmp_path / "single", config)
    half = copy_of(folder, tmp_path / "half")
    weights = {name: tensor.bfloat16() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, half / "model.safetensors", metadata={"format": "pt"})
    users = sample_users(TASKS["lamp_2m"], test_users=1, other_users=1, history=(2, 3), queries=1, seed=0)
    write_dataset(tmp_path / "data", TASKS["lamp_2m"], users, {"kind": "sample world"})
    rates = [
        resolve_config(RunOptions(
            data=[tmp_path / "data"], model=str(base), methods=["oppu_k0"], preset="auto", settings=[],
            dtype="float32", seed=0, users=None, sample=False,
        )).personal["lamp_2m"].learning_rate
        for base in (folder, half)
    ]  # fmt: skip
    assert sum(tensor.numel() for tensor in weights.values()) < 3_000_000
    assert 4 * sum(tensor.numel() for tensor in weights.values()) > 6_000_000
    assert rates == [PERSONAL_RATES["lora"]["tiny"]] * 2
