"""Generating answers: greedy for many prompts at once, and sampled.

Knows nothing of users or tasks; a *group* is a list of prompts that one adapter answers. Answers do not
depend on which prompts share a batch (up to floating-point rounding).
"""

import contextlib
import dataclasses
import hashlib
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from transformers import LogitsProcessorList

from oppu_core.modeling.adapters import State, soft_prompt
from oppu_core.modeling.packed_model import PackedModel, prompts
from oppu_core.modeling.packing import pack, pad_left
from oppu_core.modeling.precision import check_finite
from oppu_core.modeling.stacked_adapters import StackedAdapters, stack_states
from oppu_core.modeling.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Settings of sampled answers; the defaults are the paper's. Each query has a seed of its own."""

    temperature: float = 0.1
    top_k: int = 10
    top_p: float = 0.9
    seed: int = 0


class AnswerSet:
    """A set of answers as token sequences, to constrain greedy answers to it.

    Args:
        tokenizer: The tokenizer.
        answers: The texts.
    """

    def __init__(self, tokenizer: Tokenizer, answers: Sequence[str]) -> None:
        self._ends = tokenizer.eos_id
        rows = [tokenizer.answer_ids(text) for text in answers]
        self.longest = max(map(len, rows))
        self._next: dict[tuple[int, ...], list[int]] = {}
        for row in rows:
            for length, token in enumerate(row):
                after = self._next.setdefault(tuple(row[:length]), [])
                if token not in after:
                    after.append(token)

    def after(self, written: Sequence[int]) -> list[int]:
        """The tokens that may come next; after a whole answer, the end of text."""
        return self._next.get(tuple(written), [self._ends])

    def allow(self, logits_UBV: torch.Tensor, written: Sequence[Sequence[Sequence[int]]]) -> torch.Tensor:
        """The logits [U, B, V], with -inf for tokens that continue no answer of the set."""
        kept_UBV = torch.full_like(logits_UBV, float("-inf"))
        for u, b in itertools.product(range(logits_UBV.shape[0]), range(logits_UBV.shape[1])):
            tokens = self.after(written[u][b])
            kept_UBV[u, b, tokens] = logits_UBV[u, b, tokens]
        return kept_UBV


def plan_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices in batches of similar length, longest first (so that lack of memory shows at once)."""
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def answer_groups(
    model: Any,
    tokenizer: Tokenizer,
    groups: Sequence[Sequence[str]],
    states: Sequence[State] | None,
    *,
    max_new_tokens: int,
    answers: AnswerSet | None = None,
) -> list[list[str]]:
    """Greedy answers to groups of prompts, all at once in packed rows.

    Tokens that all prompts of a group begin with are read once. Equal to :func:`generate` for each group.

    Args:
        model: A causal language model that reads packed rows; with an adapter attached if `states` are given.
        tokenizer: Its tokenizer.
        groups: Prompts that leave room for `max_new_tokens` in the context.
        states: Each group's adapter; None answers without adapters.
        max_new_tokens: The most tokens of an answer.
        answers: The allowed answers; None for any.

    Returns:
        The answers of each group, in the order of its prompts.
    """
    rows = [prompts([tokenizer.prompt_ids(text) for text in group]) for group in groups]
    stacked = StackedAdapters(model) if states is not None else None
    plain = model.get_base_model() if stacked else model
    if stacked and states:
        stacked.weights = stack_states(states, plain.device)
    prompt_Uvd = stacked.soft_prompt if stacked else None
    packed = pack(rows, tokenizer.pad_id, virtual=0 if prompt_Uvd is None else prompt_Uvd.shape[1])
    with contextlib.ExitStack() as stack:
        packed_model = stack.enter_context(PackedModel(plain))
        if stacked:
            stack.enter_context(stacked.active())
        written = packed_model.greedy(
            packed.to(plain.device),
            max(max_new_tokens, answers.longest) if answers else max_new_tokens,
            tokenizer.stop_ids,
            prompt_Uvd,
            answers.allow if answers else None,
        )
    return [
        [tokenizer.answer_text(ids) for ids in theirs[: len(group)]]
        for theirs, group in zip(written, groups, strict=True)
    ]


class _Finite:
    """A logits processor of transformers: lets logits pass, and refuses those that are not finite."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """See :func:`~oppu_core.modeling.precision.check_finite`."""
        check_finite(self._model, scores.amax(-1))
        return scores


def generate(
    model: Any,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    batch_size: int = 32,
    sampling: Sampling | None = None,
    answers: AnswerSet | None = None,
) -> list[str]:
    """Answers to prompts, in their order, by the model's own ``generate`` over padded batches.

    Prompts are sorted by length and padded on the left. A soft prompt goes between padding and prompt: PEFT's
    own generation puts it before the padding, at a distance that depends on the batch.

    Args:
        model: A causal language model, with or without adapters, in evaluation mode.
        tokenizer: Its tokenizer.
        prompts: Texts that leave room for `max_new_tokens` in the context.
        max_new_tokens: The most tokens of an answer.
        batch_size: Prompts per batch, if the model's answers do not depend on it; 1 when sampling, so that an
            answer depends only on its own seed.
        sampling: None is greedy.
        answers: The allowed answers, when greedy; None for any.
    """
    prefix_vd = soft_prompt(model)
    prefix = 0 if prefix_vd is None else len(prefix_vd)
    rows = [[tokenizer.pad_id] * prefix + tokenizer.prompt_ids(prompt) for prompt in prompts]
    texts = [""] * len(rows)
    for batch in plan_batches([len(row) for row in rows], 1 if sampling else batch_size):
        ids_BT, mask_BT = pad_left([rows[index] for index in batch], tokenizer.pad_id)
        width = ids_BT.shape[1]
        inputs = {"input_ids": ids_BT.to(model.device)}
        carrier, start = model, width
        if prefix_vd is not None:
            carrier, start = model.get_base_model(), 0  # given embeddings, it returns only new tokens
            embeddings_BTd = carrier.get_input_embeddings()(ids_BT.to(model.device)).detach().clone()
            for b, index in enumerate(batch):
                first = width - len(rows[index])
                embeddings_BTd[b, first : first + prefix] = prefix_vd.detach()
            inputs = {"inputs_embeds": embeddings_BTd}
        settings: dict[str, Any] = {"do_sample": False}
        if answers:
            settings["prefix_allowed_tokens_fn"] = lambda _, ids, start=start: answers.after(
                ids[start:].tolist()
            )
        if sampling:
            key = f"{sampling.seed}/{prompts[batch[0]]}".encode()
            torch.manual_seed(int.from_bytes(hashlib.sha256(key).digest()[:8], "big"))
            settings = {
                "do_sample": True,
                "temperature": sampling.temperature,
                "top_k": sampling.top_k,
                "top_p": sampling.top_p,
            }
        with torch.inference_mode():
            output_BT = carrier.generate(
                **inputs,
                attention_mask=mask_BT.to(model.device),
                max_new_tokens=max(max_new_tokens, answers.longest) if answers else max_new_tokens,
                eos_token_id=tokenizer.stop_ids,
                pad_token_id=tokenizer.pad_id,
                logits_processor=LogitsProcessorList([_Finite(model)]),
                **settings,
            )
        for b, index in enumerate(batch):
            texts[index] = tokenizer.answer_text(output_BT[b, start:].tolist())
    return texts
