"""What libraries raise becomes one sentence; what is ours passes."""

from concurrent.futures import CancelledError

import pytest
import torch
from oppu_core.cli.main import _give_ray_an_address, _take_debug
from oppu_core.errors import ConfigError, ModelError, TrainingError, explained
from oppu_core.runs.options import Cluster


@pytest.mark.parametrize(
    "error", [ConfigError("ours"), FileNotFoundError("the system's"), CancelledError(), KeyboardInterrupt()]
)
def test_what_has_a_meaning_already_passes(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, explained("Reading", ModelError):
        raise error
    assert caught.value is error


def test_what_a_library_raises_becomes_one_sentence() -> None:
    cause = RuntimeError("a size of 3\n  in a long story " * 99)
    with pytest.raises(TrainingError) as caught, explained("Training the task LoRA", TrainingError):
        raise cause
    text = str(caught.value)
    assert text.startswith("Training the task LoRA failed: RuntimeError: a size of 3. Most likely")
    assert "--model tiny" in text and "--debug" in text
    assert "\n" not in text and len(text) < 500
    assert caught.value.__cause__ is cause, "for --debug"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate …"),
    ],
)
def test_too_little_memory_names_what_takes_less(error: Exception) -> None:
    with pytest.raises(ModelError) as caught, explained("Answering", ModelError):
        raise error
    for option in ("--cohort", "--batch-size", "--quantize"):
        assert option in str(caught.value)


@pytest.mark.parametrize(
    ("given", "left", "found"),
    [
        (["oppu", "--debug", "run", "--run", "x"], ["oppu", "run", "--run", "x"], True),
        (["oppu", "run", "--run", "x", "--debug"], ["oppu", "run", "--run", "x"], True),
        (["oppu", "run", "--run", "x"], ["oppu", "run", "--run", "x"], False),
        (["oppu", "ask", "--", "--debug"], ["oppu", "ask", "--", "--debug"], False),
        (["oppu", "ask", "--debug", "--", "a"], ["oppu", "ask", "--", "a"], True),
        (["oppu"], ["oppu"], False),
    ],
)
def test_debug_may_stand_anywhere(given: list[str], left: list[str], found: bool) -> None:
    assert _take_debug(given) is found
    assert given == left


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (["oppu", "run", "--ray"], ["oppu", "run", "--ray", "local"]),
        (["oppu", "run", "--ray", "--users", "2"], ["oppu", "run", "--ray", "local", "--users", "2"]),
        (["oppu", "run", "--ray", "auto"], ["oppu", "run", "--ray", "auto"]),
        (["oppu", "run", "--ray=1.2.3.4:6379"], ["oppu", "run", "--ray=1.2.3.4:6379"]),
        (["oppu", "ask", "--", "--ray"], ["oppu", "ask", "--", "--ray"]),
    ],
)
def test_ray_needs_no_address(given: list[str], read: list[str]) -> None:
    _give_ray_an_address(given)
    assert given == read


def test_workers_need_a_cluster() -> None:
    for options in ({"workers": 2}, {"cpus_per_worker": 2}, {"gpus_per_worker": 0.5}):
        with pytest.raises(ConfigError, match="add --ray"):
            Cluster(**options)
        assert Cluster(ray="auto", **options).ray == "auto"
