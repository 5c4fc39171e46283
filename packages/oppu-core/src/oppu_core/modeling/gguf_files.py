"""GGUF files (llama.cpp's format) as ordinary model folders: dequantized once, then read like any other base.

A folder is what everything else here works on (configuration, tokenizer, exports), and reading it takes
seconds where dequantizing takes minutes. Needs the package ``gguf`` (extra ``gguf``).
"""

import functools
import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oppu_core.errors import ConfigError, ModelError, reason
from oppu_core.storage.files import file_sha256, new_dir

if TYPE_CHECKING:
    from torch import dtype

SUFFIX = ".gguf"
_UNREADABLE = "It is damaged, cut off, or of an architecture that transformers does not read from GGUF."
_FORMAT = 1  # of what is written below; another one is another place in the cache


def is_gguf(path: Path | str) -> bool:
    """Whether a name is one of a GGUF file."""
    return str(path).endswith(SUFFIX)


def gguf_folder(file: Path) -> Path:
    """The model folder of a GGUF file, made when the file's bytes are first seen.

    It lies in huggingface_hub's cache of assets (``HF_ASSETS_CACHE``) under the file's hash, so that neither
    name nor place of the file matters.

    Raises:
        ModelError: see :func:`import_gguf`.
    """
    from filelock import FileLock
    from huggingface_hub import cached_assets_path

    status = file.stat()
    digest = _sha256(file, status.st_size, status.st_mtime_ns)
    folder = cached_assets_path("oppu", "gguf", f"v{_FORMAT}") / digest
    if not folder.is_dir():
        # Another process may be making it; see `locked` for the fallback.
        with FileLock(folder.with_suffix(".lock"), fallback_to_soft=False):
            if not folder.is_dir():
                import_gguf(file, folder)
    return folder


@functools.cache
def _sha256(file: Path, size: int, changed: int) -> str:
    """The hash of gigabytes, once: a command asks for its base's folder many times."""
    return file_sha256(file)


def import_gguf(file: Path, out: Path) -> None:
    """Write a GGUF file as a model folder of Hugging Face's form, whole or not at all.

    Weights are dequantized to float16; to the file's own type where its matrices are not quantized.

    Args:
        file: The GGUF file.
        out: The folder to make.

    Raises:
        ConfigError: something is at `out` already.
        ModelError: the package ``gguf`` is missing, or the file is damaged, a part of several, or of an
            architecture that transformers does not read.
    """
    import torch  # not at the top: that a name is none of a GGUF file is known without
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    if not file.is_file():
        raise ModelError(f"There is no file {file}.")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(f"{out} is there already; choose another --out.")
    if re.search(r"-\d{5}-of-\d{5}\.gguf$", file.name):
        raise ModelError(f"{file} is a part of a split model. Join the parts: `llama-gguf-split --merge`.")
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(f"{file} is a GGUF file; reading it needs `pip install 'oppu-core[gguf]'`.")
    where: dict[str, Any] = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # how its loader matched which name
    transformers_logging.enable_progress_bar()  # a minute for 270 million parameters
    try:
        dtype = _written_dtype(file)
        tokenizer = AutoTokenizer.from_pretrained(**where)
        loaded, found = AutoModelForCausalLM.from_pretrained(
            **where, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # the loaders raise many kinds
        raise ModelError(f"{file} cannot be read as a GGUF model: {reason(error, _UNREADABLE)}") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
        transformers_logging.disable_progress_bar()
    if lacking := sorted(found["missing_keys"]):
        raise ModelError(
            f"{file} lacks {len(lacking)} weights of a {type(loaded).__name__}, e.g. {lacking[0]}."
        )
    config = loaded.config
    for left in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(config, left):
            delattr(config, left)  # it is not quantized any more
    # transformers does not save a model that came from a GGUF file; a plain one with its weights it does.
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(loaded.state_dict())
    del loaded
    with new_dir(out) as folder:
        model.to(dtype).save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _written_dtype(file: Path) -> "dtype":
    """float16, whose rounding is far below that of any quantization, unless matrices are not quantized."""
    import gguf
    import torch

    matrices = {tensor.tensor_type.name for tensor in gguf.GGUFReader(file).tensors if len(tensor.shape) > 1}
    if "F32" in matrices:
        return torch.float32
    return torch.bfloat16 if "BF16" in matrices else torch.float16
