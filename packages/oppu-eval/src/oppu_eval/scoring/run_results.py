"""A run's ``results.json``: scores of its predictions."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from oppu_core.errors import ConfigError, DataError
from oppu_core.prompting.methods import parse_method
from oppu_core.runs.run import Run
from oppu_core.storage.files import read_json, write_json

from oppu_eval.files import RESULTS
from oppu_eval.scoring.evaluate import evaluate, results_dict

if TYPE_CHECKING:
    from pandas import DataFrame


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
        asked = {user.user_id for user in users if user.queries}
        everything = {name: run.predictions(task, name) for name in run.config.methods}
        for name, answers in everything.items():
            lost = asked - {user_id for user_id, _ in answers}
            if lost and not parse_method(name).personal:
                raise DataError(
                    f"{run.predictions_path(task, name)} lacks the answers of {len(lost)} users, e.g. "
                    f"{min(lost)!r}. Run `oppu answer --run {run.path}`."
                )
        predictions = {name: answers for name, answers in everything.items() if answers}
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
    return run.path / RESULTS


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


def results(run: Run) -> "DataFrame":
    """The scores of an evaluated run (:func:`evaluate_run`) as a table; needs pandas.

    Returns:
        A row for each task, method and metric; the columns are the attributes of
        :class:`oppu_eval.scoring.evaluate.Row`.

    Raises:
        ConfigError, DataError: as :func:`read_results`.
    """
    import pandas as pd

    return pd.DataFrame(read_results(run)["rows"])
