"""Result files of lm-evaluation-harness as rows of our tables.

A row is named ``method (model)``. From logged samples it has everything that ours have, computed by
:func:`oppu_eval.evaluate.evaluate`, and its value must be the one that the harness printed; without samples
it has that value alone. Reads JSON files and imports nothing of the harness.
"""

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oppu_core.data.rows import shown
from oppu_core.data.types import Query, User
from oppu_core.errors import ConfigError, DataError
from oppu_core.files import read_json, read_jsonl
from oppu_core.inference import QueryId
from oppu_core.prompts import parse_method
from oppu_core.tasks import Task, get_task

from oppu_eval.evaluate import Row, TaskResults, evaluate, method_order
from oppu_eval.metrics import metrics_for
from oppu_eval.significance import RESAMPLES

_DATE = re.compile(r"_(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d+)?)\.json")
_NAMED_BY = ("peft", "delta", "pretrained", "model", "path", "engine")  # as the harness names its folders
_TOLERANCE = 1e-9

Queries = frozenset[QueryId]


@dataclasses.dataclass(frozen=True)
class HarnessResult:
    """What one results file says of one task.

    Attributes:
        file: The results file.
        date: When it was written, as in its name; empty where that was changed.
        task: e.g. ``lamp_2m``.
        method: e.g. ``rag_k1``.
        model: The model's name or path; the last part tells it.
        data: The fingerprint of the dataset that was answered.
        users: How many users were scored; None where the file does not say (a part of the queries).
        queries: How many queries were scored.
        set_aside: The users whom the model could not answer (failed adapters).
        values: {metric: what the harness printed}; empty with ``--predict_only``.
        samples: The logged samples, where there are any.
    """

    file: Path
    date: str
    task: str
    method: str
    model: str
    data: str
    users: int | None
    queries: int
    set_aside: tuple[str, ...]
    values: Mapping[str, float]
    samples: Path | None


@dataclasses.dataclass(frozen=True)
class HarnessRows:
    """The rows of one task.

    Attributes:
        results: Rows by row name; values by user, where there are samples.
        other_queries: The rows that are on other queries than the table, and cannot be compared with it.
        users: The users of the samples, without their histories.
        answers: {row name: {(user id, query id): answer}}, where there are samples.
        files: {row name: the results file}.
        notes: What a reader has to know.
    """

    results: TaskResults
    other_queries: frozenset[str]
    users: Sequence[User]
    answers: Mapping[str, Mapping[QueryId, str]]
    files: Mapping[str, Path]
    notes: Sequence[str]


@dataclasses.dataclass(frozen=True)
class _Samples:
    """Users without their histories (but `lengths`, by user id), and the answers to their queries."""

    users: tuple[User, ...]
    lengths: Mapping[str, int]
    answers: Mapping[QueryId, str]
    scored: Queries


def scored_queries(users: Sequence[User]) -> Queries:
    """The queries that have a gold answer."""
    return frozenset((u.user_id, query.id) for u in users for query in u.queries if query.gold is not None)


def read_harness(paths: Sequence[Path]) -> tuple[list[HarnessResult], list[str]]:
    """The results of our tasks in files that ``lm_eval --output_path`` wrote.

    Args:
        paths: Results files, or folders that are searched for ``results_*.json``.

    Returns:
        The results, oldest first, and a sentence about each file with tasks that are left out.

    Raises:
        DataError: a file is missing, damaged or no results file, or there is no result of our tasks.
    """
    files = {file.resolve(): file for path in paths for file in _files(path)}
    results, left_out = [], []
    for file in files.values():
        found, others = _read_file(file)
        results += found
        if others:
            left_out.append(f"{file}: left out {', '.join(others)} (not OPPU's).")
    if not results:
        raise DataError(
            f"{', '.join(map(str, paths))}: no result of a task of OPPU's, such as lamp_2m. "
            "`lm_eval --tasks lamp_2m --output_path …` writes one."
        )
    return sorted(results, key=lambda result: (result.date, str(result.file))), left_out


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
    samples = {name: _read_samples(task, one.samples) for name, one in newest.items() if one.samples}
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
        results=TaskResults(
            task=task,
            rows=tuple(row for name in newest for row in rows[name]),
            per_user=per_user,
            history_lengths={key: value for one in samples.values() for key, value in one.lengths.items()},
            set_aside=set_aside,
        ),
        other_queries=frozenset(other_queries),
        users=list(users.values()),
        answers={name: one.answers for name, one in samples.items()},
        files={name: one.file for name, one in newest.items()},
        notes=[*notes, *_notes(newest, samples, {name: rows[name][0] for name in sorted(other_queries)})],
    )


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    if not (files := sorted(path.rglob("results_*.json"))):
        raise DataError(
            f"{path} has no results_*.json, as `lm_eval --output_path {path}` writes it. "
            "A file of another name has to be named itself."
        )
    return files


def _read_file(file: Path) -> tuple[list[HarnessResult], list[str]]:
    """The results of our tasks in a file, and the names of other tasks."""
    values = read_json(file)
    try:
        model, results, counts = _model(values["config"]), values["results"], values["n-samples"]
        lamp = {
            name: config["metadata"]["lamp"]
            for name, config in values["configs"].items()
            if isinstance(config.get("metadata"), dict) and "lamp" in config["metadata"]
        }
        found = [
            _read_task(file, model, name, values["configs"][name], results[name], counts[name]["effective"])
            for name in lamp
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{file} is no results file of lm-evaluation-harness ({type(error).__name__}: {error}). "
            "Name one that `lm_eval --output_path` wrote, or leave it out."
        ) from error
    return found, [name for name in values["configs"] if name not in lamp]


def _read_task(
    file: Path, model: str, name: str, config: Mapping[str, Any], printed: Mapping[str, Any], scored: Any
) -> HarnessResult:
    about = config["metadata"]["lamp"]
    where, again = f"{file}: {shown(name)}", "The file is damaged or was edited; evaluate again."
    expected = {"method": str, "data": str, "users": int, "queries": int}
    for key, value, kind in (
        *((key, about[key], kind) for key, kind in expected.items()),
        ("effective", scored, int),
    ):
        if type(value) is not kind:
            raise DataError(f"{where} says that {key} is {shown(value)}. {again}")
    task = str(config.get("dataset_name") or name)  # a copy of a task may have a name of its own
    try:
        parse_method(about["method"])
        get_task(task)
    except ConfigError as error:
        raise DataError(f"{where}: {error}") from error
    values = {}
    for key, value in printed.items():
        metric, _, filtered = key.partition(",")
        if filtered == "none" and metric != "bypass" and not metric.endswith("_stderr"):
            if type(value) not in (int, float) or not math.isfinite(value):
                raise DataError(f"{where} says that {metric} is {shown(value)}. {again}")
            values[metric] = float(value)
    date = _DATE.search(file.name)
    samples = file.parent / f"samples_{name}_{date[1]}.jsonl" if date else None
    set_aside = tuple(map(str, about.get("set_aside", ())))
    return HarnessResult(
        file=file,
        date=date[1] if date else "",
        task=task,
        method=about["method"],
        model=model,
        data=about["data"],
        users=about["users"] - len(set_aside) if scored == about["queries"] else None,
        queries=scored,
        set_aside=set_aside,
        values=values,
        samples=samples if samples and samples.exists() else None,
    )


def _model(config: Mapping[str, Any]) -> str:
    """The name or path of a model; the last part tells it."""
    given = config["model_args"] or {}
    if isinstance(given, str):
        given = dict(part.partition("=")[::2] for part in given.split(","))
    name = str(next((given[key] for key in _NAMED_BY if given.get(key)), config["model"]))
    return f"{str(given.get('run', name)).rstrip('/')}/oppu" if config["model"] == "oppu" else name


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


def _read_samples(task: Task, file: Path) -> _Samples:
    """The samples of a task.

    Raises:
        DataError: a line is no sample of the task, or a query occurs twice.
    """
    queries: dict[str, list[Query]] = defaultdict(list)
    lengths: dict[str, int] = {}
    answers: dict[QueryId, str] = {}
    for number, row in enumerate(read_jsonl(file), 1):
        where = f"{file}, line {number}"
        try:
            doc = row["doc"]
            user_id, gold = doc["user_id"], doc["gold"]
            fields = {name: doc["fields"][name] for name in task.input_fields}
            query, length = Query(doc["id"], fields, gold, 0), doc["history_len"]
            (answer,) = row["filtered_resps"]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{where}: no sample of {task.name} ({type(error).__name__}: {error}). Evaluate again."
            ) from error
        texts = (user_id, query.id, answer, *fields.values(), "" if gold is None else gold)
        if not all(isinstance(text, str) for text in texts) or type(length) is not int:
            raise DataError(
                f"{where}: ids, fields, gold, answer have to be texts, history_len a number; evaluate again."
            )
        if (user_id, query.id) in answers:
            raise DataError(f"{where}: query {shown(query.id)} is answered twice. Evaluate again.")
        queries[user_id].append(query)
        lengths[user_id] = min(length, lengths.get(user_id, length))
        answers[user_id, query.id] = answer
    users = tuple(User(user_id, "test", (), tuple(asked)) for user_id, asked in queries.items())
    return _Samples(users, lengths, answers, scored_queries(users))


def _without(queries: Queries, users: Sequence[str]) -> Queries:
    return frozenset(query for query in queries if query[0] not in users)


def _comparable(newest: Mapping[str, HarnessResult], samples: Mapping[str, _Samples]) -> list[list[str]]:
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
    samples: Mapping[str, _Samples],
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


def _check_printed(result: HarnessResult, rows: Sequence[Row]) -> None:
    """Refuse a file whose values are not those of its samples."""
    for row in rows if result.values else ():
        printed = result.values.get(row.metric)
        if printed is None or abs(printed - row.value) > _TOLERANCE or row.queries != result.queries:
            raise DataError(
                f"{result.file}: {result.task} has {row.metric} {printed} on {result.queries} queries, but "
                f"{result.samples} gives {row.value} on {row.queries}. One of them was edited, cut short or "
                "made by another version; evaluate again."
            )


def _printed_rows(task: Task, name: str, result: HarnessResult) -> list[Row]:
    """Rows of the values alone."""
    metrics = metrics_for(task)
    if missing := [metric.name for metric in metrics if metric.name not in result.values]:
        raise DataError(
            f"{result.file}: {result.task} has no {', '.join(missing)} and no samples beside it; there is "
            "nothing to show. Evaluate again, with --log_samples."
        )
    return [
        Row(
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
    newest: Mapping[str, HarnessResult], samples: Mapping[str, _Samples], other: Mapping[str, Row]
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
