"""Draw the pictures of docs/performance.md: ``uv run python scripts/performance_pictures.py``.

They show how batches are packed, not measurements; the same bytes come of every run. Positions are in inches
from the upper left corner, so that a picture reads as it is written.
"""

import argparse
import dataclasses
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline
from oppu_eval.reporting.drawing import ACCENT, GRID, INK, MUTED, STYLE, WORSE

FOLDER = Path(__file__).parents[1] / "docs" / "images"
WIDTH = 8.6  # inches: about what GitHub has room for

# A toy batch: the tokens of the instruction, and (own prompt tokens, answer tokens) of each item.
PREFIX, ITEMS = 6, ((3, 2), (2, 1), (4, 3), (3, 1))
OWN = [prompt + answer - 1 for prompt, answer in ITEMS]  # an answer's last token is predicted, never read
STARTS = [PREFIX + sum(OWN[:b]) for b in range(len(OWN))]
TOKENS = PREFIX + sum(OWN)
TARGETS = [start + i for start, (prompt, _), own in zip(STARTS, ITEMS, OWN, strict=True)
           for i in range(prompt - 1, own)]  # fmt: skip

# A batch of benchmarks/training.py, on average, and its base of 60 M: tokens that the padded and the packed
# way read, targets, and weights (a multiplication each for a token).
PADDED, PACKED, PREDICTED = 1855, 702, 48
LAYERS, ATTENTION, FEED_FORWARD, HEAD = 8, 4 * 512 * 512, 3 * 512 * 1536, 512 * 32_000

Box = tuple[float, float, float, float]  # left, upper, width, height


@dataclasses.dataclass(frozen=True)
class Canvas:
    """A figure to draw on."""

    figure: Figure
    axes: Axes

    @classmethod
    def of(cls, height: float) -> "Canvas":
        """An empty one of :data:`WIDTH`."""
        figure = Figure(figsize=(WIDTH, height))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, WIDTH), ylim=(height, 0))
        axes.set_axis_off()
        return cls(figure, axes)

    def text(
        self, x: float, y: float, text: str, *, size: float = 8.5, colour: str = INK, align: str = "left"
    ) -> None:
        """A line of text, `y` at its middle."""
        self.axes.text(x, y, text, size=size, color=colour, ha=align, va="center_baseline")

    def title(self, x: float, y: float, text: str) -> None:
        """A heading."""
        self.axes.text(x, y, text, size=10.5, weight="bold", va="center_baseline")

    def fill(self, boxes: Iterable[Box], colour: str, alpha: float = 1) -> None:
        """Filled boxes."""
        self._add(boxes, facecolor=colour, alpha=alpha, linewidth=0)

    def outline(self, boxes: Iterable[Box], colour: str = GRID, width: float = 0.6) -> None:
        """Empty boxes."""
        self._add(boxes, facecolor="none", edgecolor=colour, linewidth=width)

    def strike(self, boxes: Sequence[Box]) -> None:
        """Empty boxes with a stroke through each."""
        self.outline(boxes)
        strokes = [Outline([(x, y + h), (x + w, y)]) for x, y, w, h in boxes]
        whole = Outline.make_compound_path(*strokes)
        self.axes.add_patch(PathPatch(whole, facecolor="none", edgecolor=MUTED, linewidth=0.8))

    def arrow(self, *points: tuple[float, float], colour: str = INK, dashed: bool = False) -> None:
        """A line through points; its head is at the last."""
        style = (0, (3, 2)) if dashed else "-"
        if len(points) > 2:
            xs, ys = zip(*points[:-1], strict=True)
            self.axes.plot(xs, ys, color=colour, linewidth=0.9, linestyle=style)
        arrow = {"arrowstyle": "-|>,head_length=0.35,head_width=0.16", "color": colour, "linewidth": 0.9,
                 "linestyle": style, "shrinkA": 0, "shrinkB": 0}  # fmt: skip
        self.axes.annotate("", points[-1], points[-2], arrowprops=arrow)

    def save(self, path: Path) -> None:
        """Write the picture; as SVG in the reader's own sans-serif."""
        if path.suffix != ".svg":
            self.figure.savefig(path, dpi=96)
            return
        buffer = io.StringIO()
        self.figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        text = buffer.getvalue().replace("'DejaVu Sans'", "system-ui, 'DejaVu Sans'")
        path.write_text(text, encoding="utf-8", newline="\n")

    def _add(self, boxes: Iterable[Box], **style: object) -> None:
        corners = [
            Outline([(x, y), (x + w, y), (x + w, y + h), (x, y + h), (x, y)], closed=True)
            for x, y, w, h in boxes
        ]
        if corners:
            self.axes.add_patch(PathPatch(Outline.make_compound_path(*corners), **style))


@dataclasses.dataclass(frozen=True)
class Cells:
    """Where the cells of a table lie."""

    left: float
    upper: float
    width: float
    height: float
    gap: float = 0.025

    def __call__(self, column: int, row: int = 0) -> Box:
        """The cell of a column and a row."""
        x, y = self.left + column * self.width, self.upper + row * self.height
        return x, y, self.width - self.gap, self.height - self.gap


def draw_packing() -> Canvas:
    """A batch padded and packed, who looks at whom, and the slots in which attention runs."""
    canvas = Canvas.of(5.25)
    _padded(canvas, Cells(0.62, 0.42, 0.19, 0.21))
    _slots(canvas, 0.62, 1.95)
    _legend(canvas, 0.12, 4.78)
    _mask(canvas, Cells(4.42, 1.0, 0.19, 0.19))
    return canvas


def _padded(canvas: Canvas, cells: Cells) -> None:
    width = PREFIX + max(map(sum, ITEMS))
    canvas.title(0.12, 0.2, f"Padded: {len(ITEMS)} × {width} = {len(ITEMS) * width} tokens")
    for b, own in enumerate(OWN):
        canvas.text(
            cells.left - 0.08, cells.upper + (b + 0.44) * cells.height, f"item {b + 1}", align="right"
        )
        canvas.fill([cells(t, b) for t in range(PREFIX, PREFIX + own)], ACCENT, 0.45)
        canvas.outline([cells(t, b) for t in range(PREFIX + own + 1, width)])
        canvas.strike([cells(PREFIX + own, b)])
    canvas.fill([cells(t) for t in range(PREFIX)], WORSE)
    canvas.strike([cells(t, b) for b in range(1, len(OWN)) for t in range(PREFIX)])


def _mask(canvas: Canvas, cells: Cells) -> None:
    canvas.title(cells.left, 0.2, f"Packed: {TOKENS} tokens, one row")
    row = Cells(cells.left, 0.7, cells.width, 0.21)
    positions = [*range(PREFIX), *(PREFIX + i for own in OWN for i in range(own))]
    canvas.text(cells.left - 0.08, 0.59, "positions", align="right", size=8)
    for t, position in enumerate(positions):
        canvas.text(row(t)[0] + row(t)[2] / 2, 0.59, str(position), size=7.5, align="center")
    canvas.fill([row(t) for t in range(PREFIX)], WORSE)
    canvas.fill([row(t) for t in range(PREFIX, TOKENS)], ACCENT, 0.45)
    spans = [("instruction", 0, PREFIX)]
    spans += [(f"item {b + 1}", STARTS[b], own) for b, own in enumerate(OWN)]
    for name, start, count in spans:
        middle = start + count / 2
        canvas.text(cells.left + middle * cells.width - 0.012, 0.42, name, size=8, align="center")
        y = cells.upper + middle * cells.height
        canvas.text(cells.left - 0.08, y, name, align="right", size=8)
    item_of = [b for b, own in enumerate(OWN) for _ in range(own)]
    kinds: dict[str, list[Box]] = {"prefix": [], "own": [], "other": []}
    for q in range(TOKENS):
        for k in range(q + 1):
            same = k >= PREFIX and item_of[k - PREFIX] == item_of[q - PREFIX]
            kinds["prefix" if k < PREFIX else "own" if same else "other"].append(cells(k, q))
    canvas.fill(kinds["prefix"], WORSE)
    canvas.fill(kinds["own"], ACCENT, 0.45)
    canvas.outline(kinds["other"], width=0.4)
    canvas.text(cells.left + 9.2 * cells.width, cells.upper + 0.28, "A line: a token, and what it looks at.")
    canvas.text(cells.left + 9.2 * cells.width, cells.upper + 0.5, "Outlined: earlier in the row, but")
    canvas.text(cells.left + 9.2 * cells.width, cells.upper + 0.68, "another item's: −∞.")


def _slots(canvas: Canvas, left: float, upper: float) -> None:
    """Attention by slots: the prefix's, then every item's behind it."""
    size, most = 0.1, max(OWN)
    canvas.title(0.12, upper - 0.3, "How attention runs: in slots")
    canvas.fill([Cells(left, upper, size, size, 0.015)(k, q) for q in range(PREFIX) for k in range(q + 1)],
                WORSE)  # fmt: skip
    canvas.outline([(left - 0.02, upper - 0.02, PREFIX * size + 0.03, PREFIX * size + 0.03)])
    canvas.text(left + 0.75, upper + 0.2, f"the instruction, once: p × p = {PREFIX} × {PREFIX}")
    canvas.text(left + 0.75, upper + 0.4, "each item, in one batch:")
    canvas.text(left + 0.75, upper + 0.58, f"o × (p + o) = {most} × {PREFIX + most}")
    for b, own in enumerate(OWN):
        x, y = left + b % 2 * 1.55, upper + 1.0 + b // 2 * 0.92
        cells = Cells(x, y, size, size, 0.015)
        canvas.text(x, y - 0.12, f"item {b + 1}", size=8)
        canvas.fill([cells(k, q) for q in range(own) for k in range(PREFIX)], WORSE)
        canvas.fill([cells(PREFIX + k, q) for q in range(own) for k in range(q + 1)], ACCENT, 0.45)
        canvas.outline([(x - 0.02, y - 0.02, (PREFIX + most) * size + 0.03, most * size + 0.03)])


def _legend(canvas: Canvas, left: float, upper: float) -> None:
    entries = ("shared instruction", "an item's own tokens", "read for nothing", "padding")
    for i, name in enumerate(entries):
        x, y = left + i % 2 * 1.75, upper + i // 2 * 0.22
        box = (x, y - 0.08, 0.165, 0.165)
        if i == 0:
            canvas.fill([box], WORSE)
        elif i == 1:
            canvas.fill([box], ACCENT, 0.45)
        elif i == 2:
            canvas.strike([box])
        else:
            canvas.outline([box])
        canvas.text(x + 0.25, y, name)


def draw_targets() -> Canvas:
    """What is computed for which token, and how much work that is."""
    canvas = Canvas.of(3.75)
    _computed(canvas, Cells(1.22, 0.5, 0.145, 0.32))
    _work(canvas, 4.85, 0.88, 2.3)
    return canvas


def _computed(canvas: Canvas, cells: Cells) -> None:
    canvas.title(0.12, 0.2, "What is computed for which token")
    rows = (
        "output head",
        f"feed-forward {LAYERS}",
        f"attention {LAYERS}",
        "…",
        "feed-forward 1",
        "attention 1",
    )
    for r, name in enumerate(rows):
        y = cells.upper + r * cells.height
        canvas.text(cells.left - 0.1, y + 0.13, name, align="right")
        if r < 2:
            canvas.outline([cells(t, r) for t in range(TOKENS) if t not in TARGETS])
            canvas.fill([cells(t, r) for t in TARGETS], ACCENT)
        elif name != "…":
            canvas.fill([cells(t, r) for t in range(TOKENS)], ACCENT, 0.45)
    for t in range(TOKENS):
        canvas.text(cells(t)[0] + 0.06, cells.upper + 3.43 * cells.height, "⋮", align="center", size=8)
    tokens = Cells(cells.left, cells.upper + 6.5 * cells.height, cells.width, cells.height)
    canvas.text(cells.left - 0.1, tokens.upper + 0.13, "packed row", align="right")
    canvas.fill([tokens(t) for t in range(PREFIX)], WORSE)
    canvas.fill([tokens(t) for t in range(PREFIX, TOKENS) if t not in TARGETS], ACCENT, 0.45)
    canvas.fill([tokens(t) for t in TARGETS], ACCENT)
    y = tokens.upper + 0.46
    canvas.text(cells.left + PREFIX / 2 * cells.width, y, "instruction", align="center", size=8)
    canvas.fill([(cells.left + 1.14, y - 0.08, 0.12, 0.165)], ACCENT)
    canvas.text(cells.left + 1.34, y, "the next token is a target", size=8)


def _work(canvas: Canvas, left: float, upper: float, height: float) -> None:
    """Multiplications as areas: tokens to the right, weights upwards."""
    canvas.title(left, 0.2, "How much that is")
    canvas.text(left, 0.42, "area: products with frozen weights, forward")
    below = (LAYERS - 1) * (ATTENTION + FEED_FORWARD)
    levels = [0, below, below + ATTENTION, below + ATTENTION + FEED_FORWARD]
    levels.append(levels[-1] + HEAD)
    inch, wide = height / levels[-1], 2.6 / (PADDED + PACKED)
    bottom = upper + height

    def block(x: float, tokens: int, start: int, end: int) -> Box:
        return x, bottom - levels[end] * inch, tokens * wide, (levels[end] - levels[start]) * inch

    plain, packed = left, left + PADDED * wide + 0.95
    canvas.text(plain, upper - 0.12, "plain")
    canvas.text(packed, upper - 0.12, "packed")
    for part in range(4):
        canvas.outline([block(plain, PADDED, part, part + 1)], MUTED, 0.9)
    canvas.fill([block(packed, PACKED, 0, 2)], ACCENT, 0.45)
    canvas.fill([block(packed, PREDICTED, 2, 4)], ACCENT)
    middle = plain + PADDED * wide / 2
    head = bottom - (levels[3] + levels[4]) / 2 * inch
    canvas.text(middle, head - 0.09, "output head", align="center")
    canvas.text(middle, head + 0.09, "512 × 32,000", align="center", size=8)
    canvas.text(middle, bottom - levels[1] / 2 * inch, f"layers 1 to {LAYERS - 1}", align="center")
    beside = plain + PADDED * wide + 0.06
    canvas.text(
        beside, bottom - (levels[2] + levels[3]) / 2 * inch - 0.03, f"feed-forward {LAYERS}", size=7.5
    )
    canvas.text(beside, bottom - (levels[1] + levels[2]) / 2 * inch + 0.03, f"attention {LAYERS}", size=7.5)
    canvas.text(packed + 0.14, head, f"{PREDICTED} targets")
    canvas.text(middle, bottom + 0.15, f"{PADDED:,} padded tokens", align="center")
    canvas.text(packed + PACKED * wide / 2, bottom + 0.15, f"{PACKED} tokens", align="center")
    canvas.text(left, bottom + 0.38, "an average batch of the benchmark, base of 60 M", size=8)


def draw_users() -> Canvas:
    """Users as rows of a batch: one frozen matrix, and an adapter, a loss and an optimizer for each."""
    canvas = Canvas.of(3.35)
    lengths, widest = (17, 12, 20), 21
    first, pitch = 0.95, 0.78
    canvas.title(0.12, 0.2, "One row a user")
    canvas.text(0.12, 0.42, "[U, T], padded at the end")
    canvas.title(3.02, 0.2, "W x")
    canvas.text(3.02, 0.42, "shared, frozen")
    canvas.title(4.2, 0.2, "+ B A x")
    canvas.text(4.2, 0.42, "own, stacked [U, r, d]")
    canvas.title(6.15, 0.2, "The rest, per user")
    base: Box = (3.02, first - 0.28, 0.75, 2 * pitch + 0.56)
    canvas.fill([base], GRID, 0.35)
    canvas.outline([base], INK, 0.9)
    canvas.text(base[0] + base[2] / 2, first + pitch, "W", align="center", size=13)
    for u, length in enumerate(lengths):
        y, name = first + u * pitch, "₁₂₃"[u]
        canvas.text(0.12, y, f"user {u + 1}")
        cells = Cells(0.68, y - 0.1, 0.092, 0.2, 0.02)
        canvas.fill([cells(t) for t in range(5)], WORSE)
        canvas.fill([cells(t) for t in range(5, length)], ACCENT, 0.45)
        canvas.outline([cells(t) for t in range(length, widest)])
        canvas.arrow((0.72 + widest * 0.092, y), (base[0] - 0.04, y))
        canvas.text(3.98, y, "+", align="center", size=12)
        b, a = (4.3, y - 0.2, 0.13, 0.4), (4.85, y - 0.065, 0.42, 0.13)
        canvas.fill([a, b], ACCENT)
        canvas.text(4.47, y, f"B{name}", colour=ACCENT, size=9.5)
        canvas.text(5.33, y, f"A{name}", colour=ACCENT, size=9.5)
        canvas.arrow((5.6, y), (6.1, y))
        canvas.text(6.15, y - 0.09, f"loss{name}: mean over own targets", size=8.5)
        canvas.text(6.15, y + 0.09, "gradient, clipping, rate, AdamW, end", size=8.5)
        back = y + 0.3
        canvas.arrow((7.2, y + 0.2), (7.2, back), (4.8, back), (4.8, y + 0.12), colour=ACCENT, dashed=True)
    canvas.text(0.12, 3.16, "Dashed: the gradient of the sum of all losses. What arrives at B₁ and A₁ is the "
                "gradient of loss₁, because no other loss depends on them.")  # fmt: skip
    return canvas


DRAWINGS = {"packing": draw_packing, "targets": draw_targets, "users": draw_users}


def main() -> None:
    """Draw all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=FOLDER, help="the folder for the pictures")
    parser.add_argument("--format", choices=["svg", "png"], default="svg")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        for name, draw in DRAWINGS.items():
            draw().save(args.out / f"{name}.{args.format}")


if __name__ == "__main__":
    main()
