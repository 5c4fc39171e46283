"""The quickstart: the whole comparison on the sample world, sized to take about a minute per task."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from oppu_core.data.dataset import MANIFEST
from oppu_core.data.dataset_writer import write_dataset
from oppu_core.data.sample import GRAMMARS, sample_users
from oppu_core.errors import ConfigError
from oppu_core.tasks.task_files import get_task

if TYPE_CHECKING:
    from oppu_core.runs.run import Run

EXAMPLE_TASK = "lamp_2m"
EXAMPLE = (
    "Iris Vance is a nurse in Greyford. The state listens in every room. "
    "It retells the real case of a missing pilot. You will discuss it for days."
)
USERS = 10
OTHERS = 30
HISTORY = (20, 40)
QUERIES = 10
SETTINGS = ["personal.epochs=4"]  # a little less than the preset, for a result in a minute or two
DEFAULT_TASKS = ("lamp_2m", "lamp_4")


def quickstart_tasks(text: str | None) -> list[str]:
    """Parse names of tasks, separated by commas, or ``all``.

    Raises:
        ConfigError: there is no such task in the sample world.
    """
    if text is None:
        return list(DEFAULT_TASKS)
    if text.strip() == "all":
        return list(GRAMMARS)
    names = list(dict.fromkeys(get_task(name.strip()).name for name in text.split(",")))
    if missing := [name for name in names if name not in GRAMMARS]:
        raise ConfigError(f"The sample world has no task {missing[0]}; it has {', '.join(GRAMMARS)}.")
    return names


def quickstart_data(folder: Path, tasks: Sequence[str]) -> list[Path]:
    """The sample datasets of a quickstart; written if they are missing."""
    paths = []
    for name in tasks:
        path = folder / name
        if not (path / MANIFEST).exists():
            users = sample_users(
                get_task(name), test_users=USERS, other_users=OTHERS, history=HISTORY, queries=QUERIES
            )
            write_dataset(path, get_task(name), users, {"kind": "sample world", "for": "quickstart"})
        paths.append(path)
    return paths


def quickstart_run(path: Path, tasks: Sequence[str]) -> "Run":
    """Start a quickstart, or continue one with the same configuration."""
    from oppu_core.runs.options import RunOptions
    from oppu_core.runs.start import start_run

    data = quickstart_data(path.parent / f"{path.name}-data", tasks)
    return start_run(path, RunOptions(data=data, settings=SETTINGS))
