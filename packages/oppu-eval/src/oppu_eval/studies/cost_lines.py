"""Summarizing measured training times: medians, fitted lines, sentences and the picture (Figure 8)."""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from oppu_eval.reporting.drawing import ACCENT, INK, MUTED, WORSE, make_panels
from oppu_eval.studies.result import Column, Picture, Result, Table
from oppu_eval.studies.training_times import ITEMS, WORDS, Axis, Point

# How a task is drawn: colour, marker, line.
_STYLES = (
    (ACCENT, "o", "-"),
    (WORSE, "s", "--"),
    (INK, "^", "-."),
    (MUTED, "D", ":"),
    (ACCENT, "v", (0, (6, 2))),
    (WORSE, "P", (0, (1, 1))),
    (INK, "X", (0, (4, 1, 1, 1, 1, 1))),
)
_MARK: dict[str, Any] = {"markersize": 5.5, "markeredgewidth": 0}


def merged(points: Iterable[Point]) -> list[Point]:
    """Merge the repeats of each training into one point; tasks keep their order, sizes are sorted."""
    seconds: dict[Point, tuple[float, ...]] = {}
    for point in points:
        seconds[point.shape] = (*seconds.get(point.shape, ()), *point.seconds)
    tasks = list(dict.fromkeys(shape.task for shape in seconds))
    order = sorted(seconds, key=lambda shape: (tasks.index(shape.task), shape.axis, shape.size))
    return [dataclasses.replace(shape, seconds=seconds[shape]) for shape in order]


@dataclasses.dataclass(frozen=True)
class Fit:
    """A least-squares line: slope in seconds per unit of size, seconds at size 0, and R²."""

    slope: float
    intercept: float
    r2: float


def fit(x: Sequence[float], seconds: Sequence[float]) -> Fit:
    """Fit a least-squares line.

    Raises:
        ValueError: there are fewer than two sizes.
    """
    if len(set(x)) < 2:
        raise ValueError(f"a line needs two sizes; there are only {sorted(set(x))}")
    slope, intercept = np.polyfit(x, seconds, 1)
    rest = np.asarray(seconds) - (slope * np.asarray(x) + intercept)
    spread = float(np.var(seconds)) * len(seconds)
    r2 = 1 - float(rest @ rest) / spread if spread else 1.0
    return Fit(float(slope), float(intercept), r2)


def result(points: Sequence[Point]) -> Result:
    """The result of measured points, which need at least two sizes for each task and axis."""
    points = merged(points)
    series = _series(points)
    columns = [
        Column("task", "task"),
        Column("axis", "varied"),
        Column("items", "items", "count"),
        Column("words", "words an item", "count"),
        Column("tokens", "tokens", "count"),
        Column("steps", "steps", "count"),
        Column("seconds", "median, s", "number"),
        Column("fastest", "fastest, s", "number"),
        Column("slowest", "slowest, s", "number"),
        Column("repeats", "repeats", "count"),
    ]
    rows = [
        {
            **point.to_json(),
            "seconds": point.median,
            "fastest": min(point.seconds),
            "slowest": max(point.seconds),
            "repeats": len(point.seconds),
        }
        for point in points
    ]
    findings = [_finding(task, axis, some, line) for (task, axis), (some, line) in series.items()]

    unsteady = sum(max(point.seconds) > 1.5 * min(point.seconds) for point in points)
    if unsteady:
        findings.append(
            f"At {unsteady} of {len(points)} sizes the slowest repeat took over 1.5 times as long as "
            "the fastest: something else kept the machine busy. Measure again when nothing else runs."
        )
    findings.append(
        "The paper finds that the time grows linearly with the items, and in a way more like linear than "
        "quadratic with the words of an item (Appendix B; its Figure 8 prints no numbers)."
    )
    notes = [
        "One user is trained alone, by the trainer of many; in a cohort a user takes less. "
        "Timed are the steps with their packing, and copying the adapter out; not loading the base, making "
        "prompts or writing files.",
        "The items are random words of the data. An item's words are those of all its fields that training "
        "reads, the answer included: a label, or a tenth of the words where answers are written. Tokens are "
        "those of all epochs, with the instruction once for each item; the trainer computes what a batch's "
        "examples begin with once.",
        "Tasks may have different epochs and batch sizes, and a step has its price whatever is in it: slopes "
        "of different tasks do not compare. Seconds are those of one machine and differ from one measurement "
        "to the next; tokens and steps do not.",
        "Repeats come in rounds of all sizes, each in another order; lines are fitted to the medians.",
    ]
    label = "Training time of one user's adapter against items and against words, with fitted lines"
    caption = (
        "Seconds that one user's adapter takes to train, against the number of history items and against "
        "their length. Marks are medians of the repeats, whiskers reach from the fastest to the slowest, "
        "lines are fitted by least squares, with their slope beside them."
    )
    return Result(
        findings,
        Table(columns, rows),
        [Picture("cost", label, caption, draw(points))],
        notes,
        {
            "fits": [
                {"task": task, "axis": axis, **dataclasses.asdict(line)}
                for (task, axis), (_, line) in series.items()
            ]
        },
    )


def _series(points: Sequence[Point]) -> dict[tuple[str, Axis], tuple[list[Point], Fit]]:
    """The merged points of each task and axis, and their line."""
    groups: dict[tuple[str, Axis], list[Point]] = {}
    for point in points:
        groups.setdefault((point.task, point.axis), []).append(point)
    return {
        key: (group, fit([point.size for point in group], [point.median for point in group]))
        for key, group in groups.items()
    }


def _finding(task: str, axis: Axis, points: Sequence[Point], line: Fit) -> str:
    """What a line says, as a sentence."""
    if line.slope <= 0:
        manner = "does not grow"
    elif line.r2 >= 0.98:
        manner = "grows linearly"
    elif line.r2 >= 0.9:
        manner = "grows nearly linearly"
    else:
        manner = "grows, but hardly along a line,"
    what = "number of items" if axis == "items" else "words of an item"
    each = (
        f"item of {points[0].words} words" if axis == "items" else f"word in each of {points[0].items} items"
    )
    text = (
        f"{task}: training time {manner} with the {what} (R² {line.r2:.3f}): {_duration(line.slope)} for "
        f"each {each}; the line begins at {_duration(line.intercept)}."
    )
    median = {point.size: point.median for point in points}
    if doubled := [size for size in median if 2 * size in median]:
        size = max(doubled)
        text += f" {2 * size} {axis} take {median[2 * size] / median[size]:.2f} times as long as {size}."
    return text


def _duration(seconds: float) -> str:
    """A time with three digits; in milliseconds below a tenth of a second."""
    value, unit = (seconds, "s") if abs(seconds) >= 0.1 else (1000 * seconds, "ms")
    digits = f"{value:#.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{digits.rstrip('.')} {unit}".replace("-", "−")


def draw(points: Sequence[Point]) -> Any:
    """Draw time against items and against words: medians, ranges and fitted lines of each task."""
    series = _series(merged(points))
    tasks = list(dict.fromkeys(task for task, _ in series))
    styles = dict(zip(tasks, itertools.cycle(_STYLES), strict=False))
    height, top, bottom = 3.0, 0.25, 0.5
    right = 0.4 + 0.075 * (max(map(len, tasks)) + len(", 00.0 ms an item"))
    figure, panels = make_panels(2, height, left=0.6, right=right, top=top, bottom=bottom, extra=0.3)
    titles: dict[Axis, tuple[str, str]] = {
        "items": (f"items in the history, {WORDS} words each", "an item"),
        "words": (f"words of an item, {ITEMS} items", "a word"),
    }
    for axes, (axis, (title, each)) in zip(panels, titles.items(), strict=True):
        lines = {task: some for (task, varied), some in series.items() if varied == axis}
        ends = {}
        for task, (shown, line) in lines.items():
            colour, marker, dashes = styles[task]
            x = np.array([point.size for point in shown])
            axes.plot(x, line.slope * x + line.intercept, color=colour, linestyle=dashes, linewidth=1.4)
            low, high = ([end(point.seconds) for point in shown] for end in (min, max))
            axes.vlines(x, low, high, color=colour, linewidth=1.4)
            axes.plot(x, [point.median for point in shown], marker, color=colour, **_MARK)
            ends[task] = float(line.slope * x.max() + line.intercept)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        gap = axes.get_ylim()[1] * 0.17 / (height - top - bottom)  # the height of a line of text, in seconds
        lowest = 0.0
        for task in sorted(ends, key=ends.__getitem__):
            colour, marker, _ = styles[task]
            y = max(ends[task], lowest)
            lowest = y + gap
            axes.plot(
                1.03, y, marker, color=colour, transform=axes.get_yaxis_transform(), clip_on=False, **_MARK
            )
            axes.annotate(
                f"{task}, {_duration(lines[task][1].slope)} {each}",
                (1.03, y), xycoords=("axes fraction", "data"), xytext=(7, 0), textcoords="offset points",
                va="center", color=colour, annotation_clip=False,
            )  # fmt: skip
        axes.set_xlabel(title)
        axes.set_ylabel("training time of one user (s)")
    return figure
