"""Scores for the card of an adapter that leaves a run (entry-point group ``oppu.scores``)."""

from collections.abc import Iterator, Sequence

from oppu_core.ownership.card import Score
from oppu_core.runs.run import Run

from oppu_eval.scoring.run_results import known_results


def card_scores(run: Run, task: str, methods: Sequence[str], user_id: str) -> Iterator[Score]:
    """What a run's ``results.json`` says of some methods; nothing where it has not been evaluated.

    Args:
        run: The run.
        task: One of its tasks.
        methods: The methods' names.
        user_id: The user whose own scores to add to those of all users.

    Raises:
        DataError: the file is damaged.
    """
    results = known_results(run)
    if results is None:
        return
    one = results.tasks[task]
    for row in one.rows:
        if row.method in methods:
            own = one.per_user[row.method].get(user_id) if row.metric == one.primary else None
            yield Score(row.method, one.metrics[row.metric], own, row.value, row.ci95, row.users or 0)
