"""Answers of many users at once are those of one user at a time, and of one prompt at a time."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from oppu_core.data.sample import sample_users
from oppu_core.data.types import Query, User
from oppu_core.modeling.adapters import State, attach, load_state
from oppu_core.modeling.base import Base, load_base
from oppu_core.modeling.generation import AnswerSet, Sampling, answer_groups, generate
from oppu_core.modeling.skeleton import projection_names
from oppu_core.prompting.builder import PromptBuilder
from oppu_core.prompting.methods import parse_method
from oppu_core.prompting.retrieval import BM25Retriever
from oppu_core.runs.answering import AnswerRules, answer, generate_answers, plan_units
from oppu_core.runs.predictions import Answer, QueryId
from oppu_core.tasks.task_files import get_task
from oppu_core.training.config import Peft, personal_config
from packed_toys import filled
from toy_models import FAMILIES, write_model
from transformers import AutoConfig

Folder = Callable[[str], Path]
METHODS: tuple[Peft, ...] = get_args(Peft)

# --- what is answered at once ----------------------------------------------------------------------------


def asking(name: str, *lengths: int) -> User:
    """A user with queries of these lengths."""
    queries = [
        Query(f"{name}{number}", {"text": "x" * length}, None, 0) for number, length in enumerate(lengths)
    ]
    return User(name, "test", (), tuple(queries))


USERS = [
    asking("a", 5, 90, 3),
    asking("b", 7),
    asking("c", *range(1, 12)),
    asking("d"),
    asking("e", 40, 40, 40),
    asking("f", 2, 2),
    asking("g", 8),
]
IDS = sorted((user.user_id, query.id) for user in USERS for query in user.queries)


def planned(users: Sequence[User], personal: bool, batch_size: int) -> list[list[list[tuple[User, Query]]]]:
    """What `answer` asks at once."""
    asked = [(user, query) for user in users for query in user.queries]
    lengths = [len(query.fields["text"]) for _, query in asked]
    owners = [user.user_id for user, _ in asked] if personal else None
    units = plan_units(lengths, owners, batch_size)
    return [[[asked[index] for index in group] for group in unit] for unit in units]


@pytest.mark.parametrize("personal", [True, False])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 5, 7, 11, 64])
def test_every_query_is_asked_once_and_no_unit_is_too_large(personal: bool, batch_size: int) -> None:
    units = planned(USERS, personal, batch_size)
    asked = [(user.user_id, query.id) for unit in units for group in unit for user, query in group]
    assert sorted(asked) == IDS
    for unit in units:
        assert all(unit) and len(unit) * max(len(group) for group in unit) <= batch_size
        if personal:
            assert all(len({user.user_id for user, _ in group}) == 1 for group in unit)
        else:
            assert len(unit) == 1
    assert planned(USERS, personal, batch_size) == units


def test_users_are_mixed_and_units_are_full() -> None:
    sizes = [[len(group) for group in unit] for unit in planned(USERS, True, 6)]
    assert sizes == [[6], [5], [3, 3], [2, 1, 1]], "the eleven of one user in two parts"
    assert [len(unit[0]) for unit in planned(USERS, False, 6)] == [6, 6, 6, 3]
    assert len(planned(USERS, True, 1)) == len(IDS)


@pytest.mark.parametrize("personal", [True, False])
def test_long_queries_come_first_and_next_to_each_other(personal: bool) -> None:
    users = [asking("a", 1, 50), asking("b", 9, 100), asking("c", 8, 2)]
    first = planned(users, personal, 2)[0][0]
    assert [query.id for _, query in first] == (["b1", "b0"] if personal else ["b1", "a1"])


def test_nobody_asks_nothing() -> None:
    assert planned([], True, 4) == planned([asking("a")], False, 4) == []


# --- groups of prompts, each with its own adapter --------------------------------------------------------

GROUPS = [
    ["a ship is lost tag:", "a ship is found, after a long winter, tag:", "a goat:"],
    ["z"],
    ["two lovers tag:"] * 2,  # twice the same
    ["note: né 🎬 {x}\nsecond line:", "note: né", "note: né 🎬 {x}\nsecond line: and", "q"],
]
CASES: list[tuple[str, Peft]] = [
    *((family, "lora") for family in FAMILIES),
    *((family, "ia3") for family in ("llama", "gemma3_text", "gpt2", "gpt_neox")),
    *((family, "prompt_tuning") for family in ("llama", "gemma2", "gpt2")),
]
LABELS = ["a", "ab", "abc", "b", "b c", "long label", "longer"]


@dataclasses.dataclass(frozen=True)
class Personal:
    """A base with an adapter attached, and weights of several users."""

    base: Base
    model: Any
    states: Sequence[State]

    def one_group_at_a_time(self, groups: Sequence[Sequence[str]], **options: Any) -> list[list[str]]:
        answers = []
        for state, group in zip(self.states, groups, strict=True):
            load_state(self.model, state)
            answers.append(generate(self.model, self.base.tokenizer, group, **options))
        return answers

    def at_once(self, groups: Sequence[Sequence[str]], **options: Any) -> list[list[str]]:
        return answer_groups(self.model, self.base.tokenizer, groups, self.states, **options)


Loaded = Callable[[str, Peft], Personal]


def with_adapters(base: Base, method: Peft, users: int, scale: float) -> Personal:
    config = personal_config("lamp_2m", "tiny", 5, projection_names(base.model), method)
    model = attach(base.model, dataclasses.replace(config, virtual_tokens=7))
    return Personal(base, model, [filled(model, seed, scale) for seed in range(users)])


@pytest.fixture(scope="module")
def personal(family_folder: Folder) -> Loaded:
    @functools.cache
    def load(family: str, method: Peft) -> Personal:
        scale = 3.0 if method == "prompt_tuning" else 0.3
        return with_adapters(load_base(str(family_folder(family)), device="cpu"), method, len(GROUPS), scale)

    return load


@pytest.mark.parametrize(("family", "method"), CASES)
def test_users_at_once_get_the_answers_of_one_prompt_at_a_time(
    family: str, method: Peft, personal: Loaded
) -> None:
    ours = personal(family, method)
    alone = ours.one_group_at_a_time(GROUPS, max_new_tokens=8, batch_size=1)
    assert ours.at_once(GROUPS, max_new_tokens=8) == alone
    assert ours.one_group_at_a_time(GROUPS, max_new_tokens=8) == alone
    # The adapters matter: the same prompts to another user get other answers.
    swapped = dataclasses.replace(ours, states=ours.states[::-1]).at_once(GROUPS, max_new_tokens=8)
    assert swapped != alone and len({text for group in alone for text in group}) > 3


@pytest.mark.parametrize("family", FAMILIES)
def test_without_adapters_it_is_the_plain_model(family: str, family_folder: Folder) -> None:
    base = load_base(str(family_folder(family)), device="cpu")
    prompts = [prompt for group in GROUPS for prompt in group]
    (found,) = answer_groups(base.model, base.tokenizer, [prompts], None, max_new_tokens=8)
    assert found == generate(base.model, base.tokenizer, prompts, max_new_tokens=8, batch_size=1)
    assert len(set(found)) > 3


# --- bases whose padded batches give other answers --------------------------------------------------------


@pytest.mark.slow
def test_a_base_that_padding_changes_is_asked_one_prompt_at_a_time(tmp_path: Path) -> None:
    config = AutoConfig.for_model("rwkv", hidden_size=32, num_hidden_layers=2, context_length=256)
    base = load_base(str(write_model(tmp_path / "rwkv", config)), device="cpu")
    for name, weight in base.model.named_parameters():
        if name.endswith("weight") and weight.dim() == 2:  # large, so that the words before matter
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) * 0.3)
    assert (base.supports_packing, base.supports_padding) == (False, False)
    alone = [
        [generate_answers(base, [[prompt]], None, AnswerRules(8))[0][0] for prompt in group]
        for group in GROUPS
    ]
    assert generate_answers(base, GROUPS, None, AnswerRules(8)) == alone
    assert len({text for group in alone for text in group}) > 3
    padded = dataclasses.replace(base, supports_padding=True)
    assert generate_answers(padded, GROUPS, None, AnswerRules(8)) != alone, "it matters"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("constrain", [True, False])
def test_one_at_a_time_means_batches_of_one(
    method: Peft, constrain: bool, personal: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = personal("llama", method)
    answers = AnswerSet(ours.base.tokenizer, LABELS) if constrain else None
    base = dataclasses.replace(ours.base, model=ours.model)
    rules = AnswerRules(8, allowed=answers)
    packed = generate_answers(base, GROUPS, ours.states, rules)
    sizes: list[int] = []
    kind = type(ours.base.model)
    original = kind.generate

    def watched(self: Any, **given: Any) -> Any:
        sizes.append(len(given["attention_mask"]))
        return original(self, **given)

    monkeypatch.setattr(kind, "generate", watched)
    alone = dataclasses.replace(base, supports_packing=False, supports_padding=False)
    assert generate_answers(alone, GROUPS, ours.states, rules) == packed
    assert sizes == [1] * sum(map(len, GROUPS))


# --- answers that are kept to a set ----------------------------------------------------------------------


def test_the_tokens_that_may_come_next(family_folder: Folder) -> None:
    tokenizer = load_base(str(family_folder("llama")), device="cpu").tokenizer
    allowed = AnswerSet(tokenizer, LABELS)
    rows = [tokenizer.answer_ids(label) for label in LABELS]
    assert allowed.longest == max(map(len, rows))
    for row in rows:
        for length in range(len(row)):
            expected = {other[length] for other in rows if other[:length] == row[:length]}
            found = allowed.after(row[:length])
            assert set(found) == expected and len(found) == len(expected)
        assert allowed.after(row) == [tokenizer.eos_id], "behind a whole answer comes nothing else"
    assert allowed.after([5, 5, 5]) == [tokenizer.eos_id]
    assert {tokenizer.eos_id, tokenizer.answer_ids("ab")[2]} <= set(
        allowed.after(tokenizer.answer_ids("a")[:-1])
    )


def forced(model: Any, base: Base, prompt: str) -> str:
    """The obvious loop: of the labels that go on from what was written, the likeliest next token."""
    rows = [base.tokenizer.answer_ids(label) for label in LABELS]
    written: list[int] = []
    while written not in rows:
        with torch.no_grad():
            ids = torch.tensor([base.tokenizer.prompt_ids(prompt) + written])
            logits_V = model(input_ids=ids).logits[0, -1]
        next_ = {row[len(written)] for row in rows if row[: len(written)] == written}
        written.append(max(next_, key=lambda token: float(logits_V[token])))
    return LABELS[rows.index(written)]


def by_transformers(model: Any, base: Base, prompt: str) -> str:
    """The same by ``generate`` itself."""
    rows = [base.tokenizer.answer_ids(label) for label in LABELS]
    ids = torch.tensor([base.tokenizer.prompt_ids(prompt)])

    def allowed(_: int, so_far: torch.Tensor) -> list[int]:
        written = so_far[ids.shape[1] :].tolist()
        return [row[len(written)] for row in rows if row[: len(written)] == written and row != written]

    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=20,
        do_sample=False,
        eos_token_id=base.tokenizer.eos_id,
        pad_token_id=base.tokenizer.pad_id,
        prefix_allowed_tokens_fn=allowed,
    )
    return base.tokenizer.answer_text(output[0, ids.shape[1] :].tolist())


@pytest.mark.parametrize(("family", "method"), [("llama", "lora"), ("gemma2", "ia3"), ("gpt2", "lora")])
def test_constrained_answers_are_the_likeliest_way_through_the_labels(
    family: str, method: Peft, personal: Loaded
) -> None:
    ours = personal(family, method)
    groups = [[*group, *(f"{seed} {text}?" for text in group)] for seed, group in enumerate(GROUPS)]
    answers = AnswerSet(ours.base.tokenizer, LABELS)
    twins: list[list[str]] = []
    for state, group in zip(ours.states, groups, strict=True):
        load_state(ours.model, state)
        twins.append([forced(ours.model, ours.base, prompt) for prompt in group])
        assert [by_transformers(ours.model, ours.base, prompt) for prompt in group] == twins[-1]
    # Two tokens would not be enough for any label.
    assert ours.at_once(groups, max_new_tokens=2, answers=answers) == twins
    for size in (1, 3, 32):
        found = ours.one_group_at_a_time(groups, max_new_tokens=2, batch_size=size, answers=answers)
        assert found == twins
    assert len({text for group in twins for text in group}) > 2
    free = ours.at_once(groups, max_new_tokens=8)
    assert not {text for group in free for text in group} <= set(LABELS)


def test_constrained_answers_behind_a_soft_prompt(personal: Loaded) -> None:
    ours = personal("llama", "prompt_tuning")
    answers = AnswerSet(ours.base.tokenizer, LABELS)
    found = ours.at_once(GROUPS, max_new_tokens=2, answers=answers)
    assert {text for group in found for text in group} <= set(LABELS)
    for size in (1, 32):
        assert ours.one_group_at_a_time(GROUPS, max_new_tokens=2, batch_size=size, answers=answers) == found


def test_of_two_labels_the_longer_one_is_chosen_where_it_is_likelier(
    family_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the model would rather end. Where it would rather go on, what is no label is not said."""
    base = load_base(str(family_folder("llama")), device="cpu")
    spelled = {name: base.tokenizer.answer_ids(name)[1] for name in "abcx"}
    answers = AnswerSet(base.tokenizer, ["a", "ab"])
    original = type(base.model).forward
    for likely, expected in (("b", "ab"), ("x", "a"), ("c", "a")):

        def forward(self: Any, *args: Any, likely: str = likely, **options: Any) -> Any:
            output = original(self, *args, **options)
            output.logits = torch.zeros_like(output.logits)
            output.logits[..., spelled[likely]] = 2
            output.logits[..., base.tokenizer.eos_id] = 1
            return output

        with monkeypatch.context() as patch:
            patch.setattr(type(base.model), "forward", forward)
            options: dict[str, Any] = {"max_new_tokens": 1, "answers": answers}
            assert answer_groups(base.model, base.tokenizer, [["q", "qq"]], None, **options) == [
                [expected] * 2
            ]
            assert generate(base.model, base.tokenizer, ["q", "qq"], **options) == [expected] * 2


# --- methods of users ------------------------------------------------------------------------------------


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
