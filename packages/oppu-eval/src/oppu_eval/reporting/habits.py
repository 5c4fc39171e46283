"""What a person's past texts and answers are like, or those of many.

Everything is taken from what personal training may see (:attr:`User.training_history`), so that nothing here
tells how a query was answered.
"""

import collections
import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping

from oppu_core.data.types import User
from oppu_core.tasks.task import Task

_WORD = re.compile(r"[#@]?\w+(?:[-'’]\w+)*")


def _capitals(text: str) -> float:
    words = [word for word in text.split() if word[0].isalpha()]
    return sum(word[0].isupper() for word in words) / len(words) if words else 0.0


LENGTH = "words in a text"
# What is measured of a text; all but the length are shares of the texts (or of their words).
FEATURES: Mapping[str, Callable[[str], float]] = {
    LENGTH: lambda text: len(text.split()),
    "words with a capital": _capitals,
    "all in lower case": str.islower,
    "end with ?": lambda text: text.endswith("?"),
    "end with !": lambda text: text.endswith("!"),
    "end with .": lambda text: text.endswith("."),
    "have a colon": lambda text: ":" in text,
    "have a number": lambda text: any(map(str.isdigit, text)),
    "have a hashtag": lambda text: bool(re.search(r"#\w", text)),
}


@dataclasses.dataclass(frozen=True)
class Habits:
    """What the texts of one person, or of many, are like.

    Attributes:
        people: How many.
        texts: How many texts they wrote (or labels they gave).
        labels: {answer: texts}, where a history holds labels; an answer may be none of them.
        features: {feature: mean over the texts}, where it does not.
        words: {word: texts that have it}, likewise.
    """

    people: int
    texts: int
    labels: Mapping[str, int]
    features: Mapping[str, float]
    words: Mapping[str, int]


def habit_field(task: Task) -> str:
    """The history field that habits are about."""
    return task.output_field if task.labelled_history and task.output_field else task.text_field


def own_texts(task: Task, user: User) -> list[str]:
    """What a person's habits show in: texts or, where a history holds labels, answers; without empty ones."""
    field = habit_field(task)
    texts = [text for item in user.training_history if (text := item.fields[field].strip())]
    return [task.answer_of(text) for text in texts] if task.labelled_history else texts


def habits(task: Task, users: Iterable[User]) -> Habits:
    """Measure what these people wrote; of everybody once for a task, it takes a while."""
    people = texts = 0
    labels: collections.Counter[str] = collections.Counter()
    words: collections.Counter[str] = collections.Counter()
    totals = dict.fromkeys(FEATURES, 0.0)
    for user in users:
        people += 1
        own = own_texts(task, user)
        texts += len(own)
        if task.labelled_history:
            labels.update(own)
            continue
        for text in own:
            words.update({word.lower() for word in _WORD.findall(text)})
            for name, measure in FEATURES.items():
                totals[name] += measure(text)
    measured = texts and not task.labelled_history
    features = {name: total / texts for name, total in totals.items()} if measured else {}
    return Habits(people, texts, dict(labels), features, dict(words))
