"""Adapters on a model, through ``peft``: attach, reset, read, load. LoRA.

Weights travel as plain dictionaries of tensors under PEFT's own names, so that what is stored opens with
``PeftModel.from_pretrained``.
"""

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

from oppu_core.errors import ModelError
from oppu_core.training.config import TrainConfig

State = Mapping[str, torch.Tensor]


def lora_config(config: TrainConfig) -> LoraConfig:
    """PEFT's configuration of the LoRA that `config` describes."""
    return LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=list(config.targets),
        bias="none",
        task_type="CAUSAL_LM",
    )


def adapter_config_json(config: TrainConfig) -> dict[str, Any]:
    """What PEFT writes to ``adapter_config.json``, made the same in every run.

    PEFT keeps lists as sets, whose order changes from run to run, and would write the path of the base.
    """
    values = lora_config(config).to_dict()
    values["inference_mode"] = True
    values["base_model_name_or_path"] = None
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in values.items()}
    plain["target_modules"] = sorted(config.targets)
    return {key: getattr(value, "value", value) for key, value in plain.items()}


def attach(model: Any, config: TrainConfig) -> Any:
    """Put a fresh, trainable LoRA on a frozen model (in place) and return the PEFT model.

    A is drawn from the configuration's seed, B is zero: the model's answers do not change.

    Raises:
        ModelError: the model has no module of a targeted name.
    """
    names = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    missing = sorted(set(config.targets) - names)
    if missing:
        projections = ", ".join(sorted(name for name in names if not name.isdigit()))
        raise ModelError(
            f"The base has no module called {', '.join(missing)} for LoRA; its modules: {projections}. "
            "Name others with --set personal.targets=… and --set task_lora.targets=…."
        )
    torch.manual_seed(config.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns when a model gets a second adapter, as ours never do
        peft_model = get_peft_model(model, lora_config(config))
    peft_model.eval()
    if config.gradient_checkpointing:
        peft_model.gradient_checkpointing_enable({"use_reentrant": False})
    return peft_model


@contextlib.contextmanager
def training_mode(peft_model: Any) -> Iterator[None]:
    """Switch on, for the block, what is for training alone: LoRA dropout and gradient checkpointing.

    The frozen base stays in evaluation mode, whatever dropout it was pretrained with.
    """
    for name, module in peft_model.named_modules():
        if ".lora_dropout." in name or getattr(module, "gradient_checkpointing", False):
            module.training = True
    try:
        yield
    finally:
        peft_model.eval()


def adapter_state(peft_model: Any) -> dict[str, torch.Tensor]:
    """A copy of the adapter's weights, under PEFT's names, sorted."""
    state = get_peft_model_state_dict(peft_model)
    return {name: state[name].detach().to("cpu", copy=True).contiguous() for name in sorted(state)}


def load_state(peft_model: Any, state: State) -> None:
    """Overwrite the adapter's weights.

    Raises:
        ModelError: the names do not fit this adapter; PEFT alone would keep the old weights silently.
    """
    expected = get_peft_model_state_dict(peft_model)
    wrong = {name: value for name, value in state.items()
             if name not in expected or expected[name].shape != value.shape}  # fmt: skip
    if wrong or len(expected) != len(state):
        raise ModelError(
            f"An adapter of {len(state)} tensors does not fit this model's {len(expected)}: "
            f"{', '.join(sorted(wrong or set(expected) - set(state)))}"
        )
    set_peft_model_state_dict(peft_model, dict(state))


def merge(model: Any, config: TrainConfig, state: State) -> Any:
    """The model with an adapter folded into its weights (W + alpha/r B A), as a plain model again."""
    peft_model = attach(model, dataclasses.replace(config, gradient_checkpointing=False))
    load_state(peft_model, state)
    merged = peft_model.merge_and_unload()
    return merged.eval().requires_grad_(False)
