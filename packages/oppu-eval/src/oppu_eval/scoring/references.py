"""Answers that need no language model: what every method has to be measured against."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from oppu_core.data.types import Query, User
from oppu_core.prompting.retrieval import BM25Retriever
from oppu_core.tasks.task import Task
from oppu_core.texts import script_words

Answers = dict[tuple[str, str], str]

REFERENCES = (
    "global_majority",
    "user_majority",
    "user_classifier",
    "copy_label",
    "copy_input",
    "copy_retrieved",
    "oracle",
)
SMOOTHING = 0.1  # of naive Bayes; on three real datasets it did no worse than 1, nor than logistic regression


def reference_answers(
    task: Task, scored: Mapping[str, Sequence[Query]], test_users: Sequence[User], other_users: Iterable[User]
) -> dict[str, Answers]:
    """The answers of the reference rows that this task and these users allow.

    * ``global_majority`` (labels, ratings): the most frequent answer of the *other* users.
    * ``user_majority`` (labels, ratings): the most frequent answer in the history that the query may see;
      among equals the one used last; without history the global majority.
    * ``user_classifier`` (labels, ratings): naive Bayes (scikit-learn's ``MultinomialNB``) on TF-IDF of
      words, fitted to the history that the query may see alone; without history the global majority.
    * ``copy_label`` (labels, ratings): the answer in the visible item that BM25 finds most relevant; without
      history the global majority.
    * ``copy_input`` (generation): the query's long field as it is.
    * ``copy_retrieved`` (generation): what the user wrote in the visible item that BM25 finds most relevant.
    * ``oracle``: the planted best answer, where every scored query has one.

    Args:
        task: Decides which rows make sense.
        scored: The queries with a gold answer, by user id.
        test_users: The users behind `scored`.
        other_users: Users who train the task base; read once.

    Returns:
        {reference name: {(user id, query id): answer}}, in the order of :data:`REFERENCES`.
    """
    rows: dict[str, Answers] = {}
    if task.kind == "generation":
        rows["copy_input"] = {
            (user_id, query.id): query.fields[task.long_field]
            for user_id, queries in scored.items()
            for query in queries
        }
        rows["copy_retrieved"] = _of_most_alike(task, scored, test_users, task.text_field)
    else:
        majority = _global_majority(task, other_users)
        if majority is not None:
            rows["global_majority"] = {
                (user_id, query.id): majority for user_id, queries in scored.items() for query in queries
            }
        if task.output_field is not None:
            rows["user_majority"] = {
                (user.user_id, query.id): _user_majority(task, user, query) or majority or ""
                for user in test_users
                for query in scored.get(user.user_id, ())
            }
            rows["user_classifier"] = {
                key: answer or rows["user_majority"][key]
                for user in test_users
                for key, answer in _classified(task, user, scored.get(user.user_id, ())).items()
            }
            copied = _of_most_alike(task, scored, test_users, task.output_field)
            rows["copy_label"] = {
                key: task.answer_of(answer) or majority or "" for key, answer in copied.items()
            }
    oracle = {
        (user_id, query.id): query.oracle
        for user_id, queries in scored.items()
        for query in queries
        if query.oracle is not None
    }
    if len(oracle) == sum(len(queries) for queries in scored.values()):
        rows["oracle"] = oracle
    return rows


def _of_most_alike(
    task: Task, scored: Mapping[str, Sequence[Query]], users: Sequence[User], field: str
) -> Answers:
    """A field of the visible item that is most like each query; empty without history."""
    bm25 = BM25Retriever(task)
    answers: Answers = {}
    for user in users:
        for query in scored.get(user.user_id, ()):
            search = task.retrieval_text(query.fields)
            best = bm25.retrieve(search, user.history, query.history_len, 1, query.id)
            answers[user.user_id, query.id] = best[0].fields[field] if best else ""
    return answers


def _classified(task: Task, user: User, queries: Sequence[Query]) -> Answers:
    """The answers of a classifier of the user's own; empty where there is nothing to learn from."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.naive_bayes import MultinomialNB
    from sklearn.pipeline import make_pipeline

    answers: Answers = {}
    for visible in sorted({query.history_len for query in queries}):
        asked = [query for query in queries if query.history_len == visible]
        labels = [task.answer_of(item.fields[task.output_field or ""]) for item in user.history[:visible]]
        texts = [task.retrieval_text(item.fields) for item in user.history[:visible]]
        words = {"analyzer": script_words} if task.words == "script" else {}
        model = make_pipeline(TfidfVectorizer(**words), MultinomialNB(alpha=SMOOTHING))
        try:
            found = model.fit(texts, labels).predict([task.retrieval_text(query.fields) for query in asked])
        except ValueError:  # no history, or not a word in it
            found = [""] * len(asked)
        answers.update(
            ((user.user_id, query.id), str(answer)) for query, answer in zip(asked, found, strict=True)
        )
    return answers


def _global_majority(task: Task, other_users: Iterable[User]) -> str | None:
    """The most frequent answer; among equals the first in text order."""
    counts: Counter[str] = Counter()
    for user in other_users:
        counts.update(task.answer_of(query.gold) for query in user.queries if query.gold is not None)
        if task.output_field is not None:
            counts.update(task.answer_of(item.fields[task.output_field]) for item in user.history)
    return min(counts, key=lambda answer: (-counts[answer], answer)) if counts else None


def _user_majority(task: Task, user: User, query: Query) -> str | None:
    """The most frequent answer of the visible history; among equals the one used last."""
    if (field := task.output_field) is None:
        return None
    answers = [task.answer_of(item.fields[field]) for item in user.history[: query.history_len]]
    counts = Counter(answers)
    last_use = {answer: position for position, answer in enumerate(answers)}
    return max(counts, key=lambda answer: (counts[answer], last_use[answer])) if counts else None
