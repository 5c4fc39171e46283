"""Planted movie taggers: a description evokes three tags, and each user ranks all tags in an own order.

The user's answer is the evoked tag that ranks highest. A query alone says which three tags are possible,
not which one this user would choose; no single tag dominates, and a retrieved item tells the order of only
one pair or triple.
"""

import random
from collections.abc import Mapping
from typing import NamedTuple

from oppu_core.data.sample.words import JOBS, NAMES, TOWNS
from oppu_core.tasks import TASKS

NOISE = 0.04  # how often a user picks another of the evoked tags
EVOKED = 3

SENTENCES: dict[str, tuple[str, ...]] = {
    "sci-fi": (
        "A signal from a dead planet wakes the crew.",
        "The ship's computer begins to lie.",
        "A machine opens a door to another galaxy.",
        "Robots have learned to dream.",
        "The colony on Mars stops answering.",
        "Time travellers arrive a day too early.",
    ),
    "based on a book": (
        "The film follows the pages of a loved novel.",
        "Every chapter of the bestseller comes to life.",
        "The script is adapted from a short story.",
        "Readers will know the novel behind it.",
        "It brings a famous author's first novel to the screen.",
        "The plot is taken from a prize-winning book.",
    ),
    "comedy": (
        "Nothing goes to plan, and it is hilarious.",
        "A silly bet ends with a goat in the kitchen.",
        "The jokes never stop.",
        "Two clumsy cousins ruin a wedding and everyone laughs.",
        "A parade of funny misunderstandings follows.",
        "Slapstick and wit fill every scene.",
    ),
    "action": (
        "A car chase tears through the harbour.",
        "Only a jump from the burning train can help.",
        "Helicopters hunt them across the rooftops.",
        "A bomb has to be found before noon.",
        "Fists and engines roar to the end.",
        "An elite squad storms the fortress.",
    ),
    "twist ending": (
        "The last minute turns everything around.",
        "Nobody sees the final revelation coming.",
        "In the end nothing was what it seemed.",
        "The closing scene overturns the whole story.",
        "A final surprise makes you watch it again.",
        "Only the last shot shows who lied.",
    ),
    "dystopia": (
        "The state listens in every room.",
        "After the collapse, water is rationed by guards.",
        "Citizens are numbered and may not leave the zone.",
        "A regime has forbidden music and memory.",
        "The walls of the last city are closing.",
        "Everyone is scored by the ministry.",
    ),
    "dark comedy": (
        "The funeral becomes a grimly funny contest.",
        "Hiding the body turns into a farce.",
        "Death has never been so awkwardly amusing.",
        "The undertaker sells jokes with the coffins.",
        "A murder plot fails in the most absurd ways.",
        "Misery is served with a wicked grin.",
    ),
    "classic": (
        "It has been shown in cinemas for seventy years.",
        "Critics count it among the greatest films ever.",
        "A masterpiece of the black and white era.",
        "Generations know its scenes by heart.",
        "The restored print of an old Hollywood favourite.",
        "Film schools have taught it for decades.",
    ),
    "psychology": (
        "Memories and guilt blur in a troubled mind.",
        "A therapist loses grip on reality.",
        "The voices in the head grow louder.",
        "An experiment on obedience goes too deep.",
        "Obsession slowly takes over every thought.",
        "A patient with two selves starts to talk.",
    ),
    "fantasy": (
        "A dragon sleeps under the castle.",
        "An old spell binds the queen of the elves.",
        "The sword chooses an unlikely wizard.",
        "A hidden gate leads to an enchanted forest.",
        "Witches trade wishes at midnight.",
        "A cursed ring wakes the giants.",
    ),
    "romance": (
        "A letter brings two old lovers together.",
        "They fall in love during one summer.",
        "A kiss at the station changes both their lives.",
        "Love grows between two shy neighbours.",
        "She must choose between two admirers.",
        "Their hearts meet on a slow boat.",
    ),
    "thought-provoking": (
        "It asks what we owe to each other.",
        "You will discuss its questions for days.",
        "What makes a life worth living?",
        "The film leaves its moral dilemma open.",
        "It makes you think about truth and chance.",
        "A quiet meditation on time and choice.",
    ),
    "social commentary": (
        "It exposes how the rich treat the poor.",
        "A sharp look at class and housing.",
        "The factory closes and a community is left behind.",
        "It shows what prejudice does to a school.",
        "Corrupt officials profit while workers strike.",
        "It holds a mirror to consumer society.",
    ),
    "violence": (
        "The gang war leaves the streets full of blood.",
        "A brutal revenge spares nobody.",
        "Torture and gunfire follow without mercy.",
        "The fights are savage and hard to watch.",
        "A killer strikes again and again with a knife.",
        "Cruel executions are shown in detail.",
    ),
    "true story": (
        "The events really happened in 1974.",
        "It retells the real case of a missing pilot.",
        "Based on the diary of a real survivor.",
        "Actual witnesses helped to write the script.",
        "The real people appear in the credits.",
        "It reconstructs a historical trial as it was.",
    ),
}


class Scene(NamedTuple):
    """A movie: its neutral opening and the evoked tags with the sentences that evoke them."""

    opening: str
    tags: tuple[str, ...]
    sentences: tuple[str, ...]


class TaggingGrammar:
    """The grammar of ``lamp_2m``; preferences are a ranking of all tags, best first."""

    task = TASKS["lamp_2m"]

    def preferences(self, rng: random.Random) -> tuple[str, ...]:
        """A user's own order of the tags."""
        return tuple(rng.sample(self.task.labels, len(self.task.labels)))

    def scene(self, rng: random.Random) -> Scene:
        """A movie that nobody has tagged yet."""
        tags = tuple(rng.sample(self.task.labels, EVOKED))
        opening = f"{rng.choice(NAMES)} is a {rng.choice(JOBS)} in {rng.choice(TOWNS)}."
        return Scene(opening, tags, tuple(rng.choice(SENTENCES[tag]) for tag in tags))

    def fields(self, scene: Scene) -> Mapping[str, str]:
        """The input fields of an item or query about this movie."""
        return {"description": " ".join((scene.opening, *scene.sentences))}

    def answer(self, scene: Scene, preferences: tuple[str, ...], rng: random.Random | None) -> str:
        """The user's tag; without `rng`, without noise (the oracle)."""
        best = min(scene.tags, key=preferences.index)
        if rng is not None and rng.random() < NOISE:
            return rng.choice([tag for tag in scene.tags if tag != best])
        return best
