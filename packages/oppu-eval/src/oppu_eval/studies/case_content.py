"""Everything that a reader wants to see of a case: prompts, answers, scores, and its user's history."""

import dataclasses
from collections.abc import Callable, Sequence

from oppu_core.data.types import HistoryItem, User
from oppu_core.prompting.builder import PromptBuilder
from oppu_core.prompting.methods import parse_method
from oppu_core.prompting.profiles import compute_profile
from oppu_core.tasks.task import Kind, Task

from oppu_eval.reporting.examples import query_text
from oppu_eval.reporting.habits import LENGTH, habits, own_texts
from oppu_eval.reporting.table import number
from oppu_eval.scoring.evaluate import Predictions
from oppu_eval.studies.case_choice import Chosen, Counts, choose

_LATEST = 4  # items of a user that a page shows


@dataclasses.dataclass(frozen=True)
class AboutUser:
    """What a page says of a case's user, from their training history.

    Attributes:
        items: Number of items.
        labels: Every label with its count, most frequent first; empty for other tasks.
        profile: The computed profile, for tasks without labels in the history.
        mean_words: Mean words per text of the user, for the same tasks.
        latest: The latest items (for the same tasks only the user's texts), latest first.
    """

    items: int
    labels: tuple[tuple[str, int], ...]
    profile: str
    mean_words: float | None
    latest: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Asked:
    """A method's answer to a case, and its prompt.

    Attributes:
        method: e.g. ``oppu_rag_k1``.
        answer: The answer as written.
        score: The primary metric on this query alone.
        prompt: The exact text before the answer.
        retrieved: The items in the prompt, one line each.
        profile: The profile in the prompt, or empty.
    """

    method: str
    answer: str
    score: float
    prompt: str
    retrieved: tuple[str, ...]
    profile: str


@dataclasses.dataclass(frozen=True)
class Case:
    """A chosen query with everything that its page shows; texts and ids come from users, hence are untrusted.

    Attributes:
        task: The task's name.
        kind: The task's kind; decides how scores are worded.
        user_id: The user's id.
        query_id: The query's id.
        query: Its text.
        gold: What the user answered.
        spread, gain: See :class:`Chosen`.
        why: Why it was chosen, as a sentence.
        asked: The methods that answered, in the order of the paper's Table 1.
        about: Its user.
    """

    task: str
    kind: Kind
    user_id: str
    query_id: str
    query: str
    gold: str
    spread: float
    gain: float
    why: str
    asked: tuple[Asked, ...]
    about: AboutUser


def about_user(task: Task, user: User) -> AboutUser:
    """Describe a user by the history that personal training may see."""
    history, measured = user.training_history, habits(task, [user])
    if not task.labelled_history:
        latest = own_texts(task, user)[: -_LATEST - 1 : -1]
        profile, mean_words = compute_profile(task, history), measured.features.get(LENGTH)
        return AboutUser(len(history), (), profile, mean_words, tuple(latest))
    counts = {**dict.fromkeys(task.labels, 0), **measured.labels}
    labels = tuple(sorted(counts.items(), key=lambda entry: -entry[1]))
    lines = tuple(_line(task, item) for item in history[: -_LATEST - 1 : -1])
    return AboutUser(len(history), labels, "", None, lines)


def _line(task: Task, item: HistoryItem) -> str:
    """An item on one line, as prompts show it."""
    return " ".join(task.history_line(item.fields).split())


def build(
    task: Task,
    users: Sequence[User],
    predictions: Predictions,
    builder_of: Callable[[str], PromptBuilder],
    profile_of: Callable[[User], str],
    *,
    cases: int = 8,
) -> tuple[list[Case], Counts]:
    """Choose cases and collect everything that their pages show, with counts over all queries.

    Args:
        task: The task that was answered.
        users: The users whose queries to choose from.
        predictions: {method: {(user id, query id): answer}}.
        builder_of: The builder of a method's prompts. Personal prompts may have to leave room for the
            adapter's tokens (:meth:`oppu_core.runs.jobs.VariantJobs.with_adapter`).
        profile_of: A user's profile text.
        cases: The most cases.

    Raises:
        ConfigError: a method's name cannot be read.
        DataError: the queries cannot be scored.
    """
    chosen, counts = choose(task, users, predictions, cases=cases)
    return [_case(task, one, predictions, builder_of, profile_of, counts.metric) for one in chosen], counts


def _case(
    task: Task,
    one: Chosen,
    predictions: Predictions,
    builder_of: Callable[[str], PromptBuilder],
    profile_of: Callable[[User], str],
    metric: str,
) -> Case:
    user, query = one.user, one.query
    user_profile = profile_of(user)
    asked = []
    for method, score in one.scores.items():
        prompt = builder_of(method).query_prompt(parse_method(method), user, query, user_profile)
        retrieved = tuple(_line(task, item) for item in prompt.retrieved)
        answer = predictions[method][user.user_id, query.id]
        if task.labels:
            answer = task.answer_of(answer)
        asked.append(Asked(method, answer, score, prompt.text, retrieved, prompt.profile))
    return Case(
        task=task.name,
        kind=task.kind,
        user_id=user.user_id,
        query_id=query.id,
        query=query_text(task, query),
        gold=task.answer_of(query.gold or ""),
        spread=one.spread,
        gain=one.gain,
        why=_why(task.kind, one, metric),
        asked=tuple(asked),
        about=about_user(task, user),
    )


def verdict(kind: Kind, score: float) -> str:
    """A score on one query in words: ``right``, ``wrong``, ``off by 2``, or for texts the number."""
    if kind == "classification":
        return "right" if score else "wrong"
    if kind == "rating":
        return f"off by {score:g}" if score else "right"
    return number(score)


def _why(kind: Kind, one: Chosen, metric: str) -> str:
    if one.pair is None or not one.gain:
        return "The methods differ, and not because of an adapter."
    said = ", ".join(f"{method} {verdict(kind, one.scores[method])}" for method in one.pair)
    unit = f" ({metric})" if kind == "generation" else ""
    word = "helps" if one.gain > 0 else "harms"
    if len(one.gains) > 1:
        word += f" with {sum(gain * one.gain > 0 for gain in one.gains.values())} of {len(one.gains)} prompts"
    return f"The adapter {word}: {said}{unit}."
