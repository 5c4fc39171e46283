"""What the end-to-end tests share: a few planted users, and settings that train in a moment."""

from pathlib import Path

from oppu_core.data.dataset import Dataset, write_dataset
from oppu_core.data.sample import sample_users
from oppu_core.tasks import get_task

# One quick epoch: these tests are about what depends on what, not about scores.
QUICK = ["--set", "personal.epochs=1", "--set", "task_lora.epochs=1"]


def sample_dataset(folder: Path, task: str = "lamp_2m", users: int = 3, seed: int = 0) -> Dataset:
    """A dataset of a few planted users with short histories."""
    drawn = sample_users(
        get_task(task), test_users=users, other_users=6, history=(6, 9), queries=3, seed=seed
    )
    return write_dataset(folder, get_task(task), drawn, {"kind": "sample world"})
