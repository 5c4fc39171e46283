"""The files that LaMP's leaderboard takes: all answers of a method to a task, no golds needed.

The official scorer refuses a file whose ids are not exactly those of its questions. So nothing is written
unless every method has answered every test query of the data.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from oppu_core.data.dataset import Dataset
from oppu_core.data.schema import shown
from oppu_core.errors import ConfigError, DataError
from oppu_core.prompting.methods import parse_method
from oppu_core.runs.predictions import QueryId
from oppu_core.runs.run import Run
from oppu_core.storage.files import write_text

from oppu_eval.files import LEADERBOARD
from oppu_eval.scoring.run_results import RunPredictions, run_predictions

_LAMP_ID = re.compile(r"[A-Za-z0-9_-]+")


def export_lamp(run: Run, predictions: RunPredictions | None = None) -> list[Path]:
    """Write ``<run>/leaderboard/<task>/<method>/<name>.json`` for each name that LaMP has for the task.

    A file is ``{"task": name, "golds": [{"id", "output"}, …]}``, in the order of the dataset. Tasks that are
    not LaMP's (:func:`not_lamp`) are left out.

    Args:
        run: The run.
        predictions: What :func:`~oppu_eval.scoring.run_results.run_predictions` read, where that has been
            done already.

    Returns:
        The files; the official name of a task first.

    Raises:
        ConfigError: the run has no task of LaMP.
        DataError: a method's answers are not those to the test queries. Nothing was written then.
    """
    strangers = not_lamp(run)
    if len(strangers) == len(run.config.data):
        raise ConfigError(
            f"{run.path} has no task of LaMP, but {', '.join(strangers)}; LaMP's leaderboard takes no others."
        )
    texts: dict[Path, str] = {}
    for task, by_method in (predictions or run_predictions(run)).items():
        if task in strangers:
            continue
        dataset = run.dataset(task)
        wanted = [(user.user_id, query.id) for user in dataset.users("test") for query in user.queries]
        for method, answers in by_method.items():
            _check(run, dataset, method, wanted, answers)
            golds = [{"id": key[1], "output": answers[key]} for key in wanted]
            for name in _names(dataset):
                path = run.path / LEADERBOARD / task / method / f"{name}.json"
                # ASCII: whoever reads the file elsewhere may not expect UTF-8.
                texts[path] = json.dumps({"task": name, "golds": golds}, indent=2) + "\n"
    for path, text in texts.items():
        write_text(path, text)
    return list(texts)


def not_lamp(run: Run) -> list[str]:
    """The run's tasks that have no name in LaMP."""
    return [task for task in run.config.data if not run.dataset(task).task.lamp_ids]


def has_golds(run: Run) -> bool:
    """Whether any query of the run's test users has a gold answer."""
    return any(
        query.gold is not None
        for task in run.config.data
        for user in run.test_users(run.dataset(task))
        for query in user.queries
    )


def _names(dataset: Dataset) -> tuple[str, ...]:
    """LaMP's names of the task. A dataset brings its own task's definition along: no name is a path."""
    for name in dataset.task.lamp_ids:
        if not _LAMP_ID.fullmatch(name):
            raise DataError(
                f"{dataset.path}: task {dataset.task.name} has {shown(name)} among its lamp_ids; they have "
                "letters, digits, _ and - alone. Correct the task's file and import the dataset again."
            )
    return dataset.task.lamp_ids


def _check(
    run: Run, dataset: Dataset, method: str, wanted: Sequence[QueryId], answers: Mapping[QueryId, str]
) -> None:
    """Refuse answers that are not exactly those to the test queries."""
    task, known = dataset.task.name, set(wanted)
    again = f"`oppu answer --run {run.path}`"
    if extra := [query for user, query in answers if (user, query) not in known]:
        raise DataError(
            f"{task}, method {method}: {len(extra)} of {len(answers)} answers belong to no test query of "
            f"{dataset.path} ({_some(extra)}). Remove {run.predictions_path(task, method)} and answer again: "
            f"{again}."
        )
    missing = [key for key in wanted if key not in answers]
    if not missing:
        return
    asked = set(dataset.user_ids("test")[: run.config.users])
    answered = {user for user, _ in answers}
    adapted = parse_method(method).adapter and run.predictions_path(task, method).exists()
    # Answering leaves out whom no adapter could be trained for, and nobody else.
    failed = dict.fromkeys(u for u, _ in missing if adapted and u in asked and u not in answered)
    advice = []
    if any(user not in asked for user, _ in missing):
        advice.append(
            f"The run was made with --users {run.config.users}: start a new one without it (what is in the "
            "store is not trained again)."
        )
    if failed:
        advice.append(
            f"Training failed for {len(failed)} of {len(asked)} users ({_some(list(failed))}; {run.log_path} "
            f"says why): mend their histories, or start a new run without {method}."
        )
    if any(user in asked and user not in failed for user, _ in missing):
        advice.append(f"Finish with {again}.")
    raise DataError(
        f"{task}, method {method}: {len(missing)} of {len(wanted)} test queries have no answer "
        f"({_some([query for _, query in missing])}), and LaMP's scorer takes all or nothing. "
        + " ".join(advice)
    )


def _some(ids: Sequence[str]) -> str:
    """The first ids of a list, for a message."""
    return ", ".join(map(shown, ids[:3])) + (", …" if len(ids) > 3 else "")
