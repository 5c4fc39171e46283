"""ROUGE is rouge_score's to the last digit, METEOR what its paper says but for synonyms."""

import dataclasses
import random
import socket

import pytest
from nltk.stem.porter import PorterStemmer
from oppu_core.tasks.task_files import get_task
from oppu_eval.scoring.metrics import metrics_for
from oppu_eval.scoring.text_scores import lcs_length, meteor, rouge_1, rouge_l
from rouge_score.rouge_scorer import RougeScorer

VOCABULARY = [
    "the",
    "The",
    "cats",
    "cat",
    "run",
    "running",
    "a",
    "b",
    "don't",
    "3.5",
    "!",
    "İ",
    "雪",
    "ß",
    "x" * 30,
]


def texts(seed: int, most: int = 60) -> tuple[str, str]:
    rng = random.Random(seed)
    one, other = (" ".join(rng.choices(VOCABULARY, k=rng.randrange(most))) for _ in range(2))
    return one, other


@pytest.mark.parametrize("seed", range(60))
def test_rouge_is_rouge_score_s_to_the_last_digit(seed: int) -> None:
    answer, gold = texts(seed)
    theirs = RougeScorer(["rouge1", "rougeL"], use_stemmer=False).score(gold, answer)
    assert rouge_1(answer, gold, "official") == theirs["rouge1"].fmeasure
    assert rouge_l(answer, gold, "official") == theirs["rougeL"].fmeasure


def test_the_longest_common_subsequence_is_that_of_the_table() -> None:
    rng = random.Random(1)
    for _ in range(200):
        one, other = (rng.choices("abcd", k=rng.randrange(90)) for _ in range(2))
        row = [0] * (len(other) + 1)
        for a in one:
            before = row
            row = [0]
            for j, b in enumerate(other):
                row.append(before[j] + 1 if a == b else max(before[j + 1], row[j]))
        assert lcs_length(one, other) == row[-1]


def slow_meteor(answer: list[str], gold: list[str]) -> float:
    """Lavie and Agarwal (2007), stage by stage; among equal words, the last free ones meet first (nltk)."""
    stem = PorterStemmer().stem
    matches: dict[int, int] = {}
    for same in (lambda a, b: a == b, lambda a, b: stem(a) == stem(b)):
        for i in reversed(range(len(answer))):
            for j in reversed(range(len(gold))):
                if i not in matches and j not in matches.values() and same(answer[i], gold[j]):
                    matches[i] = j
    if not matches:
        return 0.0
    precision, recall = len(matches) / len(answer), len(matches) / len(gold)
    mean = 10 * precision * recall / (recall + 9 * precision)
    chunks = sum((i - 1) not in matches or matches[i - 1] != j - 1 for i, j in matches.items())
    return mean * (1 - 0.5 * (chunks / len(matches)) ** 3)


@pytest.mark.parametrize("seed", range(40))
def test_meteor_is_the_paper_s_without_synonyms(seed: int) -> None:
    rng = random.Random(seed)
    words = ["cat", "cats", "run", "running", "runs", "on", "the", "mat", ",", "happily", "happy"]
    answer, gold = (rng.choices(words, k=rng.randrange(25)) for _ in range(2))
    assert meteor(" ".join(answer), " ".join(gold), "official") == pytest.approx(slow_meteor(answer, gold))


def test_meteor_in_plain_cases() -> None:
    assert meteor("a b c d", "a b c d", "official") == 1 - 0.5 / 4**3, "even equal texts are one chunk"
    assert meteor("The Cat sat.", "the cat sat.", "official") == meteor("x y z.", "x y z.", "official")
    assert meteor("cats", "cat", "official") == 0.5, "an equal stem is a common word"
    assert meteor("car", "automobile", "official") == 0.0, "synonyms are none"
    assert meteor("", "a", "official") == meteor("a", "", "official") == meteor("", "", "official") == 0.0
    assert (
        meteor("新桥通车", "新桥今天通车", "script")
        > 0.5
        > meteor("新桥通车", "新桥今天通车", "official")
        == 0.0
    )


def test_meteor_asks_for_no_data_and_no_network(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    import nltk

    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    monkeypatch.setattr(nltk, "download", lambda *_, **__: pytest.fail("a download"))
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("a connection"))
    assert meteor("running cats", "a cat runs", "official") > 0


def test_longlamp_has_its_paper_s_metrics_and_a_task_may_choose() -> None:
    topic = get_task("longlamp_topic")
    assert [metric.name for metric in metrics_for(topic)] == ["rouge_1", "rouge_l", "meteor"]
    chosen = dataclasses.replace(topic, metrics=("meteor", "rouge_1"), words="script")
    names = [metric.name for metric in metrics_for(chosen)]
    assert names == ["meteor_script", "rouge_1_script", "meteor", "rouge_1"]
