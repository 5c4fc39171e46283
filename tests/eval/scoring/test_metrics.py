"""Metrics agree with scikit-learn and rouge_score, and add up over users."""

import dataclasses
import math
import unicodedata
from typing import Literal

import numpy as np
import pytest
from oppu_core.tasks.task import Task
from oppu_eval.scoring.metrics import Metric, metrics_for
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


def test_answers_and_golds_meet_in_one_form(tagging: Task) -> None:
    golds = ["true story", "true\u00a0story", "dark comedy", "sci-fi"]
    answers = ["true\u00a0 story", "true story\n", "\u200bdark\tcomedy", "sci-fi."]
    metrics = by_name(tagging)
    assert metrics["accuracy"].score(answers, golds) == 0.75
    plain = [" ".join(text.replace("\u200b", "").split()) for text in answers], ["true story", *golds[1:]]
    plain[1][1] = "true story"
    assert metrics["macro_f1"].score(answers, golds) == metrics["macro_f1"].score(*plain)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_labels_in_other_unicode_forms_are_right(tagging: Task, form: Literal["NFC", "NFD"]) -> None:
    task = dataclasses.replace(tagging, labels=("théâtre", "comédie"))
    odd = [unicodedata.normalize(form, label) for label in task.labels]
    assert by_name(task)["accuracy"].score(odd, task.labels) == 1.0
    assert by_name(task)["accuracy"].score(task.labels, odd) == 1.0
    assert by_name(task)["macro_f1"].score(odd, task.labels[::-1]) == 0.0


def test_number_labels_are_compared_by_value(tagging: Task) -> None:
    likes = dataclasses.replace(tagging, labels=("0", "1"))
    assert by_name(likes)["accuracy"].score(["1.0", "0", "0.0", "2"], ["1", "0.00", "1", "1"]) == 0.5


def test_rouge_does_not_depend_on_the_unicode_form(headlines: Task) -> None:
    text = "La forêt brûle à l’été"
    for metric in metrics_for(headlines):
        assert metric.score([unicodedata.normalize("NFD", text)], [text]) == 1.0


def test_rouge_by_script_stands_before_the_official_one_which_keeps_its_numbers(headlines: Task) -> None:
    by_script = by_name(dataclasses.replace(headlines, words="script"))
    assert list(by_script) == ["rouge_1_script", "rouge_l_script", "rouge_1", "rouge_l"]
    gold, answers = "新桥今天通车", ["新桥今天通车", "新桥昨天通车", "工厂"]
    assert [by_script["rouge_1_script"].score([answer], [gold]) for answer in answers] == pytest.approx(
        [1, 5 / 6, 0]
    )
    assert by_script["rouge_l_script"].score(["通车新桥"], [gold]) == pytest.approx(0.4)
    for metric in metrics_for(headlines):
        assert by_script[metric.name].score(answers, [gold] * 3) == metric.score(answers, [gold] * 3) == 0.0
        latin = ["The new bridge opens", "new bridge 2024"]
        assert by_script[metric.name].score(latin, latin[::-1]) == metric.score(latin, latin[::-1]) > 0
        assert by_script[f"{metric.name}_script"].score(latin, latin[::-1]) == metric.score(
            latin, latin[::-1]
        )
