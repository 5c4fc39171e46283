"""Metrics as sums over users.

Every metric is computed from the *sum* of one small vector per user (counts of right answers, summed
errors, …). Resampling users is then a matrix product (weights of users times vectors of users), and the
metric of ten thousand resamples is computed in one stroke. Knows nothing about methods or intervals.

The metrics are those of the LaMP scorer: accuracy and macro-F1 over the fixed label set, MAE and RMSE on the
labels' scale (1 to 5), ROUGE-1 and ROUGE-L F-measure without stemming; for LongLaMP also METEOR
(:mod:`oppu_eval.scoring.text_scores`). Where a task's words go by script (:attr:`Task.words`), metrics with
these words come first, and the official ones beside them.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from oppu_core.tasks.task import METRICS, Task
from oppu_core.texts import normal

from oppu_eval.scoring.text_scores import TEXT_SCORES, TITLES, TextScore

Array = npt.NDArray[np.float64]

_LARGEST_NUMBER = 1e100  # beyond it a squared error may overflow: no rating, hence unparsable


@dataclasses.dataclass(frozen=True)
class Metric:
    """One metric, in two halves.

    Attributes:
        name: As in ``results.json``, e.g. ``accuracy``.
        title: What a person calls it.
        higher_is_better: False for errors.
        bounds: The least and the largest value there can be.
        statistics: (answers, golds) of one user -> the user's sufficient statistics [S]; vectors of several
            users add up.
        value: Sums of statistics [..., S] -> values [...].
    """

    name: str
    title: str
    higher_is_better: bool
    bounds: tuple[float, float]
    statistics: Callable[[Sequence[str], Sequence[str]], Array]
    value: Callable[[Array], Array]

    @property
    def is_mean(self) -> bool:
        """Whether the value is the mean of the queries' own values."""
        return self.value is _mean

    @property
    def sign(self) -> float:
        """+1 or -1: what makes a difference positive when it is an improvement."""
        return 1.0 if self.higher_is_better else -1.0

    def score(self, answers: Sequence[str], golds: Sequence[str]) -> float:
        """The metric's value on one list of answers."""
        return float(self.value(self.statistics(answers, golds)))


def metrics_for(task: Task) -> tuple[Metric, ...]:
    """The metrics of a task; the first is the primary one."""
    names = task.metrics or METRICS[task.kind][:2]
    if task.kind == "generation":
        kinds = ["official"] if task.words == "official" else [task.words, "official"]
        return tuple(_of_texts(name, words) for words in kinds for name in names)
    return tuple(_of_labels(name, task) for name in names)


def _of_labels(name: str, task: Task) -> Metric:
    if name == "accuracy":
        accuracy = functools.partial(_accuracy_statistics, task=task)
        return Metric(name, "Accuracy", True, (0.0, 1.0), accuracy, _mean)
    if name == "macro_f1":
        confusion = functools.partial(_confusion_statistics, task=task)
        return Metric(name, "Macro-F1", True, (0.0, 1.0), confusion, _macro_f1)
    ratings = [float(label) for label in task.labels]
    scale = (min(ratings), max(ratings))
    if name == "mae":
        absolute = functools.partial(_absolute_error_statistics, scale=scale)
        return Metric(name, "MAE", False, (0.0, math.inf), absolute, _mean)
    squared = functools.partial(_squared_error_statistics, scale=scale)
    return Metric(name, "RMSE", False, (0.0, math.inf), squared, _root_mean)


def _of_texts(name: str, words: str) -> Metric:
    suffix, about = ("", "") if words == "official" else (f"_{words}", f" ({words})")
    statistics = functools.partial(_text_statistics, score=TEXT_SCORES[name], words=words)
    return Metric(name + suffix, TITLES[name] + about, True, (0.0, 1.0), statistics, _mean)


def total(rows_QS: Array) -> Array:
    """[Q, S] -> [S]: sums, one row after another as :func:`sum` does.

    So a mean over queries has the same digits wherever it is computed; numpy's own order may be another.
    """
    return np.array([sum(column) for column in rows_QS.T.tolist()])


def _mean(sums_S: Array) -> Array:
    """[..., (total, count)] -> [...]."""
    return np.asarray(sums_S[..., 0] / sums_S[..., 1])


def _root_mean(sums_S: Array) -> Array:
    """[..., (total, count)] -> [...]."""
    return np.sqrt(_mean(sums_S))


def _macro_f1(sums_S: Array) -> Array:
    """[..., 3 L] -> [...]: the mean of 2 TP / (2 TP + FP + FN) over all L labels, 0 / 0 being 0."""
    counts = sums_S.reshape(*sums_S.shape[:-1], 3, -1)
    right, false_positive, false_negative = counts[..., 0, :], counts[..., 1, :], counts[..., 2, :]
    denominator = 2 * right + false_positive + false_negative
    f1_L = np.divide(2 * right, denominator, out=np.zeros_like(denominator), where=denominator > 0)
    return np.asarray(f1_L.mean(axis=-1))


def _labels(task: Task, answers: Sequence[str], golds: Sequence[str]) -> list[tuple[str | None, str | None]]:
    return [(task.label_of(answer), task.label_of(gold)) for answer, gold in zip(answers, golds, strict=True)]


def _normal(answers: Sequence[str], golds: Sequence[str]) -> list[tuple[str, str]]:
    return [(normal(answer), normal(gold)) for answer, gold in zip(answers, golds, strict=True)]


def _accuracy_statistics(answers: Sequence[str], golds: Sequence[str], task: Task) -> Array:
    """[2]: right answers, queries. An answer outside the label set is wrong, even where the gold is too."""
    pairs = _labels(task, answers, golds)
    right = sum(answer == gold and answer is not None for answer, gold in pairs)
    return np.array([right, len(pairs)], dtype=np.float64)


def _confusion_statistics(answers: Sequence[str], golds: Sequence[str], task: Task) -> Array:
    """[3 L]: true positives, false positives, false negatives of each label.

    An answer outside the label set is no label: a false negative of the gold, nobody's false positive.
    """
    index = {label: position for position, label in enumerate(task.labels)}
    counts = np.zeros((3, len(task.labels)))
    for answer, gold in _labels(task, answers, golds):
        if answer == gold and gold is not None:
            counts[0, index[gold]] += 1
            continue
        if answer is not None:
            counts[1, index[answer]] += 1
        if gold is not None:
            counts[2, index[gold]] += 1
    return counts.reshape(-1)


def _rating_error(answer: str, gold: str, scale: tuple[float, float]) -> float:
    """The absolute error; what is not a finite number counts as the farther end of the scale."""
    target = float(gold)
    try:
        number = float(answer)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or abs(number) > _LARGEST_NUMBER:
        return max(abs(end - target) for end in scale)
    return abs(number - target)


def _absolute_error_statistics(
    answers: Sequence[str], golds: Sequence[str], scale: tuple[float, float]
) -> Array:
    """[2]: summed absolute errors, queries."""
    errors = [_rating_error(answer, gold, scale) for answer, gold in _normal(answers, golds)]
    return np.array([sum(errors), len(errors)], dtype=np.float64)


def _squared_error_statistics(
    answers: Sequence[str], golds: Sequence[str], scale: tuple[float, float]
) -> Array:
    """[2]: summed squared errors, queries."""
    errors = [_rating_error(answer, gold, scale) for answer, gold in _normal(answers, golds)]
    return np.array([sum(error * error for error in errors), len(errors)], dtype=np.float64)


def _text_statistics(answers: Sequence[str], golds: Sequence[str], score: TextScore, words: str) -> Array:
    """[2]: summed scores, queries."""
    pairs = _normal(answers, golds)
    return np.array([sum(score(answer, gold, words) for answer, gold in pairs), len(pairs)], dtype=np.float64)
