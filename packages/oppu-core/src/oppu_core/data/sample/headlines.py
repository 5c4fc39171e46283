"""Made-up headline writers: one article, many house styles.

Some parts of a style show in every headline (casing, closing mark, favourite adjective), others depend on the
article (the opener on good or bad news, the phrase's form on the desk, the verb on the event), so that one
retrieved headline shows only some of the style. The content always comes from the article, whose neutral
words belong to nobody's style.
"""

import random
from collections.abc import Callable, Mapping
from typing import NamedTuple

from oppu_core.data.sample.likeness import same_parts
from oppu_core.data.sample.words import NAMES, TOWNS, WHEN
from oppu_core.tasks.task_files import TASKS

NOISE = 0.03  # how often a part of a headline deviates from the user's style

OPENERS = ("", "breaking:", "just in:", "exclusive:", "update:", "in brief:", "local news:", "first look:")
ADJECTIVES = ("", "big", "new", "long-awaited", "surprise", "much-discussed")
CLOSINGS = ("", "!", ".")
COMMENTS = (
    "said the decision was not easy",
    "said more news would follow soon",
    "thanked everybody who had helped",
    "said the work had taken two years",
    "did not want to comment further",
    "called it a day to remember",
)


class Event(NamedTuple):
    """A kind of news: neutral words for the article, and verbs to prefer for the headline."""

    desk: str
    good: bool
    report: str
    verbs: tuple[tuple[str, str], ...]
    """(present, participle) of each choice."""
    objects: tuple[str, ...]


AGENTS: dict[str, tuple[str, ...]] = {
    "city": ("council", "mayor", "planning office"),
    "sport": ("rowing club", "hockey team", "chess club"),
    "business": ("paper mill", "bike maker", "dairy"),
    "culture": ("theatre", "museum", "city choir"),
}

EVENTS: tuple[Event, ...] = (
    Event(
        "city",
        True,
        "said yes to",
        (("approves", "approved"), ("backs", "backed"), ("clears", "cleared")),
        ("night bus line", "river park", "bike lane", "school annex"),
    ),
    Event(
        "city",
        False,
        "said no to",
        (("rejects", "rejected"), ("blocks", "blocked"), ("buries", "buried")),
        ("parking garage", "ring road", "bridge toll", "glass tower"),
    ),
    Event(
        "sport",
        True,
        "came first in",
        (("wins", "won"), ("takes", "taken"), ("clinches", "clinched")),
        ("cup final", "regional title", "winter league", "lake derby"),
    ),
    Event(
        "sport",
        False,
        "came last in",
        (("loses", "lost"), ("drops", "dropped"), ("squanders", "squandered")),
        ("opening match", "summer series", "autumn trophy", "home game"),
    ),
    Event(
        "business",
        True,
        "made public",
        (("launches", "launched"), ("reveals", "revealed"), ("presents", "presented")),
        ("cargo bike", "oat drink", "recycled folder", "repair service"),
    ),
    Event(
        "business",
        False,
        "gave up",
        (("closes", "closed"), ("shuts", "shut"), ("axes", "axed")),
        ("northern plant", "night shift", "corner shop", "staff canteen"),
    ),
    Event(
        "culture",
        True,
        "started",
        (("opens", "opened"), ("unveils", "unveiled"), ("kicks off", "kicked off")),
        ("jazz festival", "poster show", "open-air opera", "film week"),
    ),
    Event(
        "culture",
        False,
        "called off",
        (("cancels", "cancelled"), ("scraps", "scrapped"), ("pulls", "pulled")),
        ("gala evening", "puppet show", "spring concert", "art fair"),
    ),
)

FORMS: dict[str, Callable[[str, str, str, str, str], str]] = {
    "active": lambda town, agent, verb, participle, thing: f"{town} {agent} {verb} {thing}",
    "passive": lambda town, agent, verb, participle, thing: f"{thing} {participle} by {town} {agent}",
    "colon": lambda town, agent, verb, participle, thing: f"{town}: {agent} {verb} {thing}",
    "why": lambda town, agent, verb, participle, thing: f"why the {agent} of {town} {verb} {thing}",
    "place last": lambda town, agent, verb, participle, thing: f"{agent} {verb} {thing} in {town}",
}

CASINGS: dict[str, Callable[[str], str]] = {
    "sentence": lambda text: text[0].upper() + text[1:],
    "title": lambda text: " ".join(word[0].upper() + word[1:] for word in text.split(" ")),
    "lower": lambda text: text.lower(),
}


def own_or_slip(own: str, choices: tuple[str, ...], rng: random.Random | None) -> str:
    """A part of an answer: the user's own choice, or rarely a random one (never without `rng`)."""
    return rng.choice(choices) if rng is not None and rng.random() < NOISE else own


class Scene(NamedTuple):
    """What happened, and where."""

    event: int
    town: str
    agent: str
    thing: str
    when: str
    speaker: str
    comment: str


class Style(NamedTuple):
    """A user's planted style; `forms` by desk, `openers` by good or bad news, `verbs` by event."""

    casing: str
    closing: str
    adjective: str
    openers: Mapping[bool, str]
    forms: Mapping[str, str]
    verbs: tuple[int, ...]


class HeadlineGrammar:
    """The grammar of ``lamp_4``."""

    task = TASKS["lamp_4"]
    all_subjects = tuple(AGENTS)

    def preferences(self, rng: random.Random) -> Style:
        """A user's own style."""
        return Style(
            casing=rng.choice(list(CASINGS)),
            closing=rng.choice(CLOSINGS),
            adjective=rng.choice(ADJECTIVES),
            openers={good: rng.choice(OPENERS) for good in (True, False)},
            forms={desk: rng.choice(list(FORMS)) for desk in AGENTS},
            verbs=tuple(rng.randrange(len(event.verbs)) for event in EVENTS),
        )

    def scene(self, rng: random.Random) -> Scene:
        """An event that nobody has written a headline for yet."""
        event = rng.randrange(len(EVENTS))
        return Scene(
            event,
            rng.choice(TOWNS),
            rng.choice(AGENTS[EVENTS[event].desk]),
            rng.choice(EVENTS[event].objects),
            rng.choice(WHEN),
            rng.choice(NAMES),
            rng.choice(COMMENTS),
        )

    def subjects(self, scene: Scene) -> frozenset[str]:
        """The desk."""
        return frozenset({EVENTS[scene.event].desk})

    def fields(self, scene: Scene) -> Mapping[str, str]:
        """The input fields of an item or query about this event."""
        event = EVENTS[scene.event]
        return {
            "text": f"The {scene.agent} of {scene.town} {event.report} the {scene.thing} {scene.when}. "
            f"{scene.speaker} {scene.comment}."
        }

    def item(self, scene: Scene, preferences: Style, rng: random.Random) -> Mapping[str, str]:
        """The scene with the user's answer."""
        return {**self.fields(scene), "title": self.answer(scene, preferences, rng)}

    def answer(self, scene: Scene, preferences: Style, rng: random.Random | None) -> str:
        """The user's headline; without `rng`, without noise (the oracle)."""
        event = EVENTS[scene.event]
        opener = own_or_slip(preferences.openers[event.good], OPENERS, rng)
        adjective = own_or_slip(preferences.adjective, ADJECTIVES, rng)
        form = own_or_slip(preferences.forms[event.desk], tuple(FORMS), rng)
        closing = own_or_slip(preferences.closing, CLOSINGS, rng)
        verb, participle = event.verbs[preferences.verbs[scene.event]]
        thing = f"{adjective} {scene.thing}".strip()
        phrase = f"{opener} {FORMS[form](scene.town, scene.agent, verb, participle, thing)}".strip()
        return CASINGS[preferences.casing](phrase) + closing

    def likeness(self, one: Style, other: Style) -> float:
        """The share of equal parts of two users' styles."""
        return same_parts(one, other)
