"""``oppu data``: make datasets out of what others publish."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from oppu_core.data.dataset import Dataset
    from oppu_core.data.types import User

app = typer.Typer(no_args_is_help=True, help="Import and look at datasets.", rich_markup_mode="rich")


@app.callback()
def data() -> None:
    """Import and look at datasets."""


@app.command(
    "import",
    epilog="Example: [bold]oppu data import movie_tagging --format oppu-release --out data/movies[/bold]",
)
def import_(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with the files to import.")],
    format_: Annotated[
        Literal["oppu-release"],
        typer.Option("--format", help="Layout of DIR: the OPPU authors' processed LaMP files."),
    ],
    out: Annotated[
        Path, typer.Option(help="The dataset folder to make; a dataset that is there is replaced.")
    ],
    task: Annotated[
        str | None, typer.Option(help="Task, e.g. lamp_2m; told by the files if left out.")
    ] = None,
) -> None:
    """Import files into a dataset folder, as a stream: files of any size, little memory."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from oppu_core.data.dataset import write_dataset
    from oppu_core.data.release import Release
    from oppu_core.tasks import get_task

    release = Release(folder, get_task(task) if task else None)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TextColumn("{task.fields[users]:,} users"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("importing", users=0)

        def show(done: int, total: int) -> None:
            progress.update(bar, completed=done, total=total)

        def counted() -> Iterator["User"]:
            for number, user in enumerate(release.users(show), 1):
                progress.update(bar, users=number)
                yield user

        dataset = write_dataset(out, release.task, counted(), release.source)
    _print_counts(dataset)


@app.command(epilog="Example: [bold]oppu data sample --task lamp_2m --out data/sample-movies[/bold]")
def sample(
    task: Annotated[str, typer.Option(help="lamp_2m or lamp_4.")],
    out: Annotated[
        Path, typer.Option(help="The dataset folder to make; a dataset that is there is replaced.")
    ],
    users: Annotated[int, typer.Option(min=1, help="Test users, who get personal adapters.")] = 20,
    others: Annotated[int, typer.Option(min=1, help="Other users, who train the task base.")] = 100,
    shortest: Annotated[int, typer.Option(min=1, help="Shortest history of a test user.")] = 40,
    longest: Annotated[int, typer.Option(min=1, help="Longest history of a test user.")] = 120,
    queries: Annotated[int, typer.Option(min=1, help="Queries of each test user.")] = 10,
    seed: Annotated[int, typer.Option(help="The same seed gives the same users.")] = 0,
) -> None:
    """Write a dataset of the sample world: planted users in plain English, nothing to download.

    Their preferences are known, so the best reachable score is too (the row "oracle" of a comparison).
    """
    from oppu_core.data.dataset import write_dataset
    from oppu_core.data.sample import GRAMMARS, sample_users
    from oppu_core.errors import ConfigError
    from oppu_core.tasks import get_task

    chosen = get_task(task)
    if chosen.name not in GRAMMARS:
        raise ConfigError(f"The sample world has no task {task}; it has {', '.join(GRAMMARS)}.")
    if shortest > longest:
        raise ConfigError(f"--shortest {shortest} is above --longest {longest}.")
    settings = {"test_users": users, "other_users": others, "queries": queries, "seed": seed}
    drawn = sample_users(
        chosen, test_users=users, other_users=others, history=(shortest, longest), queries=queries, seed=seed
    )
    source = {"kind": "sample world", "shortest": shortest, "longest": longest, **settings}
    _print_counts(write_dataset(out, chosen, drawn, source))


def _print_counts(dataset: "Dataset") -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("split", title=f"{escape(str(dataset.path))}: {dataset.task.title} ({dataset.task.name})")
    for name in ("users", "queries", "history items"):
        table.add_column(name, justify="right")
    for split, counts in dataset.counts.items():
        table.add_row(split, *(f"{counts[name]:,}" for name in ("users", "queries", "history_items")))
    Console().print(table)
