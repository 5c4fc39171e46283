"""From a run folder to its ``results.json``, figures and ``report.html``."""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oppu_core.runs.run import Run
from oppu_core.storage.files import write_text
from oppu_core.tasks.task_files import get_task

from oppu_eval.files import FIGURES, REPORT, STUDIES_FOLDER
from oppu_eval.lm_eval.files import HarnessResult, read_harness, scored_queries
from oppu_eval.lm_eval.results import HarnessRows, check_fits, harness_rows
from oppu_eval.reporting.examples import ExampleUser, pick_examples
from oppu_eval.reporting.figures import comparison, draw_figures
from oppu_eval.reporting.method_titles import people_of
from oppu_eval.reporting.report import render_report
from oppu_eval.reporting.study_views import study_views
from oppu_eval.scoring.results import Results, TaskResults
from oppu_eval.scoring.run_results import RunPredictions, read_results, run_predictions
from oppu_eval.scoring.significance import RESAMPLES


def write_report(
    run: Run,
    results: Results,
    paper: bool,
    harness: Mapping[str, HarnessRows] | None = None,
    predictions: RunPredictions | None = None,
) -> Path:
    """Write ``report.html`` and its pictures as single files in ``figures/``.

    Args:
        run: An evaluated run.
        results: Its results, with the rows of `harness`, if any.
        paper: Show the paper's numbers.
        harness: Results of lm-evaluation-harness, by task.
        predictions: What :func:`~oppu_eval.scoring.run_results.run_predictions` read, where that has been
            done already.
    """
    harness = harness or {}
    examples = []
    for task, own in (predictions or run_predictions(run)).items():
        dataset = run.dataset(task)
        answers = {**own, **harness[task].answers} if task in harness else own
        examples += pick_examples(dataset.task, run.test_users(dataset), answers, results.tasks[task])
    files = dict.fromkeys(file for made in harness.values() for file in made.files.values())
    facts = {
        "run": run.path.name,
        "base": run.config.model,
        "data": {task: run.dataset(task).source for task in run.config.data},
        **({"prompts": "in the base's chat template"} if run.config.prompt_format == "chat" else {}),
        "answers": "sampled as in the paper" if run.config.sample else "greedy",
        "seed": run.config.seed,
        "training of task bases": _training(run, "task_lora"),
        "training of personal adapters": _training(run, "personal"),
        "versions": run.provenance["versions"],
        "command": " ".join([f"oppu report --run {run.path}", *(f"--harness {file}" for file in files)]),
    }
    return _write(run.path, results, examples, facts | _harness_facts(harness), paper, people_of(run))


def report_harness(
    run: Run | None, paths: Sequence[Path], paper: bool, *, resamples: int = RESAMPLES
) -> tuple[Results, Path, list[str]]:
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
        results = Results({}, {"seed": seed})
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
        for example in pick_examples(made.task, made.users, made.answers, made.results)
    ]
    folder = paths[0] if paths[0].is_dir() else paths[0].parent
    facts = {
        "data": {name: f"sha256 {of_task[0].data[:16]}…" for name, of_task in by_task.items()},
        "seed": seed,
    }
    facts |= {"command": f"oppu report {' '.join(f'--harness {path}' for path in paths)}"}
    return results, _write(folder, results, examples, facts | _harness_facts(harness), paper), left_out


def _with_harness(results: Results, harness: Mapping[str, HarnessRows]) -> Results:
    """Results with more rows, and the notes on them."""
    tasks = dict(results.tasks)
    for task, made in harness.items():
        tasks[task] = _joined(tasks[task], made.results) if task in tasks else made.results
    return dataclasses.replace(results, tasks=tasks)


def _joined(one: TaskResults, more: TaskResults) -> TaskResults:
    return dataclasses.replace(
        one,
        rows=[*one.rows, *more.rows],
        per_user={**more.per_user, **one.per_user},
        history_lengths={**more.history_lengths, **one.history_lengths},
        set_aside={**more.set_aside, **one.set_aside},
        notes=more.notes,
    )


def _harness_facts(harness: Mapping[str, HarnessRows]) -> dict[str, Any]:
    files = {f"{task}, {name}": file for task, made in harness.items() for name, file in made.files.items()}
    return {"from lm-evaluation-harness": files} if files else {}


def _write(
    folder: Path,
    results: Results,
    examples: Sequence[ExampleUser],
    facts: Mapping[str, Any],
    paper: bool,
    people: str | None = None,
) -> Path:
    """Write the page and its pictures."""
    figures = draw_figures(results)
    for name, svg in {"comparison": comparison([*results.tasks.values()]), **figures}.items():
        write_text(folder / FIGURES / f"{name.replace('/', '-')}.svg", svg)
    path = folder / REPORT
    studies = study_views(folder / STUDIES_FOLDER, folder)
    page = render_report(results, figures, examples, facts, people=people, paper=paper, studies=studies)
    write_text(path, page)
    return path


def _training(run: Run, kind: str) -> dict[str, Any]:
    return {
        task: ", ".join(f"{name} {value}" for name, value in settings.items())
        for task, settings in run.config.to_json()[kind].items()
    }
