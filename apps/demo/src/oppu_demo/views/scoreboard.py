"""A run's ``results.json`` as HTML: which method does best, how sure that is, and for whom."""

import math
from typing import Any

from oppu_eval.reporting.figures import personal_pair
from oppu_eval.reporting.findings import describe_method, finding
from oppu_eval.reporting.method_titles import title_of
from oppu_eval.reporting.table import counts_text, number, p_text, signed
from oppu_eval.scoring.results import Results, ScoreRow, TaskResults

from oppu_demo.templating import render

_SLOTS = 12  # bars of few people do not become walls
_SAME = 1e-9


def scoreboard_view(results: Results | None, task: str, run: str = "RUN") -> str:
    """The results of a task.

    Args:
        results: What :func:`oppu_eval.scoring.run_results.read_results` read; None where there are none yet.
        task: The task's name.
        run: The run's folder, for the command that makes results.
    """
    one = results.tasks.get(task) if results else None
    return render("scoreboard.html.j2", board=_board(one) if one else None, run=run, title_of=title_of)


def per_user_rows(results: Results | None, task: str) -> tuple[list[str], list[list[Any]]]:
    """Every person's score under every method, as a table: its headers and its rows.

    The columns are the person, the items of their history, what the adapter changes (positive is better) if
    there is a pair to compare, and a column for each method, models before reference rows; None where a
    method has no answers.
    """
    one = results.tasks.get(task) if results else None
    if one is None:
        return ["person", "items"], []
    rows = sorted(one.primary_rows().items(), key=lambda pair: pair[1].reference)
    methods = [method for method, _ in rows if method in one.per_user]
    pair = personal_pair(one)
    changes = one.gains(*pair) if pair else {}
    headers = ["person", "items", *(["adapter changes"] if pair else []), *map(title_of, methods)]
    return headers, [
        [user_id, items, *([_rounded(changes.get(user_id))] if pair else []),
         *(_rounded(one.per_user[method].get(user_id)) for method in methods)]
        for user_id, items in one.history_lengths.items()
    ]  # fmt: skip


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _board(one: TaskResults) -> dict[str, Any]:
    """What the template needs to know."""
    _, *others = one.metrics
    methods, first, best = one.by_method(), one.primary_rows(), one.best_method()
    longest = max(max(row.value, *(row.ci95 or [0])) for row in first.values())
    top = math.ceil(10 * longest - _SAME) / 10 or 1.0
    rows = [
        _row(row, top)
        | {"others": [number(methods[method][name].value) for name in others], "best": method == best}
        for method, row in first.items()
    ]
    pair = personal_pair(one)
    return {
        "title": one.title,
        "finding": finding(one),
        "counts": counts_text(one),
        "metric": one.primary_title,
        "others": [one.metrics[name] for name in others],
        "lower": not one.higher_is_better,
        "top": f"{top:g}",
        "groups": [
            (title, group)
            for title, reference in (("Language models", False), ("For reference, without a model", True))
            if (group := [row for row in rows if row["reference"] == reference])
        ],
        "changes": _picture(one.gains(*pair), *pair) if pair else None,
        "set_aside": one.set_aside,
        "notes": one.notes,
        "glossary": [(method, describe_method(method)) for method in methods],
    }


def _row(row: ScoreRow, top: float) -> dict[str, Any]:
    """One method: its numbers as texts, and its bar in percentages of the axis from 0 to `top`."""
    interval, delta, p_value = row.ci95, row.delta, row.p_value
    sure = p_value is not None and p_value < 0.05 and not row.reference
    return {
        "method": row.method,
        "title": title_of(row.method),
        "reference": row.reference,
        "personal": row.method.startswith("oppu_"),
        "value": number(row.value),
        "interval": f"{number(interval[0])} to {number(interval[1])}" if interval else "",
        "width": round(100 * row.value / top, 2),
        "span": [round(100 * end / top, 2) for end in interval] if interval else None,
        "delta": None if delta is None else signed(delta),
        "p": None if p_value is None else p_text(p_value) + ("*" if p_value < 0.05 else ""),
        "sign": ("good" if delta > 0 else "bad") if sure and delta else "",
        "wins": row.wins,
    }


def _picture(changes: dict[str, float], method: str, baseline: str) -> dict[str, Any]:
    """The differences as bars of a picture that is 100 high; zero lies where both signs have room."""
    high, low = max(0.0, *changes.values()), min(0.0, *changes.values())
    room = high - low or 1.0
    zero = 100 * high / room if high > low else 50.0
    bars = []
    for place, (user_id, value) in enumerate(
        sorted(changes.items(), key=lambda change: (-change[1], change[0]))
    ):
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
