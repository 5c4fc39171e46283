"""Retrieval: rank_bm25's scores at every position, our order among ties, nothing that was not offered."""

import collections
import dataclasses
import math
import random

import numpy as np
import pytest
from oppu_core.data import HistoryItem, Query, User
from oppu_core.prompting import retrieval
from oppu_core.prompting.retrieval import BM25Index, BM25Retriever, RandomRetriever, RecentRetriever, top_k
from oppu_core.tasks.task_files import TASKS
from oppu_core.texts import normal, script_words
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


def rebuilt(query: str, documents: list[str]) -> np.ndarray:
    """The definition: rank_bm25's index made anew, of these documents alone."""
    if not documents:
        return np.zeros(0)  # rank_bm25 divides by zero
    return np.asarray(BM25Okapi([text.split(" ") for text in documents]).get_scores(query.split(" ")))


@pytest.mark.parametrize("documents", CORPORA.values(), ids=CORPORA.keys())
def test_scores_are_rank_bm25s_on_odd_corpora(documents: list[str]) -> None:
    for query in ("a", "the x", "", "unknown", "a a b", " "):
        for t in range(1, len(documents) + 1):
            scores = BM25Index(documents).scores(query, t)
            np.testing.assert_array_equal(scores, rebuilt(query, documents[:t]))
            np.testing.assert_allclose(scores, okapi(query, documents[:t]), rtol=0, atol=1e-9)


@pytest.mark.slow
def test_scores_have_the_bits_of_rank_bm25s_before_every_item_in_any_order() -> None:
    """The order among near scores, and so every prompt, hangs on the last bit."""
    rng = random.Random(0)
    negative = 0
    for _ in range(150):
        documents = [random_text(rng, 12) for _ in range(rng.randrange(14))]
        index = BM25Index(documents)
        positions = [*range(len(documents) + 1)] * 2
        rng.shuffle(positions)
        for t in positions:
            query = random_text(rng, 8)
            scores = index.scores(query, t)
            assert scores.dtype == np.float64
            np.testing.assert_array_equal(scores, rebuilt(query, documents[:t]))
            if t:
                np.testing.assert_allclose(scores, okapi(query, documents[:t]), rtol=0, atol=1e-9)
            negative += bool((scores < 0).any())
    assert negative > 100, "the floor for negative idf was met"


@pytest.mark.parametrize("words", [5, 60, 2000])
def test_scores_are_rank_bm25s_in_long_histories(words: int) -> None:
    rng = random.Random(words)
    frequencies = [1 / rank for rank in range(1, words + 1)]  # Zipf's law

    def text() -> str:
        return " ".join(f"w{word}" for word in rng.choices(range(words), frequencies, k=rng.randrange(1, 40)))

    documents = [text() for _ in range(300)]
    index, positions = BM25Index(documents), [*range(0, 301, 7), 1, 63, 64, 65, 127, 128, 129, 300]
    rng.shuffle(positions)
    for t in positions:
        query = text() + " the_unknown"
        np.testing.assert_array_equal(index.scores(query, t), rebuilt(query, documents[:t]))


def test_no_documents_have_no_scores() -> None:
    assert BM25Index([]).scores("a b", 0).shape == (0,)
    assert BM25Index(["a b"]).scores("a b", 0).shape == (0,)


@pytest.mark.parametrize("before", [-1, 3])
def test_a_position_beyond_the_documents_is_refused(before: int) -> None:
    with pytest.raises(IndexError, match=f"no position {before} among 2 documents"):
        BM25Index(["a", "b"]).scores("a", before)


@pytest.mark.parametrize("shared", [True, False])
def test_an_indexs_memory_is_linear_in_the_number_of_words(shared: bool) -> None:
    for size in (100, 1000):
        index = BM25Index([" ".join(f"{0 if shared else t}-{w}" for w in range(20)) for t in range(size)])
        index.scores("0-0", size)
        arrays = [value for value in vars(index).values() if isinstance(value, np.ndarray)]
        assert len(arrays) > 3
        assert sum(array.nbytes for array in arrays) < 50 * 20 * size


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
    items = (item(0, "x"), item(1, "y", "romance"), item(2, "z"))
    assert BM25Retriever(TASK).retrieve("romance", items, 3, 1, "key") == [items[1]]


def test_retrieval_among_equal_items_prefers_the_recent() -> None:
    items = tuple(item(number) for number in range(5))
    found = BM25Retriever(TASK).retrieve("a film", items, 5, 3, "")
    assert [one.id for one in found] == ["4", "3", "2"]


def test_retrieval_of_more_than_there_is_gives_all_there_is() -> None:
    items = (item(0, "a"), item(1, "b"))
    retriever = BM25Retriever(TASK)
    assert sorted(found.id for found in retriever.retrieve("a", items, 2, 10, "")) == ["0", "1"]
    assert [found.id for found in retriever.retrieve("b", items, 1, 10, "")] == ["0"]
    assert retriever.retrieve("a", items, 0, 10, "") == []
    assert retriever.retrieve("a", items, 2, 0, "") == []
    assert retriever.retrieve("a", (), 0, 10, "") == []


def test_retrieval_finds_the_item_that_says_the_same() -> None:
    rng = random.Random(2)
    items = tuple(item(t, " ".join(rng.sample("abcdefghijklmnopqrstuvwxyz", 6))) for t in range(30))
    for wanted in items:
        query = TASK.retrieval_text({"description": wanted.fields["description"]})
        assert BM25Retriever(TASK).retrieve(query, items, 30, 1, "")[0].fields == wanted.fields


def test_recent_items_come_latest_first_as_bm25_orders_equals() -> None:
    items = tuple(item(number) for number in range(5))
    recent = RecentRetriever()
    for before in range(6):
        for k in (0, 1, 3, 5, 9):
            found = recent.retrieve("whatever", items, before, k, "key")
            assert [one.id for one in found] == ["4", "3", "2", "1", "0"][5 - before :][:k]
            assert found == BM25Retriever(TASK).retrieve("a film", items, before, k, "key")


def obvious(query: str, visible: tuple[HistoryItem, ...], k: int) -> list[HistoryItem]:
    """What BM25 finds, from what is visible and an index made anew; texts stand on one line."""
    scores = rebuilt(normal(query), [normal(TASK.history_line(one.fields)) for one in visible])
    return [visible[index] for index in top_k(scores, k)]


def test_items_are_indexed_once_for_all_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    class Counted(BM25Index):
        def __init__(self, documents: list[str]) -> None:
            made.append(len(documents))
            super().__init__(documents)

    monkeypatch.setattr(retrieval, "BM25Index", Counted)
    rng = random.Random(3)
    users = [tuple(item(t, random_text(rng, 12)) for t in range(10 + u)) for u in range(4)]
    retriever = BM25Retriever(TASK)
    for _ in range(200):
        items, query, k = rng.choice(users), random_text(rng, 8), rng.randrange(4)
        before = rng.randrange(len(items) + 1)
        assert retriever.retrieve(query, items, before, k, "") == obvious(query, items[:before], k)
    assert sorted(made) == [10, 11, 12, 13]

    # Beyond the bound the longest unused goes first; the latest stays whatever its size.
    monkeypatch.setattr(retrieval, "CACHED_ITEMS", 25)
    retriever = BM25Retriever(TASK)
    for asked, built in (
        ((0, 1, 0, 1, 0), [10, 11]),
        ((2, 0, 2), [12]),
        ((1,), [11]),
        ((1, 2), []),
        ((0,), [10]),
    ):
        made.clear()
        for number in asked:
            retriever.retrieve("a", users[number], 3, 1, "")
        assert made == built, asked
    long = users[0] * 3
    made.clear()
    for _ in range(3):
        retriever.retrieve("a", long, 30, 1, "")
    assert made == [30]


def test_items_that_are_gone_lend_their_place_to_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short-lived tuples get the same memory, and so the same id, again and again."""
    monkeypatch.setattr(retrieval, "CACHED_ITEMS", 12)
    retriever, ids = BM25Retriever(TASK), set()
    for turn in range(200):
        items = tuple([item(10 * turn + t, f"w{(turn + t) % 3}") for t in range(4)])
        ids.add(id(items))
        assert retriever.retrieve("w1", items, 4, 2, "") == obvious("w1", items, 2)
        del items
    assert len(ids) < 200


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
    draws = [one.retrieve("x", (), 0, 3, key) for key in keys]
    assert draws == [same.retrieve("x", (), 0, 3, key) for key in keys]
    assert draws != [other.retrieve("x", (), 0, 3, key) for key in keys]
    assert len({found[0].id for found in draws}) > 8
    assert draws[4] == one.retrieve("x", (), 0, 3, keys[4]), "an earlier draw changes no later one"


def test_random_items_are_never_the_users_own_and_do_not_depend_on_them() -> None:
    retriever = RandomRetriever(crowd(3, 4), 0)
    pool = {found.id for user in crowd(3, 4) for found in user.history}
    own = tuple(item(1000 + number, "the very words of the query") for number in range(50))
    for key in map(str, range(50)):
        found = retriever.retrieve("the very words of the query", own, 50, 2, key)
        assert {one.id for one in found} <= pool
        assert found == retriever.retrieve("something else", (), 0, 2, key)
        assert len({one.id for one in found}) == 2, "nothing is drawn twice"


def test_random_items_from_a_small_or_empty_pool() -> None:
    assert RandomRetriever([], 0).retrieve("x", (item(0),), 1, 3, "key") == []
    assert len(RandomRetriever(crowd(1, 2), 0).retrieve("x", (), 0, 3, "key")) == 2


def test_the_pool_is_a_uniform_sample_of_all_items() -> None:
    counts: collections.Counter[str] = collections.Counter()
    others = crowd(5, 8)
    for seed in range(400):
        pool = RandomRetriever(others, seed, pool=10).retrieve("", (), 0, 99, "")
        assert len({found.id for found in pool}) == 10
        counts.update(found.id for found in pool)
    # 40 items, each expected in 100 of 400 pools, standard deviation below 9.
    assert len(counts) == 40
    assert min(counts.values()) > 60
    assert max(counts.values()) < 140


def test_a_draw_is_uniform_over_the_pool() -> None:
    retriever = RandomRetriever(crowd(2, 5), 0)
    counts = collections.Counter(retriever.retrieve("", (), 0, 1, str(key))[0].id for key in range(1000))
    assert len(counts) == 10
    assert min(counts.values()) > 60
    assert max(counts.values()) < 140


def test_words_by_script_find_the_most_alike_text_of_a_script_without_spaces() -> None:
    texts = ["工厂今天开始生产新的面包", "城市的灯塔发生了变化", "学校的音乐会受到欢迎", "昨天博物馆关门"]
    items = tuple(HistoryItem(str(n), {"text": text, "title": "新闻"}) for n, text in enumerate(texts))
    by_script = BM25Retriever(dataclasses.replace(TASKS["lamp_4"], words="script"))
    official = BM25Retriever(TASKS["lamp_4"])
    for place, query in enumerate(("面包工厂", "灯塔", "音乐会在学校", "博物馆")):
        assert by_script.retrieve(query, items, 4, 1, "key")[0] is items[place]
        assert official.retrieve(query, items, 4, 1, "key")[0] is items[3]  # no word in common: the latest
    assert by_script.retrieve("博物馆", items, 2, 4, "key") == [items[1], items[0]]  # nothing from the future


def test_bm25_of_words_by_script_is_rank_bm25s() -> None:
    texts = ["新桥 open today", "Новый мост", "новый МОСТ, 新桥", "新新新"]
    index = BM25Index(texts, script_words)
    for before in range(1, len(texts) + 1):
        for query in ("新桥", "мост today", "桥 новый"):
            expected = BM25Okapi([script_words(text) for text in texts[:before]]).get_scores(
                script_words(query)
            )
            assert index.scores(query, before).tolist() == expected.tolist()


@pytest.mark.parametrize("end", ["\n", "\r\n", "\t", "  ", "\u00a0"])
def test_words_at_the_ends_of_lines_are_found(end: str) -> None:
    texts = ["A robot{}dreams of{}the sea.", "A zoo by the sea is for sale.", "x y z", "p q r", "s u v"]
    movies = TASKS["lamp_2m"]

    def items(between: str) -> tuple[HistoryItem, ...]:
        return tuple(
            HistoryItem(str(n), {"description": text.replace("{}", between), "tag": "comedy"})
            for n, text in enumerate(texts)
        )

    plain, broken = items(" "), items(end)
    bm25 = BM25Retriever(movies)
    for asked in (plain, broken):
        query = movies.retrieval_text(asked[0].fields)
        found = [bm25.retrieve(query, of, 5, 5, "key") for of in (plain, broken)]
        assert [item.id for item in found[0]] == [item.id for item in found[1]]
        assert found[1][0].id == "0"
