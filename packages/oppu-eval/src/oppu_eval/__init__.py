"""oppu-eval: honest comparisons of personal language models.

The names exported here belong to the Python API (``docs/python.md``); they are loaded on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oppu_eval.scoring.run_results import evaluate_run, read_results, results

__all__ = ["evaluate_run", "read_results", "results"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("oppu_eval.scoring.run_results"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
