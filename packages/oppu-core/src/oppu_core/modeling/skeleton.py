"""A base without its weights: its modules, and what settings have to know of them."""

import contextlib
import dataclasses
import importlib.metadata
from pathlib import Path
from typing import Any

from oppu_core.errors import DataError, ModelError
from oppu_core.modeling.base_files import read_config
from oppu_core.storage.files import content_id, file_sha256, read_json, write_json
from oppu_core.storage.parsing import parse

_FORMAT = 1  # of what is kept in the cache


@dataclasses.dataclass(frozen=True)
class Skeleton:
    """What is known of a base's modules.

    Attributes:
        parameters: Their number.
        projections: The full names of its linear maps.
        shared: Those whose weights another module holds as well, and which (:func:`shared_projections`).
    """

    parameters: int
    projections: tuple[str, ...]
    shared: dict[str, str]


def skeleton_of(folder: Path) -> Skeleton:
    """What is known of a base's modules; from a cache, where there is one, as finding out takes seconds.

    The cache is beside huggingface_hub's (``HF_ASSETS_CACHE``), by what the modules are made from.

    Raises:
        ModelError: see :func:`base_skeleton`.
    """
    read_config(folder)
    made_from = [_FORMAT, file_sha256(folder / "config.json"), importlib.metadata.version("transformers")]
    file = _cache(f"{content_id(made_from)[:32]}.json")
    if file is not None:
        with contextlib.suppress(DataError, ValueError):  # there is none, or it is damaged
            return parse(Skeleton, read_json(file))
    model = base_skeleton(folder)
    found = Skeleton(model.num_parameters(), tuple(projection_names(model)), shared_projections(model))
    if file is not None:
        with contextlib.suppress(OSError):
            write_json(file, dataclasses.asdict(found))
    return found


def _cache(name: str) -> Path | None:
    """Where something is kept; None where nothing can be."""
    from huggingface_hub import cached_assets_path

    try:
        return cached_assets_path("oppu", "skeletons") / name
    except (OSError, ValueError):
        return None


def base_skeleton(folder: Path) -> Any:
    """A base without its weights (on torch's meta device): its modules, from ``config.json`` alone.

    Raises:
        ModelError: the configuration is none of a causal language model.
    """
    read_config(folder)
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds for a broken configuration
        raise ModelError(f"The base in {folder} cannot be loaded: {type(error).__name__}: {error}") from error


def projection_names(model: Any) -> list[str]:
    """The full names of a model's linear maps, also of those that carry an adapter already."""
    import torch
    from transformers.pytorch_utils import Conv1D

    return [
        name.removesuffix(".base_layer")
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D)
    ]


def shared_projections(model: Any) -> dict[str, str]:
    """The linear maps whose weights another module holds as well, and which: a head that is tied to the
    embedding, or layers that share their weights."""
    import torch

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
