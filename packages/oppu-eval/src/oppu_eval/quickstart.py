"""The quickstart: the whole comparison on the sample world, sized to take about a minute per task."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from oppu_core.data.dataset import MANIFEST
from oppu_core.data.dataset_writer import write_dataset
from oppu_core.data.sample import GRAMMARS, sample_users
from oppu_core.errors import ConfigError
from oppu_core.modeling.base_files import TINY, base_folder
from oppu_core.modeling.dtypes import Dtype
from oppu_core.prompting.methods import DEFAULT_METHODS
from oppu_core.tasks.task_files import get_task

if TYPE_CHECKING:
    from oppu_core.runs.run import Run

EXAMPLE_TASK = "lamp_2m"
EXAMPLE = (
    "Iris Vance is a nurse in Greyford. The state listens in every room. "
    "It retells the real case of a missing pilot. You will discuss it for days."
)


@dataclasses.dataclass(frozen=True)
class Size:
    """How much of the sample world a quickstart takes, and what it compares."""

    users: int
    others: int
    history: tuple[int, int]
    queries: int
    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    settings: tuple[str, ...] = ()


# A little less training than the preset, for a result in a minute or two.
SHIPPED = Size(10, 30, (20, 40), 10, ("lamp_2m", "lamp_4"), DEFAULT_METHODS, ("personal.epochs=4",))
# A real language model trains a hundred times slower than the shipped base; its settings go by its size.
REAL = Size(4, 16, (12, 16), 6, ("lamp_2m",), ("non_personalized", "rag_k1", "oppu_k0"))


def size_for(model: str) -> Size:
    """The size of a quickstart with a base."""
    return SHIPPED if model == TINY else REAL


def default_folder(model: str) -> Path:
    """Where a quickstart with a base goes."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", Path(model).name)
    return Path("runs", "quickstart" if model == TINY else f"quickstart-{name}")


def quickstart_tasks(text: str | None, model: str = TINY) -> list[str]:
    """Parse names of tasks, separated by commas, or ``all``.

    Raises:
        ConfigError: there is no such task in the sample world.
    """
    if text is None:
        return list(size_for(model).tasks)
    if text.strip() == "all":
        return list(GRAMMARS)
    names = list(dict.fromkeys(get_task(name.strip()).name for name in text.split(",")))
    if missing := [name for name in names if name not in GRAMMARS]:
        raise ConfigError(f"The sample world has no task {missing[0]}; it has {', '.join(GRAMMARS)}.")
    return names


def quickstart_data(folder: Path, tasks: Sequence[str], size: Size = SHIPPED) -> list[Path]:
    """The sample datasets of a quickstart; written if they are missing."""
    paths = []
    for name in tasks:
        path = folder / name
        if not (path / MANIFEST).exists():
            users = sample_users(
                get_task(name),
                test_users=size.users,
                other_users=size.others,
                history=size.history,
                queries=size.queries,
            )
            write_dataset(path, get_task(name), users, {"kind": "sample world", "for": "quickstart"})
        paths.append(path)
    return paths


def quickstart_run(path: Path, tasks: Sequence[str], model: str = TINY, dtype: Dtype = "float32") -> "Run":
    """Start a quickstart, or continue one with the same configuration.

    Raises:
        ConfigError: the folder holds one of other tasks, or another run.
    """
    from oppu_core.runs.options import RunOptions
    from oppu_core.runs.run import open_run
    from oppu_core.runs.start import start_run

    base_folder(model)  # refused before anything is written
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{path} is a file; choose another --run.")
    if (path / "run.json").exists():
        before = open_run(path)
        if before.begun and before.config.data.keys() != set(tasks):
            raise ConfigError(
                f"{path} has the tasks {', '.join(before.config.data)}. Make {', '.join(tasks)} in a folder "
                f"of its own: --run {path}-{'-'.join(tasks)}"
            )
    size = size_for(model)
    data = quickstart_data(path.parent / f"{path.name}-data", tasks, size)
    options = RunOptions(data=data, model=model, dtype=dtype, methods=size.methods, settings=size.settings)
    return start_run(path, options)
