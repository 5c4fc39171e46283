"""Registers OPPU's tasks and model with a plain ``lm_eval``; lies in site-packages beside a ``.pth`` file.

Every Python process of the environment runs the line in that file at startup. So it imports nothing and only
adds a finder that compares names. When ``lm_eval.tasks`` or ``lm_eval.models`` is imported, the usual
machinery loads the module, and :mod:`oppu_eval.lm_eval.plugin` then extends it. If that fails, lm_eval goes
on without OPPU, and says why.
"""

TYPE_CHECKING = False  # type checkers treat it as true; importing typing would cost time
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any
else:
    Loader = object

_EXTENSIONS = {"lm_eval.tasks": "extend_tasks", "lm_eval.models": "extend_models"}
_warnings: set[str] = set()


def find_spec(
    name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
) -> "ModuleSpec | None":
    """The usual spec of one of the two modules, with our loader."""
    from importlib.machinery import PathFinder

    spec = PathFinder.find_spec(name, path, target)
    if spec and spec.loader:
        spec.loader = _ExtendingLoader(spec.loader)
    return spec


class _ExtendingLoader(Loader):
    """Wraps the usual loader until the module is loaded."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __getattr__(self, name: str) -> "Any":
        """Forward to the usual loader; pickle asks for dunders before ``loader`` is set."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.loader, name)

    def exec_module(self, module: "ModuleType") -> None:
        """Load the module by its own loader, which is restored, and extend it."""
        module.__loader__ = self.loader
        if module.__spec__:
            module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        _extend(module.__name__)


def _extend(name: str) -> None:
    """Call our extension of the module; no failure of ours may stop lm_eval."""
    try:
        from oppu_eval.lm_eval import plugin

        getattr(plugin, _EXTENSIONS[name])()
    except Exception as error:
        # Logged, as a warning would be an exception under `python -W error`.
        text = f"lm_eval goes on without OPPU's tasks and model: {type(error).__name__}: {error}"
        if text not in _warnings:
            _warnings.add(text)
            import logging

            logging.getLogger("oppu_eval").warning(text)
