"""Sentence encoders: texts to vectors of length one. Knows nothing of what is compared, or why.

sentence-transformers (the extra ``dense``) reads them, with the pooling, the prompts and the longest text
that their folders name; a folder without these is pooled by the mean, as Contriever is.
"""

import dataclasses
import functools
import importlib.util
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from oppu_core.errors import ModelError, reason
from oppu_core.modeling.base_files import base_folder, files_sha256, hf_tokenizer, read_config

if TYPE_CHECKING:
    import torch

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_ADVICE = "It is damaged, or not of a kind that sentence-transformers reads."
logging.getLogger("sentence_transformers").setLevel(
    logging.ERROR
)  # its lines would cut through progress bars


@dataclasses.dataclass(frozen=True)
class Encoder:
    """A sentence encoder; its weights are loaded when the first text is encoded, once in a process.

    Attributes:
        name: A folder or a hub id.
        fingerprint: What :attr:`identity` has to be, if that is known.
        device: ``auto``, ``cpu``, ``cuda`` …
    """

    name: str
    fingerprint: str | None = None
    device: str = "auto"

    @property
    def identity(self) -> str:
        """The hash of its configuration, tokenizer and weights.

        Raises:
            ModelError: it cannot be used, or the package that reads it is missing.
        """
        if importlib.util.find_spec("sentence_transformers") is None:
            raise ModelError(
                "Methods named dense_kN need a sentence encoder; `pip install 'oppu-core[dense]'` reads them."
            )
        folder = encoder_folder(self.name)
        return files_sha256(folder, folder.rglob("*"))

    def documents(self, texts: Sequence[str]) -> np.ndarray:
        """The vectors [N, d] of texts to search in; they may depend on each other by rounding."""
        vectors_Nd: np.ndarray = self._model.encode_document(
            list(texts), normalize_embeddings=True, show_progress_bar=False
        )
        return vectors_Nd

    def query(self, text: str) -> np.ndarray:
        """The vector [d] of a text to search with."""
        vector_d: np.ndarray = self._model.encode_query(
            text, normalize_embeddings=True, show_progress_bar=False
        )
        return vector_d

    @functools.cached_property
    def _model(self) -> Any:
        from oppu_core.modeling.base import pick_device

        identity = self.identity
        if self.fingerprint not in (None, identity):
            raise ModelError(
                f"The sentence encoder {self.name!r} is no longer the one that the run was started with. Put "
                "it back, or start a new run."
            )
        return _loaded(self.name, encoder_folder(self.name), pick_device(self.device), identity)


def unusable(name: str, problem: object) -> ModelError:
    """The error about an encoder that cannot be used."""
    return ModelError(f"The encoder {name!r} cannot be used: {problem}")


def encoder_folder(name: str, also: str = "") -> Path:
    """The folder of an encoder without pickled weights and without code of its own.

    Args:
        name: A folder or a hub id.
        also: What else it may be, for the message.

    Raises:
        ModelError: there is no such folder.
    """
    if not (Path(name).expanduser().is_dir() or _HUB_ID.fullmatch(name)):
        raise unusable(name, f"it is no folder. Use {also}a local folder, or a hub id (org/name).")
    try:
        folder = base_folder(name)
        read_config(folder)
    except ModelError as error:
        hint = " AutoModel.from_pretrained(…).save_pretrained(…) does." if "pickled" in str(error) else ""
        raise unusable(name, f"{error}{hint}") from error
    for file in folder.glob("*/**/pytorch_model.bin"):  # of its further modules
        if not file.with_name("model.safetensors").exists():
            raise unusable(name, f"{file} is pickled, and pickled weights are never loaded.")
    return folder


def check_whole(name: str, found: dict[str, Any]) -> None:
    """Refuse an encoder whose files lack weights; a pooler comes after the hidden states and is not needed.

    Args:
        name: What it is called.
        found: transformers' loading info.
    """
    if missing := sorted(weight for weight in found["missing_keys"] if "pooler" not in weight):
        raise unusable(name, f"its files lack weights of the model, as {missing[0]}.")


@functools.lru_cache(2)
def _loaded(name: str, folder: Path, device: "torch.device", identity: str) -> Any:
    """An encoder for inference; `identity` keeps those apart that lay in the same folder."""
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging as transformers_logging

    kwargs = {"dtype": torch.float32, "use_safetensors": True}
    tokenizer = hf_tokenizer(folder)
    ids = tokenizer("the words of a text", add_special_tokens=False)["input_ids"]
    if not set(ids) - set(tokenizer.all_special_ids):  # some load without an error, but empty
        raise unusable(name, "its tokenizer knows no words; it needs the model's own tokenizer.json.")
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # no list of unneeded weights of heads
    try:
        model = SentenceTransformer(
            str(folder),
            device=str(device),
            trust_remote_code=False,
            local_files_only=True,
            backend="torch",
            model_kwargs=dict(kwargs),
        )
        if inner := model.transformers_model:  # it does not tell what it drew by chance
            _, found = type(inner).from_pretrained(str(folder), output_loading_info=True, **kwargs)
            check_whole(name, found)
    except ModelError:
        raise
    except Exception as error:  # the loaders raise many kinds
        raise unusable(name, reason(error, _ADVICE)) from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    return model.eval().requires_grad_(False)
