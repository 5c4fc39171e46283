"""One self-contained HTML page: what was compared, what came out, how sure that is, and some answers.

Everything that users wrote (texts, ids) is untrusted and escaped by the template; the pictures are made by
:mod:`oppu_eval.reporting.figures` and go in as they are. The page loads nothing and forbids itself to.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from oppu_eval.reporting.examples import ExampleUser
from oppu_eval.reporting.findings import describe_method, finding
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
        paper: Show the numbers that the OPPU paper published beside ours.
        studies: What :func:`~oppu_eval.reporting.study_views.study_views` made of the run's studies.

    Returns:
        A whole page; the same input gives the same text.
    """
    from markupsafe import Markup

    methods = dict.fromkeys(row.method for row in results.rows)
    return render_page(
        "report.html.j2",
        findings=[finding(one) for one in results.tasks.values()],
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
            (method, describe_method(method))
            for method in sorted(methods, key=lambda method: split_model(method)[1] != "")
        ],
        run=[(_label(key), _lines(value)) for key, value in run.items()],
        paper_source=SOURCE if paper else None,
        studies=studies,
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


def _label(key: str) -> str:
    return key.replace("_", " ")


def _lines(value: Any) -> list[str]:
    """A provenance value as lines of text."""
    if isinstance(value, Mapping):
        return [f"{key}: {', '.join(_lines(item))}" for key, item in value.items()] or ["–"]
    if isinstance(value, list | tuple):
        return [", ".join(line for item in value for line in _lines(item))] if value else ["–"]
    return ["–" if value is None else str(value)]
