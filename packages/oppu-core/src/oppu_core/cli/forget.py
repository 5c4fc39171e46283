"""``oppu forget``: remove everything that is known of a user or was made from their data."""

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from oppu_core.ownership.forget import Traces


def forget(
    user: Annotated[str, typer.Argument(metavar="USER", help="The user's id.")],
    runs: Annotated[Path, typer.Option(help="The folder of runs (or one run).")] = Path("runs"),
    data: Annotated[
        list[Path] | None, typer.Option("--data", help="A further dataset folder; may be repeated.")
    ] = None,
    store: Annotated[
        list[Path] | None, typer.Option("--store", help="A further store; may be repeated.")
    ] = None,
    task_bases: Annotated[
        bool,
        typer.Option(
            "--task-bases",
            help="Also remove task LoRAs that were trained on the user's queries, and every adapter on them.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask; needed where there is no terminal.")
    ] = False,
) -> None:
    """Remove everything that is known of a user or was made of them: history, answers, adapters, rows.

    Looks into the runs of a folder, the datasets and stores that they name, and what else lies in it. Other
    users' adapters stay as they are and are not trained again. What was exported or pushed, the files that a
    dataset was imported from, and backups are not in reach. Start it again if it was interrupted.
    """
    from rich.console import Console
    from rich.markup import escape

    from oppu_core.cli.shared import interruptible
    from oppu_core.errors import ConfigError
    from oppu_core.ownership.forget import erase, find_traces, open_workspace

    console = Console()
    with contextlib.ExitStack() as stack:
        stack.enter_context(interruptible())
        if not dry_run:
            for run in open_workspace(runs, data or [], store or []).runs:
                stack.enter_context(run.lock())
        space = open_workspace(runs, data or [], store or [])
        traces = find_traces(space, user, task_bases)
        absent = space.absent if not data else ()
        if absent:
            names = escape(", ".join(map(str, absent)))
            console.print(
                f"[yellow]Not found, so not searched: {names}. Name the place of moved data with --data.[/]",
                soft_wrap=True,
            )
        if traces.nothing_left:
            console.print(f"Nothing of user {escape(repr(user))} is left.", highlight=False)
            _show_kept(console, traces)
            return
        _show(console, traces, dry_run)
        if dry_run:
            return
        if not yes:
            if not sys.stdin.isatty():
                raise ConfigError("Nobody is there to be asked; add --yes to remove all this.")
            typer.confirm("Remove all this? It cannot be undone", abort=True)
        erase(space, traces)
    console.print(
        f"User {escape(repr(user))} is forgotten{', in what was found' if absent else ''}. What was exported "
        "or pushed, the files that data was imported from, and backups are not in reach of this command.",
        highlight=False,
    )
    for name in sorted({name for name, *_ in traces.pending.runs}):
        console.print(
            f"The results of {escape(name)} are to be made again without the user: start its `oppu run` again"
            + (
                " (its task LoRAs are trained anew, and all that stands on them)."
                if any(name == run for run, _ in traces.pending.answers)
                else " (nothing is trained again)."
            ),
            highlight=False,
            soft_wrap=True,
        )


def _show(console: "Console", traces: "Traces", dry_run: bool) -> None:
    from rich.markup import escape
    from rich.table import Table

    from oppu_core.data.schema import shown

    title = f"{'Would be removed' if dry_run else 'To be removed'}: user {shown(traces.pending.user_id)}"
    table = Table("where", "what", title=escape(title))
    for trace in traces.found:
        table.add_row(escape(str(trace.place)), escape(trace.what))
    console.print(table)
    if traces.pending.answers:
        console.print(
            "[yellow]The user is one of the others: their queries trained task LoRAs, which all answers and "
            "adapters of the run stand on.[/]"
        )
    _show_kept(console, traces)


def _show_kept(console: "Console", traces: "Traces") -> None:
    from rich.markup import escape

    for folder, adapters in traces.kept:
        console.print(
            f"[yellow]Kept: {escape(str(folder))} was trained on the user's queries, and {adapters} adapters "
            "of other users stand on it. The same command with --task-bases removes them too.[/]",
            soft_wrap=True,
        )
