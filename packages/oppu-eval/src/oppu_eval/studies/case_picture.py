"""Cases to read as a picture: one row per case, one column per method."""

from collections.abc import Mapping, Sequence
from typing import Any

from oppu_core.tasks.task import Kind
from oppu_core.texts import shorten

from oppu_eval.reporting.drawing import ACCENT, GRID, INK, MUTED, WIDTH, heading, make_panels
from oppu_eval.reporting.table import number
from oppu_eval.scoring.evaluate import method_order
from oppu_eval.studies.case_content import Asked, Case, verdict

_CELL, _SLANT = 0.5, 0.95  # inches: the width of a method's column, and the height of its slanted name
_KEYS = {
    "classification": "filled: as the user; empty: another",
    "rating": "filled: as the user; empty: off by so much",
    "generation": "ROUGE-1; a full bar is 1",
}


def draw(cases_by_task: Mapping[str, Sequence[Case]], titles: Mapping[str, str] | None = None) -> Any:
    """Draw a panel for each task with cases (titled by `titles`): one row per case, one column per method.

    A filled circle is the user's own answer, an empty one another; for ratings the error is beside it. For
    texts the score is above a bar of its length. Without any case there is a sentence instead.
    """
    panels_of = {task: cases for task, cases in cases_by_task.items() if cases}
    if not panels_of:
        figure, (axes,) = make_panels(1, 0.6, left=0.1, right=0.1, top=0.4, bottom=0.1)
        axes.set_axis_off()
        heading(axes, "All methods have the same score on every query", lift=0)
        return figure
    methods = max(len(_methods(cases)) for cases in panels_of.values())
    rows = max(len(cases) + len({_side(case) for case in cases}) for cases in panels_of.values())
    beside = [text for cases in panels_of.values() for case in cases for text in (_label(case), _side(case))]
    left, right, top, bottom = 0.3 + 0.08 * max(map(len, beside)), 0.85, 0.45 + _SLANT, 0.4
    figure, panels = make_panels(
        len(panels_of),
        top + 0.27 * rows + bottom,
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        extra=left + _CELL * methods + right - WIDTH,
        columns=2 if methods <= 8 else 1,
    )
    for axes, (task, cases) in zip(panels, panels_of.items(), strict=True):
        _panel(axes, cases, methods, rows, (titles or {}).get(task, task))
    return figure


def _methods(cases: Sequence[Case]) -> list[str]:
    return sorted({asked.method for case in cases for asked in case.asked}, key=method_order)


def _label(case: Case) -> str:
    return f"{_plain(case.user_id, 14)}: {_plain(case.gold, 22)}"


def _side(case: Case) -> str:
    return "Adapter helps" if case.gain > 0 else "Adapter harms" if case.gain < 0 else "Other differences"


def _panel(axes: Any, cases: Sequence[Case], columns: int, rows: int, title: str) -> None:
    methods = _methods(cases)
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(0.5 - rows, 0.5)
    axes.set_axis_off()
    for x, method in enumerate(methods):
        axes.annotate(
            method, (x, 0.5), xytext=(-4, 0), textcoords="offset points", rotation=40, rotation_mode="anchor",
            color=ACCENT if method.startswith("oppu_") else INK, annotation_clip=False,
        )  # fmt: skip
    y, side = 0, ""
    for case in cases:
        if _side(case) != side:
            side = _side(case)
            _beside(axes, y, side, MUTED)
            axes.axhline(y - 0.5, xmax=len(methods) / columns, color=GRID, linewidth=0.8)
            y -= 1
        _beside(axes, y, _label(case), INK)
        for asked in case.asked:
            _cell(axes, methods.index(asked.method), y, case.kind, asked)
        y -= 1
    heading(axes, title, lift=72 * _SLANT + 6)
    axes.annotate(
        _KEYS[cases[0].kind], (0, y + 0.5), xycoords=("axes fraction", "data"), xytext=(0, -12),
        textcoords="offset points", color=MUTED, fontsize=8.5, annotation_clip=False,
    )  # fmt: skip


def _beside(axes: Any, y: float, text: str, colour: str) -> None:
    """Write a row's text, left of the columns."""
    axes.annotate(
        text, (0, y), xycoords=("axes fraction", "data"), xytext=(-8, 0), textcoords="offset points",
        ha="right", va="center", color=colour, annotation_clip=False, parse_math=False,
    )  # fmt: skip


def _cell(axes: Any, x: int, y: float, kind: Kind, asked: Asked) -> None:
    colour = ACCENT if asked.method.startswith("oppu_") else INK
    if kind == "generation":
        axes.annotate(
            number(asked.score), (x, y + 0.05), ha="center", va="center", fontsize=8.5, color=colour
        )
        axes.plot([x - 0.35, x + 0.35], [y - 0.37] * 2, color=GRID, linewidth=0.8, solid_capstyle="butt")
        end = x - 0.35 + 0.7 * min(asked.score, 1)
        axes.plot([x - 0.35, end], [y - 0.37] * 2, color=colour, linewidth=2.2, solid_capstyle="butt")
        return
    right = verdict(kind, asked.score) == "right"
    axes.plot(x, y, "o", color=colour, markersize=7, markerfacecolor=colour if right else "none")
    if kind == "rating" and not right:
        axes.annotate(
            f"{asked.score:g}", (x, y), xytext=(6, 0), textcoords="offset points",
            va="center", fontsize=8, color=colour,
        )  # fmt: skip


def _plain(text: str, limit: int) -> str:
    """A short text that can be drawn: without unprintable characters and lone surrogates."""
    short = shorten(text, limit)
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in short
    )
