"""The keys of trained weights in the store: all that they depend on, known before anything is loaded."""

from collections.abc import Mapping, Sequence
from typing import Any

from oppu_core.data.dataset import Dataset
from oppu_core.data.types import User
from oppu_core.modeling.base_files import BaseIdentity
from oppu_core.prompting.methods import Examples, variant_method
from oppu_core.storage.files import content_id
from oppu_core.storage.keys import Key, adapter_key, pooled_key, task_lora_key
from oppu_core.tasks.task import Task
from oppu_core.training.config import TrainConfig


def of_task_lora(
    base: BaseIdentity,
    dataset: Dataset,
    variant: str,
    config: TrainConfig,
    examples: Examples = "queries",
    profiles: str | None = None,
    encoder: str | None = None,
) -> Key:
    """The key of the task LoRA of a base, dataset, variant and settings; of the data, only *others* count.

    `profiles` is the hash of the others' profiles if they are not computed (:meth:`Profiles.content`),
    `encoder` that of the sentence encoder, for variants that need one.
    """
    method = variant_method(variant)
    return task_lora_key(
        {
            "base": base.to_json(),
            "task": dataset.task.fingerprint,
            "variant": variant,
            "training": config.to_json(),
            "data": dataset.content("others"),
            "examples": examples,
            "profiles": profiles if method.profile else None,
            **({"encoder": encoder} if method.retriever == "dense" else {}),
        }
    )


def history_hash(user: User, profile: str) -> str:
    """The hash of everything of a user that an adapter is trained on."""
    items = [[item.id, dict(item.fields), item.date] for item in user.training_history]
    return content_id([items, profile])


def of_adapter(task_lora: Key, task: Task, config: TrainConfig, user: User, profile: str) -> Key:
    """The key of a user's adapter on a task base; `profile` is the text in its prompts, or empty."""
    shared: Mapping[str, Any] = {
        "task_lora": task_lora.config_id,
        "task": task.fingerprint,
        "training": config.to_json(),
    }
    base = BaseIdentity(**task_lora.identity["base"])
    if not (base.takes_merging or base.quantize):  # older versions merged here, with rounding
        shared = {**shared, "task_lora_lies": "beside the weights"}
    return adapter_key(shared, user.user_id, history_hash(user, profile))


def of_pooled(adapters: Sequence[Key]) -> Key:
    """The key of the adapter on the histories that these personal adapters are trained on, one by one."""
    histories = {str(key.user_id): key.identity["history"] for key in adapters}
    config = dict(adapters[0].identity["config"])
    config["training"] = {
        k: v for k, v in config["training"].items() if k != "validate_share"
    }  # not held out
    return pooled_key(config, histories)
