"""Asking every method of a run one question, as `oppu ask` and other front ends do."""

import contextlib
from collections.abc import Mapping, Sequence

from oppu_core.data.schema import shown
from oppu_core.data.types import Query, User
from oppu_core.errors import ConfigError, DataError
from oppu_core.runs.options import Compute
from oppu_core.runs.run import Run
from oppu_core.runs.variants import variants_of
from oppu_core.storage.store import Store
from oppu_core.tasks.task import Task
from oppu_core.texts import normal


def read_fields(texts: Sequence[str]) -> dict[str, str]:
    """Parse ``name=text`` options.

    Raises:
        ConfigError: one does not have this form, or a name occurs twice.
    """
    fields: dict[str, str] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or name in fields:
            raise ConfigError(f"--field {shown(text)}: write name=text, each name once.")
        fields[name] = value
    return fields


def ask(
    run: Run,
    user_id: str | None,
    text: str,
    task: str | None = None,
    device: str = "auto",
    others: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Answer a query by every method of a run.

    Args:
        run: A run whose adapters are trained.
        user_id: A test user, or one added by `oppu personalize`; None raises an error that names some.
        text: The query's text (the task's long field); it may see the user's whole history.
        task: Which of the run's tasks; None if it has only one.
        device: Where to compute.
        others: The texts of the task's other input fields, if it has any.

    Returns:
        {method: answer}, in the run's order.

    Raises:
        ConfigError: the task or user is missing or unknown; a text is empty, missing or for no field.
        DataError: there is no such test user.
        StoreError: the user has no adapter yet.
    """
    tasks = list(run.config.data)
    if task is None and len(tasks) > 1:
        raise ConfigError(f"{run.path} has the tasks {', '.join(tasks)}; choose one with --task.")
    task = task or tasks[0]
    if task not in tasks:
        raise ConfigError(f"{run.path} has no task {task!r}; it has {', '.join(tasks)}.")
    if not text.strip():
        raise ConfigError("The query is empty; write what is to be answered.")
    dataset = run.dataset(task)
    fields = _fields(dataset.task, text, others or {})
    known = dataset.user_ids("test")[: run.config.users]
    hint = f"Test users of {run.path}: {', '.join(map(shown, known[:5]))}{' …' if len(known) > 5 else ''}"
    if user_id is None:
        raise ConfigError(f"Say whose answer it is with --user. {hint} ({len(known)}).")
    try:
        user = run.user(task, user_id)
    except DataError as error:
        raise DataError(f"{error} {hint}.") from error
    if user.split != "test":
        raise DataError(f"User {user_id!r} is one of the others; only test users have adapters. {hint}.")
    asked = asked_query(user, fields)
    from oppu_core.runs.jobs import VariantJobs  # loads torch; what could be refused has been

    answers: dict[str, str] = {}
    with contextlib.closing(Store(run.store_path)) as store:
        for variant in variants_of(run):
            if variant.task.name == task:
                answers.update(VariantJobs(variant, store, Compute(device=device)).ask(user, asked))
    return {name: answers[name] for name in run.config.methods if name in answers}


def asked_query(user: User, fields: Mapping[str, str]) -> Query:
    """A query that may see the user's whole history.

    If it equals one of the user's own queries, it gets that id, as random draws depend on it.
    """

    def said(texts: Mapping[str, str]) -> dict[str, str]:
        return {name: normal(text) for name, text in texts.items()}

    seen = len(user.history)
    own = (
        query.id for query in user.queries if query.history_len == seen and said(query.fields) == said(fields)
    )
    return Query(next(own, "asked"), fields, None, seen)


def _fields(task: Task, text: str, others: Mapping[str, str]) -> dict[str, str]:
    wanted = [name for name in task.input_fields if name != task.long_field]
    if strangers := [name for name in others if name not in wanted]:
        raise ConfigError(
            f"--field {shown(strangers[0])}: beside the text ({task.long_field}), {task.name} has "
            f"{', '.join(wanted) or 'no fields'}."
        )
    if missing := [name for name in wanted if not others.get(name, "").strip()]:
        advice = " ".join(f"--field {name}=…" for name in missing)
        raise ConfigError(f"A query of {task.name} also needs {', '.join(missing)}: add {advice}.")
    fields = {**others, task.long_field: text}
    try:
        "".join(fields.values()).encode()
    except UnicodeEncodeError as error:
        raise ConfigError("The query is not valid Unicode text.") from error
    return {name: fields[name] for name in task.input_fields}
