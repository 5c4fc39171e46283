"""From answers to rows: every method of one task scored, compared and set beside the reference rows.

Data in, data out: knows nothing about run folders, models or pictures.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from oppu_core.data.types import Query, User
from oppu_core.errors import ConfigError, DataError
from oppu_core.prompting.methods import parse_method
from oppu_core.runs.cautions import scoring_warnings
from oppu_core.tasks.task import Task
from oppu_core.texts import as_number

from oppu_eval.scoring.metrics import Array, Metric, metrics_for, total
from oppu_eval.scoring.references import REFERENCES, reference_answers
from oppu_eval.scoring.results import ScoreRow, TaskResults, about_task
from oppu_eval.scoring.significance import RESAMPLES, Comparison, bootstrap, generator, paired

NON_PERSONALIZED = "non_personalized"

Predictions = Mapping[str, Mapping[tuple[str, str], str]]
Statistics = dict[str, Array]  # user id -> [S]


def same_prompt(method: str) -> str | None:
    """The method with the same prompt and no adapter; None where `method` has no adapter."""
    name, model = split_model(method)
    try:
        parsed = parse_method(name)
    except ConfigError:  # predictions of another origin may have names of their own
        return None
    return parsed.without_adapter.name + model if parsed.adapter else None


def split_model(method: str) -> tuple[str, str]:
    """A row's method and, where it has one, its model: ``rag_k1 (gpt2)`` -> (``rag_k1``, `` (gpt2)``)."""
    name, bracket, model = method.partition(" (")
    return name, bracket + model


def method_order(method: str) -> tuple[int, int, str]:
    """Sorts methods as the paper's Table 1 does; names that it does not know come last."""
    try:
        return *parse_method(method).order, method
    except ConfigError:
        return sys.maxsize, 0, method


def evaluate(
    task: Task,
    test_users: Sequence[User],
    other_users: Iterable[User],
    predictions: Predictions,
    seed: int,
    *,
    resamples: int = RESAMPLES,
    again: str = "oppu answer",
) -> TaskResults:
    """Score every method on the queries that have a gold answer.

    Args:
        task: The task that was answered.
        test_users: The users whose queries were answered.
        other_users: The users who trained the task base (for ``global_majority``); read once.
        predictions: {method: {(user id, query id): answer}}.
        seed: Makes intervals and p-values repeatable.
        resamples: Of the bootstrap and of the randomization test.
        again: The command that answers what is missing, for error messages.

    Returns:
        Rows, per-user scores, and the users whom a method had to leave out (failed adapters).

    Raises:
        DataError: nothing can be scored; an answer belongs to no query; a method has answered only a part of
            a user's queries, or nobody's.
    """
    scored = queries_with_gold(task, test_users)
    _check_predictions(test_users, predictions, again)
    references = reference_answers(task, scored, test_users, other_users)
    answers: dict[str, Mapping[tuple[str, str], str]] = {**references}
    answers |= {method: predictions[method] for method in sorted(predictions, key=method_order)}
    covered = {method: _covered_users(method, scored, answers[method], again) for method in answers}

    metrics = metrics_for(task)
    rows: dict[tuple[str, str], ScoreRow] = {}
    per_user: dict[str, dict[str, float]] = {}
    for metric in metrics:
        by_query = {
            method: {user_id: query_statistics(metric, user_id, scored, answers[method]) for user_id in users}
            for method, users in covered.items()
        }
        statistics = {
            method: {user_id: total(rows_QS) for user_id, rows_QS in users.items()}
            for method, users in by_query.items()
        }
        if metric is metrics[0]:
            per_user = {
                method: {user_id: float(metric.value(vector)) for user_id, vector in vectors.items()}
                for method, vectors in statistics.items()
            }
        for method, vectors in statistics.items():
            queries = sum(len(scored[user_id]) for user_id in vectors)
            value = float(metric.value(total(np.concatenate(list(by_query[method].values())))))
            rows[method, metric.name] = _row(
                task, metric, method, statistics, value, queries=queries, seed=seed, resamples=resamples
            )
    return TaskResults(
        **about_task(task),
        rows=[rows[method, metric.name] for method in answers for metric in metrics],
        per_user=per_user,
        history_lengths={
            user.user_id: len(user.training_history) for user in test_users if user.user_id in scored
        },
        set_aside={
            method: [user_id for user_id in scored if user_id not in covered[method]]
            for method in answers
            if len(covered[method]) < len(scored)
        },
        warnings=scoring_warnings(task, test_users),
    )


def queries_with_gold(task: Task, test_users: Sequence[User]) -> dict[str, tuple[Query, ...]]:
    """The queries with a gold answer, by user; users without one are left out."""
    scored: dict[str, tuple[Query, ...]] = {}
    for user in test_users:
        if user.user_id in scored:
            raise DataError(f"task {task.name}: test user {user.user_id!r} occurs twice; import it again.")
        queries = tuple(query for query in user.queries if query.gold is not None)
        if len({query.id for query in queries}) < len(queries):
            raise DataError(f"task {task.name}, user {user.user_id!r}: a query id occurs twice.")
        for query in queries:
            if task.kind == "rating" and as_number(query.gold or "") is None:
                raise DataError(
                    f"task {task.name}, user {user.user_id!r}, query {query.id!r}: the gold {query.gold!r} "
                    "is no rating; mend the data set."
                )
        if queries:
            scored[user.user_id] = queries
    if not scored:
        raise DataError(
            f"task {task.name}: no query of a test user has a gold answer; nothing to score. "
            "`oppu evaluate --export lamp` writes the answers for LaMP's leaderboard."
        )
    return scored


def _check_predictions(test_users: Sequence[User], predictions: Predictions, again: str) -> None:
    known = {(user.user_id, query.id) for user in test_users for query in user.queries}
    for method, answers in predictions.items():
        if method in REFERENCES:
            raise DataError(f"{method!r} is the name of a reference row; give the method another name.")
        unknown = sorted(key for key in answers if key not in known)
        if unknown:
            some = ", ".join(f"user {user_id!r} query {query_id!r}" for user_id, query_id in unknown[:3])
            more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
            raise DataError(
                f"method {method} answers queries that the data set does not have: {some}{more}. "
                f"Were the predictions made from another data set? Then answer again: {again}"
            )


def _covered_users(
    method: str,
    scored: Mapping[str, Sequence[Query]],
    answers: Mapping[tuple[str, str], str],
    again: str,
) -> list[str]:
    """The users whom a method answered: each wholly or not at all."""
    covered = []
    for user_id, queries in scored.items():
        missing = [query.id for query in queries if (user_id, query.id) not in answers]
        if 0 < len(missing) < len(queries):
            raise DataError(
                f"method {method} has answered {len(queries) - len(missing)} of {len(queries)} queries of "
                f"user {user_id!r} (not {missing[0]!r}); finish with: {again}"
            )
        if not missing:
            covered.append(user_id)
    if not covered:
        raise DataError(f"method {method} has no answers for any test user; run: {again}")
    return covered


def query_statistics(
    metric: Metric,
    user_id: str,
    scored: Mapping[str, Sequence[Query]],
    answers: Mapping[tuple[str, str], str],
) -> Array:
    """A user's statistics, query by query [Q, S]."""
    return np.stack(
        [
            metric.statistics([answers[user_id, query.id]], [query.gold])
            for query in scored[user_id]
            if query.gold is not None
        ]
    )


def _row(
    task: Task,
    metric: Metric,
    method: str,
    statistics: Mapping[str, Statistics],
    value: float,
    *,
    queries: int,
    seed: int,
    resamples: int,
) -> ScoreRow:
    stats_US = np.stack(list(statistics[method].values()))
    rng = generator(seed, task.name, method, metric.name)

    def compare(baseline: str | None) -> Comparison | None:
        if baseline is None or baseline == method or baseline not in statistics:
            return None
        common = [user_id for user_id in statistics[method] if user_id in statistics[baseline]]
        if not common:
            return None
        method_US, baseline_US = (
            np.stack([statistics[name][user_id] for user_id in common]) for name in (method, baseline)
        )
        comparison_rng = generator(seed, task.name, method, metric.name, baseline)
        return paired(metric, method_US, baseline_US, comparison_rng, resamples)

    plain = compare(NON_PERSONALIZED)
    prompt = plain if same_prompt(method) == NON_PERSONALIZED else compare(same_prompt(method))
    return ScoreRow(
        task=task.name,
        method=method,
        metric=metric.name,
        value=value,
        ci95=bootstrap(metric, stats_US, rng, resamples),
        users=len(stats_US),
        queries=queries,
        delta=plain.delta if plain else None,
        delta_ci95=plain.ci95 if plain else None,
        p_value=plain.p_value if plain else None,
        delta_same_prompt=prompt.delta if prompt else None,
        delta_same_prompt_ci95=prompt.ci95 if prompt else None,
        p_value_same_prompt=prompt.p_value if prompt else None,
        wins={"better": plain.better, "equal": plain.equal, "worse": plain.worse} if plain else None,
        reference=method in REFERENCES,
        higher_is_better=metric.higher_is_better,
    )
