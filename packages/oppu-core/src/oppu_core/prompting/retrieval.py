"""Choosing past items for a prompt: the user's own most similar (by BM25 or a sentence encoder) or most
recent, or others' at random.

Retrievers know nothing of prompts or models; they choose among the items they are given. The caller decides
what a query or a training example may see: the items before a position.
"""

import math
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np

from oppu_core.data.types import HistoryItem, User
from oppu_core.tasks.task import Task
from oppu_core.texts import normal, script_words

K1, B, EPSILON = 1.5, 0.75, 0.25  # as in rank_bm25.BM25Okapi
FLOOR_BLOCK = 64  # positions whose floors are computed in one pass
CACHED_ITEMS = 10_000  # an indexed item of 100 words takes about 3 kB
CACHED_VECTORS = 100_000  # one of 384 numbers takes 1.5 kB, and its item's text as much
DECIMALS = 5  # of a cosine; what shares a batch, threads and devices change the seventh

Index = TypeVar("Index")


class Retriever(Protocol):
    """Chooses items for a prompt."""

    def retrieve(
        self, query: str, items: tuple[HistoryItem, ...], before: int, k: int, key: str
    ) -> list[HistoryItem]:
        """At most `k` items, the most relevant first.

        Args:
            query: The text to search with (:meth:`Task.retrieval_text`).
            items: A user's items, oldest first; pass the same tuple for all of the user's queries, as
                retrievers cache an index of it.
            before: How many of them this query may see: only ``items[:before]``.
            k: How many.
            key: Identifies the query within its dataset; seeds random draws.
        """


class BM25Index:
    """BM25 over "everything before document t", for every t, from one pass over the documents.

    Scores equal those of ``rank_bm25.BM25Okapi`` over ``text.split(" ")`` of ``documents[:t]`` to the bit:
    every sum is taken in its order, so that equal documents stay equal and near ones keep their order. Memory
    is linear in the number of words. Written by hand because rank_bm25 scores whole lists only: every item of
    a history would need an index of its own.

    Args:
        documents: Texts, oldest first.
        words: Splits a text into words.
    """

    def __init__(
        self, documents: Sequence[str], words: Callable[[str], list[str]] = lambda text: text.split(" ")
    ) -> None:
        self._words_of = words
        texts = [words(text) for text in documents]
        lengths = np.array([len(words) for words in texts], dtype=np.int64)
        self._size = size = len(texts)
        self._lengths = lengths
        self._words_before = np.concatenate(([0], np.cumsum(lengths)))
        self._vocabulary: dict[str, int] = {}  # numbered by first appearance, rank_bm25's order
        number = self._vocabulary.setdefault
        numbers = np.array([number(word, len(self._vocabulary)) for text in texts for word in text], np.int64)
        # A posting is (word, document) with the word's count there; sorted by word, then by document.
        pairs = numbers * size + np.repeat(np.arange(size), lengths)
        self._postings, self._counts = np.unique(pairs, return_counts=True)
        self._documents = self._postings % max(size, 1)
        # The same sorted by document, for the document frequencies of all words before a document.
        self._words = (self._postings // max(size, 1))[np.argsort(self._documents, kind="stable")]
        self._postings_before = np.concatenate(([0], np.cumsum(np.bincount(self._documents, minlength=size))))
        # math.log, as in rank_bm25: numpy's may differ in the last bit.
        self._logs = np.array([math.log(n + 0.5) for n in range(size + 1)])
        self._floors = np.full(size + 1, np.nan)  # computed on demand

    def scores(self, query: str, before: int) -> np.ndarray:
        """The scores [before] of the documents before a position.

        Raises:
            IndexError: there are fewer documents.
        """
        if not 0 <= before <= self._size:
            raise IndexError(f"There is no position {before} among {self._size} documents.")
        if not before:
            return np.zeros(0)
        known = (self._vocabulary.get(word) for word in self._words_of(query))
        words = np.array([word for word in known if word is not None], dtype=np.int64) * self._size
        first = np.searchsorted(self._postings, words)
        frequencies = np.searchsorted(self._postings, words + before) - first
        idf = self._logs[before - frequencies] - self._logs[frequencies]
        if (idf < 0).any():
            idf = np.where(idf < 0, self._floor(before), idf)
        # The postings of the query's words, word after word.
        starts = np.cumsum(frequencies) - frequencies
        postings = np.repeat(first - starts, frequencies) + np.arange(frequencies.sum())
        documents, counts = self._documents[postings], self._counts[postings]
        mean_length = self._words_before[before] / before
        norms = K1 * (1 - B + B * self._lengths[:before] / mean_length)
        weights = np.repeat(idf, frequencies) * (counts * (K1 + 1) / (counts + norms[documents]))
        # bincount adds in the order of the query's words; without postings it returns integers.
        return np.bincount(documents, weights, minlength=before).astype(np.float64, copy=False)

    def _floor(self, before: int) -> float:
        """What replaces a negative idf: epsilon times the mean idf of all words before that position."""
        if np.isnan(self._floors[before]):
            block = before - before % FLOOR_BLOCK
            positions = range(max(1, block), min(block + FLOOR_BLOCK, self._size + 1))
            ends = self._postings_before
            frequencies = np.bincount(self._words[: ends[positions[0] - 1]], minlength=len(self._vocabulary))
            for t in positions:
                frequencies[self._words[ends[t - 1] : ends[t]]] += 1
                met = np.count_nonzero(frequencies)  # words met so far: the first ones by number
                idf_of = self._logs[t::-1] - self._logs[: t + 1]  # by document frequency
                total = np.add.accumulate(idf_of[frequencies[:met]])[-1]  # one by one, unlike np.sum
                self._floors[t] = EPSILON * (total / met)
        return float(self._floors[before])


def top_k(scores: np.ndarray, k: int) -> list[int]:
    """Indices of the `k` highest scores, best first; among equal scores the higher index first.

    rank_bm25's own order among ties comes from an unstable sort; the later item is the more recent one.
    """
    return [int(index) for index in np.lexsort((np.arange(len(scores)), scores))[::-1][:k]]


class BM25Retriever:
    """The paper's retriever: the user's own items, with answers, that are most similar to the query.

    Texts are put on one line, so that words at line ends are split too.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._indexes = _Indexes(self._index, CACHED_ITEMS)

    def retrieve(
        self, query: str, items: tuple[HistoryItem, ...], before: int, k: int, key: str
    ) -> list[HistoryItem]:
        """See :class:`Retriever`."""
        return [items[index] for index in top_k(self._indexes.of(items).scores(normal(query), before), k)]

    def _index(self, items: tuple[HistoryItem, ...]) -> BM25Index:
        lines = _lines(self._task, items)
        return BM25Index(lines, script_words) if self._task.words == "script" else BM25Index(lines)


class TextEncoder(Protocol):
    """The part of :class:`oppu_core.modeling.encoders.Encoder` that retrieval needs: unit vectors."""

    def documents(self, texts: Sequence[str]) -> np.ndarray:
        """The vectors [N, d] of texts to search in."""

    def query(self, text: str) -> np.ndarray:
        """The vector [d] of a text to search with."""


class DenseRetriever:
    """The user's own items whose vectors have the highest cosine with the query's, as with LaMP's Contriever.

    Items are the lines that BM25 searches in; among equal cosines (to 5 decimals) the later item comes first.
    The lines of a history are encoded once, together and each text once; a query alone: nobody else's texts
    have a part in its vector.
    """

    def __init__(self, task: Task, encoder: TextEncoder) -> None:
        self._task, self._encoder = task, encoder
        self._indexes = _Indexes(self._index, CACHED_VECTORS)

    def retrieve(
        self, query: str, items: tuple[HistoryItem, ...], before: int, k: int, key: str
    ) -> list[HistoryItem]:
        """See :class:`Retriever`."""
        if not before:
            return []
        vectors_Nd, places = self._indexes.of(items)
        cosines = np.round(vectors_Nd @ self._encoder.query(normal(query)), DECIMALS)[places]
        return [items[index] for index in top_k(cosines[:before], k)]

    def _index(self, items: tuple[HistoryItem, ...]) -> tuple[np.ndarray, list[int]]:
        """The vectors [N, d] of different lines, and each item's place among them."""
        lines = _lines(self._task, items)
        numbers = {line: number for number, line in enumerate(dict.fromkeys(lines))}
        return self._encoder.documents(list(numbers)), [numbers[line] for line in lines]


def _lines(task: Task, items: Iterable[HistoryItem]) -> list[str]:
    return [normal(task.history_line(item.fields)) for item in items]


class _Indexes(Generic[Index]):
    """The index of each tuple of items, made on demand; the least recently used ones are dropped when there
    are more than `room` items."""

    def __init__(self, make: Callable[[tuple[HistoryItem, ...]], Index], room: int) -> None:
        self._make, self._room = make, room
        # By identity, least recently used first. Keeping the items alive keeps their ids unique.
        self._kept: dict[int, tuple[tuple[HistoryItem, ...], Index]] = {}

    def of(self, items: tuple[HistoryItem, ...]) -> Index:
        kept = self._kept.pop(id(items), None)
        if kept is None:
            kept = items, self._make(items)
            room = self._room - len(items)
            while self._kept and sum(len(old) for old, _ in self._kept.values()) > room:
                del self._kept[next(iter(self._kept))]
        self._kept[id(items)] = kept
        return kept[1]


class RecentRetriever:
    """The user's own most recent items, latest first: BM25's order among equally similar items."""

    def retrieve(
        self, query: str, items: tuple[HistoryItem, ...], before: int, k: int, key: str
    ) -> list[HistoryItem]:
        """See :class:`Retriever`; the query's text is ignored."""
        return list(items[max(0, before - k) : before][::-1])


class RandomRetriever:
    """The paper's control (Appendix C): random items of *other* users, never the user's own.

    Args:
        others: The users to draw from; a uniform sample of at most `pool` items is kept.
        seed: With the query's key it decides the draw.
        pool: Bounds the memory.
    """

    def __init__(self, others: Iterable[User], seed: int, pool: int = 10_000) -> None:
        self._seed = seed
        self._pool: list[HistoryItem] = []
        rng = random.Random(f"random retrieval pool/{seed}")
        items = (item for user in others for item in user.history)
        for count, item in enumerate(items, 1):  # reservoir sampling: one pass, uniform
            if len(self._pool) < pool:
                self._pool.append(item)
            elif (slot := rng.randrange(count)) < pool:
                self._pool[slot] = item

    def retrieve(
        self, query: str, items: tuple[HistoryItem, ...], before: int, k: int, key: str
    ) -> list[HistoryItem]:
        """See :class:`Retriever`; the query's text and the user's items are ignored."""
        rng = random.Random(f"random retrieval/{self._seed}/{key}")
        return rng.sample(self._pool, min(k, len(self._pool)))
