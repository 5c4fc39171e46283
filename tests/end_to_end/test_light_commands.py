"""Commands that compute nothing, and mistakes that can be seen at once, do not load torch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from oppu_core.data.dataset import Dataset
from small_world import QUICK

METHODS = "non_personalized,oppu_k0"

# Runs each command in this process; whoever imports what takes seconds is told on.
CODE = """
import json, sys
HEAVY = {"torch", "transformers", "peft", "bitsandbytes", "gradio"}
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name in HEAVY:
            raise AssertionError(f"imported {name}")
sys.meta_path.insert(0, Refuse())
from oppu_core.cli.main import main
codes = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["oppu", *arguments]
    print("$", *arguments, file=sys.stderr, flush=True)
    try:
        main()
        codes.append(0)
    except SystemExit as stop:
        codes.append(stop.code or 0)
print(json.dumps(codes))
"""


@pytest.fixture
def run(oppu_process, movies: Dataset, tmp_path: Path) -> Path:
    """A run with everything."""
    path = tmp_path / "runs" / "movies"
    done = oppu_process("run", "--run", path, "--data", movies.path, "--methods", METHODS, *QUICK)
    assert done.returncode == 0, done.stderr
    return path


def outcomes(*commands: list[str | Path], cwd: Path) -> tuple[list[int], str]:
    """The exit codes of commands in one process without torch, and what they wrote to stderr."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps([[str(part) for part in one] for one in commands])],
        cwd=cwd, env={**os.environ, "NO_COLOR": "1", "COLUMNS": "120"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "imported" not in done.stderr, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_what_only_reads_computes_nothing(run: Path, movies: Dataset, tmp_path: Path) -> None:
    codes, said = outcomes(
        ["evaluate", "--run", run],
        ["report", "--run", run],
        ["adapters", "list", "--run", run],
        ["adapters", "show", "test-000", "--run", run, "--variant", "base"],
        ["forget", "test-000", "--dry-run", "--runs", run.parent],
        ["data", "describe", movies.path],
        ["data", "audit", movies.path],
        ["data", "sample", "--task", "lamp_4", "--users", "2", "--out", tmp_path / "sample"],
        cwd=tmp_path,
    )
    assert codes == [0] * len(codes), said
    codes, said = outcomes(
        ["run", "--run", run, "--data", movies.path, "--methods", METHODS, *QUICK, "--seed", "7"],
        ["quickstart", "--run", run, "--task", "lamp_4"],
        ["ask", "--run", run, "  "],
        ["ask", "--run", run, "--field", "stars=5", "A ship."],
        ["ask", "--run", run, "--user", "nobody", "A ship."],
        cwd=tmp_path,
    )
    assert codes == [2, 2, 2, 2, 1], said
    assert "seed: 0 then, 7 now" in said and f"{run} has the tasks lamp_2m." in said


def test_mistakes_that_can_be_seen_at_once_are(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    commands = [
        ["run", "--run", tmp_path / "new", "--data", nowhere],
        ["run", "--run", tmp_path / "new", "--data", nowhere, "--methods", "oppu_k"],
        ["base", "train", "--run", tmp_path / "new", "--data", nowhere],
        *([name, "--run", nowhere] for name in ("answer", "evaluate", "report", "demo")),
        ["personal", "train", "--run", nowhere],
        ["ask", "--run", nowhere, "A ship."],
        ["personalize", "--history", nowhere, "--task", "lamp_2m", "--user", "me"],
        ["study", "shift", "--data", nowhere],
        ["study", "similarity", "--run", nowhere],
    ]
    codes, said = outcomes(*commands, cwd=tmp_path)
    assert all(code in (1, 2) for code in codes), said
    assert said.count("error: ") == len(commands), said
    assert not (tmp_path / "new").exists()
