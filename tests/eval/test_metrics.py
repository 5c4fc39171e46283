"""Metrics agree with scikit-learn and rouge_score, and add up over users."""

import math

import numpy as np
import pytest
from oppu_core.tasks import Task
from oppu_eval.metrics import Metric, metrics_for
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error, root_mean_squared_error

STRAYS = ["", "  ", "nan", "Comedy", "comedy.", "喜剧", "based on", "comedy action"]


def by_name(task: Task) -> dict[str, Metric]:
    return {metric.name: metric for metric in metrics_for(task)}


def random_labels(task: Task, seed: int, count: int = 60) -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(seed)
    golds = [str(label) for label in rng.choice(task.labels[:9], count)]
    wrong = [*task.labels, *STRAYS]
    answers = [gold if rng.random() < 0.4 else wrong[rng.integers(len(wrong))] for gold in golds]
    return [f" {answer}\n" for answer in answers], [f"{gold} " for gold in golds]


@pytest.mark.parametrize("seed", range(20))
def test_accuracy_and_macro_f1_are_scikit_learns(tagging: Task, seed: int) -> None:
    answers, golds = random_labels(tagging, seed)
    stripped = [text.strip() for text in golds], [text.strip() for text in answers]
    metrics = by_name(tagging)
    assert metrics["accuracy"].score(answers, golds) == pytest.approx(accuracy_score(*stripped))
    expected = f1_score(*stripped, labels=list(tagging.labels), average="macro", zero_division=0)
    assert metrics["macro_f1"].score(answers, golds) == pytest.approx(expected)


def test_macro_f1_averages_over_labels_that_nobody_used(tagging: Task) -> None:
    assert by_name(tagging)["macro_f1"].score(["comedy"], ["comedy"]) == pytest.approx(1 / 15)


def test_answer_outside_the_label_set_is_wrong_but_no_false_positive(tagging: Task) -> None:
    metric = by_name(tagging)["macro_f1"]
    outside = metric.statistics(["comedies"], ["comedy"]).reshape(3, -1)
    inside = metric.statistics(["action"], ["comedy"]).reshape(3, -1)
    assert outside.sum(axis=1).tolist() == [0, 0, 1]
    assert inside.sum(axis=1).tolist() == [0, 1, 1]
    assert by_name(tagging)["accuracy"].score(["western"], ["western"]) == 0


@pytest.mark.parametrize("seed", range(10))
def test_mae_and_rmse_are_scikit_learns_on_numbers(rating: Task, seed: int) -> None:
    rng = np.random.default_rng(seed)
    golds, answers = rng.integers(1, 6, 40), rng.integers(0, 13, 40) / 2
    texts = [f" {answer}" for answer in answers], [f"{gold}\n" for gold in golds]
    metrics = by_name(rating)
    assert metrics["mae"].score(*texts) == pytest.approx(mean_absolute_error(golds, answers))
    assert metrics["rmse"].score(*texts) == pytest.approx(root_mean_squared_error(golds, answers))


@pytest.mark.parametrize(
    "answer", ["nan", "inf", "-Infinity", "", "five", "4 stars", "1e300", "9" * 400, "三"]
)
def test_unusable_rating_counts_as_the_farther_end_of_the_scale(rating: Task, answer: str) -> None:
    metrics = by_name(rating)
    for gold, error in (("1", 4), ("2", 3), ("3", 2), ("4", 3), ("5", 4)):
        assert metrics["mae"].score([answer], [gold]) == error
        assert metrics["rmse"].score([answer], [gold]) == error


def test_errors_are_better_when_lower_and_the_rest_when_higher(
    tagging: Task, rating: Task, headlines: Task
) -> None:
    names = {
        metric.name: metric.higher_is_better
        for t in (tagging, rating, headlines)
        for metric in metrics_for(t)
    }
    assert names == {
        "accuracy": True, "macro_f1": True, "mae": False, "rmse": False, "rouge_1": True, "rouge_l": True,
    }  # fmt: skip
    assert [metrics_for(t)[0].name for t in (tagging, rating, headlines)] == ["accuracy", "mae", "rouge_1"]


def test_rouge_is_the_mean_f_measure_without_stemming(headlines: Task) -> None:
    golds = ["The Storms of 1990 are running", "Ministers vote", "İstanbul’da kar 雪", "one two three four"]
    answers = ["the storm of 1990 is running late", "", "kar 雪 İstanbul", "four three two one"]
    scorer = RougeScorer(["rouge1", "rougeL"], use_stemmer=False)
    for name, key in (("rouge_1", "rouge1"), ("rouge_l", "rougeL")):
        singles = [scorer.score(g, a)[key].fmeasure for g, a in zip(golds, answers, strict=True)]
        assert by_name(headlines)[name].score(answers, golds) == pytest.approx(np.mean(singles))
        stemmed = RougeScorer([key], use_stemmer=True).score(golds[0], answers[0])[key].fmeasure
        assert by_name(headlines)[name].score(answers[:1], golds[:1]) < stemmed


def test_statistics_of_parts_add_up_to_the_whole(tagging: Task, rating: Task, headlines: Task) -> None:
    answers, golds = random_labels(tagging, 3)
    numbers = [str(1 + i % 5) for i in range(60)]
    for task, golds_of_task in ((tagging, golds), (rating, numbers), (headlines, golds)):
        for metric in metrics_for(task):
            parts = [metric.statistics(answers[i : i + 7], golds_of_task[i : i + 7]) for i in range(0, 60, 7)]
            assert float(metric.value(np.sum(parts, axis=0))) == pytest.approx(
                metric.score(answers, golds_of_task)
            )
            assert metric.value(np.stack([np.stack(parts)] * 2)).shape == (2, 9)
            assert math.isfinite(metric.score(answers, golds_of_task))


def test_lists_of_different_lengths_are_refused(tagging: Task) -> None:
    with pytest.raises(ValueError, match="argument 2"):
        metrics_for(tagging)[0].statistics(["comedy"], ["comedy", "action"])
