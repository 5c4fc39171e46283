"""BM25 before every item of a history: ``uv run python benchmarks/bm25.py [--repeats N] [--json FILE]``.

Personal training asks, for each item of a history, which items before it are most alike. Times the scores for
all of them, with ``rank_bm25.BM25Okapi`` made anew for each item and with one :class:`BM25Index`, on items of
100 words, Zipf-like and uniform; compares all scores; and times the index on longer and longer histories.
Prints medians of repeats in seconds. Rebuilding takes minutes.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from oppu_core.prompting.retrieval import BM25Index
from rank_bm25 import BM25Okapi
from rich.console import Console
from rich.table import Table

ITEMS, WORDS, VOCABULARY = 1000, 100, 10_000
GROWTH = (250, 500, 1000, 2000)
Texts = list[str]


def texts(kind: str, count: int, seed: int) -> Texts:
    """Random texts; in Zipf-like ones the n-th word is met in proportion to 1 / n."""
    weights = 1 / np.arange(1, VOCABULARY + 1) if kind == "zipf" else np.ones(VOCABULARY)
    words = np.random.default_rng(seed).choice(VOCABULARY, (count, WORDS), p=weights / weights.sum())
    return [" ".join(f"w{word}" for word in row) for row in words]


def rebuilt(documents: Texts, queries: Texts) -> list[np.ndarray]:
    """The definition: an index of what stands before the item, for each item."""
    scores = [np.zeros(0)]
    for t in range(1, len(documents)):
        index = BM25Okapi([text.split(" ") for text in documents[:t]])
        scores.append(index.get_scores(queries[t].split(" ")))
    return scores


def indexed(documents: Texts, queries: Texts) -> list[np.ndarray]:
    """The same from one index."""
    index = BM25Index(documents)
    return [index.scores(query, t) for t, query in enumerate(queries)]


def timed(
    score: Callable[[Texts, Texts], list[np.ndarray]], documents: Texts, queries: Texts, repeats: int
) -> tuple[list[float], list[np.ndarray]]:
    """The seconds of each repeat, and the scores."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        scores = score(documents, queries)
        seconds.append(time.perf_counter() - start)
    return seconds, scores


def difference(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    """The largest relative difference of two lists of scores."""
    a, b = np.concatenate(ours), np.concatenate(theirs)
    scale = np.maximum(np.abs(a), np.abs(b))
    return float((np.abs(a - b) / np.where(scale > 0, scale, 1)).max())


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="of each measurement")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    args = parser.parse_args()
    console, results = Console(), []
    table = Table("words", "rebuilding (s)", "index (s)", "ratio", "largest relative difference")
    growth = Table("words", *(f"{items} items (s)" for items in GROWTH))
    for kind in ("zipf", "uniform"):
        documents, queries = texts(kind, max(GROWTH), 0), texts(kind, max(GROWTH), 1)
        grown = {n: timed(indexed, documents[:n], queries[:n], args.repeats)[0] for n in GROWTH}
        fast, ours = timed(indexed, documents[:ITEMS], queries[:ITEMS], args.repeats)
        slow, theirs = timed(rebuilt, documents[:ITEMS], queries[:ITEMS], args.repeats)
        growing = {n: statistics.median(seconds) for n, seconds in grown.items()}
        result = {
            "words": kind,
            "rebuilding": statistics.median(slow),
            "index": statistics.median(fast),
            "ratio": statistics.median(slow) / statistics.median(fast),
            "difference": difference(ours, theirs),
            "growth": growing,
            "seconds": {"rebuilding": slow, "index": fast, "growth": grown},
        }
        results.append(result)
        figures = (f"{result[name]:{form}}" for name, form in (("rebuilding", ".1f"), ("index", ".3f")))
        table.add_row(kind, *figures, f"{result['ratio']:.0f}", f"{result['difference']:.1e}")
        growth.add_row(kind, *(f"{seconds:.3f}" for seconds in growing.values()))
    console.print(f"Scores before each of {ITEMS} items of {WORDS} words, medians of {args.repeats}", table)
    console.print("How the index's time grows", growth)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
