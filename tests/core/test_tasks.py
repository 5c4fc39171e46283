"""Tasks as data: the paper's own words, checked when they are made."""

import dataclasses
from typing import Any

import pytest
from oppu_core.errors import ConfigError
from oppu_core.tasks import TASKS, get_task

MOVIE = TASKS["lamp_2m"]

H3 = (
    "Which tag does this movie relate to among the following tags? Just answer with the tag name without "
    "further explanation. tags: [sci-fi, based on a book, comedy, action, twist ending, dystopia, "
    "dark comedy, classic, psychology, fantasy, romance, thought-provoking, social commentary, violence, "
    "true story]\n"
    "description: A ship is lost. tag:"
)
H5 = "Generate a headline for the following article.\narticle: A ship is lost. headline:"


def test_prompts_are_those_of_appendix_h_to_the_letter() -> None:
    movie, news = TASKS["lamp_2m"], TASKS["lamp_4"]
    assert movie.instruction + "\n" + movie.query_text({"description": "A ship is lost."}) == H3
    assert news.instruction + "\n" + news.query_text({"text": "A ship is lost."}) == H5


def test_history_lines_are_those_of_the_authors_code() -> None:
    assert MOVIE.history_line({"description": "D.", "tag": "comedy"}) == "description: D. tag: comedy"
    assert TASKS["lamp_4"].history_line({"text": "T.", "title": "H"}) == "article: T. headline: H"


def test_retrieval_searches_with_the_instruction_but_without_the_label_list() -> None:
    text = MOVIE.retrieval_text({"description": "A ship is lost."})
    assert text == (
        "Which tag does this movie relate to among the following tags? Just answer with the tag name without "
        "further explanation. description: A ship is lost."
    )
    assert TASKS["lamp_4"].retrieval_text({"text": "T."}) == (
        "Generate a headline for the following article. article: T."
    )


def test_texts_with_braces_are_put_in_as_they_are() -> None:
    assert MOVIE.query_text({"description": "{tag} {0} {{"}) == "description: {tag} {0} {{ tag:"


def test_a_retrieved_line_continues_as_a_prompt_does() -> None:
    for task in TASKS.values():
        assert task.output_field is not None
        fields = {name: name.upper() for name in task.history_fields}
        inputs = {name: fields[name] for name in task.input_fields}
        assert task.history_line(fields) == f"{task.query_text(inputs)} {fields[task.output_field]}"


def test_an_unknown_task_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"'lamp2m'.*lamp_2m, lamp_4.*Did you mean lamp_2m\?"):
        get_task("lamp2m")
    with pytest.raises(ConfigError) as caught:
        get_task("something else")
    assert "lamp_2m, lamp_4" in str(caught.value)
    assert "Did you mean" not in str(caught.value)
    assert get_task("lamp_4") is TASKS["lamp_4"]


@pytest.mark.parametrize("template", ["query_template", "retrieval_template", "history_template"])
def test_a_template_may_name_only_fields_that_exist(template: str) -> None:
    with pytest.raises(ConfigError, match=r"lamp_2m.*'.*\{plot\}.*'.*unknown fields.*plot"):
        dataclasses.replace(MOVIE, **{template: "description: {plot} tag:"})


def test_a_query_template_cannot_ask_for_the_answer() -> None:
    with pytest.raises(ConfigError, match="tag"):
        dataclasses.replace(MOVIE, query_template="description: {description} tag: {tag}")
    with pytest.raises(ConfigError, match="tag"):
        dataclasses.replace(MOVIE, retrieval_template="{description} {tag}")


def test_exactly_classification_tasks_have_labels() -> None:
    with pytest.raises(ConfigError, match="labels"):
        dataclasses.replace(MOVIE, labels=())
    with pytest.raises(ConfigError, match="labels"):
        dataclasses.replace(TASKS["lamp_4"], labels=("a",))


OTHER_VALUES: dict[str, Any] = {
    "kind": "generation",
    "labels": ("a", "b"),
    "lamp_ids": ("x",),
    "input_fields": ("description", "year"),
    "history_fields": ("description", "tag", "year"),
    "output_field": None,
    "max_answer_tokens": 13,
}


def test_the_fingerprint_changes_with_the_long_field() -> None:
    two = dataclasses.replace(
        MOVIE, input_fields=("description", "year"), history_fields=("description", "year", "tag")
    )
    assert two.fingerprint != dataclasses.replace(two, long_field="year").fingerprint


@pytest.mark.parametrize(
    "changes",
    [
        {"query_template": "{} tag:"},
        {"query_template": "{description tag:"},
        {"history_template": "{director}"},
        {"long_field": "director"},
        {"output_field": "director"},
        {"labels": ()},
    ],
)
def test_a_task_that_names_what_it_does_not_have_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="lamp_2m"):
        dataclasses.replace(MOVIE, **changes)


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(MOVIE) if f.name != "long_field"])
def test_the_fingerprint_changes_with_every_field(field: str) -> None:
    value = OTHER_VALUES.get(field, getattr(MOVIE, field))
    changes = {field: value if field in OTHER_VALUES else value + "."}
    if field == "kind":
        changes["labels"] = ()
    other = dataclasses.replace(MOVIE, **changes)
    assert other.fingerprint != MOVIE.fingerprint
    if field == "kind":  # not because of the labels
        assert other.fingerprint != dataclasses.replace(other, kind="rating").fingerprint
    assert dataclasses.replace(MOVIE).fingerprint == MOVIE.fingerprint


def test_names_and_long_fields_fit_the_tasks() -> None:
    for name, task in TASKS.items():
        assert task.name == name
        assert task.long_field in task.input_fields
        assert set(task.input_fields) < set(task.history_fields)
        assert task.output_field in task.history_fields
        assert task.output_field not in task.input_fields
        assert len(set(task.labels)) == len(task.labels)
