"""What the end-to-end tests share: a few planted users, and settings that train in a moment."""

import json
import sqlite3
from pathlib import Path

import safetensors.torch
import torch
from oppu_core.data.dataset import Dataset
from oppu_core.data.dataset_writer import write_dataset
from oppu_core.data.sample import sample_users
from oppu_core.storage.store import Store
from oppu_core.tasks.task_files import get_task
from rounding import ADAPTERS

# One quick epoch: these tests are about what depends on what, not about scores.
QUICK = ["--set", "personal.epochs=1", "--set", "task_lora.epochs=1"]
ROUNDING = ADAPTERS  # how far adapters may be apart that were trained under different plans


def sample_dataset(folder: Path, task: str = "lamp_2m", users: int = 3, seed: int = 0) -> Dataset:
    """A dataset of a few planted users with short histories."""
    drawn = sample_users(
        get_task(task), test_users=users, other_users=6, history=(6, 9), queries=3, seed=seed
    )
    return write_dataset(folder, get_task(task), drawn, {"kind": "sample world"})


def distance(ours: bytes, theirs: bytes) -> float:
    """The relative difference, in norm, of two adapters."""
    a, b = safetensors.torch.load(ours), safetensors.torch.load(theirs)
    assert a.keys() == b.keys()
    all_a, all_b = (torch.cat([state[name].flatten() for name in sorted(state)]) for state in (a, b))
    return float((all_a - all_b).norm() / all_b.norm())


def adapters(store: Path) -> dict[tuple[str, str], bytes]:
    """The weights of all users in a store, by user and what the adapter stands on."""
    opened = Store(store)
    entries = [entry for entry in opened.entries() if entry.user_id is not None and entry.status == "ok"]
    opened.close()
    return {
        (entry.user_id or "", entry.folder): (store / entry.folder / "adapter_model.safetensors").read_bytes()
        for entry in entries
    }


def contents(run: Path) -> dict[str, bytes]:
    """Every byte that a run is answerable for: not its log, its lock or SQLite's pages."""
    files = [path for path in run.parent.rglob("*") if path.is_file()]
    kept = {
        str(path.relative_to(run.parent)): path.read_bytes()
        for path in files
        if path.name not in ("log.jsonl", ".lock") and not path.name.startswith("manifest.sqlite")
    }
    with sqlite3.connect(run.parent / "store" / "manifest.sqlite") as manifest:
        rows = manifest.execute("SELECT folder, status, sha256, identity, facts FROM entries ORDER BY folder")
        for folder, status, sha256, identity, facts in rows:
            plain = {key: value for key, value in json.loads(facts).items() if key != "seconds"}
            kept[f"manifest {folder}"] = repr((status, sha256, identity, plain)).encode()
    return kept
