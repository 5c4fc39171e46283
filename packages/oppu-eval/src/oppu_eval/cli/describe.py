"""``oppu data describe``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape


def describe(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A dataset folder.")],
    out: Annotated[
        Path | None, typer.Option(help="Also write description.json and description.svg to this folder.")
    ] = None,
) -> None:
    """Show users, queries, histories, lengths, dates and answers of a dataset, beside the paper's Table 2.

    Lengths are mean words: of a query with its instruction, and of a gold.
    """
    from oppu_core.data.dataset import Dataset
    from oppu_core.data.statistics import describe as count
    from oppu_core.runs.progress import ProgressReporter

    from oppu_eval.reporting.describe import labels_table, numbers_table, write_description

    dataset = Dataset.open(data)
    total = sum(counts["users"] for counts in dataset.counts.values())
    with ProgressReporter(Console(stderr=True)).stage("reading", total, "users") as stage:
        facts = count(dataset, stage.advance)
    console = Console()
    console.print(numbers_table(dataset.task, facts, str(data)))
    if labels := labels_table(facts):
        console.print(labels)
    for split, one in facts.items():
        for place, share in one.empty.items():
            if share:
                console.print(f"empty, {split}: {escape(place)} {share:.1%}", highlight=False)
    if out is not None:
        files = write_description(dataset, facts, out)
        console.print(f"Written: {', '.join(map(str, files))}", soft_wrap=True)
