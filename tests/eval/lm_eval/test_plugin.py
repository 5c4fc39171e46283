"""A plain lm_eval knows our tasks and model, and everything else goes on as if we were not there."""

import importlib
import inspect
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lm_eval.models
import lm_eval.tasks
import pytest
from lm_eval.tasks import TaskManager
from oppu_core.errors import ConfigError, DataError
from oppu_eval.lm_eval import plugin

pytestmark = pytest.mark.slow  # most start a Python
TASK = "task: {}\ndataset_path: json\noutput_type: generate_until\ndoc_to_text: a\ndoc_to_target: b\n"


def python(code: str, *options: str, path: str | Path = "") -> subprocess.CompletedProcess[str]:
    """Run code in a Python of this environment, in which nothing is imported yet."""
    environment = {**os.environ, "PYTHONPATH": str(path)}
    command = [sys.executable, *options, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


# --- the import hook, with stand-ins for lm_eval and for our extensions ----------------------------------

STAND_INS = {
    "lm_eval/__init__.py": "",
    "lm_eval/tasks/__init__.py": "loaded = True",
    "lm_eval/models/__init__.py": "loaded = True",
    "oppu_eval/__init__.py": "",
    "oppu_eval/lm_eval/__init__.py": "",
    "oppu_eval/lm_eval/plugin.py": """
import time
calls = []
def extend_tasks():
    from lm_eval.tasks import loaded
    time.sleep(0.1)
    calls.append(("tasks", loaded))
def extend_models():
    from lm_eval.models import loaded
    calls.append(("models", loaded))
""",
}
BROKEN = {**STAND_INS, "oppu_eval/lm_eval/plugin.py": "raise RuntimeError('no such luck')"}


@pytest.mark.parametrize("options", [(), ("-I",), ("-W", "error")])
def test_the_start_of_python_imports_nothing_of_ours(options: tuple[str, ...]) -> None:
    done = python("import sys; print(*sys.modules); print(sys.meta_path[0].extends)", *options)
    assert not done.stderr
    *modules, finder = done.stdout.split()
    assert finder == "lm_eval", "the hook is there"
    roots = {name.split(".")[0] for name in modules}
    ours = {"_oppu_lm_eval", "oppu_eval", "oppu_core"}
    assert not roots & {*ours, "lm_eval", "torch", "importlib", "typing", "logging"}


def test_the_installed_hook_is_that_of_the_sources() -> None:
    installed = Path(sysconfig.get_path("purelib"))
    hook = Path(__file__).parents[3] / "packages" / "oppu-eval" / "hook"
    for name, source in (
        ("oppu_lm_eval.pth", "oppu_lm_eval.pth"),
        ("_oppu_lm_eval/__init__.py", "_oppu_lm_eval.py"),
    ):
        assert (installed / name).read_text() == (hook / source).read_text(), "run `uv sync`"


@pytest.mark.parametrize("options", [(), ("-W", "error"), ("-X", "importtime")])
def test_modules_are_extended_once_they_are_loaded_and_look_as_usual(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    code = """
import importlib, importlib.util, inspect, pickle, sys
from importlib.machinery import SourceFileLoader
early = importlib.util.find_spec("lm_eval.tasks")
assert "oppu_eval" not in sys.modules and "lm_eval.tasks" not in sys.modules
for spec in (early, pickle.loads(pickle.dumps(early))):
    assert "loaded = True" in spec.loader.get_source("lm_eval.tasks")

import lm_eval.tasks
from oppu_eval.lm_eval.plugin import calls
assert calls == [("tasks", True)], calls
import lm_eval.models
assert calls == [("tasks", True), ("models", True)], calls
for module in (lm_eval.tasks, lm_eval.models):
    assert type(module.__loader__) is type(module.__spec__.loader) is SourceFileLoader
    assert inspect.getsource(module).strip() == "loaded = True"
    pickle.dumps(module.__spec__)
importlib.reload(lm_eval.tasks)
assert calls[2:] == [("tasks", True)], calls
assert type(lm_eval.tasks.__spec__.loader) is SourceFileLoader
"""
    done = python(code, *options, path=write(tmp_path, STAND_INS))
    assert done.returncode == 0, done.stderr
    assert options == ("-X", "importtime") or not done.stderr


def test_threads_that_import_at_once_all_see_the_extended_module(tmp_path: Path) -> None:
    code = """
import threading
barrier, seen = threading.Barrier(8), []
def work():
    barrier.wait()
    import lm_eval.tasks
    from oppu_eval.lm_eval.plugin import calls
    seen.append(list(calls))
threads = [threading.Thread(target=work) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert seen == [[("tasks", True)]] * 8, seen
"""
    done = python(code, path=write(tmp_path, STAND_INS))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("options", [(), ("-W", "error")])
def test_lm_eval_goes_on_without_us_when_we_are_broken(options: tuple[str, ...], tmp_path: Path) -> None:
    code = "import lm_eval.models, lm_eval.tasks; print(lm_eval.models.loaded and lm_eval.tasks.loaded)"
    done = python(code, *options, path=write(tmp_path, BROKEN))
    assert done.stdout == "True\n"
    assert done.stderr == "lm_eval goes on without OPPU's tasks and model: RuntimeError: no such luck\n"


def test_an_error_of_lm_eval_itself_stays_what_it_is(tmp_path: Path) -> None:
    write(tmp_path, {**STAND_INS, "lm_eval/tasks/__init__.py": "import missing_of_theirs"})
    done = python("import lm_eval.tasks", path=tmp_path)
    assert done.returncode == 1
    assert done.stderr.endswith("ModuleNotFoundError: No module named 'missing_of_theirs'\n")
    assert "OPPU" not in done.stderr


# --- what the real lm_eval is made to know ----------------------------------------------------------------

CHECK = """
assert {"dummy", "hf", "oppu"} <= set(model_registry.keys()), list(model_registry.keys())
import sys, types
assert "oppu_eval.lm_eval.model" not in sys.modules
sys.modules["oppu_eval.lm_eval.model"] = types.SimpleNamespace(OppuLM="stand-in")
from lm_eval.api.registry import get_model
assert get_model("oppu") == "stand-in"
assert get_model("dummy").__name__ == "DummyLM"
"""


def test_our_model_does_not_hide_the_built_in_ones() -> None:
    """get_model imports lm_eval's own models only while the registry is empty."""
    code = "from lm_eval.api.registry import get_model, model_registry\n"
    code += "assert len(model_registry) == 0\nget_model('dummy')\n"
    done = python(code + CHECK)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("before", ["", "import lm_eval.models, lm_eval.tasks"])
def test_register_does_both_without_the_hook(before: str) -> None:
    code = f"""
import sys
assert not any(hasattr(finder, "extends") for finder in sys.meta_path)
{before}
from oppu_eval.lm_eval.plugin import register
register()
register()
from lm_eval.tasks import TaskManager
assert "searches_oppu_tasks" in vars(TaskManager)
from lm_eval.api.registry import model_registry
{CHECK}
"""
    done = python(code, "-S", path=os.pathsep.join(sys.path))
    assert done.returncode == 0, done.stderr


def test_register_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"install oppu-eval\[lm-eval\]"):
        plugin.register()


def test_a_model_that_is_there_already_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.api.registry import Registry

    registry: Any = Registry("model")
    registry.register("oppu", target="of.the.entry:Point")
    monkeypatch.setattr("lm_eval.api.registry.model_registry", registry)
    plugin.extend_models()
    assert dict(registry.items()) == {"oppu": "of.the.entry:Point"}


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tasks of lm_eval, of ours and of a user, with some names in common."""
    for folder, names in {"theirs": "abc", "ours": "bcd", "own": "ce"}.items():
        write(tmp_path, {f"{folder}/{name}.yaml": TASK.format(name) for name in names})
    monkeypatch.setattr("lm_eval.tasks.manager.__file__", str(tmp_path / "theirs" / "manager.py"))
    monkeypatch.setattr(plugin, "TASKS", tmp_path / "ours")
    return tmp_path


def sources(manager: Any) -> dict[str, str]:
    """The folder that each task is from."""
    return {name: entry.yaml_path.parent.name for name, entry in manager.task_index.items()}


def test_our_tasks_come_after_lm_evals_and_before_the_users(folders: Path) -> None:
    assert sources(TaskManager()) == {"a": "theirs", "b": "ours", "c": "ours", "d": "ours"}
    given: Any
    for given in (own := folders / "own", str(own), [own], (str(own),)):
        manager = TaskManager(include_path=given)
        assert sources(manager) == {"a": "theirs", "b": "ours", "c": "own", "d": "ours", "e": "own"}
        assert manager.include_path is given
    assert TaskManager().include_path is None
    assert TaskManager(None, str(own), True, {"d": {}}).metadata == {"d": {}}


def test_without_the_defaults_there_are_none_of_ours(folders: Path) -> None:
    assert sources(TaskManager(include_path=str(folders / "own"), include_defaults=False)) == {
        "c": "own",
        "e": "own",
    }
    assert sources(TaskManager(None, None, False)) == {}


def test_a_subclass_knows_our_tasks_too(folders: Path) -> None:
    class Mine(TaskManager):
        def __init__(self, extra: int, **options: Any) -> None:
            super().__init__(**options)
            self.extra = extra

    manager = Mine(3, include_path=folders / "own")
    assert sources(manager)["d"] == "ours" and manager.include_path == folders / "own"


def test_the_task_manager_is_extended_once_and_keeps_its_signature() -> None:
    first = TaskManager.__init__
    plugin.extend_tasks()
    importlib.reload(lm_eval.tasks)
    assert TaskManager.__init__ is first
    assert list(inspect.signature(TaskManager).parameters)[:3] == [
        "verbosity",
        "include_path",
        "include_defaults",
    ]
    with pytest.raises(TypeError, match="no_such"):
        TaskManager(no_such=1)


def test_a_release_with_another_task_manager_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Later:
        def __init__(self, include_path: str | None = None) -> None:
            self.include_path = include_path

    before = Later.__init__
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", Later)
    with pytest.raises(ConfigError, match=r"no include_defaults.*--include_path .*tasks"):
        plugin.extend_tasks()
    assert Later.__init__ is before


# --- errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "start", "brief"),
    [
        ("DataError('users.jsonl, line 3: no id')", "cli_evaluate()", True),
        ("ValueError('theirs')", "cli_evaluate()", False),
        ("DataError('of a program')", "Command().execute(None)", False),
    ],
)
def test_an_error_of_ours_ends_the_command_in_one_message(error: str, start: str, brief: bool) -> None:
    code = f"""
import lm_eval.models, lm_eval.__main__
from lm_eval.__main__ import cli_evaluate
from oppu_core.errors import DataError
class Command:
    def parse_args(self): pass
    def execute(self, arguments): raise {error}
lm_eval.__main__.HarnessCLI = Command
{start}
"""
    done = python(code)
    assert done.returncode == 1
    if brief:
        assert done.stderr == "error: users.jsonl, line 3: no id\n"
    else:
        assert done.stderr.startswith("Traceback") and error.partition("(")[0] in done.stderr


def test_other_errors_go_to_the_hook_that_was_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[BaseException | None] = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: seen.append(error))
    install: Callable[[], None] = inspect.unwrap(plugin._report_errors_briefly)
    install()

    def cli_evaluate(error: Exception) -> None:
        raise error

    for error in (theirs := KeyError("theirs"), DataError("ours")):
        with pytest.raises(type(error)) as caught:
            cli_evaluate(error)
        sys.excepthook(caught.type, caught.value, caught.tb)
    assert seen == [theirs]
    assert capsys.readouterr().err == "error: ours\n"
