"""Answers for (user, query, method): prompts through a task base, with each user's own adapter.

Work is cut into units whose composition is fixed by the whole list of queries, so that an interrupted run
continues with the same batches and ends with the same answers.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from oppu_core.data.types import User
from oppu_core.modeling.adapters import State, load_state
from oppu_core.modeling.base import Base
from oppu_core.modeling.generation import AnswerSet, Sampling, answer_groups, generate, plan_batches
from oppu_core.prompting.builder import PromptBuilder
from oppu_core.prompting.methods import Method
from oppu_core.runs.predictions import Answer, QueryId


def plan_units(
    lengths: Sequence[int], owners: Sequence[str] | None, batch_size: int
) -> list[list[list[int]]]:
    """What is answered at once: units of groups, each group by one adapter; those with long queries first.

    Args:
        lengths: Of the queries (or their prompts).
        owners: Whose adapter answers each; None where there are no adapters: then a unit is one group.
        batch_size: Queries in a unit, at most. Every group of a unit takes the room of its largest.

    Returns:
        Indices of `lengths`.
    """
    if owners is None:
        return [[unit] for unit in plan_batches(lengths, batch_size)]
    of_owner: dict[str, list[int]] = {}
    for index, owner in enumerate(owners):
        of_owner.setdefault(owner, []).append(index)
    groups = [
        [indices[one] for one in part]
        for indices in of_owner.values()
        for part in plan_batches([lengths[index] for index in indices], batch_size)
    ]
    groups.sort(key=lambda group: (-len(group), -sum(lengths[index] for index in group), group))
    units: list[list[list[int]]] = []
    for group in groups:  # the largest first: what a unit's first group takes is room for each of the others
        if not units or (len(units[-1]) + 1) * len(units[-1][0]) > batch_size:
            units.append([])
        units[-1].append(group)
    return units


def generate_answers(
    base: Base,
    groups: Sequence[Sequence[str]],
    states: Sequence[State] | None,
    *,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    answers: AnswerSet | None = None,
) -> list[list[str]]:
    """The answers to groups of prompts, all at once where the base reads packed rows, and one by one where
    they would depend on what shares a padded batch.

    Args:
        base: A task base; with an adapter attached if there are states.
        groups: Prompts that leave room for `max_new_tokens` in the context.
        states: Each group's adapter; None answers without.
        max_new_tokens: Longest answer.
        sampling: None is greedy.
        answers: The only answers there are; None for any.
    """
    model: Any = base.model
    if base.supports_packing and not sampling:
        return answer_groups(
            model, base.tokenizer, groups, states, max_new_tokens=max_new_tokens, answers=answers
        )
    written = []
    for number, group in enumerate(groups):
        if states is not None:
            load_state(model, states[number])
        written.append(
            generate(
                model,
                base.tokenizer,
                group,
                max_new_tokens=max_new_tokens,
                batch_size=len(group) if base.supports_padding else 1,
                sampling=sampling,
                answers=answers,
            )
        )
    return written


def answer(
    base: Base,
    method: Method,
    users: Sequence[User],
    profiles: Mapping[str, str],
    builder: PromptBuilder,
    *,
    done: Collection[QueryId] = (),
    adapter_of: Callable[[User], State] | None = None,
    batch_size: int = 64,
    sampling: Sampling | None = None,
    constrain: bool = False,
) -> Iterator[list[Answer]]:
    """Answer the users' queries, a unit at a time.

    Args:
        base: The task base of the method's variant; for a personal method with an adapter attached.
        method: How to answer.
        users: Whose queries.
        profiles: Profile texts by user id.
        builder: Makes the prompts.
        done: Queries that need no answer any more; a unit is left out when all of it is done.
        adapter_of: A user's weights; for personal methods.
        batch_size: Prompts at a time.
        sampling: None is greedy.
        constrain: Answer with the task's labels alone, where it has any; greedily.
    """
    task = builder.task
    answers = AnswerSet(base.tokenizer, task.labels) if constrain and task.labels else None
    # Queries, not prompts, are measured: prompts are made unit by unit.
    asked = [(user, query) for user in users for query in user.queries]
    lengths = [len(" ".join(query.fields.values())) for _, query in asked]
    owners = [user.user_id for user, _ in asked] if method.personal else None
    for indices in plan_units(lengths, owners, batch_size):
        unit = [[asked[index] for index in group] for group in indices]
        if all((user.user_id, query.id) in done for group in unit for user, query in group):
            continue
        texts = [
            [builder.query_prompt(method, user, query, profiles.get(user.user_id, "")).text
             for user, query in group]
            for group in unit
        ]  # fmt: skip
        states = None
        if method.personal:
            assert adapter_of is not None
            states = [adapter_of(group[0][0]) for group in unit]
        written = generate_answers(
            base,
            texts,
            states,
            max_new_tokens=builder.answer_tokens,
            sampling=sampling,
            answers=answers,
        )
        yield [
            Answer(user.user_id, query.id, text, query.gold)
            for group, theirs in zip(unit, written, strict=True)
            for (user, query), text in zip(group, theirs, strict=True)
        ]
