"""``oppu adapters`` and ``oppu base export``: what people can do with trained weights."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from oppu_core.ownership.adapter_import import Imported

RunOption = Annotated[Path, typer.Option("--run", help="The run folder, e.g. runs/movies.")]
UserArgument = Annotated[str, typer.Argument(metavar="USER", help="A test user of the run, or an own one.")]
TaskOption = Annotated[str | None, typer.Option(help="The task, where the run has several.")]
VariantOption = Annotated[
    str | None,
    typer.Option(help="The prompt variant (base, rag_k1, …), where the run has several with adapters."),
]
WithIdOption = Annotated[
    bool, typer.Option("--with-user-id", help="Let the user's id go along; it is left out otherwise.")
]
OwnerOption = Annotated[
    str | None, typer.Option("--user", help="Whose it is; by default the user with this very history.")
]

app = typer.Typer(
    no_args_is_help=True, help="Look at adapters, take them along, share them, bring them back."
)


@app.callback()
def adapters() -> None:
    """Look at adapters, take them along, share them, bring them back."""


@app.command("list", epilog="Example: [bold]oppu adapters list --run runs/movies[/bold]")
def list_(
    run: Annotated[
        Path | None, typer.Option("--run", help="A run folder: the adapters of its users.")
    ] = None,
    store: Annotated[Path | None, typer.Option(help="A store: all that is in it.")] = None,
) -> None:
    """Show every adapter: whose, for what, how it was trained, and whether it is whole."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from oppu_core.errors import ConfigError
    from oppu_core.ownership.adapters import list_run, list_store
    from oppu_core.runs.run import open_run

    if (run is None) == (store is None):
        raise ConfigError("Name a run (--run) or a store (--store).")
    rows = list(list_run(open_run(run))) if run is not None else list(list_store(store or Path()))
    table = Table(title=escape(f"Adapters of {run or store}"), collapse_padding=True, pad_edge=False)
    for name in ("user", "task", "variant", "method"):
        table.add_column(name, overflow="fold", min_width=7)  # a truncated id is useless
    for name in ("items", "loss", "bytes", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("status", min_width=7)  # even on 80 columns
    for row in rows:
        numbers = (
            "–" if row.items is None else f"{row.items:,}",
            "–" if row.loss is None else f"{row.loss:.3f}",
            "–" if row.bytes is None else f"{row.bytes:,}",
            "–" if row.seconds is None else f"{row.seconds:.1f}",
        )
        style = "" if row.status == "ok" else "yellow"
        names = (escape(text) for text in (row.user_id, row.task, row.variant, row.method))
        table.add_row(*names, *numbers, escape(row.status), style=style)
    console = Console()
    console.print(table)
    whole = sum(row.status == "ok" for row in rows)
    console.print(f"{len(rows)} adapters, {whole} of them whole.", highlight=False)


@app.command(epilog="Example: [bold]oppu adapters show test-003 --run runs/movies[/bold]")
def show(user: UserArgument, run: RunOption, task: TaskOption = None, variant: VariantOption = None) -> None:
    """Show everything that is known of one adapter."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from oppu_core.ownership.adapters import describe_adapter
    from oppu_core.runs.run import open_run

    facts, scores = describe_adapter(open_run(run), user, task, variant)
    console = Console()
    table = Table(show_header=False, title=escape(f"The adapter of {user}"))
    table.add_column()
    table.add_column(overflow="fold")  # folders and hashes are not truncated
    for name, value in facts.items():
        table.add_row(name, escape(value))
    console.print(table)
    if scores:
        results = Table("method", "metric", "this user", "all users", "95 % interval", title="Scores")
        for score in scores:
            results.add_row(score.method, score.metric, *(escape(text) for text in score.texts))
        console.print(results)


@app.command(epilog="Example: [bold]oppu adapters export test-003 --run runs/movies --out mine.zip[/bold]")
def export(
    user: UserArgument,
    run: RunOption,
    out: Annotated[Path, typer.Option(metavar="FOLDER|FILE.zip", help="What to make.")],
    task: TaskOption = None,
    variant: VariantOption = None,
    with_user_id: WithIdOption = False,
) -> None:
    """Write an adapter, and the task LoRA it stands on, as a folder or zip that plain PEFT opens.

    No text of the history is in it; but treat it as you would treat the history: see its README.md.
    """
    from oppu_core.ownership.adapter_export import export_adapter
    from oppu_core.ownership.bundle import write_bundle
    from oppu_core.runs.run import open_run

    write_bundle(export_adapter(open_run(run), user, task, variant, with_user_id), out)
    _say(f"{out}: the adapter of {user}, with the task LoRA it stands on.")


@app.command("import", epilog="Example: [bold]oppu adapters import mine.zip --run runs/movies[/bold]")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FOLDER|ZIP", help="What `oppu adapters export` wrote.")],
    run: RunOption,
    user: OwnerOption = None,
) -> None:
    """Put an exported adapter into a run's store, once base, task, settings, history and checksums fit."""
    from oppu_core.ownership.adapter_import import import_adapter
    from oppu_core.ownership.bundle import read_bundle
    from oppu_core.runs.run import open_run

    opened = open_run(run)
    _say_imported(import_adapter(opened, read_bundle(file), str(file), user))


@app.command(epilog="Example: [bold]oppu adapters push test-003 --run runs/movies --to me/my-adapter[/bold]")
def push(
    user: UserArgument,
    run: RunOption,
    to: Annotated[str, typer.Option(metavar="ORG/NAME", help="The repository; made if there is none.")],
    task: TaskOption = None,
    variant: VariantOption = None,
    public: Annotated[bool, typer.Option("--public", help="Let everybody see it.")] = False,
    with_user_id: WithIdOption = False,
) -> None:
    """Upload an adapter to the Hugging Face hub: to a private repository, unless --public is said.

    HF_TOKEN and HF_ENDPOINT are respected.
    """
    from oppu_core.ownership import hub
    from oppu_core.ownership.adapter_export import export_adapter
    from oppu_core.runs.run import open_run

    hub.check_repo_name(to, None if with_user_id else user)
    bundle = export_adapter(open_run(run), user, task, variant, with_user_id)
    with _waiting(f"uploading to {to} …"):
        address = hub.push(bundle, to, public=public)
    _say(f"{address}: the adapter of {user}, with the task LoRA it stands on.")


@app.command(epilog="Example: [bold]oppu adapters pull me/my-adapter --run runs/movies[/bold]")
def pull(
    repo: Annotated[str, typer.Argument(metavar="ORG/NAME", help="A repository of `oppu adapters push`.")],
    run: RunOption,
    user: OwnerOption = None,
) -> None:
    """Bring an adapter from the Hugging Face hub into a run's store, with the checks of import."""
    from oppu_core.ownership import hub
    from oppu_core.ownership.adapter_import import import_adapter
    from oppu_core.runs.run import open_run

    opened = open_run(run)
    with _waiting(f"downloading {repo} …"):
        bundle = hub.pull(repo)
    _say_imported(import_adapter(opened, bundle, repo, user))


def export_base(
    run: RunOption,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The model folder to make.")],
    task: TaskOption = None,
    variant: Annotated[
        str | None, typer.Option(help="The prompt variant (base, rag_k1, …), where the run has several.")
    ] = None,
) -> None:
    """Write a task base (base and task LoRA merged) as an ordinary model folder for other tools."""
    from oppu_core.ownership.base_export import export_base as export
    from oppu_core.runs.run import open_run

    with _waiting(f"writing {out} …"):
        export(open_run(run), task, variant, out)
    _say(f"{out}: the task base, as a model folder.")


@contextlib.contextmanager
def _waiting(text: str) -> Iterator[None]:
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status(escape(text)):
        yield


def _say_imported(done: "Imported") -> None:
    _say(f"{done.folder}: the adapter of {done.user_id} ({done.task}, {done.variant}).")
    for note in done.notes:
        _say(note)


def _say(text: str) -> None:
    from rich.console import Console
    from rich.markup import escape

    Console().print(escape(text), highlight=False, soft_wrap=True)
