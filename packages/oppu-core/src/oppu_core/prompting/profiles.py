"""Profile texts computed from a history: the facts that Appendix I asks a language model for.

A profile is one text per user, made from the history that personal training may see
(:attr:`User.training_history`); queries and their golds never enter it.
"""

import collections
import functools
import itertools
import re
from collections.abc import Callable, Sequence

from oppu_core.data.types import HistoryItem
from oppu_core.tasks.task import Task
from oppu_core.texts import as_number, number_text

_WORD = re.compile(r"\w+(?:[-'’]\w+)*")
EVERYDAY = frozenset(
    _WORD.findall(
        "a about after all also an and are as at be been before but by can could did do does for from get "
        "had has have he her here him his how i if in into is it its just like me more most my new no not "
        "now of on one only or our out over she so some than that the their them then there these they "
        "this to too towards two under up us using very via was we were what when where which who why "
        "will with within without would you your "
    )
)


def compute_profile(task: Task, history: Sequence[HistoryItem]) -> str:
    """The user's profile text, empty for an empty history."""
    return PROFILES[task.profile](task, history) if history else ""


def most_frequent_answer(task: Task, history: Sequence[HistoryItem]) -> str:
    """``most popular tag: comedy.`` (Appendix I.2, I.3); among equals the one used last."""
    answers = _texts(task, history)
    return f"most popular {task.text_field}: {most_frequent(answers)}." if answers else ""


def _texts(task: Task, history: Sequence[HistoryItem]) -> list[str]:
    """The texts of the field that the profile is about, oldest first, without empty ones."""
    texts = [item.fields[task.text_field].strip() for item in history]
    return [task.answer_of(text) if task.text_field == task.output_field else text for text in texts if text]


def most_frequent(answers: Sequence[str]) -> str:
    """The most frequent of `answers` (oldest first, not empty); among equals the one used last."""
    counts = collections.Counter(answers)
    last = {answer: index for index, answer in enumerate(answers)}
    return max(counts, key=lambda answer: (counts[answer], last[answer]))


def style(task: Task, history: Sequence[HistoryItem], ignored: frozenset[str] = frozenset()) -> str:
    """Measured style of the user's texts: length, casing, closing mark, openers, favourite words (I.5).

    A favourite word is one that the user often writes although it is not in the input; in a history without
    inputs, one that is in many texts and is not an everyday word. Words of `ignored` are none.
    """
    texts = _texts(task, history)
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
        inputs = task.input_fields if task.output_field else ()
        given = {word.lower() for name in inputs for word in _WORD.findall(item.fields[name])} or EVERYDAY
        words_used = {word.lower() for word in _WORD.findall(item.fields[task.text_field])}
        own.update(sorted(words_used - given - ignored))  # sorted: ties must not follow the order of a set
    favourites = [word for word, count in own.most_common(5) if count >= max(2, 0.1 * len(texts))]
    if favourites:
        parts.append("favourite words: " + ", ".join(favourites))
    name = task.text_field if task.output_field else "text"
    return f"{name} style: {'; '.join(parts)}."


def usual_scores(task: Task, history: Sequence[HistoryItem]) -> str:
    """``most common positive score: 5, most common negative score: 2.`` (Appendix I.4).

    Scores in the upper half of the scale are positive, those in the lower half negative, the middle neither;
    among equals the one used last. A kind that the user never gave is left out.
    """
    low, high = float(task.labels[0]), float(task.labels[-1])
    scores = [number_text(text) for text in _texts(task, history) if as_number(text) is not None]
    scores = [score for score in scores if low <= float(score) <= high]
    sides = {
        "positive": [score for score in scores if 2 * float(score) > low + high],
        "negative": [score for score in scores if 2 * float(score) < low + high],
    }
    parts = [
        f"most common {side} {task.text_field}: {most_frequent(given)}"
        for side, given in sides.items()
        if given
    ]
    return ", ".join(parts) + "." if parts else ""


def topics(task: Task, history: Sequence[HistoryItem]) -> str:
    """``research topics: parsing, word senses.``: the words and pairs of words in most titles (for I.1).

    A word counts once per text; a pair of neighbours counts one and a half times, so that "machine
    translation" comes before "machine", which is then left out. Everyday words are ignored.
    """
    counts: collections.Counter[str] = collections.Counter()
    for text in _texts(task, history):
        words = [word.lower() for word in _WORD.findall(text)]
        telling = {word for word in words if word not in EVERYDAY and len(word) > 2}
        pairs = {
            f"{one} {two}" for one, two in itertools.pairwise(words) if one in telling and two in telling
        }
        counts.update(dict.fromkeys(sorted(telling), 2))
        counts.update(dict.fromkeys(sorted(pairs), 3))
    common: list[str] = []
    for phrase, count in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])):
        if count >= 4 and len(common) < 8 and not any(phrase in longer for longer in common):
            common.append(phrase)
    return f"research topics: {', '.join(common)}." if common else ""


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
    "prose": functools.partial(style, ignored=EVERYDAY),  # long texts have all everyday words
    "style": style,
    "topics": topics,
    "usual_scores": usual_scores,
}
