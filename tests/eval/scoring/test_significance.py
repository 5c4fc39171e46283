"""Intervals and p-values against obvious loops, and against what is known of simulated data."""

import itertools

import numpy as np
import pytest
from oppu_core.tasks.task import Task
from oppu_eval.scoring.metrics import Array, metrics_for
from oppu_eval.scoring.significance import bootstrap, generator, paired
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error

Users = list[tuple[list[str], list[str]]]


def simulated(task: Task, rng: np.random.Generator, users: int, accuracy: float) -> Users:
    """(answers, golds) of each user; users differ in how many queries they have and how hard they are."""
    labels = task.labels[:5] if task.labels else ("1", "2", "3", "4", "5")
    result = []
    for _ in range(users):
        chance = np.clip(rng.normal(accuracy, 0.15), 0, 1)
        golds = [str(gold) for gold in rng.choice(labels, rng.integers(3, 12))]
        answers = [gold if rng.random() < chance else str(rng.choice(labels)) for gold in golds]
        result.append((answers, golds))
    return result


def statistics(task: Task, users: Users, metric: int = 0) -> Array:
    return np.stack([metrics_for(task)[metric].statistics(*user) for user in users])


def sklearn_value(name: str, users: Users, task: Task) -> float:
    answers, golds = ([text for user in users for text in user[side]] for side in (0, 1))
    if name == "accuracy":
        return float(accuracy_score(golds, answers))
    if name == "macro_f1":
        return float(f1_score(golds, answers, labels=list(task.labels), average="macro", zero_division=0))
    return float(mean_absolute_error([float(gold) for gold in golds], [float(answer) for answer in answers]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "mae"])
def test_bootstrap_agrees_with_a_loop_over_resampled_users(tagging: Task, rating: Task, name: str) -> None:
    task = rating if name == "mae" else tagging
    index = [metric.name for metric in metrics_for(task)].index(name)
    users = simulated(task, np.random.default_rng(5), 15, 0.6)
    rng = np.random.default_rng(6)
    twin = [sklearn_value(name, [users[i] for i in rng.integers(0, 15, 15)], task) for _ in range(600)]
    value = sklearn_value(name, users, task)
    expected = np.percentile(twin, (2.5, 97.5)) + value - np.mean(twin)
    interval = bootstrap(metrics_for(task)[index], statistics(task, users, index), generator(0, name))
    assert interval == pytest.approx(tuple(expected), abs=0.15 * (expected[1] - expected[0]))


def test_interval_of_macro_f1_contains_the_value_although_resamples_lack_labels(tagging: Task) -> None:
    users: Users = [([label] * 10, [label] * 9 + ["comedy"]) for label in tagging.labels]
    f1 = metrics_for(tagging)[1]
    stats_US = statistics(tagging, users, 1)
    low, high = bootstrap(f1, stats_US, generator(0, "f1")) or (0.0, 0.0)
    assert low < float(f1.value(stats_US.sum(axis=0))) < high <= 1.0


def test_paired_test_agrees_with_all_exchanges(tagging: Task) -> None:
    rng = np.random.default_rng(1)
    better, worse = simulated(tagging, rng, 9, 0.7), simulated(tagging, rng, 9, 0.5)
    accuracy = metrics_for(tagging)[0]
    a_US, b_US = statistics(tagging, better), statistics(tagging, worse)

    def delta(swaps: tuple[int, ...]) -> float:
        a = sum(b_US[u] if swap else a_US[u] for u, swap in enumerate(swaps))
        b = sum(a_US[u] if swap else b_US[u] for u, swap in enumerate(swaps))
        return float(a[0] / a[1] - b[0] / b[1])

    deltas = [delta(swaps) for swaps in itertools.product((0, 1), repeat=9)]
    exact = np.mean([abs(d) >= abs(deltas[0]) - 1e-12 for d in deltas])
    result = paired(accuracy, a_US, b_US, generator(0, "paired"))
    assert result.delta == pytest.approx(deltas[0])
    assert result.p_value == pytest.approx(exact, abs=0.02)
    own = [a[0] / a[1] - b[0] / b[1] for a, b in zip(a_US, b_US, strict=True)]
    assert (result.better, result.worse) == (sum(d > 1e-9 for d in own), sum(d < -1e-9 for d in own))
    assert result.better + result.equal + result.worse == 9


def test_paired_interval_keeps_the_users_of_both_methods_together(tagging: Task) -> None:
    """Users differ widely, the difference is the same for each: unpaired resampling would be far too wide."""
    accuracy = metrics_for(tagging)[0]
    right = np.arange(5, 45, dtype=float)
    base_US = np.stack([right, np.full(40, 50.0)], axis=1)
    method_US = base_US + np.array([5.0, 0.0])
    result = paired(accuracy, method_US, base_US, generator(0))
    assert result.ci95 == pytest.approx((0.1, 0.1))
    assert result.p_value == 1 / 10_001  # no random exchange reaches it, yet p is never 0


def test_known_difference_is_found_and_lies_in_the_interval(tagging: Task) -> None:
    rng = np.random.default_rng(2)
    right = rng.binomial(20, 0.5, size=60)
    base_US = np.stack([right, np.full(60, 20)], axis=1).astype(float)
    method_US = np.stack([rng.binomial(20, 0.6, size=60), np.full(60, 20)], axis=1).astype(float)
    result = paired(metrics_for(tagging)[0], method_US, base_US, generator(0))
    assert result.ci95 is not None
    assert 0 < result.ci95[0] < 0.1 < result.ci95[1]
    assert result.p_value < 0.01


@pytest.mark.slow
def test_intervals_cover_and_p_values_are_uniform_when_nothing_differs(tagging: Task) -> None:
    rng = np.random.default_rng(3)
    accuracy = metrics_for(tagging)[0]
    runs, rejected, covered, p_values = 300, 0, 0, []
    for run in range(runs):
        chance = rng.beta(4, 4, size=30)
        a_US, b_US = (
            np.stack([rng.binomial(10, chance), np.full(30, 10)], axis=1).astype(float) for _ in range(2)
        )
        result = paired(accuracy, a_US, b_US, generator(run), resamples=400)
        interval = bootstrap(accuracy, a_US, generator(run, "value"), resamples=400)
        assert interval is not None
        covered += interval[0] <= 0.5 <= interval[1]
        rejected += result.p_value < 0.05
        p_values.append(result.p_value)
    assert 0.015 < rejected / runs < 0.09  # 0.05 ± 3 standard errors
    assert 0.88 < covered / runs < 0.985
    assert 0.42 < np.mean(p_values) < 0.6


def test_lower_error_is_a_positive_difference(rating: Task) -> None:
    golds = ["1", "5", "3", "2"]
    for index in (0, 1):
        good, bad = (statistics(rating, [(answers, golds)] * 6, index) for answers in (golds, ["4"] * 4))
        result = paired(metrics_for(rating)[index], good, bad, generator(0))
        assert result.delta > 1.5
        assert (result.better, result.equal, result.worse) == (6, 0, 0)
        assert paired(metrics_for(rating)[index], bad, good, generator(0)).delta == -result.delta


def test_fractional_errors_never_poison_the_root(rating: Task) -> None:
    rng = np.random.default_rng(0)
    users: Users = [([f"{g + 0.1 * (g % 3)}" for g in golds], [str(g) for g in golds])
                    for golds in rng.integers(1, 6, size=(12, 5)).tolist()]  # fmt: skip
    exact: Users = [(golds, golds) for _, golds in users]
    rmse = metrics_for(rating)[1]
    result = paired(rmse, statistics(rating, exact, 1), statistics(rating, users, 1), generator(0))
    assert result.ci95 is not None
    assert np.isfinite([result.delta, result.p_value, *result.ci95]).all()


def test_identical_methods_differ_by_nothing(tagging: Task) -> None:
    stats_US = statistics(tagging, simulated(tagging, np.random.default_rng(4), 10, 0.5))
    result = paired(metrics_for(tagging)[0], stats_US, stats_US, generator(0))
    assert (result.delta, result.ci95, result.p_value, result.equal) == (0, (0, 0), 1, 10)


def test_one_user_has_no_interval(tagging: Task) -> None:
    accuracy = metrics_for(tagging)[0]
    assert bootstrap(accuracy, np.array([[3.0, 4.0]]), generator(0)) is None
    result = paired(accuracy, np.array([[3.0, 4.0]]), np.array([[1.0, 4.0]]), generator(0))
    assert (result.delta, result.ci95, result.p_value) == (0.5, None, 1)


def test_different_users_are_refused(tagging: Task) -> None:
    with pytest.raises(ValueError, match="same users"):
        paired(metrics_for(tagging)[0], np.ones((3, 2)), np.ones((4, 2)), generator(0))


def test_generator_depends_on_seed_and_every_name() -> None:
    draws = {
        generator(seed, *names).integers(2**62)
        for seed in (0, 1)
        for names in (("a", "b"), ("ab",), ("a", "b", ""), ("b", "a"))
    }
    assert len(draws) == 8
    assert generator(7, "x").integers(2**62) == generator(7, "x").integers(2**62)


def test_more_users_than_fit_one_chunk_give_the_usual_interval(tagging: Task) -> None:
    rng = np.random.default_rng(0)
    stats_US = np.stack([rng.binomial(5, 0.5, 3000), np.full(3000, 5)], axis=1).astype(float)
    low, high = bootstrap(metrics_for(tagging)[0], stats_US, generator(0), resamples=1000) or (0, 0)
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(15000), rel=0.15)
