"""Attention over packed rows (:mod:`oppu_core.modeling.packing`), by a model's own function for padded ones.

An example's tokens look at the prefix and at themselves alone; tokens go to slots and come back.

Axes: see :mod:`oppu_core.modeling.packing`; H heads, D the size of a head, d hidden.
"""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention import SDPBackend
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from oppu_core.modeling.packing import Packed

# Not cuDNN's, which torch prefers on new GPUs: it makes a plan for every new shape, and every step has one
# (benchmarks/gpu.py measures both).
KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class _ToSlots(torch.autograd.Function):
    """Tokens [T, d] to the slots of prefixes and of examples; the other way round is :class:`_FromSlots`.

    A token that counts has one slot, so that both directions and both gradients are gathers, where indexing
    would scatter. Padding points at rows that have no gradient (:class:`oppu_core.modeling.packing.Packed`).
    """

    @staticmethod
    def forward(
        ctx: Any, x_Td: torch.Tensor, there_S: torch.Tensor, back_T: torch.Tensor, cut: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(back_T)
        return _gather(x_Td, there_S, cut)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (back_T,) = ctx.saved_tensors
        return _scatter(grads[0], grads[1], back_T), None, None, None


class _FromSlots(torch.autograd.Function):
    """The slots of prefixes and of examples to tokens [T, d]."""

    @staticmethod
    def forward(
        ctx: Any, prefix: torch.Tensor, own: torch.Tensor, there_S: torch.Tensor, back_T: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(there_S)
        ctx.cut = len(prefix)
        return _scatter(prefix, own, back_T)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        (there_S,) = ctx.saved_tensors
        return *_gather(grads[0], there_S, ctx.cut), None, None


def _gather(x_Td: torch.Tensor, there_S: torch.Tensor, cut: int) -> tuple[torch.Tensor, torch.Tensor]:
    return x_Td.index_select(0, there_S[:cut]), x_Td.index_select(0, there_S[cut:-1])


def _scatter(prefix: torch.Tensor, own: torch.Tensor, back_T: torch.Tensor) -> torch.Tensor:
    # Behind them the slot that belongs to nobody, where padding comes from.
    return torch.cat([prefix, own, own.new_zeros(1, own.shape[1])]).index_select(0, back_T)


@dataclasses.dataclass
class Reading:
    """What is being read: the rows, and in answering what was read before.

    Attributes:
        packed: The rows.
        attention: The name of the model's own attention function.
        room: Tokens to be written behind each example; 0 in training.
        step: How many of them have been; None while the rows themselves are read.
        layers: The attention modules that have asked.
        cache: Keys and values [U * B, H, P + Q + room, D] by attention module.
    """

    packed: Packed
    attention: str
    room: int = 0
    step: int | None = None
    layers: set[Any] = dataclasses.field(default_factory=set)
    cache: dict[Any, tuple[torch.Tensor, torch.Tensor]] = dataclasses.field(default_factory=dict)
    masks: dict[Any, torch.Tensor] = dataclasses.field(default_factory=dict)

    def mask(self, part: str, window: int | None, like: torch.Tensor) -> torch.Tensor:
        """What to add to attention's scores: 0 where a query may look, else -inf.

        Args:
            part: ``prefix`` [1, 1, P, P], ``own`` [U * B, 1, Q, K] or ``next`` [U * B, 1, 1, K + room].
            window: How far back a query of this layer looks, itself included; None without bound.
            like: Gives type and device.
        """
        key = (part, window, self.step)
        if key not in self.masks:
            allowed = self._allowed(part, window)
            zero = torch.zeros(allowed.shape, dtype=like.dtype, device=like.device)
            self.masks[key] = zero.masked_fill_(~allowed, float("-inf"))
        return self.masks[key]

    def _allowed(self, part: str, window: int | None) -> torch.Tensor:
        packed = self.packed
        device = packed.ids_UT.device
        users, rows = packed.own_UB.shape
        far = window or sys.maxsize // 2
        p_P = torch.arange(packed.prefix, device=device)
        q_Q = torch.arange(packed.own, device=device)
        if part == "prefix":
            distance_PP = p_P[:, None] - p_P
            return ((distance_PP >= 0) & (distance_PP < far))[None, None]
        prefix_U1 = packed.prefix_U[:, None]
        there_UP = p_P < prefix_U1
        if part == "own":
            distance_QQ = q_Q[:, None] - q_Q
            own_QQ = (distance_QQ >= 0) & (distance_QQ < far)
            near_UQP = (prefix_U1 + q_Q)[:, :, None] - p_P < far
            allowed_UQK = torch.cat(
                [near_UQP & there_UP[:, None], own_QQ.expand(users, *own_QQ.shape)], dim=2
            )
            allowed_UBQK = allowed_UQK[:, None].expand(users, rows, *allowed_UQK.shape[1:])
            return allowed_UBQK.reshape(users * rows, 1, *allowed_UQK.shape[1:])
        # The next token of an example stands behind its own ones and those that were written before it.
        step = self.step or 0
        now_UB1 = (prefix_U1 + packed.own_UB)[:, :, None] + step
        near_UBP = now_UB1 - p_P < far
        near_UBQ = now_UB1 - (prefix_U1[:, :, None] + q_Q) < far
        written_W = torch.arange(self.room, device=device)
        allowed_UBK = torch.cat(
            [
                there_UP[:, None] & near_UBP,
                (q_Q < packed.own_UB[:, :, None]) & near_UBQ,
                ((written_W <= step) & (step - written_W < far)).expand(users, rows, self.room),
            ],
            dim=2,
        )
        return allowed_UBK.reshape(users * rows, 1, 1, -1)

    def attend(
        self,
        module: Any,
        query_UHTD: torch.Tensor,
        key_UHTD: torch.Tensor,
        value_UHTD: torch.Tensor,
        **options: Any,
    ) -> torch.Tensor:
        """Attention over packed rows by means of the model's function for padded ones; [U, T, H, D]."""
        self.layers.add(module)
        if self.attention in ALL_ATTENTION_FUNCTIONS:
            function = ALL_ATTENTION_FUNCTIONS[self.attention]
        else:  # a family's plain one stands beside its layers
            function = sys.modules[type(module).__module__].eager_attention_forward
        if self.step is not None:
            return self._attend_next(function, module, query_UHTD, key_UHTD, value_UHTD, **options)
        window = options.get("sliding_window")
        packed = self.packed
        users, rows = packed.own_UB.shape
        there, back = packed.token_of_slot_S, packed.slot_of_token_T

        def slots(x_UHTD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            """The prefix's [U, H, P, D] and the examples' [U, B, H, Q, D]."""
            heads, size = x_UHTD.shape[1], x_UHTD.shape[3]
            x_Td = x_UHTD.transpose(1, 2).reshape(-1, heads * size)
            prefix, own = _ToSlots.apply(x_Td, there, back, users * packed.prefix)
            return (
                prefix.view(users, packed.prefix, heads, size).transpose(1, 2),
                own.view(users, rows, packed.own, heads, size).transpose(2, 3),
            )

        def joined(x: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
            """Every example's, behind its user's prefix [U * B, H, P + Q, D]."""
            prefix, own = x
            both = torch.cat([prefix[:, None].expand(users, rows, *prefix.shape[1:]), own], dim=3)
            return both.flatten(0, 1)

        query, key, value = slots(query_UHTD), slots(key_UHTD), slots(value_UHTD)
        keys, values = joined(key), joined(value)
        if self.room:
            grown = (torch.nn.functional.pad(x, (0, 0, 0, self.room)) for x in (keys, values))
            self.cache[module] = (next(grown), next(grown))
        mask = self.mask("own", window, keys)
        own_BQHD = function(module, query[1].flatten(0, 1), keys, values, mask, **options)[0]
        own = own_BQHD.flatten(0, 1).flatten(1)
        prefix = own[:0]
        if packed.prefix:
            mask = self.mask("prefix", window, keys).expand(users, 1, -1, -1)
            prefix_UPHD = function(module, query[0], key[0], value[0], mask, **options)[0]
            prefix = prefix_UPHD.flatten(0, 1).flatten(1)
        y_Td: torch.Tensor = _FromSlots.apply(prefix, own, there, back)
        return y_Td.view(*packed.ids_UT.shape, query_UHTD.shape[1], -1)

    def _attend_next(
        self,
        function: Callable[..., Any],
        module: Any,
        query_UHBD: torch.Tensor,
        key_UHBD: torch.Tensor,
        value_UHBD: torch.Tensor,
        **options: Any,
    ) -> torch.Tensor:
        """The same for one more token of every example; a user's row holds one of each; [U, B, H, D]."""
        place = self.packed.prefix + self.packed.own + (self.step or 0)
        keys, values = self.cache[module]
        users, _, rows, _ = query_UHBD.shape
        keys[:, :, place] = key_UHBD.transpose(1, 2).flatten(0, 1)
        values[:, :, place] = value_UHBD.transpose(1, 2).flatten(0, 1)
        query = query_UHBD.transpose(1, 2).flatten(0, 1).unsqueeze(2)
        mask = self.mask("next", options.get("sliding_window"), keys)
        result: torch.Tensor = function(module, query, keys, values, mask, **options)[0]
        return result.view(users, rows, *result.shape[2:])
