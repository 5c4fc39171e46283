"""Extending the installed lm_eval by our folder of tasks and our model.

``_oppu_lm_eval.py`` calls this when lm_eval is imported; :func:`register` is for processes started without
it. Importing this module does not import lm_eval.
"""

import functools
import importlib
import importlib.util
import inspect
import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

from oppu_core.errors import ConfigError, OppuError

TASKS = Path(__file__).parent / "tasks"
MODEL = "oppu_eval.lm_eval.model:OppuLM"


def register() -> None:
    """Register our tasks and model with lm_eval, whether or not it has been imported.

    Raises:
        ConfigError: lm_eval is not installed, or is a release that cannot be extended.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigError("lm_eval is not installed: install oppu-eval[lm-eval]")
    extend_tasks()
    extend_models()


def extend_tasks() -> None:
    """Let lm_eval's ``TaskManager`` search our tasks after its own and before the user's folders.

    Raises:
        ConfigError: the ``TaskManager`` of this release has other parameters.
    """
    from lm_eval.tasks import TaskManager

    _report_errors_briefly()
    if "searches_oppu_tasks" in vars(TaskManager):
        return
    original = TaskManager.__init__
    signature = inspect.signature(original)
    if missing := {"include_path", "include_defaults"} - set(signature.parameters):
        raise ConfigError(
            f"lm_eval's TaskManager has no {' and no '.join(sorted(missing))}: oppu-eval does not know this "
            f"release of lm_eval; give the tasks as --include_path {TASKS}"
        )

    @functools.wraps(original)
    def init(*args: Any, **options: Any) -> None:
        call = signature.bind(*args, **options)
        call.apply_defaults()
        given = call.arguments["include_path"]
        if call.arguments["include_defaults"]:
            folders = given if isinstance(given, list | tuple) else [given] if given else []
            call.arguments["include_path"] = [TASKS, *folders]
        original(*call.args, **call.kwargs)
        args[0].include_path = given

    TaskManager.__init__ = init
    TaskManager.searches_oppu_tasks = True


def extend_models() -> None:
    """Add our model to lm_eval's registry; it is imported on demand.

    lm_eval fills its registry only while that is empty, so its own models have to come first.
    """
    from lm_eval.api.registry import model_registry

    importlib.import_module("lm_eval.models")
    _report_errors_briefly()
    # Releases that read the entry points may have it already.
    if "oppu" not in model_registry:
        model_registry.register("oppu", target=MODEL)


@functools.cache
def _report_errors_briefly() -> None:
    """Let our errors end the ``lm_eval`` command with one message; other programs keep the traceback."""
    previous = sys.excepthook

    def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        frames = (frame for frame, _ in traceback.walk_tb(trace))
        if isinstance(error, OppuError) and any(f.f_code.co_name == "cli_evaluate" for f in frames):
            print(f"error: {error}", file=sys.stderr)
        else:
            previous(kind, error, trace)

    sys.excepthook = report
