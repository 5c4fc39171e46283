"""A base's files: where they are, and what can be known of it without its weights.

``tiny`` is the base that ships with this package; a GGUF file becomes a folder
(:mod:`oppu_core.modeling.gguf_files`). torch and transformers are imported where modules or a tokenizer are
made: most commands look for a base, and fewer read one.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from oppu_core.errors import DataError, ModelError
from oppu_core.modeling.chat import chat_turn
from oppu_core.modeling.dtypes import Dtype, PromptFormat, Quantize
from oppu_core.modeling.gguf_files import SUFFIX, gguf_folder, is_gguf
from oppu_core.modeling.tokenizer import Tokenizer
from oppu_core.storage.files import content_id, file_sha256, read_json

TINY = "tiny"
TINY_FOLDER = Path(__file__).parent / "tiny_base"
MAX_LENGTH = 2048  # tokens of prompt and answer together, as in the authors' code
_PATTERNS = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


@dataclasses.dataclass(frozen=True)
class BaseIdentity:
    """What weights that are trained on a base depend on.

    Attributes:
        fingerprint: The sha256 over configuration, tokenizer and weights.
        dtype: The type of its weights in memory; of what is computed with them where they are quantized.
        context: How many tokens prompt and answer may have together.
        quantize: How its weights were quantized on loading.
        chat: The hash of the frame that its chat template puts prompts into; None asks it plainly.
    """

    fingerprint: str
    dtype: Dtype
    context: int
    quantize: Quantize | None = None
    chat: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As it stands in keys of weights and in ``run.json``."""
        values = dataclasses.asdict(self)
        if self.chat is None:  # as before there were chat prompts: keys of weights stay what they were
            del values["chat"]
        return values

    @property
    def takes_merging(self) -> bool:
        """Whether a LoRA can be added to its weights: to those of fewer bits it would be rounded away."""
        return self.dtype == "float32" and self.quantize is None


def base_folder(name: str) -> Path:
    """The folder of a base: the shipped one, a local folder, a snapshot from the Hugging Face hub, or what a
    GGUF file was turned into.

    Only safetensors and GGUF are ever fetched or read; a pickled checkpoint could run code.

    Args:
        name: ``tiny``, a folder, ``org/name``; a GGUF file, ``org/name/file.gguf``, or a folder or repository
            that has one GGUF file and no safetensors.

    Raises:
        ModelError: nothing usable is there.
    """
    if not name.strip():
        raise ModelError("The base has no name. Use 'tiny', a folder, a GGUF file, or a hub id (org/name).")
    folder = TINY_FOLDER if name == TINY else Path(name).expanduser()
    local = name.startswith((".", "/", "~"))
    if is_gguf(name) and not folder.is_dir():
        return gguf_folder(gguf_file(name))
    if not folder.is_dir() and (folder.exists() or name.count("/") != 1 or local):
        raise ModelError(
            f"The base {name!r} is no folder. Use 'tiny', a folder, a GGUF file, or a hub id (org/name)."
        )
    if not folder.is_dir():
        folder = _fetched(name)
    if not any(folder.glob("*.safetensors")) and (files := sorted(folder.glob(f"*{SUFFIX}"))):
        if len(files) > 1:
            names = ", ".join(file.name for file in files)
            raise ModelError(f"{folder} has several GGUF files ({names}); name one: {name}/{files[0].name}")
        return gguf_folder(files[0])
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


def gguf_file(name: str) -> Path:
    """A GGUF file: one here, or ``org/name/file.gguf`` from the hub.

    Raises:
        ModelError: there is none.
    """
    file = Path(name).expanduser()
    if file.is_file():
        return file
    organization, _, rest = name.partition("/")
    repository, _, path = rest.partition("/")
    if name.startswith((".", "/", "~")) or not path:
        raise ModelError(f"There is no file {name}.")
    return _fetched(f"{organization}/{repository}", path)


def _fetched(repository: str, file: str | None = None) -> Path:
    """A file of a hub repository, or the folder of its safetensors, or of its only GGUF file."""
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download

    try:
        if file is not None:
            return Path(hf_hub_download(repository, file))
        folder = Path(snapshot_download(repository, allow_patterns=_PATTERNS))
        if any(folder.glob("*.safetensors")):
            return folder
        files = [path for path in HfApi().list_repo_files(repository) if is_gguf(path)]
    except Exception as error:  # the hub client raises many kinds; all mean the same to the user
        what = f"{repository}/{file}" if file else repository
        raise ModelError(
            f"The base {what!r} is no {'file' if file else 'folder'} here, and could not be fetched from the "
            f"hub: {error}"
        ) from error
    if len(files) > 1:
        raise ModelError(
            f"{repository} has several GGUF files; name one: {', '.join(f'{repository}/{f}' for f in files)}"
        )
    return _fetched(repository, files[0]).parent if files else folder


def read_config(folder: Path) -> Mapping[str, Any]:
    """A model folder's ``config.json``; refused if it brings code of its own."""
    try:
        config = read_json(folder / "config.json")
    except DataError as error:
        raise ModelError(f"The base in {folder} cannot be loaded: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{folder / 'config.json'} is no model configuration.")
    if "auto_map" in config:
        raise ModelError(f"The base in {folder} brings code of its own (auto_map), which is never run.")
    return config


def base_identity(
    folder: Path,
    dtype: Dtype,
    quantize: Quantize | None = None,
    prompt_format: PromptFormat = "plain",
) -> BaseIdentity:
    """What a model folder's answers depend on, from its files alone.

    Raises:
        ModelError: the configuration cannot be read.
    """
    fingerprint = files_sha256(folder, folder.iterdir())
    chat = None
    if prompt_format == "chat":
        chat = content_id(dataclasses.asdict(chat_turn(hf_tokenizer(folder))))
    return BaseIdentity(fingerprint, dtype, _context(read_config(folder)), quantize, chat)


def files_sha256(folder: Path, files: Iterable[Path]) -> str:
    """The hash of those of a model folder's files that its results depend on."""
    digest = hashlib.sha256()
    for file in sorted(files):
        if (
            file.suffix in {".safetensors", ".json", ".model", ".txt"}
            and file.name != "generation_config.json"
        ):
            digest.update(f"{file.relative_to(folder).as_posix()} {file_sha256(file)}\n".encode())
    return digest.hexdigest()


def _context(config: Mapping[str, Any]) -> int:
    """How many tokens a prompt and its answer may have together."""
    lengths = (config.get(key) for key in ("max_position_embeddings", "n_positions", "n_ctx"))
    return min([MAX_LENGTH, *(length for length in lengths if isinstance(length, int))])


def base_tokenizer(name: str, prompt_format: PromptFormat = "plain") -> Tokenizer:
    """A base's text to ids and back, without its weights.

    Raises:
        ModelError: see :func:`load_base`.
    """
    folder = base_folder(name)
    tokenizer = Tokenizer(hf_tokenizer(folder), _context(read_config(folder)))
    return tokenizer.chatting() if prompt_format == "chat" else tokenizer


def hf_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds for a broken folder
        raise ModelError(
            f"The base in {folder} has no tokenizer that can be loaded; "
            "it needs the model's own tokenizer.json and tokenizer_config.json beside the weights."
        ) from error
