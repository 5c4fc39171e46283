"""A causal language model of ``transformers`` that reads packed rows (:class:`oppu_core.packing.Packed`).

Three things are changed while it does, and put back afterwards. Attention sees to it that an example's
tokens look at the prefix and at themselves alone; the last layer's feed-forward and the output head only work
where a target is predicted; a soft prompt takes its place in front. Everything else is the model's own code,
so that any family works whose attention can be exchanged; :func:`why_not` tries it.

Axes: see :mod:`oppu_core.packing`; H heads, D the size of a head, V vocabulary, d hidden.
"""

import contextlib
import dataclasses
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, ClassVar

import torch
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from oppu_core.packing import Packed, TokenizedExample, pack

_NAME = "oppu_packed"
_LOCK = threading.RLock()  # a model is changed while it reads: one at a time in a process


class _ToSlots(torch.autograd.Function):
    """Tokens [T, d] to the slots of prefixes and of examples; the other way round is :class:`_FromSlots`.

    A token that counts has one slot, so that both directions and both gradients are gathers, where indexing
    would scatter. Padding points at rows that have no gradient (:class:`oppu_core.packing.Packed`).
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
class _Reading:
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


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """What ``transformers`` calls in the place of a model's attention function; the masks are ours."""
    assert PackedModel.reading is not None
    return PackedModel.reading.attend(module, query, key, value, **options), None


class PackedModel:
    """A frozen causal language model, to be used inside ``with``; one at a time in a process.

    Args:
        model: A model of ``transformers``; its modules may carry adapters.

    Attributes:
        reading: What is being read, by whichever model of the process is inside ``with``.
    """

    reading: ClassVar[_Reading | None] = None

    def __init__(self, model: Any) -> None:
        self._model = model
        self._attention = ""
        self._soft_prompt_UVd: torch.Tensor | None = None
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> "PackedModel":
        with contextlib.ExitStack() as undo:
            undo.enter_context(_LOCK)
            self._attention = self._model.config._attn_implementation
            self._model.config._attn_implementation = _NAME
            undo.callback(setattr, self._model.config, "_attn_implementation", self._attention)
            hook = self._model.get_input_embeddings().register_forward_hook(self._put_soft_prompt)
            undo.callback(hook.remove)
            hook = self._model.base_model.register_forward_hook(self._keep_targets)
            undo.callback(hook.remove)
            if (last := _last_feed_forward(self._model)) is not None:
                # Before the hooks of adapters, which may sit on the same module.
                hook = last.register_forward_pre_hook(self._enter_last, prepend=True)
                undo.callback(hook.remove)
                hook = last.register_forward_hook(self._leave_last)
                undo.callback(hook.remove)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        PackedModel.reading = None
        self._undo.close()

    def logits(self, packed: Packed, soft_prompt_UVd: torch.Tensor | None = None) -> torch.Tensor:
        """The logits [U, N, V] at the positions of which a target is predicted.

        Args:
            packed: The rows, on the model's device.
            soft_prompt_UVd: The embeddings that take the place of each prefix's first tokens.
        """
        return self._read(_Reading(packed, self._attention), soft_prompt_UVd)

    def greedy(
        self,
        packed: Packed,
        max_new_tokens: int,
        stop_ids: Collection[int],
        soft_prompt_UVd: torch.Tensor | None = None,
        allow: Callable[[torch.Tensor, list[list[list[int]]]], torch.Tensor] | None = None,
    ) -> list[list[list[int]]]:
        """Continue every example: the tokens by user and example, up to the first of `stop_ids`.

        Args:
            packed: Prompts, each with one token to be predicted (:func:`prompts`).
            max_new_tokens: The most tokens to write.
            stop_ids: Tokens that end an answer.
            soft_prompt_UVd: See :meth:`logits`.
            allow: Changes logits [U, B, V], given what has been written; to keep answers to a set of them.
        """
        users, rows = packed.own_UB.shape
        reading = _Reading(packed, self._attention, room=max_new_tokens)
        stop_S = torch.tensor(sorted(stop_ids), device=packed.ids_UT.device)
        done_UB = packed.own_UB == 0
        written: list[list[list[int]]] = [[[] for _ in range(rows)] for _ in range(users)]
        with torch.inference_mode():
            logits_UBV = self._read(reading, soft_prompt_UVd)
            for step in range(max_new_tokens):
                next_UB = (allow(logits_UBV, written) if allow else logits_UBV).argmax(-1)
                tokens = next_UB.tolist()
                for u, b in (~done_UB).nonzero().tolist():
                    written[u][b].append(tokens[u][b])
                done_UB |= torch.isin(next_UB, stop_S)
                if bool(done_UB.all()) or step + 1 == max_new_tokens:
                    break
                logits_UBV = self._read(dataclasses.replace(reading, step=step, masks={}), None, next_UB)
        return written

    def _read(
        self,
        reading: _Reading,
        soft_prompt_UVd: torch.Tensor | None,
        next_UB: torch.Tensor | None = None,
    ) -> torch.Tensor:
        PackedModel.reading, self._soft_prompt_UVd = reading, soft_prompt_UVd
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
        if (prompt_UVd := self._soft_prompt_UVd) is None:
            return embeddings_UTd
        behind_UTd = embeddings_UTd[:, prompt_UVd.shape[1] :]
        return torch.cat([prompt_UVd.to(embeddings_UTd.dtype), behind_UTd], dim=1)

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
        # Where a user has fewer targets, that user's padding stands in; its label is ignored.
        users, width = reading.packed.ids_UT.shape
        last_U = torch.arange(1, users + 1, device=targets_UN.device) * width - 1
        tokens_N = targets_UN.minimum(last_U[:, None]).flatten()
        return x_UTd.flatten(0, 1).index_select(0, tokens_N).view(*targets_UN.shape, -1)

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
        y_Td = y_UNd.new_zeros(packed.ids_UT.numel() + 1, y_UNd.shape[-1])
        y_Td = y_Td.index_copy(0, packed.targets_UN.flatten(), y_UNd.flatten(0, 1))
        return y_Td[:-1].view(*packed.ids_UT.shape, -1)


AttentionInterface.register(_NAME, _attention)


def _last_feed_forward(model: Any) -> Any:
    """The last layer's feed-forward, of which only targets need the result; None where it is not found."""
    depth = getattr(model.config, "num_hidden_layers", 0)
    for module in model.base_model.children():
        if isinstance(module, torch.nn.ModuleList) and len(module) == depth:
            return getattr(module[-1], "mlp", None)
    return None


def prompts(rows: Iterable[Sequence[int]]) -> list[TokenizedExample]:
    """Prompts as examples of one target, to be predicted."""
    return [TokenizedExample((*ids, 0), len(ids)) for ids in rows]


def why_not(model: Any) -> str | None:
    """Why a model cannot read packed rows; None if it can.

    Tried on a small batch: attention that looks elsewhere than it is told gives other logits, and every layer
    has to ask for ours (one that carries a state along instead may be off by little).
    """
    size = model.config.vocab_size
    draw = torch.Generator().manual_seed(0)
    rows = [torch.randint(size, (count,), generator=draw).tolist() for count in (9, 6, 12)]
    packed = pack([prompts([[*rows[0], *row] for row in rows[1:]]), prompts([rows[1]])], 0).to(model.device)
    tolerance = 1e-3 if model.dtype == torch.float32 and not getattr(model, "is_quantized", False) else 0.1
    with torch.inference_mode():
        alone = [
            model(torch.tensor([ids], device=model.device), use_cache=False).logits[0, -1]
            for ids in ([*rows[0], *rows[1]], [*rows[0], *rows[2]], rows[1])
        ]
        try:
            with PackedModel(model) as packed_model:
                logits_UNV = packed_model.logits(packed)
                asked = len(packed_model.reading.layers) if packed_model.reading else 0
        except Exception as error:  # whatever a family that we do not know does with our attention
            return f"{type(model).__name__} cannot take another attention ({type(error).__name__}: {error})"
    together = (logits_UNV[0, 0], logits_UNV[0, 1], logits_UNV[1, 0])
    off = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(together, alone, strict=True))
    if not off <= tolerance:
        return f"{type(model).__name__} gives other answers with its attention exchanged (off by {off:.2g})"
    layers = getattr(model.config, "num_hidden_layers", asked)
    if not 0 < asked == layers:
        return f"{type(model).__name__} has {layers} layers, of which {asked} take another attention"
    return None
