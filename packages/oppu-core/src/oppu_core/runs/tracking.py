"""Sending training losses to trackio, tensorboard or wandb, if it is installed.

Only numbers, the run's name and its training settings are sent; never texts or users' ids.
"""

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from oppu_core.errors import ConfigError

if TYPE_CHECKING:
    from oppu_core.runs.run import Run

ReportTo = Literal["none", "trackio", "tensorboard", "wandb"]


class Tracker(Protocol):
    """Receives training losses."""

    def log(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        """Add a value to the curve `name`; `labels` say what it belongs to."""

    def close(self) -> None:
        """End the tracking."""


class _Project:
    """trackio or wandb, whose ``init`` returns an object with ``log`` and ``finish``."""

    def __init__(self, module: Any, folder: Path, settings: Mapping[str, Any]) -> None:
        self._run = module.init(project="oppu", name=folder.resolve().name, config=dict(settings))

    def log(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        self._run.log({name: value, **labels})

    def close(self) -> None:
        self._run.finish()


class _Tensorboard:
    def __init__(self, module: Any, folder: Path, settings: Mapping[str, Any]) -> None:
        self._writer = module.SummaryWriter(str(folder / "tensorboard"))
        self._counts: dict[str, int] = {}

    def log(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        self._counts[name] = self._counts.get(name, 0) + 1
        self._writer.add_scalar(name, value, self._counts[name])

    def close(self) -> None:
        self._writer.close()


_KINDS: dict[str, tuple[str, Callable[[Any, Path, Mapping[str, Any]], Tracker]]] = {
    "trackio": ("trackio", _Project),
    "tensorboard": ("torch.utils.tensorboard", _Tensorboard),
    "wandb": ("wandb", _Project),
}


@contextlib.contextmanager
def reporting(kind: ReportTo, run: "Run") -> Iterator[Tracker | None]:
    """Within the block, report a run's losses; tensorboard's files go into the run's folder.

    Raises:
        ConfigError: the package is not installed, or does not start.
    """
    if kind == "none":
        yield None
        return
    module, make = _KINDS[kind]
    shown = ("model", "methods", "task_lora", "personal", "dtype", "seed", "examples")
    settings = {name: value for name, value in run.config.to_json().items() if name in shown}
    settings["model"] = Path(run.config.model).name  # not the folder's full path, which is private
    try:
        tracker = make(importlib.import_module(module), run.path, settings)
    except ImportError as error:
        raise ConfigError(
            f"--report-to {kind} needs the package {kind}, which is not installed here: pip install {kind}."
        ) from error
    except Exception as error:  # no account, no network, no disk: each package raises its own kinds
        raise ConfigError(f"--report-to {kind} does not start: {error}") from error
    try:
        yield tracker
    finally:
        tracker.close()
