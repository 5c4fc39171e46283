"""Importing an adapter into a run.

It is checked against the run's own identity of that adapter (base, task, settings, others' data, the user's
history) and against the shapes that the base requires.
"""

import contextlib
import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from oppu_core.data.schema import shown
from oppu_core.data.types import User
from oppu_core.errors import ConfigError, DataError
from oppu_core.modeling.adapters import adapter_config_json, adapter_shapes, attach
from oppu_core.modeling.base_files import base_folder
from oppu_core.modeling.skeleton import base_skeleton
from oppu_core.ownership.adapters import adapter_user
from oppu_core.ownership.bundle import Bundle, manifest_of
from oppu_core.runs.run import Run
from oppu_core.runs.start import differences
from oppu_core.runs.variants import Variant, find_variant
from oppu_core.storage.files import canonical_json
from oppu_core.storage.store import Store
from oppu_core.storage.weights import WEIGHTS_FILE
from oppu_core.training.config import TrainConfig


@dataclasses.dataclass(frozen=True)
class Imported:
    """An imported adapter: its user, its folder in the store, and notes for the person who imports."""

    user_id: str
    task: str
    variant: str
    folder: Path
    notes: tuple[str, ...]


def import_adapter(run: Run, bundle: Bundle, where: str, user_id: str | None = None) -> Imported:
    """Put an adapter, and its task LoRA if it is missing, into the run's store.

    Args:
        run: A run with the same base, task, settings and data of the others.
        bundle: The exported adapter.
        where: What to call it in messages.
        user_id: Its user; by default told by the bundle, or by the hash of the history.

    Raises:
        ConfigError: the run does not have this task or variant, or has another adapter of this user.
        DataError: the bundle is damaged, does not fit the run, or belongs to none of its users.
    """
    manifest = manifest_of(bundle, where)
    try:
        task, variant, history = (str(manifest[name]) for name in ("task", "variant", "history"))
        identity, config, facts = (dict(manifest[name]) for name in ("task_lora", "adapter", "facts"))
        counted = [_numbers(facts[name]) for name in ("task_lora", "adapter")]
        named = manifest.get("user_id")
        if not isinstance(named, str | None):
            raise TypeError("user_id is no text")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{where}, oppu.json does not describe an exported adapter ({error}).") from error
    with contextlib.closing(Store(run.store_path)) as store:
        work = find_variant(run, task, variant, personal=True)
        _check_same(work.task_lora.identity, identity, f"{where} stands on another task base than {run.path}")
        user = _owner(work, history, user_id if user_id is not None else named, where)
        key = work.key_of(user)
        _check_same(key.identity["config"], config, f"{where} was trained otherwise than {run.path} asks")
        lora_config, lora = _weights(run, work.task_config, bundle, f"task_lora/{WEIGHTS_FILE}", where)
        own_config, own = _weights(run, work.personal_config, bundle, WEIGHTS_FILE, where)
        had = store.intact(key)
        if had and not _equal(store.load(key), own):
            raise ConfigError(
                f"{run.path} has another adapter of user {shown(user.user_id)} ({task}, {variant}), which is "
                "kept. Remove it first, if you want this one."
            )
        notes = ["The store had it already."] if had else []
        if not store.intact(work.task_lora):
            store.put(work.task_lora, lora_config, lora, counted[0])
        elif not _equal(store.load(work.task_lora), lora):
            notes.append(
                "The task LoRA in the store has the same settings but other weights (trained on another "
                "machine?); the adapter will stand on the store's."
            )
        if not had:
            store.put(key, own_config, own, counted[1])
    return Imported(user.user_id, task, variant, run.store_path / key.folder, tuple(notes))


def _check_same(here: Mapping[str, Any], there: Mapping[str, Any], problem: str) -> None:
    """Refuse an identity that differs from the run's, and show the differences."""

    def text(value: Any) -> str:
        return shown(value if isinstance(value, str | int | float | None) else canonical_json(value))

    here = json.loads(canonical_json(dict(here)))  # tuples become lists
    if wrong := list(differences(here, there)):
        raise DataError(
            f"{problem}:\n"
            + "\n".join(f"  {name}: {text(two)} there, {text(one)} here" for name, one, two in wrong)
            + "\nImport it into a run with the same base, data and settings."
        )


def _numbers(facts: Mapping[str, Any]) -> dict[str, int | float]:
    """The numbers in facts from an untrusted file; anything else is left out."""
    return {
        name: value
        for name, value in facts.items()
        if type(value) in (int, float) and math.isfinite(value) and name.isidentifier()
    }


def _owner(work: Variant, history: str, user_id: str | None, where: str) -> User:
    """The user of the run on whose history an adapter was trained."""

    def trained_on(user: User) -> bool:
        return bool(work.key_of(user).identity["history"] == history)

    if user_id is None:
        own = work.run.own_users(work.dataset.task.name)
        owners = [user for user in (*work.dataset.users("test"), *own) if trained_on(user)]
        if len(owners) == 1:
            return owners[0]
        problem = f"{len(owners)} users have" if owners else "no test user of this run has"
        advice = " Name the user with --user." if owners else ""
        raise DataError(f"{where} does not say whose it is, and {problem} the history of it.{advice}")
    user = adapter_user(work, user_id)
    if not trained_on(user):
        raise DataError(
            f"{where} was trained on another history than the one that user {shown(user_id)} has in "
            f"{work.dataset.path}; it is not this user's adapter here."
        )
    return user


def _weights(
    run: Run, config: TrainConfig, bundle: Bundle, name: str, where: str
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """PEFT's configuration, and the tensors of an untrusted file after checking that they fit the base."""
    try:
        state: dict[str, torch.Tensor] = safetensors.torch.load(bundle[name])
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise DataError(f"{where}: {name} is no safetensors file ({error}).") from error
    model = attach(base_skeleton(base_folder(run.config.model)), config)
    expected = adapter_shapes(model)
    found = {name: value.shape for name, value in state.items()}
    if wrong := sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name)):
        raise DataError(
            f"{where}: {name} does not fit the base {run.config.model}: {len(wrong)} tensors are missing, "
            f"unknown or of another shape, e.g. {shown(wrong[0])}."
        )
    if not all(value.dtype == torch.float32 and bool(value.isfinite().all()) for value in state.values()):
        raise DataError(f"{where}: {name} holds numbers that are not finite float32.")
    return adapter_config_json(model), state


def _equal(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
