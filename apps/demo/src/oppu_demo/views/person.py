"""One person as HTML: their history, what is typical of it, and what was learned from it.

Everything is from what training may see (:attr:`User.training_history`), so it reveals no query's answer.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup
from oppu_core.data.statistics import NO_LABEL
from oppu_core.data.types import User
from oppu_core.prompting.methods import variant_method
from oppu_core.prompting.profiles import compute_profile
from oppu_core.tasks.task import Task
from oppu_core.texts import shorten
from oppu_eval.reporting.findings import describe_prompt
from oppu_eval.reporting.habits import FEATURES, Habits, habit_field, habits
from rich.filesize import decimal

from oppu_demo.templating import render
from oppu_demo.views.comparison import adapter_title

_LINE_CHARS = 60
_SHOWN_ITEMS = 100
_BARS = 15
_WORDS = 8


@dataclasses.dataclass(frozen=True)
class Adapter:
    """One of a person's adapters.

    Attributes:
        variant: The prompts that it was trained with, e.g. ``rag_k1``.
        facts: Facts about its training (:attr:`oppu_core.storage.store.Entry.facts`).
        size: The size of its weights in bytes, if known.
        problem: Why there is none.
        losses: The loss of every step, if known.
    """

    variant: str
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    size: int | None = None
    problem: str = ""
    losses: Sequence[float] = ()


@dataclasses.dataclass(frozen=True)
class _Bar:
    """A person's number beside everybody's, both also in percent of the bar's width, and their distance."""

    name: str
    own: str
    all: str
    own_width: float
    all_width: float
    apart: float


def habit_line(task: Task, user: User) -> str:
    """A person in at most 60 characters of plain text: ``37 items · mostly action, comedy``."""
    count = len(user.training_history)
    line = f"{count:,} item{'s' * (count != 1)}"
    if task.labelled_history:
        own = _by_label(task, habits(task, [user]))
        if not own.texts:
            return line
        common = _common(own.labels)[:2]
        how = "mostly" if 2 * sum(own.labels[name] for name in common) >= own.texts else "often"
        what = f"{how} {habit_field(task)}" if task.kind == "rating" else how
        return shorten(f"{line} · {what} {', '.join(common)}", _LINE_CHARS)
    # "title style: about 9 words; all lower case; …." -> as many of its parts as fit
    about = compute_profile(task, user.training_history).partition(": ")[2].rstrip(".")
    joint = " · "
    for part in re.split("[;,] ", about) if about else []:
        if len(line + joint + part) > _LINE_CHARS:
            break
        line += joint + part
        joint = ", "
    return line


def history_view(user: User, words: str | None) -> str:
    """The items of a history that have all of some words, newest first; None is an untouched search box."""
    wanted = (words or "").casefold().split()
    items = [
        item
        for item in user.training_history[::-1]
        if all(word in " ".join([*item.fields.values(), item.date or ""]).casefold() for word in wanted)
    ]
    count = len(user.training_history)
    return render("history.html.j2", items=items[:_SHOWN_ITEMS], found=len(items), count=count)


def person_view(
    task: Task, user: User, everybody: Habits, profile: str, adapters: Sequence[Adapter] = ()
) -> str:
    """Everything about a person.

    Args:
        task: The task.
        user: The person.
        everybody: The habits of all test users.
        profile: Their profile text for prompts.
        adapters: Their adapters by variant.
    """
    own, everybody = _by_label(task, habits(task, [user])), _by_label(task, everybody)
    field = habit_field(task).replace("_", " ")
    bars, words, line = [], [], ""
    if own.labels:
        bars, line = _label_bars(task, own, everybody), _labels_line(field, own, everybody)
    elif own.texts:
        bars, words = _feature_bars(own, everybody), _word_bars(own, everybody)
        line = _texts_line([*bars[1:], *words])  # without the length
    dates = sorted(item.date[:10] for item in user.training_history if item.date)
    return render(
        "person.html.j2",
        user_id=user.user_id,
        count=len(user.training_history),
        dates=(dates[0], dates[-1]) if dates else None,
        line=line,
        field=field,
        labelled=task.labelled_history,
        everybody=everybody,
        bars=bars,
        words=words,
        profile=profile,
        adapters=[_adapter(adapter) for adapter in adapters],
    )


def loss_curve(losses: Sequence[float], steps: int = 0) -> Markup:
    """The losses of a training, step by step, as a small SVG picture; empty without any.

    Args:
        losses: The losses in the order of the steps.
        steps: The number of steps in all, so that the picture of a running training keeps its scale.
    """
    points = [(step, loss) for step, loss in enumerate(losses, 1) if math.isfinite(loss)]
    if not points:
        return Markup("")
    steps = max(steps, len(losses), 2)
    top = max(loss for _, loss in points) or 1.0
    left, right, high, low = 50, 312, 26, 122

    def place(step: int, loss: float) -> str:
        x = left + (right - left) * (step - 1) / (steps - 1)
        return f"{x:.1f},{low - (low - high) * max(loss, 0) / top:.1f}"

    rules = "".join(
        f'<line x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>' for y in (high, (high + low) // 2, low)
    )
    said = f"Loss of {len(losses)} steps, from {points[0][1]:.2f} to {points[-1][1]:.2f}"
    end_x, end_y = place(*points[-1]).split(",")
    return Markup(
        f'<svg class="oppu-loss" viewBox="0 0 320 148" role="img" aria-label="{said}">'
        f"<title>{said}</title><g class='oppu-loss-grid'>{rules}</g>"
        f'<g text-anchor="end"><text x="44" y="{high + 5}">{top:.2f}</text>'
        f'<text x="44" y="{(high + low) // 2 + 5}">{top / 2:.2f}</text>'
        f'<text x="44" y="{low + 5}">0</text></g>'
        f'<text x="{left}" y="14">loss</text><text x="{left}" y="142">1</text>'
        f'<text x="{right}" y="142" text-anchor="end">{steps}</text>'
        f'<text x="{(left + right) // 2}" y="142" text-anchor="middle">training step</text>'
        f'<polyline points="{" ".join(place(*point) for point in points)}"/>'
        f'<circle cx="{end_x}" cy="{end_y}" r="3.5"/></svg>'
    )


def _by_label(task: Task, measured: Habits) -> Habits:
    """The same with every answer that is not a label under `NO_LABEL`."""
    labels: collections.Counter[str] = collections.Counter()
    for answer, count in measured.labels.items():
        labels[answer if answer in task.labels else NO_LABEL] += count
    return dataclasses.replace(measured, labels=labels)


def _common(counts: Mapping[str, int]) -> list[str]:
    """The most frequent first; among equals by name."""
    return sorted(counts, key=lambda name: (-counts[name], name))


def _percent(share: float) -> str:
    return "<1\u00a0%" if 0 < share < 0.005 else f"{100 * share:.0f}\u00a0%"


def _share(count: int, whole: Habits) -> float:
    return count / whole.texts if whole.texts else 0.0


def _labels_line(field: str, own: Habits, everybody: Habits) -> str:
    """The most frequent labels in a sentence."""
    mine = [f"{name} ({own.labels[name]:,})" for name in _common(own.labels)[:3]]
    theirs = [
        f"{name} ({_percent(_share(everybody.labels[name], everybody))})"
        for name in _common(everybody.labels)[:3]
    ]
    return f"Most frequent {field}: {', '.join(mine)}; everybody: {', '.join(theirs) or '–'}."


def _texts_line(shares: Sequence[_Bar]) -> str:
    """What differs most from everybody, in a sentence; empty if nothing differs much."""
    apart = sorted(shares, key=lambda bar: -bar.apart)[:3]
    parts = [f"{bar.name} {bar.own} (everybody {bar.all})" for bar in apart if bar.apart >= 0.05]
    return f"Least like everybody: {', '.join(parts)}." if parts else ""


def _label_bars(task: Task, own: Habits, everybody: Habits) -> list[_Bar]:
    """The labels that anybody gave: ratings in order, else by this person's frequency, the rarest merged."""
    known = [*task.labels, NO_LABEL]
    names = [name for name in known if own.labels.get(name) or everybody.labels.get(name)]
    if task.kind != "rating":
        names.sort(key=lambda name: (-own.labels.get(name, 0), -everybody.labels.get(name, 0)))
    pairs = [(name, own.labels.get(name, 0), everybody.labels.get(name, 0)) for name in names]
    if len(pairs) > _BARS:
        rest = pairs[_BARS:]
        pairs = [*pairs[:_BARS],
                 (f"{len(rest)} other labels", sum(p[1] for p in rest), sum(p[2] for p in rest))]  # fmt: skip
    return _bars([(name, _share(mine, own), _share(all_, everybody)) for name, mine, all_ in pairs])


def _word_bars(own: Habits, everybody: Habits) -> list[_Bar]:
    """The words that are in a larger share of this person's texts than of everybody's, by the difference."""
    more = {
        word: _share(count, own) - _share(everybody.words.get(word, 0), everybody)
        for word, count in own.words.items()
        if count > 1
    }
    words = [word for word in sorted(more, key=lambda word: (-more[word], word)) if more[word] > 0]
    return _bars(
        [(f"“{word}”", _share(own.words[word], own), _share(everybody.words.get(word, 0), everybody))
         for word in words[:_WORDS]]
    )  # fmt: skip


def _feature_bars(own: Habits, everybody: Habits) -> list[_Bar]:
    """The features that occur; lengths have a scale of their own."""
    pairs = [(name, own.features[name], everybody.features.get(name, 0.0)) for name in FEATURES]
    length = _bars(pairs[:1], show=lambda value: f"{value:.1f}")
    return length + _bars([pair for pair in pairs[1:] if max(pair[1:]) >= 0.01], longest=1.0)


def _bars(
    pairs: Sequence[tuple[str, float, float]],
    show: Callable[[float], str] = _percent,
    longest: float | None = None,
) -> list[_Bar]:
    whole = longest or max((max(mine, all_) for _, mine, all_ in pairs), default=0) or 1.0

    def width(value: float) -> float:
        return round(100 * value / whole, 2)

    return [
        _Bar(name, show(mine), show(all_), width(mine), width(all_), abs(mine - all_))
        for name, mine, all_ in pairs
    ]


def _adapter(adapter: Adapter) -> dict[str, Any]:
    """What the template shows of an adapter; what is not known is left out."""
    facts = adapter.facts
    known = {
        "size": decimal(adapter.size) if adapter.size is not None else None,
        "items learnt from": _count(facts.get("examples")),
        "steps": _count(facts.get("steps")),
        "training": f"{facts['seconds']:.1f} s" if facts.get("seconds") is not None else None,
        "loss, first to last epoch": f"{facts['first_loss']:.2f} → {facts['last_loss']:.2f}"
        if facts.get("first_loss") is not None and facts.get("last_loss") is not None
        else None,
    }
    return {
        "title": adapter_title(adapter.variant),
        "prompt": describe_prompt(variant_method(adapter.variant)),
        "problem": adapter.problem,
        "facts": {name: value for name, value in known.items() if value is not None},
        "curve": loss_curve(adapter.losses),
    }


def _count(number: int | None) -> str | None:
    return f"{number:,}" if number is not None else None
