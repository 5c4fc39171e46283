"""The numbers that the OPPU paper published, to be shown beside ours.

They come from Llama-2-7B on the official LaMP data: compare directions with them, not levels.
"""

import functools
import importlib.resources
import json
from typing import Any

SOURCE = "OPPU paper, Table 1: Llama-2-7B on the official LaMP; other data and model, not comparable in level"


@functools.cache
def _paper() -> dict[str, Any]:
    text = (
        importlib.resources.files("oppu_eval.reporting")
        .joinpath("paper_results.json")
        .read_text(encoding="utf-8")
    )
    tables: dict[str, Any] = json.loads(text)
    return tables


def paper_value(paper_id: str, method: str, metric: str) -> float | None:
    """What Table 1 of the OPPU paper says, or None where it says nothing.

    Args:
        paper_id: :attr:`oppu_core.tasks.task.Task.paper_id`, e.g. ``LaMP-2M``.
        method: e.g. ``oppu_k0``.
        metric: Our name, e.g. ``macro_f1``.
    """
    value = _paper()["table1"].get(paper_id, {}).get(metric, {}).get(method)
    return None if value is None else float(value)


def paper_statistics(paper_id: str) -> dict[str, float]:
    """What Table 2 of the OPPU paper says of a task's data, empty where it says nothing.

    `base_` are the users who train the task base, `personal_` the test users; then `queries`, `history` (mean
    items of a user), `len_in` and `len_out` (mean lengths; the paper does not name the unit).
    """
    statistics: dict[str, float] = _paper()["table2"].get(paper_id, {})
    return statistics


def paper_significant(paper_id: str, method: str, metric: str) -> bool | None:
    """Whether Table 1 marks the method as better than the same prompt without an adapter; None as above."""
    marked = _paper()["significant"].get(paper_id, {}).get(metric)
    return None if marked is None else method in marked


def paper_shift(paper_id: str, history: str, method: str, metric: str) -> float | None:
    """What Table 3 says; `history` is ``full`` or ``irrelevant``."""
    table = _paper()["table3"].get(paper_id, {})
    value = table.get(history, {}).get(metric, {}).get(method)
    if value is None and method == "non_personalized":  # it reads no history, and is printed once
        value = table.get("full", {}).get(metric, {}).get(method)
    return None if value is None else float(value)


def paper_format(paper_id: str, side: str, method: str, metric: str) -> tuple[float, ...]:
    """What Table 4 says of a history with one side, or ``both``; empty where it says nothing.

    Of one side there are two values, the lower first: which of its rows keeps the input and which the output
    cannot be told from its text.
    """
    table = _paper()["table4"].get(paper_id)
    if table is None:
        return ()
    rows = [table["both"]] if side == "both" else table["one_side"]
    return tuple(sorted(row[method][metric] for row in rows if metric in row.get(method, {})))


def paper_trainable_share(peft: str) -> float | None:
    """The share of trainable parameters that Section 6 names for a PEFT method (Figure 6)."""
    value = _paper()["figure6"]["trainable_share"].get(peft)
    return None if value is None else float(value)


def paper_cosine_range() -> tuple[float, float]:
    """Where the cosines between users' adapters "generally" lie (Figure 7)."""
    low, high = _paper()["figure7"]["cosine_range"]
    return float(low), float(high)
