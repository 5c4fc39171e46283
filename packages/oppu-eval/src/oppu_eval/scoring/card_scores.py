"""Scores for the card of an adapter that leaves a run (entry-point group ``oppu.scores``)."""

from collections.abc import Iterator, Sequence

from oppu_core.errors import DataError
from oppu_core.ownership.card import Score
from oppu_core.runs.run import Run
from oppu_core.storage.files import read_json

from oppu_eval.files import RESULTS


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
    file = run.path / RESULTS
    if not file.exists():
        return
    results = read_json(file)
    try:
        if results["provenance"]["config"] != run.config.to_json():
            return  # of another run
        titles = results["tasks"][task]["metrics"]
        for row in results["rows"]:
            if row["task"] == task and row["method"] in methods:
                first = row["metric"] == next(iter(titles))
                own = results["per_user"][task][row["method"]].get(user_id) if first else None
                interval = None
                if row["ci95"] is not None:  # of one user there is none
                    low, high = row["ci95"]
                    interval = low, high
                title = titles[row["metric"]]
                yield Score(row["method"], title, own, row["value"], interval, row["users"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{file} is no results file. Run `oppu evaluate --run {run.path}`.") from error
