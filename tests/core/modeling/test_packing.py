"""Batches: loss falls on answers alone, nothing is lost or seen twice."""

import itertools
import random

import pytest
import torch
from oppu_core.modeling.packing import (
    IGNORED,
    Packed,
    TokenizedExample,
    collate,
    epoch_order,
    pack,
    shared_prefix,
    tokenize,
)
from oppu_core.prompting.builder import Example


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


# Packed rows.


def row(text: str, prompt_len: int) -> TokenizedExample:
    """One token a letter."""
    return TokenizedExample(tuple(map(ord, text)), prompt_len)


def slow_prefix(rows: list[TokenizedExample]) -> int:
    """How many first tokens are in every prompt, and are not a whole prompt of any."""
    count = 0
    while all(count < r.prompt_len - 1 for r in rows) and len({r.ids[count] for r in rows}) == 1:
        count += 1
    return count


def check(
    packed: Packed, users: list[list[TokenizedExample]], pad_id: int, share: bool = True, virtual: int = 0
) -> None:
    """Everything about packed rows, written out token by token."""
    width, rows = packed.ids_UT.shape[1], packed.own_UB.shape[1]
    sentinel, cut = len(users) * width, len(users) * packed.prefix
    slots: dict[int, int] = {}  # of every real token
    lengths = []
    for u, batch in enumerate(users):
        shared = slow_prefix(batch) if share else 0
        ids = [pad_id] * virtual + list(batch[0].ids[:shared])
        positions = list(range(virtual + shared))
        where = [u * packed.prefix + place for place in positions]
        targets, labels = [], []
        for b, one in enumerate(batch):
            for place, token in enumerate(one.ids):
                if place >= max(1, one.prompt_len):
                    # the token before it predicts it
                    targets.append(u * width + len(ids) - 1)
                    labels.append(token)
                if shared <= place < len(one.ids) - 1:
                    ids.append(token)
                    positions.append(virtual + place)
                    where.append(cut + (u * rows + b) * packed.own + place - shared)
        padding = width - len(ids)
        lengths.append(len(ids))
        assert packed.ids_UT[u].tolist() == ids + [pad_id] * padding
        assert packed.positions_UT[u].tolist() == positions + [0] * padding
        assert packed.prefix_U[u] == virtual + shared
        own = [len(one.ids) - 1 - shared for one in batch]
        assert packed.own_UB[u].tolist() == own + [0] * (rows - len(batch))
        missing = packed.targets_UN.shape[1] - len(targets)
        assert packed.targets_UN[u].tolist() == targets + [sentinel] * missing
        assert packed.labels_UN[u].tolist() == labels + [IGNORED] * missing
        slots |= {u * width + t: slot for t, slot in enumerate(where)}
    assert width == max(lengths) + 1, "the end of every row is padding"
    assert packed.prefix == max(packed.prefix_U.tolist())
    assert packed.own == max(packed.own_UB.flatten().tolist())
    count = cut + len(users) * rows * packed.own
    assert packed.token_of_slot_s.shape == (count + 1,)
    assert len(set(slots.values())) == len(slots)
    token_of_slot = packed.token_of_slot_s.tolist()
    for token, slot in enumerate(packed.slot_of_token_t.tolist()):
        assert slot == slots.get(token, count)
        if token in slots:
            assert token_of_slot[slot] == token
    for slot in set(range(count)) - set(slots.values()):
        token = token_of_slot[slot]
        assert token not in slots, "padding points at padding"
        user = slot // packed.prefix if slot < cut else (slot - cut) // (rows * packed.own)
        assert token // width == user, "and at nobody else's"
    assert token_of_slot[count] not in slots


def random_users(rng: random.Random) -> list[list[TokenizedExample]]:
    users = []
    for _ in range(rng.randrange(1, 5)):
        start = [rng.randrange(3) for _ in range(rng.choice([0, 4, 9]))]
        batch = []
        for _ in range(rng.randrange(1, 5)):
            prompt = start[: rng.choice([len(start), len(start), rng.randrange(len(start) + 1)])]
            prompt = prompt + [rng.randrange(3) for _ in range(rng.randrange(4))]
            answer = [rng.randrange(3) for _ in range(rng.randrange(1, 5))]
            batch.append(TokenizedExample((*prompt, *answer), len(prompt)))
        users.append(batch)
    return users


@pytest.mark.parametrize(("share", "virtual"), [(True, 0), (False, 0), (True, 3)])
def test_packed_rows_are_what_they_are_token_by_token(share: bool, virtual: int) -> None:
    rng = random.Random(0)
    prefixes = set()
    for _ in range(150):
        users = random_users(rng)
        packed = pack(users, 99, share=share, virtual=virtual)
        check(packed, users, 99, share, virtual)
        prefixes |= set(packed.prefix_U.tolist())
    assert prefixes == {0} if not share else len(prefixes) > 5


def test_a_packed_row_by_hand() -> None:
    packed = pack([[row("abcXY", 4), row("abdeZ.", 4)], [row("qA", 1)]], 0)
    letters = ["".join(chr(token or ord("_")) for token in ids) for ids in packed.ids_UT.tolist()]
    assert letters == ["abcXdeZ_", "q_______"]
    assert packed.positions_UT.tolist() == [[0, 1, 2, 3, 2, 3, 4, 0], [0] * 8]
    assert packed.targets_UN.tolist() == [[3, 5, 6], [8, 16, 16]]
    assert packed.labels_UN.tolist() == [[ord("Y"), ord("Z"), ord(".")], [ord("A"), IGNORED, IGNORED]]
    assert (packed.prefix_U.tolist(), packed.own_UB.tolist()) == ([2, 0], [[2, 3], [1, 0]])


@pytest.mark.parametrize(
    "users",
    [
        [[row("aB", 1)]],
        [[row("A", 0)], [row("abC", 2)]],
        [[row("a", 1), row("abC", 2)]],
        [[row("AB", 0), row("AB", 0)]],
        [[row("abcD", 3)] * 4],
        [[row("abC", 2), row("bcD", 2)], [row("bcdE", 3)]],
        [[row("abcdefG", 6)], [row("xY", 1)] * 5, [row("xyzV", 3), row("xyW", 2), row("xyzzU", 4)]],
    ],
    ids=[
        "one row",
        "a row of one token",
        "a prompt without an answer",
        "no prompt",
        "identical rows",
        "nothing shared",
        "different counts and lengths",
    ],
)
@pytest.mark.parametrize("virtual", [0, 2])
def test_odd_rows_are_packed(users: list[list[TokenizedExample]], virtual: int) -> None:
    check(pack(users, 0, virtual=virtual), users, 0, virtual=virtual)
    if not virtual:
        check(pack(users, 0, share=False), users, 0, share=False)


def test_a_prefix_never_takes_a_whole_prompt() -> None:
    assert shared_prefix([row("abcD", 3)]) == 2
    assert shared_prefix([row("abcD", 3), row("abcD", 3)]) == 2
    assert shared_prefix([row("abcdE", 4), row("abX", 2), row("abcX", 3)]) == 1
    assert shared_prefix([row("abcdE", 4), row("abxdE", 4)]) == 2
    assert shared_prefix([row("aB", 1), row("aB", 1)]) == 0
    assert shared_prefix([row("AB", 0), row("AB", 0)]) == 0
    assert shared_prefix([row("xaB", 2), row("yaB", 2)]) == 0
    rng = random.Random(1)
    for _ in range(300):
        for batch in random_users(rng):
            assert shared_prefix(batch) == slow_prefix(batch)


def test_a_soft_prompt_without_sharing_is_refused() -> None:
    with pytest.raises(ValueError, match="soft prompt"):
        pack([[row("abC", 2)]], 0, share=False, virtual=3)


def test_packed_rows_move_as_one() -> None:
    packed = pack([[row("abcD", 3), row("abxyD", 4)]], 0)
    moved = packed.to(torch.device("meta"))
    assert (moved.prefix, moved.own) == (packed.prefix, packed.own)
    tensors = [value for value in vars(moved).values() if isinstance(value, torch.Tensor)]
    assert len(tensors) == 8
    assert {tensor.device.type for tensor in tensors} == {"meta"}
