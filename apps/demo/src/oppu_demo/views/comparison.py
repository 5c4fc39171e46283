"""The answers of several methods side by side as HTML: texts, differences, and what they are based on."""

import dataclasses
import difflib
from collections.abc import Sequence

from oppu_core.prompting.methods import Method, parse_method
from oppu_core.tasks.task import Task
from oppu_eval.reporting.findings import describe_method
from oppu_eval.reporting.method_titles import title_of
from oppu_eval.scoring.metrics import metrics_for

from oppu_demo.engine import Answered
from oppu_demo.templating import render


@dataclasses.dataclass(frozen=True)
class Column:
    """One method's column in a comparison.

    Attributes:
        method: The method's name.
        answered: Its answer; None if it is not there yet.
        problem: Why there will be none.
    """

    method: str
    answered: Answered | None = None
    problem: str = ""


def default_methods(methods: Sequence[str]) -> list[str]:
    """The methods shown first: the query alone, one kind of retrieval, a profile; each without and with the
    person's own adapter, where there is one."""
    own = {name: m for name in methods if (m := parse_method(name)).adapter in (None, "own")}
    kinds = [
        [prompt_of(m) for m in own.values() if not m.k and not m.profile],
        [prompt_of(m) for m in own.values() if m.k and not m.profile and m.retriever != "random"],
        [prompt_of(m) for m in own.values() if m.profile],
    ]
    chosen = {kind[0] for kind in kinds if kind}
    return [name for name, m in own.items() if prompt_of(m) in chosen]


def prompt_of(method: Method) -> str:
    """The method with the same prompt and no adapter."""
    return method.without_adapter.name


def by_prompt(columns: Sequence[Column]) -> list[list[Column]]:
    """Columns in rows of the same prompt, those without an adapter first."""
    rows: dict[str, list[Column]] = {}
    for column in columns:
        rows.setdefault(prompt_of(parse_method(column.method)), []).append(column)
    return [
        sorted(row, key=lambda column: bool(parse_method(column.method).adapter)) for row in rows.values()
    ]


def adapter_title(variant: str) -> str:
    """A name for people of the adapter that was trained with a prompt: that of the method that uses it."""
    return title_of("oppu_k0" if variant == "base" else f"oppu_{variant}")


def tagline_of(method: str) -> str:
    """What a method knows of the person, in one line."""
    parsed = parse_method(method)
    items = {"random": "some others’ item", "recent": "their latest item", "bm25": "their most similar item",
             "dense": "their semantically most similar item"}  # fmt: skip
    seen = [f"{items[parsed.retriever]}{'s' * (parsed.k > 1)}"] if parsed.retriever else []
    if parsed.profile:
        seen.append("a text about them")
    prompt = f"sees {' and '.join(seen)}" if seen else ""
    if parsed.adapter:
        past = {"own": "their past", "pooled": "everybody’s past", "stranger": "somebody else’s past"}
        return f"Has learnt from {past[parsed.adapter]}{', and ' + prompt if prompt else ''}."
    return f"{prompt[:1].upper()}{prompt[1:]}." if prompt else "Knows nothing of the person."


def compare_view(
    task: Task, question: str, columns: Sequence[Column], gold: str | None = None, reveal: bool = False
) -> str:
    """The cards of a comparison.

    Args:
        task: The task.
        question: The query's text.
        columns: The columns in the order of the page.
        gold: The user's own answer, if known.
        reveal: Whether to show it and compare the answers with it.
    """
    plain = next(
        (c.answered.text for c in columns if c.answered and not parse_method(c.method).adapter), None
    )
    shown = gold if reveal else None
    rows = [[_card(task, column, plain, shown) for column in row] for row in by_prompt(columns)]
    answered = any(column.answered for column in columns)
    return render(
        "compare.html.j2",
        task=task,
        question=question,
        rows=rows,
        answered=answered,
        gold=gold,
        reveal=reveal,
    )


def _personal(method: str) -> bool:
    return parse_method(method).personal


def _card(task: Task, column: Column, plain: str | None, gold: str | None) -> dict[str, object]:
    answered = column.answered
    card: dict[str, object] = {
        "method": column.method,
        "title": title_of(column.method),
        "tagline": tagline_of(column.method),
        "about": describe_method(column.method),
        "personal": _personal(column.method),
        "problem": column.problem,
        "answered": answered,
    }
    if answered is None:
        return card
    card |= {
        "words": marked(answered.text, plain),
        "seconds": _seconds(answered.seconds),
        "items": [task.history_line(item.fields) for item in answered.prompt.retrieved],
    }
    if gold is not None:
        card |= _verdict(task, answered.text, gold)
    return card


def _seconds(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def marked(text: str, plain: str | None) -> list[tuple[str, bool]]:
    """The text in pieces: (piece, whether it differs from the plain answer); whole if there is none."""
    if plain is None:
        return [(text, False)] * bool(text)
    words, others = text.split(), (plain or "").split()
    pieces: list[tuple[str, bool]] = []
    matcher = difflib.SequenceMatcher(
        a=[word.lower() for word in others], b=[word.lower() for word in words], autojunk=False
    )
    for kind, _, _, start, end in matcher.get_opcodes():
        if end > start:
            pieces.append((" ".join(words[start:end]), kind != "equal"))
    return pieces


def _verdict(task: Task, text: str, gold: str) -> dict[str, object]:
    """How an answer compares with the user's own."""
    metric = metrics_for(task)[0]
    score = metric.score([text], [gold])
    if task.kind == "generation":
        return {"verdict": f"{metric.title} {score:.2f}", "good": score >= 0.5}
    right = score == (0 if task.kind == "rating" else 1)
    if task.kind == "rating" and not right:
        return {"verdict": f"off by {score:g}", "good": False}
    return {"verdict": "right" if right else "wrong", "good": right}
