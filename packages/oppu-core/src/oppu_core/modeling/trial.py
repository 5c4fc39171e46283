"""Finding by trial how a base can be used: in packed rows, in padded batches, or one prompt at a time.

Families treat masks, positions and caches differently, often undocumented. So when a base is loaded, a few
prompts of random tokens are answered in each way, and the results compared with one prompt at a time.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from oppu_core.errors import ModelError
from oppu_core.modeling.packed_model import PackedModel, prompts
from oppu_core.modeling.packing import TokenizedExample, collate, pack, pad_left
from oppu_core.modeling.precision import check_finite

_NEW = 2  # tokens written after each prompt: one predicted from the prompt, one from the cache
_SHARED, _OWN = 9, (6, 12)  # lengths of the beginning that two prompts share, and of the rest of each
# Names of settings that limit how far attention looks: sliding_window, attention_chunk_size,
# local_attention, index_topk, original_max_position_embeddings … An extra match only makes the trial longer.
_BOUND = re.compile(r"window|chunk|local|block|top_?k|original_max|extent|distance|floor|sparse|compress")

Rows = Sequence[Sequence[int]]
Logits = list[torch.Tensor]  # of each prompt


@dataclasses.dataclass(frozen=True)
class Trial:
    """The result of a trial.

    Attributes:
        packing_problem: Why the model cannot read packed rows; None if it can.
        padding_problem: Why answers would depend on what else is in a padded batch; None if they do not.
        padded_training_problem: Why losses would, in batches padded on the right; None if they do not, or if
            rows can be packed.
        looks_ahead: Whether tokens see later ones; training would then copy answers instead of predicting.
    """

    packing_problem: str | None = None
    padding_problem: str | None = None
    padded_training_problem: str | None = None
    looks_ahead: bool = False


def try_out(model: Any, ids: Sequence[int], pad_id: int, context: int) -> Trial:
    """Try a model in every way.

    Args:
        model: A causal language model of ``transformers``, in evaluation mode.
        ids: The tokens to draw from.
        pad_id: The padding token.
        context: The most tokens that prompt and answer may have together.

    Raises:
        ModelError: its logits are not finite.
        Exception: whatever the model raises if it cannot even answer one prompt at a time.
    """
    draw = torch.Generator().manual_seed(0)

    def some(count: int) -> list[int]:
        return [ids[index] for index in torch.randint(len(ids), (count,), generator=draw).tolist()]

    shared, *own = (some(count) for count in (_SHARED, *_OWN))
    rows = [[*shared, *own[0]], [*shared, *own[1]], own[0]]
    if bound := max(_bounds(model.config.to_dict(), context), default=0):
        rows.append(some(bound + _SHARED))  # shorter ones do not show what happens beyond the limit
    rows = [row[: context - _NEW] for row in rows]
    written = some(_NEW)
    with torch.inference_mode():
        looks_ahead = _looks_ahead(model, shared, own[0][0])
        alone = [_generated(model, [row], written, pad_id)[0] for row in rows]
        for logits_wV in alone:
            check_finite(model, logits_wV.amax(-1))
        packing_problem = _fault(
            model, alone, "with its attention exchanged", lambda: _packed(model, rows, written)
        )
        padding_problem = _fault(
            model, alone, "in padded batches", lambda: _generated(model, rows, written, pad_id)
        )
        padded_training_problem = packing_problem and _fault(
            model,
            [_right_padded(model, [row], pad_id)[0] for row in rows],
            "in batches padded on the right",
            lambda: _right_padded(model, rows, pad_id),
        )
    return Trial(packing_problem, padding_problem, padded_training_problem, looks_ahead)


def _looks_ahead(model: Any, row: Sequence[int], other_end: int) -> bool:
    """Whether changing the last token changes the logits before it."""
    one, other = (
        model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0, :-1].float()
        for ids in (row, [*row[:-1], other_end])
    )
    return not bool((one - other).abs().max() <= (1e-4 if _exact(model) else 0.02) * one.abs().max())


def _exact(model: Any) -> bool:
    return model.dtype == torch.float32 and not getattr(model, "is_quantized", False)


def _bounds(value: Any, context: int, name: str = "") -> Iterator[int]:
    """The numbers in a (nested) configuration that may limit attention, and that a prompt can exceed."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _bounds(inner, context, name if _BOUND.search(name) else str(key))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _bounds(inner, context, name)
    elif type(value) is int and 0 < value < context and _BOUND.search(name):
        yield value


def _fault(model: Any, alone: Logits, how: str, way: Callable[[], Logits]) -> str | None:
    """What is wrong with a way; None if it gives the same logits as one prompt at a time."""
    name = type(model).__name__
    try:
        logits = way()
    except ModelError as error:
        return f"{name} {error}"
    except Exception as error:  # an unknown family may raise anything
        said = " ".join(str(error).split())[:200]
        return f"{name} cannot be asked {how} ({type(error).__name__}: {said})"
    pairs = zip(logits, alone, strict=True)
    off = torch.stack([(ours - one).abs().max() / one.abs().max() for ours, one in pairs]).max()
    if bool(off <= (1e-3 if _exact(model) else 0.1)):
        return None
    return f"{name} gives other answers {how} (off by {float(off):.2g})"


def _generated(model: Any, rows: Rows, written: Sequence[int], pad_id: int) -> Logits:
    """The logits [w, V] by the model's own ``generate`` (see :mod:`oppu_core.modeling.generation`)."""
    ids_BT, mask_BT = pad_left(rows, pad_id)
    width = ids_BT.shape[1]
    output = model.generate(
        input_ids=ids_BT.to(model.device),
        attention_mask=mask_BT.to(model.device),
        max_new_tokens=_NEW,
        pad_token_id=pad_id,
        do_sample=False,
        prefix_allowed_tokens_fn=lambda _, ids: [written[len(ids) - width]],
        return_dict_in_generate=True,
        output_logits=True,
    )
    return list(torch.stack(output.logits, dim=1).float())


def _packed(model: Any, rows: Rows, written: Sequence[int]) -> Logits:
    """The logits [w, V] in packed rows, of which the first holds the first two prompts."""
    seen: list[torch.Tensor] = []

    def allow(logits_UBV: torch.Tensor, _: Any) -> torch.Tensor:
        seen.append(logits_UBV.float())
        forced_UBV = torch.full_like(logits_UBV, float("-inf"))
        forced_UBV[..., written[len(seen) - 1]] = 0
        return forced_UBV

    users = [prompts(rows[:2]), *(prompts([row]) for row in rows[2:])]
    with PackedModel(model) as packed_model:
        packed_model.greedy(pack(users, written[0]).to(model.device), _NEW, [], allow=allow)
        asked = len(packed_model.reading.layers) if packed_model.reading else 0
    layers = getattr(model.config.get_text_config(decoder=True), "num_hidden_layers", asked)
    if not 0 < asked == layers:
        raise ModelError(f"has {layers} layers, of which {asked} take another attention")
    logits_UBwV = torch.stack(seen, dim=2)
    return [logits_UBwV[0, 0], logits_UBwV[0, 1], *logits_UBwV[1:, 0]]


def _right_padded(model: Any, rows: Rows, pad_id: int) -> Logits:
    """The logits [V] behind each row, asked as :mod:`oppu_core.training.loop` does."""
    batch = collate([TokenizedExample(tuple(row), len(row)) for row in rows], pad_id).to(model.device)
    ends = sorted({len(row) - 1 for row in rows})
    logits_BcV = model(
        input_ids=batch.ids_BT,
        attention_mask=batch.mask_BT,
        use_cache=False,
        logits_to_keep=torch.tensor(ends, device=model.device),
    ).logits.float()
    return [logits_BcV[b, ends.index(len(row) - 1)] for b, row in enumerate(rows)]
