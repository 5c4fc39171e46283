"""The comparison as a terminal table, one per task.

A row takes two lines: the value, and below it, dimmed, its interval. Wide terminals (100 columns) show
everything; narrower ones drop the secondary metric's interval (or the metric) and the counts.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from oppu_eval.reporting.paper import SOURCE, paper_value
from oppu_eval.scoring.evaluate import split_model
from oppu_eval.scoring.results import Results, ScoreRow, TaskResults

_WIDE = 100


@dataclasses.dataclass(frozen=True)
class ResultsTable:
    """What :func:`render_table` returns: rich asks it to draw itself for the width at hand."""

    results: Results
    paper: bool

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Yield one table and its notes per task."""
        for one in self.results.tasks.values():
            yield _task_table(one, wide=options.max_width >= _WIDE, paper=self.paper)
            yield ""
            for warning in one.warnings:
                yield Text(warning, style="yellow")
            yield _notes(one, paper=self.paper)


def render_table(results: Results, paper: bool = False) -> ResultsTable:
    """A rich renderable with one table per task.

    Args:
        results: What was scored.
        paper: Add a column with the numbers that the OPPU paper published.
    """
    return ResultsTable(results, paper)


def counts_text(one: TaskResults) -> str:
    """How much was scored: ``10 users, 100 queries``, of several rows the most."""
    users, queries = max((row.users or 0, row.queries) for row in one.rows)
    asked = f"{queries} {'query' if queries == 1 else 'queries'}"
    return f"{users} {'user' if users == 1 else 'users'}, {asked}" if users else asked


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


def _interval(ci95: tuple[float, float] | None, show: Callable[[float], str] = number) -> str:
    return "" if ci95 is None else f"[{show(ci95[0])}, {show(ci95[1])}]"


def _value_cell(row: ScoreRow, interval: bool, style: str) -> Text:
    text = Text(number(row.value), style=style)
    if interval and row.ci95 is not None:
        text.append("\n" + _interval(row.ci95), style="dim not bold")
    return text


def _delta_cell(
    delta: float | None, ci95: tuple[float, float] | None, p_value: float | None, reference: bool
) -> Text:
    """The difference, its p-value with a star below 0.05, and its interval below."""
    if delta is None or p_value is None:
        return Text("–", style="dim")
    significant = p_value < 0.05
    colour = ("green" if delta > 0 else "red") if significant and not reference else ""
    text = Text(signed(delta), style=colour)
    text.append(f" {p_text(p_value)}{'*' if significant else ' '}", style="dim" if reference else "")
    return text.append("\n" + _interval(ci95, signed) + " ", style="dim")


def _wins_cell(row: ScoreRow) -> Text:
    wins = row.wins
    return Text("–" if wins is None else f"{wins['better']}/{wins['equal']}/{wins['worse']}")


def _paper_cell(paper_id: str, method: str, metrics: Sequence[str]) -> Text:
    values = [paper_value(paper_id, split_model(method)[0], metric) for metric in metrics]
    return Text("\n".join(number(value) for value in values if value is not None) or "–", style="dim")


def _task_table(one: TaskResults, wide: bool, paper: bool) -> Table:
    metrics, primary, methods, best = one.metrics, one.primary, one.by_method(), one.best_method()
    shown = [metric for metric in metrics if wide or not paper or metric == primary]
    if not wide and len(metrics) > 2:
        shown = shown[::2]  # of ROUGE by script and the official one, a column each
    table = Table(
        title=f"{escape(one.title)} ({escape(one.task)})",
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
        style = "dim" if row.reference else "bold" if method == best else ""
        cells: list[Text] = [Text(method, style=style)]
        for metric in shown:
            cells.append(_value_cell(by_metric[metric], wide or metric == primary, style))
        cells += [
            _delta_cell(row.delta, row.delta_ci95, row.p_value, row.reference),
            _delta_cell(
                row.delta_same_prompt, row.delta_same_prompt_ci95, row.p_value_same_prompt, row.reference
            ),
            _wins_cell(row),
        ]
        if wide:
            cells.append(Text(f"{row.users or '–'}\n{row.queries}", style="dim"))
        if paper:
            cells.append(_paper_cell(one.paper_id, method, shown))
        following = methods[names[position + 1]][primary] if position + 1 < len(names) else row
        end_section = _section(row) != _section(following)
        table.add_row(*cells, style="dim" if row.reference else "", end_section=end_section)
    return table


def _section(row: ScoreRow) -> tuple[bool, str]:
    """References, the run's own methods, and each other model's stand apart."""
    return row.reference, split_model(row.method)[1]


def _notes(one: TaskResults, paper: bool) -> Text:
    """What the columns mean, who was set aside, where the paper's numbers come from."""
    lower = "" if one.higher_is_better else " (lower is better)"
    lines = [
        f"{counts_text(one)}. Brackets: 95 % intervals over users. Δ: {one.primary_title}{lower}, "
        "positive is better; * p < 0.05, not adjusted for the number of comparisons.",
        "+/=/−: users better, equal, worse than non_personalized. Dim rows use no language model.",
    ]
    for method, user_ids in one.set_aside.items():
        lines.append(f"{method}: {len(user_ids)} user(s) set aside; compared on the users it has answered.")
    lines += one.notes
    if paper:
        lines.append(f"paper: {SOURCE}.")
    return Text("\n".join(lines) + "\n", style="dim")
