"""Small users, and a rating task with their fields."""

import dataclasses
import random
from collections.abc import Callable

import pytest
from oppu_core.data.types import HistoryItem, Query, Split, User
from oppu_core.tasks.task import Task
from oppu_core.tasks.task_files import get_task

MakeUser = Callable[..., User]


@pytest.fixture
def tagging() -> Task:
    return get_task("lamp_2m")


@pytest.fixture
def headlines() -> Task:
    return get_task("lamp_4")


@pytest.fixture
def rating(tagging: Task) -> Task:
    return dataclasses.replace(
        tagging,
        name="stars",
        title="Personalized star rating",
        kind="rating",
        labels=tuple("12345"),
    )


@pytest.fixture
def make_user() -> MakeUser:
    """make(user id, golds, history answers): a user of the tagging (or rating) task."""

    def make(
        user_id: str,
        golds: list[str | None],
        history: list[str] | None = None,
        *,
        split: Split = "test",
        oracle: list[str] | None = None,
        fields: tuple[str, str] = ("description", "tag"),
    ) -> User:
        history = ["comedy", "action"] if history is None else history
        return User(
            user_id,
            split,
            tuple(
                HistoryItem(f"{user_id}-h{i}", {fields[0]: f"film {i}", fields[1]: answer})
                for i, answer in enumerate(history)
            ),
            tuple(
                Query(
                    f"{user_id}-q{i}",
                    {fields[0]: f"new film {i} of <b>{user_id}</b>"},
                    gold,
                    len(history),
                    oracle[i] if oracle else None,
                )
                for i, gold in enumerate(golds)
            ),
        )

    return make


@pytest.fixture
def answer_with() -> Callable[..., dict[tuple[str, str], str]]:
    """answer(task, users, accuracy, seed): the gold answer with a chance, else a random label."""

    def answer(task: Task, users: list[User], accuracy: float, seed: int) -> dict[tuple[str, str], str]:
        chance = random.Random(seed)
        return {
            (user.user_id, query.id): (query.gold or "")
            if chance.random() < accuracy
            else chance.choice(task.labels)
            for user in users
            for query in user.queries
        }

    return answer
