"""Packed rows through a model: its own logits, gradients and greedy answers, whatever shares a row."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from oppu_core.modeling.adapters import attach, load_state
from oppu_core.modeling.base import load_base
from oppu_core.modeling.packed_model import PackedModel, prompts
from oppu_core.modeling.packing import IGNORED, Packed, TokenizedExample, pack
from oppu_core.modeling.skeleton import projection_names
from oppu_core.training.config import personal_config
from packed_toys import (
    SIZE,
    USERS,
    Users,
    count_hooks,
    distance,
    draw,
    example,
    filled,
    in_doubles,
    labels_of,
    logits_alone,
    loss_alone,
)
from toy_models import FAMILIES
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

Folder = Callable[[str], Path]
# Their masks are made for each kind of layer.
BY_KIND = ("qwen2", "qwen3", "gemma2", "gemma3_text")
# Gemma 2 caps its scores, which sdpa refuses to do.
PAIRS = [
    (family, kind)
    for family in FAMILIES
    for kind in ("sdpa", "eager")
    if (family, kind) != ("gemma2", "sdpa")
]


def load(folder: Folder, family: str, attention: str | None = None) -> Any:
    """A family's random model; Mistral's window is made shorter than the rows."""
    model = load_base(str(folder(family)), device="cpu").model
    if family == "mistral":
        model.config.sliding_window = 16
    if attention:
        model.config._attn_implementation = attention
    return model


def targets_of(packed: Packed, values_UNV: torch.Tensor) -> list[torch.Tensor]:
    """Every user's values [N, V] at targets."""
    kept_UN = packed.labels_UN != IGNORED
    return [values[kept] for values, kept in zip(values_UNV, kept_UN, strict=True)]


def packed_logits(model: Any, packed: Packed) -> list[torch.Tensor]:
    with PackedModel(model) as packed_model:
        return targets_of(packed, packed_model.logits(packed))


def alone(model: Any, users: Users) -> list[torch.Tensor]:
    return [torch.cat([logits_alone(model, row) for row in batch]) for batch in users]


def furthest(ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor]) -> float:
    return max(distance(a, b) for a, b in zip(ours, theirs, strict=True))


def dense_logits(model: Any, packed: Packed, users: Users) -> list[torch.Tensor]:
    """The definition: one row a user under an explicit mask, by which a token sees what came before it in the
    prefix and in its own example, no further back than the layer's window."""
    shape = packed.ids_UT.shape
    group_UT = torch.full(shape, -2)
    for u, batch in enumerate(users):
        first = int(packed.prefix_U[u])
        group_UT[u, :first] = -1
        place = first
        for b, row in enumerate(batch):
            count = len(row.ids) - 1 - first
            group_UT[u, place : place + count] = b
            place += count
    t_T = torch.arange(shape[1])
    query_UT1, key_U1T = group_UT[:, :, None], group_UT[:, None]
    sees_UTT = (t_T[:, None] >= t_T) & ((key_U1T == -1) | (key_U1T == query_UT1))
    far_UTT = packed.positions_UT[:, :, None] - packed.positions_UT[:, None]
    allowed = {"full_attention": sees_UTT, "sliding_attention": sees_UTT & (far_UTT < 16)}
    own_TT = torch.eye(shape[1], dtype=torch.bool)  # padding sees itself at least
    zero = torch.zeros(1)
    masks = {
        kind: torch.where(allowed_UTT | own_TT, zero, -math.inf)[:, None]
        for kind, allowed_UTT in allowed.items()
    }
    family = model.config.model_type
    one = masks["sliding_attention" if family == "mistral" else "full_attention"]
    output = model(
        input_ids=packed.ids_UT,
        position_ids=packed.positions_UT,
        attention_mask=masks if family in BY_KIND else one,
        use_cache=False,
    )
    flat_tV = output.logits.flatten(0, 1)
    return targets_of(packed, flat_tV[packed.targets_UN.clamp(max=len(flat_tV) - 1)])


@pytest.mark.parametrize("share", [True, False], ids=["shared", "not shared"])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_logits_are_the_models_own(family: str, share: bool, family_folder: Folder) -> None:
    model = load(family_folder, family)
    packed = pack(USERS, 0, share=share)
    assert packed.prefix_U.tolist() == ([20, 0, 5, 20, 18] if share else [0] * 5)
    with torch.no_grad():
        ours, theirs = packed_logits(model, packed), alone(model, USERS)
        assert furthest(ours, theirs) < 1e-5
        assert furthest(ours, dense_logits(model, packed, USERS)) < 1e-5


@pytest.mark.parametrize(("family", "attention"), PAIRS)
def test_in_doubles_nothing_is_left_of_the_difference(
    family: str, attention: str, family_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = in_doubles(load(family_folder, family, attention), monkeypatch)
    with torch.no_grad():
        assert furthest(packed_logits(model, pack(USERS, 0)), alone(model, USERS)) < 1e-12


def test_every_users_every_row_counts_on_its_own(family_folder: Folder) -> None:
    """Rows that have nothing in common, rows of one token more than their targets, more users than rows."""
    model = load(family_folder, "gemma2")
    users = [
        [TokenizedExample(draw(count, count), max(0, count - 2))] * copies
        for count, copies in ((2, 1), (3, 3), (50, 1), (2, 2), (17, 2))
    ]
    with torch.no_grad():
        for some in (users, users[::-1], users[2:3], users[:1], users * 2):
            assert furthest(packed_logits(model, pack(some, 7)), alone(model, some)) < 1e-5


def test_rows_together_may_be_longer_than_the_context(family_folder: Folder) -> None:
    model = load(family_folder, "gpt2")  # learned positions, 256 of them
    users = [[example(10, 100, 5, seed) for seed in range(4)]]
    packed = pack(users, 0)
    assert packed.ids_UT.shape[1] > 256
    with torch.no_grad():
        assert furthest(packed_logits(model, packed), alone(model, users)) < 1e-5


def test_what_stands_in_the_padding_does_not_matter(family_folder: Folder) -> None:
    model = load(family_folder, "gemma3_text")
    with torch.no_grad():
        assert furthest(packed_logits(model, pack(USERS, 0)), packed_logits(model, pack(USERS, 99))) == 0


@pytest.mark.parametrize("share", [True, False], ids=["shared", "not shared"])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_one_row_at_a_time(
    family: str, share: bool, family_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(family_folder, family)
    config = personal_config("lamp_2m", "tiny", 5, projection_names(model))
    roles = (*config.targets, "mlp.down_proj", "mlp.c_proj", "mlp.dense_4h_to_h")
    names = projection_names(model)
    targets = tuple(role for role in roles if any(name.endswith(role) for name in names))
    peft_model = attach(in_doubles(model, monkeypatch), dataclasses.replace(config, targets=targets))
    load_state(peft_model, filled(peft_model, 1))
    weights = [weight for weight in peft_model.parameters() if weight.requires_grad]
    assert {weight.dtype for weight in weights} == {torch.float64}
    weights.append(model.get_input_embeddings().weight.requires_grad_())  # the prefix, through every layer

    with PackedModel(model) as packed_model:
        packed = pack(USERS, 0, share=share)
        logits_UNV = packed_model.logits(packed)
        losses = torch.nn.functional.cross_entropy(
            logits_UNV.flatten(0, 1), packed.labels_UN.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        ours = torch.autograd.grad(losses, weights)
    counts = [sum(len(labels_of(row)) for row in batch) for batch in USERS]
    twin = torch.stack([n * loss_alone(model, batch) for n, batch in zip(counts, USERS, strict=True)]).sum()
    theirs = torch.autograd.grad(twin, weights)
    assert losses.item() == pytest.approx(twin.item(), rel=1e-12)
    assert all(float(theirs_.norm()) > 0 for theirs_ in theirs)
    assert furthest(ours, theirs) < 1e-10


def generated(model: Any, ids: Sequence[int], new: int, stop_ids: Sequence[int], **options: Any) -> list[int]:
    """The model's own greedy answer to one prompt, its stop token included."""
    ids_BT = torch.tensor([ids])
    output_BT = model.generate(
        input_ids=ids_BT,
        attention_mask=torch.ones_like(ids_BT),
        max_new_tokens=new,
        eos_token_id=list(stop_ids) or None,
        pad_token_id=0,
        do_sample=False,
        **options,
    )
    answer: list[int] = output_BT[0, len(ids) :].tolist()
    return answer


# Users of three, one and two prompts; with and without a prefix; shorter and longer than a window of 16.
ASKED: list[list[tuple[int, ...]]] = [
    [(*draw(20, 1), *draw(count, count)) for count in (3, 30, 1)],
    [draw(1, 5)],
    [draw(12, 6), draw(15, 7)],
    [(*draw(9, 8), *draw(count, count)) for count in (5, 2)],
]


@pytest.mark.parametrize(
    ("family", "attention"), [*((family, None) for family in FAMILIES), ("llama", "eager"), ("gpt2", "eager")]
)
def test_greedy_answers_are_the_models_own(family: str, attention: str | None, family_folder: Folder) -> None:
    model = load(family_folder, family, attention)
    users = [prompts(user) for user in ASKED]
    free = [[generated(model, ids, 12, []) for ids in user] for user in ASKED]
    assert {len(answer) for user in free for answer in user} == {12}
    stop_ids = [free[0][1][4], free[2][0][0]]
    stopped = [[generated(model, ids, 12, stop_ids) for ids in user] for user in ASKED]
    assert len(stopped[0][1]) <= 5
    assert len(stopped[2][0]) == 1
    for new, stops, share, theirs in (
        (12, [], True, free),
        (12, [], False, free),
        (12, stop_ids, True, stopped),
        (1, [], True, [[answer[:1] for answer in user] for user in free]),
    ):
        with PackedModel(model) as packed_model:
            ours = packed_model.greedy(pack(users, 0, share=share), new, stops)
        assert [ours[u][: len(user)] for u, user in enumerate(ASKED)] == theirs
        assert all(not answer for u, user in enumerate(ASKED) for answer in ours[u][len(user) :])


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_greedy_answers_can_be_kept_to_what_is_allowed(family: str, family_folder: Folder) -> None:
    model = load(family_folder, family)
    allowed = [list(draw(6, step)) for step in range(5)]
    seen: list[list[list[list[int]]]] = []

    def allow(logits_UBV: torch.Tensor, written: list[list[list[int]]]) -> torch.Tensor:
        seen.append([[list(answer) for answer in user] for user in written])
        step = len(written[0][0])
        kept_V = torch.zeros(SIZE, dtype=torch.bool)
        kept_V[allowed[step]] = True
        return logits_UBV.masked_fill(~kept_V, -math.inf)

    with PackedModel(model) as packed_model:
        ours = packed_model.greedy(pack([prompts(user) for user in ASKED], 0), 5, [], allow=allow)
    for user, answers in zip(ASKED, ours, strict=True):
        for ids, answer in zip(user, answers, strict=False):
            start = len(ids)
            twin = generated(
                model, ids, 5, [], prefix_allowed_tokens_fn=lambda _, got, n=start: allowed[len(got) - n]
            )
            assert answer == twin
            assert answer != generated(model, ids, 5, [])
    assert [[answer[:step] for answer in ours[0]] for step in range(5)] == [now[0] for now in seen]


def test_an_answer_does_not_depend_on_who_else_is_asked(family_folder: Folder) -> None:
    model = load(family_folder, "gemma2")
    with PackedModel(model) as packed_model:
        together = packed_model.greedy(pack([prompts(user) for user in ASKED], 0), 12, [])
        for u, user in enumerate(ASKED):
            assert packed_model.greedy(pack([prompts(user)], 0), 12, []) == [together[u][: len(user)]]
            for b, ids in enumerate(user):
                assert packed_model.greedy(pack([prompts([ids])], 0), 12, []) == [[together[u][b]]]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_is_put_back_as_it_was(family: str, family_folder: Folder) -> None:
    model = load(family_folder, family)
    attention, hooks = model.config._attn_implementation, count_hooks(model)
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    before = generated(model, ASKED[0][0], 6, []), logits_alone(model, USERS[0][0])

    def check() -> None:
        assert model.config._attn_implementation == attention
        assert count_hooks(model) == hooks
        assert PackedModel.reading is None
        assert generated(model, ASKED[0][0], 6, []) == before[0]
        assert torch.equal(logits_alone(model, USERS[0][0]), before[1])
        assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())

    with torch.no_grad():
        first = packed_logits(model, pack(USERS, 0))
        check()
        with PackedModel(model) as packed_model:
            packed_model.greedy(pack([prompts(ASKED[0])], 0), 3, [])
        check()
        PackedModel(model)  # never entered
        check()
        broken = dataclasses.replace(pack(USERS, 0), ids_UT=torch.full((5, 3), SIZE + 9))
        with pytest.raises(IndexError), PackedModel(model) as packed_model:
            packed_model.logits(broken)
        check()
        assert furthest(packed_logits(model, pack(USERS, 0)), first) == 0


def test_an_error_inside_leaves_no_trace(family_folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(family_folder, "llama")
    before = logits_alone(model, USERS[0][0])
    with pytest.raises(RuntimeError, match="on purpose"), PackedModel(model) as packed_model:
        monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "sdpa", _fail)
        packed_model.logits(pack(USERS, 0))
    monkeypatch.undo()
    assert model.config._attn_implementation == "sdpa"
    assert count_hooks(model) == 0
    assert PackedModel.reading is None
    assert torch.equal(logits_alone(model, USERS[0][0]), before)
    with ThreadPoolExecutor(1) as other:  # the lock is free as well
        ours = other.submit(packed_logits, model, pack(USERS, 0)).result(60)
    assert furthest(ours, alone(model, USERS)) < 1e-5


def _fail(*_: Any, **__: Any) -> Any:
    raise RuntimeError("on purpose")


def test_threads_take_turns(family_folder: Folder) -> None:
    models = [load(family_folder, family) for family in ("llama", "gemma2")]
    users = [USERS[:3], USERS[2:]]
    with torch.no_grad():
        theirs = [alone(model, some) for model, some in zip(models, users, strict=True)]

    def often(index: int) -> float:
        with torch.no_grad():
            packed = pack(users[index], 0)
            return max(furthest(packed_logits(models[index], packed), theirs[index]) for _ in range(8))

    with ThreadPoolExecutor(2) as threads:
        assert max(threads.map(often, (0, 1))) < 1e-5
