"""The adapters of many users on one frozen model: each row of a batch goes through its user's adapter.

Weights are stacked along a leading user axis and applied by batched products, beside a model whose own
adapter is switched off. LoRA, (IA)³ and prompt tuning; the stacked tensors are PEFT's, under its names.

Axes: U users, T tokens, r rank, d sizes of a projection, v virtual tokens of a soft prompt.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from oppu_core.modeling.adapters import OWN, State, adapter_layers

Weights = Mapping[str, torch.Tensor]  # PEFT's names to tensors [U, ...]
Drop = Callable[[str, torch.Tensor], torch.Tensor]
SOFT_PROMPT = "prompt_embeddings"


def stack_states(states: Sequence[State], device: torch.device) -> dict[str, torch.Tensor]:
    """The weights of several users, stacked [U, ...]."""
    return {name: torch.stack([state[name] for state in states]).to(device) for name in states[0]}


class StackedAdapters:
    """Several users' adapters on one model.

    Args:
        peft_model: A model with an adapter attached (:func:`oppu_core.modeling.adapters.attach`).

    Attributes:
        weights: The stacked tensors; set them before using the model, as often as needed.
        drop: LoRA dropout: (layer name, inputs [U, T, d]) -> inputs; none by default.
    """

    def __init__(self, peft_model: Any) -> None:
        self._model = peft_model
        self.weights: Weights = {}
        self.drop: Drop | None = None

    @property
    def soft_prompt(self) -> torch.Tensor | None:
        """The users' soft prompts [U, v, d]; None for other adapters."""
        return self.weights.get(SOFT_PROMPT)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Within the block, use the stacked adapters instead of the model's own."""
        with contextlib.ExitStack() as undo:
            for name, layer in adapter_layers(self._model):
                undo.enter_context(_without_own(layer))
                if hasattr(layer, "lora_A"):
                    handle = layer.register_forward_hook(self._lora(name, layer.scaling[OWN]))
                elif layer.is_feedforward:
                    handle = layer.register_forward_pre_hook(self._scale_input(name))
                else:
                    handle = layer.register_forward_hook(self._scale_output(name))
                undo.callback(handle.remove)
            yield

    def _lora(self, name: str, scaling: float) -> Callable[..., torch.Tensor]:
        def hook(_layer: Any, args: Any, y_UTd: torch.Tensor) -> torch.Tensor:
            a_Urd, b_Udr = self.weights[f"{name}.lora_A.weight"], self.weights[f"{name}.lora_B.weight"]
            x_UTd = args[0].to(a_Urd.dtype)
            if self.drop:
                x_UTd = self.drop(name, x_UTd)
            low_UTr = torch.bmm(x_UTd, a_Urd.transpose(1, 2))
            # In the adapter's type, as in PEFT: float32 even beside a bfloat16 base.
            sum_UTd = torch.baddbmm(y_UTd.to(a_Urd.dtype), low_UTr, b_Udr.transpose(1, 2), alpha=scaling)
            return sum_UTd.to(y_UTd.dtype)

        return hook

    def _scale_output(self, name: str) -> Callable[..., torch.Tensor]:
        def hook(_layer: Any, _args: Any, y_UTd: torch.Tensor) -> torch.Tensor:
            return (y_UTd * self.weights[f"{name}.ia3_l"].flatten(1).unsqueeze(1)).to(y_UTd.dtype)

        return hook

    def _scale_input(self, name: str) -> Callable[..., Any]:
        def hook(_layer: Any, args: Any) -> Any:
            scaled_UTd = args[0] * self.weights[f"{name}.ia3_l"].flatten(1).unsqueeze(1)
            return (scaled_UTd.to(args[0].dtype), *args[1:])

        return hook


@contextlib.contextmanager
def _without_own(layer: Any) -> Iterator[None]:
    """Within the block, switch the layer's own adapter off; a stacked task LoRA stays on."""
    before, trainable = list(layer.active_adapters), [p for p in layer.parameters() if p.requires_grad]
    layer.set_adapter([one for one in before if one != OWN], inference_mode=True)
    try:
        yield
    finally:
        layer.set_adapter(before, inference_mode=True)
        for parameter in trainable:
            parameter.requires_grad_()
