"""The similarity of users' adapters as a picture: a clustered heat map and distributions (Figure 7)."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from oppu_eval.reporting.drawing import ACCENT, GRID, INK, MUTED, STYLE, heading, make_panels
from oppu_eval.scoring.metrics import Array

PAPER_RANGE = (0.4, 0.7)  # "generally range from 0.4 to 0.7" (section 6 and Figure 7)
_BINS = 50
_MAP, _MAP_LEFT, _BAR = 2.35, 0.15, 0.13  # inches
_LEFT, _RIGHT, _TOP, _BOTTOM = 4.75, 0.7, 0.6, 0.55


@dataclasses.dataclass(frozen=True)
class Group:
    """A row of the picture, usually a task.

    Attributes:
        title: Its heading.
        matrix: The heat map's cosines [U, U].
        order: The order of the users in the heat map.
        values: {what is compared: the cosines of all pairs of users}; NaNs are left out.
    """

    title: str
    matrix: Array
    order: Sequence[int]
    values: Mapping[str, Array]


def draw(groups: Sequence[Group]) -> Any:
    """Draw one row per group; all heat maps share a colour scale, all distributions an axis."""
    rows = max(3, *(len(group.values) for group in groups))
    height = max(_MAP, 0.5 * rows) + _TOP + _BOTTOM
    figure, panels = make_panels(
        len(groups), height, left=_LEFT, right=_RIGHT, top=_TOP, bottom=_BOTTOM, extra=_LEFT - 1.1, columns=1
    )
    shades = _limits([_pairs(group.matrix) for group in groups])
    span = _limits([*itertools.chain(*(group.values.values() for group in groups)), np.array(PAPER_RANGE)])
    for axes, group in zip(panels, groups, strict=True):
        _heat_map(figure, axes, group, shades)
        _distributions(axes, group, span, rows)
    return figure


def _heat_map(figure: Any, beside: Any, group: Group, limits: tuple[float, float]) -> None:
    """Draw the matrix in clustered order, left of a panel, with a colour bar and an empty diagonal."""
    import matplotlib as mpl
    from matplotlib.colors import LinearSegmentedColormap

    width, height = figure.get_size_inches()
    top = beside.get_position().y1 * height
    shades = mpl.colormaps["Blues"](np.linspace(0.08, 1, 256))  # the lowest is not the white of the paper
    look = {
        "cmap": LinearSegmentedColormap.from_list("blues", shades),
        "vmin": limits[0],
        "vmax": limits[1],
        "interpolation": "none",  # the SVG then has the cells themselves, as a small image
        "aspect": "auto",
    }
    users = list(group.order)
    cells = group.matrix[np.ix_(users, users)].copy()
    np.fill_diagonal(cells, np.nan)
    with mpl.rc_context(STYLE):
        axes, bar = (
            figure.add_axes((left / width, (top - _MAP) / height, across / width, _MAP / height))
            for left, across in ((_MAP_LEFT, _MAP), (_MAP_LEFT + _MAP + 0.12, _BAR))
        )
    axes.imshow(cells, **look)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(f"{len(users)} users, alike ones side by side", labelpad=5)
    bar.imshow(np.linspace(*limits, 256)[:, None], origin="lower", extent=(0, 1, *limits), **look)
    bar.set_xticks([])
    bar.yaxis.tick_right()
    bar.yaxis.set_label_position("right")
    bar.set_ylabel("cosine of two users", labelpad=5)
    bar.locator_params(axis="y", nbins=5)
    for spine in (*axes.spines.values(), *bar.spines.values()):
        spine.set_visible(False)
    heading(axes, group.title, lift=20)


def _distributions(axes: Any, group: Group, limits: tuple[float, float], slots: int) -> None:
    """Draw one histogram per row, with median and quartiles below; each row has its own scale of heights."""
    axes.axvspan(*PAPER_RANGE, color=GRID, alpha=0.22, linewidth=0, zorder=0)
    axes.annotate(
        "paper: {:g} to {:g}".format(*PAPER_RANGE),
        (sum(PAPER_RANGE) / 2, 1),
        xycoords=("data", "axes fraction"),
        xytext=(0, 4),
        textcoords="offset points",
        ha="center",
        color=MUTED,
    )
    edges = np.linspace(*limits, _BINS + 1)
    for row, values in enumerate(group.values.values()):
        known = values[~np.isnan(values)]
        text = "none"
        if len(known):
            counts = np.histogram(known, edges)[0]
            axes.stairs(
                0.6 * counts / counts.max() - row, edges, baseline=-row, fill=True, color=ACCENT, alpha=0.45
            )
            low, median, high = np.percentile(known, (25, 50, 75))
            axes.plot((low, high), (-row - 0.11,) * 2, color=INK, linewidth=2, solid_capstyle="butt")
            axes.plot(median, -row - 0.11, "o", color=INK, markersize=5)
            text = f"{median:z.2f}".replace("-", "−")
        axes.annotate(
            text, (1, -row), xycoords=("axes fraction", "data"), xytext=(6, 0), textcoords="offset points",
            va="center", color=INK, annotation_clip=False,
        )  # fmt: skip
    axes.annotate(
        "median", (1, 1), xycoords="axes fraction", xytext=(6, 4), textcoords="offset points", color=MUTED
    )
    axes.set_yticks([-row for row in range(len(group.values))], list(group.values))
    axes.tick_params(axis="y", length=0, pad=6)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(0.6 - len(group.values), 0.75 + slots - len(group.values))  # equal heights in all panels
    axes.set_xlim(*limits)
    pairs = len(group.order) * (len(group.order) - 1) // 2
    count = "one pair" if pairs == 1 else f"{pairs:,} pairs"
    axes.set_xlabel(f"cosine, {count} of users (dot: median, bar: middle half)")


def _pairs(matrix: Array) -> Array:
    """The values above the diagonal."""
    values: Array = matrix[np.triu_indices(len(matrix), 1)]
    return values


def _limits(values: Sequence[Array]) -> tuple[float, float]:
    """The range of all values except NaNs, with a small margin, within that of a cosine."""
    known = np.concatenate([part[~np.isnan(part)] for part in values])
    if len(known) == 0:
        return 0.0, 1.0
    margin = max(0.03 * float(np.ptp(known)), 0.02)
    return max(-1.0, float(known.min()) - margin), min(1.0, float(known.max()) + margin)
