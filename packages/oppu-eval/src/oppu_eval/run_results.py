"""From a run folder to its ``results.json``, figures and ``report.html``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oppu_core.errors import ConfigError, DataError
from oppu_core.files import read_json, write_json, write_text
from oppu_core.prompts import parse_method
from oppu_core.runs import Run

from oppu_eval.evaluate import evaluate, results_dict
from oppu_eval.examples import pick_examples
from oppu_eval.figures import comparison, draw_figures
from oppu_eval.report import render_report


def evaluate_run(run: Run) -> dict[str, Any]:
    """Score a run's predictions and write ``results.json``.

    Raises:
        ConfigError: nothing has been answered yet.
        DataError: predictions do not fit the data.
    """
    results = []
    nobody: dict[str, dict[str, list[str]]] = {}  # methods for which every user's training failed
    for task in run.config.data:
        dataset = run.dataset(task)
        missing = [name for name in run.config.methods if not run.predictions_path(task, name).exists()]
        if missing:
            raise ConfigError(
                f"{run.path} has no answers of {', '.join(missing)} for {task}. "
                f"Run `oppu answer --run {run.path}`."
            )
        users = run.test_users(dataset)
        for name in run.config.methods:
            lost = {u.user_id for u in users if u.queries} - {u for u, _ in run.predictions(task, name)}
            if lost and not parse_method(name).personal:
                raise DataError(
                    f"{run.predictions_path(task, name)} lacks the answers of {len(lost)} users, e.g. "
                    f"{min(lost)!r}. Run `oppu answer --run {run.path}`."
                )
        predictions = {
            name: answers for name in run.config.methods if (answers := run.predictions(task, name))
        }
        nobody[task] = {
            name: [user.user_id for user in users] for name in run.config.methods if name not in predictions
        }
        results.append(
            evaluate(
                dataset.task,
                users,
                dataset.users("others"),
                predictions,
                run.config.seed,
                again=f"oppu answer --run {run.path}",
            )
        )
    values = results_dict(results, {"config": run.config.to_json(), **run.provenance})
    for task, methods in nobody.items():
        values["set_aside"][task].update(methods)
    write_json(results_path(run), values)
    return values


def results_path(run: Run) -> Path:
    """Where a run's results are."""
    return run.path / "results.json"


def read_results(run: Run) -> dict[str, Any]:
    """The results of an evaluated run.

    Raises:
        ConfigError: it has not been evaluated.
        DataError: the file is damaged.
    """
    if not results_path(run).exists():
        raise ConfigError(f"{run.path} has no results yet. Run `oppu evaluate --run {run.path}`.")
    values = read_json(results_path(run))
    if (
        not isinstance(values, dict)
        or not values.get("rows")
        or values.get("provenance", {}).get("config") != run.config.to_json()
    ):
        raise DataError(f"{results_path(run)} is no results file. Run `oppu evaluate --run {run.path}`.")
    return values


def write_report(run: Run, results: Mapping[str, Any], paper: bool) -> Path:
    """Write ``report.html`` and its pictures as single files in ``figures/``."""
    figures = draw_figures(results)
    examples = []
    for task in run.config.data:
        dataset = run.dataset(task)
        predictions = {name: run.predictions(task, name) for name in run.config.methods}
        examples += pick_examples(dataset.task, run.test_users(dataset), predictions, results)
    for name, svg in {"comparison": comparison(results), **figures}.items():
        write_text(run.path / "figures" / f"{name.replace('/', '-')}.svg", svg)
    facts = {
        "run": run.path.name,
        "base": run.config.model,
        "data": {task: run.dataset(task).source for task in run.config.data},
        "answers": "sampled as in the paper" if run.config.sample else "greedy",
        "seed": run.config.seed,
        "training of task bases": _training(run, "task_lora"),
        "training of personal adapters": _training(run, "personal"),
        "versions": run.provenance["versions"],
        "command": f"oppu report --run {run.path}",
    }
    path = run.path / "report.html"
    write_text(path, render_report(results, figures, examples, facts, paper=paper))
    return path


def _training(run: Run, kind: str) -> dict[str, Any]:
    return {
        task: ", ".join(f"{name} {value}" for name, value in settings.items())
        for task, settings in run.config.to_json()[kind].items()
    }
