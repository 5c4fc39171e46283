"""Results of lm-evaluation-harness as rows of our tables.

A row is named ``method (model)``. From logged samples it has everything that ours have
(:func:`oppu_eval.scoring.evaluate.evaluate`), and its value must be the one that the harness printed; without
samples it has that value alone.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from oppu_core.data.schema import shown
from oppu_core.data.types import User
from oppu_core.errors import DataError
from oppu_core.runs.predictions import QueryId
from oppu_core.tasks.task import Task

from oppu_eval.lm_eval.files import HarnessResult, Queries, Samples, read_samples
from oppu_eval.scoring.evaluate import evaluate, method_order
from oppu_eval.scoring.metrics import metrics_for
from oppu_eval.scoring.results import ScoreRow, TaskResults, about_task
from oppu_eval.scoring.significance import RESAMPLES

_TOLERANCE = 1e-9


@dataclasses.dataclass(frozen=True)
class HarnessRows:
    """The rows of one task.

    Attributes:
        task: The task.
        results: Rows by row name, which say whether they are on other queries than the table; values by
            user, where there are samples.
        users: The users of the samples, without their histories.
        answers: {row name: {(user id, query id): answer}}, where there are samples.
        files: {row name: the results file}.
    """

    task: Task
    results: TaskResults
    users: Sequence[User]
    answers: Mapping[str, Mapping[QueryId, str]]
    files: Mapping[str, Path]


def check_fits(results: Sequence[HarnessResult], data: Mapping[str, str], whose: str) -> None:
    """Refuse results that cannot be compared with a run's.

    Args:
        results: Of any tasks.
        data: {task: fingerprint of the dataset} of the run.
        whose: The run.

    Raises:
        DataError: a result is of a task that the run does not have, or of another dataset.
    """
    for result in results:
        if result.task not in data:
            raise DataError(
                f"{result.file}: {whose} has no task {result.task} (it has {', '.join(data)}). "
                "Leave the file out, or report it without --run."
            )
        _check_data(result, data[result.task], whose)


def _check_data(result: HarnessResult, data: str, whose: str) -> None:
    if result.data != data:
        raise DataError(
            f"{result.file}: {result.task} was answered on another dataset ({shown(result.data[:12])}) than "
            f"in {whose} ({shown(data[:12])}), so they cannot be compared. Answer the same dataset, or leave "
            "the file out."
        )


def harness_rows(
    task: Task,
    results: Sequence[HarnessResult],
    seed: int,
    *,
    table: Queries | None = None,
    resamples: int = RESAMPLES,
) -> HarnessRows:
    """The rows of one task's results; differences are taken within a model, on the same queries.

    Args:
        task: The task.
        results: Its results, oldest first; of several with the same row name the last one counts.
        seed: Makes intervals and p-values repeatable.
        table: The scored queries of the table that the rows join; by default those of the largest result.
        resamples: Of the bootstrap and of the randomization test.

    Raises:
        DataError: results are on different data; samples are damaged, or are not what the printed values
            were computed from.
    """
    for result in results:
        _check_data(result, results[0].data, str(results[0].file))
    newest, notes = _newest(results)
    samples = {name: read_samples(task, one.samples) for name, one in newest.items() if one.samples}
    rows = {name: _printed_rows(task, name, one) for name, one in newest.items() if name not in samples}
    per_user: dict[str, Mapping[str, float]] = {}
    set_aside = {name: list(one.set_aside) for name, one in newest.items() if one.set_aside}
    for names in _comparable(newest, samples):
        found = _evaluate(task, names, newest, samples, seed, resamples)
        for name in names:
            method = newest[name].method
            mine = [row for row in found.rows if row.method == method]
            _check_printed(newest[name], mine)
            rows[name] = [dataclasses.replace(row, method=name) for row in mine]
            per_user[name] = found.per_user[method]

    table = table or max((one.scored for one in samples.values()), key=len, default=None)
    largest = max(one[0].queries for one in rows.values()) if table is None else len(table)
    other_queries = set()
    for name, one in newest.items():
        expected = None if table is None else _without(table, one.set_aside)
        if name in samples and expected is not None:
            same = samples[name].scored == expected
        else:
            same = rows[name][0].queries == (largest if expected is None else len(expected))
        if not same:
            other_queries.add(name)
    users = {user.user_id: user for one in samples.values() for user in one.users}
    return HarnessRows(
        task=task,
        results=TaskResults(
            **about_task(task),
            rows=[
                dataclasses.replace(row, other_queries=name in other_queries)
                for name in newest
                for row in rows[name]
            ],
            per_user=per_user,
            history_lengths={key: value for one in samples.values() for key, value in one.lengths.items()},
            set_aside=set_aside,
            notes=[*notes, *_notes(newest, samples, {name: rows[name][0] for name in sorted(other_queries)})],
        ),
        users=list(users.values()),
        answers={name: one.answers for name, one in samples.items()},
        files={name: one.file for name, one in newest.items()},
    )


def _labels(names: set[str]) -> dict[str, str]:
    """The last parts of each name, as many as tell it from the others."""
    parts = {name: name.strip("/").split("/") for name in names}
    labels = {}
    for name, own in parts.items():
        others = [other for key, other in parts.items() if key != name]
        length = 1
        while length < len(own) and any(other[-length:] == own[-length:] for other in others):
            length += 1
        labels[name] = re.sub(r"[^\w.+/-]+", "-", "/".join(own[-length:]))
    return labels


def _newest(results: Sequence[HarnessResult]) -> tuple[dict[str, HarnessResult], list[str]]:
    """{row name: the last result}, models together, methods as in the paper's Table 1; what was left out."""
    labels = _labels({result.model for result in results})
    newest: dict[str, HarnessResult] = {}
    notes = []
    for result in results:
        name = f"{result.method} ({labels[result.model]})"
        if name in newest:
            notes.append(f"{name}: {newest[name].file} is left out, as {result.file} is newer.")
        newest[name] = result
    order = sorted(newest, key=lambda name: (labels[newest[name].model], method_order(newest[name].method)))
    return {name: newest[name] for name in order}, notes


def _without(queries: Queries, users: Sequence[str]) -> Queries:
    return frozenset(query for query in queries if query[0] not in users)


def _comparable(newest: Mapping[str, HarnessResult], samples: Mapping[str, Samples]) -> list[list[str]]:
    """Rows of one model on the same queries, but for users who were set aside; the largest comes first."""
    groups: list[list[str]] = []
    for name in sorted(samples, key=lambda name: -len(samples[name].answers)):
        one = newest[name]
        for group in groups:
            same = _without(samples[group[0]].scored, one.set_aside) == samples[name].scored
            if same and newest[group[0]].model == one.model:
                group.append(name)
                break
        else:
            groups.append([name])
    return groups


def _evaluate(
    task: Task,
    names: Sequence[str],
    newest: Mapping[str, HarnessResult],
    samples: Mapping[str, Samples],
    seed: int,
    resamples: int,
) -> TaskResults:
    """One model's methods, under their plain names, as ``oppu evaluate`` would."""
    users = samples[names[0]].users
    asked = {(user.user_id, query.id) for user in users for query in user.queries}
    predictions = {
        newest[name].method: {key: answer for key, answer in samples[name].answers.items() if key in asked}
        for name in names
    }
    try:
        return evaluate(
            task, users, (), predictions, seed, resamples=resamples, again="lm_eval … --log_samples"
        )
    except DataError as error:
        raise DataError(f"{', '.join(str(newest[name].samples) for name in names)}: {error}") from error


def _check_printed(result: HarnessResult, rows: Sequence[ScoreRow]) -> None:
    """Refuse a file whose values are not those of its samples."""
    for row in rows if result.values else ():
        printed = result.values.get(row.metric)
        if printed is None or abs(printed - row.value) > _TOLERANCE or row.queries != result.queries:
            raise DataError(
                f"{result.file}: {result.task} has {row.metric} {printed} on {result.queries} queries, but "
                f"{result.samples} gives {row.value} on {row.queries}. One of them was edited, cut short or "
                "made by another version; evaluate again."
            )


def _printed_rows(task: Task, name: str, result: HarnessResult) -> list[ScoreRow]:
    """Rows of the values alone."""
    metrics = metrics_for(task)
    if missing := [metric.name for metric in metrics if metric.name not in result.values]:
        raise DataError(
            f"{result.file}: {result.task} has no {', '.join(missing)} and no samples beside it; there is "
            "nothing to show. Evaluate again, with --log_samples."
        )
    return [
        ScoreRow(
            task=task.name,
            method=name,
            metric=metric.name,
            value=result.values[metric.name],
            ci95=None,
            users=result.users,
            queries=result.queries,
            delta=None,
            delta_ci95=None,
            p_value=None,
            delta_same_prompt=None,
            delta_same_prompt_ci95=None,
            p_value_same_prompt=None,
            wins=None,
            reference=False,
            higher_is_better=metric.higher_is_better,
        )
        for metric in metrics
    ]


def _notes(
    newest: Mapping[str, HarnessResult], samples: Mapping[str, Samples], other: Mapping[str, ScoreRow]
) -> list[str]:
    notes = [
        "Rows with a model in brackets come from lm-evaluation-harness and are compared with the same "
        "model’s non_personalized."
    ]
    if bare := [name for name in newest if name not in samples]:
        notes.append(
            f"{', '.join(bare)}: no samples, hence no intervals and differences; --log_samples gives them."
        )
    if unscored := [name for name in samples if not newest[name].values]:
        notes.append(f"{', '.join(unscored)}: answered with --predict_only, scored here.")
    if other:
        counts = ", ".join(f"{name} on {row.queries}" for name, row in other.items())
        notes.append(f"On other queries than the rest, and not to be compared with it: {counts}.")
    return notes
