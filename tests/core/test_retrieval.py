"""Retrieval: rank_bm25's scores, our order among ties, and nothing that was not offered."""

import collections
import math
import random

import numpy as np
import pytest
from oppu_core.data import HistoryItem, Query, User
from oppu_core.retrieval import BM25Retriever, RandomRetriever, RecentRetriever, bm25_scores, top_k
from oppu_core.tasks import TASKS
from rank_bm25 import BM25Okapi

TASK = TASKS["lamp_2m"]


def okapi(
    query: str, documents: list[str], k1: float = 1.5, b: float = 0.75, epsilon: float = 0.25
) -> list[float]:
    """BM25Okapi from its formula, word by word; a negative idf becomes epsilon times the mean idf."""
    split = [document.split(" ") for document in documents]
    mean_length = sum(len(tokens) for tokens in split) / len(split)
    idf = {}
    for word in dict.fromkeys(word for tokens in split for word in tokens):
        holders = sum(word in tokens for tokens in split)
        idf[word] = math.log(len(split) - holders + 0.5) - math.log(holders + 0.5)
    floor = epsilon * sum(idf.values()) / len(idf)
    scores = []
    for tokens in split:
        score = 0.0
        for word in query.split(" "):
            if word in idf:
                weight = idf[word] if idf[word] >= 0 else floor
                count = tokens.count(word)
                score += weight * count * (k1 + 1) / (count + k1 * (1 - b + b * len(tokens) / mean_length))
        scores.append(score)
    return scores


def random_text(rng: random.Random, longest: int) -> str:
    vocabulary = ["the", "the", "the", "a", "A", "ship", "ship.", "", "é", "tag:", "\n", *"bcdefgh"]
    return " ".join(rng.choice(vocabulary) for _ in range(rng.randrange(longest)))


CORPORA = {
    "one document": ["a b c"],
    "one empty document": [""],
    "empty documents": ["", "", ""],
    "all the same": ["a b", "a b", "a b"],
    "a word in every document (negative idf)": ["the x", "the y", "the z", "the the"],
    "duplicates among others": ["a b", "c", "a b", "", "d e f"],
    "spaces at the ends": [" a ", "a", "  "],
}


@pytest.mark.parametrize("documents", CORPORA.values(), ids=CORPORA.keys())
def test_scores_are_rank_bm25s_on_odd_corpora(documents: list[str]) -> None:
    for query in ("a", "the x", "", "unknown", "a a b", " "):
        scores = bm25_scores(query, documents)
        expected = BM25Okapi([text.split(" ") for text in documents]).get_scores(query.split(" "))
        assert scores.shape == (len(documents),)
        np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-9)
        np.testing.assert_allclose(scores, okapi(query, documents), rtol=0, atol=1e-9)


def test_scores_are_rank_bm25s_on_random_corpora() -> None:
    rng = random.Random(0)
    negative = 0
    for _ in range(150):
        documents = [random_text(rng, 12) for _ in range(rng.randrange(1, 14))]
        query = random_text(rng, 8)
        scores = bm25_scores(query, documents)
        expected = BM25Okapi([text.split(" ") for text in documents]).get_scores(query.split(" "))
        np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-9)
        np.testing.assert_allclose(scores, okapi(query, documents), rtol=0, atol=1e-9)
        negative += bool((scores < 0).any())
    assert negative, "the floor for negative idf was met"


def test_no_documents_have_no_scores() -> None:
    assert bm25_scores("a b", []).shape == (0,)


def test_the_best_come_first_and_among_equals_the_later() -> None:
    rng = random.Random(1)
    for _ in range(300):
        scores = [rng.choice([-1.5, 0.0, 0.5, 0.5, 2.0, 1e-12]) for _ in range(rng.randrange(20))]
        obvious: list[int] = []
        while len(obvious) < len(scores):
            left = [index for index in range(len(scores)) if index not in obvious]
            best = max(scores[index] for index in left)
            obvious.append(max(index for index in left if scores[index] == best))
        for k in (0, 1, 3, len(scores), len(scores) + 5):
            assert top_k(np.array(scores), k) == obvious[:k]


def item(number: int, text: str = "a film", tag: str = "comedy") -> HistoryItem:
    return HistoryItem(str(number), {"description": text, "tag": tag})


def test_retrieval_reads_the_rendered_items_with_their_answers() -> None:
    visible = [item(0, "x"), item(1, "y", "romance"), item(2, "z")]
    got = BM25Retriever(TASK).retrieve("romance", visible, 1, "key")
    assert got == [visible[1]]


def test_retrieval_among_equal_items_prefers_the_recent() -> None:
    visible = [item(number) for number in range(5)]
    assert [found.id for found in BM25Retriever(TASK).retrieve("a film", visible, 3, "")] == ["4", "3", "2"]


def test_retrieval_of_more_than_there_is_gives_all_there_is() -> None:
    visible = [item(0, "a"), item(1, "b")]
    retriever = BM25Retriever(TASK)
    assert sorted(found.id for found in retriever.retrieve("a", visible, 10, "")) == ["0", "1"]
    assert retriever.retrieve("a", [], 10, "") == []
    assert retriever.retrieve("a", [], 0, "") == []


def test_retrieval_finds_the_item_that_says_the_same() -> None:
    rng = random.Random(2)
    visible = [item(number, " ".join(rng.sample("abcdefghijklmnopqrstuvwxyz", 6))) for number in range(30)]
    for wanted in visible:
        query = TASK.retrieval_text({"description": wanted.fields["description"]})
        assert BM25Retriever(TASK).retrieve(query, visible, 1, "")[0].fields == wanted.fields


def test_recent_items_come_latest_first_as_bm25_orders_equals() -> None:
    visible = [item(number) for number in range(5)]
    recent = RecentRetriever()
    for k in (0, 1, 3, 5, 9):
        found = recent.retrieve("whatever", visible, k, "key")
        assert [one.id for one in found] == ["4", "3", "2", "1", "0"][:k]
        assert found == BM25Retriever(TASK).retrieve("a film", visible, k, "key")
    assert recent.retrieve("whatever", [], 3, "key") == []


def crowd(users: int, items: int) -> list[User]:
    return [
        User(
            f"u{u}",
            "others",
            tuple(item(100 * u + t, f"film {u} {t}") for t in range(items)),
            (Query(f"q{u}", {"description": "x"}, "comedy", items),),
        )
        for u in range(users)
    ]


def test_random_items_are_seeded_and_differ_from_query_to_query() -> None:
    others = crowd(10, 5)
    one, same, other = RandomRetriever(others, 1), RandomRetriever(others, 1), RandomRetriever(others, 2)
    keys = [f"u/{number}" for number in range(20)]
    draws = [one.retrieve("x", [], 3, key) for key in keys]
    assert draws == [same.retrieve("x", [], 3, key) for key in keys]
    assert draws != [other.retrieve("x", [], 3, key) for key in keys]
    assert len({found[0].id for found in draws}) > 8
    assert draws[4] == one.retrieve("x", [], 3, keys[4]), "an earlier draw changes no later one"


def test_random_items_are_never_the_users_own_and_do_not_depend_on_them() -> None:
    retriever = RandomRetriever(crowd(3, 4), 0)
    pool = {found.id for user in crowd(3, 4) for found in user.history}
    own = [item(1000 + number, "the very words of the query") for number in range(50)]
    for key in map(str, range(50)):
        found = retriever.retrieve("the very words of the query", own, 2, key)
        assert {one.id for one in found} <= pool
        assert found == retriever.retrieve("something else", [], 2, key)
        assert len({one.id for one in found}) == 2, "nothing is drawn twice"


def test_random_items_from_a_small_or_empty_pool() -> None:
    assert RandomRetriever([], 0).retrieve("x", [item(0)], 3, "key") == []
    assert len(RandomRetriever(crowd(1, 2), 0).retrieve("x", [], 3, "key")) == 2


def test_the_pool_is_a_uniform_sample_of_all_items() -> None:
    counts: collections.Counter[str] = collections.Counter()
    others = crowd(5, 8)
    for seed in range(400):
        pool = RandomRetriever(others, seed, pool=10).retrieve("", [], 99, "")
        assert len({found.id for found in pool}) == 10
        counts.update(found.id for found in pool)
    # 40 items, each expected in 100 of 400 pools, standard deviation below 9.
    assert len(counts) == 40
    assert min(counts.values()) > 60
    assert max(counts.values()) < 140


def test_a_draw_is_uniform_over_the_pool() -> None:
    retriever = RandomRetriever(crowd(2, 5), 0)
    counts = collections.Counter(retriever.retrieve("", [], 1, str(key))[0].id for key in range(1000))
    assert len(counts) == 10
    assert min(counts.values()) > 60
    assert max(counts.values()) < 140
