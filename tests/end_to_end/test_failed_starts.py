"""A start that failed leaves nothing that keeps the corrected command from the same run folder."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from oppu_core.data.dataset import Dataset
from oppu_core.errors import ConfigError
from oppu_core.modeling.base_files import TINY_FOLDER
from oppu_core.runs.config import resolve_config
from oppu_core.runs.options import RunOptions
from oppu_core.runs.run import Run, open_run
from oppu_core.runs.start import start_run
from oppu_core.storage.files import read_json
from small_world import QUICK

Oppu = Callable[..., Any]


def broken(folder: Path, file: str) -> Path:
    """The tiny base with a file cut short: its configuration can be read, and it cannot be loaded."""
    shutil.copytree(TINY_FOLDER, folder)
    (folder / file).write_bytes((folder / file).read_bytes()[:100])
    return folder


def wrong(case: str, folder: Path) -> list[str | Path]:
    """Options that are accepted at first and fail."""
    return {
        "tokenizer": ["--model", broken(folder / "a", "tokenizer.json")],
        "weights, in another type": [
            "--model",
            broken(folder / "b", "model.safetensors"),
            "--dtype",
            "bfloat16",
        ],
        "weights, quantized": ["--model", broken(folder / "c", "model.safetensors"), "--quantize", "nf4"],
        "training": ["--set", "task_lora.learning_rate=1e30", "--set", "task_lora.max_grad_norm=1e30"],
    }[case]


@pytest.mark.parametrize("command", [["run"], ["base", "train"]])
@pytest.mark.parametrize("case", ["tokenizer", "weights, in another type", "weights, quantized", "training"])
def test_the_corrected_command_works_in_the_same_run(
    oppu: Oppu, movies: Dataset, tmp_path: Path, command: list[str], case: str
) -> None:
    run = tmp_path / "run"
    options = ["--run", run, "--data", movies.path, "--methods", "non_personalized", "--users", "1", *QUICK]
    failed = oppu(*command, *options, *wrong(case, tmp_path))
    assert failed.returncode == 1 and failed.stderr.count("error:") == 1, failed.stderr
    assert (run / "run.json").exists()
    done = oppu(*command, *options)
    assert done.returncode == 0, done.stderr
    assert open_run(run).config.model == "tiny" and open_run(run).config.quantize is None

    other = oppu(*command, *options, "--set", "task_lora.epochs=2")
    assert other.returncode == 2 and "task_lora.lamp_2m.epochs: 1 then, 2 now" in other.stderr
    assert open_run(run).config.task_lora["lamp_2m"].epochs == 1


def config_of(movies: Dataset, **changes: Any) -> Any:
    asked = {
        "data": [movies.path], "model": "tiny", "methods": ["non_personalized"], "preset": "auto",
        "settings": [], "dtype": "float32", "seed": 0, "users": None, "sample": False,
    }  # fmt: skip
    return resolve_config(RunOptions(**{**asked, **changes}))


@pytest.fixture
def fresh(movies: Dataset, tmp_path: Path) -> Run:
    """A run of which nothing has come."""
    return start_run(tmp_path / "run", config_of(movies))


TRACES = {
    "a plan": ("lamp_2m/cohorts.jsonl", ""),
    "profile texts": ("lamp_2m/profiles.jsonl", ""),
    "answers": ("lamp_2m/predictions/non_personalized.jsonl", ""),
    "some answers": ("lamp_2m/predictions/.non_personalized.partial.jsonl", ""),
    "an own user": ("own/lamp_2m/dataset.json", ""),
    "a task base": ("log.jsonl", '{"event": "start"}\n{"event": "task_lora", "folder": "x"}\n'),
    "an adapter": ("log.jsonl", '{"event": "user", "user_id": "x"}\n'),
}


@pytest.mark.parametrize("trace", TRACES)
def test_a_run_of_which_something_has_come_stays_what_it_is(fresh: Run, movies: Dataset, trace: str) -> None:
    name, text = TRACES[trace]
    (fresh.path / name).parent.mkdir(parents=True, exist_ok=True)
    (fresh.path / name).write_text(text)
    before = (fresh.path / "run.json").read_bytes()
    with pytest.raises(ConfigError, match="seed: 0 then, 1 now"):
        start_run(fresh.path, config_of(movies, seed=1))
    assert (fresh.path / "run.json").read_bytes() == before
    assert start_run(fresh.path, config_of(movies)) == fresh


def test_a_run_of_which_nothing_has_come_becomes_what_it_is_asked_for(fresh: Run, movies: Dataset) -> None:
    """What was tried, torn lines and losses for a tracker are no outcome."""
    (fresh.path / "log.jsonl").write_text(
        '{"event": "start", "stage": "lamp_2m base task base"}\n{"event": "us'
    )
    (fresh.path / "tensorboard").mkdir()
    new = start_run(fresh.path, config_of(movies, seed=1), fresh.path.parent / "elsewhere")
    assert new.config.seed == 1 and new.store_path == (fresh.path.parent / "elsewhere").resolve()
    again = start_run(fresh.path, config_of(movies))
    assert again == fresh and read_json(fresh.path / "run.json")["store"] is None


def test_nobody_is_asked_for_something_else_at_work(fresh: Run, movies: Dataset) -> None:
    with fresh.lock(), pytest.raises(ConfigError, match="Another process is working"):
        start_run(fresh.path, config_of(movies, seed=1))
    start_run(fresh.path, config_of(movies, seed=1))
    with pytest.raises(ConfigError, match="has just changed"), fresh.lock():
        pass
