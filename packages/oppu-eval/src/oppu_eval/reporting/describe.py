"""A dataset's numbers as tables, beside the paper's Table 2, and as a picture (``oppu data describe``)."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from oppu_core.data.dataset import Dataset
from oppu_core.data.statistics import SplitFacts, Spread
from oppu_core.data.types import SPLITS, Split
from oppu_core.storage.files import write_json, write_text
from oppu_core.tasks.task import Task
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from oppu_eval.reporting.drawing import ACCENT, GRID, INK, MUTED, heading, make_panels, remark, svg_text
from oppu_eval.reporting.paper import paper_statistics

Facts = Mapping[Split, SplitFacts]

_BAR = 12
_GROUPS: tuple[tuple[Split, str], ...] = (("others", "base"), ("test", "personal"))


def write_description(dataset: Dataset, facts: Facts, out: Path) -> list[Path]:
    """Write ``description.json`` and ``description.svg`` to a folder; returns the two files."""
    described = {split: dataclasses.asdict(one) for split, one in facts.items()}
    numbers, drawn = out / "description.json", out / "description.svg"
    write_json(numbers, {"task": dataset.task.name, "dataset": dataset.fingerprint, "splits": described})
    write_text(drawn, picture(facts, dataset.task.title) + "\n")
    return [numbers, drawn]


def numbers_table(task: Task, facts: Facts, where: str) -> Table:
    """Users, queries, histories, lengths and dates of both splits, beside the paper's where it has the task.

    Args:
        task: The dataset's task.
        facts: What was counted.
        where: What the dataset is called, in the title.
    """
    paper = paper_statistics(task.paper_id)
    caption = "Lengths in words: query with instruction, gold."
    if paper:
        caption += " Paper: Table 2, official LaMP; it does not name its unit of length."
    table = Table(
        box=SIMPLE_HEAD,
        title=f"{escape(where)}: {escape(task.title)} ({task.name})",
        title_justify="left",
        title_style="bold",
        caption=caption,
        caption_justify="left",
    )
    table.add_column("")
    for split, _ in _GROUPS:
        table.add_column(split, justify="right")
        if paper:
            table.add_column("paper", justify="right", style="dim")

    def row(name: str, value: Callable[[SplitFacts], str], paper_name: str = "") -> None:
        cells = []
        for split, prefix in _GROUPS:
            cells.append(value(facts[split]))
            if paper:
                number = paper.get(f"{prefix}_{paper_name}")
                cells.append("" if number is None else f"{number:,}")
        table.add_row(name, *cells)

    row("users", lambda one: f"{one.users:,}")
    row("queries", lambda one: f"{one.queries:,}", "queries")
    row("history items a user, mean", lambda one: _mean(one.history), "history")
    row("  median", lambda one: f"{one.history.median:,g}" if one.history else "–")
    row("  min – max", lambda one: f"{one.history.min:,} – {one.history.max:,}" if one.history else "–")
    row("length in, mean", lambda one: _mean(one.words_in), "len_in")
    row("length out, mean", lambda one: _mean(one.words_out), "len_out")
    row("first date", lambda one: escape((one.first_date or "–")[:10]))
    row("last date", lambda one: escape((one.last_date or "–")[:10]))
    return table


def _mean(spread: Spread | None) -> str:
    return f"{spread.mean:,.1f}" if spread else "–"


def _series(facts: Facts) -> dict[str, dict[str, float]]:
    """{whose answers: {label: share}}, without what has no answers."""
    counted = {
        "others' golds": facts["others"].gold_labels,
        "test histories": facts["test"].history_labels,
        "test golds": facts["test"].gold_labels,
    }
    return {
        name: {label: count / sum(counts.values()) for label, count in counts.items()}
        for name, counts in counted.items()
        if counts
    }


def _label_names(series: Mapping[str, Mapping[str, float]]) -> list[str]:
    return list(dict.fromkeys(label for shares in series.values() for label in shares))


def labels_table(facts: Facts) -> Table | None:
    """How often each label is the answer; None where there are no labels."""
    series = _series(facts)
    if not series:
        return None
    table = Table("label", box=SIMPLE_HEAD)
    for name in series:
        table.add_column(name, no_wrap=True)
    longest = max(share for shares in series.values() for share in shares.values())
    for label in _label_names(series):
        cells = (
            f"{shares.get(label, 0):6.1%} [blue]{'█' * round(_BAR * shares.get(label, 0) / longest)}[/]"
            for shares in series.values()
        )
        table.add_row(escape(label), *cells)
    return table


def picture(facts: Facts, title: str) -> str:
    """Lengths of the histories and, where there are labels, how often each is the answer, as SVG text."""
    series = _series(facts)
    labels = _label_names(series)
    height = max(2.7, 0.24 * len(labels) + 0.95)
    count = 2 if labels else 1
    figure, panels = make_panels(count, height, left=1.5, right=0.2, top=0.55, bottom=0.5)
    _lengths_panel(panels[0], facts)
    heading(panels[0], f"{title}: history items of a user", lift=20)
    if labels:
        _labels_panel(panels[1], series, labels)
        heading(panels[1], "Answers", lift=20)
    return svg_text(figure, "description", f"{title}: lengths of histories, and answers")


def _lengths_panel(axes: Any, facts: Facts) -> None:
    """Shares of users in bins that double: 0, 1, 2–3, 4–7, … items."""
    top = max((length for one in facts.values() for length in one.history_lengths), default=0)
    bins = top.bit_length() + 1
    for place, (split, colour) in enumerate(zip(SPLITS, (MUTED, ACCENT), strict=True)):
        shares = [0.0] * bins
        for length, users in facts[split].history_lengths.items():
            shares[length.bit_length()] += users / facts[split].users
        axes.bar(
            [at + 0.4 * (place - 0.5) for at in range(bins)], shares, width=0.38, color=colour, linewidth=0
        )
        remark(axes, 0.25 * place, f"{facts[split].users:,} {split}", colour)
    names = ["0", "1", *(f"{2**power}–{2 ** (power + 1) - 1}" for power in range(1, bins - 1))][:bins]
    axes.set_xticks(range(bins), names, rotation=30 if bins > 7 else 0, color=INK)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_ylabel("users")


def _labels_panel(axes: Any, series: Mapping[str, Mapping[str, float]], labels: list[str]) -> None:
    looks = {"others' golds": ("D", MUTED), "test histories": ("s", INK), "test golds": ("o", ACCENT)}
    rows = [-place for place in range(len(labels))]
    axes.hlines(rows, 0, max(max(shares.values()) for shares in series.values()), color=GRID, linewidth=0.5)
    for place, (name, shares) in enumerate(series.items()):
        marker, colour = looks[name]
        axes.plot([shares.get(label, 0.0) for label in labels], rows, marker, color=colour, markersize=5)
        sign = {"D": "◆", "s": "■", "o": "●"}[marker]
        remark(axes, 0.36 * place, f"{sign} {name}", colour)
    axes.set_yticks(rows, labels)
    axes.set_ylim(0.6 - len(labels), 0.6)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
