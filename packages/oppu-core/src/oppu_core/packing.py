"""Examples become batches of token ids. Knows nothing of models, adapters or optimizers.

Axes: B rows of a batch, T tokens of a row.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import torch

from oppu_core.prompts import Example, TokenCounter

IGNORED = -100  # torch.nn.functional.cross_entropy skips this label


@dataclasses.dataclass(frozen=True)
class TokenizedExample:
    """Token ids of prompt and answer, joined; the first `prompt_len` carry no loss."""

    ids: tuple[int, ...]
    prompt_len: int


@dataclasses.dataclass(frozen=True)
class Batch:
    """Right-padded rows.

    Attributes:
        ids_BT: Token ids [B, T].
        mask_BT: 1 where a token is real [B, T].
        labels_BT: The token itself where it is a target, else :data:`IGNORED` [B, T].
    """

    ids_BT: torch.Tensor
    mask_BT: torch.Tensor
    labels_BT: torch.Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        return Batch(self.ids_BT.to(device), self.mask_BT.to(device), self.labels_BT.to(device))


def tokenize(examples: Iterable[Example], codec: TokenCounter) -> list[TokenizedExample]:
    """Tokenize prompt and answer separately and join them, so that a prompt's tokens are the same in
    training and in answering whatever follows."""
    rows = []
    for example in examples:
        prompt = codec.prompt_ids(example.prompt)
        rows.append(TokenizedExample((*prompt, *codec.answer_ids(example.answer)), len(prompt)))
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


def epoch_order(
    rows: Sequence[TokenizedExample], batch_size: int, generator: torch.Generator
) -> Iterator[list[int]]:
    """One epoch's batches as indices: shuffled, then grouped by length within eight batches.

    Grouping rows of like length saves padding (the authors train so); the batches come in random order.
    """
    order = torch.randperm(len(rows), generator=generator).tolist()
    window = 8 * batch_size
    batches = []
    for start in range(0, len(order), window):
        group = sorted(order[start : start + window], key=lambda index: len(rows[index].ids))
        batches += [group[i : i + batch_size] for i in range(0, len(group), batch_size)]
    for index in torch.randperm(len(batches), generator=generator).tolist():
        yield batches[index]
