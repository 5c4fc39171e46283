"""Exporting an adapter, from a run or from memory, as a bundle (:mod:`oppu_core.ownership.bundle`)."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import safetensors.torch

from oppu_core.data.schema import shown
from oppu_core.data.types import User
from oppu_core.errors import StoreError
from oppu_core.modeling.adapters import State, adapter_config_json, attach
from oppu_core.modeling.base_files import base_folder
from oppu_core.modeling.skeleton import base_skeleton
from oppu_core.ownership.adapters import find_adapter, open_store
from oppu_core.ownership.bundle import CARD_FILE, WEIGHT_FILES, Bundle, seal
from oppu_core.ownership.card import Score, adapter_card
from oppu_core.runs.run import Run
from oppu_core.runs.variants import Variant
from oppu_core.storage.keys import Key
from oppu_core.storage.store import Store
from oppu_core.storage.weights import CONFIG_FILE, WEIGHTS_FILE


def export_adapter(
    run: Run, user_id: str, task: str | None, variant: str | None, with_user_id: bool = False
) -> Bundle:
    """A bundle of a user's adapter and the task LoRA that it was trained on.

    Args:
        run: A run whose adapters are trained.
        user_id: One of its test users.
        task: As for :func:`~oppu_core.ownership.adapters.find_adapter`.
        variant: Likewise.
        with_user_id: Whether to include the user's id. History texts are never included.

    Raises:
        ConfigError, DataError: as :func:`~oppu_core.ownership.adapters.find_adapter`.
        StoreError: the user has no intact adapter.
    """
    with open_store(run.store_path) as store:
        found = find_adapter(run, store, user_id, task, variant)
        if found.entry is not None and found.entry.status == "failed":
            raise StoreError(f"User {shown(user_id)} has no adapter; training failed: {found.entry.reason}.")
        store.load(found.key)  # raises with advice if something is wrong
        assert found.entry is not None
        folder = store.path / found.key.folder
        own = [(folder / name).read_bytes() for name in (CONFIG_FILE, WEIGHTS_FILE)]
        named = {"user_id": user_id} if with_user_id else {}
        return _bundle(store, found.work, found.key, own, found.entry.facts, found.scores, named)


def bundle_of(
    store: Store, work: Variant, user: User, state: State, facts: Mapping[str, int | float]
) -> Bundle:
    """The bundle of an adapter that is not in a store.

    Args:
        store: The store of the task LoRA that it was trained on.
        work: The variant that it was trained for.
        user: Its user, as in training.
        state: Its weights.
        facts: Facts about its training.

    Raises:
        StoreError: there is no intact task LoRA.
    """
    model = attach(base_skeleton(base_folder(work.run.config.model)), work.personal_config)
    # The same bytes as a store would write.
    config = json.dumps(adapter_config_json(model), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    own = [config.encode(), safetensors.torch.save(dict(state), metadata={"format": "pt"})]
    return _bundle(store, work, work.key_of(user), own, facts, (), {})


def _bundle(
    store: Store,
    work: Variant,
    key: Key,
    own: Sequence[bytes],
    own_facts: Mapping[str, Any],
    scores: Sequence[Score],
    named: Mapping[str, str],
) -> Bundle:
    """A bundle: the adapter's two files (`own`), the task LoRA's, a card and a manifest."""
    store.load(work.task_lora)
    folder = store.path / work.task_lora.folder
    task_lora = next(store.entries(work.task_lora.config_id))
    shared = [(folder / name).read_bytes() for name in (CONFIG_FILE, WEIGHTS_FILE)]
    facts = {
        "task": work.dataset.task.name,
        "variant": work.name,
        "task_lora": dict(task_lora.identity),
        "adapter": dict(key.identity["config"]),
        "history": key.identity["history"],
        "facts": {"adapter": dict(own_facts), "task_lora": dict(task_lora.facts)},
        **named,
    }
    files = dict(zip(WEIGHT_FILES, (*own, *shared), strict=True))
    card = adapter_card(work.run, work, facts, scores)
    return seal({**files, CARD_FILE: card.encode()}, facts)
