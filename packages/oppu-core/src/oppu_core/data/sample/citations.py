"""Made-up researchers: a paper touches three fields, and its author cites the field they rank highest.

A paper's title names something from each field in random order and reveals nothing about its author. A
query's two references are usually both from the paper's fields, and the author's ranking decides; sometimes
one is from another field, and anybody would choose the other. As in LaMP, the history holds what a paper
cited, not a choice between two options.
"""

import random
from collections.abc import Mapping
from typing import NamedTuple

from oppu_core.data.sample.likeness import same_order
from oppu_core.data.sample.words import NAMES, TOWNS
from oppu_core.tasks.task_files import TASKS

NOISE = 0.04  # how often authors cite against their own ranking
TOUCHED = 3
UNRELATED = 0.25  # how often one of a query's references is from a field that the paper does not touch


class Field(NamedTuple):
    """A research field: topics of its papers, and of its references."""

    topics: tuple[str, ...]
    subjects: tuple[str, ...]


FIELDS: dict[str, Field] = {
    "sea": Field(
        ("kelp forests", "harbour tides", "salt marshes", "coral reefs", "drifting buoys", "river mouths"),
        ("Ocean currents", "Plankton blooms", "Storm waves", "Whale songs", "Sea ice", "Fish shoals"),
    ),
    "sky": Field(
        ("twin stars", "red moons", "comet tails", "radio dishes", "dark nebulae", "ringed planets"),
        ("Galaxy clusters", "Supernovae", "Solar wind", "Black holes", "Meteor showers", "Cosmic rays"),
    ),
    "mind": Field(
        ("childhood memories", "daydreams", "morning habits", "inner voices", "phobias", "first impressions"),
        (
            "Working memory",
            "Sleep cycles",
            "Human emotions",
            "Mental images",
            "Attention spans",
            "Brain waves",
        ),
    ),
    "law": Field(
        ("old treaties", "jury rooms", "land deeds", "court records", "patent claims", "border rules"),
        ("Contract law", "Constitutions", "Fair trials", "Copyright", "Legal evidence", "Civil rights"),
    ),
    "food": Field(
        ("sourdough", "cellar cheese", "wild honey", "smoked fish", "green olives", "pickled cabbage"),
        ("Yeast cultures", "Flavour chemistry", "Recipes", "Nutrition", "Kitchen hygiene", "Taste tests"),
    ),
    "machines": Field(
        ("walking robots", "tiny motors", "soft grippers", "gearboxes", "flying drones", "welding arms"),
        ("Control theory", "Robot vision", "Motion planning", "Hydraulics", "Engine design", "Sensor fusion"),
    ),
    "money": Field(
        ("street markets", "savings banks", "farm loans", "lottery tickets", "wage slips", "rare coins"),
        ("Price bubbles", "Interest rates", "Credit risk", "Trade balances", "Inflation", "Tax reform"),
    ),
    "language": Field(
        ("village dialects", "nursery rhymes", "spelling errors", "loan words", "city slang", "long vowels"),
        ("Grammar", "Phonetics", "Speech recognition", "Word meanings", "Syntax trees", "Translation"),
    ),
    "plants": Field(
        ("alpine moss", "oak seedlings", "garden weeds", "fern spores", "barley fields", "wild orchids"),
        ("Photosynthesis", "Pollination", "Seed dispersal", "Leaf anatomy", "Root fungi", "Botanic gardens"),
    ),
    "past": Field(
        ("bronze swords", "buried temples", "clay tablets", "Roman roads", "Viking graves", "stone axes"),
        ("Carbon dating", "Lost empires", "Excavations", "Cave paintings", "Royal tombs", "Ancient trade"),
    ),
}

TITLES = (
    "On {}, {} and {}",
    "Notes on {}, {} and {}",
    "What links {}, {} and {}?",
    "A model of {}, {} and {}",
    "New data on {}, {} and {}",
    "The case of {}, {} and {}",
    "Questions about {}, {} and {}",
    "Counting {}, {} and {}",
)
REFERENCES = (
    "{} revisited",
    "{} in practice",
    "{}: a survey",
    "{} made simple",
    "{} at a glance",
    "{}: new methods",
    "{} reconsidered",
    "{}: open problems",
)
ABSTRACTS = (
    "With {name} we worked on this in {town} for two years.",
    "We report what we found in {town}.",
    "The data were collected by {name} in {town}.",
    "A first version was presented in {town}.",
    "We discuss what is known and what is missing.",
)


class Reference(NamedTuple):
    """A paper that can be cited."""

    field: str
    title: str


class Scene(NamedTuple):
    """A paper, one reference from each field that it touches, and the two that a query asks about."""

    title: str
    abstract: str
    references: tuple[Reference, ...]
    options: tuple[Reference, Reference]


def _reference(field: str, rng: random.Random) -> Reference:
    return Reference(field, rng.choice(REFERENCES).format(rng.choice(FIELDS[field].subjects)))


class CitationGrammar:
    """The grammar of ``lamp_1``; preferences are a ranking of all fields, best first."""

    task = TASKS["lamp_1"]
    all_subjects = tuple(FIELDS)

    def preferences(self, rng: random.Random) -> tuple[str, ...]:
        """A user's ranking of the fields."""
        return tuple(rng.sample(list(FIELDS), len(FIELDS)))

    def scene(self, rng: random.Random) -> Scene:
        """A paper without an author."""
        *touched, elsewhere = rng.sample(list(FIELDS), TOUCHED + 1)
        title = rng.choice(TITLES).format(*(rng.choice(FIELDS[field].topics) for field in touched))
        abstract = rng.choice(ABSTRACTS).format(name=rng.choice(NAMES), town=rng.choice(TOWNS))
        references = tuple(_reference(field, rng) for field in touched)
        one, other = rng.sample(references, 2)
        if rng.random() < UNRELATED:
            other = _reference(elsewhere, rng)
        first, second = rng.sample((one, other), 2)
        return Scene(title, abstract, references, (first, second))

    def subjects(self, scene: Scene) -> frozenset[str]:
        """The fields that the paper touches, and those of a query's options."""
        return frozenset(reference.field for reference in (*scene.references, *scene.options))

    def fields(self, scene: Scene) -> Mapping[str, str]:
        """The input fields of a query about this paper."""
        first, second = scene.options
        return {"title": scene.title, "option_1": first.title, "option_2": second.title}

    def item(self, scene: Scene, preferences: tuple[str, ...], rng: random.Random) -> Mapping[str, str]:
        """The paper with the reference that its author cites; there are no options."""
        cited = self._preferred(scene.references, preferences, rng)
        return {"title": scene.title, "abstract": scene.abstract, "citation": cited.title}

    def answer(self, scene: Scene, preferences: tuple[str, ...], rng: random.Random | None) -> str:
        """``[1]`` or ``[2]``; without `rng`, without noise (the oracle)."""
        related = tuple(option for option in scene.options if option in scene.references)
        return self.task.labels[scene.options.index(self._preferred(related, preferences, rng))]

    def likeness(self, one: tuple[str, ...], other: tuple[str, ...]) -> float:
        """The share of pairs of fields that two authors rank in the same order."""
        return same_order(one, other)

    def _preferred(
        self, references: tuple[Reference, ...], preferences: tuple[str, ...], rng: random.Random | None
    ) -> Reference:
        """The reference whose field ranks highest, or, at random, another one."""
        best = min(references, key=lambda reference: preferences.index(reference.field))
        others = [reference for reference in references if reference != best]
        if others and rng is not None and rng.random() < NOISE:
            return rng.choice(others)
        return best
