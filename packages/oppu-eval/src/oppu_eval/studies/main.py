"""Table 1: every method on every task, with and without the personal adapter."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from oppu_core.prompting.methods import parse_method

from oppu_eval.reporting.drawing import ACCENT, GRID, heading, make_panels
from oppu_eval.reporting.paper import paper_significant, paper_value
from oppu_eval.scoring.evaluate import NON_PERSONALIZED, same_prompt
from oppu_eval.scoring.metrics import Metric, metrics_for
from oppu_eval.studies.context import Done, StudyContext, Work
from oppu_eval.studies.picture import look
from oppu_eval.studies.result import Column, Picture, Result, Table
from oppu_eval.studies.scoring import COUNT_COLUMNS, VALUE_COLUMNS, difference, difference_columns
from oppu_eval.studies.study import Plain

METHODS = (
    "non_personalized", "random_k1", "rag_k1", "rag_k2", "rag_k4", "pag_k0", "pag_k1",
    "oppu_k0", "oppu_rag_k1", "oppu_rag_k2", "oppu_rag_k4", "oppu_pag_k0", "oppu_pag_k1",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Main(Plain):
    """All thirteen columns, each personal one tested against the same prompt without the adapter."""

    name: ClassVar[str] = "main"
    title: ClassVar[str] = "All methods side by side"
    question: ClassVar[str] = "How well does each method answer, and does the adapter add to the same prompt?"
    paper: ClassVar[str] = (
        "Paper, Table 1: the adapter helps in every prompt on nearly every task, and best are adapters with "
        "retrieval or a profile (Llama-2-7B, official LaMP: compare directions, not levels)."
    )

    def works(self, context: StudyContext) -> Sequence[Work]:
        """One run with thirteen methods."""
        return [context.work("main", METHODS)]

    def conclude(self, context: StudyContext, done: Mapping[str, Done]) -> Result:
        """Scores, and paired tests over users."""
        seed = context.config.seed
        rows: list[dict[str, Any]] = []
        findings = []
        for task in context.tasks:
            about = context.dataset(task).task
            for number, metric in enumerate(metrics_for(about)):
                scored = {m: one for m in METHODS if (one := done["main"].score(task, m, metric))}
                for method, one in scored.items():
                    plain = scored.get(NON_PERSONALIZED) if method != NON_PERSONALIZED else None
                    prompt = scored.get(same_prompt(method) or "")
                    rows.append(
                        {
                            "task": task,
                            "method": method,
                            "metric_title": metric.title,
                            **one.row(seed),
                            **difference(one.against(plain, seed) if plain else None),
                            **difference(one.against(prompt, seed) if prompt else None, "same_prompt"),
                            "paper": paper_value(about.paper_id, method, metric.name),
                            "paper_significant": paper_significant(about.paper_id, method, metric.name),
                            "shown": number == 0,
                        }
                    )
            findings.append(_finding(task, [row for row in rows if row["task"] == task and row["shown"]]))
        columns = [
            Column("task", "task"),
            Column("method", "method"),
            Column("metric_title", "metric", shown=False),
            *VALUE_COLUMNS,
            *difference_columns("to non-\npersonalized"),
            *difference_columns("to same prompt,\nno adapter", "same_prompt"),
            *COUNT_COLUMNS,
            Column("paper", "paper", "score"),
            Column("paper_significant", "marked in the paper", shown=False),
        ]
        panels = []
        for task in context.tasks:
            about = context.dataset(task).task
            shown = {row["method"]: row for row in rows if row["task"] == task and row["shown"]}
            panels.append((about.title, metrics_for(about)[0], shown))
        picture = Picture(
            "main",
            "Every prompt without and with the personal adapter",
            "A row is a prompt. Open markers: the task base alone; filled ones: with the user’s own adapter. "
            "Whiskers are 95 % intervals over users; a star marks a paired p < 0.05 against the same prompt.",
            draw(panels),
        )
        notes = [
            "Differences are signed so that positive is better; p-values are of the paired randomization "
            "test over users, not adjusted for the number of comparisons."
        ]
        return Result(findings, Table(columns, rows), [picture], notes)


def _finding(task: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """How often the adapter helps, and which method is ahead."""
    tested = [row for row in rows if row["same_prompt"] is not None]
    better = [row for row in tested if row["same_prompt_p"] < 0.05 and row["same_prompt"] > 0]
    worse = [row for row in tested if row["same_prompt_p"] < 0.05 and row["same_prompt"] < 0]
    sign = -1 if rows[0]["metric"] in ("mae", "rmse") else 1
    best = max(rows, key=lambda row: sign * row["value"])
    harm = f", and does harm in {len(worse)}" if worse else ""
    return (
        f"{task}: the adapter improves on the same prompt in {len(better)} of {len(tested)} prompts "
        f"(paired p < 0.05){harm}. Ahead is {best['method']} with {best['metric_title']} {best['value']:.3f}."
    )


def draw(tasks: Sequence[tuple[str, Metric, Mapping[str, Mapping[str, Any]]]]) -> Any:
    """Draw one panel per task: (title, metric, rows by method)."""
    prompts = [method for method in METHODS if not parse_method(method).personal]
    height = 0.34 * len(prompts) + 0.95
    figure, panels = make_panels(
        len(tasks), height, left=1.35, right=0.25, top=0.4, bottom=0.5, extra=0.2, columns=2
    )
    for axes, (title, metric, rows) in zip(panels, tasks, strict=True):
        for place, prompt in enumerate(prompts):
            pair = [rows[m] for m in METHODS if m in rows and prompt in (m, same_prompt(m))]
            if len(pair) == 2:
                ends = [row["value"] for row in pair]
                axes.plot(ends, [-place, -place], color=GRID, linewidth=3, zorder=1, solid_capstyle="round")
            for row in pair:
                y = -place + (0 if len(pair) < 2 else 0.13 if row["method"] == prompt else -0.13)
                _mark(axes, row, y)
        axes.set_yticks([-place for place in range(len(prompts))], [_prompt_name(name) for name in prompts])
        axes.set_ylim(0.6 - len(prompts), 0.85)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0, pad=6)
        axes.grid(axis="x", color=GRID, linewidth=0.5, alpha=0.6)
        axes.set_axisbelow(True)
        axes.set_xlabel(metric.title + ("" if metric.higher_is_better else ", lower is better"))
        heading(axes, title)
    if tasks:  # named where they are, in the first row
        _, _, rows = tasks[0]
        for method, words in ((NON_PERSONALIZED, "no adapter"), ("oppu_k0", "with adapter")):
            if method in rows:
                panels[0].annotate(
                    words, (rows[method]["value"], 0.13 if words == "no adapter" else -0.13), xytext=(0, 9),
                    textcoords="offset points", ha="center", color=look(method)["color"], fontsize=9,
                )  # fmt: skip
    return figure


def _mark(axes: Any, row: Mapping[str, Any], y: float) -> None:
    """Draw a method's value with its interval, and a star if the adapter makes a difference."""
    style = {**look(row["method"]), "linestyle": "none"}
    if row["ci95"] is not None:
        axes.plot(row["ci95"], [y, y], color=style["color"], linewidth=1.1)
    axes.plot(row["value"], y, markersize=6.5, zorder=3, **style)
    if row["same_prompt_p"] is not None and row["same_prompt_p"] < 0.05:
        axes.annotate(
            "*", (row["value"], y), xytext=(0, -11), textcoords="offset points", ha="center", color=ACCENT,
            fontsize=11, fontweight="bold",
        )  # fmt: skip


def _prompt_name(method: str) -> str:
    parsed = parse_method(method)
    if method == NON_PERSONALIZED:
        return "query alone"
    kind = "profile" if parsed.profile else "random" if parsed.retriever == "random" else "retrieved"
    return f"{kind}, k={parsed.k}"
