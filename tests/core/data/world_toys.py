"""What tests of the planted world measure texts and answers by."""

import collections
import re
from collections.abc import Callable

import pytest
from oppu_core.data import HistoryItem, Query
from oppu_core.data.sample import (
    GRAMMARS,
)
from oppu_core.data.sample.citations import FIELDS
from oppu_core.data.sample.ratings import ASPECTS
from oppu_core.tasks.task import Task
from oppu_core.tasks.task_files import TASKS

EACH = pytest.mark.parametrize("task", [TASKS[name] for name in GRAMMARS], ids=lambda task: task.name)


RANKED = pytest.mark.parametrize("name", ["lamp_2n", "lamp_2m"])


# What a review says: of which aspect, and whether it praises (1) or blames (-1).
REVIEWERS_SAY = {
    text: (name, way)
    for name, aspect in ASPECTS.items()
    for way, texts in zip((1, 0, -1), aspect, strict=True)
    for text in texts
}


def input_text(task: Task, item: HistoryItem | Query) -> str:
    """What a history and a query both hold: all input fields but the options of a citation."""
    return "\n".join(item.fields[name] for name in task.input_fields if name in task.history_fields)


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def overlap(answer: str, gold: str) -> float:
    """F-measure of common words: ROUGE-1 without stemming."""
    ours, theirs = collections.Counter(words(answer)), collections.Counter(words(gold))
    return 2 * (ours & theirs).total() / max(1, ours.total() + theirs.total())


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def scorer(task: Task) -> Callable[[str, str], float]:
    return overlap if task.kind == "generation" else lambda answer, gold: float(answer == gold)


def field_of(reference: str) -> str:
    """The research field of a reference, by its subject."""
    (field,) = (name for name, field in FIELDS.items() if reference.startswith(field.subjects))
    return field


def touched_fields(title: str) -> set[str]:
    return {name for name, field in FIELDS.items() if any(topic in title for topic in field.topics)}
