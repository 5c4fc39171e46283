"""Histories without the task's format: next-token texts."""

import dataclasses

import pytest
from oppu_core.data import HistoryItem, Query, User
from oppu_core.prompting.methods import parse_method
from oppu_core.tasks.task import PersonalFormat, Task
from oppu_core.tasks.task_files import TASKS
from prompt_toys import Letters, Words, builder_of

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
