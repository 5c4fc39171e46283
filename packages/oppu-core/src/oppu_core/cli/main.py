"""The ``oppu`` command. Other packages add sub-commands through the entry-point group ``oppu.commands``.

Start-up imports no torch: commands import what they need when they run.
"""

import importlib.metadata
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from oppu_core import __version__
from oppu_core.cli import adapters as ownership
from oppu_core.cli import personal as personal_commands
from oppu_core.cli.data import app as data_app
from oppu_core.cli.shared import interruptible
from oppu_core.errors import ConfigError, Interrupted, OppuError, reason
from oppu_core.process import tune_process
from oppu_core.prompting.methods import METHODS

if TYPE_CHECKING:
    from oppu_core.runs.run import Run

BATCH_SIZE = 64

METHODS_HELP = (
    f"Comma-separated: {METHODS} (N items in the prompt: others' at random, the user's own most alike or "
    "most recent, or with a profile); by default the seven of the quickstart."
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
PeftOption = Annotated[
    Literal["lora", "ia3", "prompt_tuning"],
    typer.Option(help="What personal adapters are; a task's own adapter is always a LoRA."),
]
QuantizeOption = Annotated[
    Literal["nf4", "int8"] | None,
    typer.Option(help="Hold the base in 4 or 8 bits and compute in --dtype; adapters stay float32."),
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
ConstrainOption = Annotated[
    bool,
    typer.Option("--constrain", help="Let tasks with a set of labels answer with these alone."),
]
BatchOption = Annotated[
    int,
    typer.Option(
        min=1, help="Prompts answered at a time; answers do not depend on it (with int8 weights they may)."
    ),
]


def _cohort(text: str) -> str:
    if text != "auto" and not (text.isdecimal() and int(text) > 0):
        raise ConfigError(f"--cohort {text!r}: write auto, or how many users to train at once.")
    return text


CohortOption = Annotated[
    str,
    typer.Option(
        callback=_cohort,
        metavar="[auto|N]",
        help="Users trained at once; but for rounding, adapters do not depend on it. auto goes by free "
        "memory, and follows the plan of an interrupted training.",
    ),
]
ProfilesOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--profiles",
        help='Profile texts to use instead of computed ones: JSON lines {"task", "user_id", "profile"}, as '
        "`oppu profiles` writes them. Repeat it for several files.",
    ),
]
ExamplesOption = Annotated[
    Literal["queries", "queries+history"],
    typer.Option(
        help="What task bases learn from: the others' queries, as in the paper, or histories as well."
    ),
]
ReportToOption = Annotated[
    Literal["none", "trackio", "tensorboard", "wandb"],
    typer.Option(help="Also send training losses (no texts, no user ids) there, if it is installed."),
]
StoreOption = Annotated[
    Path | None, typer.Option(help="Where trained weights are kept; by default `store` beside the run.")
]

app = typer.Typer(
    name="oppu",
    help="One PEFT Per User: personal language models from users' own histories.\n\n"
    "Start with [bold]oppu quickstart[/bold]: the whole comparison on a sample world, in some minutes.",
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
app.add_typer(ownership.app, name="adapters")
base_app.command(
    "export", epilog="Example: [bold]oppu base export --run runs/movies --out movies-base[/bold]"
)(ownership.export_base)


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
    peft: Literal["lora", "ia3", "prompt_tuning"] = "lora",
    quantize: Literal["nf4", "int8"] | None = None,
    profiles: list[Path] | None = None,
    examples: Literal["queries", "queries+history"] = "queries",
    constrain: bool = False,
) -> "Run":
    """Start or continue a run from command-line options."""
    from oppu_core.prompting.methods import DEFAULT_METHODS
    from oppu_core.runs.config import resolve_config
    from oppu_core.runs.run import start_run

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
        peft=peft,
        quantize=quantize,
        profiles=profiles or [],
        examples=examples,
        constrain=constrain,
    )
    return start_run(run, config, store)


def work(
    run: "Run",
    jobs: list[Literal["bases", "personal", "answers"]],
    device: str,
    batch_size: int = BATCH_SIZE,
    report_to: Literal["none", "trackio", "tensorboard", "wandb"] = "none",
    cohort: str = "auto",
) -> None:
    """Do a run's jobs with live progress."""
    from oppu_core.runs.jobs import execute
    from oppu_core.runs.progress import ProgressReporter
    from oppu_core.runs.tracking import reporting

    with interruptible(), run.lock(), reporting(report_to, run) as tracker:
        reporter = ProgressReporter(Console(stderr=True), run.log_path, tracker)
        execute(run, reporter, jobs, device, batch_size, None if cohort == "auto" else int(cohort))


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
    peft: PeftOption = "lora",
    quantize: QuantizeOption = None,
    profiles: ProfilesOption = None,
    examples: ExamplesOption = "queries",
    constrain: ConstrainOption = False,
    report_to: ReportToOption = "none",
) -> None:
    """Start a run: train a task LoRA for each prompt variant that the methods need.

    The others' queries are what it is trained on (see --examples); test users have no part in it.
    """
    started = start(
        run, data, model, methods, preset, settings, dtype, seed, users, sample, store, peft, quantize,
        profiles, examples, constrain,
    )  # fmt: skip
    work(started, ["bases"], device, report_to=report_to)


@personal_app.command("train", epilog="Example: [bold]oppu personal train --run runs/movies[/bold]")
def personal_train(
    run: RunOption,
    device: DeviceOption = "auto",
    cohort: CohortOption = "auto",
    report_to: ReportToOption = "none",
) -> None:
    """Train one adapter per test user on the frozen task bases of a run, from their own history alone."""
    from oppu_core.runs.run import open_run

    work(open_run(run), ["bases", "personal"], device, report_to=report_to, cohort=cohort)


@app.command(epilog="Example: [bold]oppu answer --run runs/movies[/bold]")
def answer(run: RunOption, device: DeviceOption = "auto", batch_size: BatchOption = BATCH_SIZE) -> None:
    """Answer the test users' queries by every method of a run, each user with their own adapter."""
    from oppu_core.runs.run import open_run

    work(open_run(run), ["bases", "answers"], device, batch_size)


@app.command(
    epilog='Example: [bold]oppu ask --run runs/quickstart --task lamp_2m --user test-003 "A ship."[/bold]'
)
def ask(
    text: Annotated[str, typer.Argument(help="The query's text, e.g. a movie's description.")],
    run: RunOption,
    user: Annotated[
        str | None, typer.Option(help="A test user of the run; left out, some of them are named.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="The task, where the run has several.")] = None,
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
    from oppu_core.runs.run import open_run

    console = Console()
    opened = open_run(run)
    with interruptible(), Console(stderr=True).status("thinking …"):
        answers = ask_run(opened, user, text, task, device, read_fields(field or []))
    table = Table("method", "answer", title=escape(f"{user}: {' '.join(text.split())[:80]}"))
    for method, words in answers.items():
        style = "bold" if method.startswith("oppu") else ""
        table.add_row(method, escape(words) or "[dim](empty)[/dim]", style=style)
    console.print(table)


@app.command(
    epilog="Example: [bold]oppu profiles --data data/movies --model chat-model --out profiles.jsonl[/bold]"
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
    from oppu_core.modeling.base import load_base
    from oppu_core.runs.profile_writer import write_profiles
    from oppu_core.runs.progress import ProgressReporter

    with interruptible():
        dataset = Dataset.open(data)
        base = load_base(model, dtype, device, quantize)
        reporter = ProgressReporter(Console(stderr=True))
        if not base.supports_padding:
            reporter.console.print(
                "[yellow]Slower, one profile at a time: in padded batches this base's texts would depend on "
                "each other.[/]"
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


personal_commands.register(app)


def register_plugins() -> None:
    """Let installed packages add their commands; a broken one is named and left out."""
    for entry in importlib.metadata.entry_points(group="oppu.commands"):
        try:
            entry.load()(app)
        except Exception as error:
            Console(stderr=True).print(
                f"[yellow]The commands of {entry.value} cannot be loaded: {escape(repr(error))}[/]"
            )


def _take_debug(arguments: list[str]) -> bool:
    """Take ``--debug`` out of the arguments, wherever it stands; behind ``--`` it is a text."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    left = [argument for argument in arguments[:end] if argument != "--debug"]
    arguments[:end] = left
    return len(left) < end


def _interrupted(text: str) -> NoReturn:
    Console(stderr=True).print(text)
    sys.exit(130)


def main() -> None:
    """Run the command line: errors in one message, and where they happened if that was asked for."""
    tune_process()
    debug = _take_debug(sys.argv)

    def fail(text: str, code: int) -> NoReturn:
        if debug:
            traceback.print_exc()
        Console(stderr=True).print(f"[bold red]error:[/] {escape(text)}", highlight=False, soft_wrap=True)
        sys.exit(code)

    try:
        register_plugins()
        app()
    except KeyboardInterrupt:
        _interrupted("Interrupted.")
    except SystemExit as end:
        if end.code == 130:  # typer's silent answer to Ctrl-C
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
