"""Small worlds for tests that run the real thing on the shipped base."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
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


@pytest.fixture(scope="session")
def movies(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A small tagging dataset."""
    return sample_dataset(tmp_path_factory.mktemp("data") / "movies")


@pytest.fixture(scope="session")
def headlines(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A small headline dataset."""
    return sample_dataset(tmp_path_factory.mktemp("data") / "headlines", "lamp_4")


@pytest.fixture
def oppu() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the real command line in a process of its own."""

    def run(*arguments: str | Path, code: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        script = f"import sys\n{code}\nfrom oppu_core.cli import main\nsys.argv[0] = 'oppu'\nmain()"
        return subprocess.run(
            [sys.executable, "-c", script, *map(str, arguments)],
            capture_output=True,
            text=True,
            env={**os.environ, "COLUMNS": "120", "NO_COLOR": "1", **environment},
            timeout=300,
            check=False,
        )

    return run
