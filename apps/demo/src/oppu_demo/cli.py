"""``oppu demo``: serve the page on this machine, or write the folder of a Space."""

from pathlib import Path
from typing import Annotated

import typer
from oppu_core.cli.shared import START, interruptible
from oppu_core.errors import ConfigError
from oppu_core.runs.options import DeviceOption
from rich.console import Console

LOOPBACK = ("127.0.0.1", "localhost", "::1")

demo_app = typer.Typer(
    invoke_without_command=True,
    help="A web page: answers side by side, and your own history.",
    epilog="Example: [bold]oppu demo --run runs/movies[/bold]",
)


def register(app: typer.Typer) -> None:
    """Add this package's commands (entry-point group ``oppu.commands``)."""
    app.add_typer(demo_app, name="demo", rich_help_panel=START)


@demo_app.callback()
def demo(
    context: typer.Context,
    run: Annotated[
        Path | None,
        typer.Option(
            "--run", help="A run whose adapters are trained; by default the quickstart's, made if missing."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="The base of the quickstart's run, instead of the shipped one."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Where to listen: this machine alone, or e.g. 0.0.0.0 for all networks.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="By default the first free one from 7860.")
    ] = None,
    auth: Annotated[
        str | None,
        typer.Option(envvar="OPPU_DEMO_AUTH", metavar="NAME:PASSWORD", help="Ask visitors for these."),
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
    device: DeviceOption = "auto",
) -> None:
    """Open the page. Without a run it makes the quickstart's first, showing progress in the page."""
    if context.invoked_subcommand:
        return
    if auth is not None and not all(auth.partition(":")[::2]):
        raise ConfigError("--auth: write a name, a colon and a password, e.g. --auth ada:lovelace.")
    if run and model:
        raise ConfigError("--run has its own base; leave --model out, or --run.")
    if run:
        from oppu_core.runs.run import open_run

        open_run(run)  # before what takes seconds to load
    from oppu_demo.serve import serve

    with interruptible("Stopped."):
        serve(run, model or "tiny", host, port, auth, browser, device)


@demo_app.command("export-space", epilog="Example: [bold]oppu demo export-space my-space[/bold]")
def export_space(folder: Annotated[Path, typer.Argument(help="The folder to make.")]) -> None:
    """Write a folder that can be pushed as a Hugging Face Space as it is."""
    from oppu_demo.space import write_space

    write_space(folder)
    Console().print(f"Space: {folder}", highlight=False)
