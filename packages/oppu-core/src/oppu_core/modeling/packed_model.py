"""A causal language model of ``transformers`` that reads packed rows (:mod:`oppu_core.modeling.packing`).

Three things are changed meanwhile, and restored afterwards: in attention, an example's tokens see the prefix
and their own example only; the last layer's feed-forward and the output head run only where a target is
predicted; soft prompts are put in front. Everything else is the model's own code, so that every family works
whose attention can be replaced; :mod:`oppu_core.modeling.trial` tries it.

Axes: those of :mod:`oppu_core.modeling.packing`; V vocabulary, v virtual tokens of a soft prompt, d hidden
size, e tokens that end an answer.
"""

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch.nn.attention import sdpa_kernel
from transformers import AttentionInterface

from oppu_core.modeling.packed_attention import KERNELS, Reading
from oppu_core.modeling.packing import Packed, TokenizedExample
from oppu_core.modeling.precision import check_finite

_NAME = "oppu_packed"
_LOCK = threading.RLock()  # the model is changed meanwhile: one at a time per process


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """What ``transformers`` calls instead of a model's attention function; it ignores the given mask."""
    assert PackedModel.reading is not None
    return PackedModel.reading.attend(module, query, key, value, **options), None


class PackedModel:
    """A frozen causal language model, used in a ``with`` block; one at a time per process.

    Args:
        model: A model of ``transformers``; its modules may carry adapters.

    Attributes:
        reading: The current pass of whichever model of the process is in its ``with`` block.
    """

    reading: ClassVar[Reading | None] = None

    def __init__(self, model: Any) -> None:
        self._model = model
        self._attention = ""
        self._soft_prompt_Uvd: torch.Tensor | None = None
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> "PackedModel":
        with contextlib.ExitStack() as undo:
            undo.enter_context(_LOCK)
            self._attention = self._model.config._attn_implementation
            self._model.config._attn_implementation = _NAME
            undo.callback(setattr, self._model.config, "_attn_implementation", self._attention)
            undo.enter_context(sdpa_kernel(KERNELS))
            hook = self._model.get_input_embeddings().register_forward_hook(self._put_soft_prompt)
            undo.callback(hook.remove)
            hook = self._model.base_model.register_forward_hook(self._keep_targets)
            undo.callback(hook.remove)
            if (last := _last_feed_forward(self._model)) is not None:
                # Before the hooks of adapters on the same module.
                hook = last.register_forward_pre_hook(self._enter_last, prepend=True)
                undo.callback(hook.remove)
                hook = last.register_forward_hook(self._leave_last)
                undo.callback(hook.remove)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        PackedModel.reading = None
        self._undo.close()

    def logits(self, packed: Packed, soft_prompt_Uvd: torch.Tensor | None = None) -> torch.Tensor:
        """The logits [U, N, V] at the positions from which a target is predicted.

        Args:
            packed: The rows, on the model's device.
            soft_prompt_Uvd: Embeddings that replace each prefix's first tokens.
        """
        return self._read(Reading(packed, self._attention), soft_prompt_Uvd)

    def greedy(
        self,
        packed: Packed,
        max_new_tokens: int,
        stop_ids: Collection[int],
        soft_prompt_Uvd: torch.Tensor | None = None,
        allow: Callable[[torch.Tensor, list[list[list[int]]]], torch.Tensor] | None = None,
    ) -> list[list[list[int]]]:
        """Continue every example greedily.

        Args:
            packed: Prompts, each with one token to be predicted (:func:`prompts`).
            max_new_tokens: The most tokens to write.
            stop_ids: Tokens that end an answer.
            soft_prompt_Uvd: See :meth:`logits`.
            allow: Changes logits [U, B, V], given the tokens written so far; constrains answers to a set.

        Returns:
            The new tokens by user and example, up to and including the first of `stop_ids`.
        """
        users, rows = packed.own_UB.shape
        reading = Reading(packed, self._attention, room=max_new_tokens)
        stop_e = torch.tensor(sorted(stop_ids), device=packed.ids_UT.device)
        done_UB = packed.own_UB == 0
        written: list[list[list[int]]] = [[[] for _ in range(rows)] for _ in range(users)]
        with torch.inference_mode():
            logits_UBV = self._read(reading, soft_prompt_Uvd)
            for step in range(max_new_tokens):
                open_UBV = allow(logits_UBV, written) if allow else logits_UBV
                next_UB = open_UBV.argmax(-1)
                highest_UB = open_UBV.gather(-1, next_UB[..., None]).squeeze(-1)
                check_finite(self._model, highest_UB.masked_fill(done_UB, 0))
                tokens = next_UB.tolist()
                for u, b in (~done_UB).nonzero().tolist():
                    written[u][b].append(tokens[u][b])
                done_UB |= torch.isin(next_UB, stop_e)
                if bool(done_UB.all()) or step + 1 == max_new_tokens:
                    break
                logits_UBV = self._read(dataclasses.replace(reading, step=step, masks={}), None, next_UB)
        return written

    def _read(
        self, reading: Reading, soft_prompt_Uvd: torch.Tensor | None, next_UB: torch.Tensor | None = None
    ) -> torch.Tensor:
        PackedModel.reading, self._soft_prompt_Uvd = reading, soft_prompt_Uvd
        packed = reading.packed
        ids_UT, positions_UT = packed.ids_UT, packed.positions_UT
        if next_UB is not None:
            ids_UT = next_UB
            positions_UT = packed.prefix_U[:, None] + packed.own_UB + (reading.step or 0)
        logits: torch.Tensor = self._model(
            input_ids=ids_UT, position_ids=positions_UT, use_cache=False
        ).logits
        return logits

    def _put_soft_prompt(self, _module: Any, _args: Any, embeddings_UTd: torch.Tensor) -> torch.Tensor:
        if (prompt_Uvd := self._soft_prompt_Uvd) is None:
            return embeddings_UTd
        behind_UTd = embeddings_UTd[:, prompt_Uvd.shape[1] :]
        return torch.cat([prompt_Uvd.to(embeddings_UTd.dtype), behind_UTd], dim=1)

    def _keep_targets(self, _module: Any, _args: Any, output: Any) -> Any:
        reading = PackedModel.reading
        assert reading is not None
        if reading.step is None:
            output.last_hidden_state = self._at_targets(output.last_hidden_state)
        return output

    def _at_targets(self, x_UTd: torch.Tensor) -> torch.Tensor:
        reading = PackedModel.reading
        assert reading is not None
        targets_UN = reading.packed.targets_UN
        # If a user has fewer targets, that user's padding fills in; its label is ignored.
        users, width = reading.packed.ids_UT.shape
        last_U = torch.arange(1, users + 1, device=targets_UN.device) * width - 1
        tokens = targets_UN.minimum(last_U[:, None]).flatten()
        return x_UTd.flatten(0, 1).index_select(0, tokens).view(*targets_UN.shape, -1)

    def _enter_last(self, _module: Any, args: Any) -> Any:
        reading = PackedModel.reading
        assert reading is not None
        return (self._at_targets(args[0]), *args[1:]) if reading.step is None else None

    def _leave_last(self, _module: Any, _args: Any, y_UNd: torch.Tensor) -> torch.Tensor | None:
        reading = PackedModel.reading
        assert reading is not None
        if reading.step is not None:
            return None
        packed = reading.packed
        y_td = y_UNd.new_zeros(packed.ids_UT.numel() + 1, y_UNd.shape[-1])
        y_td = y_td.index_copy(0, packed.targets_UN.flatten(), y_UNd.flatten(0, 1))
        return y_td[:-1].view(*packed.ids_UT.shape, -1)


AttentionInterface.register(_NAME, _attention)


def _last_feed_forward(model: Any) -> Any:
    """The last layer's feed-forward, whose result only targets need; None if it is not found."""
    depth = getattr(model.config, "num_hidden_layers", 0)
    for module in model.base_model.children():
        if isinstance(module, torch.nn.ModuleList) and len(module) == depth:
            return getattr(module[-1], "mlp", None)
    return None


def prompts(rows: Iterable[Sequence[int]]) -> list[TokenizedExample]:
    """Prompts as examples with one target, the next token."""
    return [TokenizedExample((*ids, 0), len(ids)) for ids in rows]
