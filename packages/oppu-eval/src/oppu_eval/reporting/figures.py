"""The report's pictures, as SVG text made from results alone (style: :mod:`.drawing`)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from oppu_eval.reporting.drawing import (
    ACCENT,
    GRID,
    INK,
    MUTED,
    WORSE,
    heading,
    make_panels,
    remark,
    svg_text,
)
from oppu_eval.reporting.method_titles import title_of
from oppu_eval.scoring.evaluate import same_prompt, split_model
from oppu_eval.scoring.results import Results, ScoreRow, TaskResults


def draw_figures(results: Results) -> dict[str, str]:
    """All pictures of a report: {"<task>/comparison", "<task>/differences", "<task>/history": SVG text}.

    The last two are absent where no OPPU method was compared with its own prompt.
    """
    figures = {}
    for task, one in results.tasks.items():
        figures[f"{task}/comparison"] = comparison([one])
        if pair := personal_pair(one):
            figures[f"{task}/differences"] = differences(one, *pair)
            figures[f"{task}/history"] = against_history(one, *pair)
    return figures


def personal_pair(one: TaskResults) -> tuple[str, str] | None:
    """The first OPPU method of a task that was compared with its own prompt, and that prompt's method."""
    for method, row in one.primary_rows().items():
        baseline = same_prompt(method) if method.startswith("oppu_") else None
        if baseline is not None and row.delta_same_prompt is not None:
            return method, baseline
    return None


def comparison(tasks: Sequence[TaskResults]) -> str:
    """Every method's primary metric with its interval, one panel a task."""
    shown = [list(one.primary_rows().values()) for one in tasks]
    rows = max(map(len, shown))
    height = 0.27 * rows + 0.85
    labels = [_label(row) for of_task in shown for row in of_task]
    left = max(1.5, *(0.2 + _room(label) for label in labels))
    figure, panels = make_panels(
        len(tasks), height, left=left, right=0.55, top=0.35, bottom=0.5, extra=left - 1.5
    )
    for axes, one in zip(panels, tasks, strict=True):
        _comparison_panel(axes, one, rows)
    names = "-".join(one.task for one in tasks)
    return svg_text(figure, f"comparison-{names}", "Methods with 95 % intervals")


def _comparison_panel(axes: Any, one: TaskResults, slots: int) -> None:
    rows = sorted(one.primary_rows().values(), key=lambda row: row.reference)  # as in the table
    shown = slots - len(rows)  # panels side by side share their row height
    for position, row in enumerate(rows):
        y = -position
        colour = MUTED if row.reference else ACCENT if row.method.startswith("oppu_") else INK
        if row.method in ("oracle", "user_majority", "user_classifier", "global_majority"):
            axes.axvline(row.value, color=GRID, linewidth=0.8, linestyle=(0, (3, 3)), zorder=0)
        if row.ci95 is not None:
            width = 1.2 if row.reference else 2.2
            axes.plot(row.ci95, [y, y], color=colour, linewidth=width, solid_capstyle="round")
        if row.reference:
            axes.plot(row.value, y, "D", color=colour, markersize=4)
        else:
            axes.plot(row.value, y, "o", color=colour, markersize=6.5)
        axes.annotate(
            f"{row.value:.3f}",
            (1.0, y),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            annotation_clip=False,
        )
    models = sum(not row.reference for row in rows)
    if 0 < models < len(rows):
        axes.axhline(0.5 - models, color=GRID, linewidth=0.8, xmin=-0.4, clip_on=False)
    axes.set_yticks([-position for position in range(len(rows))], [_label(row) for row in rows])
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        personal = row.method.startswith("oppu_")
        label.set_color(MUTED if row.reference else ACCENT if personal else INK)
    axes.set_ylim(0.6 - len(rows) - shown, 0.6)
    axes.margins(x=0.04)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0, pad=8)
    direction = "" if one.higher_is_better else ", lower is better"
    axes.set_xlabel(f"{one.primary_title}{direction}")
    heading(axes, one.title)


def _label(row: ScoreRow) -> str:
    """A row's name for people; where it cannot be compared with the others, that is in it."""
    title = title_of(row.method)
    return f"{title}, {row.queries} queries" if row.other_queries else title


def _room(label: str) -> float:
    """The width of a label, in inches."""
    return 0.1 + 0.075 * len(label)


def differences(one: TaskResults, method: str, baseline: str) -> str:
    """One bar a user: an OPPU method minus the same prompt without the adapter, sorted; up is better."""
    values = sorted(one.gains(method, baseline).values(), reverse=True)
    figure, (axes,) = make_panels(1, 2.7, left=0.6, right=0.1, top=0.55, bottom=0.3)
    positions = np.arange(len(values))
    colours = [ACCENT if value > 0 else WORSE for value in values]
    axes.bar(positions, values, width=0.72 if len(values) <= 60 else 1.0, color=colours, linewidth=0)
    axes.axhline(0, color=INK, linewidth=0.8)
    better, worse = sum(value > 1e-9 for value in values), sum(value < -1e-9 for value in values)
    equal = len(values) - better - worse
    axes.plot(
        positions[better : better + equal],
        [0] * equal,
        "o",
        color=MUTED,
        markersize=3,
        clip_on=False,
        zorder=3,
    )
    axes.set_xlim(-0.6, max(len(values), 12) - 0.4)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:+.2g}".replace("-", "−") if value else "0")
    axes.margins(y=0.08)
    turned = " (sign turned)" if one.sign < 0 else ""
    ours, same = title_of(split_model(method)[0]), title_of(baseline)
    heading(axes, f"{ours} minus {same}, {one.primary_title}{turned}", lift=20)
    x = 0.0
    for count, word, colour in ((better, "better", ACCENT), (equal, "equal", MUTED), (worse, "worse", WORSE)):
        text = f"{count} {word}"
        remark(axes, x, text, colour if count else MUTED)
        x += 0.18 + 0.015 * len(str(count))
    axes.set_xlabel(f"{len(values)} users, each a bar", labelpad=4)
    return svg_text(figure, f"differences-{one.task}", "Difference for each user")


def against_history(one: TaskResults, method: str, baseline: str) -> str:
    """Each user's score with and without the adapter over the length of the history, and binned means."""
    scores, lengths = one.per_user, one.history_lengths
    users = sorted(one.gains(method, baseline), key=lambda user: (lengths[user], user))
    x = np.array([max(lengths[user], 1) for user in users], dtype=float)
    with_adapter, without = (np.array([scores[name][user] for user in users]) for name in (method, baseline))
    names = title_of(baseline), title_of(method)
    right = max(1.3, *map(_room, names))
    figure, (axes,) = make_panels(1, 2.7, left=0.5, right=right, top=0.35, bottom=0.5, extra=right - 1.3)
    axes.vlines(x, without, with_adapter, color=GRID, linewidth=0.9, alpha=0.7, zorder=1)
    axes.plot(x, without, "o", color=INK, markersize=3.6, alpha=0.7, markeredgewidth=0)
    axes.plot(x, with_adapter, "o", color=ACCENT, markersize=4.2, alpha=0.8, markeredgewidth=0)
    ends = []
    bins = list(np.array_split(np.arange(len(users)), min(4, max(1, len(users) // 3))))
    centres = [float(np.exp(np.log(x[part]).mean())) for part in bins]
    for values, colour in ((without, INK), (with_adapter, ACCENT)):
        means = [float(values[part].mean()) for part in bins]
        axes.plot(centres, means, color=colour, linewidth=2, alpha=0.9, solid_capstyle="round", zorder=3)
        ends.append(means[-1])
    if x.max() > 4 * x.min():
        axes.set_xscale("log")
    axes.margins(x=0.05, y=0.08)
    ticks = _length_ticks(float(x.min()), float(x.max()))
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    gap = 0.09 * float(np.subtract(*axes.get_ylim()[::-1]))
    middle = sum(ends) / 2
    if abs(ends[1] - ends[0]) < gap:
        upward = 1 if ends[1] >= ends[0] else -1
        ends = [middle - upward * gap / 2, middle + upward * gap / 2]
    for name, y, colour in zip(names, ends, (INK, ACCENT), strict=True):
        axes.annotate(
            name, (1.0, y), xycoords=("axes fraction", "data"), xytext=(6, 0), textcoords="offset points",
            va="center", color=colour, annotation_clip=False,
        )  # fmt: skip
    axes.set_xlabel("items in the user's history")
    heading(axes, f"{one.primary_title} per user" + ("" if one.higher_is_better else ", lower is better"))
    return svg_text(figure, f"history-{one.task}", "Score against length of history")


def _length_ticks(low: float, high: float) -> list[float]:
    """Round numbers (1, 2, 3, 5 times a power of ten) within the range, or its ends."""
    rounds = [step * 10**power for power in range(7) for step in (1, 2, 3, 5)]
    ticks = [float(tick) for tick in rounds if low <= tick <= high]
    return ticks if len(ticks) > 1 else sorted({low, high})
