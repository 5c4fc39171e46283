"""Made-up reviewers: a review praises or blames aspects of a product, and each user has their own scale.

A review tells how good the product was, not how this user counts: one starts from five stars and another from
one, each praise adds a star, each complaint takes one, and one aspect counts double.
"""

import random
from collections.abc import Mapping
from typing import NamedTuple

from oppu_core.data.sample.likeness import same_parts
from oppu_core.data.sample.words import TOWNS
from oppu_core.tasks.task_files import TASKS

NOISE = 0.05  # how often a score is one star off the user's own scale
MENTIONED = 3
LENIENCY = (-2, -1, 0, 1, 2)

PRODUCTS = (
    "desk lamp", "kettle", "rucksack", "pair of gloves", "garden chair", "clock radio", "coffee mill", "tent",
    "bookshelf", "bicycle bell", "frying pan", "umbrella", "toy crane", "keyboard", "wool blanket", "torch",
)  # fmt: skip
OPENINGS = (
    "I ordered this {product} for our house in {town}.",
    "We have had this {product} in {town} for a month.",
    "My neighbour in {town} has the same {product}.",
    "I took this {product} with me to {town}.",
)


class Aspect(NamedTuple):
    """What reviewers say about an aspect."""

    praise: tuple[str, ...]
    neutral: tuple[str, ...]
    blame: tuple[str, ...]


ASPECTS: dict[str, Aspect] = {
    "price": Aspect(
        (
            "It is a bargain at this price.",
            "It was wonderfully cheap.",
            "It is worth every cent.",
            "You get great value for money.",
        ),
        (
            "The price is about average.",
            "It costs what others cost.",
            "The price has not changed since spring.",
            "I paid the usual price.",
        ),
        (
            "It is far too expensive.",
            "The price is a joke.",
            "It is a waste of money.",
            "It is badly overpriced.",
        ),
    ),
    "quality": Aspect(
        (
            "It is solid and very well made.",
            "It works perfectly every day.",
            "The material is excellent.",
            "It feels as if it will last forever.",
        ),
        (
            "The material is like that of others.",
            "It does what it says on the label.",
            "The build is ordinary.",
            "It weighs as much as the old one.",
        ),
        (
            "It broke after two days.",
            "The material is flimsy.",
            "It stopped working at once.",
            "It is poorly made and falls apart.",
        ),
    ),
    "delivery": Aspect(
        (
            "The parcel arrived a day early.",
            "Delivery was quick and careful.",
            "Shipping was amazingly fast.",
            "The courier brought it right upstairs.",
        ),
        (
            "It came on the announced day.",
            "Delivery took the usual week.",
            "The parcel was left at the post office.",
            "Shipping was as described.",
        ),
        (
            "The parcel came three weeks late.",
            "The box was crushed on the way.",
            "Shipping took forever.",
            "The courier lost the first parcel.",
        ),
    ),
    "look": Aspect(
        (
            "It looks beautiful.",
            "The colour is lovely.",
            "The design is elegant.",
            "Everybody admires its shape.",
        ),
        (
            "It is grey, as in the picture.",
            "It looks like most of its kind.",
            "The shape is the common one.",
            "The colour is the one I chose.",
        ),
        (
            "It looks ugly.",
            "The colour is hideous.",
            "The design is clumsy and dull.",
            "It has nasty stains and scratches.",
        ),
    ),
    "service": Aspect(
        (
            "The staff were friendly and helpful.",
            "My question was answered within minutes.",
            "The seller kindly sent a free spare part.",
            "Customer service is a delight.",
        ),
        (
            "I did not need the customer service.",
            "The seller sent the standard mail.",
            "There is a phone number for questions.",
            "The staff took my order.",
        ),
        (
            "The staff were rude.",
            "Nobody answered my complaint.",
            "The seller refused to help.",
            "Customer service hung up on me.",
        ),
    ),
}


class Scene(NamedTuple):
    """A review without a reviewer: the aspects that it mentions, and what it says of each (-1, 0 or 1)."""

    product: str
    opening: str
    aspects: tuple[str, ...]
    sentiments: tuple[int, ...]
    sentences: tuple[str, ...]


class Scale(NamedTuple):
    """How a user counts: stars added to every review, and the aspect that counts double."""

    leniency: int
    aspect: str


class RatingGrammar:
    """The grammar of ``lamp_3``."""

    task = TASKS["lamp_3"]
    all_subjects = PRODUCTS

    def preferences(self, rng: random.Random) -> Scale:
        """A user's own scale."""
        return Scale(rng.choice(LENIENCY), rng.choice(list(ASPECTS)))

    def scene(self, rng: random.Random) -> Scene:
        """A review that nobody has rated yet."""
        aspects = tuple(rng.sample(list(ASPECTS), MENTIONED))
        sentiments = tuple(rng.choice((-1, 0, 1)) for _ in aspects)
        opening, product = rng.choice(OPENINGS), rng.choice(PRODUCTS)
        opening = opening.format(product=product, town=rng.choice(TOWNS))
        said = tuple(
            rng.choice(
                {1: ASPECTS[aspect].praise, 0: ASPECTS[aspect].neutral, -1: ASPECTS[aspect].blame}[way]
            )
            for aspect, way in zip(aspects, sentiments, strict=True)
        )
        return Scene(product, opening, aspects, sentiments, said)

    def subjects(self, scene: Scene) -> frozenset[str]:
        """The product. Aspects would not do: every review mentions three of five.

        A scale is the same for all products, so reviews of others are irrelevant, yet tell as much.
        """
        return frozenset({scene.product})

    def fields(self, scene: Scene) -> Mapping[str, str]:
        """The input fields of an item or query about this review."""
        return {"text": " ".join((scene.opening, *scene.sentences))}

    def item(self, scene: Scene, preferences: Scale, rng: random.Random) -> Mapping[str, str]:
        """The scene with the user's answer."""
        return {**self.fields(scene), "score": self.answer(scene, preferences, rng)}

    def answer(self, scene: Scene, preferences: Scale, rng: random.Random | None) -> str:
        """The user's score; without `rng`, without noise (the oracle)."""
        impression = sum(
            way * (2 if aspect == preferences.aspect else 1)
            for aspect, way in zip(scene.aspects, scene.sentiments, strict=True)
        )
        score = 3 + preferences.leniency + impression
        score = min(5, max(1, score))
        if rng is not None and rng.random() < NOISE:
            score = rng.choice([star for star in (score - 1, score + 1) if 1 <= star <= 5])
        return str(score)

    def likeness(self, one: Scale, other: Scale) -> float:
        """The share of equal parts of two users' scales."""
        return same_parts(one, other)
