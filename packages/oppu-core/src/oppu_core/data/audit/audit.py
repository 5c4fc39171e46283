"""Auditing a dataset for whatever would spoil a comparison: leaks, unusable answers, disorder, duplicates.

Texts count as the same if they have the same words, whatever their case, punctuation and space. They are
nearly the same if the Jaccard similarity of their word 3-shingles is 0.8 or more (both with 5 words or more).
In scripts without spaces a character is a word (:func:`oppu_core.texts.script_words`). Queries and history
items are compared by the fields that both have.

Reads the test users twice and the others once, as a stream. Memory holds one user and, for the test users,
eight bytes per text and query id (with a million texts, the chance that any two collide is 1e-7).
"""

import collections
import datetime
import json
from collections.abc import Callable, Mapping

from oppu_core.data.audit.checks import RecordChecks, SplitChecks
from oppu_core.data.audit.findings import Cases, Finding, Occurrence
from oppu_core.data.dataset import REJECTED, Dataset
from oppu_core.data.schema import shown
from oppu_core.data.types import Split
from oppu_core.errors import DataError


def audit(
    dataset: Dataset,
    examples: int = 3,
    today: datetime.date | None = None,
    on_user: Callable[[], object] = lambda: None,
) -> list[Finding]:
    """Audit a dataset.

    Args:
        dataset: The dataset.
        examples: The most examples of each finding.
        today: Later dates are in the future; by default the current day in UTC.
        on_user: Called twice for each test user and once for each other user.

    Returns:
        The findings, in the order of :data:`KINDS`.

    Raises:
        DataError: the dataset or its rejected.jsonl is damaged.
    """
    cases = Cases(examples)
    today = today or datetime.datetime.now(datetime.UTC).date()
    checks = RecordChecks(dataset.task, cases, (today + datetime.timedelta(days=1)).isoformat())
    sides = SplitChecks(dataset.task, cases)
    for user in dataset.users("test"):
        sides.note_test(user)
        on_user()
    for user in dataset.users("others"):
        sides.note_other(user)
        checks.look(user)
        on_user()
    for user in dataset.users("test"):
        sides.look(user)
        checks.look(user)
        checks.look_for_leaks(user)
        on_user()
    disagreements = dataset.source.get("gold_disagreements")
    cases.counts["gold_disagreement"] = disagreements if isinstance(disagreements, int) else 0
    for reason, count in rejections(dataset).most_common():
        cases.counts["rejected_at_import"] += count
        cases.example("rejected_at_import", Occurrence("", "", f"{count:,} × {shown(reason)}"))
    return cases.findings(_totals(dataset.counts))


def rejections(dataset: Dataset) -> collections.Counter[str]:
    """How many records the importer refused, by reason.

    Raises:
        DataError: ``rejected.jsonl`` is damaged.
    """
    file = dataset.path / REJECTED
    reasons: collections.Counter[str] = collections.Counter()
    if not file.exists():
        return reasons
    try:
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                reasons[str(json.loads(line)["reason"])] += 1
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        place = f"after line {sum(reasons.values()):,}"
        raise DataError(f"{file}, {place}: not a list of refused records; import again.") from error
    return reasons


def _totals(counts: Mapping[Split, Mapping[str, int]]) -> dict[str, int]:
    others, test = counts["others"], counts["test"]
    both = {name: others[name] + test[name] for name in test}
    return {
        "test users": test["users"],
        "test queries": test["queries"],
        "test history items": test["history_items"],
        "users": both["users"],
        "queries": both["queries"],
        "history items": both["history_items"],
        "queries and history items": both["queries"] + both["history_items"],
    }
