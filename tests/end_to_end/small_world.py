"""What the end-to-end tests share: a few planted users, and settings that train in a moment."""

from pathlib import Path

import safetensors.torch
from oppu_core.data.dataset import Dataset, write_dataset
from oppu_core.data.sample import sample_users
from oppu_core.store import Store
from oppu_core.tasks import get_task

# One quick epoch: these tests are about what depends on what, not about scores.
QUICK = ["--set", "personal.epochs=1", "--set", "task_lora.epochs=1"]
ROUNDING = 1e-5  # how far adapters may be apart that were trained under different plans


def sample_dataset(folder: Path, task: str = "lamp_2m", users: int = 3, seed: int = 0) -> Dataset:
    """A dataset of a few planted users with short histories."""
    drawn = sample_users(
        get_task(task), test_users=users, other_users=6, history=(6, 9), queries=3, seed=seed
    )
    return write_dataset(folder, get_task(task), drawn, {"kind": "sample world"})


def distance(ours: bytes, theirs: bytes) -> float:
    """The largest relative difference, in norm, of any tensor of two adapters."""
    a, b = safetensors.torch.load(ours), safetensors.torch.load(theirs)
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).norm() / b[name].norm()) for name in b)


def adapters(store: Path) -> dict[tuple[str, str], bytes]:
    """The weights of all users in a store, by user and what the adapter stands on."""
    opened = Store(store)
    entries = [entry for entry in opened.entries() if entry.user_id is not None and entry.status == "ok"]
    opened.close()
    return {
        (entry.user_id or "", entry.folder): (store / entry.folder / "adapter_model.safetensors").read_bytes()
        for entry in entries
    }
