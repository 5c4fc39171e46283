"""Exporting a task base as an ordinary model folder, for tools that know nothing of task LoRAs.

The task LoRA is merged into the base's weights in float32, as weights of fewer bits would round it away;
tokenizer and generation settings are the base's own files.
"""

import shutil
from pathlib import Path

from oppu_core.errors import ConfigError, DataError
from oppu_core.modeling.adapters import merge
from oppu_core.modeling.base import Base
from oppu_core.modeling.base_files import base_folder
from oppu_core.ownership.adapters import open_store
from oppu_core.ownership.bundle import CARD_FILE, MANIFEST_FILE, is_litter
from oppu_core.ownership.card import base_card
from oppu_core.runs.jobs import VariantJobs
from oppu_core.runs.run import Run
from oppu_core.runs.variants import find_variant
from oppu_core.storage.files import new_dir, read_json, write_json, write_text

FORMAT = 1
_COPIED = {".json", ".jinja", ".model", ".txt"}
_WRITTEN_ANEW = {"config.json", "adapter_config.json", "model.safetensors.index.json", MANIFEST_FILE}


def export_base(run: Run, task: str | None, variant: str | None, out: Path) -> None:
    """Write the base with a variant's task LoRA as one model folder, all or nothing.

    Args:
        run: A run whose task bases are trained.
        task: The task; may be None if there is only one.
        variant: The variant; likewise.
        out: The folder to make; only an earlier export is replaced.

    Raises:
        ConfigError: the run has no such task base, its base is quantized, or `out` holds something else.
        StoreError: the task LoRA is missing or damaged.
        ModelError: the base is gone.
    """
    if run.config.quantize:
        raise ConfigError(
            f"The base of {run.path} is quantized ({run.config.quantize}); a task LoRA cannot be merged into "
            "it without loss. Export from a run without --quantize, or give other tools base and task_lora/ "
            "of `oppu adapters export`."
        )
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or _is_export(out))):
        raise ConfigError(
            f"{out} is there already and is no exported task base, or holds more; choose another --out."
        )
    with open_store(run.store_path) as store:
        work = find_variant(run, task, variant, personal=False)
        state = store.load(work.task_lora)
        base = VariantJobs(work, store).load_base()
    facts = {
        "format": FORMAT,
        "kind": "task_base",
        "task": work.dataset.task.name,
        "variant": work.name,
        "task_lora": dict(work.task_lora.identity),
    }
    merged = Base(
        base.name, merge(base.model.float(), work.task_config, state), base.tokenizer, base.identity
    )
    with new_dir(out) as folder:
        write_model(merged, folder)
        write_json(folder / MANIFEST_FILE, facts)
        write_text(folder / CARD_FILE, base_card(run, work))


def write_model(base: Base, folder: Path) -> None:
    """Write a loaded base into an existing folder, as ``from_pretrained`` reads it."""
    base.model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)  # it is our empty one, not the base's
    for file in sorted(base_folder(base.name).iterdir()):
        if file.suffix in _COPIED and file.name not in _WRITTEN_ANEW:
            shutil.copyfile(file, folder / file.name)


def _is_export(folder: Path) -> bool:
    """Whether a folder is an exported base and nothing more (a git clone of one has more)."""
    if any(entry.is_dir() or is_litter(entry.name) for entry in folder.iterdir()):
        return False
    try:
        manifest = read_json(folder / MANIFEST_FILE)
    except DataError:
        return False
    return isinstance(manifest, dict) and manifest.get("kind") == "task_base"
