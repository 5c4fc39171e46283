"""Carrying out a study: core does its runs, then the study concludes and its results are written."""

import contextlib
import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oppu_core.data.sample import Planted
from oppu_core.errors import ConfigError, DataError
from oppu_core.modeling.base_files import base_tokenizer
from oppu_core.runs.config import RunConfig, resolve_config
from oppu_core.runs.options import Compute, RunOptions
from oppu_core.runs.run import Run, open_run
from oppu_core.runs.start import start_run
from oppu_core.storage.files import read_json, write_bytes, write_json
from oppu_core.tasks.task import Task
from oppu_core.texts import clock
from oppu_core.training.config import ONLY_OF, Peft
from rich.console import Console

from oppu_eval.files import REPORT, STUDIES_FILE, STUDY_DATA, STUDY_RUNS, studies_made
from oppu_eval.reporting.run_report import write_report
from oppu_eval.reporting.study_views import STUDY_FILE, terminal, write_studies_report
from oppu_eval.scoring.metrics import metrics_for
from oppu_eval.scoring.run_results import read_results, results_path
from oppu_eval.studies.context import (
    SAMPLE_SETTINGS,
    SAMPLE_TASKS,
    SAMPLE_USERS,
    Done,
    StudyContext,
    Work,
    provenance,
    sample_data,
)
from oppu_eval.studies.options import StudyOptions
from oppu_eval.studies.output import facts_of, write_study
from oppu_eval.studies.study import Study, options_of


def carry_out(study: Study, context: StudyContext, compute: Compute) -> Path:
    """Carry out a study, or continue one, and return its folder.

    Raises:
        OppuError: its data, base or run cannot be used, or nothing can be concluded.
    """
    console = Console(stderr=True, highlight=False)
    console.print(f"[bold]{study.title}[/bold] ({study.name})")
    own_folder(context.folder, study.name)
    with console.status("looking at what there is …"):
        from oppu_core.runs.execute import execute_visibly  # these load torch

        from oppu_eval.studies.estimate import expected_seconds

        done = {work.label: Done(work, _start(work, context)) for work in study.works(context)}
        runs = [(one.run, one.work.jobs) for one in done.values()]
        for run, jobs in runs:
            if "answers" in jobs:
                borrow(run, context)
        tokenizer = base_tokenizer(context.config.model, context.config.prompt_format)
        seconds = expected_seconds(runs, tokenizer, context.device, study.own_tokens(context, done))
    console.print(_expected(seconds))
    start = time.monotonic()
    for run, jobs in runs:
        execute_visibly(run, jobs, compute)
    while new := [work for work in study.more(context, done) if work.label not in done]:
        for work in new:
            done[work.label] = Done(work, _start(work, context))
            borrow(done[work.label].run, context)
            execute_visibly(done[work.label].run, work.jobs, compute)
    result = study.conclude(context, done)
    folder = context.folder / study.name
    facts = facts_of(provenance(list(done.values())), context.config.seed, options_of(study))
    scored = any(column.name == "metric" for column in result.table.columns)
    titles = {task: _title(context.dataset(task).task, scored) for task in context.tasks}
    write_study(folder, study, result, facts, titles)
    Console().print(terminal(read_json(folder / STUDY_FILE)))
    report = write_studies_report(context.folder)
    if context.run is not None and results_path(context.run).exists():
        report = write_report(context.run, read_results(context.run), paper=False)
    console.print(f"Took {clock(time.monotonic() - start)}.")
    files = [f"{folder / picture.name}.{kind}" for picture in result.pictures for kind in ("svg", "png")]
    files += [str(folder / name) for name in (*result.pages, "table.csv", STUDY_FILE)]
    for file in files:
        Console(soft_wrap=True, highlight=False).print(f"  {file}", markup=False)
    Console(soft_wrap=True, highlight=False).print(f"Report: {report}", markup=False)
    return folder


def context_of(options: StudyOptions, device: str) -> StudyContext:
    """The context that options describe.

    Raises:
        ConfigError: the options contradict each other.
        OppuError: data, base or run cannot be used.
    """
    if options.run is not None:
        return _on_run(options, open_run(options.run), device)
    if options.data and (options.task or options.plant):
        raise ConfigError("--task and --plant are about the sample world; with --data leave them out.")
    out, data, given = options.folder, options.data, [*options.settings]
    if not options.data:
        tasks = [name.strip() for name in options.task.split(",")] if options.task else list(SAMPLE_TASKS)
        plant = Planted.read([*options.plant])
        own_folder(out)
        data = sample_data(out, tasks, options.users or SAMPLE_USERS, options.seed, plant)
        given = [*SAMPLE_SETTINGS, *given]

    def resolve(peft: Peft) -> RunConfig:
        settings = [
            text
            for text in given
            if ONLY_OF.get(text.partition("=")[0].strip().removeprefix("personal."), peft) == peft
        ]
        return resolve_config(
            options.run_options(
                data,
                sample_world=not options.data,
                methods=["non_personalized"],
                settings=settings,
                peft=peft,
            )
        )

    return StudyContext(out, options.store or out.parent / "store", resolve("lora"), resolve, device)


def _on_run(options: StudyOptions, run: Run, device: str) -> StudyContext:
    """The context of a run; other PEFT methods take its settings, but the preset's learning rate."""
    if given := options.given():
        name = {"settings": "set"}.get(given[0], given[0])
        raise ConfigError(
            f"--{name} is a setting of the run {run.path} and cannot be changed here; leave it out, or leave "
            "out --run and name --data."
        )
    config = run.config if options.users is None else dataclasses.replace(run.config, users=options.users)

    def resolve(peft: Peft) -> RunConfig:
        if all(settings.method == peft for settings in config.personal.values()):
            return config
        other = resolve_config(
            RunOptions(
                data=[Path(path) for path in config.data.values()],
                model=config.model,
                methods=["non_personalized"],
                dtype=config.dtype,
                seed=config.seed,
                users=config.users,
                sample=config.sample,
                peft=peft,
            )
        )
        own_to_a_method = ("method", "targets", "learning_rate", "weight_decay")
        personal = {
            task: dataclasses.replace(
                config.personal[task], **{name: getattr(preset, name) for name in own_to_a_method}
            )
            for task, preset in other.personal.items()
        }
        return dataclasses.replace(config, personal=personal)

    return StudyContext(options.out or run.path / "studies", run.store_path, config, resolve, device, run)


def own_folder(folder: Path, *names: str) -> None:
    """Record what studies make in a folder, so that `oppu forget` removes that and nothing else.

    Raises:
        ConfigError: the folder holds something else.
    """
    marker = folder / STUDIES_FILE
    if folder.exists() and not marker.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} exists and is no folder of studies; choose another --out.")
    made = studies_made(folder) if marker.exists() else []
    write_json(marker, {"made": sorted({*made, STUDY_DATA, STUDY_RUNS, REPORT, *names})})


def _start(work: Work, context: StudyContext) -> Run:
    return start_run(context.folder / STUDY_RUNS / work.folder, work.config, context.store)


def borrow(run: Run, context: StudyContext) -> None:
    """Copy answers from a run with the same settings, base and data."""
    if run.config.sample or run.config.quantize == "int8":  # answers depend on what is asked together
        return
    others = [
        path.parent for path in (context.folder / STUDY_RUNS).glob("*/run.json") if path.parent != run.path
    ]
    candidates = [context.run] if context.run else []
    for path in sorted(others):
        with contextlib.suppress(ConfigError, DataError):
            candidates.append(open_run(path))
    for other in candidates:
        if _standing(other) != _standing(run):
            continue
        for task in run.config.data:
            for method in run.config.methods:
                source, target = other.predictions_path(task, method), run.predictions_path(task, method)
                if source.exists() and not target.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    write_bytes(target, source.read_bytes())


def _standing(run: Run) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """What answers depend on, except the method and the paths of datasets."""
    return {**run.config.to_json(), "methods": None, "data": None}, run.provenance


def _title(task: Task, scored: bool) -> str:
    """A task's title, with the metric of its rows if they are scores."""
    if not scored:
        return f"{task.title} ({task.name})"
    metric = metrics_for(task)[0]
    direction = "" if metric.higher_is_better else ", lower is better, differences: positive is better"
    return f"{task.title} ({task.name}), {metric.title}{direction}"


def _expected(seconds: float | None) -> str:
    if seconds is None:
        return "Everything is there: a few seconds."
    return f"Expected time: about {clock(seconds)} (from a short trial here; what is done is not done again)."
