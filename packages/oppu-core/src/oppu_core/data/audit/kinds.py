"""The kinds of findings of :func:`oppu_core.data.audit.audit.audit`."""

import dataclasses
from typing import Literal

Severity = Literal["error", "warning", "info"]
FIRST_YEAR = "1970"


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of finding: its severity, the unit of its cases, what it means, and what to do."""

    severity: Severity
    unit: str
    meaning: str
    advice: str


KINDS: dict[str, Kind] = {
    "query_in_own_history": Kind(
        "error",
        "test queries",
        "The text of a test query also stands in the history that this query sees, perhaps with its answer.",
        "Drop the item from the history or the query from the test, and import again.",
    ),
    "query_near_own_history": Kind(
        "warning",
        "test queries",
        "Nearly the text of a test query (word 3-shingles, Jaccard 0.8 or more) stands in the history that "
        "it sees.",
        "Read the examples: a corrected or reposted text is a leak, a set phrase is not.",
    ),
    "gold_in_own_history": Kind(
        "warning",
        "test queries",
        "A gold of a generation task, of 5 words or more, stands in the history that the query sees.",
        "Drop the item if it is the very text that is asked for; a recurring title may stay.",
    ),
    "query_in_others_queries": Kind(
        "warning",
        "test queries",
        "The text of a test query is also a query of the others, which the task base is trained on.",
        "Where a text has one right answer, drop the others' query; where users differ, keep it and say so.",
    ),
    "query_in_others_history": Kind(
        "warning",
        "test queries",
        "The text of a test query also stands in the others' histories: task bases see it as context, or "
        "as an example with --examples queries+history.",
        "Train on the others' queries alone, or drop the item; where users differ, keep it and say so.",
    ),
    "query_id_in_others": Kind(
        "warning",
        "test queries",
        "The id of a test query is also the id of a query of the others: perhaps the same question.",
        "Compare the two; a question may be on one side only.",
    ),
    "history_in_others": Kind(
        "info",
        "test history items",
        "The text of a test user's history item also occurs among the others' data.",
        "Usual where users talk about the same things; it favours no method.",
    ),
    "history_unsorted": Kind(
        "warning",
        "users",
        "A history that has all its dates is not sorted by them, so that 'before' is not a prefix.",
        "Sort it, oldest first, and import again.",
    ),
    "query_before_history": Kind(
        "error",
        "queries",
        "A query is older than an item of the history that it sees: the future stands in its history.",
        "Look for a wrong unit or time zone in the source, and import again.",
    ),
    "dates_partly_missing": Kind(
        "warning",
        "users",
        "Some items of a history have a date and some have none, so that its order cannot be known.",
        "Complete the dates or leave them all out.",
    ),
    "date_implausible": Kind(
        "warning",
        "queries and history items",
        f"A date is impossible (2024-02-31), lies in the future or before {FIRST_YEAR}.",
        "Look for a wrong unit or time zone in the source.",
    ),
    "gold_missing": Kind(
        "warning",
        "queries",
        "A query has no gold: it can neither be learned from nor scored.",
        "Add the label file and import again, if there is one.",
    ),
    "gold_empty": Kind(
        "error", "queries", "A gold is an empty text.", "Drop the query or complete its gold."
    ),
    "gold_outside_labels": Kind(
        "error",
        "queries",
        "A gold is not one of the task's labels: no answer can be right.",
        "Correct the spelling in the source, or drop the query.",
    ),
    "gold_no_number": Kind(
        "error",
        "queries",
        "A gold of a rating is no number: the run cannot be scored.",
        "Correct it in the source, or drop the query.",
    ),
    "gold_disagreement": Kind(
        "warning",
        "test queries",
        "The label file has another gold than the query; the query's own was taken.",
        "Find out which file is right, and correct the other one.",
    ),
    "answer_outside_labels": Kind(
        "warning",
        "history items",
        "A history item's answer is empty or not one of the task's labels; adapters learn it all the same.",
        "Correct it in the source, or drop the item.",
    ),
    "text_empty": Kind(
        "warning",
        "queries and history items",
        "A query or history item lacks a text that the task needs.",
        "Drop it, or complete it in the source.",
    ),
    "item_id_repeated": Kind(
        "warning",
        "history items",
        "A history has an item id more than once.",
        "Look whether an item was exported twice.",
    ),
    "text_repeated": Kind(
        "info",
        "history items",
        "A history has a text more than once; it weighs more in training and fills retrieval.",
        "Drop the copies if the user did not mean them.",
    ),
    "nothing_to_learn": Kind(
        "warning",
        "test users",
        "A test user has no history before the earliest query: no adapter can be trained.",
        "Make the user one of the others.",
    ),
    "nothing_to_answer": Kind(
        "warning",
        "users",
        "A user has no queries: as a test user nothing is scored, as one of the others nothing is learned.",
        "Drop the user, unless it is wanted for retrieval by chance.",
    ),
    "rejected_at_import": Kind(
        "warning",
        "",
        "Records were refused when the data was imported; the examples count them by reason.",
        "Read rejected.jsonl in the dataset's folder, correct the source, and import again.",
    ),
}
