"""The ``oppu`` command. Other packages add sub-commands through the entry-point group ``oppu.commands``.

Start-up imports no torch: commands import what they need when they run.
"""

import contextlib
import importlib.metadata
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape

from oppu_core import __version__
from oppu_core.data.commands import app as data_app
from oppu_core.errors import ConfigError, OppuError

if TYPE_CHECKING:
    from oppu_core.runs import Run

METHODS_HELP = (
    "Comma-separated: non_personalized, random_kN, rag_kN, pag_kN, oppu_k0, oppu_rag_kN, oppu_pag_kN "
    "(N retrieved items in the prompt); by default the seven of the quickstart."
)
RunOption = Annotated[Path, typer.Option("--run", help="The run folder, e.g. runs/movies.")]
DataOption = Annotated[
    list[Path], typer.Option("--data", help="A dataset folder; repeat it for several tasks.")
]
ModelOption = Annotated[
    str, typer.Option("--model", help="The base: 'tiny' (shipped), a folder, or a Hugging Face id.")
]
MethodsOption = Annotated[str | None, typer.Option("--methods", help=METHODS_HELP)]
PresetOption = Annotated[
    Literal["auto", "paper", "small", "tiny"],
    typer.Option(help="Training settings: the paper's, or measured ones for small bases; auto goes by size."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a training setting, e.g. personal.epochs=3 or task_lora.rank=16."),
]
DtypeOption = Annotated[
    Literal["float32", "bfloat16", "float16"], typer.Option(help="Type of the base's weights.")
]
DeviceOption = Annotated[str, typer.Option(help="auto takes a GPU if there is one; or cpu, cuda, cuda:1.")]
SeedOption = Annotated[
    int, typer.Option(min=0, max=2**32 - 1, help="The same seed gives the same adapters and answers.")
]
UsersOption = Annotated[int | None, typer.Option(help="Only the first N test users of each dataset.")]
SampleOption = Annotated[
    bool,
    typer.Option("--sample", help="Sample answers as in the paper (temperature 0.1, top-k 10, top-p 0.9)."),
]
BatchOption = Annotated[
    int, typer.Option(min=1, help="Prompts answered at a time; answers do not depend on it.")
]
StoreOption = Annotated[
    Path | None, typer.Option(help="Where trained weights are kept; by default `store` beside the run.")
]

app = typer.Typer(
    name="oppu",
    help="One PEFT Per User: personal language models from users' own histories.\n\n"
    "Start with [bold]oppu quickstart[/bold]: the whole comparison on a sample world, in about two minutes.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)
base_app = typer.Typer(no_args_is_help=True, help="Task bases: the base adapted once to a task.")
personal_app = typer.Typer(no_args_is_help=True, help="Personal adapters: one small adapter per user.")
app.add_typer(data_app, name="data")
app.add_typer(base_app, name="base")
app.add_typer(personal_app, name="personal")


@app.callback(invoke_without_command=True)
def oppu(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
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


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Say how to go on when a person presses Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt as error:
        Console(stderr=True).print("Interrupted. Start the same command again to continue.")
        raise typer.Exit(130) from error


def start(
    run: Path,
    data: list[Path],
    model: str,
    methods: str | None,
    preset: Literal["auto", "paper", "small", "tiny"],
    settings: list[str] | None,
    dtype: Literal["float32", "bfloat16", "float16"],
    seed: int,
    users: int | None,
    sample: bool,
    store: Path | None,
) -> "Run":
    """Start or continue a run from command-line options."""
    from oppu_core.prompts import DEFAULT_METHODS
    from oppu_core.run_config import resolve_config
    from oppu_core.runs import start_run

    config = resolve_config(
        data=data,
        model=model,
        methods=[name.strip() for name in methods.split(",")] if methods is not None else DEFAULT_METHODS,
        preset=preset,
        overrides=settings or [],
        dtype=dtype,
        seed=seed,
        users=users,
        sample=sample,
    )
    return start_run(run, config, store)


def work(
    run: "Run", jobs: list[Literal["bases", "personal", "answers"]], device: str, batch_size: int
) -> None:
    """Do a run's jobs with live progress."""
    from oppu_core.pipeline import execute
    from oppu_core.progress import Watch

    with interruptible(), run.lock():
        execute(run, Watch(Console(stderr=True), run.log_path), jobs, device, batch_size)


@base_app.command(
    "train",
    epilog="Example: [bold]oppu base train --run runs/movies --data data/movies --methods oppu_k0[/bold]",
)
def base_train(
    run: RunOption,
    data: DataOption,
    model: ModelOption = "tiny",
    methods: MethodsOption = None,
    preset: PresetOption = "auto",
    settings: SetOption = None,
    dtype: DtypeOption = "float32",
    device: DeviceOption = "auto",
    seed: SeedOption = 0,
    users: UsersOption = None,
    sample: SampleOption = False,
    store: StoreOption = None,
) -> None:
    """Start a run: train a task LoRA for each prompt variant that the methods need.

    The others' queries are what it is trained on; test users have no part in it.
    """
    started = start(run, data, model, methods, preset, settings, dtype, seed, users, sample, store)
    work(started, ["bases"], device, 32)


@personal_app.command("train", epilog="Example: [bold]oppu personal train --run runs/movies[/bold]")
def personal_train(run: RunOption, device: DeviceOption = "auto") -> None:
    """Train one LoRA per test user on the frozen task bases of a run, from the user's own history alone."""
    from oppu_core.runs import open_run

    work(open_run(run), ["bases", "personal"], device, 32)


@app.command(epilog="Example: [bold]oppu answer --run runs/movies[/bold]")
def answer(run: RunOption, device: DeviceOption = "auto", batch_size: BatchOption = 32) -> None:
    """Answer the test users' queries by every method of a run, each user with their own adapter."""
    from oppu_core.runs import open_run

    work(open_run(run), ["bases", "answers"], device, batch_size)


@app.command(
    epilog='Example: [bold]oppu ask --run runs/quickstart --task lamp_2m --user test-003 "A ship."[/bold]'
)
def ask(
    text: Annotated[str, typer.Argument(help="The query's text, e.g. a movie's description.")],
    run: RunOption,
    user: Annotated[str, typer.Option(help="A test user of the run.")],
    task: Annotated[str | None, typer.Option(help="The task, where the run has several.")] = None,
    device: DeviceOption = "auto",
) -> None:
    """Answer one query by every method of a run, side by side."""
    from rich.table import Table

    from oppu_core.ask import ask as ask_run
    from oppu_core.runs import open_run

    console = Console()
    opened = open_run(run)
    with interruptible(), Console(stderr=True).status("thinking …"):
        answers = ask_run(opened, user, text, task, device)
    table = Table("method", "answer", title=escape(f"{user}: {' '.join(text.split())[:80]}"))
    for method, words in answers.items():
        style = "bold" if method.startswith("oppu") else ""
        table.add_row(method, escape(words) or "[dim](empty)[/dim]", style=style)
    console.print(table)


def register_plugins() -> None:
    """Let installed packages add their commands; a broken one is named and left out."""
    for entry in importlib.metadata.entry_points(group="oppu.commands"):
        try:
            entry.load()(app)
        except Exception as error:
            Console(stderr=True).print(
                f"[yellow]The commands of {entry.value} cannot be loaded: {escape(repr(error))}[/]"
            )


def main() -> None:
    """Run the command line: errors of ours in one message, without a traceback."""
    # Before torch is loaded: where other programs want the cores too, threads that wait by spinning make
    # everything many times slower (benchmarks/threads.py).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    register_plugins()
    console = Console(stderr=True)
    try:
        app()
    except OppuError as error:
        console.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        console.print(
            f"[bold red]error:[/] {escape(str(error.strerror or error))}{escape(where)}", highlight=False
        )
        sys.exit(1)
