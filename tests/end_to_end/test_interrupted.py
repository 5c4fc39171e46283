"""Killed anywhere and started again, a run ends with the same bytes as one that was never killed."""

import signal
from pathlib import Path

import pytest
from oppu_core.data.dataset import Dataset
from small_world import QUICK, contents

METHODS = "non_personalized,rag_k1,oppu_k0,oppu_rag_k1"

# Each kills the process without warning at the n-th call of a function of ours.
KILL = """
import importlib, os, signal
def kill_at(module, name, n, after=False):
    module = importlib.import_module(module)
    owner, _, attribute = name.rpartition(".")
    holder = getattr(module, owner) if owner else module
    original, calls = getattr(holder, attribute), [0]
    def wrapper(*args, **kwargs):
        calls[0] += 1
        result = original(*args, **kwargs) if calls[0] < n or after else None
        if calls[0] == n:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(holder, attribute, wrapper)
"""
POINTS = {
    "while a task LoRA is trained": 'kill_at("oppu_core.training.cohort", "Cohort._step", 2)',
    "when its folder is there, not in the manifest": 'kill_at("oppu_core.storage.store", "Store.record", 1)',
    "after the first unit of answers": 'kill_at("oppu_core.runs.predictions", "Journal.add", 1, after=True)',
    "before it is written who is trained together": 'kill_at("oppu_core.training.plan", "write_jsonl", 1)',
    "in the middle of writing the second user's weights": (
        'kill_at("safetensors.torch", "save_file", 2, after=True)'
    ),
    "while users are trained again for the others' sake": (
        'kill_at("oppu_core.training.cohort", "Cohort._step", 2)'
    ),
    "after the second user's answers": 'kill_at("oppu_core.runs.predictions", "Journal.add", 2, after=True)',
    "before a prediction file is whole": 'kill_at("oppu_core.runs.predictions", "write_jsonl", 1)',
    "before the results are whole": 'kill_at("oppu_eval.scoring.run_results", "write_json", 1)',
}


def test_a_run_that_is_killed_at_many_points_ends_with_the_same_bytes(
    oppu_process, movies: Dataset, tmp_path: Path
) -> None:
    def command(folder: str) -> list[str]:
        run = str(tmp_path / folder / "run")
        # All users are trained at once; there is room for the queries of one.
        options = ["--methods", METHODS, "--cohort", "3", "--batch-size", "4", *QUICK]
        return ["run", "--run", run, "--data", str(movies.path), *options]

    undisturbed = oppu_process(*command("undisturbed"))
    assert undisturbed.returncode == 0, undisturbed.stderr
    for where, point in POINTS.items():
        killed = oppu_process(*command("killed"), code=KILL + point)
        assert killed.returncode == -signal.SIGKILL, f"not killed {where}: {killed.stderr}"
    finished = oppu_process(*command("killed"))
    assert finished.returncode == 0, finished.stderr

    expected = contents(tmp_path / "undisturbed" / "run")
    found = contents(tmp_path / "killed" / "run")
    assert found.keys() == expected.keys()
    different = [name for name in expected if expected[name] != found[name]]
    # The report names the run's folder in its command line.
    assert [name for name in different if not name.endswith("report.html")] == []


def test_a_torn_line_of_the_journal_is_answered_again(oppu, movies: Dataset, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = ["run", "--run", run, "--data", movies.path, "--methods", "non_personalized,oppu_k0", *QUICK]
    assert oppu(*command).returncode == 0
    file = run / "lamp_2m" / "predictions" / "oppu_k0.jsonl"
    whole = file.read_bytes()
    lines = whole.splitlines(keepends=True)
    file.unlink()
    (file.parent / ".oppu_k0.partial.jsonl").write_bytes(b"".join(lines[:4]) + lines[4][:20])
    assert oppu(*command).returncode == 0
    assert file.read_bytes() == whole


def test_ctrl_c_says_how_to_go_on(oppu, movies: Dataset, tmp_path: Path, monkeypatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("oppu_core.training.cohort.Cohort._step", stop)
    result = oppu("run", "--run", tmp_path / "run", "--data", movies.path)
    assert result.returncode == 130
    assert "same command again" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("option", [["--seed", "1"], ["--methods", "rag_k2"], ["--set", "personal.epochs=2"]])
def test_a_changed_configuration_is_refused_with_the_difference(
    oppu, movies: Dataset, tmp_path: Path, option: list[str]
) -> None:
    base = ["base", "train", "--run", tmp_path / "run", "--data", movies.path]
    assert oppu(*base, "--methods", "non_personalized", *QUICK).returncode == 0
    again = ["--methods", "non_personalized", *QUICK, *option]
    result = oppu(*base, *again)
    assert result.returncode == 2
    assert "another configuration" in result.stderr
    assert "then" in result.stderr and "now" in result.stderr
