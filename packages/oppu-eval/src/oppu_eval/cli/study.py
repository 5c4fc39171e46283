"""``oppu study NAME``: one command a study, with the options of what it stands on in common."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from oppu_core.cli import main as core
from oppu_core.cli.data import PlantOption
from oppu_core.cli.shared import interruptible
from oppu_core.errors import ConfigError, DataError, Interrupted, OppuError

if TYPE_CHECKING:
    from oppu_eval.studies.context import StudyContext
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

_RUN = Annotated[
    Path | None, typer.Option("--run", help="Stand on this run: its data, base, settings and store.")
]
_DATA = Annotated[
    list[Path] | None,
    typer.Option("--data", help="Stand on this dataset folder; repeat it for several tasks."),
]
_TASK = Annotated[
    str | None, typer.Option("--task", help="Tasks of the sample world, with commas between them.")
]
_USERS = Annotated[
    int | None,
    typer.Option(min=2, help="Only the first N test users; of the sample world so many are drawn (20)."),
]
_OUT = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="The folder of studies; by default runs/studies (sample world), runs/studies-DATASET, or "
        "`studies` in the run.",
    ),
]


@dataclasses.dataclass(frozen=True)
class Stand:
    """The common options: what a study stands on, and how it computes."""

    run: Path | None
    data: list[Path] | None
    model: str
    task: str | None
    users: int | None
    plant: list[str] | None
    out: Path | None
    store: Path | None
    preset: Literal["auto", "paper", "small", "tiny"]
    settings: list[str] | None
    dtype: Literal["float32", "bfloat16", "float16"]
    quantize: Literal["nf4", "int8"] | None
    profiles: list[Path] | None
    constrain: bool
    seed: int
    device: str
    batch_size: int
    cohort: str


def _common(
    run: _RUN = None,
    data: _DATA = None,
    model: core.ModelOption = "tiny",
    task: _TASK = None,
    users: _USERS = None,
    plant: PlantOption = None,
    out: _OUT = None,
    store: core.StoreOption = None,
    preset: core.PresetOption = "auto",
    settings: core.SetOption = None,
    dtype: core.DtypeOption = "float32",
    quantize: core.QuantizeOption = None,
    profiles: core.ProfilesOption = None,
    constrain: core.ConstrainOption = False,
    seed: core.SeedOption = 0,
    device: core.DeviceOption = "auto",
    batch_size: core.BatchOption = core.BATCH_SIZE,
    cohort: core.CohortOption = "auto",
) -> None:
    """The signature that every study's command ends with."""


def _stand(arguments: dict[str, Any]) -> Stand:
    return Stand(**{field.name: arguments.pop(field.name) for field in dataclasses.fields(Stand)})


def command(name: str, example: str = "") -> Callable[[Callable[..., "Study | list[Study]"]], None]:
    """Make a command of a function from a study's options to the study (or several).

    Its parameters come first, the common ones after them; typer reads both from the signature.
    """

    def add(study_of: Callable[..., "Study | list[Study]"]) -> None:
        @functools.wraps(study_of)
        def run_study(**arguments: Any) -> None:
            stand = _stand(arguments)
            made = study_of(**arguments)
            _run(stand, made if isinstance(made, list) else [made])

        own, common = (inspect.signature(one) for one in (study_of, _common))
        parameters = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in (*own.parameters.values(), *common.parameters.values())
        ]
        shown: Any = run_study
        shown.__signature__ = inspect.Signature(parameters, return_annotation=None)
        shown.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        app.command(name, epilog=f"Example: [bold]oppu study {name}{example}[/bold]")(shown)

    return add


def _run(stand: Stand, studies: Sequence["Study"]) -> None:
    from oppu_eval.studies.driver import carry_out

    left_out = []
    with interruptible():
        context = ground_of(stand)
        for study in studies:
            try:
                carry_out(study, context, stand.batch_size, stand.cohort)
            except OppuError as error:
                if len(studies) == 1 or isinstance(error, Interrupted):
                    raise
                left_out.append(f"{study.name}: {error}")
    if left_out:
        raise DataError("Some studies could not be done.\n" + "\n".join(left_out))


def ground_of(stand: Stand) -> "StudyContext":
    """What the options say a study stands on.

    Raises:
        ConfigError: they contradict each other.
        OppuError: data, base or run cannot be used.
    """
    from oppu_core.data.sample import Planted
    from oppu_core.runs.config import resolve_config
    from oppu_core.runs.run import open_run
    from oppu_core.training.config import Peft

    from oppu_eval.studies import context
    from oppu_eval.studies.driver import own_folder

    if stand.run is not None:
        return _on_run(stand, open_run(stand.run))
    if stand.data and (stand.task or stand.plant):
        raise ConfigError("--task and --plant are about the sample world; with --data leave them out.")
    out = stand.out or Path("runs", _folder_name(stand))
    if stand.data:
        data = stand.data
    else:
        tasks = [name.strip() for name in stand.task.split(",")] if stand.task else list(context.SAMPLE_TASKS)
        users = stand.users or context.SAMPLE_USERS
        plant = Planted.read(stand.plant or [])
        own_folder(out)
        data = context.sample_data(out, tasks, users, stand.seed, plant)

    def resolve(peft: Peft) -> Any:
        from oppu_core.training.config import ONLY_OF

        settings = [
            text
            for text in (*(context.SAMPLE_SETTINGS if not stand.data else ()), *(stand.settings or []))
            if ONLY_OF.get(text.partition("=")[0].strip().removeprefix("personal."), peft) == peft
        ]
        return resolve_config(
            data=data,
            model=stand.model,
            methods=["non_personalized"],
            preset=stand.preset,
            overrides=settings,
            dtype=stand.dtype,
            seed=stand.seed,
            users=stand.users if stand.data else None,
            sample=False,
            peft=peft,
            quantize=stand.quantize,
            profiles=stand.profiles or [],
            constrain=stand.constrain,
        )

    return context.StudyContext(
        out, stand.store or out.parent / "store", resolve("lora"), resolve, stand.device
    )


def _folder_name(stand: Stand) -> str:
    if stand.data:
        return "-".join(["studies", *(path.resolve().name for path in stand.data)])
    return "studies-planted" if stand.plant else "studies"


def _on_run(stand: Stand, run: Any) -> "StudyContext":
    """The settings of a run; another PEFT method has the preset's rate, and all else as the run."""
    from oppu_core.runs.config import resolve_config

    from oppu_eval.studies.context import StudyContext

    defaults = inspect.signature(_common).parameters
    of_run = (
        "data",
        "model",
        "task",
        "plant",
        "store",
        "preset",
        "settings",
        "dtype",
        "quantize",
        "profiles",
        "constrain",
        "seed",
    )
    if given := [name for name in of_run if getattr(stand, name) != defaults[name].default]:
        options = {"settings": "set", "batch_size": "batch-size"}
        raise ConfigError(
            f"--{options.get(given[0], given[0])} is a setting of the run {run.path} and cannot be changed "
            "here; leave it out, or leave out --run and name --data."
        )
    config = run.config if stand.users is None else dataclasses.replace(run.config, users=stand.users)

    def resolve(peft: Any) -> Any:
        if all(settings.method == peft for settings in config.personal.values()):
            return config
        other = resolve_config(
            data=[Path(path) for path in config.data.values()],
            model=config.model,
            methods=["non_personalized"],
            preset="auto",
            overrides=[],
            dtype=config.dtype,
            seed=config.seed,
            users=config.users,
            sample=config.sample,
            peft=peft,
        )
        own_to_a_method = ("method", "targets", "learning_rate", "weight_decay")
        personal = {
            task: dataclasses.replace(
                config.personal[task], **{name: getattr(preset, name) for name in own_to_a_method}
            )
            for task, preset in other.personal.items()
        }
        return dataclasses.replace(config, personal=personal)

    return StudyContext(stand.out or run.path / "studies", run.store_path, config, resolve, stand.device, run)


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
