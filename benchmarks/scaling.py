"""How the cost of personal training grows: ``uv run python benchmarks/scaling.py [--figure FILE.svg]``.

Trains adapters on the shipped tiny base with the fast trainer, for more and more users, items a user and
tokens an item, the others held; and fits a line through seconds and tokens for each, and for all together.
Tokens are those that are read: an instruction of 70 once in a batch, and every item with its answer. Prints
medians of interleaved repeats.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from flops import packed_load, user_batches
from oppu_core.process import tune_process
from rich.console import Console
from rich.table import Table
from shapes import Subject, Users, load_subject, make_users
from ways import ways

USERS, ITEMS, TOKENS = (1, 2, 4, 8, 16), (16, 32, 64, 128, 256), (10, 25, 40, 70, 100)
HELD = {"users": 4, "items": 64, "tokens": 40}
PANELS = {"users": USERS, "items": ITEMS, "tokens": TOKENS}
LABELS = {"users": "users", "items": "items a user", "tokens": "tokens an item"}


def main() -> None:
    """Measure, print the table, draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="of each measurement")
    parser.add_argument("--cohort", type=int, default=4, help="how many users to train at once")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    parser.add_argument("--figure", type=Path, help="draw a picture there (.svg, .png, .pdf)")
    args = parser.parse_args()
    points = measure(load_subject("tiny"), args.cohort, args.repeats)
    fits = {name: fit([point for point in points if point["panel"] == name]) for name in PANELS}
    fits["all"] = fit(points)
    console = Console(width=110)
    table = Table("varied", "", "tokens", "median s", "min–max", "µs/token")
    for point in points:
        seconds = point["seconds"]
        table.add_row(
            LABELS[point["panel"]],
            str(point["value"]),
            f"{point['tokens']:,}",
            f"{point['median']:.3f}",
            f"{min(seconds):.3f}–{max(seconds):.3f}",
            f"{point['median'] / point['tokens'] * 1e6:.1f}",
        )
    lines = Table("line through", "µs for a token more", "s at no tokens", "R²")
    for name, line in fits.items():
        figures = (f"{line['slope'] * 1e6:.1f}", f"{line['intercept']:.3f}", f"{line['r2']:.4f}")
        lines.add_row(LABELS.get(name, "all points"), *figures)
    held = ", ".join(f"{value} {LABELS[name]}" for name, value in HELD.items())
    console.print(f"tiny base, cohorts of {args.cohort}; held: {held}", table, lines, highlight=False)
    if args.json:
        results = {"cohort": args.cohort, "held": HELD, "points": points, "fits": fits}
        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if args.figure:
        draw(points, fits, args.figure)


def measure(subject: Subject, cohort: int, repeats: int) -> list[dict[str, Any]]:
    """Seconds of all trainings of each shape in each repeat; the repeats go round all shapes."""
    train = ways(subject, cohort)["fast"]
    points: list[dict[str, Any]] = []
    inputs: list[Users] = []
    for panel, values in PANELS.items():
        for value in values:
            size = {**HELD, panel: value}
            lengths = (size["tokens"], size["tokens"])
            users = make_users(size["users"], size["items"], subject.vocabulary, lengths)
            inputs.append(users)
            batches = [batch for rows in users for batch in user_batches(rows, subject.config)]
            tokens = sum(packed_load(batch).tokens for batch in batches)
            points.append({"panel": panel, "value": value, "tokens": tokens, "seconds": []})
    train(inputs[0])  # warm up
    for _ in range(repeats):
        for point, users in zip(points, inputs, strict=True):
            start = time.perf_counter()
            train(users)
            point["seconds"].append(time.perf_counter() - start)
    for point in points:
        point["median"] = statistics.median(point["seconds"])
    return points


def fit(points: list[dict[str, Any]]) -> dict[str, float]:
    """The line through medians by least squares, and the share of their variance that it explains."""
    tokens = np.array([point["tokens"] for point in points])
    seconds = np.array([point["median"] for point in points])
    slope, intercept = np.polyfit(tokens, seconds, 1)
    left = seconds - (slope * tokens + intercept)
    r2 = 1 - (left**2).sum() / ((seconds - seconds.mean()) ** 2).sum()
    return {"slope": float(slope), "intercept": float(intercept), "r2": float(r2)}


def draw(points: list[dict[str, Any]], fits: dict[str, dict[str, float]], path: Path) -> None:
    """A panel for each thing that grows: measured points with their range, and the line through them."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    with pyplot.rc_context({"svg.fonttype": "none", "svg.hashsalt": "oppu", "font.size": 9}):
        figure, axes = pyplot.subplots(1, len(PANELS), figsize=(11, 3.4), layout="constrained")
        for axis, panel in zip(axes, PANELS, strict=True):
            own = [point for point in points if point["panel"] == panel]
            tokens = np.array([point["tokens"] for point in own]) / 1000
            medians = np.array([point["median"] for point in own])
            low = medians - [min(point["seconds"]) for point in own]
            high = np.array([max(point["seconds"]) for point in own]) - medians
            line, ends = fits[panel], np.array([0, tokens.max() * 1.05])
            height = line["slope"] * 1000 * ends + line["intercept"]
            axis.plot(ends, height, "--", color="0.55", linewidth=1, label=f"line, R² = {line['r2']:.3f}")
            axis.errorbar(
                tokens, medians, [low, high], fmt="o", color="0.15", markersize=5, capsize=3, linewidth=1,
                label="median, min–max",
            )  # fmt: skip
            for point, x, y in zip(own, tokens, medians, strict=True):
                axis.annotate(str(point["value"]), (x, y), (6, -10), textcoords="offset points")
            fixed = ", ".join(f"{HELD[name]} {LABELS[name]}" for name in PANELS if name != panel)
            axis.set_title(f"more {LABELS[panel]} ({fixed})", fontsize=9)
            axis.set_xlabel("tokens read in all (thousands)")
            axis.set_ylabel("training (s)")
            axis.set_xlim(0)
            axis.set_ylim(0)
            axis.legend(frameon=False, loc="upper left")
            axis.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


if __name__ == "__main__":
    tune_process()  # as the command line does; for all ways alike
    main()
