"""Reading result files of lm-evaluation-harness. Imports nothing of the harness."""

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oppu_core.data.schema import shown
from oppu_core.data.types import Query, User
from oppu_core.errors import ConfigError, DataError
from oppu_core.prompting.methods import parse_method
from oppu_core.runs.predictions import QueryId
from oppu_core.storage.files import read_json, read_jsonl
from oppu_core.tasks.task import Task
from oppu_core.tasks.task_files import get_task

_DATE = re.compile(r"_(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d+)?)\.json")
_NAMED_BY = ("peft", "delta", "pretrained", "model", "path", "engine")  # as the harness names its folders

Queries = frozenset[QueryId]


@dataclasses.dataclass(frozen=True)
class HarnessResult:
    """The result of one task in a results file.

    Attributes:
        file: The results file.
        date: When it was written, by its name; empty if it was renamed.
        task: e.g. ``lamp_2m``.
        method: e.g. ``rag_k1``.
        model: The model's name or path; the last part identifies it.
        data: The fingerprint of the dataset.
        users: Number of scored users; None if the file does not say (for a part of the queries).
        queries: Number of scored queries.
        set_aside: The users whom the model could not answer (failed adapters).
        values: {metric: value printed by the harness}; empty with ``--predict_only``.
        samples: The logged samples, if there are any.
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
class Samples:
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
        DataError: a file is missing, damaged or not a results file, or has no result of our tasks.
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
    """The name or path of a model; the last part identifies it."""
    given = config["model_args"] or {}
    if isinstance(given, str):
        given = dict(part.partition("=")[::2] for part in given.split(","))
    name = str(next((given[key] for key in _NAMED_BY if given.get(key)), config["model"]))
    return f"{str(given.get('run', name)).rstrip('/')}/oppu" if config["model"] == "oppu" else name


def read_samples(task: Task, file: Path) -> Samples:
    """Read the samples of a task.

    Raises:
        DataError: a line is not a sample of the task, or a query occurs twice.
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
    return Samples(users, lengths, answers, scored_queries(users))
