"""`oppu quickstart --model` and `oppu demo --model`: the sample world on a base of one's own."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from oppu_core.modeling.base_files import TINY_FOLDER
from oppu_core.runs.run import open_run
from oppu_core.training.config import PresetName, personal_config, resolve_preset, task_config
from oppu_demo.prepare import Status, prepare
from oppu_eval import quickstart

Oppu = Callable[..., CompletedProcess[str]]


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shipped base as somebody's own, and an even smaller world."""
    shutil.copytree(TINY_FOLDER, tmp_path / "my base")
    small = dataclasses.replace(
        quickstart.REAL, users=2, others=4, history=(4, 6), queries=2, settings=("personal.epochs=1",)
    )
    monkeypatch.setattr(quickstart, "REAL", small)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "my base"


def test_another_base_gets_a_smaller_quickstart_of_its_own(oppu: Oppu, base: Path) -> None:
    result = oppu("quickstart", "--model", base)
    assert result.returncode == 0, result.stderr
    assert "2 planted users" in result.stderr and "Expected time here: about" in result.stderr
    run = open_run("runs/quickstart-my-base")
    assert list(run.config.data) == ["lamp_2m"] and run.config.methods == quickstart.REAL.methods
    assert (run.path / "report.html").is_file()
    asking, showing = result.stdout.splitlines()[-2:]  # whole lines, to be pasted
    assert asking.startswith("Next: ") and "oppu ask --run runs/quickstart-my-base --task lamp_2m" in asking
    assert asking.endswith("'") and showing.endswith("oppu demo --run runs/quickstart-my-base")
    again = oppu("quickstart", "--model", base)
    assert again.returncode == 0 and "Everything is there." in again.stderr


def test_the_page_makes_the_run_of_another_base(base: Path) -> None:
    status = Status()
    run = prepare(Path("runs/page"), str(base), "cpu", status)
    assert status.share == 1.0
    assert run.config.model == str(base) and run.config.methods == quickstart.REAL.methods


def test_a_run_of_another_base_of_this_name_is_not_shown(oppu: Oppu, base: Path, tmp_path: Path) -> None:
    assert oppu("quickstart", "--model", base).returncode == 0
    shutil.copytree(base, tmp_path / "elsewhere" / base.name)
    result = oppu("demo", "--model", tmp_path / "elsewhere" / base.name, "--no-browser")
    assert result.returncode == 2 and "is of another base" in result.stderr


def test_a_base_that_is_not_there_is_said_before_anything_is_made(oppu: Oppu, base: Path) -> None:
    for command in (["quickstart"], ["demo", "--no-browser"]):
        result = oppu(*command, "--model", "./nowhere")
        assert result.returncode == 1 and "is no folder" in result.stderr
        assert "Getting ready" not in result.stderr and not Path("runs").exists()


def test_a_file_is_no_place_for_a_run(oppu: Oppu, base: Path) -> None:
    Path("likes.csv").touch()
    result = oppu("quickstart", "--run", "likes.csv")
    assert result.returncode == 2 and "likes.csv is a file" in result.stderr
    assert not Path("likes.csv-data").exists()


def test_a_run_has_its_own_base(oppu: Oppu, base: Path) -> None:
    result = oppu("demo", "--run", "runs/x", "--model", base)
    assert result.returncode == 2 and "--run has its own base" in result.stderr


def test_presets_go_by_size() -> None:
    sizes: dict[PresetName, int] = {
        "tiny": 1_263_744,
        "small": 7_200_000,
        "medium": 134_515_008,
        "paper": 10**9,
    }
    for name, parameters in sizes.items():
        assert resolve_preset("auto", parameters) == name
    rates = [personal_config("lamp_2m", name, 0).learning_rate for name in sizes]
    assert rates == sorted(rates, reverse=True)
    assert task_config("lamp_2m", "medium", 0).epochs == 1
