"""The options of a run, each defined once.

Light to import: the command line needs it before it knows whether a model is needed.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from oppu_core.errors import ConfigError
from oppu_core.modeling.dtypes import Dtype, PromptFormatOption, Quantize
from oppu_core.prompting.methods import DEFAULT_METHODS, METHODS, Examples, parse_method
from oppu_core.training.config import Peft, Preset

CLUSTER = "On a Ray cluster"
MORE = "More options"  # the heading, in --help, of those that are seldom needed

Job = Literal["bases", "personal", "pooled", "answers"]
JOBS: tuple[Job, ...] = ("bases", "personal", "pooled", "answers")

METHODS_HELP = (
    f"Comma-separated: {METHODS} (N items in the prompt: others' at random, the user's own most alike by "
    "words or by --encoder, or most recent, or with a profile); by default the seven of the quickstart."
)


def option(cli: Any, default: Any = dataclasses.MISSING) -> Any:
    """A dataclass field that is an option of commands, too (:mod:`oppu_core.cli.dataclass_options`).

    Args:
        cli: The option's type and help: ``Annotated[type, typer.Option(…)]``.
        default: The field's default; on the command line it is None if the type allows it.
    """
    return dataclasses.field(default=default, metadata={"cli": cli})


def same(kind: type, name: str) -> Any:
    """A field with the option and default of a field of another dataclass."""
    field = next(field for field in dataclasses.fields(kind) if field.name == name)
    return option(field.metadata["cli"], field.default)


ENCODER = "sentence-transformers/all-MiniLM-L6-v2"

ModelOption = Annotated[
    str,
    typer.Option("--model", help="The base: 'tiny' (shipped), a folder, a GGUF file, or a Hugging Face id."),
]
DtypeOption = Annotated[Dtype, typer.Option(rich_help_panel=MORE, help="Type of the base's weights.")]
QuantizeOption = Annotated[
    Quantize | None,
    typer.Option(
        rich_help_panel=MORE,
        help="Hold the base in 4 or 8 bits and compute in --dtype; adapters stay float32.",
    ),
]
DeviceOption = Annotated[str, typer.Option(help="auto takes a GPU if there is one; or cpu, cuda, cuda:1.")]
BatchOption = Annotated[
    int,
    typer.Option(
        min=1,
        rich_help_panel=MORE,
        help="Prompts answered at a time; answers do not depend on it (with int8 weights they may).",
    ),
]

PlantOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="WHAT=SHARE",
        help="Plant something into the sample world for a study to find: shift=0.5 (the older half of each "
        "history follows other habits), inactive=0.5 (half of the users have 2 to 6 items), irrelevant=0.5 "
        "(so much of each history is about other subjects than the queries). Repeat it.",
    ),
]


def read_cohort(text: str) -> str:
    """Check that an option is a number of users, or ``auto``.

    Raises:
        ConfigError: it is something else.
    """
    if text != "auto" and not (text.isdecimal() and int(text) > 0):
        raise ConfigError(f"--cohort {text!r}: write auto, or how many users to train at once.")
    return text


CohortOption = Annotated[
    str,
    typer.Option(
        callback=read_cohort,
        metavar="[auto|N]",
        rich_help_panel=MORE,
        help="Users trained at once; but for rounding, adapters do not depend on it. auto goes by free "
        "memory, and follows the plan of an interrupted training.",
    ),
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compute:
    """How work is done; results do not depend on it, except for rounding.

    Attributes:
        device: ``auto``, ``cpu``, ``cuda`` …
        batch_size: Prompts answered at a time.
        cohort: Users trained at once, as text; ``auto`` decides by free memory.
    """

    device: str = option(DeviceOption, "auto")
    batch_size: int = option(BatchOption, 64)
    cohort: str = option(CohortOption, "auto")

    @property
    def users_at_once(self) -> int | None:
        """How many users to train at once; None decides by free memory."""
        return None if self.cohort == "auto" else int(self.cohort)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where personal adapters are trained: in this process, or by workers on a Ray cluster.

    Attributes:
        ray: The cluster's address; ``local`` starts one on this machine, ``auto`` takes the one that is
            found; None trains here.
        workers: How many workers train at the same time; None takes as many as there is room for.
        cpus_per_worker: Cores of each.
        gpus_per_worker: GPUs of each; None is one where there are any. A share lets several workers use one.
    """

    ray: str | None = option(
        Annotated[
            str | None,
            typer.Option(
                "--ray",
                metavar="[ADDRESS]",
                rich_help_panel=CLUSTER,
                help="Train adapters by workers on Ray: without an address on this machine, with auto on the "
                "cluster that is found. Needs oppu-core\\[ray], and folders that all of its machines share.",
            ),
        ],
        None,
    )
    workers: int | None = option(
        Annotated[
            int | None,
            typer.Option(
                min=1,
                rich_help_panel=CLUSTER,
                help="Workers that train at the same time; by default as many as there is room for.",
            ),
        ],
        None,
    )
    cpus_per_worker: int = option(
        Annotated[int, typer.Option(min=1, rich_help_panel=CLUSTER, help="Cores of each worker.")], 1
    )
    gpus_per_worker: float | None = option(
        Annotated[
            float | None,
            typer.Option(
                min=0,
                rich_help_panel=CLUSTER,
                help="GPUs of each worker, e.g. 0.5; by default one where there are any.",
            ),
        ],
        None,
    )

    def __post_init__(self) -> None:
        """Refuse workers without a cluster."""
        if self.ray is None and (self.workers, self.cpus_per_worker, self.gpus_per_worker) != (None, 1, None):
            raise ConfigError(
                "--workers, --cpus-per-worker and --gpus-per-worker are of a cluster: add --ray."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The options of a run: everything that its results depend on.

    Attributes:
        data: Dataset folders, each of a different task.
        model: ``tiny``, a folder or a hub id.
        methods: Names of methods, as a sequence or separated by commas.
        preset: Training settings to start from: a name, or a file (:mod:`oppu_core.runs.preset_files`).
        settings: ``personal.epochs=3``, ``task_lora.learning_rate=1e-4`` …
        dtype: The type of the base's weights.
        seed: The seed of everything.
        users: The most test users.
        sample: Sample answers as in the paper.
        store: Where weights are kept; by default beside the run.
        peft: The kind of personal adapters.
        quantize: Hold the base in 4 or 8 bits.
        profiles: Files with profile texts.
        examples: What of the others task LoRAs are trained on.
        constrain: Let tasks with labels answer with these alone.
        validate_share: Hold out this share of each user's history, to find when to stop.
        prompt_format: Put prompts into the base's chat template; ``auto`` does not, as in the paper.
        encoder: The sentence encoder of ``dense_kN``: a folder or a hub id.
    """

    data: Sequence[Path] = option(
        Annotated[list[Path], typer.Option("--data", help="A dataset folder; repeat it for several tasks.")]
    )
    model: str = option(ModelOption, "tiny")
    methods: str | Sequence[str] = option(
        Annotated[str | None, typer.Option("--methods", help=METHODS_HELP)], DEFAULT_METHODS
    )
    preset: str = option(
        Annotated[
            str,
            typer.Option(
                metavar=f"[{'|'.join(get_args(Preset))}|FILE]",
                help="Training settings: the paper's, or measured ones for small bases; auto goes by size. "
                "Or a file of `oppu study recipe`, which finds them for a base.",
            ),
        ],
        "auto",
    )
    settings: Sequence[str] = option(
        Annotated[
            list[str] | None,
            typer.Option(
                "--set", help="Change a training setting, e.g. personal.epochs=3 or task_lora.rank=16."
            ),
        ],
        (),
    )
    dtype: Dtype = option(DtypeOption, "float32")
    seed: int = option(
        Annotated[
            int,
            typer.Option(
                min=0,
                max=2**32 - 1,
                rich_help_panel=MORE,
                help="The same seed gives the same adapters and answers.",
            ),
        ],
        0,
    )
    users: int | None = option(
        Annotated[int | None, typer.Option(help="Only the first N test users of each dataset.")], None
    )
    sample: bool = option(
        Annotated[
            bool,
            typer.Option(
                "--sample",
                rich_help_panel=MORE,
                help="Sample answers as in the paper (temperature 0.1, top-k 10, top-p 0.9).",
            ),
        ],
        False,
    )
    store: Path | None = option(
        Annotated[
            Path | None,
            typer.Option(
                rich_help_panel=MORE,
                help="Where trained weights are kept; by default `store` beside the run.",
            ),
        ],
        None,
    )
    peft: Peft = option(
        Annotated[
            Peft,
            typer.Option(
                rich_help_panel=MORE,
                help="What personal adapters are; a task's own adapter is always a LoRA.",
            ),
        ],
        "lora",
    )
    quantize: Quantize | None = option(QuantizeOption, None)
    profiles: Sequence[Path] = option(
        Annotated[
            list[Path] | None,
            typer.Option(
                "--profiles",
                rich_help_panel=MORE,
                help='Profile texts to use instead of computed ones: JSON lines {"task", "user_id", '
                '"profile"}, as `oppu profiles` writes them. Repeat it for several files.',
            ),
        ],
        (),
    )
    examples: Examples = option(
        Annotated[
            Examples,
            typer.Option(
                rich_help_panel=MORE,
                help="What task bases learn from: the others' queries, as in the paper, or their histories, "
                "too.",
            ),
        ],
        "queries",
    )
    constrain: bool = option(
        Annotated[
            bool,
            typer.Option(
                "--constrain",
                rich_help_panel=MORE,
                help="Let tasks with a set of labels answer with these alone.",
            ),
        ],
        False,
    )
    validate_share: float = option(
        Annotated[
            float,
            typer.Option(
                "--validate-share",
                rich_help_panel=MORE,
                help="Hold out this share of each history, its latest items, and keep the epoch that reads "
                "them best, e.g. 0.2. Off by default: on the sample world it did not pay (docs/presets.md).",
            ),
        ],
        0.0,
    )
    prompt_format: PromptFormatOption = option(
        Annotated[
            PromptFormatOption,
            typer.Option(
                rich_help_panel=MORE,
                help="How the base is asked: plain text, or in its chat template. auto is plain, as in the "
                "paper, and says so where the base has a template.",
            ),
        ],
        "auto",
    )
    encoder: str = option(
        Annotated[
            str,
            typer.Option(
                metavar="FOLDER_OR_HUB_ID",
                rich_help_panel=MORE,
                help="What dense_kN compares texts with: a sentence encoder.",
            ),
        ],
        ENCODER,
    )

    @property
    def method_names(self) -> list[str]:
        """The methods' names, each once.

        Raises:
            ConfigError: a name is not a method, or there is none.
        """
        texts = self.methods.split(",") if isinstance(self.methods, str) else self.methods
        names = list(dict.fromkeys(parse_method(name.strip()).name for name in texts))
        if not names:
            raise ConfigError("No method was asked for; see --methods.")
        return names
