"""``oppu data audit``: find what in a dataset would spoil a comparison."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from oppu_core.data.audit.findings import Finding
    from oppu_core.data.dataset import Dataset

_COLOURS = {"error": "bold red", "warning": "yellow", "info": "cyan"}


def audit(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A dataset folder.")],
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 when there is an error or a warning.")
    ] = False,
    examples: Annotated[int, typer.Option(min=0, help="Examples shown of each finding.")] = 3,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the findings as JSON.")
    ] = None,
) -> None:
    """Look for leaks, unusable answers, disorder and doubles that would spoil a comparison.

    Leaks: a test query's text in its own user's history or among the others' data, after case, punctuation
    and space are evened out; in the own history also nearly the same text (Jaccard similarity of word
    3-shingles from 0.8, for texts of 5 words and more).
    """
    from oppu_core.data.audit.audit import audit as audit_dataset
    from oppu_core.data.dataset import Dataset
    from oppu_core.runs.progress import ProgressReporter
    from oppu_core.storage.files import write_json

    dataset = Dataset.open(data)
    # Test users are read twice, as the others are compared with them.
    total = dataset.counts["others"]["users"] + 2 * dataset.counts["test"]["users"]
    with ProgressReporter(Console(stderr=True)).stage("reading", total, "readings of users") as stage:
        findings = audit_dataset(dataset, examples, on_user=stage.advance)
    if json_file is not None:
        write_json(
            json_file,
            {
                "task": dataset.task.name,
                "dataset": dataset.fingerprint,
                "counts": dataset.counts,
                "findings": [dataclasses.asdict(finding) for finding in findings],
            },
        )
    _print_findings(dataset, findings)
    if strict and any(finding.severity != "info" for finding in findings):
        raise typer.Exit(1)


def _print_findings(dataset: "Dataset", findings: "list[Finding]") -> None:
    from rich.table import Table

    from oppu_core.data.schema import shown

    console = Console()
    title = f"{escape(str(dataset.path))}: {escape(dataset.task.title)} ({dataset.task.name})"
    if not findings:
        console.print(f"{title}\n[green]No findings.[/]", highlight=False)
        return
    table = Table("", "finding", title=title, title_justify="left", show_edge=False, pad_edge=False)
    table.add_column("count", justify="right")
    table.add_column("of", justify="right")
    table.add_column("users", justify="right")
    for finding in findings:
        colour = _COLOURS[finding.severity]
        total = "" if finding.total is None else f"{finding.total:,} {finding.unit}"
        table.add_row(
            f"[{colour}]{finding.severity}[/]",
            finding.name,
            f"{finding.count:,}",
            total,
            f"{finding.users:,}" if finding.users else "",
        )
    console.print(table, highlight=False)
    for finding in findings:
        console.print(
            f"\n[{_COLOURS[finding.severity]}]{finding.name}[/]: {finding.meaning}", highlight=False
        )
        console.print(f"[dim]{finding.advice}[/]", highlight=False)
        for example in finding.examples:
            # Quoted: an id may hold anything, even terminal control codes.
            place = " ".join(shown(part) for part in (example.user_id, example.id) if part)
            console.print(f"  [bold]{escape(place)}[/]  {escape(example.text)}", highlight=False)
