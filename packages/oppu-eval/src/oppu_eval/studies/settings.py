"""Scores of methods over several settings: the rows and the picture of most studies."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from oppu_core.prompting.methods import parse_method
from oppu_core.tasks.task import Task

from oppu_eval.scoring.evaluate import same_prompt
from oppu_eval.scoring.metrics import Metric
from oppu_eval.studies.picture import Panel, Series
from oppu_eval.studies.result import Column, Kind
from oppu_eval.studies.scoring import COUNT_COLUMNS, VALUE_COLUMNS, Scored, difference, difference_columns

Cells = Mapping[tuple[str, str], Scored]  # by (setting, method)
Paper = Callable[[str, str, str], Any]  # (setting, method, metric) -> what the paper printed


def setting_rows(
    task: str,
    cells: Cells,
    seed: int,
    *,
    shown: bool,
    reference: str | None = None,
    whole: str | None = None,
    paper: Paper = lambda setting, method, metric: None,
) -> list[dict[str, Any]]:
    """One row per setting and method.

    Args:
        task: The task's name.
        cells: The scores under one metric.
        seed: The seed of the resampling.
        shown: Whether people see these rows (those of the first metric).
        reference: The setting that others are compared with, method by method.
        whole: The setting of the whole history, if the others are parts of it: methods that read no history
            are the same in all, and are shown only in this one.
        paper: The paper's numbers.
    """
    rows = []
    for (setting, method), scored in cells.items():
        parsed = parse_method(method)
        same = whole is not None and not (parsed.adapter or parsed.profile or parsed.k)
        prompt = cells.get((setting, same_prompt(method) or ""))
        other = cells.get((reference, method)) if reference not in (None, setting) and not same else None
        rows.append(
            {
                "task": task,
                "setting": setting,
                "method": method,
                "metric_title": scored.metric.title,
                **scored.row(seed),
                **difference(scored.against(prompt, seed) if prompt else None, "adapter"),
                **difference(scored.against(other, seed) if other else None, "change"),
                "paper": paper(setting, method, scored.metric.name),
                "shown": shown and (not same or setting == whole),
            }
        )
    return rows


def setting_columns(setting: str, reference: str | None = None, paper: Kind = "score") -> list[Column]:
    """The columns of :func:`setting_rows`.

    Args:
        setting: What the settings are.
        reference: What the settings are compared with, in words.
        paper: How the paper's numbers are shown.
    """
    return [
        Column("task", "task"),
        Column("setting", setting),
        Column("method", "method"),
        Column("metric_title", "metric", shown=False),
        *VALUE_COLUMNS,
        *difference_columns("to same prompt,\nno adapter", "adapter"),
        *(difference_columns(f"to {reference}", "change") if reference else []),
        *COUNT_COLUMNS,
        Column("paper", "paper", paper),
    ]


def setting_panel(
    task: Task,
    metric: Metric,
    rows: Sequence[Mapping[str, Any]],
    settings: Mapping[str, str],
    series: Mapping[str, Mapping[str, str]],
    level: str | None = None,
) -> Panel:
    """A task's panel.

    Args:
        task: The task.
        metric: The metric of the rows.
        rows: The rows of this task and metric.
        settings: {setting: its name on the axis}.
        series: {label: {setting: method}}.
        level: A method that does not depend on the setting.
    """
    values = {(row["setting"], row["method"]): (row["value"], row["ci95"]) for row in rows}
    across = next((value for (_, method), (value, _) in values.items() if method == level), None)
    return Panel(
        task.title,
        metric.title + ("" if metric.higher_is_better else ", lower is better"),
        list(settings.values()),
        [
            Series(
                label, next(iter(methods.values())), [values.get((s, methods.get(s, ""))) for s in settings]
            )
            for label, methods in series.items()
        ],
        (level, across) if level is not None and across is not None else None,
    )


def each(methods: Sequence[str], settings: Sequence[str]) -> dict[str, dict[str, str]]:
    """One series per method, with the same method in every setting."""
    return {method: dict.fromkeys(settings, method) for method in methods}


def named(metric: Metric) -> str:
    """A metric's name for a sentence about differences, of which positive ones are better."""
    return metric.title if metric.higher_is_better else f"{metric.title} (positive is better)"


def sure(interval: tuple[float, float] | None) -> str:
    """What the interval of a difference means, in words."""
    if interval is None:
        return "of too few users nothing follows"
    if interval[0] > 0:
        return "the interval is above zero"
    return "the interval is below zero" if interval[1] < 0 else "the interval includes zero"


def told(value: float, interval: tuple[float, float] | None) -> str:
    """``+.123 [+.050, +.196]``."""
    from oppu_eval.reporting.table import signed

    if interval is None:
        return signed(value)
    return f"{signed(value)} [{signed(interval[0])}, {signed(interval[1])}]"
