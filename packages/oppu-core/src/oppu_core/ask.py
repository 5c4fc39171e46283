"""One question to every method of a run: what `oppu ask` and other front ends show side by side."""

import contextlib

from rich.console import Console

from oppu_core.data.types import Query
from oppu_core.errors import ConfigError, DataError
from oppu_core.pipeline import variant_works
from oppu_core.progress import Watch
from oppu_core.runs import Run
from oppu_core.store import Store


def ask(run: Run, user_id: str, text: str, task: str | None, device: str = "auto") -> dict[str, str]:
    """Answers by method name, in the run's order.

    Args:
        run: A run whose adapters are trained.
        user_id: One of its test users.
        text: The query's text; it may see the user's whole history.
        task: Which of the run's tasks; None if it has only one.
        device: Where to compute.

    Raises:
        ConfigError: the task is missing or unknown, or the text is empty.
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
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError("The query is not valid Unicode text.") from error
    dataset = run.dataset(task)
    user = dataset.user(user_id)
    if user.split != "test":
        raise DataError(f"User {user_id!r} is one of the others; only test users have adapters.")
    fields = dict.fromkeys(dataset.task.input_fields, "") | {dataset.task.long_field: text}
    asked = Query("asked", fields, None, len(user.history))
    answers: dict[str, str] = {}
    with contextlib.closing(Store(run.store_path)) as store:
        for work in variant_works(run, store, Watch(Console(quiet=True)), device, 32):
            if work.dataset.task.name == task:
                answers.update(work.ask(user, asked))
    return {name: answers[name] for name in run.config.methods if name in answers}
