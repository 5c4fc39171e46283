"""Load a base: the model, its tokenizer's conventions, and a fingerprint of both.

``tiny`` is the base that ships with this package. Knows nothing of users, tasks or adapters.
"""

import dataclasses
import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
)
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging as transformers_logging

from oppu_core.errors import ConfigError, DataError, ModelError, explained, reason
from oppu_core.modeling.dtypes import Dtype, Quantize
from oppu_core.modeling.tokenizer import Tokenizer, special_ids
from oppu_core.modeling.trial import Trial, try_out
from oppu_core.storage.files import file_sha256, read_json

TINY = "tiny"
TINY_FOLDER = Path(__file__).parent / "tiny_base"
transformers_logging.disable_progress_bar()  # a bar for loading weights would cut through ours
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it tells of every cast of every int8 product
MAX_LENGTH = 2048  # tokens of prompt and answer together, as in the authors' code


@dataclasses.dataclass(frozen=True)
class BaseIdentity:
    """What weights that are trained on a base depend on.

    Attributes:
        fingerprint: The sha256 over configuration, tokenizer and weights.
        dtype: The type of its weights in memory; of what is computed with them where they are quantized.
        context: How many tokens prompt and answer may have together.
        quantize: How its weights were quantized on loading.
    """

    fingerprint: str
    dtype: Dtype
    context: int
    quantize: Quantize | None = None

    @property
    def takes_merging(self) -> bool:
        """Whether a LoRA can be added to its weights: to those of fewer bits it would be rounded away."""
        return self.dtype == "float32" and self.quantize is None


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


def base_folder(name: str) -> Path:
    """The folder of a base: the shipped one, a local folder, or a snapshot from the Hugging Face hub.

    Only safetensors are ever fetched or read; a pickled checkpoint could run code.

    Raises:
        ModelError: nothing usable is there.
    """
    folder = TINY_FOLDER if name == TINY else Path(name).expanduser()
    if not folder.is_dir() and (folder.exists() or name.count("/") != 1 or name.startswith((".", "/", "~"))):
        raise ModelError(
            f"The base {name!r} is no folder. Use 'tiny', a local folder, or a hub id (org/name)."
        )
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        try:
            patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
            folder = Path(snapshot_download(name, allow_patterns=patterns))
        except Exception as error:  # the hub client raises many kinds; all mean the same to the user
            raise ModelError(
                f"The base {name!r} is no folder here, and could not be fetched from the hub: {error}"
            ) from error
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json; it is no Hugging Face model folder.")
    if not any(folder.glob("*.safetensors")):
        raise ModelError(f"{folder} has no *.safetensors; pickled weights are never loaded. Convert them.")
    if (folder / "adapter_config.json").exists():  # transformers would put it on the base, silently
        raise ModelError(
            f"{folder} has an adapter beside the base's weights (adapter_config.json). Move it away or, if "
            "it belongs to the base, merge it."
        )
    return folder


def _read_config(folder: Path) -> Mapping[str, Any]:
    try:
        config = read_json(folder / "config.json")
    except DataError as error:
        raise ModelError(f"The base in {folder} cannot be loaded: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{folder / 'config.json'} is no model configuration.")
    if "auto_map" in config:
        raise ModelError(f"The base in {folder} brings code of its own (auto_map), which is never run.")
    return config


def base_skeleton(folder: Path) -> Any:
    """A base without its weights (on torch's meta device): its modules, from ``config.json`` alone.

    Raises:
        ModelError: the configuration is none of a causal language model.
    """
    _read_config(folder)
    try:
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds for a broken configuration
        raise ModelError(f"The base in {folder} cannot be loaded: {type(error).__name__}: {error}") from error


def projection_names(model: Any) -> list[str]:
    """The full names of a model's linear maps, also of those that carry an adapter already."""
    return [
        name.removesuffix(".base_layer")
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D)
    ]


def shared_projections(model: Any) -> dict[str, str]:
    """The linear maps whose weights another module holds as well, and which: a head that is tied to the
    embedding, or layers that share their weights."""
    holders: dict[int, set[str]] = {}
    for name, module in model.named_modules():
        if isinstance(weight := getattr(module, "weight", None), torch.nn.Parameter):
            holders.setdefault(id(weight), set()).add(name.removesuffix(".base_layer"))
    linear = set(projection_names(model))
    return {
        name: min(names - {name})
        for names in holders.values()
        if len(names) > 1
        for name in sorted(names & linear)
    }


def base_identity(folder: Path, dtype: Dtype, quantize: Quantize | None = None) -> BaseIdentity:
    """What a model folder's answers depend on, from its files alone.

    Raises:
        ModelError: the configuration cannot be read.
    """
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if (
            file.suffix in {".safetensors", ".json", ".model", ".txt"}
            and file.name != "generation_config.json"
        ):
            digest.update(f"{file.name} {file_sha256(file)}\n".encode())
    return BaseIdentity(digest.hexdigest(), dtype, _context(_read_config(folder)), quantize)


def _context(config: Mapping[str, Any]) -> int:
    """How many tokens a prompt and its answer may have together."""
    lengths = (config.get(key) for key in ("max_position_embeddings", "n_positions", "n_ctx"))
    return min([MAX_LENGTH, *(length for length in lengths if isinstance(length, int))])


def base_tokenizer(name: str) -> Tokenizer:
    """A base's text to ids and back, without its weights.

    Raises:
        ModelError: see :func:`load_base`.
    """
    folder = base_folder(name)
    return Tokenizer(_hf_tokenizer(folder), _context(_read_config(folder)))


def _hf_tokenizer(folder: Path) -> Any:
    try:
        return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds for a broken folder
        raise ModelError(
            f"The base in {folder} has no tokenizer that can be loaded; "
            "it needs the model's own tokenizer.json and tokenizer_config.json beside the weights."
        ) from error


def load_base(
    name: str, dtype: Dtype = "float32", device: str = "auto", quantize: Quantize | None = None
) -> Base:
    """Load a base for training adapters and answering.

    Args:
        name: ``tiny``, a folder, or a hub id.
        dtype: The type of the frozen weights; adapters are always float32.
        device: ``auto``, ``cpu``, ``cuda`` …
        quantize: Hold its linear maps in 4 bits (QLoRA's NF4) or 8 bits (LLM.int8), computing in `dtype`.
            8 bits look for outliers in the whole batch, so that answers can depend on what shares it.

    Raises:
        ModelError: it cannot be loaded or asked, or its tokenizer does not fit.
    """
    target = pick_device(device)
    folder = base_folder(name)
    identity = base_identity(folder, dtype, quantize)
    hf = _hf_tokenizer(folder)
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
        trial = try_out(model, _plain_ids(hf, embedding), tokenizer.pad_id, identity.context)
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
