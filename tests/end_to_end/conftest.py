"""Small worlds for tests that run the real thing on the shipped base."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from oppu_core.data.dataset import Dataset
from small_world import sample_dataset


@pytest.fixture(scope="session")
def movies(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A small tagging dataset."""
    return sample_dataset(tmp_path_factory.mktemp("data") / "movies")


@pytest.fixture(scope="session")
def headlines(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A small headline dataset."""
    return sample_dataset(tmp_path_factory.mktemp("data") / "headlines", "lamp_4")


@pytest.fixture
def oppu(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the real command line, in this process (importing torch anew takes seconds)."""
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        from oppu_core.cli import main as cli

        monkeypatch.setattr(sys, "argv", ["oppu", *map(str, arguments)])
        monkeypatch.setattr(cli, "register_plugins", lambda: None)
        capsys.readouterr()
        try:
            cli.main()
            code: object = 0
        except SystemExit as stop:
            code = stop.code or 0
        output = capsys.readouterr()
        assert isinstance(code, int)
        return subprocess.CompletedProcess(list(arguments), code, output.out, output.err)

    from oppu_core.cli.main import app, register_plugins

    if not {"quickstart"} & {command.callback.__name__ for command in app.registered_commands}:
        register_plugins()
    return run


@pytest.fixture
def oppu_process() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the real command line in a process of its own, `code` first."""

    def run(*arguments: str | Path, code: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        script = f"import sys\n{code}\nfrom oppu_core.cli.main import main\nsys.argv[0] = 'oppu'\nmain()"
        return subprocess.run(
            [sys.executable, "-c", script, *map(str, arguments)],
            capture_output=True,
            text=True,
            env={**os.environ, "COLUMNS": "120", "NO_COLOR": "1", **environment},
            timeout=300,
            check=False,
        )

    return run
