"""Retrieval by a sentence encoder: the obvious order, from the user's own items, encoded once."""

import random

import numpy as np
import pytest
from oppu_core.data import HistoryItem
from oppu_core.prompting import retrieval
from oppu_core.prompting.retrieval import BM25Retriever, DenseRetriever
from oppu_core.tasks.task_files import TASKS
from oppu_core.texts import normal

TASK = TASKS["lamp_2m"]
WORDS = ["ship", "sea", "robot", "dream", "king", "war", "love", "city"]


class Counts:
    """An encoder that counts words; `noise` is what a batch does to the last digits of a vector."""

    def __init__(self, noise: float = 0.0) -> None:
        self.batches: list[list[str]] = []
        self._noise = noise

    def documents(self, texts: list[str]) -> np.ndarray:
        self.batches.append(texts)
        rng = np.random.default_rng(len(texts))
        vectors = np.array([vector(text) for text in texts], np.float32)
        return (vectors + self._noise * rng.standard_normal(vectors.shape)).astype(np.float32)

    def query(self, text: str) -> np.ndarray:
        return vector(text).astype(np.float32)


def vector(text: str) -> np.ndarray:
    counts = np.array([1 + text.split().count(word) for word in WORDS], float)
    return counts / np.linalg.norm(counts)


def film(number: int, text: str) -> HistoryItem:
    return HistoryItem(str(number), {"description": text, "tag": "action"})


def films(rng: random.Random, count: int) -> tuple[HistoryItem, ...]:
    return tuple(film(number, " ".join(rng.choices(WORDS, k=rng.randrange(1, 6)))) for number in range(count))


def obvious(query: str, items: tuple[HistoryItem, ...], before: int, k: int) -> list[HistoryItem]:
    """One cosine at a time; the later of equals first."""
    asked, ranked = vector(normal(query)), []
    for place, item in enumerate(items[:before]):
        line = vector(normal(TASK.history_line(item.fields)))
        cosine = sum(a * b for a, b in zip(asked, line, strict=True))
        ranked.append((round(cosine, 5), place, item))
    return [item for _, _, item in sorted(ranked, key=lambda row: row[:2], reverse=True)][:k]


@pytest.mark.parametrize("noise", [0.0, 1e-8])
def test_the_most_alike_items_come_first_and_the_later_of_equals(noise: float) -> None:
    rng, ties = random.Random(0), 0
    for _ in range(100):
        items = films(rng, rng.randrange(1, 40))
        retriever = DenseRetriever(TASK, Counts(noise))
        for _ in range(5):
            query, before = " ".join(rng.choices(WORDS, k=4)), rng.randrange(len(items) + 1)
            for k in (1, 3, 50):
                found = retriever.retrieve(query, items, before, k, "key")
                assert found == obvious(query, items, before, k)
            ties += len({item.fields["description"] for item in items[:before]}) < before
    assert ties > 100, "equal texts were met"


def test_the_texts_are_those_that_bm25_searches_in() -> None:
    encoder, items = Counts(), (film(0, "a ship\nat  sea"), film(1, "love"), film(2, "a ship at sea"))
    DenseRetriever(TASK, encoder).retrieve("sea\nship", items, 3, 1, "key")
    lines = [normal(TASK.history_line(item.fields)) for item in items]
    assert encoder.batches == [list(dict.fromkeys(lines))]
    assert [f"description: {text} tag: action" for text in ("a ship at sea", "love")] == encoder.batches[0]
    assert DenseRetriever(TASK, Counts()).retrieve("ship", items, 3, 3, "key")[0] is items[2]
    assert BM25Retriever(TASK).retrieve("love", items, 3, 1, "key") == [items[1]]


def test_a_history_is_encoded_once_and_nothing_of_others_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, encoder = random.Random(1), Counts()
    retriever, users = DenseRetriever(TASK, encoder), [films(rng, count) for count in (5, 9, 3)]
    for _ in range(50):
        items = rng.choice(users)
        before = rng.randrange(1, len(items) + 1)
        query = rng.choice(WORDS)
        found = retriever.retrieve(query, items, before, 2, "key")
        assert found == obvious(query, items, before, 2)
        assert all(one in items[:before] for one in found)
    lines = [{normal(TASK.history_line(item.fields)) for item in items} for items in users]
    assert sorted(map(len, encoder.batches)) == sorted(map(len, lines))
    assert all(set(batch) in lines for batch in encoder.batches)

    monkeypatch.setattr(retrieval, "CACHED_VECTORS", 10)
    small = DenseRetriever(TASK, encoder := Counts())
    for items in (users[0], users[2], users[0], users[1], users[0]):
        small.retrieve("sea", items, 3, 1, "key")
    assert len(encoder.batches) == 4, "the longest unused one had to go for the third"


def test_without_visible_items_nothing_is_encoded() -> None:
    encoder = Counts()
    assert DenseRetriever(TASK, encoder).retrieve("sea", films(random.Random(2), 4), 0, 3, "key") == []
    assert DenseRetriever(TASK, encoder).retrieve("sea", (), 0, 3, "key") == []
    assert encoder.batches == []
