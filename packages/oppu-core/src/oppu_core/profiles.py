"""Text profiles, computed exactly from a history: the facts that Appendix I asks a language model for.

A profile is one text per user, made from the history that personal training may see
(:attr:`User.training_history`); queries and their golds never enter it.
"""

import collections
import re
from collections.abc import Callable, Sequence

from oppu_core.data.types import HistoryItem
from oppu_core.tasks import Task

_WORD = re.compile(r"\w+(?:[-'’]\w+)*")


def compute_profile(task: Task, history: Sequence[HistoryItem]) -> str:
    """The user's profile text, empty for an empty history."""
    return PROFILES[task.profile](task, history) if history else ""


def most_frequent_answer(task: Task, history: Sequence[HistoryItem]) -> str:
    """``most popular tag: comedy.`` (Appendix I.2, I.3); among equals the one used last."""
    assert task.output_field is not None
    answers = [answer for item in history if (answer := item.fields[task.output_field].strip())]
    if not answers:
        return ""
    return f"most popular {task.output_field}: {most_frequent(answers)}."


def most_frequent(answers: Sequence[str]) -> str:
    """The most frequent of `answers` (oldest first, not empty); among equals the one used last."""
    counts = collections.Counter(answers)
    last = {answer: index for index, answer in enumerate(answers)}
    return max(counts, key=lambda answer: (counts[answer], last[answer]))


def style(task: Task, history: Sequence[HistoryItem]) -> str:
    """Measured style of the user's texts: length, casing, closing mark, openers, favourite words (I.5).

    A favourite word is one that the user writes often although it does not stand in the input.
    """
    assert task.output_field is not None
    texts = [text for item in history if (text := item.fields[task.output_field].strip())]
    if not texts:
        return ""
    words = sum(len(text.split()) for text in texts) / len(texts)
    parts = [f"about {words:.0f} words", most_frequent([_casing(text) for text in texts])]
    for mark, phrase in (("?", "asks a question"), ("!", 'ends with "!"'), (".", 'ends with "."')):
        share = sum(text.endswith(mark) for text in texts) / len(texts)
        if share >= 0.2:
            parts.append(f"{_how_often(share)} {phrase}")
    openers = collections.Counter(text.split()[0].lower() for text in texts)
    common = [word for word, count in openers.most_common(3) if count >= max(2, 0.15 * len(texts))]
    if common:
        parts.append("often starts with " + ", ".join(f'"{word}"' for word in common))
    own: collections.Counter[str] = collections.Counter()
    for item in history:
        given = {word.lower() for name in task.input_fields for word in _WORD.findall(item.fields[name])}
        words_used = {word.lower() for word in _WORD.findall(item.fields[task.output_field])}
        own.update(sorted(words_used - given))  # sorted: ties must not follow the order of a set
    favourites = [word for word, count in own.most_common(5) if count >= max(2, 0.1 * len(texts))]
    if favourites:
        parts.append("favourite words: " + ", ".join(favourites))
    return f"{task.output_field} style: {'; '.join(parts)}."


def _casing(text: str) -> str:
    letters = [word for word in text.split() if word[0].isalpha()]
    if text == text.lower():
        return "all lower case"
    if text == text.upper():
        return "all capitals"
    capitals = sum(word[0].isupper() for word in letters)
    return "every word capitalized" if letters and capitals >= 0.8 * len(letters) else "sentence case"


def _how_often(share: float) -> str:
    return "always" if share >= 0.9 else "mostly" if share >= 0.5 else "sometimes"


PROFILES: dict[str, Callable[[Task, Sequence[HistoryItem]], str]] = {
    "most_frequent_answer": most_frequent_answer,
    "style": style,
}
