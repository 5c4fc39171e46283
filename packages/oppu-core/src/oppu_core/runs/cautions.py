"""Warnings about what makes right answers look wrong, shown when a run starts and above its results."""

from collections.abc import Iterable, Mapping
from typing import Protocol

from oppu_core.data.intake import outside_labels
from oppu_core.data.schema import shown
from oppu_core.data.types import User
from oppu_core.prompting.builder import TokenCounter
from oppu_core.tasks.task import Task
from oppu_core.texts import unseen


class Speller(TokenCounter, Protocol):
    """The part of :class:`oppu_core.modeling.tokenizer.Tokenizer` that checking labels needs."""

    def answer_text(self, ids: list[int]) -> str:
        """The answer in generated ids."""


def scoring_warnings(task: Task, users: Iterable[User]) -> list[str]:
    """Warnings about golds that no answer can match, or that the official scorer does not see."""
    golds = [query.gold for user in users for query in user.queries if query.gold is not None]
    warnings = []
    if task.labels:
        outside = [gold for gold in golds if task.label_of(gold) is None]
        if outside:
            warnings.append(
                f"{len(outside):,} of {len(golds):,} golds are none of the task's labels "
                f"({_some(outside)}): {outside_labels(task)}."
            )
        return warnings
    if count := sum(map(unseen, golds)):
        advice = (
            "ROUGE with words by script stands before it."
            if task.words == "script"
            else "Import the data with --words script for a ROUGE that does."
        )
        warnings.append(
            f"{count:,} of {len(golds):,} golds are mostly in letters that LaMP's ROUGE does not see (it "
            f"counts a-z and 0-9). {advice}"
        )
    return warnings


def tokenizer_warnings(task: Task, tokenizer: Speller) -> list[str]:
    """Warnings about labels that a model cannot write, or that need more tokens than answers may have."""
    spelt = {label: tokenizer.answer_text(tokenizer.answer_ids(label)) for label in task.labels}
    wrong = [label for label, text in spelt.items() if task.label_of(text) != label]
    warnings = []
    if wrong:
        warnings.append(
            f"The base's tokenizer cannot write {len(wrong)} of {len(task.labels)} labels (e.g. "
            f"{shown(wrong[0])} becomes {shown(spelt[wrong[0]])}): no answer with them can be right. Write "
            "the labels as the tokenizer does, or take another base."
        )
    longest = max(task.labels, key=lambda label: len(tokenizer.answer_ids(label)), default="")
    if longest and (needed := len(tokenizer.answer_ids(longest))) > task.max_answer_tokens:
        warnings.append(
            f"Answers may have {needed} tokens, not {task.max_answer_tokens} (max_answer_tokens): the label "
            f"{shown(longest)} needs them."
        )
    return warnings


def version_warnings(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Warnings about packages that have changed since a run was started, as their arithmetic may differ."""
    pairs = {name: (old, now.get(name, old)) for name, old in then.items()}
    changed = [f"{name} {old} then, {new} now" for name, (old, new) in pairs.items() if old != new]
    if not changed:
        return []
    return [
        f"The run was started with other versions ({'; '.join(changed)}): what is made now may differ from "
        "what is there by more than rounding. run.json names the old ones."
    ]


def _some(texts: list[str]) -> str:
    different = list(dict.fromkeys(texts))
    return ", ".join(map(shown, different[:3])) + (", …" if len(different) > 3 else "")
