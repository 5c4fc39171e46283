"""Tasks as data: the paper's own words, checked when they are made; own tasks from TOML."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from oppu_core.errors import ConfigError
from oppu_core.tasks.task import PersonalFormat, Task
from oppu_core.tasks.task_files import TASKS, get_task, load_task, task_from

MOVIE, CITATION = TASKS["lamp_2m"], TASKS["lamp_1"]

# OPPU, Appendix H, and the history lines of the authors' code: {task: (fields, prompt, history line)}.
WORDS = {
    "lamp_1": (
        {"title": "T", "option_1": "A", "option_2": "B"},
        "Identify the most relevant reference for the listed publication by the researcher. Select the "
        "reference paper that is most closely related to the researcher's work. Please respond with only the "
        "number that corresponds to the reference.\n"
        "paper title: T\nreference: [1] - A [2] - B\nanswer:",
        "paper title: T",
    ),
    "lamp_2n": (
        {"text": "X."},
        "Which category does this article relate to among the following categories? Just answer with the "
        "category name without further explanation. categories: [travel, education, parents, style & beauty, "
        "entertainment, food & drink, science & technology, business, sports, healthy living, women, "
        "politics, crime, culture & arts, religion]\narticle: X. category:",
        "article: X. category: CATEGORY",
    ),
    "lamp_2m": (
        {"description": "X."},
        "Which tag does this movie relate to among the following tags? Just answer with the tag name without "
        "further explanation. tags: [sci-fi, based on a book, comedy, action, twist ending, dystopia, "
        "dark comedy, classic, psychology, fantasy, romance, thought-provoking, social commentary, violence, "
        "true story]\ndescription: X. tag:",
        "description: X. tag: TAG",
    ),
    "lamp_3": (
        {"text": "X."},
        "What is the score of the following review on a scale of 1 to 5? just answer with 1, 2, 3, 4, or 5 "
        "without further explanation.\nreview: X. score:",
        "review: X. score: SCORE",
    ),
    "lamp_4": (
        {"text": "X."},
        "Generate a headline for the following article.\narticle: X. headline:",
        "article: X. headline: TITLE",
    ),
    "lamp_5": (
        {"abstract": "X."},
        "Generate a title for the following abstract of a paper.\nabstract: X. title:",
        "abstract: X. title: TITLE",
    ),
    "lamp_7": (
        {"text": "X."},
        "Following the given pattern, paraphrase the following text into tweet without any explanation "
        "before or after it.\ntext: X. tweet:",
        "tweet: X.",
    ),
}


# LongLaMP's inputs (arXiv 2407.11016) have no form in OPPU: this is ours.
LONG = {
    "longlamp_abstract": (
        {"title": "T", "items": "X."},
        "Generate an abstract for the following title of a paper, using the following items.\n"
        "title: T items: X. abstract:",
        "title: T abstract: ABSTRACT",
    ),
    "longlamp_review": (
        {"overall": "5.0", "description": "X.", "summary": "S"},
        "Generate the review text of a reviewer who has given this overall rating and this summary, for a "
        "product with the following description.\nrating: 5.0 description: X. summary: S review:",
        "rating: 5.0 description: X. summary: S review: REVIEWTEXT",
    ),
    "longlamp_topic": (
        {"summary": "X."},
        "Generate the content for a reddit post with the following summary.\nsummary: X. content:",
        "summary: X. content: CONTENT",
    ),
}
WORDS |= LONG


def test_all_tasks_are_there() -> None:
    assert list(TASKS) == list(WORDS)
    assert all(task.name == name for name, task in TASKS.items())


@pytest.mark.parametrize("name", WORDS)
def test_prompts_and_history_lines_are_the_papers_to_the_letter(name: str) -> None:
    task, (fields, prompt, line) = TASKS[name], WORDS[name]
    made = task.instruction + "\n" + task.query_text(fields)
    assert re.sub(r"\s+", " ", made) == re.sub(r"\s+", " ", prompt)
    assert task.query_text(fields).endswith(":")
    item = {field: field.upper() for field in task.history_fields} | {
        field: text for field, text in fields.items() if field in task.history_fields
    }
    assert task.history_line(item) == line
    assert "\n" not in task.history_line(item)


@pytest.mark.parametrize("name", WORDS)
def test_retrieval_searches_with_the_query_but_without_the_label_list(name: str) -> None:
    task, (fields, _, _) = TASKS[name], WORDS[name]
    text = task.retrieval_text(fields)
    assert all(value in text for value in fields.values())
    if task.kind == "classification" and len(task.labels) > 2:
        assert not any(label in text for label in task.labels)


# The raw `input` strings of LaMP.
RAW = {
    "lamp_1": 'For an author who has written the paper with the title "T", which reference is related? Just '
    'answer with [1] or [2] without explanation. [1]: "A" [2]: "B"',
    "lamp_2n": "Which category does this article relate to among the following categories? Just answer with "
    "the category name without further explanation. categories: [travel, women] article: X.",
    "lamp_2m": "Which tag does this movie relate to among the following tags? Just answer with the tag name "
    "without further explanation. tags: [sci-fi] description: X.",
    "lamp_3": "What is the score of the following review on a scale of 1 to 5? just answer with 1, 2, 3, 4, "
    "or 5 without further explanation. review: X.",
    "lamp_4": "Generate a headline for the following article: X.",
    "lamp_5": "Generate a title for the following abstract of a paper: X.",
    "lamp_7": "Paraphrase the following tweet without any explanation before or after it: X.",
    "longlamp_abstract": 'Generate an abstract for the title "T" using the following items: X.',
    "longlamp_review": "Generate the review text written by a reviewer who has a given an overall rating of "
    '"5.0" for a product with description "X.". The summary of the review text is "S".',
    "longlamp_topic": "Generate the content for a reddit post X.",
}


def test_quotes_and_gaps_in_a_review_s_input_do_no_harm() -> None:
    def asked(overall: str, description: str, summary: str) -> str:
        return (
            f"Generate the review text written by a reviewer who has given an overall rating of {overall} "
            f"for a product with description {description}. The summary of the review text is {summary}."
        )

    review = TASKS["longlamp_review"]
    rated = {"overall": "4.0", "description": 'A "5.0" mm jack. Fits.', "summary": "Good. Not great."}
    for mark in ('"', "'", ""):
        assert review.parse_input(asked(*(mark + text + mark for text in rated.values()))) == rated
    assert review.parse_input(asked("3.0", '""', '""')) == {
        "overall": "3.0",
        "description": "",
        "summary": "",
    }


@pytest.mark.parametrize("name", RAW)
def test_a_raw_input_gives_the_querys_fields(name: str) -> None:
    assert TASKS[name].parse_input(RAW[name]) == WORDS[name][0]
    assert TASKS[name].parse_input("What is love?") is None


@pytest.mark.parametrize("name", RAW)
def test_a_text_that_looks_like_the_instruction_is_text(name: str) -> None:
    """The first match ends the instruction, and a text may have several lines."""
    task = TASKS[name]
    if len(task.input_fields) == 1:
        text = f"One.\n{RAW[name]}\nTwo."
        assert task.parse_input(RAW[name].removesuffix("X.") + text) == {task.long_field: text}


def test_texts_with_braces_are_put_in_as_they_are() -> None:
    assert MOVIE.query_text({"description": "{tag} {0} {{"}) == "description: {tag} {0} {{ tag:"
    rendered = CITATION.personal_formats[0].render({"title": "{x}", "abstract": "", "citation": "{title}"})
    assert rendered == ("paper title: {x} reference:", "{title}")


# The history of longlamp_abstract has no items to continue.
@pytest.mark.parametrize(
    "name", [name for name, task in TASKS.items() if task.output_field][:-3] + list(LONG)[1:]
)
def test_a_retrieved_line_continues_as_a_prompt_does(name: str) -> None:
    task = TASKS[name]
    fields = {field: field.upper() for field in task.history_fields}
    inputs = {field: fields[field] for field in task.input_fields}
    assert task.history_line(fields) == f"{task.query_text(inputs)} {fields[task.output_field or '']}"


def test_an_unknown_task_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"'lamp2m'.*lamp_2m, .*lamp_7.*Did you mean lamp_2m\?"):
        get_task("lamp2m")
    with pytest.raises(ConfigError) as caught:
        get_task("something else")
    assert "lamp_4" in str(caught.value) and "Did you mean" not in str(caught.value)
    assert get_task("lamp_4") is load_task("lamp_4") is TASKS["lamp_4"]


@pytest.mark.parametrize("template", ["query_template", "retrieval_template", "history_template"])
def test_a_template_may_name_only_fields_that_exist(template: str) -> None:
    with pytest.raises(ConfigError, match=r"lamp_2m.*'.*\{plot\}.*'.*unknown fields.*plot"):
        dataclasses.replace(MOVIE, **{template: "description: {description} {plot} tag:"})


@pytest.mark.parametrize("template", ["query_template", "retrieval_template"])
def test_no_template_of_a_query_can_ask_for_the_answer(template: str) -> None:
    with pytest.raises(ConfigError, match="unknown fields tag"):
        dataclasses.replace(MOVIE, **{template: "description: {description} tag: {tag}"})


BAD: dict[str, tuple[Task, dict[str, Any], str]] = {
    "nameless field": (MOVIE, {"query_template": "{} tag:"}, "unknown fields"),
    "open brace": (MOVIE, {"query_template": "{description tag:"}, "template"),
    "query without its long field": (MOVIE, {"query_template": "tag:"}, r"does not name \{description\}"),
    "long field": (MOVIE, {"long_field": "director"}, "long_field 'director' is no input field"),
    "output field": (MOVIE, {"output_field": "director"}, "output_field 'director' is no history field"),
    "text field": (MOVIE, {"text_field": "director"}, "text_field 'director' is no history field"),
    "optional field": (MOVIE, {"optional_fields": ("director",)}, "optional_fields 'director'"),
    "classification without labels": (MOVIE, {"labels": ()}, "need labels"),
    "generation with labels": (TASKS["lamp_4"], {"labels": ("a",)}, "generation has none"),
    "a label twice": (MOVIE, {"labels": ("a", "a")}, "labels must differ"),
    "an empty label": (MOVIE, {"labels": ("a", " ")}, "must not be empty"),
    "a rating in words": (TASKS["lamp_3"], {"labels": ("1", "good")}, "are numbers"),
    "an infinite rating": (TASKS["lamp_3"], {"labels": ("1", "nan")}, "are numbers"),
    "kind": (MOVIE, {"kind": "guessing"}, "kind is 'guessing'"),
    "name": (MOVIE, {"name": "../movies"}, "lower-case letters"),
    "no input": (MOVIE, {"input_fields": ()}, "input_fields is empty"),
    "history lacks the input": (MOVIE, {"history_fields": ("tag",)}, "unknown fields description"),
    "no pattern": (MOVIE, {"input_pattern": "("}, "no regular expression"),
    "pattern without its groups": (MOVIE, {"input_pattern": "(?P<tag>.*)"}, "groups description"),
    "no answer, nothing to learn": (CITATION, {"personal_formats": ()}, "needs personal_formats"),
    "format of unknown fields": (
        CITATION,
        {"personal_formats": (PersonalFormat("paper:", "{year}"),)},
        "unknown fields year",
    ),
    "answer and formats": (
        MOVIE,
        {"personal_formats": (PersonalFormat("tag:", "{tag}"),)},
        "histories without an output_field",
    ),
    "usual scores of no rating": (MOVIE, {"profile": "usual_scores"}, "one of ratings"),
    "a metric of another kind": (MOVIE, {"metrics": ("rouge_1",)}, "metrics are some of accuracy, macro_f1"),
    "a metric twice": (TASKS["lamp_4"], {"metrics": ("meteor", "meteor")}, "each once"),
    "long field of a history": (MOVIE, {"long_history_field": "x"}, "long_history_field 'x' is no history"),
    "no room for an answer": (MOVIE, {"max_answer_tokens": -1}, "at least 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_task_that_contradicts_itself_is_refused(case: str) -> None:
    task, changes, expected = BAD[case]
    with pytest.raises(ConfigError, match=expected) as caught:
        dataclasses.replace(task, **changes)
    assert case == "name" or task.name in str(caught.value)


def test_a_format_needs_its_fields() -> None:
    paper = {"title": "T", "abstract": "", "citation": ""}
    forms = CITATION.personal_formats
    assert [form.render(paper) for form in forms] == [None, None, ("paper title:", "T")]
    assert forms[0].render({**paper, "citation": "C"}) == ("paper title: T reference:", "C")
    assert forms[1].render({**paper, "abstract": "A"}) == ("paper title:", "T abstract: A")


# --- the fingerprint: what prompts and examples are made from, and nothing else --------------------------

ABOUT = {
    "title",
    "question",
    "metrics",
    "lamp_ids",
    "paper_id",
    "release_name",
    "official_folder",
    "longlamp_config",
    "input_pattern",
    "profile_prompt",
}
OTHER_VALUES: dict[str, Any] = {
    "kind": "rating",
    "metrics": ("macro_f1", "accuracy"),
    "long_history_field": "tag",
    "labels": ("a", "b"),
    "lamp_ids": ("x",),
    "optional_fields": ("tag",),
    "profile": "style",
    "input_pattern": "(?P<description>.+)",
    "output_field": "description",
    "text_field": "description",
    "max_answer_tokens": 13,
    "words": "script",
}


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Task)])
def test_the_fingerprint_changes_with_what_prompts_are_made_from(field: str) -> None:
    task = dataclasses.replace(
        MOVIE, labels=("1", "2"), input_fields=("description",), history_fields=("description", "tag", "year")
    )
    two = dataclasses.replace(
        task,
        input_fields=("description", "year"),
        input_pattern="(?P<description>.*) (?P<year>.*)",
        long_field="year",
        query_template="{description} {year}",
    )
    if field == "long_field":
        task, changes = two, {"long_field": "description"}
    elif field == "input_fields":
        task, changes = two, {"input_fields": ("year", "description")}
    elif field == "history_fields":
        changes = {"history_fields": ("description", "tag")}
    elif field == "personal_formats":
        task = CITATION
        changes = {"personal_formats": CITATION.personal_formats[:1]}
    else:
        changes = {field: OTHER_VALUES.get(field, str(getattr(task, field)) + "x")}
    other = dataclasses.replace(task, **changes)
    assert other != task
    assert (other.fingerprint == task.fingerprint) == (field in ABOUT)


# --- own tasks -------------------------------------------------------------------------------------------

OWN = """
name = "recipes"
kind = "classification"
labels = ["sweet", "salty"]
input_fields = ["text"]
output_field = "taste"
instruction = "Which of {labels}?"
query_template = "recipe: {text} taste:"
"""


def own(tmp_path: Path, text: str = OWN) -> Task:
    file = tmp_path / "task.toml"
    file.write_text(text)
    return load_task(str(file))


def test_an_own_task_fills_in_what_it_leaves_out(tmp_path: Path) -> None:
    task = own(tmp_path)
    assert task.instruction == "Which of sweet, salty?"
    assert (task.title, task.long_field, task.text_field) == ("recipes", "text", "taste")
    assert task.history_fields == ("text", "taste")
    assert task.history_line({"text": "Pie.", "taste": "sweet"}) == "recipe: Pie. taste: sweet"
    assert task.retrieval_text({"text": "Pie."}) == task.query_text({"text": "Pie."})
    assert task.parse_input("Pie.\nApple.") == {"text": "Pie.\nApple."}
    assert (task.profile, task.max_answer_tokens) == ("most_frequent_answer", 16)
    assert "taste" in task.profile_prompt


def test_an_own_task_travels_as_json(tmp_path: Path) -> None:
    for task in (own(tmp_path), *TASKS.values()):
        assert task_from(dataclasses.asdict(task), "dataset.json") == task


OWN_BAD = {
    "not TOML": ("name = ", "not TOML"),
    "a setting too many": (OWN + 'colour = "red"', "no setting 'colour'"),
    "a misspelt setting": (OWN + 'output_feild = "x"', "Did you mean output_field"),
    "a setting too few": (OWN.replace('kind = "classification"', ""), "'kind' is missing"),
    "labels as text": (OWN.replace('["sweet", "salty"]', '"sweet"'), "labels must be a list of texts"),
    "numbers as labels": (OWN.replace('["sweet", "salty"]', "[1, 2]"), "labels must be a list of texts"),
    "a text as number": (OWN + 'max_answer_tokens = "9"', "max_answer_tokens must be a whole number"),
    "yes as number": (OWN + "max_answer_tokens = true", "max_answer_tokens must be a whole number"),
    "a number as text": (OWN + "title = 3", "title must be text"),
    "formats as text": (OWN + 'personal_formats = ["x"]', "each with prompt and target"),
    "LaMP's name": (OWN.replace("recipes", "lamp_4"), "lamp_4 is a packaged task"),
    "an unknown profile": (OWN + 'profile = "horoscope"', "horoscope"),
}


@pytest.mark.parametrize("case", OWN_BAD)
def test_a_slip_in_an_own_task_is_named_with_its_file(case: str, tmp_path: Path) -> None:
    text, expected = OWN_BAD[case]
    with pytest.raises(ConfigError, match=expected) as caught:
        own(tmp_path, text)
    assert "task.toml" in str(caught.value)


def test_a_task_file_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml cannot be read"):
        load_task(str(tmp_path / "nowhere.toml"))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary\.toml"):
        load_task(str(tmp_path / "binary.toml"))
