"""Methods by name, and prompts: their order, what they may know, and how they are cut to the context."""

import dataclasses
import gc
import random
import re
import weakref
from collections.abc import Callable

import pytest
from oppu_core.data import HistoryItem, Query, User
from oppu_core.data.sample import sample_users
from oppu_core.errors import ConfigError, DataError
from oppu_core.modeling.packing import tokenize
from oppu_core.modeling.tokenizer import Tokenizer
from oppu_core.prompting.builder import PromptBuilder, answer_tokens
from oppu_core.prompting.methods import DEFAULT_METHODS, Method, parse_method, variant_method
from oppu_core.prompting.profiles import compute_profile
from oppu_core.prompting.retrieval import BM25Retriever, RandomRetriever, RecentRetriever, top_k
from oppu_core.tasks.task import PersonalFormat, Task
from oppu_core.tasks.task_files import TASKS
from rank_bm25 import BM25Okapi

MOVIE, NEWS = TASKS["lamp_2m"], TASKS["lamp_4"]


class Letters:
    """A token a character, and one in front of a prompt."""

    def __init__(self, context: int) -> None:
        self.context = context

    def prompt_ids(self, text: str) -> list[int]:
        return [1, *map(ord, text)]

    def answer_ids(self, text: str) -> list[int]:
        return [*map(ord, " " + text), 2]


class Words(Letters):
    """A token a word."""

    def prompt_ids(self, text: str) -> list[int]:
        return [1, *map(len, text.split())]

    def answer_ids(self, text: str) -> list[int]:
        return [*map(len, text.split()), 2]


def film(number: int, text: str = "a film", tag: str = "comedy") -> HistoryItem:
    return HistoryItem(f"h{number}", {"description": text, "tag": tag})


OTHERS = [
    User(f"o{u}", "others", tuple(film(100 + u, f"stranger {u}") for _ in range(3)), ()) for u in range(4)
]


def builder_of(
    counter: Letters | None = None, task: Task = MOVIE, profile_of: Callable[[User], str] | None = None
) -> PromptBuilder:
    retrievers = {
        "bm25": BM25Retriever(task),
        "dense": BM25Retriever(task),  # stands in
        "recent": RecentRetriever(),
        "random": RandomRetriever(OTHERS, 0),
    }
    return PromptBuilder(task, counter or Letters(100_000), retrievers, profile_of)


# --- methods ---------------------------------------------------------------------------------------------

# docs/architecture.md, "Which task base answers what".
VARIANTS = {
    "non_personalized": "base",
    "oppu_k0": "base",
    "random_k1": "rag_k1",
    "random_k7": "rag_k7",
    "rag_k1": "rag_k1",
    "rag_k2": "rag_k2",
    "rag_k4": "rag_k4",
    "rag_k10": "rag_k10",
    "rag_k123": "rag_k123",
    "oppu_rag_k1": "rag_k1",
    "oppu_rag_k4": "rag_k4",
    "recent_k1": "recent_k1",
    "recent_k12": "recent_k12",
    "oppu_recent_k4": "recent_k4",
    "dense_k1": "dense_k1",
    "oppu_dense_k4": "dense_k4",
    "pag_k0": "pag_k0",
    "pag_k1": "pag_k1",
    "pag_k12": "pag_k12",
    "oppu_pag_k0": "pag_k0",
    "oppu_pag_k1": "pag_k1",
    "pooled_k0": "base",
    "pooled_rag_k4": "rag_k4",
    "stranger_k0": "base",
    "stranger_pag_k1": "pag_k1",
}


@pytest.mark.parametrize(("name", "variant"), VARIANTS.items())
def test_a_methods_name_says_everything(name: str, variant: str) -> None:
    method = parse_method(name)
    assert method.name == name
    assert method.variant == variant
    assert method.personal == name.startswith("oppu")
    prefix = name.partition("_")[0]
    assert method.adapter == {"oppu": "own", "pooled": "pooled", "stranger": "stranger"}.get(prefix)
    assert method.profile == ("pag" in name)
    assert method.k == int(name.rpartition("_k")[2] if "_k" in name else 0)
    named = next((kind for kind in ("random", "recent", "dense") if kind in name), "bm25")
    assert method.retriever == (named if method.k else None)
    assert method.without_adapter == parse_method(method.without_adapter.name)
    assert method.without_adapter.adapter is None
    assert method.without_adapter.variant == variant
    assert variant_method(variant).variant == variant
    assert variant_method(variant).retriever != "random", "training retrieves from the user's own items"


def test_same_prompt_without_the_adapter() -> None:
    pairs = {"oppu_k0": "non_personalized", "oppu_rag_k4": "rag_k4", "oppu_pag_k0": "pag_k0"}
    for name, plain in pairs.items():
        assert parse_method(name).without_adapter.name == plain


def test_default_methods_are_methods() -> None:
    assert [parse_method(name).name for name in DEFAULT_METHODS] == list(DEFAULT_METHODS)


@pytest.mark.parametrize(
    "name",
    [
        "rag_k0",
        "oppu_k1",
        "random_k0",
        "oppu_random_k1",
        "recent_k0",
        "dense_k0",
        "oppu_dense_k0",
        "oppu_recent_k0",
        "recent",
        "rag_k01",
        "rag_k",
        "rag_k-1",
        "rag_k1.5",
        "pag",
        "rag_k1x",
        "xrag_k1",
        "RAG_k1",
        "oppu",
        "oppu_",
        "oppu_rag",
        "oppu_rag_k0",
        "oppu_non_personalized",
        "pooled",
        "pooled_k1",
        "stranger_random_k1",
        "oppu_oppu_k0",
        "base",
        "rag_k1_k1",
        "",
        " ",
        "rag_k1 ",
        " rag_k1",
        "rag_k1\n",
        "rag k1",
    ],
)
def test_a_name_that_is_no_method_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="There is no method"):
        parse_method(name)


# --- what stands in a prompt -----------------------------------------------------------------------------

HISTORY = (
    film(0, "a ship is lost in space", "action"),
    film(1, "two lovers on a boat", "romance"),
    film(2, "a robot in a city"),
)
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


# --- time ------------------------------------------------------------------------------------------------


def giveaways(user_items: int, history_len: int) -> User:
    """A user whose item t alone says `word<t>`, and whose queries and golds say words of their own."""
    history = tuple(
        film(t, f"film word{t} the", f"answer{t}" if t % 3 else "comedy") for t in range(user_items)
    )
    queries = (
        Query("late", {"description": "the asked late"}, "gold-late", user_items),
        Query("early", {"description": "the asked early"}, "gold-early", history_len),
    )
    return User("u", "test", history, queries)


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


# --- tokens are counted once -----------------------------------------------------------------------------


class CountingTokenizer:
    """A token a word, and a list of the texts that it was given."""

    eos_token_id, pad_token_id = 0, None

    def __init__(self) -> None:
        self.texts: list[str] = []

    def tokenize(self, text: str) -> list[str]:
        return text.split()

    def __call__(self, text: str, add_special_tokens: bool, **options: bool) -> dict[str, list[int]]:
        self.texts.append(text)
        return {"input_ids": [1] * add_special_tokens + [len(word) + 1 for word in text.split()]}


@pytest.mark.parametrize(("context", "texts"), [(10_000, 30), (66, 80)], ids=["roomy", "cut"])
def test_no_text_is_tokenized_twice(context: int, texts: int) -> None:
    """Not to see whether it fits, to train on it, to answer it, nor for another method's same prompt."""
    counting = CountingTokenizer()
    tokenizer = Tokenizer(counting, context)
    user = giveaways(20, 15)
    rows = []
    for taken in (0, 0, 3):
        builder = PromptBuilder(MOVIE, tokenizer.leaving(taken), {"bm25": BM25Retriever(MOVIE)})
        for variant in ("base", "rag_k2"):
            rows.append(tokenize(builder.history_examples(variant, user), tokenizer))
            for query in user.queries:
                text = builder.query_prompt(variant_method(variant), user, query, "").text
                assert len(tokenizer.prompt_ids(text)) + answer_tokens(MOVIE, tokenizer) <= context - taken
    assert rows[:2] == rows[2:4]
    assert [len(some) for some in rows] == [15] * 6
    assert len(counting.texts) == len(set(counting.texts)) > texts


def test_kept_ids_are_nobodys_to_change() -> None:
    tokenizer = Tokenizer(CountingTokenizer(), 100)
    for ids, expected in ((tokenizer.prompt_ids, [1, 2, 3]), (tokenizer.answer_ids, [2, 3, 0])):
        for _ in range(3):
            found = ids("a bb")
            assert found == expected
            found.append(7)


def test_a_prompt_and_an_answer_of_the_same_text_have_their_own_ids() -> None:
    tokenizer = Tokenizer(CountingTokenizer(), 100)
    for _ in range(2):
        assert tokenizer.answer_ids("x") == [2, 0]
        assert tokenizer.prompt_ids(" x") == [1, 2]


def test_only_the_latest_texts_are_kept_and_no_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oppu_core.modeling.tokenizer.CACHED_TEXTS", 3)
    counting = CountingTokenizer()
    tokenizer = Tokenizer(counting, 100)
    for text in "abcabcdbcda":
        tokenizer.prompt_ids(text)
    assert counting.texts == list("abcda")

    gone = weakref.ref(tokenizer)
    gc.disable()
    try:
        del tokenizer
        assert gone() is None, "no cycle holds it"
    finally:
        gc.enable()


# --- the context -----------------------------------------------------------------------------------------


def random_words(rng: random.Random, most: int) -> str:
    kinds = ("w" * rng.randrange(1, 9), "x", "{y}", "z" * rng.randrange(1, 60))
    return " ".join(rng.choice(kinds) for _ in range(rng.randrange(most)))


@pytest.mark.parametrize("counter", [Letters, Words])
def test_a_prompt_never_exceeds_the_context_and_keeps_instruction_and_ending(counter: type[Letters]) -> None:
    rng = random.Random(0)
    frame = {
        counter: len(counter(0).prompt_ids(f"{MOVIE.instruction}\n{MOVIE.query_text({'description': ''})}"))
    }[counter]
    cut = [0, 0, 0]
    for _ in range(200):
        seen = tuple(film(t, random_words(rng, 30), f"tag{t}!") for t in range(rng.randrange(6)))
        profile, query = random_words(rng, 40), random_words(rng, 60)
        answer = rng.choice([None, "comedy", "long " * 10])
        method = parse_method(rng.choice(["pag_k3", "rag_k5", "non_personalized", "pag_k0"]))
        size = counter(0)
        reserve = max(answer_tokens(MOVIE, size), len(size.answer_ids(answer)) if answer else 0)
        context = frame + reserve + rng.randrange(400 if counter is Letters else 60)
        builder = builder_of(counter(context))
        made = builder.prompt(method, {"description": query}, seen, len(seen), profile, "key", answer)
        assert len(size.prompt_ids(made.text)) <= context - reserve

        lines = made.text.split("\n")
        assert lines[-2] == MOVIE.instruction
        kept_query = lines[-1].removeprefix("description: ").removesuffix(" tag:").strip()
        assert lines[-1].startswith("description: ")
        assert lines[-1].endswith(" tag:")
        assert query.startswith(kept_query)

        # What is cut: the retrieved, then the profile, then the query; one is gone when the next is cut.
        roomy = builder_of(counter(10**6))
        whole = roomy.prompt(method, {"description": query}, seen, len(seen), profile, "key")
        whole_lines = whole.text.split("\n")
        items = [line for line in lines[:-2] if line.startswith("description: ")]
        whole_items = [line for line in whole_lines[:-2] if line.startswith("description: ")]
        kept_profile = "\n".join(line for line in lines[:-2] if not line.startswith("description: "))
        assert whole.profile.startswith(kept_profile)
        assert len(items) in (0, len(whole_items)), "cut alike, all or none left out"
        for line, whole_line in zip(items, whole_items, strict=False):
            ending = re.search(r" tag: tag\d!$", whole_line)
            assert ending
            assert line.endswith(ending[0]), "a retrieved item keeps its answer"
            assert whole_line.startswith(line.removesuffix(ending[0]).rstrip())
        if items != whole_items:
            cut[0] += 1
        if kept_profile != whole.profile:
            cut[1] += 1
            assert not items
        if kept_query != query.strip():
            cut[2] += 1
            assert not items
            assert not kept_profile
    assert min(cut) > 10, f"each kind of cut was met: {cut}"


@pytest.mark.parametrize("name", ["rag_k1", "pag_k0", "non_personalized"])
def test_what_fits_is_not_cut_and_what_is_cut_fills_the_context(name: str) -> None:
    """With one long text (retrieved, profile or query) that has to give way."""
    long = "word " * 50
    fields = {"description": long if name == "non_personalized" else "query"}

    def made(context: int) -> str:
        seen = (film(0, long, "romance"),)
        return builder_of(Letters(context)).prompt(parse_method(name), fields, seen, 1, long, "key").text

    whole = made(100_000)
    needed = len(Letters(0).prompt_ids(whole)) + answer_tokens(MOVIE, Letters(0))
    for missing in range(60):
        text = made(needed - missing)
        assert (text == whole) == (missing == 0)
        assert missing <= len(whole) - len(text) <= missing + len("word "), "no more is cut than needed"
        assert "word" in text
        assert ("tag: romance" in text) == (name == "rag_k1")


def test_a_giant_single_word_is_cut_inside() -> None:
    fields = {"description": "ü" * 10_000}
    for name in ("non_personalized", "rag_k1", "pag_k1"):
        seen = (film(0, "ß" * 10_000, "romance"),)
        made = builder_of(Letters(500)).prompt(parse_method(name), fields, seen, 1, "p" * 10_000, "key")
        assert len(Letters(0).prompt_ids(made.text)) == 500 - answer_tokens(MOVIE, Letters(0))
        assert made.text.endswith("ü tag:")


def test_in_training_a_long_answer_has_its_room() -> None:
    answer = "x" * 100
    fields = {"description": "word " * 200}
    asked = builder_of(Letters(600)).prompt(parse_method("oppu_k0"), fields, (), 0, "", "key")
    trained = builder_of(Letters(600)).prompt(parse_method("oppu_k0"), fields, (), 0, "", "key", answer)
    assert len(trained.text) < len(asked.text)
    row = [*Letters(0).prompt_ids(trained.text), *Letters(0).answer_ids(answer)]
    assert 590 < len(row) <= 600


def test_training_and_asking_give_the_same_prompt_for_an_answer_of_ordinary_length() -> None:
    fields = {"description": "word " * 200}
    for context in (440, 600, 5000):
        builder = builder_of(Letters(context))
        asked, trained = (
            builder.prompt(parse_method("rag_k1"), fields, HISTORY, 3, "", "key", answer)
            for answer in (None, "comedy")
        )
        assert asked == trained


def test_when_nothing_fits_the_error_says_so() -> None:
    with pytest.raises(DataError, match=r"lamp_2m.*do not fit.*context of 100 tokens.*longer context"):
        builder_of(Letters(100)).prompt(parse_method("rag_k1"), {"description": "x"}, HISTORY, 3, "", "key")
    with pytest.raises(DataError, match="answer of 1002 tokens"):
        builder_of(Letters(900)).prompt(
            Method(0, None, False, None), {"description": "x"}, (), 0, "", "k", "y" * 1000
        )


def test_headline_prompts_are_cut_at_the_article() -> None:
    seen = (HistoryItem("0", {"text": "the long article " * 30, "title": "Own Headline!"}),)
    builder = builder_of(Letters(300), NEWS)
    lines = builder.prompt(
        parse_method("rag_k1"), {"text": "the asked article"}, seen, 1, "", "key"
    ).text.split("\n")
    assert re.fullmatch(r"article: (the long article ?|the |long )+headline: Own Headline!", lines[0])
    assert lines[1:] == [NEWS.instruction, "article: the asked article headline:"]


# --- long answers ----------------------------------------------------------------------------------------

REVIEW = TASKS["longlamp_review"]


def reviewed(number: int, text: str) -> HistoryItem:
    about = {"overall": "5.0", "description": f"thing {number}", "summary": "fine"}
    return HistoryItem(f"h{number}", {**about, "reviewText": text})


def test_a_long_answer_leaves_half_of_the_context_to_the_question() -> None:
    assert [answer_tokens(REVIEW, Words(context)) for context in (100, 512, 1024, 2048)] == [
        64,
        256,
        512,
        512,
    ]
    assert answer_tokens(NEWS, Words(50)) == NEWS.max_answer_tokens, "short answers are what they were"
    builder = builder_of(Words(2048), REVIEW)
    query = Query("q", {"overall": "4.0", "description": "cup " * 3000, "summary": "blue"}, None, 1)
    user = User("u", "test", (reviewed(1, "word " * 3000),), (query,))
    prompt = builder.query_prompt(parse_method("rag_k1"), user, query, "")
    assert len(Words(0).prompt_ids(prompt.text)) == 2048 - 512
    assert prompt.text.endswith("summary: blue review:")


def test_of_retrieved_reviews_the_text_is_cut_not_the_product() -> None:
    query = Query("q", {"overall": "4.0", "description": "cup", "summary": "blue"}, None, 2)
    user = User("u", "test", tuple(reviewed(n, f"word{n} " * 3000) for n in (1, 2)), (query,))
    text = builder_of(Words(2048), REVIEW).query_prompt(parse_method("rag_k2"), user, query, "").text
    lines = text.split("\n")
    assert {line.partition(" review: ")[0] for line in lines[:2]} == {
        f"rating: 5.0 description: thing {n} summary: fine" for n in (1, 2)
    }
    assert min(len(line.split()) for line in lines[:2]) > 600 and lines[2] == REVIEW.instruction


def test_of_a_text_longer_than_the_context_the_beginning_is_learned() -> None:
    long, short = (" ".join(f"w{n}" for n in range(count)) for count in (5000, 1500))
    user = User("u", "test", (reviewed(1, short), reviewed(2, long), reviewed(3, "Good.")), ())
    builder = builder_of(Words(2048), REVIEW)
    first, second, third = builder.history_examples("rag_k1", user)
    assert first.answer == short and third.answer == "Good."
    assert second.answer == " ".join(f"w{n}" for n in range(511))
    for example in (first, second, third):
        assert len(Words(0).prompt_ids(example.prompt)) + len(Words(0).answer_ids(example.answer)) <= 2048


# --- histories without the task's format: next-token texts ----------------------------------------------

CITATION, TWEET = TASKS["lamp_1"], TASKS["lamp_7"]


def paper(number: int, citation: str = "", abstract: str = "", title: str = "My\nPaper") -> HistoryItem:
    return HistoryItem(str(number), {"title": title, "abstract": abstract, "citation": citation})


def learner(*items: HistoryItem) -> User:
    query = Query("q", {"title": "x", "option_1": "a", "option_2": "b"}, "[1]", len(items))
    return User("u", "test", items, (query,))


@pytest.mark.parametrize("variant", ["base", "rag_k2", "recent_k1", "pag_k1"])
def test_a_history_without_answers_is_read_as_text_on_any_base(variant: str) -> None:
    """No retrieval, no profile, no instruction: the authors' format of citations, and plain text without."""
    user = learner(paper(0, "Cited  Work", "We do."), paper(1, "", "We\ndid."), paper(2), paper(3, title=" "))
    examples = list(builder_of(task=CITATION).history_examples(variant, user))
    assert [(example.prompt, example.answer) for example in examples] == [
        ("paper title: My Paper reference:", "Cited Work"),
        ("paper title:", "My Paper abstract: We did."),
        ("paper title:", "My Paper"),
    ]
    tweets = learner(
        *(HistoryItem(str(t), {"text": text}) for t, text in enumerate(["so \n tired", "", "{x}"]))
    )
    texts = list(builder_of(task=TWEET).history_examples(variant, tweets))
    assert [(one.prompt, one.answer) for one in texts] == [("tweet:", "so tired"), ("tweet:", "{x}")]


def test_a_text_stops_before_the_earliest_query() -> None:
    user = dataclasses.replace(learner(paper(0), paper(1)), queries=(Query("q", {}, None, 1),))
    assert len(list(builder_of(task=CITATION).history_examples("base", user))) == 1


@pytest.mark.parametrize("counter", [Letters, Words])
def test_a_text_is_cut_at_a_words_end_to_what_the_context_holds(counter: type[Letters]) -> None:
    words = "one three fifteen seven"
    for context in range(1, 60):
        size = counter(context)
        for text in (words, "x" * 50):
            user = learner(HistoryItem("0", {"text": text}))
            found = list(builder_of(size, TWEET).history_examples("base", user))
            whole = size.answer_ids(text)
            room = context - len(size.prompt_ids("tweet:"))
            assert bool(found) == (room > 1 + (counter is Letters))
            if found:
                row = size.answer_ids(found[0].answer)
                assert len(row) <= room
                assert text.startswith(found[0].answer)
                if text is words and room > 5 + len("fifteen"):
                    assert found[0].answer in (words[:3], words[:9], words[:17], words), "at a word's end"
                assert (found[0].answer == text) == (len(whole) <= room)


def test_a_query_shows_both_references_and_cuts_the_title_alone() -> None:
    fields = {"title": "long " * 200, "option_1": "First Work", "option_2": "Second Work"}
    text = (
        builder_of(Letters(600), CITATION)
        .prompt(parse_method("rag_k1"), fields, (paper(0),), 1, "", "k")
        .text
    )
    assert len(Letters(0).prompt_ids(text)) <= 600 - CITATION.max_answer_tokens
    assert "reference: [1] - First Work [2] - Second Work" in text
    assert "My Paper" not in text and text.rstrip().endswith("answer:")


def test_items_without_the_querys_field_are_cut_at_their_own_text() -> None:
    task = Task(
        name="notes",
        kind="generation",
        input_fields=("question",),
        history_fields=("note",),
        instruction="Answer.",
        query_template="question: {question} answer:",
        history_template="note: {note}",
        personal_formats=(PersonalFormat("note:", "{note}"),),
        max_answer_tokens=2,
    )
    notes = (HistoryItem("0", {"note": "one two three four"}),)
    asked = "Answer.\nquestion: how is it? answer:"
    room = len(Words(0).prompt_ids(asked)) + task.max_answer_tokens
    ends = {5: "note: one two three four\n", 4: "note: one two three\n", 2: "note: one\n", 0: ""}
    for words, line in ends.items():
        builder = builder_of(Words(room + words), task)
        prompt = builder.prompt(parse_method("rag_k1"), {"question": "how is it?"}, notes, 1, "", "key")
        assert prompt.text == line + asked
        assert prompt.retrieved == (notes if line else ())
