"""Cases to read as a table and as a page; texts and ids are untrusted, as they come from users."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from oppu_core.storage.files import canonical_json
from oppu_core.texts import shorten

from oppu_eval.reporting.findings import describe_method
from oppu_eval.reporting.templating import render_page
from oppu_eval.scoring.evaluate import method_order
from oppu_eval.studies.case_choice import Counts
from oppu_eval.studies.case_content import Asked, Case, verdict
from oppu_eval.studies.result import Column, Table

_QUERY_CHARS = 900  # the prompts below have the full text


def table(cases_by_task: Mapping[str, Sequence[Case]]) -> Table:
    """A row for each case and method."""
    columns = (
        Column("task", "Task", shown=False),
        Column("case", "Case", "count"),
        Column("user", "User"),
        Column("query", "Query"),
        Column("why", "Why", shown=False),
        Column("gold", "The user"),
        Column("method", "Method"),
        Column("answer", "Answer"),
        Column("score", "Score", "score"),
    )
    rows = [
        {
            "task": task,
            "case": position,
            "user": case.user_id,
            "query": case.query_id,
            "why": case.why,
            "gold": case.gold,
            "method": asked.method,
            "answer": asked.answer,
            "score": asked.score,
        }
        for task, cases in cases_by_task.items()
        for position, case in enumerate(cases, 1)
        for asked in case.asked
    ]
    return Table(columns, rows)


def cases_page(
    cases_by_task: Mapping[str, Sequence[Case]],
    counts_by_task: Mapping[str, Counts],
    facts: Mapping[str, Any],
) -> str:
    """The cases as a complete HTML page; the same input gives the same text.

    Args:
        cases_by_task: Cases from :func:`build`.
        counts_by_task: Counts from :func:`build`, for the same tasks.
        facts: How the answers were made (model, data, seed, versions): {name: JSON value}.
    """
    methods = {asked.method for cases in cases_by_task.values() for case in cases for asked in case.asked}
    return render_page(
        "cases.html.j2",
        tasks=[
            {
                "counts": counts_by_task[task],
                "kind": cases[0].kind if cases else None,
                "cases": [_case_view(case) for case in cases],
            }
            for task, cases in cases_by_task.items()
        ],
        glossary=[(method, describe_method(method)) for method in sorted(methods, key=method_order)],
        facts=[
            (name.replace("_", " "), value if isinstance(value, str) else canonical_json(value))
            for name, value in facts.items()
        ],
    )


def _case_view(case: Case) -> dict[str, Any]:
    """A case as the template needs it; methods with the same prompt share it."""
    prompts: dict[str, list[Asked]] = {}
    for asked in case.asked:
        prompts.setdefault(asked.prompt, []).append(asked)
    bars = list(_bars(case))
    return {
        "case": case,
        "query": case.query if len(case.query) <= _QUERY_CHARS else shorten(case.query, _QUERY_CHARS),
        "answers": [(asked, verdict(case.kind, asked.score)) for asked in case.asked],
        "bars": bars,
        "never": [label for label, _ in case.about.labels if label not in {bar["label"] for bar in bars}],
        "prompts": [([asked.method for asked in alike], alike[0]) for alike in prompts.values()],
    }


def _bars(case: Case) -> Iterator[dict[str, Any]]:
    """A bar for each label that the user gave or that is an answer here; the longest has width 100."""
    most = max((count for _, count in case.about.labels), default=0) or 1
    for label, count in case.about.labels:
        by = [asked.method for asked in case.asked if asked.answer.strip() == label]
        gold = label == case.gold
        if count or by or gold:
            yield {
                "label": label,
                "count": count,
                "width": round(100 * count / most, 1),
                "gold": gold,
                "by": by,
            }
