"""One form for what is compared: white space, Unicode, numbers, and words of any script."""

import unicodedata
from typing import Any

import pytest
from oppu_core.errors import ConfigError
from oppu_core.tasks.task import Task
from oppu_core.texts import as_number, normal, number_text, script_words, unseen

SPELLINGS = [
    "true story",
    "true\u00a0story",
    "  true \t story\n",
    "true\u3000story",
    "true\u2009story\ufeff",
    "\u200btrue sto\u00adry",
]


def genres(*labels: str, **more: Any) -> Task:
    return Task(
        name="genres",
        kind="classification",
        input_fields=("text",),
        output_field="genre",
        instruction="Which of {labels}?",
        query_template="text: {text} genre:",
        labels=labels,
        **more,
    )


@pytest.mark.parametrize("text", SPELLINGS)
def test_a_label_is_known_whatever_its_white_space(text: str) -> None:
    task = genres("true story", "dark comedy")
    assert task.label_of(text) == "true story"
    assert task.answer_of(text) == "true story"


def test_a_label_is_known_in_both_unicode_forms() -> None:
    composed, apart = "théâtre", unicodedata.normalize("NFD", "théâtre")
    assert composed != apart
    for form in (composed, apart):
        assert (
            genres(form, "comédie").label_of(composed) == genres(form, "comédie").label_of(apart) == composed
        )


@pytest.mark.parametrize("text", ["1", "1.0", "1.00", " 1. ", "+1", "01", "1e0", "１"])
def test_a_label_that_is_a_number_is_known_by_its_value(text: str) -> None:
    assert genres("0", "1").label_of(text) == "1"


@pytest.mark.parametrize("text", ["", "true", "True story", "true story.", "truestory", "1", "0.99", "nan"])
def test_what_is_no_label_is_none(text: str) -> None:
    assert genres("true story", "2", "-1").label_of(text) is None


def test_labels_of_one_value_are_told_by_their_spelling_alone() -> None:
    versions = genres("1.1", "1.10", "2.0")
    assert [versions.label_of(text) for text in ("1.1", "1.10", "1.100", "2")] == ["1.1", "1.10", None, "2.0"]


@pytest.mark.parametrize(
    "labels", [("a b", "a\u00a0b"), ("é", "e\u0301"), ("x", " x"), ("", "y"), ("\u200b", "y")]
)
def test_labels_that_are_one_or_none_are_refused(labels: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="labels must differ and must not be empty"):
        genres(*labels)


def test_the_prompt_shows_labels_in_their_normal_form() -> None:
    assert genres("true\u00a0story", "x").instruction == "Which of true story, x?"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("5.0", "5"), ("5.00", "5"), ("5", "5"), ("3.70", "3.7"), ("-0.0", "0"), ("1e3", "1000"), ("", ""),
        ("3.700000047683716", "3.7"), ("4.900000095367432", "4.9"), ("0.10000000149011612", "0.1"),
        ("3.141592653589793", "3.141592653589793"), ("16777217.0", "16777217"), ("five", "five"),
        ("9007199254740993", "9007199254740993"), ("1e400", "1e400"), ("1714521600.5", "1714521600.5"),
        ("5,0", "5,0"),
    ],
)  # fmt: skip
def test_a_number_is_written_in_one_way(text: str, says: str) -> None:
    assert number_text(text) == says
    assert number_text(says) == says


@pytest.mark.parametrize("text", ["", "five", "5,0", "nan", "inf", "1_000", "0x10", "1 2", "--1", "1e"])
def test_what_is_no_finite_number_is_none(text: str) -> None:
    assert as_number(text) is None


def test_words_of_any_script() -> None:
    assert script_words("Новый мост, 新桥 2024!") == ["новый", "мост", "新", "桥", "2024"]
    assert script_words("こんにちは、カタカナ") == list("こんにちはカタカナ")
    assert script_words("हिन्दी भाषा") == ["हिन्दी", "भाषा"]
    assert script_words("한국어 문장") == ["한국어", "문장"]
    assert script_words("Don't  PANIC_now") == ["don", "t", "panic", "now"]
    assert "".join(script_words("ภาษาไทยง่าย")) == "ภาษาไทยง่าย"
    assert len(script_words("ภาษาไทยง่าย")) > 5
    assert script_words("ＡＢＣ ｅ́") == ["abc", "é"]
    assert script_words("!? … 、。") == []


@pytest.mark.parametrize(
    ("text", "is_unseen"),
    [
        ("新桥今天通车", True), ("Привет, world", True), ("à la bonne heure", False), ("2024", False),
        ("", False),
    ],
)  # fmt: skip
def test_texts_that_the_official_scorer_does_not_see(text: str, is_unseen: bool) -> None:
    assert unseen(text) == is_unseen


def test_the_normal_form_is_stable() -> None:
    for text in (*SPELLINGS, "e\u0301\u00a0x", "ภาษา\u200bไทย"):
        assert normal(normal(text)) == normal(text)
