"""Reading tasks from TOML files: LaMP's seven, three of LongLaMP, and users' own (docs/own-task.md).

LaMP's have the prompts of the paper's Appendix H and the history lines of the authors' code. The paper has
none for LongLaMP (arXiv 2407.11016), whose inputs are put into the same form.
"""

import dataclasses
import functools
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oppu_core.errors import ConfigError, did_you_mean
from oppu_core.tasks.task import PersonalFormat, Task


def task_from(values: Mapping[str, Any], where: str) -> Task:
    """A task from the values of a TOML or JSON file.

    Raises:
        ConfigError: a setting is missing, unknown, wrong or contradictory; the message starts with `where`.
    """
    fields = {field.name: field for field in dataclasses.fields(Task)}
    if unknown := sorted(set(values) - set(fields)):
        hint = did_you_mean(unknown[0], fields) or f" Settings: {', '.join(fields)}."
        raise ConfigError(f"{where}: there is no setting {unknown[0]!r}.{hint}")
    for name, field in fields.items():
        if name not in values and field.default is dataclasses.MISSING:
            raise ConfigError(f"{where}: the setting {name!r} is missing.")
    try:
        return Task(**{name: _setting(name, fields[name].type, value) for name, value in values.items()})
    except (ConfigError, TypeError) as error:
        raise ConfigError(f"{where}: {error}") from error


def _setting(name: str, kind: Any, value: Any) -> Any:
    """A value of a task file, checked and converted for the dataclass; lists become tuples."""
    listed = isinstance(value, list | tuple)
    if kind == tuple[PersonalFormat, ...]:
        shape = "a list of tables, each with prompt and target"
        if listed and all(isinstance(v, dict) and v.keys() == {"prompt", "target"} for v in value):
            return tuple(PersonalFormat(**{k: str(text) for k, text in v.items()}) for v in value)
    elif kind == tuple[str, ...]:
        shape = "a list of texts"
        if listed and all(isinstance(entry, str) for entry in value):
            return tuple(value)
    elif kind is int:
        shape = "a whole number"
        if type(value) is int:
            return value
    else:
        shape = "text"
        if isinstance(value, str) or (value is None and name == "output_field"):
            return value
    raise ConfigError(f"{name} must be {shape}.")


@functools.cache
def _packaged() -> dict[str, Task]:
    files = sorted(Path(__file__).parent.glob("*/*.toml"))
    return {
        file.stem: task_from(tomllib.loads(file.read_text(encoding="utf-8")), file.name) for file in files
    }


TASKS: dict[str, Task] = {
    name: _packaged()[name]
    for name in (
        "lamp_1", "lamp_2n", "lamp_2m", "lamp_3", "lamp_4", "lamp_5", "lamp_7",
        "longlamp_abstract", "longlamp_review", "longlamp_topic",
    )
}  # fmt: skip


def get_task(name: str) -> Task:
    """The packaged task called `name`.

    Raises:
        ConfigError: no such task; the message lists the names.
    """
    if name in TASKS:
        return TASKS[name]
    raise ConfigError(
        f"There is no task {name!r}; known tasks: {', '.join(TASKS)}, or the .toml file of an own one."
        + did_you_mean(name, TASKS)
    )


def load_task(name: str) -> Task:
    """A task by its name, or by the path of its TOML file.

    Raises:
        ConfigError: no such task, or the file does not define one; it may not take a packaged task's name.
    """
    if not name.endswith(".toml"):
        return get_task(name)
    try:
        values = tomllib.loads(Path(name).read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: not TOML: {error}.") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"The task file {name} cannot be read: {error}.") from error
    task = task_from(values, name)
    if task.name in TASKS and task != TASKS[task.name]:
        raise ConfigError(f"{name}: {task.name} is a packaged task; give your own another name.")
    return task
