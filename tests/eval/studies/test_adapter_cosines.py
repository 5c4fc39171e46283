"""Likeness of adapters: the paper's pseudo-code pair by pair, formed updates, and planted relations."""

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from oppu_core.data.types import User
from oppu_core.errors import DataError
from oppu_core.tasks.task import PersonalFormat, Task
from oppu_eval.reporting.drawing import png_bytes, svg_text
from oppu_eval.scoring.metrics import Array
from oppu_eval.studies.adapter_cosines import (
    average,
    cluster_order,
    habit_likeness,
    mantel,
    tensor_cosines,
    update_cosines,
    user_interval,
)
from oppu_eval.studies.similarity_picture import Group, draw

State = dict[str, torch.Tensor]
PROJECTIONS = [f"base_model.model.model.layers.{layer}.self_attn.{p}_proj" for layer in (0, 1) for p in "qv"]
RANK, D_IN, D_OUT = 3, 10, 7


def adapters(users: int, seed: int = 0) -> list[State]:
    """LoRA states with something in common, as a store loads them."""
    chance = torch.Generator().manual_seed(seed)
    shapes = {
        f"{projection}.lora_{side}.weight": shape
        for projection in PROJECTIONS
        for side, shape in (("A", (RANK, D_IN)), ("B", (D_OUT, RANK)))
    }
    common = {name: torch.randn(shape, generator=chance) for name, shape in shapes.items()}
    return [
        {name: common[name] + torch.randn(shape, generator=chance) for name, shape in shapes.items()}
        for _ in range(users)
    ]


def paper_cosine(one: State, other: State) -> float:
    """OPPU Appendix F, line by line."""
    total, count = 0.0, 0
    for key in one:
        if key in other:
            v1, v2 = one[key].flatten().double(), other[key].flatten().double()
            total += float(torch.dot(v1, v2) / (torch.linalg.norm(v1) * torch.linalg.norm(v2)))
            count += 1
    return total / count


def likeness(users: int, seed: int) -> Array:
    """Cosines of random vectors, one a user."""
    vectors = np.random.default_rng(seed).normal(size=(users, 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines: Array = vectors @ vectors.T
    return cosines


def off_diagonal(matrix: Array) -> Array:
    values: Array = matrix[np.triu_indices(len(matrix), 1)]
    return values


def test_average_of_tensor_cosines_is_the_papers_pseudo_code() -> None:
    states = adapters(5)
    cosines = average(tensor_cosines(states))
    twin = [[paper_cosine(one, other) for other in states] for one in states]
    assert cosines == pytest.approx(np.array(twin), abs=1e-12)
    assert (np.diag(cosines) == 1.0).all()


def test_a_part_of_the_names_chooses_the_tensors() -> None:
    states = adapters(3)
    only_a = [{name: tensor for name, tensor in state.items() if "lora_A" in name} for state in states]
    cosines = tensor_cosines(states)
    assert (average(cosines, "lora_A") == average(tensor_cosines(only_a))).all()
    assert average(cosines, "lora_A")[0, 1] != average(cosines, "lora_B")[0, 1]
    with pytest.raises(DataError, match="'ia3_l'"):
        average(cosines, "ia3_l")


def test_update_cosines_are_those_of_the_formed_updates() -> None:
    states = adapters(4)
    formed = [
        {p: state[f"{p}.lora_B.weight"].double() @ state[f"{p}.lora_A.weight"].double() for p in PROJECTIONS}
        for state in states
    ]
    updates, twins = update_cosines(states), tensor_cosines(formed)
    assert list(updates) == PROJECTIONS
    for projection in PROJECTIONS:
        assert updates[projection] == pytest.approx(twins[projection], abs=1e-12)
        assert (np.diag(updates[projection]) == 1.0).all()


def test_the_same_update_in_other_factors_changes_the_papers_cosines_alone() -> None:
    states = adapters(3)
    mix = torch.tensor([[2.0, 1.0, 0.0], [0.0, -1.0, 0.5], [1.0, 0.0, 1.0]], dtype=torch.float64)
    turned = {
        name: tensor.double() @ mix if "lora_B" in name else torch.linalg.inv(mix) @ tensor.double()
        for name, tensor in states[0].items()
    }
    both = [states[0], turned, *states[1:]]
    updates = average(update_cosines(both))
    assert updates[0, 1] == pytest.approx(1.0)
    assert updates[0, 2:] == pytest.approx(updates[1, 2:])
    tensors = average(tensor_cosines(both))
    assert tensors[0, 1] < 0.9
    assert np.abs(tensors[0, 2:] - tensors[1, 2:]).min() > 0.01


def test_other_peft_methods_have_tensor_cosines_and_no_updates() -> None:
    ia3 = [{"model.layers.0.self_attn.k_proj.ia3_l": torch.tensor([[1.0], [u]])} for u in (0.0, 1.0)]
    prompts = [{"prompt_embeddings": torch.eye(2) * sign} for sign in (1.0, -1.0)]
    assert average(tensor_cosines(ia3))[0, 1] == pytest.approx(0.5**0.5)
    assert average(tensor_cosines(prompts))[0, 1] == pytest.approx(-1.0)
    assert update_cosines(ia3) == update_cosines(prompts) == {}


def test_zero_tensor_has_no_cosine_and_leaves_the_means_of_the_others_alone() -> None:
    states = adapters(4)
    before = average(update_cosines(states))
    for projection in PROJECTIONS:
        states[1][f"{projection}.lora_B.weight"].zero_()
    states[2][f"{PROJECTIONS[0]}.lora_B.weight"].zero_()
    cosines, updates = tensor_cosines(states), average(update_cosines(states))
    assert np.isnan(cosines[f"{PROJECTIONS[0]}.lora_B.weight"][1:3]).all()
    assert np.isnan(updates[1]).all()
    assert np.isnan(updates[:, 1]).all()
    assert updates[0, 3] == before[0, 3]
    kept = [update_cosines(states)[projection][0, 2] for projection in PROJECTIONS[1:]]
    assert updates[0, 2] == pytest.approx(np.mean(kept))
    assert average(cosines)[1, 1] == 1.0  # its A has a direction
    assert average(cosines)[0, 1] == pytest.approx(average(cosines, "lora_A")[0, 1])


def test_tensor_that_a_user_lacks_counts_only_for_those_who_have_it() -> None:
    states = adapters(3)
    name = f"{PROJECTIONS[0]}.lora_A.weight"
    del states[0][name]
    assert np.isnan(tensor_cosines(states)[name][0]).all()
    assert average(tensor_cosines(states))[0, 1] == pytest.approx(paper_cosine(states[0], states[1]))
    assert average(tensor_cosines(states))[1, 2] == pytest.approx(paper_cosine(states[1], states[2]))


def test_adapters_of_different_shapes_are_refused_with_the_tensors_name() -> None:
    states = adapters(2)
    name = f"{PROJECTIONS[0]}.lora_A.weight"
    states[1][name] = torch.ones(RANK + 1, D_IN)
    for compare in (tensor_cosines, update_cosines):
        with pytest.raises(DataError, match=rf"{name}.*\(3, 10\), \(4, 10\)"):
            compare(states)


def test_cluster_order_puts_planted_groups_side_by_side() -> None:
    group = np.random.default_rng(3).permutation([0] * 6 + [1] * 5)
    similarity = 0.3 + 0.4 * (group[:, None] == group) + 0.1 * likeness(11, 4)
    order, tree = cluster_order(similarity)
    assert sorted(order) == list(range(11))
    assert len(list(itertools.groupby(group[order]))) == 2
    assert tree.shape == (10, 4)


def test_cluster_order_survives_unknown_and_few_users() -> None:
    similarity = likeness(4, 1)
    similarity[2] = similarity[:, 2] = np.nan
    assert sorted(cluster_order(similarity)[0]) == [0, 1, 2, 3]
    assert sorted(cluster_order(np.full((3, 3), np.nan))[0]) == [0, 1, 2]
    assert cluster_order(np.ones((1, 1)))[0] == [0]
    assert sorted(cluster_order(np.ones((2, 2)))[0]) == [0, 1]


@pytest.mark.parametrize("seed", range(5))
def test_mantel_finds_a_planted_relation(seed: int) -> None:
    one = likeness(15, seed)
    other = 0.5 * one + 0.5 * likeness(15, seed + 100)
    r, p = mantel(one, other, np.random.default_rng(seed), 999)
    assert r == pytest.approx(np.corrcoef(off_diagonal(one), off_diagonal(other))[0, 1])
    assert p < 0.01
    assert mantel(one, -other, np.random.default_rng(seed), 999) == pytest.approx((-r, p), abs=0.01)


def test_mantel_of_unrelated_users_is_rarely_significant() -> None:
    p_values = [
        mantel(likeness(12, seed), likeness(12, seed + 1000), np.random.default_rng(seed), 199)[1]
        for seed in range(200)
    ]
    assert np.mean(np.array(p_values) <= 0.05) < 0.1
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.07)


def test_mantel_does_not_take_alike_pairs_of_one_user_for_evidence() -> None:
    """One user apart in both matrices makes many alike pairs, but is one user of twelve."""
    apart = np.ones((12, 12))
    apart[0, 1:] = apart[1:, 0] = 0.0
    r, p = mantel(apart, apart, np.random.default_rng(0))
    assert r == pytest.approx(1.0)
    assert p == pytest.approx(1 / 12, abs=0.02)


def test_mantel_leaves_unknown_users_out() -> None:
    one, other = likeness(10, 1), likeness(10, 2)
    kept = [0, 1, 2, 4, 5, 6, 7, 8, 9]
    expected = mantel(one[np.ix_(kept, kept)], other[np.ix_(kept, kept)], np.random.default_rng(0), 99)
    one[3] = one[:, 3] = np.nan
    assert mantel(one, other, np.random.default_rng(0), 99) == expected


def test_mantel_without_spread_knows_nothing() -> None:
    for one, other in (
        (np.ones((5, 5)), likeness(5, 0)),
        (likeness(5, 0), np.full((5, 5), np.nan)),
        (likeness(2, 0), likeness(2, 1)),
    ):
        r, p = mantel(one, other, np.random.default_rng(0), 99)
        assert np.isnan(r)
        assert p == 1.0


def test_user_interval_agrees_with_a_loop_over_drawn_users() -> None:
    values = likeness(9, 5)
    values[2, 7] = values[7, 2] = np.nan
    rng = np.random.default_rng(1)
    means = []
    for _ in range(1500):
        drawn = rng.integers(0, 9, 9)
        pairs = [values[i, j] for i, j in itertools.combinations(drawn, 2) if i != j]
        means.append(np.nanmean(pairs))
    expected = tuple(np.percentile(means, (2.5, 97.5)))
    interval = user_interval(values, np.random.default_rng(2), 1500)
    assert interval == pytest.approx(expected, abs=0.08 * (expected[1] - expected[0]))


def test_user_interval_is_wider_than_one_over_pairs_and_says_nothing_of_two_users() -> None:
    gift = np.random.default_rng(7).normal(size=20)
    values = 0.5 + 0.1 * (gift[:, None] + gift)  # some users are like everybody
    low, high = user_interval(values, np.random.default_rng(0))
    pairs = off_diagonal(values)
    assert low < pairs.mean() < high
    assert high - low > 2 * 3.92 * pairs.std() / len(pairs) ** 0.5
    unknown = likeness(3, 0)
    unknown[0] = unknown[:, 0] = np.nan
    for few in (likeness(2, 0), unknown):
        assert np.isnan(user_interval(few, np.random.default_rng(0))).all()


def test_habits_of_a_labelled_task_are_shares_of_the_answers_in_the_training_history(
    tagging: Task, make_user: Callable[..., User]
) -> None:
    users = [
        make_user("a", ["action"], ["comedy", "comedy", "action"]),
        make_user("b", ["action"], ["comedy", "action"] * 3),
        make_user("c", ["action"], ["twist ending"]),
        make_user("d", ["action"], []),
    ]
    before, phrase = habit_likeness(tagging, users)
    assert before[0, 1] == pytest.approx(3 / (5**0.5 * 2**0.5))
    assert before[0, 2] == 0.0
    assert np.isnan(before[3]).all()
    assert "tag" in phrase
    (query,) = users[1].queries
    hidden = dataclasses.replace(users[1], queries=(dataclasses.replace(query, history_len=1),))
    after, _ = habit_likeness(tagging, [users[0], hidden])
    assert after[0, 1] == pytest.approx(2 / 5**0.5)


def test_habits_of_a_writing_task_are_in_the_users_own_texts(
    headlines: Task, make_user: Callable[..., User]
) -> None:
    styles = [
        ["Mayor wins again!!!", "Storm hits coast!!!"],
        ["Team loses final!!!", "Prices rise!!!"],
        ["why the winter went", "why rivers are slow"],
        ["why bridges fail", "why we pay more"],
        [],
    ]
    users = [make_user(f"u{i}", ["x"], texts, fields=("text", "title")) for i, texts in enumerate(styles)]
    likeness_UU, phrase = habit_likeness(headlines, users)
    assert likeness_UU[0, 1] > likeness_UU[0, 2:4].max()
    assert likeness_UU[2, 3] > likeness_UU[2, :2].max()
    assert np.isnan(likeness_UU[4]).all()
    assert (np.diag(likeness_UU)[:4] == 1.0).all()
    assert "title" in phrase
    assert np.isnan(habit_likeness(headlines, users[4:])[0]).all()
    same_letters = [make_user(word, ["x"], [word], fields=("text", "title")) for word in ("listen", "silent")]
    assert habit_likeness(headlines, same_letters)[0][0, 1] < 0.2


def test_tasks_without_an_answer_in_the_history_compare_texts(
    tagging: Task, make_user: Callable[..., User]
) -> None:
    citing = dataclasses.replace(
        tagging,
        output_field=None,
        text_field="description",
        personal_formats=(PersonalFormat("Film:", "{description}"),),
    )
    users = [make_user("a", ["x"], ["comedy"]), make_user("b", ["x"], ["action"])]
    likeness_UU, phrase = habit_likeness(citing, users)
    assert likeness_UU[0, 1] == pytest.approx(1.0)  # the descriptions are the same, the tags are not
    assert "description" in phrase


def heat_maps(count: int, users: int) -> list[Group]:
    groups = []
    for seed in range(count):
        matrix = likeness(users, seed)
        values = {name: off_diagonal(likeness(users, seed + 10)) for name in ("A", "B", "update BA")}
        groups.append(Group(f"Task {seed}", matrix, cluster_order(matrix)[0], values))
    return groups


@pytest.mark.parametrize(("count", "users"), [(1, 2), (1, 20), (3, 100)])
def test_picture_is_small_says_what_it_shows_and_is_the_same_twice(count: int, users: int) -> None:
    svg, again = (svg_text(draw(heat_maps(count, users)), "similarity", "Similarity") for _ in range(2))
    assert svg == again
    assert len(svg) < 200_000
    assert svg.count("image-rendering:pixelated") == 2 * count  # cells stay sharp at any size
    assert svg.count("paper: 0.4 to 0.7") == svg.count(f"{users} users") == count
    for text in ("Task 0", "update BA", "median"):
        assert text in svg


def test_picture_of_adapters_without_direction_says_so() -> None:
    nothing = Group("Zero", np.full((3, 3), np.nan), [0, 1, 2], {"update BA": np.full(3, np.nan)})
    figure = draw([nothing])
    assert "none" in [text.get_text() for axes in figure.axes for text in axes.texts]
    assert png_bytes(figure)
