"""Methods of users: an answer does not depend on what is answered together."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from answering_toys import METHODS, Personal, with_adapters
from oppu_core.data.sample import sample_users
from oppu_core.data.types import User
from oppu_core.modeling.base import load_base
from oppu_core.modeling.generation import AnswerSet, Sampling
from oppu_core.prompting.builder import PromptBuilder
from oppu_core.prompting.methods import parse_method
from oppu_core.prompting.retrieval import BM25Retriever
from oppu_core.runs.answering import AnswerRules, answer
from oppu_core.runs.predictions import Answer, QueryId
from oppu_core.tasks.task_files import get_task
from oppu_core.training.config import Peft


@dataclasses.dataclass(frozen=True)
class Asked:
    """A task base that answers users who have adapters."""

    ours: Personal
    users: Sequence[User]
    builder: PromptBuilder

    def units(self, name: str, *, supports_packing: bool = True, **options: Any) -> list[list[Answer]]:
        base = dataclasses.replace(self.ours.base, supports_packing=supports_packing)
        if (method := parse_method(name)).personal:
            base = dataclasses.replace(base, model=self.ours.model)
        state = {user.user_id: state for user, state in zip(self.users, self.ours.states, strict=True)}
        adapter_of = (lambda user: state[user.user_id]) if method.personal else None
        users = options.pop("users", self.users)
        task = self.builder.task
        allowed = options.pop("constrain", False) and task.labels
        rules = AnswerRules(
            self.builder.answer_tokens,
            options.pop("sampling", None),
            AnswerSet(base.tokenizer, task.labels) if allowed else None,
        )
        return list(answer(base, method, users, self.builder, rules, adapter_of=adapter_of, **options))

    def texts(self, name: str, **options: Any) -> dict[QueryId, str]:
        units = self.units(name, **options)
        flat = [one for unit in units for one in unit]
        assert len({(one.user_id, one.id) for one in flat}) == len(flat)
        return {(one.user_id, one.id): one.answer for one in flat}


@pytest.fixture(scope="module")
def tiny() -> Callable[[str, Peft], Asked]:
    @functools.cache
    def make(task_name: str, method: Peft) -> Asked:
        task = get_task(task_name)
        drawn = list(sample_users(task, test_users=4, other_users=0, history=(4, 6), queries=5, seed=0))
        users = [
            dataclasses.replace(user, queries=user.queries[: 5 - number])
            for number, user in enumerate(user for user in drawn if user.split == "test")
        ]
        base = load_base("tiny", device="cpu")
        ours = with_adapters(base, method, len(users), {"lora": 0.3, "ia3": 1.0}.get(method, 3.0))
        tokenizer = base.tokenizer.leaving(7) if method == "prompt_tuning" else base.tokenizer
        return Asked(ours, users, PromptBuilder(task, tokenizer, {"bm25": BM25Retriever(task)}))

    return make


@pytest.mark.parametrize("method", METHODS)
def test_answers_do_not_depend_on_what_is_answered_together(
    method: Peft, tiny: Callable[[str, Peft], Asked]
) -> None:
    asked = tiny("lamp_2m", method)
    name = "oppu_rag_k1" if method == "lora" else "oppu_k0"
    alone = asked.texts(name, supports_packing=False, batch_size=1)
    assert set(alone) == {(user.user_id, query.id) for user in asked.users for query in user.queries}
    for size in (1, 2, 5, 64) if method == "lora" else (3,):
        assert asked.texts(name, batch_size=size) == alone
    assert asked.texts(name, batch_size=64, supports_packing=False) == alone
    assert asked.texts(name, users=asked.users[::-1]) == alone
    assert len(set(alone.values())) > 1
    one = asked.users[1]
    assert asked.texts(name, users=[one]).items() <= alone.items()


@pytest.mark.parametrize("name", ["non_personalized", "rag_k1"])
def test_answers_without_adapters_do_not_depend_on_it_either(
    name: str, tiny: Callable[[str, Peft], Asked]
) -> None:
    # An adapter that nobody trained changes nothing.
    plain = dataclasses.replace(tiny("lamp_2m", "lora").ours, base=load_base("tiny", device="cpu"))
    asked = dataclasses.replace(tiny("lamp_2m", "lora"), ours=plain)
    alone = asked.texts(name, supports_packing=False, batch_size=1)
    for size in (3, 64):
        assert asked.texts(name, batch_size=size) == alone
    assert asked.texts(name, batch_size=64, supports_packing=False) == alone
    assert len(set(alone.values())) > 1


def test_a_unit_is_left_out_when_all_of_it_is_done(tiny: Callable[[str, Peft], Asked]) -> None:
    """What is left is answered in the company in which it would have been."""
    asked = tiny("lamp_2m", "lora")
    whole = asked.units("oppu_k0", batch_size=5)
    assert len(whole) > 2
    ids = [[(one.user_id, one.id) for one in unit] for unit in whole]
    assert asked.units("oppu_k0", batch_size=5, done=set(ids[0])) == whole[1:]
    assert asked.units("oppu_k0", batch_size=5, done={*ids[0], *ids[1][1:]}) == whole[1:]
    assert asked.units("oppu_k0", batch_size=5, done={one for unit in ids for one in unit}) == []


@pytest.mark.parametrize("method", METHODS)
def test_labels_alone_where_the_task_has_them(method: Peft, tiny: Callable[[str, Peft], Asked]) -> None:
    movies = tiny("lamp_2m", method)
    for name in ("oppu_k0", "non_personalized") if method == "lora" else ("oppu_k0",):
        found = movies.texts(name, constrain=True)
        assert set(found.values()) <= set(movies.builder.task.labels)
        assert movies.texts(name, constrain=True, supports_packing=False) == found
        assert movies.texts(name, constrain=True, batch_size=2) == found
        free = movies.texts(name)
        # What is a label anyway stays.
        assert all(found[key] == text for key, text in free.items() if text in movies.builder.task.labels)
    # Random LoRAs and scales say what is no label, where nobody keeps them from it.
    labels = set(movies.builder.task.labels)
    assert method == "prompt_tuning" or not set(movies.texts("oppu_k0").values()) <= labels


def test_a_task_without_labels_answers_freely(tiny: Callable[[str, Peft], Asked]) -> None:
    headlines = tiny("lamp_4", "lora")
    assert headlines.texts("oppu_k0", constrain=True) == headlines.texts("oppu_k0")


@pytest.mark.parametrize("name", ["oppu_k0", "non_personalized"])
def test_sampled_answers_are_drawn_one_at_a_time(
    name: str, tiny: Callable[[str, Peft], Asked], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = tiny("lamp_2m", "lora")
    sampling = Sampling(temperature=3.0, top_k=50, top_p=1.0, seed=3)
    alone = asked.texts(name, sampling=sampling, batch_size=1)
    seen: list[int] = []
    kind = type(asked.ours.base.model)
    original = kind.generate

    def watched(self: Any, *args: Any, **options: Any) -> Any:
        seen.append(len(options["input_ids"]))
        return original(self, *args, **options)

    monkeypatch.setattr(kind, "generate", watched)
    assert asked.texts(name, sampling=sampling, batch_size=64) == alone
    assert seen == [1] * len(alone)
    assert asked.texts(name, sampling=sampling, users=asked.users[::-1], supports_packing=False) == alone
    assert asked.texts(name, sampling=dataclasses.replace(sampling, seed=4)) != alone
    assert asked.texts(name) != alone
