"""The ``oppu`` command. Other packages add subcommands through the entry-point group ``oppu.commands``.

Starting it does not import torch: commands import what they need when they run.
"""

import importlib.metadata
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from oppu_core import __version__
from oppu_core.cli import adapters as ownership
from oppu_core.cli.data import app as data_app
from oppu_core.cli.dataclass_options import ReportToOption, RunOption, with_options
from oppu_core.cli.forget import forget
from oppu_core.cli.personalize import personalize
from oppu_core.cli.shared import ASK, DATA, OWN, TRAIN, Grouped, interruptible, work
from oppu_core.errors import ConfigError, Interrupted, OppuError, reason
from oppu_core.process import tune_process
from oppu_core.runs.options import (
    BatchOption,
    Cluster,
    CohortOption,
    Compute,
    DeviceOption,
    DtypeOption,
    QuantizeOption,
    RunOptions,
)

app = typer.Typer(
    name="oppu",
    cls=Grouped,
    help="One PEFT Per User: personal language models from users' own histories.\n\n"
    "Start with [bold]oppu quickstart[/bold]: the whole comparison on a sample world, in some minutes.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)
base_app = typer.Typer(no_args_is_help=True, help="Task bases: the base adapted once to a task.")
personal_app = typer.Typer(no_args_is_help=True, help="Personal adapters: one small adapter per user.")
app.add_typer(data_app, name="data", rich_help_panel=DATA)
app.add_typer(base_app, name="base", rich_help_panel=TRAIN)
app.add_typer(personal_app, name="personal", rich_help_panel=TRAIN)
app.add_typer(ownership.app, name="adapters", rich_help_panel=OWN)
base_app.command(
    "export", epilog="Example: [bold]oppu base export --run runs/movies --out movies-base[/bold]"
)(ownership.export_base)


@base_app.command(
    "import", epilog="Example: [bold]oppu base import model.Q4_1.gguf --out models/model[/bold]"
)
def import_base(
    file: Annotated[str, typer.Argument(help="A GGUF file: a path, or org/name/file.gguf on the hub.")],
    out: Annotated[Path, typer.Option(help="The folder to make.")],
) -> None:
    """Turn a GGUF file (llama.cpp's format) into an ordinary model folder, its weights dequantized.

    Every --model takes a GGUF file, too, and turns it into a folder in the cache when it first sees it.
    """
    from oppu_core.modeling.base_files import gguf_file
    from oppu_core.modeling.gguf_files import import_gguf

    with interruptible():
        import_gguf(gguf_file(file), out)
    Console().print(f"Base: {out}", highlight=False)


@app.callback(invoke_without_command=True)
def oppu(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", help="Show where an error happened (its traceback); anywhere in a command."),
    ] = False,
) -> None:
    """One PEFT Per User."""
    if version:
        print(f"oppu {__version__}")
        raise typer.Exit


@base_app.callback()
def _base() -> None:
    """Task bases: the base adapted once to a task."""


@personal_app.callback()
def _personal() -> None:
    """Personal adapters: one small adapter per user."""


@base_app.command(
    "train",
    epilog="Example: [bold]oppu base train --run runs/movies --data data/movies --methods oppu_k0[/bold]",
)
@with_options
def base_train(
    run: RunOption, options: RunOptions, device: DeviceOption = "auto", report_to: ReportToOption = "none"
) -> None:
    """Start a run: train a task LoRA for each prompt variant that the methods need.

    The others' queries are what it is trained on (see --examples); test users have no part in it.
    """
    from oppu_core.runs.start import start_run

    work(start_run(run, options), ["bases"], Compute(device=device), report_to)


@personal_app.command("train", epilog="Example: [bold]oppu personal train --run runs/movies[/bold]")
@with_options
def personal_train(
    run: RunOption,
    cluster: Cluster,
    device: DeviceOption = "auto",
    cohort: CohortOption = "auto",
    report_to: ReportToOption = "none",
) -> None:
    """Train one adapter per test user on the frozen task bases of a run, from their own history alone."""
    from oppu_core.runs.run import open_run

    work(
        open_run(run),
        ["bases", "personal", "pooled"],
        Compute(device=device, cohort=cohort),
        report_to,
        cluster,
    )


@app.command(rich_help_panel=TRAIN, epilog="Example: [bold]oppu answer --run runs/movies[/bold]")
def answer(
    run: RunOption, device: DeviceOption = "auto", batch_size: BatchOption = Compute.batch_size
) -> None:
    """Answer the test users' queries by every method of a run, each user with their own adapter."""
    from oppu_core.runs.run import open_run

    work(open_run(run), ["bases", "answers"], Compute(device=device, batch_size=batch_size))


@app.command(
    rich_help_panel=ASK,
    epilog='Example: [bold]oppu ask "A ship."[/bold]  or [bold]oppu ask --run runs/quickstart --task lamp_2m '
    '--user test-003 "A ship."[/bold]',
)
def ask(
    text: Annotated[str, typer.Argument(help="The query's text, e.g. a movie's description.")],
    run: Annotated[
        Path | None, typer.Option("--run", help="The run folder; by default that in runs used last.")
    ] = None,
    user: Annotated[str | None, typer.Option(help="A test user of the run; by default its first.")] = None,
    task: Annotated[str | None, typer.Option(help="A task of the run; by default its first.")] = None,
    field: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=TEXT",
            help="Another input field, where a task has several, e.g. option_1=… of lamp_1. Repeat it.",
        ),
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Answer one query by every method of a run, side by side."""
    from rich.table import Table

    from oppu_core.runs.asking import ask as ask_run
    from oppu_core.runs.asking import read_fields
    from oppu_core.runs.run import last_run, open_run
    from oppu_core.texts import shorten

    console = Console()
    opened = open_run(run or last_run(Path("runs")))
    tasks = list(opened.config.data)
    told = run is not None and user is not None and (task is not None or len(tasks) == 1)
    task = task or tasks[0]
    if user is None and task in tasks:
        user = next(iter(opened.dataset(task).user_ids("test")))
    if user is not None and not told:
        whom = f"{opened.path}: {task}, user {user!r}"
        console.print(f"[dim]{escape(whom)} (others by --run, --task, --user)[/]", highlight=False)
    with interruptible(), Console(stderr=True).status("thinking …"):
        answers = ask_run(opened, user, text, task, device, read_fields(field or []))
    console.print(escape(f"{user}: {shorten(text, 300)}"), highlight=False)
    table = Table("method", "answer")
    for method, words in answers.items():
        style = "bold" if method.startswith("oppu") else ""
        table.add_row(method, escape(words) or "[dim](empty)[/dim]", style=style)
    console.print(table)
    if missing := [name for name in opened.config.methods if name not in answers]:
        console.print(f"[yellow]No answer by {', '.join(missing)}: the adapter is missing or failed.[/]")


@app.command(
    rich_help_panel=TRAIN,
    epilog="Example: [bold]oppu profiles --data data/movies --model chat-model --out profiles.jsonl[/bold]",
)
def profiles(
    data: Annotated[Path, typer.Option("--data", help="A dataset folder.")],
    model: Annotated[
        str, typer.Option("--model", help="An instruction-tuned model: a folder or a Hugging Face id.")
    ],
    out: Annotated[Path, typer.Option(help="The file to make; for the --profiles of runs.")],
    split: Annotated[
        Literal["others", "test", "both"], typer.Option(help="Whose profiles; a run needs both.")
    ] = "both",
    dtype: DtypeOption = "float32",
    quantize: QuantizeOption = None,
    device: DeviceOption = "auto",
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same items and texts.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Profiles written at a time.")] = 8,
) -> None:
    """Let a language model describe every user, from ten items of their history (the paper's Appendix I).

    Start the same command again to continue an interrupted one. The model never sees queries or golds.
    """
    from oppu_core.data.dataset import Dataset
    from oppu_core.data.types import SPLITS
    from oppu_core.modeling.base import load_base, pick_device
    from oppu_core.modeling.precision import slow_dtype
    from oppu_core.runs.profile_writer import write_profiles
    from oppu_core.runs.progress import ProgressReporter

    with interruptible():
        dataset = Dataset.open(data)
        reporter = ProgressReporter(Console(stderr=True))
        reporter.warn(slow_dtype(dtype, pick_device(device)))
        base = load_base(model, dtype, device, quantize)
        if not base.supports_padding:
            reporter.warn(
                "Slower, one profile at a time: in padded batches this base's texts would depend on each "
                "other."
            )
        write_profiles(
            dataset,
            SPLITS if split == "both" else (split,),
            base,
            out,
            seed,
            batch_size,
            reporter,
        )
    Console().print(f"Profiles: {out}", highlight=False)


app.command(rich_help_panel=OWN, epilog="Example: [bold]oppu forget test-003 --runs runs --dry-run[/bold]")(
    forget
)
app.command(
    rich_help_panel=OWN,
    epilog="Example: [bold]oppu personalize --history my.jsonl --task lamp_2m --run runs/movies --user me"
    "[/bold]",
)(personalize)


def register_plugins() -> None:
    """Let installed packages add their commands; a broken one is reported and skipped."""
    for entry in importlib.metadata.entry_points(group="oppu.commands"):
        try:
            entry.load()(app)
        except Exception as error:
            Console(stderr=True).print(
                f"[yellow]The commands of {entry.value} cannot be loaded: {escape(repr(error))}[/]"
            )


def _show_no_type_of_flags(command: Any) -> None:
    """Make `--help` list options without a value as such, and not as `--sample <bool>`."""
    params_of = command.get_params

    def get_params(context: Any) -> list[Any]:
        params: list[Any] = params_of(context)
        for param in params:
            if getattr(param, "is_flag", False):
                param.metavar = ""
        return params

    command.get_params = get_params
    for one in getattr(command, "commands", {}).values():
        _show_no_type_of_flags(one)


def _take_debug(arguments: list[str]) -> bool:
    """Remove ``--debug`` from the arguments, wherever it is before ``--``; return whether it was there."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    left = [argument for argument in arguments[:end] if argument != "--debug"]
    arguments[:end] = left
    return len(left) < end


def _give_ray_an_address(arguments: list[str]) -> None:
    """Write ``--ray local`` for a ``--ray`` without an address, since typer has no options like that."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    for place in reversed(range(end)):
        if arguments[place] == "--ray" and (place + 1 == end or arguments[place + 1].startswith("-")):
            arguments.insert(place + 1, "local")


def _interrupted(text: str) -> NoReturn:
    Console(stderr=True).print(text)
    sys.exit(130)


def main() -> None:
    """Run the command line; errors become one message, with a traceback only for ``--debug``."""
    tune_process()
    debug = _take_debug(sys.argv)
    _give_ray_an_address(sys.argv)

    def fail(text: str, code: int) -> NoReturn:
        if debug:
            traceback.print_exc()
        Console(stderr=True).print(f"[bold red]error:[/] {escape(text)}", highlight=False, soft_wrap=True)
        sys.exit(code)

    try:
        register_plugins()
        command = typer.main.get_command(app)
        _show_no_type_of_flags(command)
        command()
    except KeyboardInterrupt:
        _interrupted("Interrupted.")
    except SystemExit as end:
        if end.code == 130:  # typer's silent exit on Ctrl-C
            _interrupted("Interrupted.")
        raise
    except Interrupted as error:
        _interrupted(str(error))
    except OppuError as error:
        fail(str(error), 2 if isinstance(error, ConfigError) else 1)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        fail(f"{error.strerror or error}{where}", 1)
    except Exception as error:
        fail(f"Something unexpected: {reason(error, 'This is a fault of the program; please report it.')}", 1)
