"""From a run folder to its ``results.json``, figures and ``report.html``."""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oppu_core.errors import ConfigError, DataError
from oppu_core.files import read_json, write_json, write_text
from oppu_core.inference import QueryId
from oppu_core.prompts import parse_method
from oppu_core.runs import Run
from oppu_core.tasks import get_task

from oppu_eval.evaluate import evaluate, results_dict
from oppu_eval.examples import Example, pick_examples
from oppu_eval.figures import comparison, draw_figures
from oppu_eval.harness.files import HarnessResult, read_harness, scored_queries
from oppu_eval.harness.results import HarnessRows, check_fits, harness_rows
from oppu_eval.report import render_report
from oppu_eval.significance import RESAMPLES
from oppu_eval.studies.output import study_views

STUDIES_FOLDER = "studies"  # of a run: its further experiments


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


def write_report(
    run: Run, results: Mapping[str, Any], paper: bool, harness: Mapping[str, HarnessRows] | None = None
) -> Path:
    """Write ``report.html`` and its pictures as single files in ``figures/``.

    Args:
        run: An evaluated run.
        results: Its results, with the rows of `harness`, if any.
        paper: Show the paper's numbers.
        harness: Results of lm-evaluation-harness, by task.
    """
    harness = harness or {}
    examples = []
    for task in run.config.data:
        dataset = run.dataset(task)
        predictions: dict[str, Mapping[QueryId, str]] = {
            name: run.predictions(task, name) for name in run.config.methods
        }
        if task in harness:
            predictions.update(harness[task].answers)
        examples += pick_examples(dataset.task, run.test_users(dataset), predictions, results)
    files = dict.fromkeys(file for made in harness.values() for file in made.files.values())
    facts = {
        "run": run.path.name,
        "base": run.config.model,
        "data": {task: run.dataset(task).source for task in run.config.data},
        "answers": "sampled as in the paper" if run.config.sample else "greedy",
        "seed": run.config.seed,
        "training of task bases": _training(run, "task_lora"),
        "training of personal adapters": _training(run, "personal"),
        "versions": run.provenance["versions"],
        "command": " ".join([f"oppu report --run {run.path}", *(f"--harness {file}" for file in files)]),
    }
    return _write(run.path, results, examples, facts | _harness_facts(harness), paper)


def report_harness(
    run: Run | None, paths: Sequence[Path], paper: bool, *, resamples: int = RESAMPLES
) -> tuple[dict[str, Any], Path, list[str]]:
    """Report results of lm-evaluation-harness, beside a run's or alone; ``results.json`` stays as it is.

    Args:
        run: An evaluated run, which the results have to be comparable with.
        paths: Results files, or folders of them. The report lies in the run's folder or, without a run, in
            (or beside) the first of these.
        paper: Show the paper's numbers.
        resamples: Of the bootstrap and of the randomization test.

    Returns:
        The results with all rows, the report's path, and sentences about what was left out.

    Raises:
        ConfigError: the run has not been evaluated.
        DataError: a file is unusable, or is not comparable with the others.
    """
    found, left_out = read_harness(paths)
    seed = run.config.seed if run else 0
    by_task: dict[str, list[HarnessResult]] = defaultdict(list)
    for result in found:
        by_task[result.task].append(result)
    if run:
        results = read_results(run)
        check_fits(found, run.provenance["data"], str(run.path))
    else:
        results = results_dict([], {"seed": seed})
    harness = {}
    for name, of_task in by_task.items():
        dataset = run.dataset(name) if run else None
        task = dataset.task if dataset else get_task(name)
        if not dataset and any("rouge_1_script" in result.values for result in of_task):
            task = dataclasses.replace(task, words="script")
        table = scored_queries(run.test_users(dataset)) if run and dataset else None
        harness[name] = harness_rows(task, of_task, seed, table=table, resamples=resamples)
    results = _with_harness(results, harness)
    if run:
        return results, write_report(run, results, paper, harness), left_out
    examples = [
        example
        for made in harness.values()
        for example in pick_examples(made.results.task, made.users, made.answers, results)
    ]
    folder = paths[0] if paths[0].is_dir() else paths[0].parent
    facts = {
        "data": {name: f"sha256 {of_task[0].data[:16]}…" for name, of_task in by_task.items()},
        "seed": seed,
    }
    facts |= {"command": f"oppu report {' '.join(f'--harness {path}' for path in paths)}"}
    return results, _write(folder, results, examples, facts | _harness_facts(harness), paper), left_out


def _with_harness(results: dict[str, Any], harness: Mapping[str, HarnessRows]) -> dict[str, Any]:
    """Results with more rows, which say whether they are on other queries, and notes on them."""
    more = results_dict([made.results for made in harness.values()], {})
    for row in more["rows"]:
        row["other_queries"] = row["method"] in harness[row["task"]].other_queries
    merged = {
        key: {
            task: {**more[key].get(task, {}), **results[key].get(task, {})}
            for task in dict.fromkeys([*results["tasks"], *more["tasks"]])
        }
        for key in ("tasks", "per_user", "history_lengths", "set_aside")
    }
    merged["warnings"] = {**more["warnings"], **results.get("warnings", {})}
    notes = {task: list(made.notes) for task, made in harness.items()}
    return {**results, **merged, "rows": results["rows"] + more["rows"], "notes": notes}


def _harness_facts(harness: Mapping[str, HarnessRows]) -> dict[str, Any]:
    files = {f"{task}, {name}": file for task, made in harness.items() for name, file in made.files.items()}
    return {"from lm-evaluation-harness": files} if files else {}


def _write(
    folder: Path,
    results: Mapping[str, Any],
    examples: Sequence[Example],
    facts: Mapping[str, Any],
    paper: bool,
) -> Path:
    """Write the page and its pictures."""
    figures = draw_figures(results)
    for name, svg in {"comparison": comparison(results), **figures}.items():
        write_text(folder / "figures" / f"{name.replace('/', '-')}.svg", svg)
    path = folder / "report.html"
    studies = study_views(folder / STUDIES_FOLDER, folder)
    write_text(path, render_report(results, figures, examples, facts, paper=paper, studies=studies))
    return path


def _training(run: Run, kind: str) -> dict[str, Any]:
    return {
        task: ", ".join(f"{name} {value}" for name, value in settings.items())
        for task, settings in run.config.to_json()[kind].items()
    }
