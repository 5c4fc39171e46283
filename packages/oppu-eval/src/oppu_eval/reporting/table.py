"""The comparison as a terminal table, one per task.

A row takes two lines: the value, and below it, dimmed, its interval. Wide terminals (100 columns) show
everything; narrower ones drop the secondary metric's interval (or the metric) and the counts. Reads
``results.json`` alone.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from oppu_eval.reporting.paper import SOURCE, paper_value
from oppu_eval.scoring.evaluate import split_model

_WIDE = 100
Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class ResultsTable:
    """What :func:`render_table` returns: rich asks it to draw itself for the width at hand."""

    results: Mapping[str, Any]
    paper: bool

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Yield one table and its notes per task."""
        for task in self.results["tasks"]:
            yield _task_table(self.results, task, wide=options.max_width >= _WIDE, paper=self.paper)
            yield ""
            for warning in self.results.get("warnings", {}).get(task, []):
                yield Text(warning, style="yellow")
            yield _notes(self.results, task, paper=self.paper)


def render_table(results: Mapping[str, Any], paper: bool = False) -> ResultsTable:
    """A rich renderable with one table per task.

    Args:
        results: What :func:`oppu_eval.scoring.evaluate.results_dict` made (or ``results.json``).
        paper: Add a column with the numbers that the OPPU paper published.
    """
    return ResultsTable(results, paper)


def methods_of(results: Mapping[str, Any], task: str) -> dict[str, dict[str, Row]]:
    """{method: {metric: row}} of one task, in the order of the rows."""
    methods: dict[str, dict[str, Row]] = {}
    for row in results["rows"]:
        if row["task"] == task:
            methods.setdefault(row["method"], {})[row["metric"]] = row
    return methods


def best_method(methods: Mapping[str, Mapping[str, Row]], metric: str) -> str | None:
    """The language-model method (no reference row) with the best value; the first among equals."""
    rows = [by_metric[metric] for by_metric in methods.values() if not by_metric[metric]["reference"]]
    rows = [row for row in rows if not row.get("other_queries")]
    if not rows:
        return None
    best = max(rows, key=lambda row: row["value"] * (1 if row["higher_is_better"] else -1))
    return str(best["method"])


def counts_text(rows: Sequence[Row]) -> str:
    """How much was scored: ``10 users, 100 queries``, of several rows the most."""
    users, queries = max((row["users"] or 0, row["queries"]) for row in rows)
    return f"{users} users, {queries} queries" if users else f"{queries} queries"


def number(value: float | None) -> str:
    """Three decimals without a leading zero: ``.833``, ``1.000``."""
    if value is None:
        return "–"
    text = f"{value:.3f}"
    return text[1:] if text.startswith("0.") else text


def signed(value: float) -> str:
    """With its sign, a true minus: ``+.483``, ``−.020``; what rounds to zero has none."""
    text = number(abs(value))
    return text if text == ".000" else ("+" if value > 0 else "−") + text


def p_text(p_value: float) -> str:
    """``p<.001`` or ``p=.042``."""
    return "p<.001" if p_value < 0.001 else f"p={number(p_value)}"


def _interval(ci95: list[float] | None, show: Any = number) -> str:
    return "" if ci95 is None else f"[{show(ci95[0])}, {show(ci95[1])}]"


def _value_cell(row: Row, interval: bool, style: str) -> Text:
    text = Text(number(row["value"]), style=style)
    if interval and row["ci95"] is not None:
        text.append("\n" + _interval(row["ci95"]), style="dim not bold")
    return text


def _delta_cell(row: Row, suffix: str) -> Text:
    """The difference, its p-value with a star below 0.05, and its interval below."""
    delta, p_value = row[f"delta{suffix}"], row[f"p_value{suffix}"]
    if delta is None:
        return Text("–", style="dim")
    significant = p_value < 0.05
    colour = ("green" if delta > 0 else "red") if significant and not row["reference"] else ""
    text = Text(signed(delta), style=colour)
    text.append(f" {p_text(p_value)}{'*' if significant else ' '}", style="dim" if row["reference"] else "")
    return text.append("\n" + _interval(row[f"delta{suffix}_ci95"], signed) + " ", style="dim")


def _wins_cell(row: Row) -> Text:
    wins = row["wins"]
    return Text("–" if wins is None else f"{wins['better']}/{wins['equal']}/{wins['worse']}")


def _paper_cell(paper_id: str, method: str, metrics: Sequence[str]) -> Text:
    values = [paper_value(paper_id, split_model(method)[0], metric) for metric in metrics]
    return Text("\n".join(number(value) for value in values if value is not None) or "–", style="dim")


def _task_table(results: Mapping[str, Any], task: str, wide: bool, paper: bool) -> Table:
    info = results["tasks"][task]
    metrics: dict[str, str] = info["metrics"]
    primary = next(iter(metrics))
    methods = methods_of(results, task)
    best = best_method(methods, primary)
    shown = [metric for metric in metrics if wide or not paper or metric == primary]
    if not wide and len(metrics) > 2:
        shown = shown[::2]  # of ROUGE by script and the official one, a column each
    table = Table(
        title=f"{escape(info['title'])} ({escape(task)})",
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        padding=0,
        show_edge=False,
    )
    words = [word for method in methods for word in method.split()]
    table.add_column("method", min_width=max(map(len, words)), overflow="fold")  # a model may stand below
    for metric in shown:
        table.add_column(metrics[metric].replace(" (", "\n("), justify="right", no_wrap=True)
    table.add_column("Δ to non-\npersonalized", justify="right", no_wrap=True)
    table.add_column("Δ same prompt,\nno adapter", justify="right", no_wrap=True)
    table.add_column("users\n+/=/−", justify="right", no_wrap=True)
    if wide:
        table.add_column("users\nqueries", justify="right", no_wrap=True)
    if paper:
        table.add_column("paper", justify="right", no_wrap=True)
    names = list(methods)
    for position, (method, by_metric) in enumerate(methods.items()):
        row = by_metric[primary]
        style = "dim" if row["reference"] else "bold" if method == best else ""
        cells: list[Text] = [Text(method, style=style)]
        for metric in shown:
            cells.append(_value_cell(by_metric[metric], wide or metric == primary, style))
        cells += [_delta_cell(row, ""), _delta_cell(row, "_same_prompt"), _wins_cell(row)]
        if wide:
            cells.append(Text(f"{row['users'] or '–'}\n{row['queries']}", style="dim"))
        if paper:
            cells.append(_paper_cell(info["paper_id"], method, shown))
        following = methods[names[position + 1]][primary] if position + 1 < len(names) else row
        end_section = _section(row) != _section(following)
        table.add_row(*cells, style="dim" if row["reference"] else "", end_section=end_section)
    return table


def _section(row: Row) -> tuple[bool, str]:
    """References, the run's own methods, and each other model's stand apart."""
    return bool(row["reference"]), split_model(row["method"])[1]


def _notes(results: Mapping[str, Any], task: str, paper: bool) -> Text:
    """What the columns mean, who was set aside, where the paper's numbers come from."""
    metrics: dict[str, str] = results["tasks"][task]["metrics"]
    rows = [row for row in results["rows"] if row["task"] == task]
    primary = next(iter(metrics.values()))
    lower = "" if rows[0]["higher_is_better"] else " (lower is better)"
    lines = [
        f"{counts_text(rows)}. Brackets: 95 % intervals over users. Δ: {primary}{lower}, "
        "positive is better; * p < 0.05, not adjusted for the number of comparisons.",
        "+/=/−: users better, equal, worse than non_personalized. Dim rows use no language model.",
    ]
    for method, user_ids in results["set_aside"][task].items():
        lines.append(f"{method}: {len(user_ids)} user(s) set aside; compared on the users it has answered.")
    lines += results.get("notes", {}).get(task, [])
    if paper:
        lines.append(f"paper: {SOURCE}.")
    return Text("\n".join(lines) + "\n", style="dim")
