"""The cards of a comparison: what they say, what they mark, and that texts stay texts."""

import pytest
from oppu_core.data.types import HistoryItem
from oppu_core.prompting.builder import Prompt
from oppu_core.tasks.task_files import get_task
from oppu_demo.engine import Answered
from oppu_demo.views.comparison import Column, by_prompt, compare_view, default_methods, tagline_of, title_of

MOVIES, HEADLINES, RATINGS = (get_task(name) for name in ("lamp_2m", "lamp_4", "lamp_3"))


def column(method: str, text: str, prompt: str = "prompt", items: tuple[HistoryItem, ...] = ()) -> Column:
    return Column(method, Answered(method, text, Prompt(prompt, items, ""), 0.0421))


def test_the_first_are_three_prompts_without_and_with_the_adapter() -> None:
    methods = ["non_personalized", "random_k1", "rag_k1", "rag_k4", "pag_k0", "oppu_k0", "oppu_rag_k1",
               "oppu_rag_k4", "oppu_pag_k0", "pooled_k0", "stranger_k0"]  # fmt: skip
    shown = ["non_personalized", "rag_k1", "pag_k0", "oppu_k0", "oppu_rag_k1", "oppu_pag_k0"]
    assert default_methods(methods) == shown
    assert default_methods(["rag_k2", "oppu_rag_k2"]) == ["rag_k2", "oppu_rag_k2"]
    assert default_methods(["random_k1", "oppu_k0"]) == ["oppu_k0"]


def test_answers_to_one_prompt_stand_side_by_side() -> None:
    methods = ["oppu_rag_k1", "non_personalized", "rag_k1", "oppu_k0", "pag_k0"]
    rows = by_prompt([Column(method) for method in methods])
    assert [[column.method for column in row] for row in rows] == [
        ["rag_k1", "oppu_rag_k1"], ["non_personalized", "oppu_k0"], ["pag_k0"]
    ]  # fmt: skip
    page = compare_view(MOVIES, "a robot", [column(method, "comedy") for method in methods])
    assert page.index('data-method="rag_k1"') < page.index('data-method="oppu_rag_k1"')
    assert page.count('class="oppu-cards"') == 3 and "Which of these 15 tags" in page


@pytest.mark.parametrize(
    ("method", "title", "tagline"),
    [
        ("non_personalized", "Not personalized", "Knows nothing of the person."),
        ("rag_k1", "RAG: 1 similar item", "Sees their most similar item."),
        ("recent_k2", "2 latest items", "Sees their latest items."),
        ("dense_k1", "RAG: 1 semantically similar item", "Sees their semantically most similar item."),
        ("random_k1", "1 item of others", "Sees some others’ item."),
        ("pag_k0", "PAG: profile", "Sees a text about them."),
        ("pag_k1", "PAG: profile + 1 similar item", "Sees their most similar item and a text about them."),
        ("oppu_k0", "OPPU", "Has learnt from their past."),
        (
            "oppu_rag_k4",
            "OPPU + 4 similar items",
            "Has learnt from their past, and sees their most similar items.",
        ),
        ("oppu_pag_k0", "OPPU + profile", "Has learnt from their past, and sees a text about them."),
    ],
)
def test_methods_have_names_for_people(method: str, title: str, tagline: str) -> None:
    assert (title_of(method), tagline_of(method)) == (title, tagline)


def test_words_that_differ_from_the_generic_answer_are_marked() -> None:
    columns = [column("non_personalized", "A ship sinks at sea"), column("oppu_k0", "A ship drowns at Sea!")]
    page = compare_view(HEADLINES, "news", columns)
    assert "A ship sinks at sea" in page and "<mark>drowns</mark>" in page and "<mark>Sea!</mark>" in page
    assert page.count("<mark>") == 2 + 1, "and the legend's"
    same = compare_view(HEADLINES, "news", [columns[0], column("oppu_k0", "A ship sinks at sea")])
    assert same.count("<mark>") == 1


def test_gold_is_hidden_until_it_is_asked_for() -> None:
    columns = [column("non_personalized", "comedy"), column("oppu_k0", "dystopia")]
    hidden = compare_view(MOVIES, "a robot", columns, gold="dystopia")
    assert "own answer" not in hidden and "right" not in hidden and hidden.count("dystopia") == 1
    shown = compare_view(MOVIES, "a robot", columns, gold="dystopia", reveal=True)
    assert "<strong>dystopia</strong>" in shown
    assert shown.index(">wrong<") < shown.index(">right<")
    assert "is not known" in compare_view(MOVIES, "a robot", columns, gold=None, reveal=True)


def test_ratings_and_texts_are_scored_as_they_are_measured() -> None:
    ratings = [column("non_personalized", "2"), column("oppu_k0", "5"), column("rag_k1", "none")]
    page = compare_view(RATINGS, "a review", ratings, gold="5", reveal=True)
    assert "off by 3" in page and ">right<" in page and "off by 4" in page
    texts = compare_view(HEADLINES, "news", [column("oppu_k0", "a b")], gold="a c", reveal=True)
    assert "ROUGE-1 0.50" in texts


def test_texts_stay_texts() -> None:
    evil = "<img src=x onerror=alert(1)>"
    item = HistoryItem("i", {"description": evil, "tag": evil})
    columns = [
        column("non_personalized", "comedy"),
        column("rag_k1", evil, evil, (item,)),
        Column("oppu_k0", problem=evil),
    ]
    page = compare_view(MOVIES, evil, columns, gold=evil, reveal=True)
    assert "<img" not in page and page.count("&lt;img") >= 5
    assert "\ud800" not in compare_view(MOVIES, "\ud800", columns)


def test_what_is_awaited_and_what_failed() -> None:
    waiting = compare_view(
        MOVIES, "a robot", [Column("non_personalized"), Column("oppu_k0", problem="no adapter")]
    )
    assert "oppu-waiting" in waiting and "no adapter" in waiting and "The exact prompt" not in waiting
    empty = compare_view(MOVIES, "a robot", [column("non_personalized", "")])
    assert "(no words)" in empty
    slow = Answered("oppu_k0", "x", Prompt("p", (), ""), 2.34)
    assert "2.3 s" in compare_view(MOVIES, "a robot", [Column("oppu_k0", slow)])
