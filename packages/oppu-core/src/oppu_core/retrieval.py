"""Which past items stand in a prompt: the user's own most alike (BM25) or most recent, or others' at random.

Retrievers know nothing of prompts or models; they choose among the items they are given. What a query or a
training example may see is decided by the caller (``history[:t]``).
"""

import random
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
from rank_bm25 import BM25Okapi

from oppu_core.data.types import HistoryItem, User
from oppu_core.tasks import Task


class Retriever(Protocol):
    """Chooses items for a prompt."""

    def retrieve(self, query: str, visible: Sequence[HistoryItem], k: int, key: str) -> list[HistoryItem]:
        """At most `k` items, the most relevant first.

        Args:
            query: The text to search with (:meth:`Task.retrieval_text`).
            visible: The items that this query may see, oldest first.
            k: How many.
            key: Identifies the query among all of a dataset; a source of seeds.
        """


def bm25_scores(query: str, documents: Sequence[str]) -> np.ndarray:
    """BM25 scores [documents] as ``rank_bm25.BM25Okapi`` gives them over ``text.split(" ")``.

    No documents give an empty array (rank_bm25 divides by zero).
    """
    if not documents:
        return np.zeros(0)
    return np.asarray(BM25Okapi([text.split(" ") for text in documents]).get_scores(query.split(" ")))


def top_k(scores: np.ndarray, k: int) -> list[int]:
    """Indices of the `k` highest scores, best first; among equal scores the higher index first.

    rank_bm25's own order among ties comes from an unstable sort; the later item is the more recent one.
    """
    return [int(index) for index in np.lexsort((np.arange(len(scores)), scores))[::-1][:k]]


class BM25Retriever:
    """The paper's retriever: the user's own items that are most like the query (rendered, with answers)."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def retrieve(self, query: str, visible: Sequence[HistoryItem], k: int, key: str) -> list[HistoryItem]:
        """See :class:`Retriever`."""
        scores = bm25_scores(query, [self._task.history_line(item.fields) for item in visible])
        return [visible[index] for index in top_k(scores, k)]


class RecentRetriever:
    """The user's own most recent items, the latest first: BM25's order among items that are equally alike."""

    def retrieve(self, query: str, visible: Sequence[HistoryItem], k: int, key: str) -> list[HistoryItem]:
        """See :class:`Retriever`; the query's text does not matter."""
        return list(visible[::-1][:k])


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

    def retrieve(self, query: str, visible: Sequence[HistoryItem], k: int, key: str) -> list[HistoryItem]:
        """See :class:`Retriever`; neither the query's text nor the user's items matter."""
        rng = random.Random(f"random retrieval/{self._seed}/{key}")
        return rng.sample(self._pool, min(k, len(self._pool)))
