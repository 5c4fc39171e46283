"""Text in, text out: batched generation with whatever adapters the model carries at the moment.

Knows nothing of users or tasks. Prompts are sorted by length and padded on the left; greedy answers do not
depend on which prompts share a batch (up to the rounding of padded arithmetic). A soft prompt stands between
padding and prompt: PEFT's own generation puts it before the padding, at a distance that the batch decides.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import torch

from oppu_core.models import TextCodec
from oppu_core.training.peft_methods import soft_prompt


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Random answers; the defaults are the paper's. One query at a time, each with an own seed."""

    temperature: float = 0.1
    top_k: int = 10
    top_p: float = 0.9
    seed: int = 0


def plan_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices in batches of like length, longest first (so that too little memory shows at once)."""
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def generate(
    model: Any,
    codec: TextCodec,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    batch_size: int = 32,
    sampling: Sampling | None = None,
) -> list[str]:
    """Answers to prompts, in their order.

    Args:
        model: A causal language model, with or without adapters, in evaluation mode.
        codec: Its tokenizer.
        prompts: Texts that leave room for `max_new_tokens` in the context.
        max_new_tokens: Longest answer.
        batch_size: Prompts at a time; 1 when sampling, so that an answer depends on its own seed alone.
        sampling: None is greedy.
    """
    prefix_Vd = soft_prompt(model)
    prefix = 0 if prefix_Vd is None else len(prefix_Vd)
    rows = [[codec.pad_id] * prefix + codec.prompt_ids(prompt) for prompt in prompts]
    answers = [""] * len(rows)
    for batch in plan_batches([len(row) for row in rows], 1 if sampling else batch_size):
        width = max(len(rows[index]) for index in batch)
        ids_BT = torch.full((len(batch), width), codec.pad_id)
        mask_BT = torch.zeros((len(batch), width), dtype=torch.long)
        for b, index in enumerate(batch):
            ids_BT[b, width - len(rows[index]) :] = torch.tensor(rows[index])
            mask_BT[b, width - len(rows[index]) :] = 1
        inputs = {"input_ids": ids_BT.to(model.device)}
        carrier, start = model, width
        if prefix_Vd is not None:
            carrier, start = model.get_base_model(), 0  # asked with embeddings, it returns new tokens alone
            embeddings_BTd = carrier.get_input_embeddings()(ids_BT.to(model.device)).detach().clone()
            for b, index in enumerate(batch):
                first = width - len(rows[index])
                embeddings_BTd[b, first : first + prefix] = prefix_Vd.detach()
            inputs = {"inputs_embeds": embeddings_BTd}
        settings: dict[str, Any] = {"do_sample": False}
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
                max_new_tokens=max_new_tokens,
                eos_token_id=codec.stop_ids,
                pad_token_id=codec.pad_id,
                **settings,
            )
        for b, index in enumerate(batch):
            answers[index] = codec.answer_text(output_BT[b, start:].tolist())
    return answers
