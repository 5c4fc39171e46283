"""Made-up tweeters: one everyday event, many ways to shout about it.

Some parts of a style show in every tweet (who speaks, intensifier, order, small words), others depend on the
event: opener and closing on its mood, verb and hashtag on what happened, so that one retrieved tweet shows
only some of the style. The history holds tweets alone, so each part that depends on the event has different
words for every case: knowing an author's favourite words, one can tell from the text which of them fit.
"""

import random
from collections.abc import Mapping
from typing import NamedTuple

from oppu_core.data.sample.headlines import own_or_slip
from oppu_core.data.sample.likeness import same_parts
from oppu_core.data.sample.words import TOWNS, WHEN
from oppu_core.tasks.task_files import TASKS

OPENERS: dict[bool, tuple[str, ...]] = {
    True: ("guys,", "ok so", "woohoo,", "big news:", "dream day:", "plot twist:"),
    False: ("ugh,", "welp,", "of course", "not again:", "sad story:", "great, just great:"),
}
CLOSINGS: dict[bool, tuple[str, ...]] = {
    True: ("no cap", "love it", "so blessed", "life is good", "yay", "feeling fancy"),
    False: ("smh", "why me", "send help", "cannot even", "lol", "so over it"),
}
SPEAKERS = ("I", "yours truly", "this human", "little old me", "ya pal", "your hero")
INTENSIFIERS = ("", "totally", "literally", "straight up", "low key", "absolutely")
THE = ("the", "that", "this crazy", "one wild", "ye olde", "the famous")
IN = ("in", "over in", "way out in", "somewhere around", "@")
WITH = ("with", "w/", "alongside", "feat.", "thanks to")
ORDERS = (
    "{speaker} {did} {place} {when} {company}",
    "{when} {speaker} {did} {company} {place}",
    "{place} {company} {speaker} {did} {when}",
)
COMPANIONS = (
    "sister",
    "brother",
    "boss",
    "neighbour",
    "cousin",
    "aunt",
    "uncle",
    "teacher",
    "flatmate",
    "dog",
    "cat",
    "doctor",
)


class Topic(NamedTuple):
    """What an event is about: the things, and the hashtags that authors prefer."""

    things: tuple[str, ...]
    hashtags: tuple[str, ...]


TOPICS: dict[str, Topic] = {
    "food": Topic(
        ("lemon cake", "noodle soup", "berry pie", "rice pudding", "onion tart", "bean stew"),
        ("#foodie", "#yum", "#nomnom", "#hungry"),
    ),
    "travel": Topic(
        ("night train", "early ferry", "harbour tram", "airport bus", "lake boat", "valley express"),
        ("#travel", "#ontheroad", "#commute", "#wanderlust"),
    ),
    "tests": Topic(
        ("maths exam", "driving test", "piano audition", "sales pitch", "budget review", "job interview"),
        ("#hustle", "#goals", "#grind", "#brainpower"),
    ),
    "home": Topic(
        ("garden shed", "kitchen shelf", "desk lamp", "sewing machine", "rocking chair", "front gate"),
        ("#diy", "#homelife", "#handy", "#tools"),
    ),
}


class Event(NamedTuple):
    """A kind of event: neutral words for the text, and verbs that authors prefer for the tweet."""

    topic: str
    good: bool
    report: str
    verbs: tuple[str, ...]


EVENTS: tuple[Event, ...] = (
    Event("food", True, "was given a share of the", ("scored", "snagged", "bagged")),
    Event("food", False, "let fall most of the", ("dropped", "wasted", "murdered")),
    Event("travel", True, "was in time for the", ("caught", "grabbed", "hopped on")),
    Event("travel", False, "came too late for the", ("missed", "blew", "fumbled")),
    Event("tests", True, "did well in the", ("aced", "nailed", "crushed")),
    Event("tests", False, "did badly in the", ("flunked", "bombed", "botched")),
    Event("home", True, "could repair the", ("fixed", "rescued", "revived")),
    Event("home", False, "damaged the", ("broke", "wrecked", "smashed")),
)


class Scene(NamedTuple):
    """What happened to somebody, where, when and beside whom."""

    event: int
    thing: str
    town: str
    when: str
    companion: str


class Style(NamedTuple):
    """An author's planted style; `openers` and `closings` by mood, `verbs` by event, `hashtags` by topic."""

    speaker: str
    intensifier: str
    the: str
    place: str
    company: str
    order: str
    openers: Mapping[bool, str]
    closings: Mapping[bool, str]
    verbs: tuple[str, ...]
    hashtags: Mapping[str, str]


class TweetGrammar:
    """The grammar of ``lamp_7``."""

    task = TASKS["lamp_7"]
    all_subjects = tuple(TOPICS)

    def preferences(self, rng: random.Random) -> Style:
        """An author's own style."""
        return Style(
            speaker=rng.choice(SPEAKERS),
            intensifier=rng.choice(INTENSIFIERS),
            the=rng.choice(THE),
            place=rng.choice(IN),
            company=rng.choice(WITH),
            order=rng.choice(ORDERS),
            openers={good: rng.choice(openers) for good, openers in OPENERS.items()},
            closings={good: rng.choice(closings) for good, closings in CLOSINGS.items()},
            verbs=tuple(rng.choice(event.verbs) for event in EVENTS),
            hashtags={name: rng.choice(topic.hashtags) for name, topic in TOPICS.items()},
        )

    def scene(self, rng: random.Random) -> Scene:
        """An event that nobody has tweeted about yet."""
        event = rng.randrange(len(EVENTS))
        thing = rng.choice(TOPICS[EVENTS[event].topic].things)
        return Scene(event, thing, rng.choice(TOWNS), rng.choice(WHEN), rng.choice(COMPANIONS))

    def subjects(self, scene: Scene) -> frozenset[str]:
        """The event's topic."""
        return frozenset({EVENTS[scene.event].topic})

    def fields(self, scene: Scene) -> Mapping[str, str]:
        """The input fields of a query about this event."""
        what = f"I {EVENTS[scene.event].report} {scene.thing}"
        return {"text": f"{what} {scene.when}. It was in {scene.town}, and my {scene.companion} was there."}

    def item(self, scene: Scene, preferences: Style, rng: random.Random) -> Mapping[str, str]:
        """Only the author's tweet: histories do not hold the plain text."""
        return {"text": self.answer(scene, preferences, rng)}

    def answer(self, scene: Scene, preferences: Style, rng: random.Random | None) -> str:
        """The author's tweet; without `rng`, without noise (the oracle)."""
        style, event = preferences, EVENTS[scene.event]
        opener = own_or_slip(style.openers[event.good], OPENERS[event.good], rng)
        intensifier = own_or_slip(style.intensifier, INTENSIFIERS, rng)
        verb = own_or_slip(style.verbs[scene.event], event.verbs, rng)
        closing = own_or_slip(style.closings[event.good], CLOSINGS[event.good], rng)
        hashtag = own_or_slip(style.hashtags[event.topic], TOPICS[event.topic].hashtags, rng)
        phrase = own_or_slip(style.order, ORDERS, rng).format(
            speaker=own_or_slip(style.speaker, SPEAKERS, rng),
            did=f"{intensifier} {verb} {style.the} {scene.thing}".strip(),
            place=f"{style.place} {scene.town}",
            when=scene.when,
            company=f"{style.company} my {scene.companion}",
        )
        return f"{opener} {phrase}, {closing} {hashtag}"

    def likeness(self, one: Style, other: Style) -> float:
        """The share of equal parts of two authors' styles."""
        return same_parts(one, other)
