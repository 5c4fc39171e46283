"""The queries on which methods differ most, as a page a person would read (the paper's Figure 5).

Such cases are picked for their difference, so they say nothing about how often an adapter helps; therefore
the counts over all queries always go with them.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from oppu_core.data.types import HistoryItem, Query, User
from oppu_core.files import canonical_json, content_id
from oppu_core.profiles import compute_profile
from oppu_core.prompts import PromptMaker, parse_method
from oppu_core.tasks import Kind, Task

from oppu_eval.drawing import ACCENT, GRID, INK, MUTED, WIDTH, heading, make_panels
from oppu_eval.evaluate import Predictions, method_order, queries_with_gold, same_prompt
from oppu_eval.examples import query_text, shorten
from oppu_eval.findings import describe_method
from oppu_eval.metrics import metrics_for
from oppu_eval.pages import render_page
from oppu_eval.studies.result import Column, Table
from oppu_eval.table import number

_LATEST = 4  # items of a user that a page shows
_QUERY_CHARS = 900  # the prompts below have the whole text
_CELL, _SLANT = 0.5, 0.95  # inches: a method's column in the picture, and the room of its slanted name
_KEYS = {
    "classification": "filled: as the user; empty: another",
    "rating": "filled: as the user; empty: off by so much",
    "generation": "ROUGE-1; a full bar is 1",
}


@dataclasses.dataclass(frozen=True)
class Pair:
    """In how many of all queries a personal method was better, equal and worse than its prompt alone."""

    method: str
    baseline: str
    better: int
    equal: int
    worse: int


@dataclasses.dataclass(frozen=True)
class Counts:
    """What holds for all queries of a task, not for the chosen ones only.

    Attributes:
        title: The task's.
        metric: What a person calls the score.
        queries: With a gold answer.
        users: Who asked them.
        alike: Queries on which all methods have the same score.
        pairs: One for each personal method whose prompt was also answered without the adapter.
    """

    title: str
    metric: str
    queries: int
    users: int
    alike: int
    pairs: tuple[Pair, ...]


@dataclasses.dataclass(frozen=True)
class Chosen:
    """A query and how every method fared on it.

    Attributes:
        user: Whose query.
        query: One with a gold answer.
        scores: {method: primary metric on this query alone}, in the order of the paper's Table 1.
        gains: {(personal method, the same prompt's without adapter): difference, positive is better}.
        spread: The distance between the best and the worst score.
    """

    user: User
    query: Query
    scores: Mapping[str, float]
    gains: Mapping[tuple[str, str], float]
    spread: float

    @property
    def pair(self) -> tuple[str, str] | None:
        """The pair with the largest gain in absolute value; the first among equals, None where none is."""
        return max(self.gains, key=lambda pair: abs(self.gains[pair]), default=None)

    @property
    def gain(self) -> float:
        """That pair's gain; 0 where there is no pair."""
        return self.gains[self.pair] if self.pair else 0.0


@dataclasses.dataclass(frozen=True)
class Habits:
    """What a user's training history shows.

    Attributes:
        items: How many there are.
        labels: Every label and how often the user gave it, the most frequent first; empty for other tasks.
        profile: The computed profile; for tasks without labels in the history.
        mean_words: Of the user's texts; for the same tasks.
        latest: The latest items (for the same tasks the user's texts alone), the last one first.
    """

    items: int
    labels: tuple[tuple[str, int], ...]
    profile: str
    mean_words: float | None
    latest: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Asked:
    """A method's answer to a case, and what it was asked.

    Attributes:
        method: e.g. ``oppu_rag_k1``.
        answer: As written.
        score: The primary metric on this query alone.
        prompt: The exact text in front of the answer.
        retrieved: The items in the prompt, a line each.
        profile: The profile in the prompt, or nothing.
    """

    method: str
    answer: str
    score: float
    prompt: str
    retrieved: tuple[str, ...]
    profile: str


@dataclasses.dataclass(frozen=True)
class Case:
    """A chosen query with everything that its page shows; texts and ids are users' own, hence untrusted.

    Attributes:
        task: The task's name.
        kind: The task's kind; decides how scores are said.
        user_id: Whose query.
        query_id: Which one.
        query: Its text.
        gold: What the user answered.
        spread: See :class:`Chosen`.
        gain: See :class:`Chosen`.
        why: Why it was chosen, a sentence.
        asked: One for each method that has answered, in the order of the paper's Table 1.
        habits: The user's.
    """

    task: str
    kind: Kind
    user_id: str
    query_id: str
    query: str
    gold: str
    spread: float
    gain: float
    why: str
    asked: tuple[Asked, ...]
    habits: Habits


def choose(
    task: Task, users: Sequence[User], predictions: Predictions, *, cases: int = 8
) -> tuple[list[Chosen], Counts]:
    """The queries on which the methods differ most, and counts over all queries.

    Queries rank by the absolute gain of the adapter, then by the spread over all methods, then by a hash, so
    that the choice among equals is arbitrary and repeatable. Half of the cases are such that the adapter
    helps, half such that it harms, as far as there are any; nobody is shown twice while there are others
    for whom it does either. Only then come queries on which the methods differ for other reasons.

    Args:
        task: The task that was answered.
        users: Whose queries.
        predictions: {method: {(user id, query id): answer}}; users whom a method lacks count for the others.
        cases: How many, at most; queries on which all methods score the same are never chosen.

    Returns:
        The cases where adapters help, those where they harm, those where other things matter; the counts.

    Raises:
        DataError: the queries cannot be scored, see :func:`oppu_eval.evaluate.queries_with_gold`.
    """
    metric = metrics_for(task)[0]
    methods = sorted(predictions, key=method_order)
    pairs = [(method, base) for method in methods if (base := same_prompt(method)) in methods and base]
    scored = queries_with_gold(task, users)
    everything = []
    for user in users:
        for query in scored.get(user.user_id, ()):
            key = user.user_id, query.id
            scores = {
                method: metric.score([predictions[method][key]], [query.gold or ""])
                for method in methods
                if key in predictions[method]
            }
            # Rounded, because sums in another order are no difference; + 0.0, because -0.0 is none either.
            gains = {
                (method, base): round(metric.sign * (scores[method] - scores[base]), 9) + 0.0
                for method, base in pairs
                if method in scores and base in scores
            }
            spread = round(max(scores.values()) - min(scores.values()), 9) if scores else 0.0
            everything.append(Chosen(user, query, scores, gains, spread))
    counts = Counts(
        title=task.title,
        metric=metric.title,
        queries=len(everything),
        users=len(scored),
        alike=sum(one.spread == 0 for one in everything),
        pairs=tuple(
            _pair(pair, [one.gains[pair] for one in everything if pair in one.gains]) for pair in pairs
        ),
    )
    return _pick([one for one in everything if one.spread], cases), counts


def _pair(pair: tuple[str, str], gains: Sequence[float]) -> Pair:
    better, worse = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
    return Pair(*pair, better, len(gains) - better - worse, worse)


def _pick(candidates: Sequence[Chosen], cases: int) -> list[Chosen]:
    """Case by case: users who have none yet first, then a side that lacks its half, then the rank."""
    ranked = sorted(
        candidates,
        key=lambda one: (-abs(one.gain), -one.spread, content_id([one.user.user_id, one.query.id])),
    )
    # The side that fewer users can stand for chooses first, or the other one might take its users.
    users_of_sides = {(one.user.user_id, one.gain > 0) for one in ranked if one.gain}
    supply = collections.Counter(helps for _, helps in users_of_sides)
    of_user: collections.Counter[str] = collections.Counter()
    of_side: collections.Counter[bool] = collections.Counter()
    picked: list[Chosen] = []

    def order(one: Chosen) -> tuple[Any, ...]:
        helps = one.gain > 0
        return one.gain == 0, of_user[one.user.user_id], 2 * of_side[helps] >= cases, supply[helps]

    while ranked and len(picked) < cases:
        best = ranked.pop(min(range(len(ranked)), key=lambda index: order(ranked[index])))
        of_user[best.user.user_id] += 1
        of_side[best.gain > 0] += 1
        picked.append(best)
    return sorted(picked, key=lambda one: (one.gain <= 0, one.gain == 0, -abs(one.gain)))


def habits(task: Task, user: User) -> Habits:
    """What the history that personal training may see says about a user."""
    history = user.training_history
    latest = history[: -_LATEST - 1 : -1]
    if task.labels and task.output_field:
        counts = collections.Counter(item.fields[task.output_field].strip() for item in history)
        labels = sorted(dict.fromkeys([*task.labels, *counts]), key=lambda label: -counts[label])
        lines = tuple(_line(task, item) for item in latest)
        return Habits(len(history), tuple((label, counts[label]) for label in labels), "", None, lines)
    texts = [text for item in history if (text := item.fields[task.text_field].strip())]
    words = sum(len(text.split()) for text in texts) / len(texts) if texts else None
    return Habits(len(history), (), compute_profile(task, history), words, tuple(texts[: -_LATEST - 1 : -1]))


def _line(task: Task, item: HistoryItem) -> str:
    """An item on one line, as prompts show it."""
    return " ".join(task.history_line(item.fields).split())


def build(
    task: Task,
    users: Sequence[User],
    predictions: Predictions,
    maker_of: Callable[[str], PromptMaker],
    profile_of: Callable[[User], str],
    *,
    cases: int = 8,
) -> tuple[list[Case], Counts]:
    """The chosen queries with everything that a reader wants to see, and counts over all queries.

    Args:
        task: The task that was answered.
        users: Whose queries.
        predictions: {method: {(user id, query id): answer}}.
        maker_of: What made a method's prompts. A personal prompt may have to leave room for the adapter's
            own tokens (:meth:`oppu_core.pipeline.VariantWork.with_adapter`).
        profile_of: A user's profile text.
        cases: How many, at most.

    Raises:
        ConfigError: a method's name cannot be read.
        DataError: the queries cannot be scored.
    """
    chosen, counts = choose(task, users, predictions, cases=cases)
    return [_case(task, one, predictions, maker_of, profile_of, counts.metric) for one in chosen], counts


def _case(
    task: Task,
    one: Chosen,
    predictions: Predictions,
    maker_of: Callable[[str], PromptMaker],
    profile_of: Callable[[User], str],
    metric: str,
) -> Case:
    user, query = one.user, one.query
    user_profile = profile_of(user)
    asked = []
    for method, score in one.scores.items():
        prompt = maker_of(method).query_prompt(parse_method(method), user, query, user_profile)
        retrieved = tuple(_line(task, item) for item in prompt.retrieved)
        answer = predictions[method][user.user_id, query.id]
        asked.append(Asked(method, answer, score, prompt.text, retrieved, prompt.profile))
    return Case(
        task=task.name,
        kind=task.kind,
        user_id=user.user_id,
        query_id=query.id,
        query=query_text(task, query),
        gold=(query.gold or "").strip(),
        spread=one.spread,
        gain=one.gain,
        why=_why(task.kind, one, metric),
        asked=tuple(asked),
        habits=habits(task, user),
    )


def verdict(kind: Kind, score: float) -> str:
    """A score on one query in words: ``right``, ``wrong``, ``off by 2``, or the number where texts differ."""
    if kind == "classification":
        return "right" if score else "wrong"
    if kind == "rating":
        return f"off by {score:g}" if score else "right"
    return number(score)


def _why(kind: Kind, one: Chosen, metric: str) -> str:
    if one.pair is None or not one.gain:
        return "The methods differ, and not because of an adapter."
    said = ", ".join(f"{method} {verdict(kind, one.scores[method])}" for method in one.pair)
    unit = f" ({metric})" if kind == "generation" else ""
    word = "helps" if one.gain > 0 else "harms"
    if len(one.gains) > 1:
        word += f" with {sum(gain * one.gain > 0 for gain in one.gains.values())} of {len(one.gains)} prompts"
    return f"The adapter {word}: {said}{unit}."


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
    """The cases as a whole HTML page; the same input gives the same text.

    Args:
        cases_by_task: What :func:`build` made.
        counts_by_task: The same, for the same tasks.
        facts: How the answers came about (model, data, seed, versions): {what: JSON value}.
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
    """What the template needs to know about a case; methods with the same prompt share it."""
    prompts: dict[str, list[Asked]] = {}
    for asked in case.asked:
        prompts.setdefault(asked.prompt, []).append(asked)
    bars = list(_bars(case))
    return {
        "case": case,
        "query": case.query if len(case.query) <= _QUERY_CHARS else shorten(case.query, _QUERY_CHARS),
        "answers": [(asked, verdict(case.kind, asked.score)) for asked in case.asked],
        "bars": bars,
        "never": [label for label, _ in case.habits.labels if label not in {bar["label"] for bar in bars}],
        "prompts": [([asked.method for asked in alike], alike[0]) for alike in prompts.values()],
    }


def _bars(case: Case) -> Iterator[dict[str, Any]]:
    """A bar for each label that the user gave or that is an answer here; the longest is 100 wide."""
    most = max((count for _, count in case.habits.labels), default=0) or 1
    for label, count in case.habits.labels:
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


def draw(cases_by_task: Mapping[str, Sequence[Case]], titles: Mapping[str, str] | None = None) -> Any:
    """A panel for each task with cases (`titles` has their names): a row a case, a column a method.

    A filled circle is the user's own answer, an empty one another; for ratings the error stands beside it.
    For texts the score stands above a bar of its length. Without any case there is a sentence instead.
    """
    panels_of = {task: cases for task, cases in cases_by_task.items() if cases}
    if not panels_of:
        figure, (axes,) = make_panels(1, 0.6, left=0.1, right=0.1, top=0.4, bottom=0.1)
        axes.set_axis_off()
        heading(axes, "All methods have the same score on every query", lift=0)
        return figure
    methods = max(len(_methods(cases)) for cases in panels_of.values())
    rows = max(len(cases) + len({_side(case) for case in cases}) for cases in panels_of.values())
    beside = [text for cases in panels_of.values() for case in cases for text in (_label(case), _side(case))]
    left, right, top, bottom = 0.3 + 0.08 * max(map(len, beside)), 0.85, 0.45 + _SLANT, 0.4
    figure, panels = make_panels(
        len(panels_of),
        top + 0.27 * rows + bottom,
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        extra=left + _CELL * methods + right - WIDTH,
        columns=2 if methods <= 8 else 1,
    )
    for axes, (task, cases) in zip(panels, panels_of.items(), strict=True):
        _panel(axes, cases, methods, rows, (titles or {}).get(task, task))
    return figure


def _methods(cases: Sequence[Case]) -> list[str]:
    return sorted({asked.method for case in cases for asked in case.asked}, key=method_order)


def _label(case: Case) -> str:
    return f"{_plain(case.user_id, 14)}: {_plain(case.gold, 22)}"


def _side(case: Case) -> str:
    return "Adapter helps" if case.gain > 0 else "Adapter harms" if case.gain < 0 else "Other differences"


def _panel(axes: Any, cases: Sequence[Case], columns: int, rows: int, title: str) -> None:
    methods = _methods(cases)
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(0.5 - rows, 0.5)
    axes.set_axis_off()
    for x, method in enumerate(methods):
        axes.annotate(
            method, (x, 0.5), xytext=(-4, 0), textcoords="offset points", rotation=40, rotation_mode="anchor",
            color=ACCENT if method.startswith("oppu_") else INK, annotation_clip=False,
        )  # fmt: skip
    y, side = 0, ""
    for case in cases:
        if _side(case) != side:
            side = _side(case)
            _beside(axes, y, side, MUTED)
            axes.axhline(y - 0.5, xmax=len(methods) / columns, color=GRID, linewidth=0.8)
            y -= 1
        _beside(axes, y, _label(case), INK)
        for asked in case.asked:
            _cell(axes, methods.index(asked.method), y, case.kind, asked)
        y -= 1
    heading(axes, title, lift=72 * _SLANT + 6)
    axes.annotate(
        _KEYS[cases[0].kind], (0, y + 0.5), xycoords=("axes fraction", "data"), xytext=(0, -12),
        textcoords="offset points", color=MUTED, fontsize=8.5, annotation_clip=False,
    )  # fmt: skip


def _beside(axes: Any, y: float, text: str, colour: str) -> None:
    """A row's text, left of the columns."""
    axes.annotate(
        text, (0, y), xycoords=("axes fraction", "data"), xytext=(-8, 0), textcoords="offset points",
        ha="right", va="center", color=colour, annotation_clip=False, parse_math=False,
    )  # fmt: skip


def _cell(axes: Any, x: int, y: float, kind: Kind, asked: Asked) -> None:
    colour = ACCENT if asked.method.startswith("oppu_") else INK
    if kind == "generation":
        axes.annotate(
            number(asked.score), (x, y + 0.05), ha="center", va="center", fontsize=8.5, color=colour
        )
        axes.plot([x - 0.35, x + 0.35], [y - 0.37] * 2, color=GRID, linewidth=0.8, solid_capstyle="butt")
        end = x - 0.35 + 0.7 * min(asked.score, 1)
        axes.plot([x - 0.35, end], [y - 0.37] * 2, color=colour, linewidth=2.2, solid_capstyle="butt")
        return
    right = verdict(kind, asked.score) == "right"
    axes.plot(x, y, "o", color=colour, markersize=7, markerfacecolor=colour if right else "none")
    if kind == "rating" and not right:
        axes.annotate(
            f"{asked.score:g}", (x, y), xytext=(6, 0), textcoords="offset points",
            va="center", fontsize=8, color=colour,
        )  # fmt: skip


def _plain(text: str, limit: int) -> str:
    """A short text that any picture can hold: no character that cannot be printed, no lone surrogate."""
    short = shorten(text, limit)
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in short
    )
