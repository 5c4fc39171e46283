"""A run's configuration: everything that its results depend on, and how it is resolved from options."""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, get_type_hints

from oppu_core.data.dataset import Dataset
from oppu_core.errors import ConfigError
from oppu_core.modeling.base_files import (
    TINY,
    base_folder,
)
from oppu_core.modeling.dtypes import Dtype, PromptFormat, Quantize
from oppu_core.modeling.families import check_targets
from oppu_core.modeling.skeleton import skeleton_of
from oppu_core.prompting.methods import Examples, parse_method
from oppu_core.runs.options import ENCODER, RunOptions
from oppu_core.runs.preset_files import read_preset
from oppu_core.storage.parsing import parse
from oppu_core.training.config import (
    ONLY_OF,
    TrainConfig,
    personal_config,
    resolve_preset,
    task_config,
)


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Everything that a run's results depend on.

    Attributes:
        data: Dataset folders by task.
        model: ``tiny``, a folder or a hub id.
        methods: Names of methods, in the order of the table.
        task_lora: Training settings of task LoRAs by task.
        personal: Training settings of personal adapters by task.
        dtype: The type of the base's weights.
        seed: The seed of training, random retrieval and sampling.
        users: How many test users (the dataset's first ones); None takes all.
        sample: Whether answers are sampled as in the paper instead of greedy.
        quantize: Whether the base's weights are held in 4 or 8 bits.
        profiles: Files with profile texts; a task that they do not name has computed ones.
        examples: What of the others task LoRAs are trained on.
        constrain: Whether tasks with labels answer with these alone.
        prompt_format: Whether prompts stand in the base's chat template.
        encoder: The sentence encoder of ``dense_kN``: a folder or a hub id.
    """

    data: Mapping[str, str]
    model: str
    methods: tuple[str, ...]
    task_lora: Mapping[str, TrainConfig]
    personal: Mapping[str, TrainConfig]
    dtype: Dtype
    seed: int
    users: int | None
    sample: bool
    quantize: Quantize | None = None
    profiles: tuple[str, ...] = ()
    examples: Examples = "queries"
    constrain: bool = False
    prompt_format: PromptFormat = "plain"
    encoder: str = ENCODER

    # A setting of a later version must not be lost unnoticed.
    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    def to_json(self) -> dict[str, Any]:
        """The form in ``run.json``."""
        trainings = {
            kind: {task: config.to_json() for task, config in getattr(self, kind).items()}
            for kind in ("task_lora", "personal")
        }
        plain: dict[str, Any] = json.loads(json.dumps({**dataclasses.asdict(self), **trainings}))
        if self.prompt_format == "plain":  # as before there was another: results of such runs stay theirs
            del plain["prompt_format"]
        if not uses_encoder(self.methods):
            del plain["encoder"]
        return plain

    @classmethod
    def from_json(cls, values: Any) -> "RunConfig":
        """The inverse of :meth:`to_json`.

        Raises:
            ValueError: a field is wrong; the message names it.
        """
        return parse(cls, values)


def resolve_config(options: RunOptions) -> RunConfig:
    """Resolve options into a complete configuration.

    Raises:
        ConfigError: an option is wrong.
        DataError: a dataset cannot be opened.
        ModelError: the base cannot be found.
    """
    if options.constrain and options.sample:
        raise ConfigError("--constrain chooses among labels greedily; leave --sample out.")
    names = options.method_names
    if options.users is not None and options.users < 1:
        raise ConfigError(f"--users {options.users}: at least one test user is needed.")
    datasets = [Dataset.open(Path(path)) for path in options.data]
    tasks = [dataset.task.name for dataset in datasets]
    if not tasks or len(set(tasks)) < len(tasks):
        raise ConfigError(
            f"--data names {len(tasks)} datasets of the tasks {', '.join(tasks) or '(none)'}; "
            "one dataset of each task is needed."
        )
    folder = base_folder(options.model)
    skeleton = skeleton_of(folder)
    preset, file_settings = read_preset(options.preset, options.peft)
    chosen = resolve_preset(preset, skeleton.parameters)
    projections = skeleton.projections
    seed = options.seed

    def override(kind: str, config: TrainConfig) -> TrainConfig:
        config = _override(kind, config, file_settings, f"--preset {options.preset}: ")
        return check_training(kind, _override(kind, config, options.settings))

    task_lora = {task: override("task_lora", task_config(task, chosen, seed, projections)) for task in tasks}
    personal = {}
    for task in (dataset.task for dataset in datasets):
        text = task.output_field is None
        settings = personal_config(task.name, chosen, seed, projections, options.peft, text_history=text)
        settings = dataclasses.replace(settings, validate_share=options.validate_share)
        personal[task.name] = override("personal", settings)
    for config in (*task_lora.values(), *personal.values()):
        if config.method != "prompt_tuning":
            check_targets(config.targets, projections, skeleton.shared)
    return RunConfig(
        data={dataset.task.name: str(dataset.path.resolve()) for dataset in datasets},
        model=options.model if options.model == TINY else placed(options.model),
        methods=tuple(names),
        task_lora=task_lora,
        personal=personal,
        dtype=options.dtype,
        seed=seed,
        users=options.users,
        sample=options.sample,
        quantize=options.quantize,
        profiles=tuple(str(Path(path).resolve()) for path in options.profiles),
        examples=options.examples,
        constrain=options.constrain,
        prompt_format="chat" if options.prompt_format == "chat" else "plain",
        encoder=placed(options.encoder),
    )


def uses_encoder(methods: Iterable[str]) -> bool:
    """Whether any of these methods retrieves by a sentence encoder."""
    return any(parse_method(name).retriever == "dense" for name in methods)


def placed(name: str) -> str:
    """A folder's or file's absolute path; a hub id as it is."""
    local = Path(name).expanduser()
    return str(local.resolve()) if local.exists() else name


def _override(
    kind: str, config: TrainConfig, overrides: Sequence[str], source: str = "--set "
) -> TrainConfig:
    """Apply ``kind.field=value`` settings to a training configuration; errors begin with their source."""
    types = get_type_hints(TrainConfig)
    fields = [one.name for one in dataclasses.fields(TrainConfig) if one.name not in ("seed", "method")]
    for text in overrides:
        name, separator, value = text.partition("=")
        target, _, field = name.strip().partition(".")
        if not separator or target not in ("task_lora", "personal") or field not in fields:
            raise ConfigError(
                f"{source}{text!r} is not understood. Write --set personal.epochs=3 or "
                f"--set task_lora.learning_rate=1e-4; fields: {', '.join(fields)}."
            )
        if target != kind:
            continue
        try:
            new: Any
            if field == "targets":
                new = tuple(part.strip() for part in value.split(",") if part.strip())
            elif types[field] is bool:
                new = {"true": True, "false": False}[value.strip().lower()]
            else:
                new = types[field](value)
        except (ValueError, KeyError) as error:
            raise ConfigError(f"{source}{text!r}: {value!r} is no {types[field].__name__}.") from error
        if ONLY_OF.get(field, config.method) != config.method:
            raise ConfigError(
                f"{source}{text!r}: {config.method} has no {field}; it is a setting of {ONLY_OF[field]}."
            )
        config = dataclasses.replace(config, **{field: new})
    return config


def check_training(kind: str, config: TrainConfig) -> TrainConfig:
    """Refuse settings that cannot train.

    Raises:
        ConfigError: a setting is out of range; the message names it.
    """
    positive = ("rank", "alpha", "learning_rate", "max_grad_norm", "epochs", "batch_size", "virtual_tokens")
    for field in positive:
        value = getattr(config, field)
        if not 0 < value < float("inf"):
            raise ConfigError(f"{kind}.{field} is {value}; it has to be above 0 and finite.")
    for field in ("rank", "epochs", "batch_size", "virtual_tokens"):
        if getattr(config, field) > 100_000:
            raise ConfigError(f"{kind}.{field} is {getattr(config, field)}; it has to be at most 100000.")
    if not 0 <= config.stop_loss < float("inf"):
        raise ConfigError(f"{kind}.stop_loss is {config.stop_loss}; it has to be finite, and not below 0.")
    for field in ("dropout", "warmup", "validate_share"):
        if not 0 <= getattr(config, field) < 1:
            raise ConfigError(f"{kind}.{field} is {getattr(config, field)}; it has to be in [0, 1).")
    if config.targets and config.method == "prompt_tuning":
        raise ConfigError(
            f"{kind}.targets is {','.join(config.targets)}; prompt tuning adapts no projection."
        )
    return config
