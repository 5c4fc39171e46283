"""Intervals and p-values over users.

A user is the unit: queries of one user are alike, so users are resampled, never queries. Intervals are
percentile intervals of the bootstrap (Efron & Tibshirani 1993, ch. 13), shifted by its estimate of bias
(ch. 10). For means the shift is nothing. Resamples of macro-F1, however, lack the labels that only few
users use and so lie too low: without the shift the interval may not even contain the value. P-values come
from the paired randomization test (Noreen 1989; Smucker et al. 2007), whose null hypothesis is that the two
methods' answers could be exchanged for any user. Neither is adjusted for the number of comparisons made.
Every comparison has a generator of its own, so that adding a method leaves the others' numbers alone.
By hand: scipy.stats.bootstrap has no interval with that shift alone (BCa takes a jackknife as well), and it
gathers the users of every resample, where one product of matrices gives the sums of many.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence

import numpy as np

from oppu_eval.scoring.metrics import Array, Metric

RESAMPLES = 10_000
_CHUNK = 1_000_000  # numbers drawn at once
_TIE = 1e-9  # differences smaller than this are rounding


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A method compared with a baseline on their common users; positive is better, whatever the metric.

    Attributes:
        delta: The difference of the metric's values.
        ci95: Its bootstrap interval; None with fewer than two users.
        p_value: Two-sided.
        better: Users whose own value is better than the baseline's.
        equal: Users for whom the two are equal.
        worse: Users whose own value is worse.
    """

    delta: float
    ci95: tuple[float, float] | None
    p_value: float
    better: int
    equal: int
    worse: int


def generator(seed: int, *names: str) -> np.random.Generator:
    """A random generator that depends on the seed and the names alone."""
    digest = hashlib.sha256(json.dumps([seed, *names]).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def bootstrap(
    metric: Metric, stats_US: Array, rng: np.random.Generator, resamples: int = RESAMPLES
) -> tuple[float, float] | None:
    """The 95 % interval of a metric's value when users are drawn again.

    Args:
        metric: The metric that the statistics belong to.
        stats_US: One row per user [U, S].
        rng: See :func:`generator`.
        resamples: How many times U users are drawn, with replacement.

    Returns:
        (low, high), or None with fewer than two users, about whose spread nothing is known.
    """
    if len(stats_US) < 2:
        return None
    values = [
        metric.value(weights_RU @ stats_US) for weights_RU in _user_weights(len(stats_US), rng, resamples)
    ]
    value = float(metric.value(stats_US.sum(axis=0)))
    low, high = np.clip(_interval(np.concatenate(values), value), *metric.bounds)
    return float(low), float(high)


def paired(
    metric: Metric,
    method_US: Array,
    baseline_US: Array,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Compare two methods on the same users.

    Args:
        metric: The metric that the statistics belong to.
        method_US: Statistics of the method [U, S], U >= 1.
        baseline_US: Statistics of the baseline for the same users in the same order [U, S].
        rng: See :func:`generator`.
        resamples: Bootstrap resamples, and random exchanges of the test.

    Raises:
        ValueError: the two do not have the same users.
    """
    if method_US.shape != baseline_US.shape or len(method_US) == 0:
        raise ValueError(f"paired() needs the same users twice: {method_US.shape}, {baseline_US.shape}.")

    def difference(method_S: Array, baseline_S: Array) -> Array:
        return metric.sign * (metric.value(method_S) - metric.value(baseline_S))

    delta = float(difference(method_US.sum(axis=0), baseline_US.sum(axis=0)))
    users = len(method_US)
    ci95 = None
    if users > 1:
        deltas = [
            difference(weights_RU @ method_US, weights_RU @ baseline_US)
            for weights_RU in _user_weights(users, rng, resamples)
        ]
        span = metric.bounds[1] - metric.bounds[0]
        low, high = np.clip(_interval(np.concatenate(deltas), delta), -span, span)
        ci95 = (float(low), float(high))
    hits = 0
    exact = 2**users <= resamples  # all exchanges are fewer than the random ones would be
    for swap_RU in [_all_swaps(users)] if exact else _random_swaps(users, rng, resamples):
        keep_RU = 1.0 - swap_RU
        deltas_R = difference(
            keep_RU @ method_US + swap_RU @ baseline_US, keep_RU @ baseline_US + swap_RU @ method_US
        )
        hits += int(np.count_nonzero(np.abs(deltas_R) >= abs(delta) - _TIE))
    per_user_U = difference(method_US, baseline_US)
    better, worse = int(np.sum(per_user_U > _TIE)), int(np.sum(per_user_U < -_TIE))
    p_value = hits / 2**users if exact else (hits + 1) / (resamples + 1)
    return Comparison(delta, ci95, p_value, better, users - better - worse, worse)


def combined(
    metric: Metric,
    terms: Sequence[tuple[float, Array, str]],
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> tuple[float, tuple[float, float] | None]:
    """A sum of values with signs, e.g. a difference of differences, and its 95 % bootstrap interval.

    Args:
        metric: The metric that the statistics belong to.
        terms: (factor, statistics [U, S], whose they are). Terms of the same people have the same users in
            the same order, who are drawn together; different people are drawn apart.
        rng: See :func:`generator`.
        resamples: How many times users are drawn.

    Returns:
        The sum, positive where it is better, and its interval; None with fewer than two users anywhere.
    """
    value = metric.sign * sum(factor * float(metric.value(rows.sum(axis=0))) for factor, rows, _ in terms)
    if any(len(rows) < 2 for _, rows, _ in terms):
        return value, None
    sums_R: Array | float = 0.0
    for people in dict.fromkeys(people for _, _, people in terms):
        own = [(factor, rows) for factor, rows, whose in terms if whose == people]
        parts = [
            sum(factor * metric.value(weights_RU @ rows_US) for factor, rows_US in own)
            for weights_RU in _user_weights(len(own[0][1]), rng, resamples)
        ]
        sums_R = sums_R + metric.sign * np.concatenate(parts)
    return value, _interval(np.asarray(sums_R), value)


def rank_correlation(
    one: Sequence[float], other: Sequence[float], rng: np.random.Generator, permutations: int = RESAMPLES
) -> tuple[float, float]:
    """Spearman's correlation over users, and its two-sided permutation p-value.

    Returns:
        (0, 1) where one of the two is the same for everybody, about whom nothing can be told apart.
    """
    from scipy.stats import rankdata

    ranks = [rankdata(values) for values in (one, other)]
    if any(np.ptp(values) == 0 for values in ranks):
        return 0.0, 1.0
    a_U, b_U = ((values - values.mean()) / (values.std() * np.sqrt(len(values))) for values in ranks)
    rho = float(a_U @ b_U)
    shuffled_RU = rng.permuted(np.tile(b_U, (permutations, 1)), axis=1)
    hits = int(np.count_nonzero(np.abs(shuffled_RU @ a_U) >= abs(rho) - _TIE))
    return rho, (hits + 1) / (permutations + 1)


def _interval(values_R: Array, value: float) -> tuple[float, float]:
    """The middle 95 % of the resampled values, moved so that their mean is the measured value.

    A mean's resamples are centred already: what is within the noise of resampling is not moved.
    """
    shift = value - values_R.mean()
    noise = 4 * values_R.std() / np.sqrt(len(values_R))
    low, high = np.percentile(values_R, (2.5, 97.5)) + (shift if abs(shift) > noise else 0.0)
    return float(low), float(high)


def _all_swaps(users: int) -> Array:
    """Every way of exchanging two methods' users [2^U, U]; 1 where a user is exchanged."""
    return (np.arange(2**users)[:, None] >> np.arange(users) & 1).astype(np.float64)


def _random_swaps(users: int, rng: np.random.Generator, resamples: int) -> Iterator[Array]:
    """Chunks [R, U] of random exchanges."""
    for chunk in _chunks(users, resamples):
        yield rng.integers(0, 2, size=(chunk, users)).astype(np.float64)


def _chunks(users: int, resamples: int) -> Iterator[int]:
    size = max(1, _CHUNK // users)
    for start in range(0, resamples, size):
        yield min(size, resamples - start)


def _user_weights(users: int, rng: np.random.Generator, resamples: int) -> Iterator[Array]:
    """Chunks [R, U]: how often each user was drawn in each resample; every row sums to U."""
    for chunk in _chunks(users, resamples):
        drawn_RU = rng.integers(0, users, size=(chunk, users)) + np.arange(chunk)[:, None] * users
        counts = np.bincount(drawn_RU.ravel(), minlength=chunk * users)
        yield counts.reshape(chunk, users).astype(np.float64)
