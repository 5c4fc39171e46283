"""What numbers of 16 bits cost: processors that are slow with them, and results that overflow."""

from collections.abc import Mapping
from typing import Any

import torch

from oppu_core.errors import ModelError
from oppu_core.modeling.dtypes import Dtype

# Instructions that multiply in a type, by torch.cpu.get_capabilities' names: of x86, then of Arm.
_UNITS: Mapping[Dtype, tuple[str, ...]] = {
    "bfloat16": ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"),
    "float16": ("avx512_fp16", "amx_fp16", "fp16_arith"),
}


def slow_dtype(dtype: Dtype, device: torch.device) -> str | None:
    """What to say where computing in a type takes many times longer than in float32; None elsewhere.

    Without units for a type, torch converts and multiplies number by number.
    """
    # Older versions of torch do not tell.
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    units = _UNITS.get(dtype, ())
    if device.type != "cpu" or not units or not capabilities or any(capabilities.get(one) for one in units):
        return None
    return (
        f"This processor has no units for {dtype}: everything takes many times as long as in float32. "
        "Take --dtype float32 (twice the memory), or a GPU."
    )


def overflow_advice(model: Any) -> str:
    """What to do about numbers that are not finite, as an end of a sentence; empty unless float16 is why."""
    if model.dtype != torch.float16:
        return ""
    return " (float16 overflows above 65,504: take --dtype float32 or bfloat16)"


def check_finite(model: Any, chosen: torch.Tensor) -> None:
    """Refuse to choose tokens by logits that are not numbers: the first token would win, silently.

    Args:
        model: The model.
        chosen: The highest logit of each choice; NaN if any is.

    Raises:
        ModelError: one is not finite.
    """
    if not bool(torch.isfinite(chosen).all()):
        raise ModelError(
            f"The base's logits are not finite{overflow_advice(model)}. Its answers would be arbitrary."
        )
