"""One self-contained HTML page: what was compared, what came out, how sure that is, and some answers.

Everything that users wrote (texts, ids) is untrusted and escaped by the template; the pictures are made by
:mod:`oppu_eval.reporting.figures` and go in as they are. The page loads nothing and forbids itself to.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from oppu_eval.reporting.examples import ExampleUser
from oppu_eval.reporting.figures import personal_pair
from oppu_eval.reporting.findings import describe_method, finding_parts, formats
from oppu_eval.reporting.method_titles import title_of
from oppu_eval.reporting.paper import SOURCE, paper_value
from oppu_eval.reporting.table import counts_text
from oppu_eval.reporting.templating import render_page
from oppu_eval.scoring.evaluate import split_model
from oppu_eval.scoring.results import Results, TaskResults


def render_report(
    results: Results,
    figures: Mapping[str, str],
    examples: Sequence[ExampleUser],
    run: Mapping[str, Any],
    *,
    people: str | None = None,
    paper: bool = False,
    studies: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The report as HTML text.

    Args:
        results: What was scored.
        figures: Of :func:`oppu_eval.reporting.figures.draw_figures`, trusted: {"<task>/<picture>": SVG}.
        examples: What :func:`oppu_eval.reporting.examples.pick_examples` chose, for all tasks.
        run: How the numbers came about (model, data, seed, versions, command): {what: value}; values may
            be lists and mappings.
        people: Whose data it is about (:func:`~oppu_eval.reporting.method_titles.people_of`), if known.
        paper: Show the numbers that the OPPU paper published beside ours.
        studies: What :func:`~oppu_eval.reporting.study_views.study_views` made of the run's studies.

    Returns:
        A whole page; the same input gives the same text.
    """
    from markupsafe import Markup

    methods = dict.fromkeys(row.method for row in results.rows)
    return render_page(
        "report.html.j2",
        people=people,
        pairs=[pair for one in results.tasks.values() if (pair := _pair(one))],
        findings=[finding_parts(one) for one in results.tasks.values()],
        tasks=[
            {
                **_task_view(one, paper),
                "figures": {
                    name.removeprefix(f"{task}/"): Markup(svg)
                    for name, svg in figures.items()
                    if name.startswith(f"{task}/")
                },
                "examples": [example for example in examples if example.task == task],
            }
            for task, one in results.tasks.items()
        ],
        # Those of other models come last.
        glossary=[
            (method, title_of(method), describe_method(method))
            for method in sorted(methods, key=lambda method: split_model(method)[1] != "")
        ],
        run=[(_label(key), _lines(value)) for key, value in run.items()],
        paper_source=SOURCE if paper else None,
        studies=studies,
        title_of=title_of,
    )


def _task_view(one: TaskResults, paper: bool) -> dict[str, Any]:
    """What the template needs to know about one task."""
    rows = []
    for method, by_metric in one.by_method().items():
        row = by_metric[one.primary]
        total = sum(row.wins.values()) if row.wins else 0
        rows.append(
            {
                **vars(row),
                "title": title_of(method),
                "values": [by_metric[metric] for metric in one.metrics],
                "shares": {name: round(100 * count / total, 2) for name, count in row.wins.items()}
                if row.wins and total
                else None,
                "paper": [paper_value(one.paper_id, split_model(method)[0], metric) for metric in one.metrics]
                if paper
                else [],
            }
        )
    return {
        **vars(one),
        "metrics": list(one.metrics.values()),
        "higher_is_better": one.higher_is_better,
        "best": one.best_method(),
        "rows": rows,
        "counts": counts_text(one),
    }


def _pair(one: TaskResults) -> dict[str, Any] | None:
    """The picture at the top: the adapter beside the same prompt without it.

    Bars are in % of the best possible score; those of errors in % of the larger one.
    """
    pair = personal_pair(one)
    if pair is None:
        return None
    rows = one.primary_rows()
    values = [rows[method].value for method in reversed(pair)]
    top = max(*values, 1e-9) if one.kind == "rating" else 1.0
    shown = formats(one.kind)
    interval = rows[pair[0]].delta_same_prompt_ci95
    sure = interval is not None and (interval[0] > 0 or interval[1] < 0)
    return {
        "title": one.title,
        "metric": one.primary_title + ("" if one.higher_is_better else ", lower is better"),
        "bars": [
            {"title": title_of(method), "value": shown(value), "width": round(100 * value / top, 1)}
            for method, value in zip(reversed(pair), values, strict=True)
        ],
        "better": one.sign * (values[1] - values[0]) > 0,
        "sure": sure,
    }


def _label(key: str) -> str:
    return key.replace("_", " ")


def _lines(value: Any) -> list[str]:
    """A provenance value as lines of text."""
    if isinstance(value, Mapping):
        return [f"{key}: {', '.join(_lines(item))}" for key, item in value.items()] or ["–"]
    if isinstance(value, list | tuple):
        return [", ".join(line for item in value for line in _lines(item))] if value else ["–"]
    return ["–" if value is None else str(value)]
