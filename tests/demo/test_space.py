"""The folder of a Space, in a fresh environment, as the Hub would install and start it."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from oppu_core.errors import ConfigError
from oppu_demo import space as space_module
from oppu_demo.prepare import TITLE, ready
from oppu_demo.space import ROOT, write_space

pytestmark = pytest.mark.slow  # builds wheels

# app.py with a quickstart of seconds.
SMALL = """
import dataclasses
import runpy
import app
import oppu_eval.quickstart as sizes
sizes.SHIPPED = dataclasses.replace(
    sizes.SHIPPED, users=2, others=4, history=(4, 6), queries=2, tasks=("lamp_2m",),
    settings=("personal.epochs=1", "task_lora.epochs=1"),
)
runpy.run_path("app.py", run_name="__main__")
"""
# A stand-in for ZeroGPU's package: decorated functions run in a forked process.
SPACES = """
import multiprocessing
import pickle

import gradio

free = True
asked = []


def GPU(duration):
    def decorate(task):
        def call(*arguments):
            asked.append(arguments)
            if not free:
                raise gradio.Error("no GPU")
            fork = multiprocessing.get_context("fork")
            here, there = fork.Pipe()
            sent = pickle.dumps(arguments)
            process = fork.Process(target=lambda: there.send(task(*pickle.loads(sent))))
            process.start()
            there.close()
            if not here.poll(60):
                process.kill()
                raise RuntimeError("the forked process hangs")
            result = here.recv()
            process.join()
            return result

        return call

    return decorate
"""
# What came of every answer: the same as without GPUs? Computed where? Asked for a GPU?
ZERO_GPU = """
import dataclasses, json, os, app
app.use_lent_gpus()
import spaces, torch
from oppu_core.runs.run import open_run
from oppu_demo import serve
from oppu_demo.engine import Answered, Engine
plain = Engine.answer
def answer(*asked):  # tells where it ran
    return dataclasses.replace(plain(*asked), seconds=os.getpid())
Engine.answer = answer
moved = torch.nn.Module.to
torch.nn.Module.to = lambda model, *to, **how: model if to == ("cuda",) else moved(model, *to, **how)
engine = serve.Engine(open_run(app.HERE / "runs" / "quickstart"), "cpu")
assert torch.get_num_threads() > 1
torch.rand(4_000_000).add(1).sum()  # this process has OpenMP's threads now; a forked one has not
user = next(iter(engine.users("lamp_2m").values()))
visitor = dataclasses.replace(user)
def case(who, method, free=True):
    spaces.free = free
    spaces.asked.clear()
    there, here = (f(engine, "lamp_2m", method, who, user.queries[0]) for f in (type(engine).answer, plain))
    same = (there.text, there.prompt) == (here.text, here.prompt)
    return {"same": same, "forked": there.seconds != os.getpid(), "asked": len(spaces.asked)}
cases = {method: case(user, method) for method in engine.methods}
cases["no GPU"] = case(user, "oppu_k0", free=False)
cases["visitor"] = case(visitor, "rag_k1")
print(json.dumps(cases))
"""


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder."""
    folder = tmp_path_factory.mktemp("hub") / "space"
    write_space(folder)
    return folder


def front_matter(space: Path) -> dict[str, Any]:
    _, block, _ = (space / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    values = yaml.safe_load(block)
    assert isinstance(values, dict)
    return values


@pytest.fixture
def python(space: Path, tmp_path: Path) -> Iterator[Path]:
    """The Python of a fresh environment with what the Hub installs."""

    def uv(*arguments: str | Path) -> None:
        # In the workspace: its exclude-newer holds here too, and what it has downloaded is enough.
        subprocess.run(["uv", *map(str, arguments)], cwd=ROOT, check=True, timeout=900)

    python = tmp_path / "venv" / "bin" / "python"
    uv("venv", "--quiet", "--python", sys.executable, tmp_path / "venv")
    gradio = f"gradio=={front_matter(space)['sdk_version']}"
    uv("pip", "install", "--quiet", "--python", python, "-r", space / "requirements.txt", gradio)
    yield python
    shutil.rmtree(tmp_path / "venv")  # gigabytes, which pytest would keep


def test_the_folder_is_a_space(space: Path) -> None:
    values = front_matter(space)
    assert (values["sdk"], values["sdk_version"]) == ("gradio", version("gradio"))
    assert (space / values["app_file"]).is_file()
    assert isinstance(values["python_version"], str) and values["python_version"] >= "3.11"
    assert values["license"] == "apache-2.0" and values["pinned"] is False
    assert len(values["short_description"]) <= 60  # the Hub's limit
    files = {str(path.relative_to(space)) for path in space.rglob("*") if path.is_file()}
    wheels = {f"wheels/{name}-0.1.0-py3-none-any.whl" for name in ("oppu_core", "oppu_eval", "oppu_demo")}
    assert files == {"README.md", "app.py", "requirements.txt", ".gitattributes", ".gitignore"} | wheels
    assert sum((space / name).stat().st_size for name in files) < 8_000_000


def test_what_the_hub_installs_itself_and_what_is_on_no_registry_is_no_requirement(space: Path) -> None:
    lines = (space / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert {"torch>=2.8", "transformers>=5.23", "rouge-score>=0.1.2", "pandas>=2.2"} <= set(lines)
    assert not [line for line in lines if line.startswith(("oppu", "gradio", "spaces", "lm-eval", "-", "."))]
    assert not any("://" in line for line in lines)


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(ConfigError, match="not empty"):
        write_space(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_it_needs_the_source_tree_and_leaves_nothing_if_a_wheel_cannot_be_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space_module, "ROOT", tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="checkout"):
        write_space(tmp_path / "space")
    monkeypatch.setattr(space_module, "ROOT", ROOT)
    monkeypatch.setattr(space_module, "PACKAGES", ("oppu-core", "oppu-none"))
    with pytest.raises(ConfigError, match="wheel of oppu-none cannot be built"):
        write_space(tmp_path / "space")
    assert not list(tmp_path.iterdir())


def test_installed_anew_it_gets_ready_serves_the_page_and_answers_on_lent_gpus(
    space: Path, python: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    outside = ("PYTHON", "GRADIO", "SPACE", "OPPU", "VIRTUAL_ENV", "COV")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(outside)}
    environment |= {"HOME": str(home), "TMPDIR": str(tmp_path), "GRADIO_SERVER_NAME": "127.0.0.1"}

    @contextlib.contextmanager
    def started(*arguments: str) -> Iterator[Iterator[dict[str, Any]]]:
        """The page's configuration, again and again."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        process = subprocess.Popen(
            [python, *arguments], cwd=space, env={**environment, "GRADIO_SERVER_PORT": str(port)}
        )

        def configs() -> Iterator[dict[str, Any]]:
            end = time.monotonic() + 240
            while time.monotonic() < end:
                assert process.poll() is None, "app.py has ended"
                with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
                        assert "<html" in answer.read().decode()
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/config", timeout=10) as answer:
                        yield json.load(answer)
                time.sleep(0.3)
            pytest.fail("the page did not come")

        try:
            yield configs()
        finally:
            process.terminate()
            process.wait(30)

    with started("-c", SMALL) as configs:
        assert next(configs)["title"] == TITLE
        page = next(config for config in configs if config["title"] != TITLE)
    assert "test-000" in json.dumps(page)
    assert ready(space / "runs" / "quickstart")  # a second start serves it at once

    (tmp_path / "spaces.py").write_text(SPACES, encoding="utf-8")
    done = subprocess.run(
        [python, "-c", ZERO_GPU], cwd=space,
        env={**environment, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "2"},
        capture_output=True, text=True, check=False, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    cases = json.loads(done.stdout.splitlines()[-1])
    here = {"no GPU": {"same": True, "forked": False, "asked": 1},
            "visitor": {"same": True, "forked": False, "asked": 0}}  # fmt: skip
    assert {name: cases.pop(name) for name in here} == here
    assert "oppu_k0" in cases
    assert all(case == {"same": True, "forked": True, "asked": 1} for case in cases.values())
