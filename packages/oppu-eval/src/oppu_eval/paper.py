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
    text = importlib.resources.files("oppu_eval").joinpath("paper_results.json").read_text(encoding="utf-8")
    tables: dict[str, Any] = json.loads(text)
    return tables


def paper_value(paper_id: str, method: str, metric: str) -> float | None:
    """What Table 1 of the OPPU paper says, or None where it says nothing.

    Args:
        paper_id: :attr:`oppu_core.tasks.Task.paper_id`, e.g. ``LaMP-2M``.
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
