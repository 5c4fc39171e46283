"""A run's ``results.json``: scores of its predictions."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from oppu_core.errors import ConfigError, DataError
from oppu_core.prompting.methods import parse_method
from oppu_core.runs.run import Run
from oppu_core.storage.files import read_json, write_json

from oppu_eval.files import RESULTS
from oppu_eval.scoring.evaluate import Predictions, evaluate
from oppu_eval.scoring.results import Results, TaskResults

if TYPE_CHECKING:
    from pandas import DataFrame

RunPredictions = Mapping[str, Predictions]  # by task


def run_predictions(run: Run) -> RunPredictions:
    """What a run has answered: {task: {method: {(user id, query id): answer}}}.

    A command that needs it more than once reads it here and hands it on.

    Raises:
        DataError: a file is damaged.
    """
    methods = run.config.methods
    return {task: {name: run.predictions(task, name) for name in methods} for task in run.config.data}


def evaluate_run(run: Run, predictions: RunPredictions | None = None) -> Results:
    """Score a run's predictions and write ``results.json``.

    Args:
        run: The run.
        predictions: What :func:`run_predictions` read, where that has been done already.

    Returns:
        What stands in the file.

    Raises:
        ConfigError: nothing has been answered yet.
        DataError: predictions do not fit the data.
    """
    predictions = predictions or run_predictions(run)
    tasks = {task: _evaluate_task(run, task, predictions[task]) for task in run.config.data}
    results = Results(tasks, {"config": run.config.to_json(), **run.provenance})
    write_json(results_path(run), results.to_json())
    return results


def _evaluate_task(run: Run, task: str, everything: Predictions) -> TaskResults:
    dataset = run.dataset(task)
    missing = [name for name in run.config.methods if not run.predictions_path(task, name).exists()]
    if missing:
        raise ConfigError(
            f"{run.path} has no answers of {', '.join(missing)} for {task}. "
            f"Run `oppu answer --run {run.path}`."
        )
    users = run.test_users(dataset)
    asked = {user.user_id for user in users if user.queries}
    for name, answers in everything.items():
        lost = asked - {user_id for user_id, _ in answers}
        if lost and not parse_method(name).adapter:
            raise DataError(
                f"{run.predictions_path(task, name)} lacks the answers of {len(lost)} users, e.g. "
                f"{min(lost)!r}. Run `oppu answer --run {run.path}`."
            )
    found = evaluate(
        dataset.task,
        users,
        dataset.users("others"),
        {name: answers for name, answers in everything.items() if answers},
        run.config.seed,
        again=f"oppu answer --run {run.path}",
    )
    # Methods for which every user's training failed. In the order of the file, which sorts its keys.
    nobody = {name: [user.user_id for user in users] for name, answers in everything.items() if not answers}
    set_aside = dict(sorted({**found.set_aside, **nobody}.items()))
    return dataclasses.replace(found, set_aside=set_aside)


def results_path(run: Run) -> Path:
    """Where a run's results are."""
    return run.path / RESULTS


def known_results(run: Run) -> Results | None:
    """The results that a run has; None where it has not been evaluated, or was when it was another one.

    Raises:
        DataError: the file is damaged.
    """
    if not results_path(run).exists():
        return None
    try:
        results = Results.from_json(read_json(results_path(run)))
    except DataError as error:
        raise DataError(_no_results(run, f" ({error})")) from error
    same = results.provenance.get("config") == run.config.to_json()
    return results if same and results.tasks.keys() == run.config.data.keys() else None


def read_results(run: Run) -> Results:
    """The results of an evaluated run.

    Raises:
        ConfigError: it has not been evaluated.
        DataError: the file is damaged, or of another configuration.
    """
    if not results_path(run).exists():
        raise ConfigError(f"{run.path} has no results yet. Run `oppu evaluate --run {run.path}`.")
    if (results := known_results(run)) is None:
        raise DataError(_no_results(run, " of this run"))
    return results


def _no_results(run: Run, why: str) -> str:
    return f"{results_path(run)} is no results file{why}. Run `oppu evaluate --run {run.path}`."


def results(run: Run) -> "DataFrame":
    """The scores of an evaluated run (:func:`evaluate_run`) as a table; needs pandas.

    Returns:
        A row for each task, method and metric; the columns are the attributes of
        :class:`oppu_eval.scoring.results.ScoreRow` that the file has, by name.

    Raises:
        ConfigError, DataError: as :func:`read_results`.
    """
    import pandas as pd

    table = pd.DataFrame(read_results(run).to_json()["rows"])
    return table[sorted(table)]
