"""Derived histories: which items stay, who sees them, and what one side of them reads like."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from oppu_core.data import HistoryItem, Query, User
from oppu_core.data.dataset import Dataset
from oppu_core.data.dataset_writer import write_dataset
from oppu_core.data.sample import sample_users
from oppu_core.errors import ConfigError
from oppu_core.prompting.builder import Example, PromptBuilder
from oppu_core.prompting.methods import parse_method
from oppu_core.prompting.profiles import compute_profile
from oppu_core.prompting.retrieval import BM25Retriever, RecentRetriever
from oppu_core.tasks.task import PersonalFormat, Task
from oppu_core.tasks.task_files import TASKS
from oppu_eval.studies.histories import (
    Side,
    drawn,
    keep,
    kept_count,
    least_relevant,
    oldest,
    one_sided,
    one_sided_user,
    owner,
    per_query,
)


def film(number: int, tag: str = "comedy") -> HistoryItem:
    return HistoryItem(f"h{number}", {"description": f"film {number}", "tag": tag})


def a_user(user_id: str = "u", items: int = 6, seen: tuple[int, ...] = (5, 6)) -> User:
    queries = tuple(Query(f"q{i}", {"description": "new"}, "comedy", n) for i, n in enumerate(seen))
    return User(user_id, "test", tuple(map(film, range(items))), queries)


class Words:
    """A token a word, and one in front of a prompt."""

    def __init__(self, context: int = 100_000) -> None:
        self.context = context

    def prompt_ids(self, text: str) -> list[int]:
        return [1, *map(len, text.split())]

    def answer_ids(self, text: str) -> list[int]:
        return [*map(len, text.split()), 2]


def builder_of(task: Task, context: int = 100_000) -> PromptBuilder:
    return PromptBuilder(task, Words(context), {"bm25": BM25Retriever(task), "recent": RecentRetriever()})


# --- fewer items -----------------------------------------------------------------------------------------


def test_kept_items_stand_in_their_order_once_and_every_query_sees_all_of_them() -> None:
    user = a_user(seen=(5, 6))
    kept = keep(user, [4, 0, 3, 0])
    assert [item.id for item in kept.history] == ["h0", "h3", "h4"]
    assert kept.training_history == kept.history
    assert [query.history_len for query in kept.queries] == [3, 3]
    assert [(query.id, query.fields, query.gold) for query in kept.queries] == [
        (query.id, query.fields, query.gold) for query in user.queries
    ]
    assert (kept.user_id, kept.split) == (user.user_id, user.split)
    assert keep(user, []).training_history == ()


@pytest.mark.parametrize("positions", [[5], [-1], [0, 99]])
def test_an_item_that_training_may_not_see_cannot_be_kept(positions: list[int]) -> None:
    with pytest.raises(IndexError, match="'u' has 5 training items"):
        keep(a_user(seen=(5, 6)), positions)


@pytest.mark.parametrize(
    ("length", "count"),
    [(0, 0), (1, 1), (2, 1), (3, 1), (10, 3), (99, 30), (100, 30), (101, 100), (5000, 100)],
)
def test_a_long_history_keeps_a_number_and_a_short_one_a_share(length: int, count: int) -> None:
    assert kept_count(length, items=100, share=0.3) == count


def test_the_least_relevant_are_taken_and_the_older_of_equals() -> None:
    assert least_relevant(np.array([0.9, 0.1, 0.5, 0.1, -0.2]), 2) == [1, 4]
    assert least_relevant(np.array([0.5, 0.2, 0.2, 0.2]), 2) == [1, 2]
    assert least_relevant(np.array([0.5, 0.2]), 9) == [0, 1]
    rng = np.random.default_rng(0)
    for _ in range(50):
        relevance = rng.integers(0, 5, 12) / 5
        chosen = least_relevant(relevance, 5)
        expected = sorted(sorted(range(12), key=lambda i, r=relevance: (r[i], i))[:5])
        assert chosen == expected
        assert all(type(position) is int for position in chosen)


def test_a_draw_depends_on_seed_and_user_alone() -> None:
    first = drawn(40, 10, 0, "u")
    assert first == drawn(40, 10, 0, "u") == sorted(set(first))
    assert len(first) == 10 and set(first) <= set(range(40))
    assert first != drawn(40, 10, 1, "u") and first != drawn(40, 10, 0, "v")
    assert drawn(3, 10, 0, "u") == [0, 1, 2]
    counts = np.bincount([p for seed in range(400) for p in drawn(8, 2, seed, "u")], minlength=8)
    assert counts.min() > 60, "each position is drawn about 100 times"


def test_the_oldest_come_first() -> None:
    assert oldest(5, 3) == [0, 1, 2]
    assert oldest(2, 3) == [0, 1]


# --- a user for each query -------------------------------------------------------------------------------


def test_a_user_for_each_query_has_the_training_history_and_that_query() -> None:
    user = a_user(seen=(5, 3, 6))
    parts = per_query(user)
    assert [[query.id for query in part.queries] for part in parts] == [["q0"], ["q1"], ["q2"]]
    for part in parts:
        assert part.history == part.training_history == user.history[:3]
        assert part.split == "test" and owner(part.user_id) == "u"


def test_ids_of_the_parts_never_collide_and_lead_back() -> None:
    names = ["a", "a#", "#", "a#b", "a%23b", "b", "é ", "a/b"]
    found: dict[str, str] = {}
    for user_id in names:
        queries = tuple(Query(query_id, {"description": "x"}, None, 1) for query_id in names)
        for part in per_query(User(user_id, "test", (film(0),), queries)):
            assert found.setdefault(part.user_id, user_id) == user_id
            assert owner(part.user_id) == user_id
    assert len(found) == len(names) ** 2


# --- one side --------------------------------------------------------------------------------------------

# What stands before a field, the fields of the item, and the computed profile: input side, output side.
SIDES: dict[tuple[str, Side], tuple[str, str, tuple[str, ...], str]] = {
    ("lamp_2m", "input"): ("description:", "description", ("description",), "style"),
    ("lamp_2m", "output"): ("tag:", "tag", ("tag",), "most_frequent_answer"),
    ("lamp_2n", "input"): ("article:", "text", ("text", "title"), "style"),
    ("lamp_2n", "output"): ("category:", "category", ("category",), "most_frequent_answer"),
    ("lamp_3", "input"): ("review:", "text", ("text",), "style"),
    ("lamp_3", "output"): ("score:", "score", ("score",), "usual_scores"),
    ("lamp_4", "input"): ("article:", "text", ("text",), "style"),
    ("lamp_4", "output"): ("headline:", "title", ("title",), "style"),
    ("lamp_5", "input"): ("abstract:", "abstract", ("abstract",), "style"),
    ("lamp_5", "output"): ("title:", "title", ("title",), "style"),
}
CHANGED = {
    "output_field",
    "history_fields",
    "optional_fields",
    "text_field",
    "history_template",
    "personal_formats",
    "profile",
}


@pytest.mark.parametrize(("name", "side"), SIDES)
def test_one_side_of_a_task(name: str, side: Side) -> None:
    task, (word, field, fields, profile) = TASKS[name], SIDES[name, side]
    sided = one_sided(task, side)
    assert sided.output_field is None
    assert sided.history_fields == fields
    assert sided.text_field == field
    assert sided.history_template == f"{word} {{{field}}}"
    assert sided.personal_formats == (PersonalFormat(word, f"{{{field}}}"),)
    assert sided.profile == profile
    for setting in dataclasses.fields(Task):
        if setting.name not in CHANGED:
            assert getattr(sided, setting.name) == getattr(task, setting.name), setting.name
    assert sided.fingerprint not in (task.fingerprint, one_sided(task, _other(side)).fingerprint)


def _other(side: Side) -> Side:
    return "output" if side == "input" else "input"


@pytest.mark.parametrize(("name", "side"), SIDES)
def test_a_one_sided_dataset_is_stored_and_gives_prompts_and_examples(
    name: str, side: Side, tmp_path: Path
) -> None:
    task, (word, field, fields, _) = TASKS[name], SIDES[name, side]
    users = list(sample_users(task, test_users=2, other_users=3, history=(5, 8), queries=2))
    sided = (one_sided_user(task, user, side) for user in users)
    write_dataset(tmp_path / "data", one_sided(task, side), sided, {"kind": "test"})
    dataset = Dataset.open(tmp_path / "data")
    assert dataset.task == one_sided(task, side)

    plain, builder = builder_of(task), builder_of(dataset.task)
    for user, stored in zip(users, dataset.users(), strict=True):
        assert stored == one_sided_user(task, user, side)
        assert all(set(item.fields) == set(fields) for item in stored.history)
        assert stored.queries == user.queries
        texts = [" ".join(item.fields[field].split()) for item in user.training_history]
        for variant in ("base", "rag_k2", "pag_k1"):
            # Next-token prediction on the text; nothing of the other side, no instruction, no retrieval.
            assert list(builder.history_examples(variant, stored)) == [Example(word, text) for text in texts]
        for query in stored.queries:
            asked = plain.query_prompt(parse_method("non_personalized"), user, query, "").text
            assert builder.query_prompt(parse_method("non_personalized"), stored, query, "").text == asked
            for method in ("rag_k2", "recent_k2"):
                prompt = builder.query_prompt(parse_method(method), stored, query, "")
                lines = [f"{word} {' '.join(item.fields[field].split())}" for item in prompt.retrieved]
                assert len(lines) == 2
                assert prompt.text == "\n".join([*lines, asked])
            profile = compute_profile(dataset.task, stored.training_history)
            assert profile
            prompt = builder.query_prompt(parse_method("pag_k0"), stored, query, profile)
            assert prompt.text == f"{profile}\n{asked}"
        # Training examples of a task base have the prompts that are answered.
        example = next(builder.query_examples("rag_k2", stored))
        first = builder.query_prompt(parse_method("rag_k2"), stored, stored.queries[0], "")
        assert (example.prompt, example.answer) == (first.text, stored.queries[0].gold)


def test_the_profile_of_an_output_side_is_that_of_both_sides() -> None:
    for name in ("lamp_2m", "lamp_2n", "lamp_3"):
        user = next(user for user in sample_users(TASKS[name], test_users=1, other_users=0))
        sided = one_sided_user(TASKS[name], user, "output")
        expected = compute_profile(TASKS[name], user.training_history)
        assert compute_profile(one_sided(TASKS[name], "output"), sided.training_history) == expected


@pytest.mark.parametrize(("name", "side"), SIDES)
def test_a_one_sided_prompt_is_cut_at_the_item_first(name: str, side: Side) -> None:
    task, (word, field, *_) = TASKS[name], SIDES[name, side]
    sided = one_sided(task, side)
    item = HistoryItem("h", dict.fromkeys(sided.history_fields, "one two three four five six"))
    fields = dict.fromkeys(task.input_fields, "the asked text")
    query = Query("q", fields, "x", 1)
    user = User("u", "test", (item,), (query,))
    asked = f"{task.instruction}\n{task.query_text(fields)}"
    room = len(Words().prompt_ids(asked)) + task.max_answer_tokens
    for words, end in ((7, "six"), (6, "five"), (3, "two")):
        prompt = builder_of(sided, room + words).query_prompt(parse_method("rag_k1"), user, query, "")
        line, _, rest = prompt.text.partition("\n")
        assert rest == asked
        text = item.fields[field]
        assert line == f"{word} {text[: text.index(end) + len(end)]}"
    assert builder_of(sided, room).query_prompt(parse_method("rag_k1"), user, query, "").text == asked


OWN = Task(
    name="dishes",
    kind="classification",
    labels=("cook", "skip"),
    input_fields=("place", "dish"),
    output_field="verdict",
    optional_fields=("place",),
    long_field="dish",
    instruction="Would this person cook it?",
    query_template="In {place} there is {{really}} {dish}. Verdict:",
)


def test_sides_of_an_own_task_with_several_fields() -> None:
    assert OWN.history_template == "In {place} there is {{really}} {dish}. Verdict: {verdict}"
    given = one_sided(OWN, "input")
    assert given.history_template == "In {place} there is {{really}} {dish}."
    assert given.history_line({"place": "Oslo", "dish": "soup"}) == "In Oslo there is {really} soup."
    assert (given.history_fields, given.optional_fields) == (("place", "dish"), ("place",))
    answers = one_sided(OWN, "output")
    assert answers.history_line({"verdict": "skip"}) == "Verdict: skip"
    assert (answers.history_fields, answers.optional_fields) == (("verdict",), ())


def test_an_item_without_its_optional_field_is_still_read() -> None:
    items = (
        HistoryItem("0", {"place": "Oslo", "dish": "soup", "verdict": "cook"}),
        HistoryItem("1", {"place": "", "dish": "rice", "verdict": ""}),
    )
    user = User("u", "test", items, ())
    sides: tuple[Side, Side] = ("input", "output")
    given, answers = (
        list(builder_of(one_sided(OWN, side)).history_examples("base", one_sided_user(OWN, user, side)))
        for side in sides
    )
    assert given == [
        Example("In", "Oslo there is {really} soup."),
        Example("there is {really}", "rice."),
    ]
    assert answers == [Example("Verdict:", "cook")]


@pytest.mark.parametrize(
    ("template", "given", "answers"),
    [
        ('review "{text}", got {stars} of 5', 'review "{text}",', "got {stars} of 5"),
        ("{text} ({stars} stars)", "{text}", "({stars} stars)"),
        ("{stars} for: {text}", "for: {text}", "{stars}"),
        ("{stars}: {text}.", "{text}.", "{stars}:"),
        ("{text}", "{text}", "{stars}"),
        ("{stars}", "{text}", "{stars}"),
        ("{text}\nscore:\n{stars}", "{text}", "score:\n{stars}"),
    ],
)
def test_the_words_of_a_template_go_with_the_field_behind_them(
    template: str, given: str, answers: str
) -> None:
    task = Task(
        name="stars",
        kind="generation",
        input_fields=("text",),
        output_field="stars",
        instruction="Stars?",
        query_template="{text}",
        history_template=template,
    )
    assert one_sided(task, "input").history_template == given
    assert one_sided(task, "output").history_template == answers
    sides: tuple[tuple[Side, str], ...] = (("input", "text"), ("output", "stars"))
    for side, field in sides:
        (form,) = one_sided(task, side).personal_formats
        assert form.prompt, "something to predict the first word from"
        rendered = form.render({field: "{x}"})
        assert rendered is not None and rendered[1].startswith("{x}")


@pytest.mark.parametrize(("name", "side"), [*itertools.product(["lamp_1", "lamp_7"], ["input", "output"])])
def test_a_task_without_sides_is_refused(name: str, side: Side) -> None:
    with pytest.raises(ConfigError, match=r"an input and an output side \(lamp_1 and lamp_7 have none\)"):
        one_sided(TASKS[name], side)
    with pytest.raises(ConfigError, match=f"Task {name}"):
        one_sided_user(TASKS[name], User("u", "test", (), ()), side)
