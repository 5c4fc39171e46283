"""Some users' answers side by side: whom to show, and what."""

import dataclasses
from collections.abc import Sequence

from oppu_core.data.types import Query, User
from oppu_core.tasks.task import Task
from oppu_core.texts import shorten

from oppu_eval.reporting.figures import personal_pair
from oppu_eval.scoring.evaluate import Predictions, method_order
from oppu_eval.scoring.metrics import Metric, metrics_for
from oppu_eval.scoring.results import TaskResults

_INPUT_CHARS = 280
_ANSWER_CHARS = 200


@dataclasses.dataclass(frozen=True)
class Answer:
    """One method's answer to one query.

    Attributes:
        method: e.g. ``oppu_k0``.
        text: The answer, shortened.
        score: The primary metric on this query alone.
        right: Whether it is the user's own answer; None where there is no plain right and wrong (texts).
    """

    method: str
    text: str
    score: float
    right: bool | None


@dataclasses.dataclass(frozen=True)
class ExampleQuery:
    """One query, the user's own answer, and every method's.

    Attributes:
        input: The query's text, shortened.
        gold: What the user answered.
        answers: In the order of the table.
    """

    input: str
    gold: str
    answers: tuple[Answer, ...]


@dataclasses.dataclass(frozen=True)
class ExampleUser:
    """One user's first queries.

    Attributes:
        task: The task's name.
        user_id: Untrusted text.
        story: Why this user is shown.
        history_len: Items that personal training may see.
        method: The OPPU method that `score` belongs to.
        baseline: The same prompt without the adapter, for `baseline_score`.
        score: The user's primary metric under `method`.
        baseline_score: The same under `baseline`.
        queries: The first scored queries of the user, in the data's order: not picked.
    """

    task: str
    user_id: str
    story: str
    history_len: int
    method: str
    baseline: str
    score: float
    baseline_score: float
    queries: tuple[ExampleQuery, ...]


def pick_examples(
    task: Task,
    test_users: Sequence[User],
    predictions: Predictions,
    results: TaskResults,
    *,
    queries: int = 3,
) -> list[ExampleUser]:
    """The users whom the adapter helps most, typically and least, with their first queries.

    Args:
        task: The task that was answered.
        test_users: The users behind the predictions.
        predictions: {method: {(user id, query id): answer}}.
        results: What :func:`oppu_eval.scoring.evaluate.evaluate` made of them.
        queries: How many queries a user shows.

    Returns:
        At most three examples; none where no OPPU method stands beside its own prompt.
    """
    pair = personal_pair(results)
    if pair is None:
        return []
    method, baseline = pair
    scores, users = results.per_user, {user.user_id: user for user in test_users}
    gains = {user_id: gain for user_id, gain in results.gains(method, baseline).items() if user_id in users}
    by_gain = sorted(gains, key=lambda user_id: (-gains[user_id], user_id))
    if not by_gain:
        return []
    least = "The adapter harms most" if gains[by_gain[-1]] < 0 else "The adapter helps least"
    stories = {
        by_gain[0]: "The adapter helps most",
        by_gain[-1]: least,
        by_gain[len(by_gain) // 2]: "A typical user",
    }
    return [
        ExampleUser(
            task=task.name,
            user_id=user_id,
            story=stories[user_id],
            history_len=results.history_lengths[user_id],
            method=method,
            baseline=baseline,
            score=scores[method][user_id],
            baseline_score=scores[baseline][user_id],
            queries=_queries(task, metrics_for(task)[0], users[user_id], predictions, queries),
        )
        for user_id in by_gain
        if user_id in stories
    ]


def _queries(
    task: Task, metric: Metric, user: User, predictions: Predictions, count: int
) -> tuple[ExampleQuery, ...]:
    shown = [query for query in user.queries if query.gold is not None][:count]
    return tuple(
        ExampleQuery(
            input=shorten(query_text(task, query), _INPUT_CHARS),
            gold=shorten(query.gold or "", _ANSWER_CHARS),
            answers=tuple(
                _answer(task, metric, method, predictions[method][user.user_id, query.id], query)
                for method in sorted(predictions, key=method_order)
                if (user.user_id, query.id) in predictions[method]
            ),
        )
        for query in shown
    )


def query_text(task: Task, query: Query) -> str:
    """A query's text; of several fields all, with their names."""
    if len(task.input_fields) == 1:
        return query.fields[task.long_field]
    return " | ".join(f"{name.replace('_', ' ')}: {query.fields[name]}" for name in task.input_fields)


def _answer(task: Task, metric: Metric, method: str, text: str, query: Query) -> Answer:
    score = metric.score([text], [query.gold or ""])
    perfect = 1.0 if metric.higher_is_better else 0.0
    right = None if task.kind == "generation" else score == perfect
    return Answer(method, shorten(text, _ANSWER_CHARS), score, right)
