"""16 bits: slow processors are told of beforehand, and nothing that is not a number passes for an answer."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from oppu_core.errors import ModelError, TrainingError
from oppu_core.modeling.adapters import adapter_state, attach
from oppu_core.modeling.base import Base, load_base
from oppu_core.modeling.dtypes import Dtype
from oppu_core.modeling.generation import Sampling, answer_groups, generate
from oppu_core.modeling.packing import TokenizedExample
from oppu_core.modeling.precision import slow_dtype
from oppu_core.training.config import TrainConfig
from oppu_core.training.trainer import Trainer

CPU = torch.device("cpu")
HASWELL = {"architecture": "x86_64", "avx2": True, "avx512_bf16": False, "amx_bf16": False}
SAPPHIRE_RAPIDS = {**HASWELL, "avx512_bf16": True, "amx_bf16": True, "avx512_fp16": True}
COOPER_LAKE = {**HASWELL, "avx512_bf16": True}
M1 = {"architecture": "aarch64", "neon": True, "fp16_arith": True, "bf16": False}
M2 = {**M1, "bf16": True}
CONFIG = TrainConfig(
    targets=("q_proj",), rank=2, alpha=4, dropout=0.0, learning_rate=1e-3, weight_decay=0.0, warmup=0.0,
    max_grad_norm=0.3, epochs=2, batch_size=2, seed=0,
)  # fmt: skip
ROWS = [TokenizedExample((5, 6, 7, 8), 2), TokenizedExample((9, 8, 7), 1)]


@pytest.mark.parametrize(
    ("capabilities", "slow"),
    [
        (HASWELL, ["bfloat16", "float16"]),
        (COOPER_LAKE, ["float16"]),
        (SAPPHIRE_RAPIDS, []),
        (M1, ["bfloat16"]),
        (M2, []),
        ({}, []),  # unknown
    ],
)
def test_a_processor_without_units_is_told_of(
    capabilities: Mapping[str, Any], slow: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    dtypes: tuple[Dtype, ...] = ("float32", "bfloat16", "float16")
    said = {dtype: slow_dtype(dtype, CPU) for dtype in dtypes}
    assert [dtype for dtype, text in said.items() if text] == slow
    for dtype, text in said.items():
        assert text is None or (f"no units for {dtype}" in text and "Take --dtype float32" in text)
    assert not any(slow_dtype(dtype, torch.device("cuda")) for dtype in dtypes)


def test_what_this_torch_calls_units_is_what_we_look_for() -> None:
    """On any machine: the names are among those that torch reports for it."""
    from oppu_core.modeling.precision import _UNITS

    known = torch.cpu.get_capabilities()
    arm = known["architecture"] != "x86_64"
    for names in _UNITS.values():
        assert any(name in known for name in (names[2:] if arm else names[:2]))


def test_an_older_torch_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert slow_dtype("bfloat16", CPU) is None


def spoiled(folder: Path, value: float, dtype: Dtype = "float32") -> Base:
    """A base whose head gives numbers that are not finite: as of float16, beyond 65,504."""
    base = load_base(str(folder), dtype, device="cpu")
    base.model.lm_head.weight.data[3] = value
    return base


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("way", ["packed", "padded", "sampled"])
def test_no_answer_is_read_off_logits_that_are_not_finite(toy_folder: Path, way: str, value: float) -> None:
    base = spoiled(toy_folder, value)
    with pytest.raises(ModelError, match=r"logits are not finite\. Its answers would be arbitrary"):
        if way == "packed":
            answer_groups(base.model, base.tokenizer, [["a:", "b"], ["c"]], None, max_new_tokens=3)
        else:
            sampling = Sampling() if way == "sampled" else None
            generate(base.model, base.tokenizer, ["a:", "bc"], max_new_tokens=3, sampling=sampling)


def test_labels_cannot_be_chosen_by_them_either(toy_folder: Path) -> None:
    from oppu_core.modeling.generation import AnswerSet

    base = spoiled(toy_folder, 0.0)
    base.model.lm_head.weight.data[:] = float("nan")
    answers = AnswerSet(base.tokenizer, ["yes", "no"])
    with pytest.raises(ModelError, match="not finite"):
        answer_groups(base.model, base.tokenizer, [["a:"]], None, max_new_tokens=3, answers=answers)
    with pytest.raises(ModelError, match="not finite"):
        generate(base.model, base.tokenizer, ["a:"], max_new_tokens=3, answers=answers)


def test_a_base_that_overflows_in_float16_is_refused_when_it_is_loaded(
    toy_folder: Path, tmp_path: Path
) -> None:
    base = load_base(str(toy_folder), device="cpu")
    base.model.lm_head.weight.data *= 1e5  # finite in float32
    base.model.save_pretrained(tmp_path / "large")
    base.tokenizer.hf.save_pretrained(tmp_path / "large")
    assert load_base(str(tmp_path / "large"), "bfloat16", "cpu").parameters
    with pytest.raises(ModelError, match=r"float16 overflows above 65,504: take --dtype float32 or bfloat16"):
        load_base(str(tmp_path / "large"), "float16", "cpu")


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_loss_that_overflows_is_an_error_with_advice(
    toy_folder: Path, dtype: Dtype, together: bool
) -> None:
    base = spoiled(toy_folder, float("inf"), dtype)
    base = dataclasses.replace(base, model=attach(base.model, CONFIG), supports_packing=together)
    ((_, outcome),) = Trainer(base, CONFIG, adapter_state(base.model)).train([ROWS])
    assert isinstance(outcome, TrainingError)
    assert "the loss became nan at step 1 of 2" in str(outcome) or "became inf" in str(outcome)
    assert ("take --dtype float32 or bfloat16" in str(outcome)) == (dtype == "float16")
