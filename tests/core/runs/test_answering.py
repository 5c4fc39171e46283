"""Answers of many users at once are those of one user at a time, and of one prompt at a time."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from answering_toys import GROUPS, METHODS, Folder, Loaded
from oppu_core.modeling.adapters import load_state
from oppu_core.modeling.base import Base, load_base
from oppu_core.modeling.generation import AnswerSet, answer_groups, generate
from oppu_core.runs.answering import AnswerRules, generate_answers
from oppu_core.training.config import Peft
from toy_models import FAMILIES, write_model
from transformers import AutoConfig

CASES: list[tuple[str, Peft]] = [
    *((family, "lora") for family in FAMILIES),
    *((family, "ia3") for family in ("llama", "gemma3_text", "gpt2", "gpt_neox")),
    *((family, "prompt_tuning") for family in ("llama", "gemma2", "gpt2")),
]


LABELS = ["a", "ab", "abc", "b", "b c", "long label", "longer"]


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
