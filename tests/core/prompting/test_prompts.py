"""What stands in a prompt, in which order, and what it may know."""

import dataclasses
import re

import pytest
from oppu_core.data import HistoryItem, Query, User
from oppu_core.data.sample import sample_users
from oppu_core.prompting.methods import parse_method, variant_method
from oppu_core.prompting.profiles import compute_profile
from oppu_core.prompting.retrieval import top_k
from oppu_core.tasks.task import Task
from oppu_core.tasks.task_files import TASKS
from prompt_toys import HISTORY, MOVIE, VARIANTS, Words, builder_of, film, giveaways
from rank_bm25 import BM25Okapi

USER = User("u", "test", HISTORY, (Query("q", {"description": "the ship in space"}, "sci-fi", 3),))


def test_profile_history_instruction_and_query_stand_in_this_order() -> None:
    prompt = builder_of().query_prompt(
        parse_method("pag_k2"), USER, USER.queries[0], "most popular tag: action."
    )
    assert prompt.text.split("\n") == [
        "most popular tag: action.",
        "description: a ship is lost in space tag: action",
        "description: a robot in a city tag: comedy",
        MOVIE.instruction,
        "description: the ship in space tag:",
    ]
    assert prompt.retrieved == (HISTORY[0], HISTORY[2])
    assert prompt.profile == "most popular tag: action."


@pytest.mark.parametrize("name", VARIANTS)
def test_each_method_takes_its_parts_and_no_others(name: str) -> None:
    method = parse_method(name)
    lines = builder_of().query_prompt(method, USER, USER.queries[0], "PROFILE").text.split("\n")
    assert lines[-2:] == [MOVIE.instruction, "description: the ship in space tag:"]
    assert ("PROFILE" in lines) == method.profile
    items = lines[method.profile : -2]
    own = {MOVIE.history_line(item.fields) for item in HISTORY}
    if method.retriever == "random":
        assert len(items) == min(method.k, 12)
        assert all("stranger" in line for line in items)
    else:
        assert len(items) == min(method.k, len(HISTORY))
        assert set(items) <= own


def test_the_prompt_of_a_personal_method_is_that_of_the_plain_one() -> None:
    for name in ("oppu_k0", "oppu_rag_k2", "oppu_pag_k1"):
        method = parse_method(name)
        prompts = [
            builder_of().query_prompt(m, USER, USER.queries[0], "P") for m in (method, method.without_adapter)
        ]
        assert prompts[0] == prompts[1]


def test_user_texts_with_braces_and_newlines_stand_on_one_line_as_they_are() -> None:
    odd = film(0, "{tag}\n\nand  {0}\r\n{{x}}\u2028end", "{description}")
    user = User("u", "test", (odd,), (Query("q", {"description": "\n{a}\tb\n"}, None, 1),))
    text = builder_of().query_prompt(parse_method("pag_k1"), user, user.queries[0], "{p}\n\nq").text
    assert text.split("\n") == [
        "{p} q",
        "description: {tag} and {0} {{x}} end tag: {description}",
        MOVIE.instruction,
        "description: {a} b tag:",
    ]
    assert len(text.splitlines()) == 4


def numbers(text: str) -> set[int]:
    return {int(number) for number in re.findall(r"(?:word|answer)(\d+)", text)}


@pytest.mark.parametrize("variant", ["base", "rag_k1", "rag_k4", "rag_k50", "recent_k1", "recent_k4"])
def test_item_t_sees_only_items_before_t(variant: str) -> None:
    user = giveaways(20, 15)
    examples = list(builder_of().history_examples(variant, user))
    assert len(examples) == 15, "items at or beyond the earliest query are no training material"
    for t, example in enumerate(examples):
        seen = numbers(example.prompt)
        assert t in seen, "its own text"
        assert max(seen) == t
        assert len(seen) == 1 + min(t, variant_method(variant).k)
        if variant.startswith("recent"):
            assert seen == set(range(max(0, t - variant_method(variant).k), t + 1))
        assert f"answer{t}" not in example.prompt
        assert example.answer == (f"answer{t}" if t % 3 else "comedy")
        assert "asked" not in example.prompt
        assert "gold" not in example.prompt


@pytest.mark.parametrize("variant", ["pag_k0", "pag_k3"])
def test_the_profile_in_an_example_comes_from_the_training_history_alone(variant: str) -> None:
    history = (
        *(film(t, f"film word{t} the") for t in range(6)),
        *(film(t, "x", "violence") for t in range(6, 30)),
    )
    user = User("u", "test", history, (Query("q", {"description": "asked"}, "violence", 6, "violence"),))
    examples = list(builder_of().history_examples(variant, user))
    assert len(examples) == 6
    for t, example in enumerate(examples):
        assert example.prompt.startswith("most popular tag: comedy.\n")
        assert max(numbers(example.prompt)) == t
        assert "violence" not in example.prompt.replace(MOVIE.instruction, "")


@pytest.mark.parametrize(
    "name", ["rag_k1", "rag_k50", "recent_k50", "pag_k50", "oppu_rag_k50", "oppu_recent_k50", "oppu_pag_k50"]
)
def test_a_query_sees_nothing_at_or_beyond_its_history_len(name: str) -> None:
    user = giveaways(20, 7)
    builder, method = builder_of(), parse_method(name)
    profile = builder.profile_for(method, user)
    late, early = (builder.query_prompt(method, user, query, profile).text for query in user.queries)
    assert max(numbers(early)) < 7
    assert max(numbers(late)) < 20
    if method.k == 50:
        assert numbers(early) == set(range(7))
        assert numbers(late) == set(range(20))
    assert "gold" not in early + late
    assert "asked late" not in early


@pytest.mark.parametrize("variant", ["base", "rag_k50", "pag_k0", "pag_k50"])
def test_a_task_bases_example_sees_what_its_query_may_see(variant: str) -> None:
    user = giveaways(20, 7)
    builder, method = builder_of(), variant_method(variant)
    late, early = builder.query_examples(variant, user)
    assert (late.answer, early.answer) == ("gold-late", "gold-early")
    assert all(number < 7 for number in numbers(early.prompt))
    assert "gold" not in early.prompt + late.prompt
    profile = builder.profile_for(method, user)
    assert profile == (compute_profile(MOVIE, user.history[:7]) if method.profile else "")
    assert early.prompt == builder.query_prompt(method, user, user.queries[1], profile).text


def test_the_most_recent_item_stands_first() -> None:
    user = giveaways(20, 7)
    prompt = builder_of().query_prompt(parse_method("recent_k3"), user, user.queries[1], "")
    assert [item.id for item in prompt.retrieved] == ["h6", "h5", "h4"]
    assert re.findall(r"word(\d)", prompt.text) == ["6", "5", "4"]


def test_given_profiles_stand_in_examples_of_both_kinds() -> None:
    user = giveaways(5, 5)
    builder = builder_of(profile_of=lambda asked: f"profile of {asked.user_id}")
    examples = [*builder.query_examples("pag_k0", user), *builder.history_examples("pag_k0", user)]
    assert len(examples) == 2 + 5
    assert all(example.prompt.startswith("profile of u\n") for example in examples)
    assert not any("profile" in example.prompt for example in builder.history_examples("rag_k1", user))


def test_the_future_does_not_change_the_past() -> None:
    user = giveaways(20, 15)
    other = dataclasses.replace(
        user,
        history=(*user.history[:15], *(film(t, "entirely different words") for t in range(15, 20))),
        queries=(Query("x", {"description": "y"}, "z", 15),),
    )
    for variant in ("rag_k2", "recent_k2", "pag_k2"):
        assert list(builder_of().history_examples(variant, user)) == list(
            builder_of().history_examples(variant, other)
        )


def test_an_item_or_query_without_an_answer_gives_no_example() -> None:
    history = (film(0, "a"), film(1, "b", " \n"), film(2, "c", ""), film(3, "d", " dark \n comedy "))
    queries = (
        Query("0", {"description": "x"}, None, 4),
        Query("1", {"description": "x"}, " ", 4),
        Query("2", {"description": "x"}, "true\nstory", 4),
    )
    user = User("u", "others", history, queries)
    assert [example.answer for example in builder_of().history_examples("base", user)] == [
        "comedy",
        "dark comedy",
    ]
    assert [example.answer for example in builder_of().query_examples("base", user)] == ["true story"]


class Rebuilt:
    """BM25's obvious loop: cut the history off, index what is left anew."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def retrieve(
        self, query: str, items: tuple[HistoryItem, ...], before: int, k: int, key: str
    ) -> list[HistoryItem]:
        visible = items[:before]
        if not visible:
            return []
        index = BM25Okapi([self.task.history_line(item.fields).split(" ") for item in visible])
        return [visible[place] for place in top_k(index.get_scores(query.split(" ")), k)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lamp_2m", "lamp_3", "lamp_4"])
def test_prompts_are_those_of_the_obvious_loop_in_the_sample_world(name: str) -> None:
    task = TASKS[name]
    users = list(sample_users(task, test_users=1, other_users=2))
    ours = builder_of(Words(150), task)
    obvious = dataclasses.replace(ours, retrievers={**ours.retrievers, "bm25": Rebuilt(task)})
    for user in users:
        for variant in ("rag_k1", "rag_k4", "pag_k1"):
            examples = list(ours.history_examples(variant, user))
            assert examples == list(obvious.history_examples(variant, user))
            assert len(examples) == len(user.training_history) > 4
            assert list(ours.query_examples(variant, user)) == list(obvious.query_examples(variant, user))
            for query in user.queries:
                method = variant_method(variant)
                prompt = ours.query_prompt(method, user, query, "profile")
                assert prompt == obvious.query_prompt(method, user, query, "profile")
