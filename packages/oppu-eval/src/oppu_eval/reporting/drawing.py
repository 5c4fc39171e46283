"""What the report's pictures have in common: colours, panels measured in inches, and files of them.

Text stays text in the reader's own sans-serif. Colours are CSS variables with mid-tone fallbacks, so that a
page can set them for light and dark, and a picture that stands alone reads on either. The palette (blue,
orange, grey) is safe for colour-blind readers, and no meaning is in colour alone. Same input, same bytes.
"""

import html
import io
import math
import re
from typing import Any

INK, MUTED, GRID, ACCENT, WORSE = "#737b86", "#8d949e", "#a9afb8", "#3f7ae0", "#cf6a1f"
PAPER = "#fefefe"  # what an empty marker is filled with
_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", ACCENT: "accent", WORSE: "worse", PAPER: "paper"}
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "oppu",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.labelsize": 9.5,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.transparent": True,
}
WIDTH = 5.2  # inches of one panel


def make_panels(
    count: int,
    height: float,
    *,
    left: float,
    right: float,
    top: float,
    bottom: float,
    extra: float = 0,
    columns: int = 3,
) -> tuple[Any, list[Any]]:
    """A figure with panels, at most `columns` side by side; all in inches, so that labels always fit.

    A panel gives `extra` to its margins.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    columns = min(count, columns)
    rows = math.ceil(count / columns)
    panel = WIDTH + extra
    width = panel * columns
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height * rows))
        panels = [
            figure.add_axes(
                (
                    (index % columns * panel + left) / width,
                    (rows - 1 - index // columns + bottom / height) / rows,
                    (panel - left - right) / width,
                    (height - top - bottom) / height / rows,
                )
            )
            for index in range(count)
        ]
    return figure, panels


def heading(axes: Any, text: str, lift: float = 8) -> None:
    """A heading at the left edge of the panel, labels included."""
    axes.annotate(
        text, (0, 1), xycoords="axes fraction", xytext=(0, lift), textcoords="offset points",
        fontsize=10.5, fontweight="bold", color=INK, annotation_clip=False,
    )  # fmt: skip


def remark(axes: Any, x: float, text: str, colour: str) -> None:
    """A small text above the panel, `x` of its width from the left."""
    axes.annotate(
        text, (x, 1), xycoords="axes fraction", xytext=(0, 4), textcoords="offset points",
        color=colour, annotation_clip=False,
    )  # fmt: skip


def svg_text(figure: Any, name: str, label: str, description: str = "") -> str:
    """The figure as an SVG element: no prologue, no metadata, colours as variables, ids of its own.

    Args:
        figure: Made with :func:`make_panels`.
        name: Keeps its ids apart from other pictures' on a page.
        label: What it shows, for whoever cannot see it.
        description: More about it, e.g. how its numbers came about.
    """
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    prefix = re.sub(r"[^A-Za-z0-9_-]", "-", name)
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'(url\(|href=")#', rf"\1#{prefix}-", text)
    text = text.replace("'DejaVu Sans'", "system-ui, 'DejaVu Sans'")
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--fig-{variable}, {colour})")
    if description:
        text = re.sub(
            r"(<svg [^>]*>)", lambda tag: f"{tag[1]}<desc>{html.escape(description)}</desc>", text, count=1
        )
    return text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(label)}" ', 1)


def png_bytes(figure: Any, description: str = "") -> bytes:
    """The figure as a PNG on white, for slides and pages that show no SVG; same figure, same bytes.

    `description` goes into the file's metadata.
    """
    import matplotlib as mpl

    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(
            buffer,
            format="png",
            dpi=160,
            facecolor="white",
            transparent=False,
            metadata={"Software": None, "Description": description or None},
        )
    return buffer.getvalue()
