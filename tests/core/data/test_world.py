"""The planted world: preferences show in a history, hardly in a query, and nobody shares a text."""

import collections
import dataclasses
import hashlib
import itertools
import math
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from oppu_core.data import HistoryItem, Query, User
from oppu_core.data.sample import (
    GRAMMARS,
    Planted,
    planted_likeness,
    planted_preferences,
    sample_users,
    titles,
    tweets,
    world_texts,
)
from oppu_core.data.sample.citations import FIELDS
from oppu_core.data.sample.headlines import ADJECTIVES, EVENTS, OPENERS
from oppu_core.data.sample.ranked import NOISE, RankedGrammar
from oppu_core.data.sample.ratings import ASPECTS, PRODUCTS
from oppu_core.errors import ConfigError
from oppu_core.prompting.profiles import most_frequent
from oppu_core.prompting.retrieval import BM25Retriever
from oppu_core.storage.files import content_id
from oppu_core.tasks.task import Task
from oppu_core.tasks.task_files import TASKS

pytestmark = pytest.mark.slow  # draws thousands of users

EACH = pytest.mark.parametrize("task", [TASKS[name] for name in GRAMMARS], ids=lambda task: task.name)
RANKED = pytest.mark.parametrize("name", ["lamp_2n", "lamp_2m"])


WRITERS = pytest.mark.parametrize("name", ["lamp_5", "lamp_7"])

# What answering without a model scores at most; a history of papers has no answers to choose from.
BOUNDS = {
    "lamp_2n": {"majority": 0.25, "latest": 0.22, "retrieved": 0.45},
    "lamp_2m": {"majority": 0.25, "latest": 0.22, "retrieved": 0.45},
    "lamp_3": {"majority": 0.45, "latest": 0.40, "retrieved": 0.55},
    "lamp_4": {"majority": 0.40, "latest": 0.40, "retrieved": 0.75},
    "lamp_5": {"majority": 0.50, "latest": 0.50, "retrieved": 0.75},
    "lamp_7": {"majority": 0.65, "latest": 0.65, "retrieved": 0.80},
}


# What a review says: of which aspect, and whether it praises (1) or blames (-1).
REVIEWERS_SAY = {
    text: (name, way)
    for name, aspect in ASPECTS.items()
    for way, texts in zip((1, 0, -1), aspect, strict=True)
    for text in texts
}


def _words_of(*parts: object) -> set[str]:
    """All words of nested tuples and dicts of texts, placeholders and keys left out."""
    found: set[str] = set()
    for part in parts:
        if isinstance(part, str):
            found.update(words(re.sub(r"{.*?}", "", part)))
        elif isinstance(part, dict):
            found |= _words_of(*part.values())
        elif isinstance(part, tuple):
            found |= _words_of(*part)
    return found


def input_text(task: Task, item: HistoryItem | Query) -> str:
    """What a history and a query both hold: all input fields but the options of a citation."""
    return "\n".join(item.fields[name] for name in task.input_fields if name in task.history_fields)


def texts_of(task: Task, user: User) -> list[str]:
    return [input_text(task, item) for item in (*user.history, *user.queries)]


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


STYLE_WORDS = {
    "lamp_5": _words_of(titles.HOOKS, titles.FORMS, titles.CLOSINGS),
    "lamp_7": _words_of(
        *(tweets.OPENERS, tweets.CLOSINGS, tweets.SPEAKERS, tweets.INTENSIFIERS),
        *(tweets.THE, tweets.IN, tweets.WITH),
        *(event.verbs for event in tweets.EVENTS),
        *(topic.hashtags for topic in tweets.TOPICS.values()),
    ),
}


def overlap(answer: str, gold: str) -> float:
    """F-measure of common words: ROUGE-1 without stemming."""
    ours, theirs = collections.Counter(words(answer)), collections.Counter(words(gold))
    return 2 * (ours & theirs).total() / max(1, ours.total() + theirs.total())


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@pytest.fixture(scope="module")
def users_of() -> dict[str, list[User]]:
    """Forty test users of each task."""
    return {
        name: list(sample_users(TASKS[name], test_users=40, other_users=0, queries=8, seed=7))
        for name in GRAMMARS
    }


def scorer(task: Task) -> Callable[[str, str], float]:
    return overlap if task.kind == "generation" else lambda answer, gold: float(answer == gold)


@EACH
def test_the_same_seed_gives_the_same_users(task: Task) -> None:
    def draw(seed: int) -> list[User]:
        return list(sample_users(task, test_users=3, other_users=3, seed=seed))

    assert draw(5) == draw(5)
    assert all(a != b for a, b in zip(draw(5), draw(6), strict=True))


@EACH
def test_more_users_change_no_other_user(task: Task) -> None:
    few = {user.user_id: user for user in sample_users(task, test_users=2, other_users=3, seed=1)}
    many = {user.user_id: user for user in sample_users(task, test_users=4, other_users=7, seed=1)}
    assert len(few) == 5
    assert len(many) == 11
    assert {user_id: many[user_id] for user_id in few} == few


@EACH
def test_no_two_users_are_alike(task: Task) -> None:
    users = list(sample_users(task, test_users=4, other_users=4, seed=1))
    assert len({texts_of(task, user)[0] for user in users}) == len(users)
    assert len({tuple(item.date for item in user.history) for user in users}) == len(users)


@EACH
def test_audiences_share_no_text_whatever_the_seeds(task: Task) -> None:
    seen: dict[str, set[str]] = {"others": set(), "test": set(), "pretraining": set()}
    asked: dict[str, set[str]] = {"others": set(), "test": set(), "pretraining": set()}
    for seed in range(4):
        rng = random.Random(seed)
        passing = [("pretraining", world_texts(task, rng, 20)) for _ in range(10)]
        users = sample_users(task, test_users=4, other_users=20, seed=seed)
        for audience, user in [*passing, *((user.split, user) for user in users)]:
            seen[audience].update(texts_of(task, user))
            asked[audience].update(input_text(task, query) for query in user.queries)
    assert all(len(texts) > 300 for texts in seen.values())
    assert not (seen["test"] & seen["others"] or (seen["test"] | seen["others"]) & seen["pretraining"])
    # Not by luck: a text's own hash tells whose it is, so two audiences cannot ever draw the same one. A
    # tweet tells all of its text, so that tweets differ where their texts do.
    texts = asked if task.output_field is None else seen
    for audience, share in {"test": range(8), "others": range(8, 12), "pretraining": range(12, 16)}.items():
        assert {hashlib.sha256(text.encode()).digest()[0] % 16 for text in texts[audience]} == set(share)


@EACH
def test_no_text_of_a_test_user_stands_inside_a_text_of_another_audience(task: Task) -> None:
    users = list(sample_users(task, test_users=10, other_users=60, seed=3))
    elsewhere = [text for user in users if user.split == "others" for text in texts_of(task, user)]
    rng = random.Random(0)
    elsewhere += [text for _ in range(20) for text in texts_of(task, world_texts(task, rng, 20))]
    everything = "\n\n".join(elsewhere)
    for user in users:
        if user.split == "test":
            assert not [text for text in texts_of(task, user) if text in everything]


@EACH
def test_passing_users_of_the_pretraining_audience_are_new_every_time(task: Task) -> None:
    rng = random.Random(0)
    first, second = world_texts(task, rng, 30), world_texts(task, rng, 30)
    assert len(first.history) == 30
    assert len(first.queries) == 1
    assert first.split == "others"
    assert not set(texts_of(task, first)) & set(texts_of(task, second))
    assert world_texts(task, random.Random(0), 30) == first


@EACH
def test_a_text_occurs_once_in_a_user(task: Task) -> None:
    for user in sample_users(task, test_users=5, other_users=5, seed=2):
        texts = texts_of(task, user)
        assert len(set(texts)) == len(texts)
        ids = [item.id for item in (*user.history, *user.queries)]
        assert len(set(ids)) == len(ids)


@EACH
def test_users_differ_in_activity_within_the_stated_range(task: Task) -> None:
    users = list(sample_users(task, test_users=60, other_users=60, history=(20, 80), queries=2, seed=0))
    lengths = sorted(len(user.history) for user in users if user.split == "test")
    assert 20 <= lengths[0] < 26
    assert 68 < lengths[-1] <= 80
    assert 30 < lengths[30] < 50, "log-uniform: the median is near the geometric mean, 40"
    others = {len(user.history) for user in users if user.split == "others"}
    # Seven tasks draw their own users: at this seed nobody of lamp_5 has exactly 11 items.
    assert {4, 7, 12 if task.name == "lamp_5" else 11} <= others <= set(range(4, 13))
    for user in users:
        assert len(user.queries) == (2 if user.split == "test" else 4)
        assert all(query.history_len == len(user.history) for query in user.queries)


@EACH
def test_dates_rise_strictly_from_item_to_item(task: Task) -> None:
    for user in sample_users(task, test_users=10, other_users=10, seed=4):
        dates = [item.date or "" for item in user.history]
        assert all(re.fullmatch(r"20\d\d-\d\d-\d\d", date) for date in dates)
        assert all(earlier < later for earlier, later in itertools.pairwise(dates))


@RANKED
def test_who_ranks_labels_follows_the_planted_order_but_for_the_stated_noise(
    name: str, users_of: dict[str, list[User]]
) -> None:
    queries = [query for user in users_of[name] for query in user.queries]
    agreement = mean([float(query.gold == query.oracle) for query in queries])
    assert NOISE == 0.04
    assert 0.93 < agreement < 0.99
    assert all(query.oracle in TASKS[name].labels for query in queries)


@RANKED
def test_answers_come_from_one_order_of_the_labels(name: str, users_of: dict[str, list[User]]) -> None:
    """Oracle answers never contradict each other: 'a before b' is never followed by 'b before a'."""
    grammar = GRAMMARS[name]
    assert isinstance(grammar, RankedGrammar)
    assert set(grammar.sentences) == set(grammar.task.labels)
    evoked_by = {text: label for label, texts in grammar.sentences.items() for text in texts}
    assert len(evoked_by) == sum(len(texts) for texts in grammar.sentences.values())
    compared = 0
    for user in users_of[name]:
        before: set[tuple[str, str]] = set()
        for query in user.queries:
            text = input_text(grammar.task, query)
            labels = {label for sentence, label in evoked_by.items() if sentence in text}
            assert len(labels) == 3
            assert query.gold in labels
            assert query.oracle in labels
            before |= {(str(query.oracle), label) for label in labels - {query.oracle}}
        assert not before & {(b, a) for a, b in before}
        compared += len(before)
    assert compared > 500


def _field_of(reference: str) -> str:
    """The research field of a reference, by its subject."""
    (field,) = (name for name, field in FIELDS.items() if reference.startswith(field.subjects))
    return field


def _touched(title: str) -> set[str]:
    return {name for name, field in FIELDS.items() if any(topic in title for topic in field.topics)}


def test_a_researcher_cites_by_one_order_of_the_fields(users_of: dict[str, list[User]]) -> None:
    """What the papers cite foretells the choices: a user's history and queries share one order."""
    foretold: list[float] = []
    for user in users_of["lamp_1"]:
        won: collections.Counter[tuple[str, str]] = collections.Counter()
        for item in user.history:
            cited = _field_of(item.fields["citation"])
            touched = _touched(item.fields["title"])
            assert len(touched) == 3
            assert cited in touched
            won.update((cited, other) for other in touched - {cited})
        for query in user.queries:
            fields = [_field_of(query.fields[option]) for option in ("option_1", "option_2")]
            assert fields[0] != fields[1]
            related = [field in _touched(query.fields["title"]) for field in fields]
            if not all(related):  # one option has nothing to do with the paper: anybody sees that
                assert sum(related) == 1
                assert query.gold == query.oracle == ("[1]" if related[0] else "[2]")
                continue
            lead = won[fields[0], fields[1]] - won[fields[1], fields[0]]
            if lead:
                foretold.append(float((lead > 0) == (query.oracle == "[1]")))
    assert len(foretold) > 150
    assert mean(foretold) > 0.9
    golds = collections.Counter(query.gold for user in users_of["lamp_1"] for query in user.queries)
    assert 0.42 < golds["[1]"] / golds.total() < 0.58, "the place of an option tells nothing"


def test_a_reviewer_scores_on_an_own_scale(users_of: dict[str, list[User]]) -> None:
    """Reviews without praise or blame show a user's leniency; golds follow oracles; all stars are given."""
    says = {text: way for text, (_, way) in REVIEWERS_SAY.items()}
    assert len(says) == sum(len(texts) for aspect in ASPECTS.values() for texts in aspect)
    usual, errors = [], []
    for user in users_of["lamp_3"]:
        neutral = []
        for item in user.history:
            ways = [way for text, way in says.items() if text in item.fields["text"]]
            assert len(ways) == 3
            if not any(ways):
                neutral.append(item.fields["score"])
        usual += [int(most_frequent(neutral)) - 3] if len(neutral) > 2 else []
        errors += [abs(float(query.gold or 0) - float(query.oracle or 0)) for query in user.queries]
    assert set(usual) == {-2, -1, 0, 1, 2}
    assert 0.01 < mean(errors) < 0.1
    scores = collections.Counter(query.gold for user in users_of["lamp_3"] for query in user.queries)
    assert set(scores) == set(TASKS["lamp_3"].labels)
    assert all(0.1 < count / scores.total() < 0.35 for count in scores.values())


def test_a_headline_writer_follows_the_planted_style_but_for_a_little_noise(
    users_of: dict[str, list[User]],
) -> None:
    queries = [query for user in users_of["lamp_4"] for query in user.queries]
    assert 0.84 < mean([float(query.gold == query.oracle) for query in queries]) < 0.97
    assert 0.97 < mean([overlap(query.oracle or "", query.gold or "") for query in queries]) < 1.0


@EACH
def test_the_same_scene_is_answered_differently_by_different_users(task: Task) -> None:
    grammar = GRAMMARS[task.name]
    rng = random.Random(0)
    scenes = [grammar.scene(rng) for _ in range(50)]
    users = [grammar.preferences(rng) for _ in range(40)]
    most = []
    for scene in scenes:
        answers = collections.Counter(grammar.answer(scene, preferences, None) for preferences in users)
        if task.name not in ("lamp_1", "lamp_3"):  # two options; all praise is five stars to everybody
            assert len(answers) >= 3
        most.append(answers.most_common(1)[0][1] / len(users))
    # A query alone leaves three labels, about equally likely (the fullest of three is above 1/3), or a style;
    # a quarter of the citations and some very good or bad reviews are answered alike by most.
    highest, usual = {
        "lamp_1": (None, 0.73),
        "lamp_2n": (0.7, 0.47),
        "lamp_2m": (0.7, 0.47),
        "lamp_3": (None, 0.52),
    }.get(task.name, (0.7, 0.10))
    if highest is not None:
        assert max(most) < highest
    assert mean(most) < usual


@RANKED
def test_no_constant_label_does_well_for_a_user(name: str, users_of: dict[str, list[User]]) -> None:
    for user in users_of[name]:
        shares = collections.Counter(item.fields[str(TASKS[name].output_field)] for item in user.history)
        bound = 0.36 if name == "lamp_2m" else 0.40
        assert shares.most_common(1)[0][1] <= bound * len(user.history)
    golds = [query.gold for user in users_of[name] for query in user.queries]
    assert collections.Counter(golds).most_common(1)[0][1] < 0.14 * len(golds), "nor one label for everybody"


@pytest.mark.parametrize("name", BOUNDS)
def test_neither_the_majority_nor_one_retrieved_item_comes_near_the_oracle(
    name: str, users_of: dict[str, list[User]]
) -> None:
    task = TASKS[name]
    score, retriever = scorer(task), BM25Retriever(task)
    scores: dict[str, list[float]] = collections.defaultdict(list)
    for user in users_of[task.name]:
        answers = [item.fields[task.text_field] for item in user.history]
        for query in user.queries:
            assert query.gold is not None
            assert query.oracle is not None
            search = task.retrieval_text(query.fields)
            similar = retriever.retrieve(search, user.history, len(user.history), 1, "")[0]
            scores["oracle"].append(score(query.oracle, query.gold))
            scores["majority"].append(score(most_frequent(answers), query.gold))
            scores["latest"].append(score(answers[-1], query.gold))
            scores["retrieved"].append(score(similar.fields[task.text_field], query.gold))
    results = {name: mean(values) for name, values in scores.items()}
    assert results["oracle"] > 0.93
    for way, bound in BOUNDS[name].items():
        assert results[way] < bound, (way, results)


def _verbs(event: int) -> Iterator[str]:
    for pair in EVENTS[event].verbs:
        for verb in pair:
            yield from words(verb)


def test_headlines_take_their_content_words_from_the_article(users_of: dict[str, list[User]]) -> None:
    of_style = {word for text in (*OPENERS, *ADJECTIVES) for word in words(text)}
    of_style |= {"by", "why", "the", "of", "in"} | {
        verb for event in range(len(EVENTS)) for verb in _verbs(event)
    }
    for user in users_of["lamp_4"]:
        for item in user.history:
            article = set(words(item.fields["text"]))
            headline = set(words(item.fields["title"]))
            assert headline - of_style <= article
            assert len(headline & article) >= 3
            assert item.fields["title"] not in item.fields["text"]


def test_articles_use_no_word_that_is_somebodys_style() -> None:
    style = {word for text in (*OPENERS, *ADJECTIVES) for word in words(text)} - {
        "in",
        "first",
        "news",
        "new",
    }
    style |= {verb for event in range(len(EVENTS)) for verb in _verbs(event)} - {"off"}
    style -= {"taken"}  # "the work had taken two years", in a comment that any article may carry
    rng = random.Random(0)
    grammar = GRAMMARS["lamp_4"]
    for _ in range(500):
        found = style & set(words(grammar.fields(grammar.scene(rng))["text"]))
        assert not found


@WRITERS
def test_a_writer_follows_the_planted_style_but_for_a_little_noise(
    name: str, users_of: dict[str, list[User]]
) -> None:
    queries = [query for user in users_of[name] for query in user.queries]
    assert 0.75 < mean([float(query.gold == query.oracle) for query in queries]) < 0.97
    assert 0.97 < mean([overlap(query.oracle or "", query.gold or "") for query in queries]) < 1.0


@WRITERS
def test_style_shows_in_words_and_another_writers_words_miss_it(name: str) -> None:
    """ROUGE sees neither case nor punctuation: the same content in another user's words is far off."""
    grammar, rng = GRAMMARS[name], random.Random(0)
    stranger, copied = [], []
    for _ in range(400):
        scene, user, other = grammar.scene(rng), grammar.preferences(rng), grammar.preferences(rng)
        gold = grammar.answer(scene, user, None)
        stranger.append(overlap(grammar.answer(scene, other, None), gold))
        copied.append(overlap(" ".join(grammar.fields(scene).values()), gold))
    assert 0.25 < mean(stranger) < 0.6
    assert 0.15 < mean(copied) < 0.5


@WRITERS
def test_titles_and_tweets_take_their_content_words_from_the_text(name: str) -> None:
    grammar, rng = GRAMMARS[name], random.Random(0)
    for _ in range(300):
        scene = grammar.scene(rng)
        text = set(words(" ".join(grammar.fields(scene).values())))
        answer = set(words(grammar.answer(scene, grammar.preferences(rng), rng)))
        assert answer - STYLE_WORDS[name] <= text
        assert len((answer & text) - STYLE_WORDS[name]) >= 4
        # Words that both may use say nothing about whose style it is.
        shared = {"i", "it", "the", "this", "a", "as", "of", "on", "in", "for", "by", "to", "from"}
        assert STYLE_WORDS[name] & text <= shared


def test_a_tweet_tells_all_of_its_text() -> None:
    """So no two texts, and no two audiences, share a tweet."""
    grammar, rng = GRAMMARS["lamp_7"], random.Random(0)
    for _ in range(300):
        scene = grammar.scene(rng)
        tweet = grammar.answer(scene, grammar.preferences(rng), rng)
        for part in (scene.thing, scene.town, scene.when, scene.companion):
            assert part in tweet
        assert sum(verb in tweet for event in tweets.EVENTS for verb in event.verbs) == 1


def test_a_history_of_tweets_holds_no_plain_text(users_of: dict[str, list[User]]) -> None:
    for user in users_of["lamp_7"]:
        own = [item.fields["text"] for item in user.history]
        assert all(re.search(r" #[a-z]+$", tweet) for tweet in own)
        assert not any("#" in query.fields["text"] for query in user.queries)


@pytest.mark.parametrize("name", GRAMMARS)
def test_there_are_tens_of_thousands_of_texts(name: str) -> None:
    grammar, rng = GRAMMARS[name], random.Random(0)
    first = grammar.task.input_fields[0]
    assert len({grammar.fields(grammar.scene(rng))[first] for _ in range(60_000)}) > 30_000


def test_queries_show_only_input_fields(users_of: dict[str, list[User]]) -> None:
    for name, users in users_of.items():
        task = TASKS[name]
        for user in users:
            assert all(tuple(query.fields) == task.input_fields for query in user.queries)
            assert all(set(item.fields) == set(task.history_fields) for item in user.history)


# The users as they were before anything could be planted; runs and stored adapters rest on them.
PLAIN = {
    "lamp_1": "9bd09c83199b2c59a27a86069ee6eb65e03629d85b28d106e67e5ed5f37f659a",
    "lamp_2n": "4d715b316e8962554c271bbefcc308cea5210b6c916d20b0b015cb53f874215b",
    "lamp_2m": "832ccea8ce99ed8c9def8b1368710701e0a94af89996b07a6afdf49795925cc9",
    "lamp_3": "1e0b370293f6cd5f1de7e51e92cd6d2fa44f470f265f2d396344d5f1b19b37fc",
    "lamp_4": "2466934667f07e09a6f703a5a585374eae32d5fc82932758a0055cf54127f710",
    "lamp_5": "2785b465532b4786abda39d8b80f851b221e020ac59dbead075d4703b03072c7",
    "lamp_7": "47351e55db39d6fbc76ff95af869eb4446bbc1e867e68435925a900afc9dce36",
}

# Words that tell what an item or query is about.
CLUES: dict[str, dict[str, str]] = {
    "lamp_1": {clue: name for name, field in FIELDS.items() for clue in (*field.topics, *field.subjects)},
    "lamp_3": {product: product for product in PRODUCTS},
    "lamp_4": {thing: event.desk for event in EVENTS for thing in event.objects},
    "lamp_5": {"We apply": "method", "We compare": "study", "We make": "resource"},
    "lamp_7": {thing: name for name, topic in tweets.TOPICS.items() for thing in topic.things},
}
for _grammar in GRAMMARS.values():
    if isinstance(_grammar, RankedGrammar):
        CLUES[_grammar.task.name] = {
            text: label for label, texts in _grammar.sentences.items() for text in texts
        }


def about(task: Task, item: HistoryItem | Query) -> set[str]:
    text = "\n".join(item.fields.values())
    return {subject for clue, subject in CLUES[task.name].items() if re.search(rf"\b{re.escape(clue)}", text)}


@EACH
def test_users_with_nothing_planted_are_as_ever(task: Task) -> None:
    def identity(**planted: Planted) -> str:
        users = sample_users(task, test_users=3, other_users=5, history=(6, 9), queries=3, seed=11, **planted)
        values = [dataclasses.asdict(user) for user in users]
        for query in (query for user in values for query in user["queries"]):
            assert query.pop("date") is None  # a field that came later
        return content_id(values)

    assert identity() == PLAIN[task.name]
    assert identity(plant=Planted()) == PLAIN[task.name]
    assert identity(plant=Planted(shift=0.5)) != PLAIN[task.name]


@EACH
def test_planting_changes_test_users_only(task: Task) -> None:
    plant = Planted(shift=0.5, inactive=0.5, irrelevant=0.5)
    plain = list(sample_users(task, test_users=2, other_users=5))
    planted = list(sample_users(task, test_users=2, other_users=5, plant=plant))
    assert planted[:5] == plain[:5]
    assert all(a != b for a, b in zip(planted[5:], plain[5:], strict=True))
    assert planted == list(sample_users(task, test_users=2, other_users=5, plant=plant))


# The parts of a style that show in every answer.
STYLE_SHOWS: dict[str, Callable[[Any, str], bool]] = {
    "lamp_4": lambda style, oracle: oracle.endswith(style.closing) and style.adjective in oracle.lower(),
    "lamp_5": lambda style, oracle: oracle.endswith(style.closing),
    "lamp_7": lambda style, oracle: style.speaker in oracle and style.intensifier in oracle,
}


def planted_part(task: Task, preferences: Any, query: Query) -> bool:
    """Whether the oracle's answer is the planted preferences', as far as it shows in every query."""
    oracle = query.oracle or ""
    if task.name == "lamp_1":
        fields = [_field_of(query.fields[option]) for option in ("option_1", "option_2")]
        if not set(fields) <= _touched(query.fields["title"]):
            return True  # anybody would choose so
        return oracle == f"[{1 + fields.index(min(fields, key=preferences.index))}]"
    if task.name == "lamp_3":
        told = [found for text, found in REVIEWERS_SAY.items() if text in query.fields["text"]]
        score = 3 + preferences.leniency + sum(way * (1 + (name == preferences.aspect)) for name, way in told)
        return oracle == str(min(5, max(1, score)))
    if task.name in STYLE_SHOWS:
        return STYLE_SHOWS[task.name](preferences, oracle)
    return oracle == min(about(task, query), key=preferences.index)


@EACH
def test_queries_are_answered_by_the_planted_preferences_whatever_else_is_planted(task: Task) -> None:
    plant = Planted(shift=0.5, inactive=0.4, irrelevant=0.3)
    shown = []
    for user in sample_users(task, test_users=6, other_users=0, seed=5, plant=plant):
        own = planted_preferences(task, user.user_id, seed=5)
        assert all(planted_part(task, own, query) for query in user.queries)
        stranger = planted_preferences(task, user.user_id, seed=6)
        shown += [planted_part(task, stranger, query) for query in user.queries]
    assert not all(shown), "a stranger's preferences do not explain the answers"


@EACH
@pytest.mark.parametrize("share", [0.3, 0.75])
def test_a_shift_changes_the_answers_of_the_oldest_items_only(task: Task, share: float) -> None:
    output = task.text_field if task.output_field is None else task.output_field
    output = "citation" if task.name == "lamp_1" else output
    changed = []
    plain = list(sample_users(task, test_users=8, other_users=0, seed=3))
    for before, user in zip(
        plain,
        sample_users(task, test_users=8, other_users=0, seed=3, plant=Planted(shift=share)),
        strict=True,
    ):
        old = round(share * len(before.history))
        assert user.queries == before.queries
        assert user.history[old:] == before.history[old:]
        for was, item in zip(before.history[:old], user.history[:old], strict=True):
            assert (item.id, item.date) == (was.id, was.date)
            assert {**item.fields, output: ""} == {**was.fields, output: ""}
            changed.append(item.fields[output] != was.fields[output])
    assert mean([float(change) for change in changed]) > 0.45


@RANKED
def test_old_items_follow_one_other_order_and_new_ones_the_users_own(name: str) -> None:
    task = TASKS[name]
    own_old, own_new, old_old = [], [], []
    for user in sample_users(task, test_users=20, other_users=0, seed=2, plant=Planted(shift=0.5)):
        order = planted_preferences(task, user.user_id, seed=2)
        middle = round(0.5 * len(user.history))
        won: collections.Counter[tuple[str, str]] = collections.Counter()
        for number, item in enumerate(user.history):
            labels, chosen = about(task, item), item.fields[str(task.output_field)]
            own = float(chosen == min(labels, key=order.index))
            (own_old if number < middle else own_new).append(own)
            if number < middle:
                for other in labels - {chosen}:
                    old_old += [float(won[chosen, other] >= won[other, chosen])]
                    won[chosen, other] += 1
    assert mean(own_new) > 0.93
    assert 0.25 < mean(own_old) < 0.42, "by chance a third"
    assert mean(old_old) > 0.9, "the old items contradict each other seldom"


def test_a_share_of_the_users_is_inactive_spread_evenly() -> None:
    task = TASKS["lamp_4"]

    def lengths(share: float) -> list[int]:
        plant = Planted(inactive=share)
        users = sample_users(task, test_users=100, other_users=0, history=(8, 12), queries=1, plant=plant)
        return [len(user.history) for user in users]

    plain = lengths(0.0)
    assert min(plain) >= 8
    for share, count in ((0.29, 29), (1 / 3, 33), (0.5, 50), (0.07, 7), (1.0, 100)):
        planted = lengths(share)
        inactive = [length <= 6 for length in planted]
        assert sum(inactive) == count
        assert all(length == was for length, was in zip(planted, plain, strict=True) if length > 6)
        for stretch in range(0, 100, 20):
            assert abs(sum(inactive[stretch : stretch + 20]) - 20 * share) <= 1
    assert set(lengths(1.0)) == {2, 3, 4, 5, 6}
    assert [length <= 6 for length in lengths(0.5)[:4]] == [False, True, False, True]


@EACH
def test_an_inactive_user_keeps_the_latest_items_and_all_queries(task: Task) -> None:
    plain = sample_users(task, test_users=4, other_users=0)
    planted = sample_users(task, test_users=4, other_users=0, plant=Planted(shift=0.5, inactive=1.0))
    for before, user in zip(plain, planted, strict=True):
        count = len(user.history)
        assert 2 <= count <= 6
        assert [item.id for item in user.history] == [item.id for item in before.history[-count:]]
        new = count - round(0.5 * count)
        assert user.history[-new:] == before.history[-new:]
        assert user.queries == tuple(
            dataclasses.replace(query, history_len=count) for query in before.queries
        )


@EACH
def test_irrelevant_items_are_about_what_no_query_touches(task: Task) -> None:
    def draw(plant: Planted) -> Iterator[tuple[User, set[str], list[set[str]]]]:
        # So many queries that they touch all subjects that they may.
        users = sample_users(
            task, test_users=6, other_users=0, history=(30, 60), queries=60, seed=1, plant=plant
        )
        for user in users:
            asked = set().union(*(about(task, query) for query in user.queries))
            yield user, asked, [about(task, item) for item in user.history]

    everything = set(GRAMMARS[task.name].all_subjects)
    assert everything == set(CLUES[task.name].values())
    for _, asked, subjects in draw(Planted()):
        assert len(asked) > math.ceil(len(everything) / 2), "by itself nobody asks about a half only"
        assert all(subjects)
    halves, places, near, golds = set(), [], [], []
    for user, asked, subjects in draw(Planted(irrelevant=0.4)):
        assert len(asked) == math.ceil(len(everything) / 2)
        apart = [not about_what & asked for about_what in subjects]
        assert sum(apart) == round(0.4 * len(user.history))
        assert all(about_what <= asked for about_what, far in zip(subjects, apart, strict=True) if not far)
        places += [number / len(apart) for number, far in enumerate(apart) if far]
        near += [number / len(apart) for number, far in enumerate(apart) if not far]
        halves.add(frozenset(asked))
        golds += [scorer(task)(query.oracle or "", query.gold or "") for query in user.queries]
    assert len(halves) > 1, "each user has an own half"
    assert abs(mean(places) - mean(near)) < 0.1, "evenly over time"
    assert mean(golds) > 0.93, "the oracle answers as ever"


@EACH
def test_likeness_is_one_with_oneself_and_symmetric(task: Task) -> None:
    ids = [user.user_id for user in sample_users(task, test_users=12, other_users=0, history=(2, 3))]
    likeness_UU = planted_likeness(task, ids, 0)
    for i, row in enumerate(likeness_UU):
        assert row[i] == 1
        assert row == [other[i] for other in likeness_UU]
        assert all(0 <= value <= 1 for value in row)
    assert min(map(min, likeness_UU)) < 0.4
    assert planted_likeness(task, ids[::-1], 0)[0][1] == likeness_UU[-1][-2], "in the order of the ids"


# Rankings agree on half of all pairs; each part of a style is equal as often as two draws from its choices.
CHANCE = {
    "lamp_1": 1 / 2,
    "lamp_2n": 1 / 2,
    "lamp_2m": 1 / 2,
    "lamp_3": (1 / 5 + 1 / 5) / 2,
    "lamp_4": (1 / 3 + 1 / 3 + 1 / 6 + 1 / 8 + 1 / 5 + 1 / 3) / 6,
    "lamp_5": (1 / 6 + 1 / 5 + 1 / 8) / 3,
    "lamp_7": (1 / 6 + 1 / 6 + 1 / 6 + 1 / 5 + 1 / 5 + 1 / 3 + 1 / 6 + 1 / 6 + 1 / 3 + 1 / 4) / 10,
}


@EACH
def test_strangers_are_alike_by_chance(task: Task) -> None:
    likeness_UU = planted_likeness(task, [f"test-{index:03d}" for index in range(60)], 0)
    strangers = [value for i, row in enumerate(likeness_UU) for value in row[:i]]
    assert mean(strangers) == pytest.approx(CHANCE[task.name], abs=0.02)


def test_likeness_counts_pairs_parts_and_cases() -> None:
    ranked, order = GRAMMARS["lamp_2m"], planted_preferences(TASKS["lamp_2m"], "test-000", 0)
    assert ranked.likeness(order, order[::-1]) == 0
    neighbours = (order[1], order[0], *order[2:])
    assert ranked.likeness(order, neighbours) == pytest.approx(1 - 1 / 105)
    headlines, style = GRAMMARS["lamp_4"], planted_preferences(TASKS["lamp_4"], "test-000", 0)
    assert headlines.likeness(style, style._replace(casing="none")) == pytest.approx(1 - 1 / 6)
    city = style._replace(forms={**style.forms, "city": "none"})
    assert headlines.likeness(style, city) == pytest.approx(1 - 1 / 6 / 4)
    verb = style._replace(verbs=(*style.verbs[:-1], -1))
    assert headlines.likeness(style, verb) == pytest.approx(1 - 1 / 6 / 8)


@pytest.mark.parametrize(
    ("name", "values", "bounds"),
    [
        ("shift", (-0.1, 1.0, math.nan), "[0, 1)"),
        ("irrelevant", (-0.1, 1.0, math.nan), "[0, 1)"),
        ("inactive", (-0.1, 1.1, math.nan), "[0, 1]"),
    ],
)
def test_shares_out_of_range_are_refused(name: str, values: tuple[float, ...], bounds: str) -> None:
    for value in values:
        with pytest.raises(ConfigError, match=rf"{name} is {value}.*{re.escape(bounds)}\.$"):
            Planted(**{name: value})
    assert getattr(Planted(**{name: 0.99}), name) == 0.99


def test_what_a_person_writes_is_read() -> None:
    assert Planted.read([]) == Planted()
    assert Planted.read(["shift=0.5", " inactive=1"]) == Planted(shift=0.5, inactive=1.0)
    for text in ("shift", "shift=", "shift=half", "taste=0.5", "=0.5", ""):
        with pytest.raises(ConfigError, match=r"--plant .*shift=0.5"):
            Planted.read([text])
    with pytest.raises(ConfigError, match="irrelevant"):
        Planted.read(["irrelevant=1"])


@pytest.mark.parametrize("user_id", ["others-000", "test-3", "test-0003", "test-", "me", "test--01"])
def test_only_test_users_have_preferences_to_tell(user_id: str) -> None:
    with pytest.raises(ConfigError, match=f"'{user_id}' is no test user"):
        planted_preferences(TASKS["lamp_2m"], user_id, 0)
    own = dataclasses.replace(TASKS["lamp_2m"], name="recipes")
    with pytest.raises(ConfigError, match="task recipes"):
        planted_likeness(own, ["test-000"], 0)
