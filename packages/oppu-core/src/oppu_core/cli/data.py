"""``oppu data``: import datasets, or make one of the sample world."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from oppu_core.cli.audit import audit
from oppu_core.cli.download import download
from oppu_core.runs.options import PlantOption

if TYPE_CHECKING:
    from oppu_core.data.dataset import Dataset

app = typer.Typer(no_args_is_help=True, help="Import and look at datasets.", rich_markup_mode="rich")


@app.callback()
def data() -> None:
    """Import and look at datasets."""


@app.command(
    "import",
    epilog="Example: [bold]oppu data import movie_tagging --out data/movies[/bold]  "
    "or, own data: [bold]oppu data import likes.csv --task lamp_2m --out data/likes[/bold]",
)
def import_(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="DIR_OR_FILE",
            help="Folder of a release, LaMP or LongLaMP, or a table of events (a file, or its parts).",
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="The dataset folder to make; a dataset that is there is replaced.")
    ],
    format_: Annotated[
        Literal["lamp", "longlamp", "oppu-release", "events"] | None,
        typer.Option(
            "--format",
            help="lamp: LaMP's own files; longlamp: a configuration of LongLaMP; oppu-release: the paper's "
            "authors' files; events: JSON (lines or a list), CSV, TSV or Parquet with user_id, time, input, "
            "output. Told by the files if left out.",
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="Task, e.g. lamp_2m, or your own .toml file; told by the files if left out."),
    ] = None,
    test_users: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="lamp, longlamp, events: how many users, those with the longest histories, get adapters; "
            "the others (longlamp: of train) train the task base. By default 100, at most half.",
        ),
    ] = None,
    test_split: Annotated[
        Literal["dev", "val", "test"] | None,
        typer.Option(
            help="lamp, split by user: the users of this file (dev, test) are the test users, with its "
            "questions alone; the others are the users of train and dev. For LaMP's leaderboard: test. Not "
            "with --test-users. longlamp: the split (val, test; by default test) whose users are asked."
        ),
    ] = None,
    queries: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="events: how many of a test user's latest events are queries. By default a fifth, 1 to 20.",
        ),
    ] = None,
    words: Annotated[
        Literal["official", "script"] | None,
        typer.Option(
            help="What a word is to BM25 and ROUGE: official, as in LaMP's code (between spaces; of a-z and "
            "0-9), or script (of any script's letters; each character where a script has no spaces). By "
            "default script where most texts have few letters of a-z."
        ),
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option(
            help="events: the encoding of text, e.g. cp1252 or shift_jis. UTF-8 and UTF-16 need none."
        ),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Stop at the first record that cannot be used, or gold that is no label."
        ),
    ] = False,
) -> None:
    """Import files into a dataset folder, as a stream: files of any size, little memory.

    Records that cannot be used are left out, counted, and kept in rejected.jsonl beside the users.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from oppu_core.data.importers.detect import import_files, open_reader
    from oppu_core.tasks.task_files import load_task

    chosen = load_task(task) if task else None
    reader = open_reader(path, format_, chosen, test_users, queries, test_split, encoding)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("importing")
        imported = import_files(
            path,
            out,
            reader,
            strict,
            lambda done, total: progress.update(bar, completed=done, total=total),
            words,
        )
    _print_counts(imported.dataset)
    for note in imported.notes:
        console.print(f"[yellow]Note:[/yellow] {escape(note)}", soft_wrap=True, highlight=False)


@app.command(epilog="Example: [bold]oppu data sample --task lamp_2m --out data/sample-movies[/bold]")
def sample(
    task: Annotated[str, typer.Option(help="lamp_1, lamp_2n, lamp_2m, lamp_3, lamp_4, lamp_5 or lamp_7.")],
    out: Annotated[
        Path, typer.Option(help="The dataset folder to make; a dataset that is there is replaced.")
    ],
    users: Annotated[int, typer.Option(min=1, help="Test users, who get personal adapters.")] = 20,
    others: Annotated[int, typer.Option(min=1, help="Other users, who train the task base.")] = 100,
    shortest: Annotated[int, typer.Option(min=1, help="Shortest history of a test user.")] = 40,
    longest: Annotated[int, typer.Option(min=1, help="Longest history of a test user.")] = 120,
    queries: Annotated[int, typer.Option(min=1, help="Queries of each test user.")] = 10,
    seed: Annotated[int, typer.Option(help="The same seed gives the same users.")] = 0,
    plant: PlantOption = None,
) -> None:
    """Write a dataset of the sample world: planted users in plain English, nothing to download.

    Their preferences are known, so the best reachable score is too (the row "oracle" of a comparison).
    """
    from oppu_core.data.dataset_writer import write_dataset
    from oppu_core.data.sample import GRAMMARS, Planted, sample_users
    from oppu_core.errors import ConfigError
    from oppu_core.tasks.task_files import get_task

    chosen = get_task(task)
    if chosen.name not in GRAMMARS:
        raise ConfigError(f"The sample world has no task {task}; it has {', '.join(GRAMMARS)}.")
    if shortest > longest:
        raise ConfigError(f"--shortest {shortest} is above --longest {longest}.")
    settings = {"test_users": users, "other_users": others, "queries": queries, "seed": seed}
    planted = Planted.read(plant or [])
    drawn = sample_users(
        chosen,
        test_users=users,
        other_users=others,
        history=(shortest, longest),
        queries=queries,
        seed=seed,
        plant=planted,
    )
    source = {"kind": "sample world", "shortest": shortest, "longest": longest, **settings}
    if plant:
        source["planted"] = dataclasses.asdict(planted)
    _print_counts(write_dataset(out, chosen, drawn, source))


def _print_counts(dataset: "Dataset") -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        "split", title=f"{escape(str(dataset.path))}: {escape(dataset.task.title)} ({dataset.task.name})"
    )
    for name in ("users", "queries", "history items"):
        table.add_column(name, justify="right")
    for split, counts in dataset.counts.items():
        table.add_row(split, *(f"{counts[name]:,}" for name in ("users", "queries", "history_items")))
    Console().print(table)


app.command(epilog="Example: [bold]oppu data download lamp_2m --split time --out downloads/movies[/bold]")(
    download
)
app.command(epilog="Example: [bold]oppu data audit data/movies --strict[/bold]")(audit)
