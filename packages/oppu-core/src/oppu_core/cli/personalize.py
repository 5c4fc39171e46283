"""``oppu personalize``: train an adapter on a history that a person brings."""

from pathlib import Path
from typing import Annotated

import typer


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
    from rich.console import Console
    from rich.markup import escape

    from oppu_core.cli.shared import interruptible, next_steps
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
    asking = ("ask", "--run", opened.path, "--task", chosen.name, "--user", user)
    next_steps((*asking, f"The {chosen.long_field} to be answered."))
