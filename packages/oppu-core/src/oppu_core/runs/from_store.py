"""Reconstructing a run from a store and a dataset, without a run folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oppu_core.data.dataset import Dataset
from oppu_core.errors import ConfigError, StoreError
from oppu_core.modeling.base_files import BaseIdentity
from oppu_core.modeling.encoders import Encoder
from oppu_core.prompting.methods import Method
from oppu_core.runs.config import RunConfig
from oppu_core.runs.run import Run, profile_hashes
from oppu_core.storage.files import content_id
from oppu_core.storage.store import Store, is_store
from oppu_core.storage.weights import Entry
from oppu_core.training.config import TrainConfig


def run_from_store(
    model: str,
    store: Path,
    dataset: Dataset,
    method: Method,
    *,
    identity: BaseIdentity,
    encoder: Encoder,
    profiles: Sequence[Path] = (),
    seed: int = 0,
) -> Run:
    """A run with the weights of a store; it has no folder, and its path is the store's.

    Args:
        model: The base that the weights were trained on.
        store: The store.
        dataset: Its others trained the task base, its test users the adapters.
        method: How to answer; decides what has to be in the store.
        identity: Of the base in the type, quantization and form of prompts that they were trained with.
        encoder: The sentence encoder, for methods that need one.
        profiles: Files of profile texts, where there were any.
        seed: Of random retrieval.

    Raises:
        StoreError: nothing in the store fits base, data and method.
        ConfigError: several entries fit.
    """
    if not is_store(store):
        raise StoreError(f"{store} is no store of weights (it has no manifest.sqlite).")
    opened = Store(store)
    entries = [entry for entry in opened.entries() if entry.status == "ok"]
    opened.close()
    wanted = {
        "base": identity.to_json(),
        "task": dataset.task.fingerprint,
        "variant": method.variant,
        "data": dataset.content("others"),
    }
    if method.retriever == "dense":
        wanted["encoder"] = encoder.identity

    task_lora = _only(
        [entry for entry in entries if entry.kind == "task_lora" and _agrees(entry.identity, wanted)],
        f"The store {store} has no task LoRA of the base {model} ({identity.dtype}, "
        f"{identity.quantize or 'not quantized'}{', in its chat template' if identity.chat else ''}), "
        f"{dataset.task.name} and the variant {method.variant} that was trained on the others of "
        f"{dataset.path}. Train one: `oppu run --model {model} --data "
        f"{dataset.path} --methods {method.name} --store {store} --run …`.",
    )
    kind = "pooled" if method.adapter == "pooled" else "adapter"
    adapters = {
        content_id(entry.identity["config"]): entry
        for entry in entries
        if entry.kind == kind and entry.identity["config"]["task_lora"] == task_lora.config_id
    }
    training = task_lora.identity["training"]
    if method.adapter:
        adapter = _only(
            list(adapters.values()),
            f"The store {store} has no adapters on its task LoRA {task_lora.folder}. Train some: "
            f"`oppu run --model {model} --data {dataset.path} --methods {method.name} --store {store} "
            "--run …`.",
        )
        training = adapter.identity["config"]["training"]
    task = dataset.task.name
    return Run(
        store,
        RunConfig(
            data={task: str(dataset.path)},
            model=model,
            methods=(method.name,),
            task_lora={task: TrainConfig.from_json(task_lora.identity["training"])},
            personal={task: TrainConfig.from_json(training)},
            dtype=identity.dtype,
            seed=seed,
            users=None,
            sample=False,
            quantize=identity.quantize,
            prompt_format="chat" if identity.chat else "plain",
            profiles=tuple(map(str, profiles)),
            examples=task_lora.identity["examples"],
            encoder=encoder.name,
        ),
        {
            "base": identity.to_json(),
            "data": {task: dataset.fingerprint},
            "profiles": profile_hashes(profiles),
            **({"encoder": wanted["encoder"]} if "encoder" in wanted else {}),
        },
        store,
    )


def _agrees(identity: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(identity[name] == value for name, value in wanted.items())


def _only(entries: Sequence[Entry], missing: str) -> Entry:
    """The only entry.

    Raises:
        StoreError: there is none.
        ConfigError: there are several, which differ in their training settings.
    """
    if not entries:
        raise StoreError(missing)
    if len(entries) > 1:
        folders = ", ".join(entry.folder for entry in entries)
        raise ConfigError(
            f"Several trainings in the store fit ({folders}): they differ in their settings. "
            "Name the run folder instead (run=…), which says which of them it means."
        )
    return entries[0]
