"""Turning examples into batches of token ids. Knows nothing of models, adapters or optimizers.

*Padded* batches have one row per example, as every causal language model reads them. *Packed* ones have one
row per user: the prefix that the examples share, once, then each example's own tokens, without padding in
between (docs/performance.md).

Axes: U users, B rows (examples) of a user's batch, T tokens of a row, t tokens of all rows, N targets of a
user, p tokens of a shared prefix, o own tokens of an example, s slots.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from oppu_core.prompting.builder import Example, TokenCounter

IGNORED = -100  # torch.nn.functional.cross_entropy skips this label


@dataclasses.dataclass(frozen=True)
class TokenizedExample:
    """Token ids of prompt and answer, joined; the first `prompt_len` have no loss."""

    ids: tuple[int, ...]
    prompt_len: int


@dataclasses.dataclass(frozen=True)
class Batch:
    """Right-padded rows.

    Attributes:
        ids_BT: Token ids [B, T].
        mask_BT: 1 for real tokens, 0 for padding [B, T].
        labels_BT: The token itself if it is a target, else :data:`IGNORED` [B, T].
    """

    ids_BT: torch.Tensor
    mask_BT: torch.Tensor
    labels_BT: torch.Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        return Batch(self.ids_BT.to(device), self.mask_BT.to(device), self.labels_BT.to(device))


def tokenize(examples: Iterable[Example], tokenizer: TokenCounter) -> list[TokenizedExample]:
    """Tokenize prompt and answer separately and join them, so that a prompt has the same tokens in training
    and in answering, whatever follows."""
    rows = []
    for example in examples:
        prompt = tokenizer.prompt_ids(example.prompt)
        rows.append(TokenizedExample((*prompt, *tokenizer.answer_ids(example.answer)), len(prompt)))
    return rows


def collate(rows: Sequence[TokenizedExample], pad_id: int) -> Batch:
    """Pad rows on the right to the longest of them."""
    width = max(len(row.ids) for row in rows)
    ids_BT = torch.full((len(rows), width), pad_id)
    mask_BT = torch.zeros((len(rows), width), dtype=torch.long)
    labels_BT = torch.full((len(rows), width), IGNORED)
    for b, row in enumerate(rows):
        ids = torch.tensor(row.ids)
        ids_BT[b, : len(ids)] = ids
        mask_BT[b, : len(ids)] = 1
        labels_BT[b, row.prompt_len : len(ids)] = ids[row.prompt_len :]
    return Batch(ids_BT, mask_BT, labels_BT)


def pad_left(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask [B, T] of prompts, padded on the left, so that all continue at the end."""
    width = max(map(len, rows))
    ids_BT = torch.tensor([[pad_id] * (width - len(row)) + list(row) for row in rows])
    mask_BT = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids_BT, mask_BT


def epoch_order(
    rows: Sequence[TokenizedExample], batch_size: int, generator: torch.Generator
) -> Iterator[list[int]]:
    """One epoch's batches as indices: shuffled, then grouped by length within eight batches.

    Grouping rows of similar length saves padding (as the authors do); the batches come in random order.
    """
    order = torch.randperm(len(rows), generator=generator).tolist()
    window = 8 * batch_size
    batches = []
    for start in range(0, len(order), window):
        group = sorted(order[start : start + window], key=lambda index: len(rows[index].ids))
        batches += [group[i : i + batch_size] for i in range(0, len(group), batch_size)]
    for index in torch.randperm(len(batches), generator=generator).tolist():
        yield batches[index]


@dataclasses.dataclass(frozen=True)
class Packed:
    """Users' batches, one row per user; the padded equivalent is one :class:`Batch` per user.

    Attention runs on *slots*: p for every user's shared prefix, then o for each of their examples, and a last
    one. Every token has a slot; slots without a token only pad attention. Padding points to padding, so that
    no gradient goes astray, and to the same user's, so that weights that became NaN harm nobody else: every
    row ends with some padding.

    Attributes:
        ids_UT: Token ids [U, T]; a user's shorter row is padded at its end.
        positions_UT: Positions [U, T]; they restart after the prefix for every example.
        prefix_U: Length of each user's prefix [U].
        own_UB: Number of each example's own tokens [U, B]; 0 where a user has fewer examples.
        prefix: p, the length of the longest prefix.
        own: o, the most own tokens of an example.
        token_of_slot_s: The token (an index into t = U * T) that each slot takes [s].
        slot_of_token_t: The slot of each token [t].
        targets_UN: Positions whose next token is a target, as indices into t [U, N]; t itself where a user
            has fewer targets.
        labels_UN: The target tokens, or :data:`IGNORED` [U, N].
    """

    ids_UT: torch.Tensor
    positions_UT: torch.Tensor
    prefix_U: torch.Tensor
    own_UB: torch.Tensor
    prefix: int
    own: int
    token_of_slot_s: torch.Tensor
    slot_of_token_t: torch.Tensor
    targets_UN: torch.Tensor
    labels_UN: torch.Tensor

    def to(self, device: torch.device) -> "Packed":
        """The same on another device."""
        moved: Any = {name: x.to(device) for name, x in vars(self).items() if isinstance(x, torch.Tensor)}
        return dataclasses.replace(self, **moved)


def shared_prefix(rows: Sequence[TokenizedExample]) -> int:
    """The number of leading tokens that all rows share. Each row keeps at least one prompt token of its own,
    from which its first target is predicted."""
    limit = max(0, min(row.prompt_len for row in rows) - 1)
    first, last = min(row.ids for row in rows), max(row.ids for row in rows)  # the most different ones
    pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first[:limit], last, strict=False))
    return sum(1 for _ in pairs)


def pack(
    users: Sequence[Sequence[TokenizedExample]], pad_id: int, *, share: bool = True, virtual: int = 0
) -> Packed:
    """Pack each user's batch into one row. An example's last token is only a target and is never read.

    Args:
        users: Each user's examples, at least one.
        pad_id: The padding token.
        share: Whether tokens that all of a user's examples begin with are kept once.
        virtual: v, the tokens of a soft prompt; they come first in the prefix, as `pad_id`.
    """
    users_, rows = range(len(users)), max(len(batch) for batch in users)
    shared_U = np.array([shared_prefix(batch) if share else 0 for batch in users])
    if virtual and not share:
        raise ValueError("a soft prompt is shared by the rows that it stands before")
    prefix_U = shared_U + virtual
    own_UB = np.zeros((len(users), rows), dtype=np.int64)
    for u in users_:
        own_UB[u, : len(users[u])] = [len(row.ids) - 1 - shared_U[u] for row in users[u]]
    start_UB = prefix_U[:, None] + np.cumsum(own_UB, axis=1) - own_UB
    width, prefix, own = int((prefix_U + own_UB.sum(1)).max()) + 1, int(prefix_U.max()), int(own_UB.max())
    ids_UT = np.full((len(users), width), pad_id, dtype=np.int64)
    positions_UT = np.zeros((len(users), width), dtype=np.int64)
    slots = len(users) * (prefix + rows * own)
    last_U = np.arange(len(users), dtype=np.int64) * width + width - 1
    token_of_slot_s = np.concatenate([last_U.repeat(prefix), last_U.repeat(rows * own), last_U[:1]])
    slot_of_token_UT = np.full((len(users), width), slots, dtype=np.int64)
    targets: list[np.ndarray] = []
    labels: list[list[int]] = []
    for u, batch in enumerate(users):
        shared, first = int(shared_U[u]), int(prefix_U[u])
        ids_UT[u, virtual:first] = batch[0].ids[:shared]
        positions_UT[u, :first] = np.arange(first)
        slot_of_token_UT[u, :first] = u * prefix + np.arange(first)
        spans: list[np.ndarray] = []
        marked: list[np.ndarray] = []
        wanted: list[int] = []
        for b, row in enumerate(batch):
            start, count = int(start_UB[u, b]), int(own_UB[u, b])
            ids_UT[u, start : start + count] = row.ids[shared:-1]
            spans.append(np.arange(count))
            slot = len(users) * prefix + (u * rows + b) * own
            slot_of_token_UT[u, start : start + count] = slot + spans[-1]
            answer = max(row.prompt_len, 1)  # nothing predicts a first token
            marked.append(u * width + start + np.arange(answer - 1 - shared, count))
            wanted += row.ids[answer:]
        positions_UT[u, first : first + int(own_UB[u].sum())] = first + np.concatenate(spans)
        targets.append(np.concatenate(marked))
        labels.append(wanted)
    real = slot_of_token_UT.reshape(-1) < slots
    token_of_slot_s[slot_of_token_UT.reshape(-1)[real]] = np.flatnonzero(real)
    most = max(len(marked) for marked in targets)
    targets_UN = np.full((len(users), most), len(users) * width, dtype=np.int64)
    labels_UN = np.full((len(users), most), IGNORED, dtype=np.int64)
    for u in users_:
        targets_UN[u, : len(targets[u])] = targets[u]
        labels_UN[u, : len(labels[u])] = labels[u]
    return Packed(
        torch.from_numpy(ids_UT),
        torch.from_numpy(positions_UT),
        torch.from_numpy(prefix_U),
        torch.from_numpy(own_UB),
        prefix,
        own,
        torch.from_numpy(token_of_slot_s),
        torch.from_numpy(slot_of_token_UT.reshape(-1)),
        torch.from_numpy(targets_UN),
        torch.from_numpy(labels_UN),
    )
