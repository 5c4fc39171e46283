"""Users who rank all labels: a text evokes three labels, and the answer is the one they rank highest.

A query alone tells which three labels are possible, not which one this user would choose; no single label
dominates, and a retrieved item reveals the order of only one pair or triple.
"""

import dataclasses
import random
from collections.abc import Mapping
from typing import NamedTuple

from oppu_core.data.sample.likeness import same_order
from oppu_core.data.sample.words import JOBS, NAMES, TOWNS
from oppu_core.tasks.task import Task

NOISE = 0.04  # how often a user picks another of the evoked labels
EVOKED = 3


class Scene(NamedTuple):
    """A text: its neutral opening, and the evoked labels with the sentences that evoke them."""

    opening: str
    labels: tuple[str, ...]
    sentences: tuple[str, ...]
    title: str


@dataclasses.dataclass(frozen=True)
class RankedGrammar:
    """The grammar of a classification task; preferences are a ranking of all labels, best first.

    Attributes:
        task: The task; it has one input field.
        sentences: The sentences that evoke each label.
        opening: The neutral first sentence; ``{name}``, ``{job}`` and ``{town}`` are drawn.
        titles: Neutral titles of the same words, for a task whose history has titles.
    """

    task: Task
    sentences: Mapping[str, tuple[str, ...]]
    opening: str
    titles: tuple[str, ...] = ()

    @property
    def all_subjects(self) -> tuple[str, ...]:
        """The labels."""
        return self.task.labels

    def preferences(self, rng: random.Random) -> tuple[str, ...]:
        """A user's ranking of the labels."""
        return tuple(rng.sample(self.task.labels, len(self.task.labels)))

    def scene(self, rng: random.Random) -> Scene:
        """A text that nobody has labelled yet."""
        labels = tuple(rng.sample(self.task.labels, EVOKED))
        words = {"name": rng.choice(NAMES), "job": rng.choice(JOBS), "town": rng.choice(TOWNS)}
        sentences = tuple(rng.choice(self.sentences[label]) for label in labels)
        title = rng.choice(self.titles).format(**words) if self.titles else ""
        return Scene(self.opening.format(**words), labels, sentences, title)

    def subjects(self, scene: Scene) -> frozenset[str]:
        """The evoked labels."""
        return frozenset(scene.labels)

    def fields(self, scene: Scene) -> Mapping[str, str]:
        """The input field of an item or query about this text."""
        return {self.task.input_fields[0]: " ".join((scene.opening, *scene.sentences))}

    def item(self, scene: Scene, preferences: tuple[str, ...], rng: random.Random) -> Mapping[str, str]:
        """The scene with the user's answer."""
        title = {"title": scene.title} if self.titles else {}
        return {
            **self.fields(scene),
            **title,
            str(self.task.output_field): self.answer(scene, preferences, rng),
        }

    def answer(self, scene: Scene, preferences: tuple[str, ...], rng: random.Random | None) -> str:
        """The user's label; without `rng`, without noise (the oracle)."""
        best = min(scene.labels, key=preferences.index)
        if rng is not None and rng.random() < NOISE:
            return rng.choice([label for label in scene.labels if label != best])
        return best

    def likeness(self, one: tuple[str, ...], other: tuple[str, ...]) -> float:
        """The share of pairs of labels that two users rank in the same order."""
        return same_order(one, other)
