"""Answering users' queries, each user with their own adapter.

This is the only place that decides how a run answers: greedily or by sampling (:func:`answer_rules`), with
which labels, how long, and through which adapter (:func:`load_adapter`). ``oppu answer``, ``oppu ask``, the
page and lm-evaluation-harness all use it.

A batch mixes users if the base allows it (:mod:`oppu_core.modeling.generation`), else they are answered one
after another; answers do not depend on it.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from oppu_core.data.types import User
from oppu_core.errors import StoreError
from oppu_core.modeling.adapters import State, load_state
from oppu_core.modeling.base import Base
from oppu_core.modeling.generation import AnswerSet, Sampling, answer_groups, generate, plan_batches
from oppu_core.modeling.tokenizer import Tokenizer
from oppu_core.prompting.builder import PromptBuilder, answer_tokens
from oppu_core.prompting.methods import Method
from oppu_core.runs.config import RunConfig
from oppu_core.runs.predictions import Answer, QueryId
from oppu_core.runs.variants import Variant
from oppu_core.storage.weights import Weights
from oppu_core.tasks.task import Task


@dataclasses.dataclass(frozen=True)
class AnswerRules:
    """How prompts are answered.

    Attributes:
        max_new_tokens: The most tokens of an answer.
        sampling: None is greedy.
        allowed: The allowed answers; None for any.
    """

    max_new_tokens: int
    sampling: Sampling | None = None
    allowed: AnswerSet | None = None


def answer_rules(config: RunConfig, task: Task, tokenizer: Tokenizer) -> AnswerRules:
    """How a run answers the queries of a task, at most as long as its prompts leave room for."""
    return AnswerRules(
        answer_tokens(task, tokenizer.leaving(config.personal[task.name].prefix)),
        Sampling(seed=config.seed) if config.sample else None,
        AnswerSet(tokenizer, task.labels) if config.constrain and task.labels else None,
    )


def load_adapter(store: Weights, variant: Variant, method: Method, user: User) -> State:
    """The adapter by which a method answers a user's queries.

    Raises:
        StoreError: there is none, because training failed or has not been done.
    """
    key = variant.adapter_key(method, user)
    if (reason := store.failure(key)) is not None:
        whose = f"User {user.user_id!r} has no adapter" if method.personal else "There is no adapter"
        raise StoreError(f"{whose} ({variant.title}, {method.name}); training failed: {reason}.")
    return store.load(key)


def plan_units(
    lengths: Sequence[int], owners: Sequence[str] | None, batch_size: int
) -> list[list[list[int]]]:
    """Plan what is answered at once: units of groups, where one adapter answers a group; long queries first.

    Args:
        lengths: Lengths of the queries (or their prompts).
        owners: Whose adapter answers each query; None without adapters: then a unit is one group.
        batch_size: The most queries of a unit, counting every group of a unit by its largest one.

    Returns:
        Units of groups of indices into `lengths`.
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
    for group in groups:  # largest first, so that a unit's first group determines the size of all its groups
        if not units or (len(units[-1]) + 1) * len(units[-1][0]) > batch_size:
            units.append([])
        units[-1].append(group)
    return units


def generate_answers(
    base: Base, groups: Sequence[Sequence[str]], states: Sequence[State] | None, rules: AnswerRules
) -> list[list[str]]:
    """Answer groups of prompts: all at once if the base reads packed rows, or one by one if answers would
    depend on what else is in a padded batch.

    Args:
        base: A task base; with an adapter attached if `states` are given.
        groups: Prompts that leave room for the longest answer in the context.
        states: Each group's adapter; None answers without adapters.
        rules: How to answer.
    """
    model: Any = base.model
    if base.supports_packing and not rules.sampling:
        return answer_groups(
            model, base.tokenizer, groups, states,
            max_new_tokens=rules.max_new_tokens, answers=rules.allowed,
        )  # fmt: skip
    written = []
    for number, group in enumerate(groups):
        if states is not None:
            load_state(model, states[number])
        written.append(
            generate(
                model,
                base.tokenizer,
                group,
                max_new_tokens=rules.max_new_tokens,
                batch_size=len(group) if base.supports_padding else 1,
                sampling=rules.sampling,
                answers=rules.allowed,
            )
        )
    return written


def answer(
    base: Base,
    method: Method,
    users: Sequence[User],
    builder: PromptBuilder,
    rules: AnswerRules,
    *,
    done: Collection[QueryId] = (),
    adapter_of: Callable[[User], State] | None = None,
    batch_size: int = 64,
) -> Iterator[list[Answer]]:
    """Answer the users' queries, one unit at a time.

    Args:
        base: The task base of the method's variant, with an adapter attached if the method has one.
        method: Decides the prompts, and whether adapters answer.
        users: The users whose queries to answer.
        builder: Makes the prompts.
        rules: How to answer.
        done: Queries that are answered already; a unit is skipped if all of its queries are.
        adapter_of: Loads the adapter that answers a user, for methods with one.
        batch_size: Prompts per batch.
    """
    # By the lengths of queries, not prompts: prompts are made unit by unit.
    asked = [(user, query) for user in users for query in user.queries]
    lengths = [len(" ".join(query.fields.values())) for _, query in asked]
    owners = [user.user_id for user, _ in asked] if method.adapter else None
    for indices in plan_units(lengths, owners, batch_size):
        unit = [[asked[index] for index in group] for group in indices]
        if all((user.user_id, query.id) in done for group in unit for user, query in group):
            continue
        texts = [
            [builder.query_prompt(method, user, query, builder.profile_for(method, user)).text
             for user, query in group]
            for group in unit
        ]  # fmt: skip
        states = None
        if method.adapter:
            assert adapter_of is not None
            states = [adapter_of(group[0][0]) for group in unit]
        written = generate_answers(base, texts, states, rules)
        yield [
            Answer(user.user_id, query.id, text, query.gold)
            for group, theirs in zip(unit, written, strict=True)
            for (user, query), text in zip(group, theirs, strict=True)
        ]
