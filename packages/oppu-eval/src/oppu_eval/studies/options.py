"""The options that all studies have."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from oppu_core.modeling.dtypes import Dtype, PromptFormatOption, Quantize
from oppu_core.runs.options import PlantOption, RunOptions, option, same


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """What a study uses: a run, datasets with a base and settings, or the sample world.

    Attributes:
        run: Use this run.
        data: Or these datasets.
        model: See :class:`oppu_core.runs.options.RunOptions`, also for other fields.
        task: Tasks of the sample world, separated by commas.
        users: The most test users.
        plant: Effects planted into the sample world; see ``oppu data sample``.
        out: The folder of studies.
    """

    run: Path | None = option(
        Annotated[
            Path | None,
            typer.Option("--run", help="Stand on this run: its data, base, settings and store."),
        ],
        None,
    )
    data: Sequence[Path] = option(
        Annotated[
            list[Path] | None,
            typer.Option("--data", help="Stand on this dataset folder; repeat it for several tasks."),
        ],
        (),
    )
    model: str = same(RunOptions, "model")
    task: str | None = option(
        Annotated[
            str | None, typer.Option("--task", help="Tasks of the sample world, with commas between them.")
        ],
        None,
    )
    users: int | None = option(
        Annotated[
            int | None,
            typer.Option(
                min=2, help="Only the first N test users; of the sample world so many are drawn (20)."
            ),
        ],
        None,
    )
    plant: Sequence[str] = option(PlantOption, ())
    out: Path | None = option(
        Annotated[
            Path | None,
            typer.Option(
                "--out",
                help="The folder of studies; by default runs/studies (sample world), runs/studies-DATASET, "
                "or `studies` in the run.",
            ),
        ],
        None,
    )
    store: Path | None = same(RunOptions, "store")
    preset: str = same(RunOptions, "preset")
    settings: Sequence[str] = same(RunOptions, "settings")
    dtype: Dtype = same(RunOptions, "dtype")
    quantize: Quantize | None = same(RunOptions, "quantize")
    profiles: Sequence[Path] = same(RunOptions, "profiles")
    constrain: bool = same(RunOptions, "constrain")
    prompt_format: PromptFormatOption = same(RunOptions, "prompt_format")
    seed: int = same(RunOptions, "seed")

    @property
    def folder(self) -> Path:
        """Where results go if there is no run."""
        if self.data:
            name = "-".join(["studies", *(path.resolve().name for path in self.data)])
        else:
            name = "studies-planted" if self.plant else "studies"
        return self.out or Path("runs", name)

    def given(self) -> list[str]:
        """The given options that contradict the use of a run, which has them already."""
        free = ("run", "users", "out")
        fields = (field for field in dataclasses.fields(self) if field.name not in free)
        return [field.name for field in fields if getattr(self, field.name) != field.default]

    def run_options(self, data: Sequence[Path], *, sample_world: bool, **changes: object) -> RunOptions:
        """The options of the study's runs."""
        shared = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(RunOptions)
            if hasattr(self, field.name) and field.name != "users"
        }
        users = None if sample_world else self.users  # the sample world was drawn with so many
        return RunOptions(**{**shared, "data": data, "users": users, **changes})
