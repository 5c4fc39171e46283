"""`lm_eval --model oppu` and `oppu evaluate` give the same numbers, digit by digit, on all seven tasks."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from lm_eval.tasks import TaskManager
from oppu_core.data.sample import GRAMMARS
from oppu_core.storage.files import read_json
from oppu_core.tasks.task_files import TASKS
from oppu_eval.lm_eval.plugin import TASKS as FOLDER
from oppu_eval.lm_eval.plugin import register
from small_world import QUICK, sample_dataset

METHODS = ["non_personalized", "random_k1", "rag_k2", "pag_k1", "oppu_k0", "oppu_rag_k2", "oppu_pag_k1"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset of each task, by the task's name."""
    folder = tmp_path_factory.mktemp("world")
    for task in GRAMMARS:
        sample_dataset(folder / "data" / task, task, users=3)
    return folder


def scores(arguments: dict[str, Any], tasks: list[str], **options: Any) -> dict[str, dict[str, float]]:
    """{task: {metric: value}}, as the harness gives them."""
    register()
    manager = TaskManager(include_defaults=False, include_path=str(FOLDER), metadata=arguments)
    results = lm_eval.simple_evaluate(
        model="oppu", model_args=arguments, tasks=tasks, task_manager=manager, device="cpu", **options
    )
    assert results is not None
    return {
        task: {
            name.removesuffix(",none"): value
            for name, value in values.items()
            if name.endswith(",none") and "_stderr" not in name
        }
        for task, values in results["results"].items()
        if task in TASKS
    }


def evaluated(run: Path, method: str) -> dict[str, dict[str, float]]:
    """The same of `oppu evaluate`."""
    values: dict[str, dict[str, float]] = {}
    for row in read_json(run / "results.json")["rows"]:
        if row["method"] == method:
            values.setdefault(row["task"], {})[row["metric"]] = row["value"]
    return values


def test_all_seven_tasks(oppu: Callable[..., Any], world: Path) -> None:
    run = world / "runs" / "seven"
    data = [option for task in GRAMMARS for option in ("--data", world / "data" / task)]
    result = oppu("run", "--run", run, *data, "--methods", ",".join(METHODS), *QUICK)
    assert result.returncode == 0, result.stderr
    differing = set()
    for method in METHODS:
        ours = evaluated(run, method)
        theirs = scores({"run": str(run), "method": method}, ["lamp"])
        assert set(theirs) == set(GRAMMARS)
        assert theirs == ours, method
        differing.add(str(theirs))
    assert len(differing) == len(METHODS), "a method that all others equal would prove nothing"

    # From the store, without the run folder; of the seven, one with labels and one without.
    explicit = {"pretrained": "tiny", "store": str(run.parent / "store"), "data": str(world / "data")}
    for method in ("rag_k2", "oppu_pag_k1"):
        theirs = scores({**explicit, "method": method}, ["lamp_3", "lamp_7"])
        assert theirs == {task: evaluated(run, method)[task] for task in ("lamp_3", "lamp_7")}


@pytest.mark.parametrize("options", [["--sample"], ["--constrain"], ["--quantize", "nf4"], ["--users", "2"],
                                     ["--peft", "prompt_tuning"]])  # fmt: skip
def test_what_a_run_was_asked_for_holds(oppu: Callable[..., Any], world: Path, options: list[str]) -> None:
    run = world / options[0].strip("-") / "run"
    result = oppu(
        "run", "--run", run, "--data", world / "data" / "lamp_2m", "--methods", "rag_k1,oppu_rag_k1",
        *QUICK, *options,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    for method in ("rag_k1", "oppu_rag_k1"):
        theirs = scores({"run": str(run), "method": method}, ["lamp_2m"], batch_size=64)
        assert theirs == evaluated(run, method)
        assert all(math.isfinite(value) for value in theirs["lamp_2m"].values())
