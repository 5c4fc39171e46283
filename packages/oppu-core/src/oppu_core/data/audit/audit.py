"""What in a dataset would spoil a comparison: leaks, unusable answers, disorder, doubles.

Texts are the same here when they have the same words: case, punctuation and space are evened out. They are
nearly the same when the Jaccard similarity of their word 3-shingles is 0.8 or more (both of 5 words or more).
In scripts without spaces a character is a word (:func:`oppu_core.texts.script_words`).
What can be compared of a query and a history item are the fields that both have.

Reads the test users twice and the others once, as a stream. In memory stay one user and, for the test side,
eight bytes a text and query id (a chance of 1e-7 that any two of a million texts are taken for each other).
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
    """Everything that was found, in the order of :data:`KINDS`.

    Args:
        dataset: Any dataset.
        examples: At most how many examples of each finding.
        today: Dates after it lie in the future; by default the present day in UTC.
        on_user: Called once for each other and twice for each test user.

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
