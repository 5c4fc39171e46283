"""Losses go where they are asked for; texts and user ids never, and a broken tracker stops no training."""

import io
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from oppu_core.errors import ConfigError
from oppu_core.runs.progress import ProgressReporter
from oppu_core.runs.tracking import reporting
from rich.console import Console

SETTINGS = {
    "model": "/home/me/secret/base",
    "data": {"lamp_2m": "/home/me/data"},
    "profiles": ["/home/me/profiles.jsonl"],
    "methods": ["oppu_k0"],
    "seed": 3,
}


def run_at(path: Path) -> Any:
    config = types.SimpleNamespace(model=SETTINGS["model"], to_json=lambda: SETTINGS)
    return types.SimpleNamespace(path=path, config=config)


class Project:
    """What ``wandb.init`` and ``trackio.init`` give."""

    def __init__(self) -> None:
        self.logged: list[Any] = []
        self.finished = False

    def log(self, values: Any) -> None:
        self.logged.append(values)

    def finish(self) -> None:
        self.finished = True


@pytest.mark.parametrize("kind", ["trackio", "wandb"])
def test_losses_go_to_a_project(kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, asked = Project(), {}

    def init(**options: Any) -> Project:
        asked.update(options)
        return project

    monkeypatch.setitem(sys.modules, kind, types.SimpleNamespace(init=init))
    with reporting(kind, run_at(tmp_path / "movies")) as tracker:
        reporter = ProgressReporter(Console(quiet=True), tracker=tracker)
        reporter.report("lamp_2m base/task LoRA", 2.5)
        reporter.report("lamp_2m base/adapters", 0.5, adapter="abc")
        assert not project.finished
    assert project.finished
    assert project.logged == [
        {"lamp_2m base/task LoRA": 2.5},
        {"lamp_2m base/adapters": 0.5, "adapter": "abc"},
    ]
    assert asked["project"] == "oppu" and asked["name"] == "movies"
    assert asked["config"] == {"model": "base", "methods": ["oppu_k0"], "seed": 3}


def test_each_curve_of_tensorboard_has_its_own_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scalars: list[Any] = []

    class SummaryWriter:
        def __init__(self, folder: str) -> None:
            assert folder == str(tmp_path / "tensorboard")

        def add_scalar(self, *values: Any) -> None:
            scalars.append(values)

        def close(self) -> None:
            scalars.append("closed")

    module = types.SimpleNamespace(SummaryWriter=SummaryWriter)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    with reporting("tensorboard", run_at(tmp_path)) as tracker:
        reporter = ProgressReporter(Console(quiet=True), tracker=tracker)
        for name, loss in (("a", 3.0), ("b", 2.0), ("a", 1.0)):
            reporter.report(name, loss, adapter="x")
    assert scalars == [("a", 3.0, 1), ("b", 2.0, 1), ("a", 1.0, 2), "closed"]


def test_a_real_tensorboard_writes_its_file(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    with reporting("tensorboard", run_at(tmp_path)) as tracker:
        ProgressReporter(Console(quiet=True), tracker=tracker).report("a", 1.0)
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_nothing_is_reported_by_default(tmp_path: Path) -> None:
    with reporting("none", run_at(tmp_path)) as tracker:
        assert tracker is None
        ProgressReporter(Console(quiet=True), tracker=tracker).report("a", 1.0)


@pytest.mark.parametrize("kind", ["trackio", "wandb", "tensorboard"])
def test_a_package_that_is_missing_is_named(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, kind, None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=f"pip install {kind}"), reporting(kind, run_at(tmp_path)):
        pass


def test_a_tracker_that_does_not_start_is_refused_in_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**options: Any) -> None:
        raise ValueError("no account")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    with (
        pytest.raises(ConfigError, match="--report-to wandb does not start: no account"),
        reporting("wandb", run_at(tmp_path)),
    ):
        pass


def test_an_error_in_training_is_not_taken_for_the_trackers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project()
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=lambda **_: project))
    with pytest.raises(ImportError, match="mine"), reporting("wandb", run_at(tmp_path)):
        raise ImportError("mine")
    assert project.finished


def test_a_tracker_that_breaks_is_left_alone_and_said_once(tmp_path: Path) -> None:
    class Broken:
        calls = 0

        def log(self, *values: Any) -> None:
            self.calls += 1
            raise OSError("no [network]")

        def close(self) -> None: ...

    tracker, shown = Broken(), io.StringIO()
    reporter = ProgressReporter(Console(file=shown, width=200), tracker=tracker)
    reporter.report("a", 1.0)
    reporter.report("a", 1.0)
    assert tracker.calls == 1
    assert shown.getvalue().count("no [network]") == 1
