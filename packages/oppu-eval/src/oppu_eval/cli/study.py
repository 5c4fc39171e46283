"""``oppu study NAME``: one command a study, with the options of what it stands on in common."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from oppu_core.cli.dataclass_options import with_options
from oppu_core.cli.shared import interruptible
from oppu_core.errors import ConfigError, DataError, Interrupted, OppuError
from oppu_core.runs.options import Compute

from oppu_eval.studies.options import StudyOptions

if TYPE_CHECKING:
    from oppu_eval.studies.study import Study

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="The paper's further experiments: when does a personal adapter help, whom, and why?\n\n"
    "Without --data or --run a study stands on the sample world and needs no preparation. With --data (and "
    "--model) it trains what it needs; with --run it takes over the run's settings and store. What is in the "
    "store is not trained again, and an interrupted study is continued by the same command.",
    epilog="Example: [bold]oppu study k[/bold], or [bold]oppu study shift --run runs/movies[/bold]",
)


def command(name: str, example: str = "") -> Callable[[Callable[..., "Study | list[Study]"]], None]:
    """Make a command of a function from a study's own options to the study (or several); the common options
    stand behind them."""

    def add(study_of: Callable[..., "Study | list[Study]"]) -> None:
        def run_study(options: StudyOptions, compute: Compute, **own: Any) -> None:
            made = study_of(**own)
            _run(options, compute, made if isinstance(made, list) else [made])

        shown = with_options(run_study, study_of, options=StudyOptions, compute=Compute)
        app.command(name, epilog=f"Example: [bold]oppu study {name}{example}[/bold]")(shown)

    return add


def _run(options: StudyOptions, compute: Compute, studies: Sequence["Study"]) -> None:
    from oppu_eval.studies.driver import carry_out, context_of

    left_out = []
    with interruptible():
        context = context_of(options, compute.device)
        for study in studies:
            try:
                carry_out(study, context, compute)
            except OppuError as error:
                if len(studies) == 1 or isinstance(error, Interrupted):
                    raise
                left_out.append(f"{study.name}: {error}")
    if left_out:
        raise DataError("Some studies could not be done.\n" + "\n".join(left_out))


@command("main")
def main() -> "Study":
    """Table 1: thirteen methods side by side, each adapter against the same prompt without it."""
    from oppu_eval.studies.main import Main

    return Main()


@command("shift", " --plant irrelevant=0.7")
def shift(
    items: Annotated[int, typer.Option(min=1, help="Keep so many items of longer histories.")] = 100,
    share: Annotated[float, typer.Option(help="Keep this share of histories that are no longer.")] = 0.3,
    encoder: Annotated[
        str,
        typer.Option(
            help="Sentence features: base (its hidden states), tfidf, or an encoder's folder or hub id, e.g. "
            "DeBERTa-v3 as in the paper; auto takes a large base, else TF-IDF."
        ),
    ] = "auto",
    per_query: Annotated[
        bool,
        typer.Option("--per-query", help="Choose items for each query on its own: an adapter per query."),
    ] = False,
) -> "Study":
    """Table 3: behaviour shift. Only the items least like the queries are left, or as many others."""
    from oppu_eval.studies.shift import Shift

    return Shift(items, share, encoder, per_query)


@command("activity", " --ranges 1-10,11-30,31-100")
def activity(
    ranges: Annotated[
        str | None,
        typer.Option(metavar="A-B,C-D,…", help="Ranges of items; by default quantiles of the data."),
    ] = None,
    groups: Annotated[int, typer.Option(min=2, max=10, help="How many quantile ranges.")] = 4,
    per_range: Annotated[int, typer.Option(min=1, help="At most so many users of each range.")] = 20,
) -> "Study":
    """Figure 3: users with short and with long histories."""
    from oppu_eval.studies.activity import Activity, read_ranges

    return Activity(read_ranges(ranges) if ranges else (), groups, per_range)


@command("k", " --k 0,1,2,4,8")
def k(
    k: Annotated[
        str, typer.Option(metavar="N,N,…", help="Numbers of retrieved items, ascending.")
    ] = "0,1,2,4",
) -> "Study":
    """Figure 4: more retrieved items, with and without adapters."""
    from oppu_eval.studies.k import RetrievedItems

    try:
        numbers = tuple(int(part) for part in k.split(","))
    except ValueError as error:
        raise ConfigError(f"--k {k!r} is not understood; write e.g. 0,1,2,4.") from error
    return RetrievedItems(numbers)


@command("format")
def format_() -> "Study":
    """Table 4: histories of which only the inputs, or only the outputs, are left."""
    from oppu_eval.studies.format import Format

    return Format()


@command("peft")
def peft() -> "Study":
    """Figure 6: LoRA, (IA)³ and prompt tuning as personal adapters: score, size, time."""
    from oppu_eval.studies.peft import PeftMethods

    return PeftMethods()


@command("similarity")
def similarity(
    method: Annotated[str, typer.Option(help="Whose adapters, e.g. oppu_rag_k1.")] = "oppu_k0",
) -> "Study":
    """Figure 7: how alike users' adapters are, and whether alike adapters mean alike habits."""
    from oppu_eval.studies.similarity import Similarity

    return Similarity(method)


@command("cost")
def cost(
    repeats: Annotated[int, typer.Option(min=1, help="Trainings of each size; medians are shown.")] = 3,
) -> "Study":
    """Figure 8: training time against items and words of a history."""
    from oppu_eval.studies.cost import Cost

    return Cost(repeats)


@command("cases")
def cases(
    cases: Annotated[int, typer.Option(min=1, help="At most so many cases a task.")] = 8,
) -> "Study":
    """Figure 5: the queries on which the methods differ most, as a page to read."""
    from oppu_eval.studies.cases import Cases

    return Cases(cases)


@command("recipe", " --data data/movies --model FOLDER")
def recipe(
    held_out: Annotated[
        int, typer.Option("--held-out", min=2, help="Compare settings on so many users of the others.")
    ] = 24,
    others: Annotated[
        int, typer.Option(min=1, help="Train task bases on at most so many of the rest of the others.")
    ] = 400,
    rates: Annotated[
        str, typer.Option(metavar="R,R,…", help="Learning rates of personal adapters.")
    ] = "1e-4,3e-4,1e-3,3e-3",
    task_rates: Annotated[
        str, typer.Option("--task-rates", metavar="R,R,…", help="Learning rates of task LoRAs.")
    ] = "1e-4,3e-4,1e-3",
) -> "Study":
    """Not in the paper: find training settings for a base on users of the others, as a file for --preset."""
    from oppu_eval.studies.recipe import Recipe

    return Recipe(held_out, others, _numbers("--rates", rates), _numbers("--task-rates", task_rates))


def _numbers(name: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"{name} {text!r} is not understood; write e.g. 1e-4,1e-3.") from error


@command("all")
def all_studies() -> "list[Study]":
    """All nine, one after another, each with its defaults."""
    from oppu_eval.studies.activity import Activity
    from oppu_eval.studies.cases import Cases
    from oppu_eval.studies.cost import Cost
    from oppu_eval.studies.format import Format
    from oppu_eval.studies.k import RetrievedItems
    from oppu_eval.studies.main import Main
    from oppu_eval.studies.peft import PeftMethods
    from oppu_eval.studies.shift import Shift
    from oppu_eval.studies.similarity import Similarity

    return [
        Main(), Shift(), Activity(), RetrievedItems(), Format(), PeftMethods(), Similarity(), Cost(), Cases(),
    ]  # fmt: skip
