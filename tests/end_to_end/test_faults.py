"""Faults that are not ours: one sentence with advice, and where they happened only for --debug."""

from pathlib import Path

import pytest
from oppu_core.data.dataset import Dataset
from oppu_core.modeling.trial import Trial
from small_world import QUICK

IN_TRAINING = """
import oppu_core.training.cohort as cohort
def broken(*_):
    raise RuntimeError("shapes do not fit\\nand a long story")
cohort.Cohort._loss = broken
"""
IN_LOADING = """
import transformers
def broken(*_, **__):
    raise ValueError("an unknown kind of rope")
transformers.AutoModelForCausalLM.from_pretrained = broken
"""
OUT_OF_MEMORY = """
import torch
import oppu_core.runs.jobs as pipeline
def broken(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory")
    yield
pipeline.answer = broken
"""
UNEXPECTED = """
import oppu_core.runs.config as run_config
def broken(*_, **__):
    raise KeyError("nobody thought of it")
run_config.resolve_preset = broken
"""
FAULTS = {
    "training": (
        IN_TRAINING,
        "Making the task base of lamp_2m base failed: RuntimeError: shapes do not fit. Most",
    ),
    "loading": (IN_LOADING, "cannot be loaded: ValueError: an unknown kind of rope. Most likely"),
    "memory": (OUT_OF_MEMORY, "Answering lamp_2m non_personalized failed: there is too little memory."),
    "anything": (UNEXPECTED, "Something unexpected: KeyError: 'nobody thought of it'. This is a fault"),
}


def options(movies: Dataset, place: Path) -> list[str | Path]:
    methods = ["--methods", "non_personalized", "--users", "1"]
    return ["run", "--run", place / "run", "--data", movies.path, *methods, *QUICK]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_sentence(oppu_process, movies: Dataset, tmp_path: Path, fault: str) -> None:
    code, expected = FAULTS[fault]
    result = oppu_process(*options(movies, tmp_path), code=code)
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.count("error:") == 1
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("error:"))
    assert expected in line
    wanted = ("--cohort", "--batch-size", "--quantize") if fault == "memory" else ("--debug",)
    assert all(option in line for option in wanted)


@pytest.mark.parametrize("first", [True, False], ids=["in front", "at the end"])
def test_debug_shows_where_it_happened(oppu_process, movies: Dataset, tmp_path: Path, first: bool) -> None:
    arguments = options(movies, tmp_path)
    arguments = ["--debug", *arguments] if first else [*arguments, "--debug"]
    result = oppu_process(*arguments, code=IN_TRAINING)
    assert result.returncode == 1
    assert "Traceback (most recent call last)" in result.stderr
    assert "in broken" in result.stderr and "and a long story" in result.stderr
    assert "error: Making the task base of lamp_2m base failed" in result.stderr


def test_debug_shows_it_for_errors_of_ours_and_is_in_the_help(oppu, tmp_path: Path) -> None:
    for arguments in (["--debug", "answer"], ["answer", "--debug"]):
        result = oppu(*arguments, "--run", tmp_path / "none")
        assert result.returncode == 2
        assert "Traceback" in result.stderr and "ConfigError" in result.stderr
        assert result.stderr.rstrip().splitlines()[-1].startswith("error:")
    assert "Traceback" not in oppu("answer", "--run", tmp_path / "none").stderr
    assert "--debug" in oppu("--help").stdout


def test_training_users_that_fails_names_the_stage(
    oppu, movies: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the way of bases that cannot be packed; nobody is set aside for it."""
    from oppu_core.storage.store import Store

    monkeypatch.setattr("oppu_core.modeling.base.try_out", lambda *_: Trial("for a test"))
    arguments = [*options(movies, tmp_path)[:5], "--methods", "oppu_k0", *QUICK]
    assert oppu("base", "train", *arguments[1:]).returncode == 0
    monkeypatch.setattr("oppu_core.training.loop.target_loss", _broken)
    result = oppu("personal", "train", "--run", tmp_path / "run")
    assert result.returncode == 1 and "set aside" not in result.stderr
    assert "error: Training the adapters of lamp_2m base failed: RuntimeError: on purpose." in result.stderr
    assert not [entry for entry in Store(tmp_path / "store").entries() if entry.user_id]


def _broken(*_: object, **__: object) -> None:
    raise RuntimeError("on purpose")
