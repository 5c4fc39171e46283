"""Batches: loss falls on answers alone, nothing is lost or seen twice."""

import itertools
import random

import pytest
import torch
from oppu_core.packing import IGNORED, TokenizedExample, collate, epoch_order, tokenize
from oppu_core.prompts import Example


class Letters:
    """One token a character; a prompt begins with 1, an answer ends with 2 and its space is written."""

    context = 100

    def prompt_ids(self, text: str) -> list[int]:
        return [1, *map(ord, text)]

    def answer_ids(self, text: str) -> list[int]:
        return [*map(ord, " " + text), 2]


def rows_of(lengths: list[tuple[int, int]]) -> list[TokenizedExample]:
    return [TokenizedExample(tuple(range(10, 10 + prompt + answer)), prompt) for prompt, answer in lengths]


def test_prompt_and_answer_are_tokenized_apart_and_joined() -> None:
    row, other = tokenize([Example("ab:", "c"), Example("x", "yz")], Letters())
    assert row.ids == (1, ord("a"), ord("b"), ord(":"), ord(" "), ord("c"), 2)
    assert row.prompt_len == 4
    assert other.ids == (1, ord("x"), ord(" "), ord("y"), ord("z"), 2)
    assert other.prompt_len == 2


def test_a_prompt_has_the_same_tokens_whatever_answer_follows() -> None:
    prompts = {
        row.ids[: row.prompt_len] for row in tokenize([Example("ab", a) for a in ("", "b", "bc")], Letters())
    }
    assert prompts == {tuple(Letters().prompt_ids("ab"))}


def test_labels_stand_on_answer_tokens_only_and_end_of_text_is_one_of_them() -> None:
    rows = tokenize([Example("ab:", "c"), Example("a longer prompt:", "longer"), Example("", "x")], Letters())
    batch = collate(rows, pad_id=0)
    for b, row in enumerate(rows):
        length = len(row.ids)
        assert batch.labels_BT[b, : row.prompt_len].tolist() == [IGNORED] * row.prompt_len
        assert batch.labels_BT[b, row.prompt_len : length].tolist() == list(row.ids[row.prompt_len :])
        assert batch.labels_BT[b, length - 1] == 2
        assert set(batch.labels_BT[b, length:].tolist()) <= {IGNORED}


@pytest.mark.parametrize("pad_id", [0, 2], ids=["own padding token", "padding is end of text"])
def test_padding_is_masked_and_carries_no_loss(pad_id: int) -> None:
    rows = tokenize([Example("ab:", "c"), Example("a longer prompt:", "longer")], Letters())
    batch = collate(rows, pad_id)
    assert batch.ids_BT.shape == batch.mask_BT.shape == batch.labels_BT.shape == (2, 25)
    assert batch.mask_BT.sum(1).tolist() == [7, 25]
    assert batch.mask_BT[0].tolist() == [1] * 7 + [0] * 18
    assert batch.ids_BT[0].tolist() == [*rows[0].ids, *[pad_id] * 18]
    assert (batch.labels_BT != IGNORED).sum(1).tolist() == [3, 8]
    assert batch.ids_BT.dtype == batch.labels_BT.dtype == torch.long


def test_rows_of_one_length_are_not_padded() -> None:
    batch = collate(rows_of([(3, 2), (1, 4)]), 0)
    assert batch.ids_BT.shape == (2, 5)
    assert batch.mask_BT.all()


def order_of(rows: list[TokenizedExample], size: int, seed: int) -> list[list[int]]:
    return list(epoch_order(rows, size, torch.Generator().manual_seed(seed)))


def test_an_epoch_shows_every_example_once_in_full_batches() -> None:
    rng = random.Random(0)
    for _ in range(60):
        count, size = rng.randrange(1, 150), rng.randrange(1, 9)
        rows = rows_of([(rng.randrange(1, 30), 2) for _ in range(count)])
        batches = order_of(rows, size, rng.randrange(1000))
        assert sorted(index for batch in batches for index in batch) == list(range(count))
        assert len(batches) == -(-count // size), "the schedule counts on this many"
        assert sum(len(batch) != size for batch in batches) == (1 if count % size else 0)


def test_the_order_comes_from_the_seed() -> None:
    rows = rows_of([(1 + index % 7, 2) for index in range(90)])
    assert order_of(rows, 4, 3) == order_of(rows, 4, 3)
    assert order_of(rows, 4, 3) != order_of(rows, 4, 4)
    generator = torch.Generator().manual_seed(3)
    first, second = list(epoch_order(rows, 4, generator)), list(epoch_order(rows, 4, generator))
    assert first != second, "every epoch has an order of its own"
    alike = rows_of([(3, 2)] * 90)
    shared = [{frozenset(batch) for batch in order_of(alike, 4, seed)} for seed in (3, 4)]
    assert len(shared[0] & shared[1]) < 3, "other examples share a batch"


def test_like_lengths_share_a_batch_but_batches_come_in_no_order() -> None:
    rng = random.Random(0)
    rows = rows_of([(rng.randrange(1, 100), 1) for _ in range(320)])
    lengths = [[len(rows[index].ids) for index in batch] for batch in order_of(rows, 8, 0)]
    assert sum(max(batch) - min(batch) for batch in lengths) / len(lengths) < 25, (
        "at random it would be about 77"
    )
    means = [sum(batch) / len(batch) for batch in lengths]
    rises = sum(a < b for a, b in itertools.pairwise(means))
    assert 8 < rises < 31
