"""Deriving histories: with fewer items, or with only one side of every item.

Pure functions from users and tasks to users and tasks; nothing here reads, trains or answers.
"""

import dataclasses
import random
import re
import urllib.parse
from collections.abc import Sequence
from typing import Literal

import numpy as np
from oppu_core.data.types import HistoryItem, User
from oppu_core.errors import ConfigError
from oppu_core.tasks.task import PersonalFormat, Task
from oppu_core.tasks.task_files import TASKS

from oppu_eval.scoring.metrics import Array

Side = Literal["input", "output"]

# A part of a template: marks, words (doubled braces are literal braces), then a field or the template's end.
_PART = re.compile(r"([^\w\s{}]*)((?:[^{}]|\{\{|\}\})*)(?:\{([^{}]+)\}|$)")
_ABOUT_ANSWERS = ("most_frequent_answer", "usual_scores")  # computed profiles that need the output side


def keep(user: User, positions: Sequence[int]) -> User:
    """The user with only some items of the training history, oldest first; every query sees all of them.

    Args:
        user: The user.
        positions: Positions in :attr:`User.training_history`, in any order.

    Raises:
        IndexError: the training history has no such position.
    """
    items, chosen = user.training_history, sorted(set(positions))
    if chosen and not 0 <= chosen[0] <= chosen[-1] < len(items):
        raise IndexError(f"user {user.user_id!r} has {len(items)} training items, no {chosen}")
    queries = tuple(dataclasses.replace(query, history_len=len(chosen)) for query in user.queries)
    return dataclasses.replace(user, history=tuple(items[p] for p in chosen), queries=queries)


def kept_count(length: int, items: int, share: float) -> int:
    """How many items of a history of `length` to keep: `items`, or `share` of a history that has no more.

    At least one, unless the history is empty.
    """
    if length > items:
        return items
    return max(1, round(share * length)) if length else 0


def least_relevant(relevance: Array, count: int) -> list[int]:
    """The positions of the `count` least relevant items, in order; among equals the older ones."""
    return sorted(int(position) for position in np.argsort(relevance, kind="stable")[:count])


def drawn(length: int, count: int, seed: int, user_id: str) -> list[int]:
    """`count` random positions of a history, in order; the draw depends on (seed, user id)."""
    rng = random.Random(f"drawn history/{seed}/{user_id}")
    return sorted(rng.sample(range(length), min(count, length)))


def oldest(length: int, count: int) -> list[int]:
    """The positions of the `count` oldest items of a history."""
    return list(range(min(count, length)))


def per_query(user: User) -> list[User]:
    """One user for each query, with the whole training history and only that query.

    Their ids are unique, also among those made from other users; :func:`owner` is the inverse.
    """
    items = user.training_history
    return [
        dataclasses.replace(
            user,
            user_id=f"{user.user_id}#{urllib.parse.quote(query.id, safe='')}",  # the last '#' separates
            history=items,
            queries=(dataclasses.replace(query, history_len=len(items)),),
        )
        for query in user.queries
    ]


def owner(user_id: str) -> str:
    """The id of the user from whom :func:`per_query` made this one."""
    return user_id.rpartition("#")[0]


def made_of(known: str, user_id: str) -> bool:
    """Whether `known` is the id of a user that :func:`per_query` made from this one."""
    return "#" in known and owner(known) == user_id


def one_sided(task: Task, side: Side) -> Task:
    """The same task with histories of only inputs, or only outputs.

    Such histories do not have the task's format: personal training is next-token prediction on their text
    (OPPU 3.2), and items are rendered in the words of the task's own template. Queries and answers stay.

    Args:
        task: A task whose history has an output field; all other fields are on the input side.
        side: The side to keep.

    Raises:
        ConfigError: the task's history has no output field.
    """
    if task.output_field is None:
        without = " and ".join(name for name, known in TASKS.items() if known.output_field is None)
        raise ConfigError(
            f"Task {task.name}: its history has no output_field, so it has no sides to leave out. The study "
            f"needs a task whose history has an input and an output side ({without} have none)."
        )
    fields = tuple(name for name in task.history_fields if (name == task.output_field) == (side == "output"))
    optional = tuple(name for name in task.optional_fields if name in fields)
    text = next(name for name in (task.text_field, task.long_field, *fields) if name in fields)
    template = _part_of(task.history_template, fields)
    # Items without their optional fields are still read.
    required = _part_of(task.history_template, [name for name in fields if name not in optional])
    profile = "style" if side == "input" and task.profile in _ABOUT_ANSWERS else task.profile
    return dataclasses.replace(
        task,
        output_field=None,
        history_fields=fields,
        optional_fields=optional,
        text_field=text,
        long_history_field=text if task.long_history_field else "",
        history_template=template,
        personal_formats=tuple(map(_as_format, dict.fromkeys((template, required)))),
        profile=profile,
    )


def one_sided_user(task: Task, user: User, side: Side) -> User:
    """The user with one side of every history item, for the task of (and errors as in) :func:`one_sided`."""
    names = one_sided(task, side).history_fields
    items = (
        HistoryItem(item.id, {name: item.fields[name] for name in names}, item.date) for item in user.history
    )
    return dataclasses.replace(user, history=tuple(items))


def _part_of(template: str, fields: Sequence[str]) -> str:
    """The part of a template about some of its fields: each with the words before it and the marks after.

    For the title, ``article: {text} headline: {title}`` becomes ``headline: {title}``.
    """
    kept, before = "", ""
    for marks, words, name in _PART.findall(template):
        if before in fields:
            kept += marks if name else marks + words
        if name in fields:
            kept += f"{words if before else marks + words}{{{name}}}"
        before = name
    return kept.strip() or " ".join(f"{{{name}}}" for name in fields)


def _as_format(template: str) -> PersonalFormat:
    """A template as text to learn, from its first field on; the prompt before it is never empty."""
    marks, words, name = _PART.findall(template)[0]
    lead = marks + words
    return PersonalFormat(lead.strip() or f"{name}:", template[len(lead) :])
