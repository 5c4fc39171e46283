"""Load a base: the model and its tokenizer's conventions. Knows nothing of users, tasks or adapters."""

import dataclasses
import logging
from typing import Any

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, GenerationConfig
from transformers.utils import logging as transformers_logging

from oppu_core.errors import ConfigError, ModelError, explained, reason
from oppu_core.modeling.base_files import BaseIdentity, base_folder, base_identity, hf_tokenizer
from oppu_core.modeling.dtypes import Dtype, PromptFormat, Quantize
from oppu_core.modeling.tokenizer import Tokenizer, special_ids
from oppu_core.modeling.trial import Trial, try_out

transformers_logging.disable_progress_bar()  # a bar for loading weights would cut through ours
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it tells of every cast of every int8 product


_trials: dict[tuple[object, ...], Trial] = {}  # a run loads its base for every task base: one trial will do


@dataclasses.dataclass(frozen=True)
class Base:
    """A loaded base.

    Attributes:
        name: What the user called it: ``tiny``, a folder, or a Hugging Face id.
        model: The causal language model, frozen, in evaluation mode.
        tokenizer: Text to ids and back.
        identity: What tells it from other bases.
        supports_packing: Whether it can read packed rows; found by :mod:`oppu_core.modeling.trial`, as are
            the next ones.
        supports_padding: Whether a padded batch gives the same answers as its prompts one at a time.
        supports_padded_training: Whether a batch that is padded on the right gives the loss of its rows one
            at a time.
        caution: What to tell people: which slower way than packed rows it takes, and why; that it is not
            causal.
    """

    name: str
    model: Any
    tokenizer: Tokenizer
    identity: BaseIdentity
    supports_packing: bool = True
    supports_padding: bool = True
    supports_padded_training: bool = True
    caution: str | None = None

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        device: torch.device = self.model.device
        return device

    @property
    def parameters(self) -> int:
        """How many parameters the model has."""
        count: int = self.model.num_parameters()
        return count


def pick_device(name: str) -> torch.device:
    """``auto`` takes a CUDA GPU if there is one, else the CPU.

    Raises:
        ConfigError: the device is unknown or absent.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"--device {name!r} is no device; use auto, cpu, cuda, cuda:N or mps.") from error
    present = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if device.type not in present:
        raise ConfigError(f"--device {name!r} is not supported; use auto, cpu, cuda, cuda:N or mps.")
    if (device.index or 0) >= present[device.type]:
        raise ConfigError(f"--device {name}: there is no such device here; use --device auto or cpu.")
    return device


def load_base(
    name: str,
    dtype: Dtype = "float32",
    device: str = "auto",
    quantize: Quantize | None = None,
    prompt_format: PromptFormat = "plain",
) -> Base:
    """Load a base for training adapters and answering.

    Args:
        name: ``tiny``, a folder, or a hub id.
        dtype: The type of the frozen weights; adapters are always float32.
        device: ``auto``, ``cpu``, ``cuda`` …
        quantize: Hold its linear maps in 4 bits (QLoRA's NF4) or 8 bits (LLM.int8), computing in `dtype`.
            8 bits look for outliers in the whole batch, so that answers can depend on what shares it.
        prompt_format: ``chat`` puts prompts into its chat template.

    Raises:
        ModelError: it cannot be loaded or asked, or its tokenizer does not fit.
    """
    target = pick_device(device)
    folder = base_folder(name)
    identity = base_identity(folder, dtype, quantize, prompt_format)
    hf = hf_tokenizer(folder)
    options: dict[str, Any] = {}
    if quantize:
        options = {"quantization_config": _quantization(quantize, dtype), "device_map": {"": target}}
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are told apart below
            **options,
        )
    except Exception as error:
        raise ModelError(f"The base in {folder} cannot be loaded: {reason(error)}") from error
    mismatched = (name for name, *_ in found["mismatched_keys"])
    if lacking := sorted([*found["missing_keys"], *mismatched]):
        raise ModelError(  # they would be drawn by chance, anew at every load
            f"The base in {folder} lacks {len(lacking)} weights of a {type(model).__name__}, or has them in "
            f"other shapes, e.g. {lacking[0]}. Take a whole checkpoint of a causal language model."
        )
    model.generation_config = GenerationConfig()  # no penalties or beams of the folder's: greedy is greedy
    for module in model.modules():
        # On some CPUs bitsandbytes repacks 4-bit weights in place once they are only read, for a kernel of
        # another precision: answers would not be those of the model that adapters were trained on.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    with explained(f"Loading the base in {folder}", ModelError):
        if not quantize:  # else it lies where it belongs; bitsandbytes refuses to move it
            model = model.to(target)
        model = model.eval().requires_grad_(False)
        embedding = model.get_input_embeddings()
        tokenizer = Tokenizer(hf, identity.context, getattr(embedding, "num_embeddings", None))
        if prompt_format == "chat":
            tokenizer = tokenizer.chatting()
        key = (try_out, identity, target)
        if key not in _trials:
            _trials[key] = try_out(model, _plain_ids(hf, embedding), tokenizer.pad_id, identity.context)
        trial = _trials[key]
    return Base(
        name,
        model,
        tokenizer,
        identity,
        supports_packing=trial.packing_problem is None,
        supports_padding=trial.padding_problem is None,
        supports_padded_training=trial.padded_training_problem is None,
        caution=_caution(type(model).__name__, trial),
    )


def _plain_ids(hf: Any, embedding: Any) -> list[int]:
    """The tokens that the model knows and that stand in texts."""
    special = special_ids(hf)
    known = range(min(len(hf), getattr(embedding, "num_embeddings", len(hf))))
    return [index for index in known if index not in special]


def _caution(name: str, trial: Trial) -> str | None:
    said = []
    if trial.packing_problem is not None:
        ways = ["with padded batches" if trial.padding_problem is None else "answered one prompt at a time"]
        if trial.padded_training_problem:
            ways.append("trained one example at a time")
        reasons = (trial.packing_problem, trial.padding_problem, trial.padded_training_problem)
        said.append(f"Slower, {', '.join(ways)}: {'; '.join(filter(None, reasons))}.")
    if trial.looks_ahead:
        said.append(
            f"A {name} is not causal: a token sees those behind it, so that adapters learn to read the "
            "answer off itself. Take another base."
        )
    return " ".join(said) or None


def _quantization(quantize: Quantize, dtype: Dtype) -> BitsAndBytesConfig:
    if quantize == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=getattr(torch, dtype)
    )
