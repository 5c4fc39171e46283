"""Answers for (user, query, method): prompts through a task base, with each user's own adapter.

Work is cut into units whose composition is fixed by the whole list of queries, so that an interrupted run
continues with the same batches and ends with the same answers.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch

from oppu_core.data.types import Query, User
from oppu_core.generate import Sampling, generate, plan_batches
from oppu_core.models import Base
from oppu_core.prompts import Method, PromptMaker
from oppu_core.training.peft_methods import load_state

QueryId = tuple[str, str]  # (user id, query id)


@dataclasses.dataclass(frozen=True)
class Answer:
    """One line of a prediction file."""

    user_id: str
    id: str
    answer: str
    gold: str | None


def answer(
    base: Base,
    method: Method,
    users: Sequence[User],
    profiles: Mapping[str, str],
    maker: PromptMaker,
    *,
    done: Collection[QueryId] = (),
    adapter_of: Callable[[User], Mapping[str, torch.Tensor]] | None = None,
    batch_size: int = 32,
    sampling: Sampling | None = None,
) -> Iterator[list[Answer]]:
    """Answer the users' queries, a unit at a time.

    Args:
        base: The task base of the method's variant; for a personal method with a LoRA attached.
        method: How to answer.
        users: Whose queries.
        profiles: Profile texts by user id.
        maker: Makes the prompts.
        done: Queries that need no answer any more; a unit is left out when all of it is done.
        adapter_of: A user's weights; for personal methods. A unit is then one user.
        batch_size: Prompts at a time.
        sampling: None is greedy.
    """
    asked = [(user, query) for user in users for query in user.queries]
    units: list[list[tuple[User, Query]]]
    if method.personal:
        units = [[(user, query) for query in user.queries] for user in users]
    else:
        # Like lengths share a batch. Queries, not prompts, are measured: prompts are made unit by unit.
        lengths = [len(" ".join(query.fields.values())) for _, query in asked]
        units = [[asked[index] for index in unit] for unit in plan_batches(lengths, batch_size)]
    model: Any = base.model
    for unit in units:
        if all((user.user_id, query.id) in done for user, query in unit):
            continue
        if method.personal:
            assert adapter_of is not None
            load_state(model, adapter_of(unit[0][0]))
        prompts = [
            maker.query_prompt(method, user, query, profiles.get(user.user_id, "")).text
            for user, query in unit
        ]
        texts = generate(
            model,
            base.codec,
            prompts,
            max_new_tokens=maker.task.max_answer_tokens,
            batch_size=batch_size,
            sampling=sampling,
        )
        yield [
            Answer(user.user_id, query.id, text, query.gold)
            for (user, query), text in zip(unit, texts, strict=True)
        ]
