"""Adapters on a model, through ``peft``: attach, read, load, merge. LoRA, (IA)³ and prompt tuning.

Weights are plain dictionaries of tensors under PEFT's own names, so that stored adapters open with
``PeftModel.from_pretrained``.
"""

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from peft import (
    IA3Config,
    LoraConfig,
    PeftConfig,
    PeftModel,
    PromptTuningConfig,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.tuners.tuners_utils import BaseTunerLayer

from oppu_core.errors import ModelError
from oppu_core.modeling.families import ROLES, check_targets
from oppu_core.modeling.skeleton import projection_names, shared_projections

State = Mapping[str, torch.Tensor]
OWN = "default"  # the adapter that is trained and stored; PEFT's own name for a model's only adapter
PARTS = ("lora_A", "ia3_l")
TASK = "task"  # a task LoRA that is kept beside the weights instead of merged into them


class AdapterConfig(Protocol):
    """The part of :class:`oppu_core.training.config.TrainConfig` that defines an adapter."""

    @property
    def method(self) -> str:
        """``lora``, ``ia3`` or ``prompt_tuning``."""

    @property
    def targets(self) -> tuple[str, ...]:
        """The adapted projections, by the ends of their module names."""

    @property
    def rank(self) -> int:
        """LoRA r."""

    @property
    def alpha(self) -> int:
        """LoRA scaling numerator."""

    @property
    def dropout(self) -> float:
        """LoRA dropout."""

    @property
    def virtual_tokens(self) -> int:
        """The number of embeddings that prompt tuning learns."""

    @property
    def seed(self) -> int:
        """The seed of the initial weights."""

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether training trades time for memory."""


def peft_config(config: AdapterConfig) -> PeftConfig:
    """PEFT's configuration of the adapter that `config` describes."""
    shared: dict[str, Any] = {"task_type": "CAUSAL_LM"}
    if config.method == "prompt_tuning":
        shared |= {"num_virtual_tokens": config.virtual_tokens, "prompt_tuning_init": "SAMPLE_VOCAB"}
        return PromptTuningConfig(**shared)
    shared |= {"target_modules": list(config.targets)}
    if config.method == "ia3":
        # (IA)³ scales the outputs of projections, but the input of the feed-forward's last one.
        down = [name for name in config.targets if name in ROLES["down"]]
        return IA3Config(**shared, feedforward_modules=down)
    return LoraConfig(
        **shared, r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, bias="none"
    )


def adapter_config_json(peft_model: Any) -> dict[str, Any]:
    """What PEFT writes to ``adapter_config.json``, but reproducible.

    PEFT keeps lists as sets, whose order changes between processes, and would write the path of the base.
    """
    values = peft_model.peft_config[OWN].to_dict()
    values["inference_mode"] = True
    values["base_model_name_or_path"] = None
    plain = {key: sorted(value) if isinstance(value, set | list) else value for key, value in values.items()}
    return {key: getattr(value, "value", value) for key, value in plain.items()}


def attach(model: Any, config: AdapterConfig, name: str = OWN, *, training: bool = True) -> Any:
    """Put a fresh, trainable adapter on a frozen model (in place) and return the PEFT model.

    Its weights depend only on the configuration's seed. LoRA's B starts at zero and the scales of (IA)³ at
    one, so that the model's answers do not change; prompt tuning starts from embeddings of random tokens. A
    task LoRA that is stacked on the model stays active, and frozen.

    Raises:
        ConfigError: the model has no module of a targeted name, or one that shares its weights.
    """
    if config.method != "prompt_tuning":
        check_targets(config.targets, projection_names(model), shared_projections(model))
    stacked = any(TASK in getattr(module, "lora_A", ()) for module in model.modules())
    torch.manual_seed(config.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a second adapter, and settings that PEFT corrects by itself
        peft_model = get_peft_model(model, peft_config(config), name)
    if stacked and config.method == "lora":  # the other methods leave LoRA's layers as they are
        peft_model.base_model.set_adapter([TASK, name])
        peft_model.set_requires_grad(TASK, False)
    peft_model.eval()
    if config.gradient_checkpointing and training:
        peft_model.activation_checkpointing_enable({"use_reentrant": False})
    return peft_model


def soft_prompt(model: Any) -> torch.Tensor | None:
    """The embeddings [v, d] that prompt tuning puts in front of every prompt; None for other adapters."""
    if not isinstance(model, PeftModel) or not model.active_peft_config.is_prompt_learning:
        return None
    prompt_vd: torch.Tensor = model.get_prompt(batch_size=1)[0]
    return prompt_vd


@contextlib.contextmanager
def training_mode(peft_model: Any) -> Iterator[None]:
    """Within the block, switch on what only training uses: LoRA dropout and gradient checkpointing.

    The frozen base stays in evaluation mode, whatever dropout it was pretrained with.
    """
    for name, module in peft_model.named_modules():
        if name.endswith(f".lora_dropout.{OWN}") or getattr(module, "gradient_checkpointing", False):
            module.training = True
    try:
        yield
    finally:
        peft_model.eval()


def adapter_layers(peft_model: Any) -> Iterator[tuple[str, Any]]:
    """Yield the layers that carry the adapter: (prefix of their tensors' names, layer)."""
    for name, module in peft_model.named_modules():
        if isinstance(module, BaseTunerLayer) and any(OWN in getattr(module, part, ()) for part in PARTS):
            yield name, module


def adapter_state(peft_model: Any) -> dict[str, torch.Tensor]:
    """A copy of the adapter's weights under PEFT's names, sorted."""
    state = _state_dict(peft_model, OWN)
    return {name: state[name].detach().to("cpu", copy=True).contiguous() for name in sorted(state)}


def adapter_shapes(peft_model: Any, name: str = OWN) -> dict[str, torch.Size]:
    """The shapes of the adapter's weights under PEFT's names; the model may be on torch's meta device."""
    config = peft_model.peft_config[name]
    if config.is_prompt_learning:  # PEFT would copy the embeddings out of the model
        return {"prompt_embeddings": torch.Size((config.num_virtual_tokens, config.token_dim))}
    return {tensor: value.shape for tensor, value in _state_dict(peft_model, name).items()}


def _state_dict(peft_model: Any, name: str) -> State:
    # By default PEFT adds the base's own weights of a head that carries an adapter.
    state: State = get_peft_model_state_dict(peft_model, adapter_name=name, save_embedding_layers=False)
    return state


def load_state(peft_model: Any, state: State, name: str = OWN) -> None:
    """Overwrite the adapter's weights.

    Raises:
        ModelError: the names do not match this adapter; PEFT itself would silently keep the old weights.
    """
    expected = adapter_shapes(peft_model, name)
    wrong = {tensor: value for tensor, value in state.items()
             if tensor not in expected or expected[tensor] != value.shape}  # fmt: skip
    if wrong or len(expected) != len(state):
        raise ModelError(
            f"An adapter of {len(state)} tensors does not fit this model's {len(expected)}: "
            f"{', '.join(sorted(wrong or set(expected) - set(state)))}"
        )
    set_peft_model_state_dict(peft_model, dict(state), name)


def merge(model: Any, config: AdapterConfig, state: State) -> Any:
    """The model with a LoRA merged into its weights (W + alpha/r B A), as a plain model again."""
    peft_model = attach(model, config, training=False)
    load_state(peft_model, state)
    merged = peft_model.merge_and_unload()
    return merged.eval().requires_grad_(False)


def stack(model: Any, config: AdapterConfig, state: State) -> Any:
    """The model with a LoRA beside its weights: computes what :func:`merge` does, for weights of 4 or 8 bits
    that cannot be merged into. The same model is returned, with one more adapter."""
    peft_model = attach(model, config, TASK, training=False)
    load_state(peft_model, state, TASK)
    return peft_model.get_base_model().eval().requires_grad_(False)
