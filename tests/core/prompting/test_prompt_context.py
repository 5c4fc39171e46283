"""How prompts are cut to the context, and that no text is tokenized twice."""

import gc
import random
import re
import weakref

import pytest
from oppu_core.data import HistoryItem, Query, User
from oppu_core.errors import DataError
from oppu_core.modeling.packing import tokenize
from oppu_core.modeling.tokenizer import Tokenizer
from oppu_core.prompting.builder import PromptBuilder, answer_tokens
from oppu_core.prompting.methods import Method, parse_method, variant_method
from oppu_core.prompting.retrieval import BM25Retriever
from oppu_core.tasks.task_files import TASKS
from prompt_toys import HISTORY, MOVIE, NEWS, Letters, Words, builder_of, film, giveaways


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
