"""``oppu data download``: fetch LaMP's official files."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape


def download(
    task: Annotated[str, typer.Argument(help="A task of LaMP, e.g. lamp_2m.")],
    out: Annotated[Path, typer.Option(help="The folder for the files; one task and split a folder.")],
    split: Annotated[
        Literal["time", "user"], typer.Option(help="LaMP's split: by time (as in the paper) or by user.")
    ] = "time",
    parts: Annotated[
        str, typer.Option(help="Comma-separated: train, dev, test (the answers of test are withheld).")
    ] = "train,dev",
    host: Annotated[
        str | None, typer.Option(metavar="URL", help="Where LaMP's folders lie, if not on its own host.")
    ] = None,
) -> None:
    """Download LaMP's official files; start it again to continue an interrupted download."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    from oppu_core.data import download as downloading
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
    chosen, names = get_task(task), [name.strip() for name in parts.split(",")]
    with Progress(*columns, console=console) as progress:
        bars = {
            name: progress.add_task(name, total=None) for name in downloading.lamp_files(chosen, split, names)
        }

        def show(name: str, done: int, total: int | None) -> None:
            progress.update(bars[name], completed=done, total=total)

        try:
            downloading.download(chosen, split, names, out, host or downloading.HOST, show)
        except KeyboardInterrupt as error:
            raise Interrupted("Interrupted. Start the same command again to go on.") from error
    Console().print(
        f"Next: [bold]oppu data import {escape(str(out))} --format lamp --task {task} "
        f"--out data/{task}[/bold]",
        soft_wrap=True,
        highlight=False,
    )
