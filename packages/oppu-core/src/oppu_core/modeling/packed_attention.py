"""Attention over packed rows (:mod:`oppu_core.modeling.packing`), through a model's own attention function.

An example's tokens attend to the prefix and to their own example only; tokens are moved to slots and back.

Axes: those of :mod:`oppu_core.modeling.packing`; k positions that a token may look at (prefix and own
tokens), w written tokens, H heads, D size of a head, d hidden size.
"""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention import SDPBackend
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from oppu_core.modeling.packing import Packed

# Not cuDNN's, which torch prefers on new GPUs: it plans for every new shape, and every step has a new one
# (benchmarks/gpu.py measures both).
KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class _ToSlots(torch.autograd.Function):
    """Moves tokens [t, d] to the slots of prefixes and of examples; :class:`_FromSlots` is the inverse.

    Every real token has one slot, so that both directions and both gradients are gathers, where indexing
    would scatter. Padding points to rows without a gradient (:class:`oppu_core.modeling.packing.Packed`).
    """

    @staticmethod
    def forward(
        ctx: Any, x_td: torch.Tensor, there_s: torch.Tensor, back_t: torch.Tensor, cut: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(back_t)
        return _gather(x_td, there_s, cut)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (back_t,) = ctx.saved_tensors
        return _scatter(grads[0], grads[1], back_t), None, None, None


class _FromSlots(torch.autograd.Function):
    """Moves the slots of prefixes and of examples back to tokens [t, d]."""

    @staticmethod
    def forward(
        ctx: Any, prefix: torch.Tensor, own: torch.Tensor, there_s: torch.Tensor, back_t: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(there_s)
        ctx.cut = len(prefix)
        return _scatter(prefix, own, back_t)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        (there_s,) = ctx.saved_tensors
        return *_gather(grads[0], there_s, ctx.cut), None, None


def _gather(x_td: torch.Tensor, there_s: torch.Tensor, cut: int) -> tuple[torch.Tensor, torch.Tensor]:
    return x_td.index_select(0, there_s[:cut]), x_td.index_select(0, there_s[cut:-1])


def _scatter(prefix: torch.Tensor, own: torch.Tensor, back_t: torch.Tensor) -> torch.Tensor:
    # The last slot belongs to nobody; padding is read from it.
    return torch.cat([prefix, own, own.new_zeros(1, own.shape[1])]).index_select(0, back_t)


@dataclasses.dataclass
class Reading:
    """The state of one pass over packed rows and, when answering, of the tokens written after them.

    Attributes:
        packed: The rows.
        attention: The name of the model's own attention function.
        room: w, the number of tokens to write after each example; 0 in training.
        step: How many have been written; None while the rows themselves are read.
        layers: The attention modules that have called.
        cache: Keys and values [U * B, H, k + w, D] by attention module.
    """

    packed: Packed
    attention: str
    room: int = 0
    step: int | None = None
    layers: set[Any] = dataclasses.field(default_factory=set)
    cache: dict[Any, tuple[torch.Tensor, torch.Tensor]] = dataclasses.field(default_factory=dict)
    masks: dict[Any, torch.Tensor] = dataclasses.field(default_factory=dict)

    def mask(self, part: str, window: int | None, like: torch.Tensor) -> torch.Tensor:
        """An additive attention mask: 0 where a token may attend, else -inf.

        Args:
            part: ``prefix`` [1, 1, p, p], ``own`` [U * B, 1, o, k] or ``next`` [U * B, 1, 1, k + w].
            window: How many tokens back this layer attends, including itself; None for no limit.
            like: A tensor of the mask's type and device.
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
        at_p = torch.arange(packed.prefix, device=device)
        at_o = torch.arange(packed.own, device=device)
        if part == "prefix":
            distance_pp = at_p[:, None] - at_p
            return ((distance_pp >= 0) & (distance_pp < far))[None, None]
        prefix_U1 = packed.prefix_U[:, None]
        there_Up = at_p < prefix_U1
        if part == "own":
            distance_oo = at_o[:, None] - at_o
            own_oo = (distance_oo >= 0) & (distance_oo < far)
            near_Uop = (prefix_U1 + at_o)[:, :, None] - at_p < far
            allowed_Uok = torch.cat(
                [near_Uop & there_Up[:, None], own_oo.expand(users, *own_oo.shape)], dim=2
            )
            allowed_UBok = allowed_Uok[:, None].expand(users, rows, *allowed_Uok.shape[1:])
            return allowed_UBok.reshape(users * rows, 1, *allowed_Uok.shape[1:])
        # An example's next token comes after its own tokens and those already written.
        step = self.step or 0
        now_UB1 = (prefix_U1 + packed.own_UB)[:, :, None] + step
        near_UBp = now_UB1 - at_p < far
        near_UBo = now_UB1 - (prefix_U1[:, :, None] + at_o) < far
        written_w = torch.arange(self.room, device=device)
        allowed_UBk = torch.cat(
            [
                there_Up[:, None] & near_UBp,
                (at_o < packed.own_UB[:, :, None]) & near_UBo,
                ((written_w <= step) & (step - written_w < far)).expand(users, rows, self.room),
            ],
            dim=2,
        )
        return allowed_UBk.reshape(users * rows, 1, 1, -1)

    def attend(
        self,
        module: Any,
        query_UHTD: torch.Tensor,
        key_UHTD: torch.Tensor,
        value_UHTD: torch.Tensor,
        **options: Any,
    ) -> torch.Tensor:
        """Attention over packed rows [U, T, H, D], through the model's function for padded ones."""
        self.layers.add(module)
        if self.attention in ALL_ATTENTION_FUNCTIONS:
            function = ALL_ATTENTION_FUNCTIONS[self.attention]
        else:  # a family's eager function is in the module of its layers
            function = sys.modules[type(module).__module__].eager_attention_forward
        if self.step is not None:
            return self._attend_next(function, module, query_UHTD, key_UHTD, value_UHTD, **options)
        window = options.get("sliding_window")
        packed = self.packed
        users, rows = packed.own_UB.shape
        there, back = packed.token_of_slot_s, packed.slot_of_token_t

        def slots(x_UHTD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            """The prefix's [U, H, p, D] and the examples' [U, B, H, o, D]."""
            heads, size = x_UHTD.shape[1], x_UHTD.shape[3]
            x_td = x_UHTD.transpose(1, 2).reshape(-1, heads * size)
            prefix, own = _ToSlots.apply(x_td, there, back, users * packed.prefix)
            return (
                prefix.view(users, packed.prefix, heads, size).transpose(1, 2),
                own.view(users, rows, packed.own, heads, size).transpose(2, 3),
            )

        def joined(x: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
            """Every example's tokens after its user's prefix [U * B, H, k, D]."""
            prefix, own = x
            both = torch.cat([prefix[:, None].expand(users, rows, *prefix.shape[1:]), own], dim=3)
            return both.flatten(0, 1)

        query, key, value = slots(query_UHTD), slots(key_UHTD), slots(value_UHTD)
        keys, values = joined(key), joined(value)
        if self.room:
            grown = (torch.nn.functional.pad(x, (0, 0, 0, self.room)) for x in (keys, values))
            self.cache[module] = (next(grown), next(grown))
        mask = self.mask("own", window, keys)
        own_BoHD = function(module, query[1].flatten(0, 1), keys, values, mask, **options)[0]
        own = own_BoHD.flatten(0, 1).flatten(1)
        prefix = own[:0]
        if packed.prefix:
            mask = self.mask("prefix", window, keys).expand(users, 1, -1, -1)
            prefix_UpHD = function(module, query[0], key[0], value[0], mask, **options)[0]
            prefix = prefix_UpHD.flatten(0, 1).flatten(1)
        y_td: torch.Tensor = _FromSlots.apply(prefix, own, there, back)
        return y_td.view(*packed.ids_UT.shape, query_UHTD.shape[1], -1)

    def _attend_next(
        self,
        function: Callable[..., Any],
        module: Any,
        query_UHBD: torch.Tensor,
        key_UHBD: torch.Tensor,
        value_UHBD: torch.Tensor,
        **options: Any,
    ) -> torch.Tensor:
        """The same [U, B, H, D] for one more token of every example; a user's row holds one of each."""
        place = self.packed.prefix + self.packed.own + (self.step or 0)
        keys, values = self.cache[module]
        users, _, rows, _ = query_UHBD.shape
        keys[:, :, place] = key_UHBD.transpose(1, 2).flatten(0, 1)
        values[:, :, place] = value_UHBD.transpose(1, 2).flatten(0, 1)
        query = query_UHBD.transpose(1, 2).flatten(0, 1).unsqueeze(2)
        mask = self.mask("next", options.get("sliding_window"), keys)
        result: torch.Tensor = function(module, query, keys, values, mask, **options)[0]
        return result.view(users, rows, *result.shape[2:])
