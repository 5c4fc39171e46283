"""The commands that this package adds to ``oppu``: run, quickstart, evaluate, report."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from oppu_core.cli.data import app as data_app
from oppu_core.cli.dataclass_options import ReportToOption, RunOption, with_options
from oppu_core.cli.shared import EVALUATE, START, interruptible, next_steps, work
from oppu_core.runs.options import JOBS, Cluster, Compute, DeviceOption, DtypeOption, ModelOption, RunOptions
from rich.console import Console

from oppu_eval.cli import harness
from oppu_eval.cli import study as studies
from oppu_eval.cli.describe import describe

if TYPE_CHECKING:
    from oppu_core.runs.run import Run

    from oppu_eval.scoring.results import Results
    from oppu_eval.scoring.run_results import RunPredictions

PaperOption = Annotated[
    bool, typer.Option("--paper", help="Show the paper's numbers (Llama-2-7B, official LaMP) beside ours.")
]
ExportOption = Annotated[
    Literal["lamp"] | None,
    typer.Option(
        "--export",
        help="Also write the answers as files for LaMP's leaderboard, <run>/leaderboard/<task>/<method>/; "
        "every test query has to be answered, golds may be withheld.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add this package's commands (entry-point group ``oppu.commands``)."""
    app.command(rich_help_panel=START, epilog="Example: [bold]oppu quickstart[/bold]")(quickstart)
    app.command(
        rich_help_panel=START,
        epilog="Example: [bold]oppu run --run runs/movies --data data/movies --model tiny "
        "--methods non_personalized,rag_k1,oppu_k0[/bold]",
    )(run)
    app.command(
        rich_help_panel=EVALUATE, epilog="Example: [bold]oppu evaluate --run runs/movies --paper[/bold]"
    )(evaluate)
    app.command(
        rich_help_panel=EVALUATE, epilog="Example: [bold]oppu report --run runs/movies --harness out[/bold]"
    )(report)
    data_app.command(epilog="Example: [bold]oppu data describe data/movies --out reports/movies[/bold]")(
        describe
    )
    harness.register(app)
    app.add_typer(studies.app, name="study", rich_help_panel=EVALUATE)


@with_options
def run(
    run: RunOption,
    options: RunOptions,
    compute: Compute,
    cluster: Cluster,
    report_to: ReportToOption = "none",
    paper: PaperOption = False,
) -> None:
    """Everything, from datasets and a base to a report: task bases, personal adapters, answers, scores.

    Start the same command again to continue an interrupted run; what is done is not done again.
    """
    from oppu_core.runs.start import start_run

    started = start_run(run, options)
    work(started, JOBS, compute, report_to, cluster)
    _finish(started, paper)


def quickstart(
    run: Annotated[
        Path | None,
        typer.Option(
            "--run", help="The run folder to make; by default runs/quickstart, or with the base's name."
        ),
    ] = None,
    model: ModelOption = "tiny",
    dtype: DtypeOption = "float32",
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            help="Tasks with commas between them, or all (half a minute each), in an own run.",
        ),
    ] = None,
    device: DeviceOption = "auto",
    paper: PaperOption = False,
) -> None:
    """The whole comparison on the sample world: nothing to download, a minute or two on two cores.

    Two tasks (movie tags, headlines; others with --task), ten users each, seven methods, and what no model
    could beat. With another --model it is one task, four users and three methods, and says how long it takes.
    """
    from oppu_eval import quickstart as world

    tasks = world.quickstart_tasks(task, model)
    run = run or world.default_folder(model)
    started = world.quickstart_run(run, tasks, model, dtype)
    users = started.dataset(tasks[0]).counts["test"]["users"]
    Console(stderr=True).print(
        f"{users} planted users a task, each with an own adapter, against prompts "
        f"alone. {_expected(started, device)}\n"
    )
    work(started, JOBS, Compute(device=device))
    _finish(started, paper)
    if world.EXAMPLE_TASK in tasks:
        example = ("--task", world.EXAMPLE_TASK, "--user", "test-000", world.EXAMPLE)
        next_steps(("ask", "--run", run, *example), ("demo", "--run", run))


def _expected(run: "Run", device: str) -> str:
    from oppu_core.modeling.base_files import TINY, base_tokenizer
    from oppu_core.texts import clock

    from oppu_eval.studies.estimate import expected_seconds

    if run.config.model == TINY:
        return "About half a minute a task on two cores."
    tokenizer = base_tokenizer(run.config.model, run.config.prompt_format)
    seconds = expected_seconds([(run, JOBS)], tokenizer, device)
    return "Everything is there." if seconds is None else f"Expected time here: about {clock(seconds)}."


def evaluate(run: RunOption, paper: PaperOption = False, export: ExportOption = None) -> None:
    """Score a run's answers: values with intervals, differences with p-values, wins; writes results.json."""
    from oppu_core.runs.run import open_run

    from oppu_eval.scoring.run_results import run_predictions

    opened = open_run(run)
    predictions = run_predictions(opened)
    if not export or _export(opened, predictions):
        _score(opened, predictions, paper)


def _score(run: "Run", predictions: "RunPredictions", paper: bool) -> "Results":
    from oppu_eval.scoring.run_results import evaluate_run

    with interruptible(), Console(stderr=True).status("scoring, with intervals over users …"):
        results = evaluate_run(run, predictions)
    _show(results, paper)
    return results


def _export(run: "Run", predictions: "RunPredictions") -> bool:
    """Write LaMP's files and say where they are; whether there is anything to score, too."""
    from oppu_eval.reporting.leaderboard import export_lamp, has_golds, not_lamp

    note = Console(stderr=True, highlight=False, soft_wrap=True)
    with interruptible(), note.status("writing LaMP's files …"):
        files = export_lamp(run, predictions)
        left_out, scored = not_lamp(run), has_golds(run)
    for path in files:
        Console(soft_wrap=True).print(f"Leaderboard: {path}", highlight=False, markup=False)
    if left_out:
        note.print(f"Left out, not tasks of LaMP: {', '.join(left_out)}.")
    if not scored:
        note.print("No test query has a gold answer: there is nothing to score here.")
    return scored


def report(
    run: Annotated[Path | None, typer.Option("--run", help="An evaluated run's folder.")] = None,
    harness: Annotated[
        list[Path] | None,
        typer.Option(
            "--harness",
            help="What lm_eval wrote to --output_path, a results file or a folder of them, to be shown in "
            "the same tables; repeat it for several.",
        ),
    ] = None,
    paper: PaperOption = False,
) -> None:
    """Render an evaluated run: a table here, and report.html with pictures and answers side by side.

    With --harness also lm-evaluation-harness's results; without --run these alone, beside the first of them.
    """
    from oppu_core.errors import ConfigError
    from oppu_core.runs.run import open_run

    from oppu_eval.reporting.run_report import report_harness, write_report
    from oppu_eval.scoring.run_results import read_results

    opened = open_run(run) if run else None
    if harness:
        with interruptible(), Console(stderr=True).status("scoring, with intervals over users …"):
            results, path, left_out = report_harness(opened, harness, paper)
        for line in left_out:
            Console(stderr=True).print(line, markup=False, highlight=False, soft_wrap=True)
    elif opened:
        results = read_results(opened)
        path = write_report(opened, results, paper)
    else:
        raise ConfigError("Name a run (--run), results of lm_eval (--harness), or both.")
    _show(results, paper)
    Console().print(f"Report: {path}")


def _finish(run: "Run", paper: bool) -> None:
    """Score a run whose answers are there, and report it."""
    from oppu_eval.reporting.run_report import write_report
    from oppu_eval.scoring.run_results import run_predictions

    predictions = run_predictions(run)
    results = _score(run, predictions, paper)
    Console().print(f"Report: {write_report(run, results, paper, predictions=predictions)}")


def _show(results: "Results", paper: bool) -> None:
    from oppu_eval.reporting.table import render_table

    Console().print(render_table(results, paper))
