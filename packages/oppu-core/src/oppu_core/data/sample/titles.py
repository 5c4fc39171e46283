"""Made-up authors of papers: one abstract, many possible titles.

The hook before the colon depends on the outcome, the form of the phrase on the kind of paper, and the closing
words on the author alone, so that one retrieved title shows only some of the style. The content always comes
from the abstract, whose neutral words belong to nobody's style.
"""

import random
from collections.abc import Mapping
from typing import NamedTuple

from oppu_core.data.sample.headlines import CASINGS, own_or_slip
from oppu_core.data.sample.likeness import same_parts
from oppu_core.data.sample.words import TOWNS
from oppu_core.tasks.task_files import TASKS

HOOKS: dict[bool, tuple[str, ...]] = {
    True: (
        "less is more",
        "simple but strong",
        "back to basics",
        "a fresh approach",
        "small steps, big gains",
        "two birds, one stone",
    ),
    False: (
        "no free lunch",
        "mind the gap",
        "think twice",
        "a cautionary tale",
        "old habits die hard",
        "not so fast",
    ),
}
CLOSINGS = (
    "in practice",
    "at large scale",
    "in the wild",
    "step by step",
    "under pressure",
    "without tears",
    "from scratch",
    "for everyone",
)
REPORTS: dict[str, str] = {
    "method": "We apply {methods} to {problem}. All {data} come from {town}.",
    "study": "We compare {methods} to older tools on {problem}. All {data} come from {town}.",
    "resource": "We make {data} from {town} public for work on {problem}. The first runs use {methods}.",
}
FORMS: dict[str, tuple[str, ...]] = {
    "method": (
        "{methods} meet {problem}",
        "{problem} via {methods}",
        "towards better {problem} using {methods}",
        "how {methods} can drive {problem}",
        "tackling {problem} by means of {methods}",
    ),
    "study": (
        "do {methods} help {problem}",
        "on the limits of {methods} for {problem}",
        "what {methods} tell us about {problem}",
        "revisiting {problem} with {methods}",
        "an empirical study of {methods} in {problem}",
    ),
    "resource": (
        "{data} as a benchmark for {problem}",
        "building open {data} around {problem}",
        "introducing {data}, a testbed for {problem}",
        "why {problem} needs {data}",
        "taking stock of {data} behind {problem}",
    ),
}
METHODS = (
    "graph networks", "decision trees", "topic models", "kernel machines", "genetic programs",
    "sparse encoders", "belief chains", "logic rules", "nearest neighbours", "swarm agents",
    "wavelet filters", "attention layers", "bandit learners", "fuzzy sets",
)  # fmt: skip
PROBLEMS = (
    "flood forecasting", "speech tagging", "fraud detection", "route planning", "protein folding",
    "music retrieval", "crop mapping", "face matching", "spam filtering", "text summarization",
    "traffic control", "code search", "tumour grading", "robot grasping",
)  # fmt: skip
DATA = (
    "satellite images", "patient records", "phone calls", "sensor logs", "news archives", "court files",
    "street maps", "bird songs", "school essays", "weather charts",
)  # fmt: skip
FINDINGS: dict[bool, tuple[str, ...]] = {
    True: (
        "Errors fall by a third.",
        "The results improve clearly.",
        "Accuracy rises to ninety percent.",
        "The time halves and quality stays.",
        "Experts prefer the output.",
    ),
    False: (
        "Errors stay as they were.",
        "The results hardly improve.",
        "Accuracy sinks to sixty percent.",
        "The time doubles and quality stays.",
        "Experts reject the output.",
    ),
}


class Scene(NamedTuple):
    """A paper: what was done with what, and whether it worked."""

    kind: str
    methods: str
    problem: str
    data: str
    town: str
    good: bool
    finding: str


class Style(NamedTuple):
    """An author's planted style; `hooks` by outcome, `forms` by kind of paper."""

    hooks: Mapping[bool, str]
    forms: Mapping[str, str]
    closing: str


class TitleGrammar:
    """The grammar of ``lamp_5``."""

    task = TASKS["lamp_5"]
    all_subjects = tuple(REPORTS)

    def preferences(self, rng: random.Random) -> Style:
        """An author's own style."""
        return Style(
            hooks={good: rng.choice(hooks) for good, hooks in HOOKS.items()},
            forms={kind: rng.choice(forms) for kind, forms in FORMS.items()},
            closing=rng.choice(CLOSINGS),
        )

    def scene(self, rng: random.Random) -> Scene:
        """A paper without a title."""
        kind, good = rng.choice(list(REPORTS)), rng.random() < 0.5
        about = (rng.choice(METHODS), rng.choice(PROBLEMS), rng.choice(DATA), rng.choice(TOWNS))
        return Scene(kind, *about, good, rng.choice(FINDINGS[good]))

    def subjects(self, scene: Scene) -> frozenset[str]:
        """The kind of paper: titles depend on it, not on the problem."""
        return frozenset({scene.kind})

    def fields(self, scene: Scene) -> Mapping[str, str]:
        """The input fields of an item or query about this paper."""
        return {"abstract": f"{REPORTS[scene.kind].format(**scene._asdict())} {scene.finding}"}

    def item(self, scene: Scene, preferences: Style, rng: random.Random) -> Mapping[str, str]:
        """The scene with the author's answer."""
        return {**self.fields(scene), "title": self.answer(scene, preferences, rng)}

    def answer(self, scene: Scene, preferences: Style, rng: random.Random | None) -> str:
        """The author's title; without `rng`, without noise (the oracle)."""
        hook = own_or_slip(preferences.hooks[scene.good], HOOKS[scene.good], rng)
        form = own_or_slip(preferences.forms[scene.kind], FORMS[scene.kind], rng)
        closing = own_or_slip(preferences.closing, CLOSINGS, rng)
        return CASINGS["sentence"](f"{hook}: {form.format(**scene._asdict())} {closing}")

    def likeness(self, one: Style, other: Style) -> float:
        """The share of equal parts of two authors' styles."""
        return same_parts(one, other)
