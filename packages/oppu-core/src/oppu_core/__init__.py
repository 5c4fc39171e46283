"""oppu-core: everything that makes a personal language model.

The names exported here are the Python API (``docs/python.md``); everything else in the modules may change.
In pipeline order the rooms are :mod:`tasks`, :mod:`data`, :mod:`prompting`, :mod:`modeling`, :mod:`training`,
:mod:`storage`, :mod:`runs` and :mod:`ownership`. Names are loaded on first use; the package imports no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oppu_core.api import Personal, build_dataset, execute, personalize, predictions
    from oppu_core.data.dataset import Dataset
    from oppu_core.data.sample import sample_users
    from oppu_core.errors import OppuError
    from oppu_core.ownership.adapter_export import export_adapter
    from oppu_core.ownership.base_export import export_base
    from oppu_core.ownership.bundle import write_bundle
    from oppu_core.runs.asking import ask
    from oppu_core.runs.options import Compute, RunOptions
    from oppu_core.runs.run import Run, open_run
    from oppu_core.runs.start import start_run
    from oppu_core.tasks.task_files import load_task

__version__ = "0.1.0"
__all__ = [
    "Compute",
    "Dataset",
    "OppuError",
    "Personal",
    "Run",
    "RunOptions",
    "ask",
    "build_dataset",
    "execute",
    "export_adapter",
    "export_base",
    "load_task",
    "open_run",
    "personalize",
    "predictions",
    "sample_users",
    "start_run",
    "write_bundle",
]

_ELSEWHERE = {  # names that are not in `api`, and their modules
    "Compute": "runs.options",
    "Dataset": "data.dataset",
    "OppuError": "errors",
    "Run": "runs.run",
    "RunOptions": "runs.options",
    "ask": "runs.asking",
    "export_adapter": "ownership.adapter_export",
    "export_base": "ownership.base_export",
    "load_task": "tasks.task_files",
    "open_run": "runs.run",
    "sample_users": "data.sample",
    "start_run": "runs.start",
    "write_bundle": "ownership.bundle",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_ELSEWHERE.get(name, 'api')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
