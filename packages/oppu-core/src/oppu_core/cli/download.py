"""``oppu data download``: fetch the official files of LaMP and LongLaMP."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from oppu_core.cli.shared import next_steps


def download(
    task: Annotated[str, typer.Argument(help="A task of LaMP or LongLaMP, e.g. lamp_2m.")],
    out: Annotated[Path, typer.Option(help="The folder for the files; one task and split a folder.")],
    split: Annotated[
        Literal["time", "user"],
        typer.Option(help="By time (LaMP's as in the paper; LongLaMP's temporal setting) or by user."),
    ] = "time",
    parts: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated: of LaMP train, dev, test (the answers of test are withheld), by default "
            "train,dev; of LongLaMP train, val, test, by default train,test."
        ),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Where LaMP's folders lie, if not on its own host; for LongLaMP, a hub."
        ),
    ] = None,
) -> None:
    """Download the official files of LaMP, or of LongLaMP from the Hugging Face hub.

    Start it again to continue an interrupted download.
    """
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    from oppu_core.data import download as downloading
    from oppu_core.data.download_longlamp import download_longlamp
    from oppu_core.errors import Interrupted
    from oppu_core.tasks.task_files import get_task

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(compact=True),
    )
    chosen = get_task(task)
    names = [
        name.strip() for name in (parts or f"train,{'test' if chosen.longlamp_config else 'dev'}").split(",")
    ]
    interrupted = "Interrupted. Start the same command again to go on."
    if chosen.longlamp_config:
        try:
            _print_next(task, download_longlamp(chosen, split, names, out, host), "longlamp")
        except KeyboardInterrupt as error:
            raise Interrupted(interrupted) from error
        return
    with Progress(*columns, console=console) as progress:
        bars = {
            name: progress.add_task(name, total=None) for name in downloading.lamp_files(chosen, split, names)
        }

        def show(name: str, done: int, total: int | None) -> None:
            progress.update(bars[name], completed=done, total=total)

        try:
            downloading.download(chosen, split, names, out, host or downloading.HOST, show)
        except KeyboardInterrupt as error:
            raise Interrupted(interrupted) from error
    _print_next(task, out, "lamp")


def _print_next(task: str, folder: Path, format_: str) -> None:
    next_steps(("data", "import", folder, "--format", format_, "--task", task, "--out", f"data/{task}"))
