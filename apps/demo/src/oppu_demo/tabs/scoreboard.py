"""A run's ``results.json`` as HTML: which method does best, how sure that is, and for whom."""

import math
from collections.abc import Mapping
from typing import Any

from oppu_eval.reporting.figures import personal_pair
from oppu_eval.reporting.findings import describe_method, finding
from oppu_eval.reporting.table import best_method, counts_text, methods_of, number, p_text, signed

from oppu_demo.templating import render

Results = Mapping[str, Any]
_SLOTS = 12  # bars of few people do not become walls
_SAME = 1e-9


def scoreboard_view(results: Results | None, task: str, run: str = "RUN") -> str:
    """The results of a task.

    Args:
        results: What :func:`oppu_eval.scoring.run_results.read_results` read; None where there are none yet.
        task: The task's name.
        run: The run's folder, for the command that makes results.
    """
    if results is None or task not in results["tasks"]:
        return render("scoreboard.html.j2", board=None, run=run)
    return render("scoreboard.html.j2", board=_board(results, task), run=run)


def per_user_rows(results: Results | None, task: str) -> tuple[list[str], list[list[Any]]]:
    """Every person's score under every method, as a table: its headers and its rows.

    The columns are the person, the items of their history, what the adapter changes (positive is better) if
    there is a pair to compare, and a column for each method; None where a method has no answers.
    """
    if results is None or task not in results["tasks"]:
        return ["person", "items"], []
    scores = results["per_user"][task]
    lengths = results["history_lengths"][task]
    methods = [method for method in methods_of(results, task) if method in scores]
    pair = personal_pair(results, task)
    changes = dict(_changes(results, task, *pair)) if pair else {}
    headers = ["person", "items", *(["adapter changes"] if pair else []), *methods]
    return headers, [
        [user_id, lengths[user_id], *([_rounded(changes.get(user_id))] if pair else []),
         *(_rounded(scores[method].get(user_id)) for method in methods)]
        for user_id in lengths
    ]  # fmt: skip


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _changes(results: Results, task: str, method: str, baseline: str) -> list[tuple[str, float]]:
    """(person, by how much `method` is better than `baseline`), the best first."""
    scores = results["per_user"][task]
    row = next(row for row in results["rows"] if row["task"] == task)
    sign = 1 if row["higher_is_better"] else -1
    changes = {
        user_id: sign * (value - scores[baseline][user_id])
        for user_id, value in scores[method].items()
        if user_id in scores[baseline]
    }
    return sorted(changes.items(), key=lambda change: (-change[1], change[0]))


def _board(results: Results, task: str) -> dict[str, Any]:
    """What the template needs to know."""
    info = results["tasks"][task]
    primary, *others = info["metrics"]
    methods = methods_of(results, task)
    best = best_method(methods, primary)
    first = [by_metric[primary] for by_metric in methods.values()]
    longest = max(max(row["value"], *(row["ci95"] or [0])) for row in first)
    top = math.ceil(10 * longest - _SAME) / 10 or 1.0
    rows = [
        _row(by_metric[primary], top)
        | {"others": [number(by_metric[name]["value"]) for name in others], "best": method == best}
        for method, by_metric in methods.items()
    ]
    pair = personal_pair(results, task)
    return {
        "title": info["title"],
        "finding": finding(results, task),
        "counts": counts_text(first),
        "metric": info["metrics"][primary],
        "others": [info["metrics"][name] for name in others],
        "lower": not first[0]["higher_is_better"],
        "top": f"{top:g}",
        "groups": [
            (title, group)
            for title, reference in (("Language models", False), ("For reference, without a model", True))
            if (group := [row for row in rows if row["reference"] == reference])
        ],
        "changes": _picture(_changes(results, task, *pair), *pair) if pair else None,
        "set_aside": results["set_aside"][task],
        "notes": results.get("notes", {}).get(task, []),
        "glossary": [(method, describe_method(method)) for method in methods],
    }


def _row(row: Mapping[str, Any], top: float) -> dict[str, Any]:
    """One method: its numbers as texts, and its bar in percentages of the axis from 0 to `top`."""
    interval, delta, p_value = row["ci95"], row["delta"], row["p_value"]
    sure = p_value is not None and p_value < 0.05 and not row["reference"]
    return {
        "method": row["method"],
        "reference": row["reference"],
        "personal": row["method"].startswith("oppu_"),
        "value": number(row["value"]),
        "interval": f"{number(interval[0])} to {number(interval[1])}" if interval else "",
        "width": round(100 * row["value"] / top, 2),
        "span": [round(100 * end / top, 2) for end in interval] if interval else None,
        "delta": None if delta is None else signed(delta),
        "p": None if p_value is None else p_text(p_value) + ("*" if p_value < 0.05 else ""),
        "sign": ("good" if delta > 0 else "bad") if sure and delta else "",
        "wins": row["wins"],
    }


def _picture(changes: list[tuple[str, float]], method: str, baseline: str) -> dict[str, Any]:
    """The differences as bars of a picture that is 100 high; zero lies where both signs have room."""
    values = [value for _, value in changes]
    high, low = max(0.0, *values), min(0.0, *values)
    room = high - low or 1.0
    zero = 100 * high / room if high > low else 50.0
    bars = []
    for place, (user_id, value) in enumerate(changes):
        height = max(100 * abs(value) / room, 1.0)
        bars.append(
            {
                "x": round(place + 0.14, 2),
                "y": round(zero - (height if value > _SAME else 0.5 if abs(value) <= _SAME else 0), 2),
                "height": round(height, 2),
                "kind": "good" if value > _SAME else "bad" if value < -_SAME else "same",
                "label": f"{user_id}: {signed(value)}",
            }
        )
    counts = {kind: sum(bar["kind"] == kind for bar in bars) for kind in ("good", "same", "bad")}
    return {
        "method": method,
        "baseline": baseline,
        "bars": bars,
        "slots": max(len(bars), _SLOTS),
        "zero": round(zero, 2),
        "high": signed(high) if high > _SAME else "",
        "low": signed(low) if low < -_SAME else "",
        "counts": counts,
    }
