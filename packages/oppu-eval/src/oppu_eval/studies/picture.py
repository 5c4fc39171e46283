"""The picture of most studies: scores of several methods over a few settings, one panel per task.

The marker shows a method's prompt (circle: no history; square: retrieved items; triangle: a profile), and a
filled marker on a solid line means the personal adapter, so that the picture can be read without colour.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from oppu_core.prompting.methods import parse_method

from oppu_eval.reporting.drawing import ACCENT, GRID, INK, MUTED, PAPER, heading, make_panels

READING = (
    "Filled markers have the personal adapter, open ones do not; squares are prompts with retrieved items, "
    "circles the query alone. Whiskers are 95 % intervals over users."
)
_SYMBOLS = {("o", True): "●", ("o", False): "○", ("s", True): "■", ("s", False): "□",
            ("^", True): "▲", ("^", False): "△", ("D", False): "◇"}  # fmt: skip
Value = tuple[float, tuple[float, float] | None]  # a score and its interval


@dataclasses.dataclass(frozen=True)
class Series:
    """Values that are joined by a line.

    Attributes:
        label: Its name in the picture.
        method: Decides its colour and marker.
        values: One value per setting; None if missing.
    """

    label: str
    method: str
    values: Sequence[Value | None]


@dataclasses.dataclass(frozen=True)
class Panel:
    """One task's panel.

    Attributes:
        title: Its title.
        y: What is measured, with its direction if lower is better.
        settings: The settings along the x axis.
        series: The lines.
        level: A method that does not depend on the setting, drawn as a horizontal line: (name, value).
    """

    title: str
    y: str
    settings: Sequence[str]
    series: Sequence[Series]
    level: tuple[str, float] | None = None


def draw_settings(panels: Sequence[Panel], x: str, *, joined: bool = True) -> Any:
    """Draw panels side by side.

    Args:
        panels: The panels.
        x: What the settings are, with their unit.
        joined: Whether to join a method's values by a line, if the settings have an order.
    """
    names = [series.label for panel in panels for series in panel.series]
    names += [panel.level[0] for panel in panels if panel.level]
    right = 0.45 + 0.072 * max(map(len, names))
    figure, axes = make_panels(
        len(panels), 3.1, left=0.55, right=right, top=0.4, bottom=0.62, extra=right - 1.2, columns=2
    )
    for one, panel in zip(axes, panels, strict=True):
        _draw(one, panel, x, joined)
    return figure


def look(method: str) -> dict[str, Any]:
    """A method's colour, line and marker."""
    parsed = parse_method(method)
    marker = "^" if parsed.profile else "D" if parsed.retriever == "random" else "s" if parsed.k else "o"
    colour = ACCENT if parsed.adapter else INK if parsed.k or parsed.profile else MUTED
    return {
        "color": colour,
        "marker": marker,
        "linestyle": "-" if parsed.adapter else (0, (4, 2)),
        "markerfacecolor": colour if parsed.adapter else PAPER,
        "markeredgecolor": colour,
    }


def symbol(method: str) -> str:
    """A method's marker as a character, for its label."""
    style = look(method)
    return _SYMBOLS[style["marker"], style["markerfacecolor"] == style["color"]]


def _draw(axes: Any, panel: Panel, x: str, joined: bool) -> None:
    count = len(panel.series)
    ends: dict[str, tuple[float, str]] = {}
    for place, series in enumerate(panel.series):
        offset = (place - (count - 1) / 2) * min(0.12, 0.5 / max(count, 1))
        points = [(index + offset, *value) for index, value in enumerate(series.values) if value is not None]
        if not points:
            continue
        style = look(series.method)
        for at, _, interval in points:
            if interval is not None:
                axes.plot([at, at], interval, color=style["color"], linewidth=1.1, solid_capstyle="round")
        line = {**style, "linestyle": style["linestyle"] if joined else "none"}
        axes.plot(
            [at for at, *_ in points], [value for _, value, _ in points], markersize=6, linewidth=1.5, **line
        )
        ends[f"{symbol(series.method)} {series.label}"] = (points[-1][1], style["color"])
    if panel.level:
        name, value = panel.level
        axes.axhline(value, color=MUTED, linewidth=1.1, linestyle=(0, (1, 2)), zorder=0)
        ends[f"··· {name}"] = (value, MUTED)
    axes.set_xlim(-0.5, len(panel.settings) - 0.5)
    axes.set_xticks(range(len(panel.settings)), panel.settings, color=INK)
    axes.margins(y=0.08)
    axes.grid(axis="y", color=GRID, linewidth=0.5, alpha=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="both", length=0)
    axes.set_xlabel(x)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.2g}")
    heading(axes, f"{panel.title}: {panel.y}")
    label_ends(axes, ends)


def label_ends(axes: Any, ends: Mapping[str, tuple[float, str]]) -> None:
    """Write names at the right edge, each as near to its value as the others allow."""
    if not ends:
        return
    low, high = axes.get_ylim()
    height = axes.get_position().height * axes.figure.get_size_inches()[1]
    gap = (high - low) * 0.17 / height
    names = sorted(ends, key=lambda name: ends[name][0])
    places = np.array([ends[name][0] for name in names])
    for _ in range(200):  # neighbours that are too close push each other apart
        for index in range(len(places) - 1):
            if (lack := gap - (places[index + 1] - places[index])) > 1e-12:
                places[index] -= lack / 2
                places[index + 1] += lack / 2
    for name, place in zip(names, places, strict=True):
        axes.annotate(
            name, (1.0, place), xycoords=("axes fraction", "data"), xytext=(7, 0), textcoords="offset points",
            va="center", color=ends[name][1], fontsize=9, annotation_clip=False,
        )  # fmt: skip
