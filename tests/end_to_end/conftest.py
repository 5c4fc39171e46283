"""Small worlds for tests that run the real thing on the shipped base."""

import json
import select
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import safetensors.torch
from oppu_core.data.dataset import Dataset
from oppu_core.modeling import base_files
from small_world import sample_dataset

# These need the shipped base as it is: planted habits are to be found, or processes of their own load it.
WHOLE_BASE = {
    "test_planted_studies", "test_docs", "test_docs_lm_eval", "test_docs_python",
    "test_packaging", "test_quickstart_model", "test_gpu_benchmark", "test_recipe", "test_light_commands",
}  # fmt: skip


@pytest.fixture(scope="session")
def shallow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped base's first layer alone: a quarter of the work."""
    folder = tmp_path_factory.mktemp("base") / "shallow"
    shutil.copytree(base_files.TINY_FOLDER, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    kept = {
        name: tensor for name, tensor in weights.items() if ".layers." not in name or ".layers.0." in name
    }
    safetensors.torch.save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module", autouse=True)
def tiny(request: pytest.FixtureRequest, shallow: Path) -> Iterator[None]:
    """`tiny` is shallow where tests hold ways to the same answer against each other, whatever it is."""
    with pytest.MonkeyPatch.context() as patch:
        if request.module.__name__ not in WHOLE_BASE:
            patch.setattr(base_files, "TINY_FOLDER", shallow)
        yield


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
def lm_eval(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The real `lm_eval` in this process, but for the harness's own tasks, whose reading takes seconds.

    Returns what it prints.
    """
    import huggingface_hub.constants
    from lm_eval.__main__ import cli_evaluate
    from lm_eval.tasks import _index
    from oppu_eval.lm_eval import plugin

    plugin.register()
    own = Path(sys.modules["lm_eval.tasks"].__file__ or "").parent
    files = _index.TaskIndex._iter_yaml_files
    without_own = staticmethod(lambda root: [] if root == own else files(root))
    monkeypatch.setattr(_index.TaskIndex, "_iter_yaml_files", without_own)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # `dummy` wants a tokenizer
    # What the command would change for good.
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setattr("lm_eval.__main__.setup_logging", lambda: None)

    def run(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["lm_eval", *words])
        capsys.readouterr()
        cli_evaluate()
        return capsys.readouterr().out

    return run


# Imports what commands import, once, and runs each command in a fork of itself: importing torch, transformers
# and matplotlib takes longer than most of these commands.
FORKING = """
import json, os, pathlib, sys
import matplotlib.backends.backend_svg, matplotlib.figure, pandas
import pydantic, sklearn.feature_extraction.text, sklearn.naive_bayes
import oppu_core.runs.jobs, oppu_eval.reporting.run_report, oppu_eval.scoring.run_results
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if not child:
        for stream, file in ((0, os.devnull), (1, job["out"]), (2, job["err"])):
            os.dup2(os.open(file, os.O_RDWR), stream)
        os.environ.update(job["environment"])
        oppu_core.modeling.base_files.TINY_FOLDER = pathlib.Path(job["tiny"])
        sys.argv = ["oppu", *job["arguments"]]
        exec(job["code"], {})
        from oppu_core.cli.main import main
        sys.exit(main())
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="session")
def forking() -> Iterator[subprocess.Popen[str]]:
    """A process that runs commands in forks of itself."""
    command = [sys.executable, "-c", FORKING]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def oppu_process(
    forking: subprocess.Popen[str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the real command line in a process of its own, `code` first."""

    def run(*arguments: str | Path, code: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        out, err = (tmp_path_factory.mktemp("process") / name for name in ("out", "err"))
        for file in (out, err):
            file.touch()
        job = {
            "arguments": [str(argument) for argument in arguments],
            "code": code,
            "tiny": str(base_files.TINY_FOLDER),
            "environment": {"COLUMNS": "120", "NO_COLOR": "1", **environment},
            "out": str(out),
            "err": str(err),
        }
        assert forking.stdin is not None and forking.stdout is not None
        print(json.dumps(job), file=forking.stdin, flush=True)
        assert select.select([forking.stdout], [], [], 300)[0], "the command does not end"
        ended = forking.stdout.readline()
        assert ended, "the forking process is gone"
        return subprocess.CompletedProcess(list(arguments), int(ended), out.read_text(), err.read_text())

    return run
