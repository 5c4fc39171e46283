"""``oppu forget`` and ``oppu personalize``: what a person does about their own history."""

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from oppu_core.cli.shared import OWN

if TYPE_CHECKING:
    from rich.console import Console

    from oppu_core.ownership.forget import Traces


def register(app: typer.Typer) -> None:
    """Add the commands to ``oppu``."""
    app.command(
        rich_help_panel=OWN, epilog="Example: [bold]oppu forget test-003 --runs runs --dry-run[/bold]"
    )(forget)
    app.command(
        rich_help_panel=OWN,
        epilog="Example: [bold]oppu personalize --history my.jsonl --task lamp_2m --run runs/movies --user me"
        "[/bold]",
    )(personalize)


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
        f"User {escape(repr(user))} is forgotten. What was exported or pushed, the files that datasets were "
        "imported from, and backups are not in reach of this command.",
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
            "adapters of the run stand on.[/]",
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


def personalize(
    history: Annotated[
        Path,
        typer.Option(
            help="The history: JSON (lines or a list), a table with a header line, one item a line, or the "
            "tweets.js of an X archive."
        ),
    ],
    task: Annotated[
        str | None, typer.Option(help="A task's name or .toml file; may be left out if the run has only one.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option("--run", help="A run; by default one of the sample world is made.")
    ] = None,
    user: Annotated[str, typer.Option(help="Your name in the run.")] = "me",
    strict: Annotated[bool, typer.Option("--strict", help="Refuse a file with bad lines.")] = False,
    device: Annotated[
        str, typer.Option(help="auto takes a GPU if there is one; or cpu, cuda, cuda:1.")
    ] = "auto",
) -> None:
    """Train an adapter on your own history, to ask with `oppu ask`.

    An item has the task's history fields (for lamp_2m: description and tag) or input and output; id and date
    may be left out. As a plain line it is `description => tag`. The same history is not trained again; a
    changed one replaces the old one. Nothing leaves this machine; `oppu forget` removes it all.
    """
    import shlex

    from rich.console import Console
    from rich.markup import escape

    from oppu_core.cli.shared import interruptible
    from oppu_core.errors import DataError
    from oppu_core.ownership.personalize import own_run, read_history, task_of
    from oppu_core.ownership.personalize import personalize as train_own
    from oppu_core.runs.progress import ProgressReporter
    from oppu_core.runs.run import open_run

    console = Console(stderr=True)
    opened = open_run(run) if run is not None else None
    chosen = task_of(opened, task)
    read = read_history(history, chosen)
    if read.problems and strict:
        raise DataError(
            f"{history}, {read.problems[0]}. Correct it, or leave out --strict to skip such lines."
        )
    if read.problems:
        more = f"; and {len(read.problems) - 3} more" if len(read.problems) > 3 else ""
        shown = "; ".join(read.problems[:3])
        console.print(
            f"[yellow]Lines skipped: {len(read.problems)} ({escape(shown)}{more}).[/]", highlight=False
        )
    if len(read.items) < 10:
        console.print(
            f"[yellow]Only {len(read.items)} usable items; from about 10 on, an adapter can learn habits.[/]"
        )
    if opened is None:
        opened = own_run(chosen, Path("runs"))
        console.print(
            f"{escape(str(opened.path))} is a run of the sample world: its tiny base knows nothing else. For "
            "real texts start a run with real data and a model (`oppu base train`) and name it with --run.",
            highlight=False,
        )
    with interruptible(), opened.lock():
        done = train_own(opened, chosen, user, read, ProgressReporter(console, opened.log_path), device)
    print_ = Console().print
    name = escape(repr(user))
    if done.trained:
        print_(f"User {name}: {len(read.items)} items learned for {chosen.title}.", highlight=False)
    else:
        print_(f"User {name}: this history is learned already; nothing was trained.", highlight=False)
    if done.removed:
        gone = (
            "1 adapter of the old one was"
            if done.removed == 1
            else f"{done.removed} adapters of the old one were"
        )
        print_(f"The history has changed; {gone} removed.", highlight=False)
    command = ["oppu", "ask", "--run", str(opened.path), "--task", chosen.name, "--user", user]
    print_(
        f'Next: [bold]{escape(shlex.join(command))} "The {chosen.long_field} to be answered."[/bold]',
        highlight=False,
        soft_wrap=True,
    )
