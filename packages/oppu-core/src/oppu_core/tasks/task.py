"""Tasks as data: each is a frozen :class:`Task`, and no code knows a task by its name.

:mod:`oppu_core.tasks.task_files` reads them from TOML files.
"""

import dataclasses
import decimal
import functools
import re
import string
from collections.abc import Mapping
from typing import Any, Literal, NoReturn, get_args

from oppu_core.errors import ConfigError
from oppu_core.storage.files import content_id
from oppu_core.texts import as_number, label_key, normal

Kind = Literal["classification", "rating", "generation"]
ProfileKind = Literal["most_frequent_answer", "prose", "style", "topics", "usual_scores"]
Words = Literal["official", "script"]
# The metrics of each kind; the first two are the usual ones.
METRICS: Mapping[Kind, tuple[str, ...]] = {
    "classification": ("accuracy", "macro_f1"),
    "rating": ("mae", "rmse"),
    "generation": ("rouge_1", "rouge_l", "meteor"),
}

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
# Not used in prompts or training examples: a new title is no reason to train again.
_ABOUT = (
    "title", "question", "metrics", "lamp_ids", "paper_id", "release_name", "official_folder",
    "longlamp_config", "input_pattern", "profile_prompt",
)  # fmt: skip
# Settings that came later, with what they mean by default: tasks without them keep their fingerprint.
_SINCE = {"words": "official", "long_history_field": ""}


@dataclasses.dataclass(frozen=True)
class PersonalFormat:
    """How a history item without an answer becomes training text: `target`, written after `prompt`."""

    prompt: str
    target: str

    def render(self, fields: Mapping[str, str]) -> tuple[str, str] | None:
        """(prompt, target) for an item, or None if it lacks one of the fields."""
        if not all(fields[name] for name in (*_fields_of(self.prompt), *_fields_of(self.target))):
            return None
        return self.prompt.format(**fields), self.target.format(**fields)


@dataclasses.dataclass(frozen=True)
class Task:
    """One personalization task.

    Fields with a default may be left out of a task file; empty texts and tuples are then filled in.

    Attributes:
        name: Our name, e.g. ``lamp_2m``; also the name of files and folders.
        kind: ``classification``, ``rating`` or ``generation``; decides which metrics are possible.
        input_fields: Fields of a query.
        instruction: What the model is asked, before the query; ``{labels}`` stands for the label list.
        query_template: The query after the instruction; ends where the answer starts.
        title: A title for people.
        question: What is asked of a person, in a sentence for people; by default from the kind of task.
        metrics: Some of the kind's :data:`METRICS`, the primary one first; none for the usual ones.
        labels: All possible answers (classification, rating), else empty. Ratings are numbers.
        output_field: The history field that holds the answer; None if history items have no answers.
        history_fields: Fields of a history item; by default the input fields and the output field.
        optional_fields: History fields that may be missing or empty; in a query, too, if they are inputs.
        text_field: The history field that computed profiles are about; by default the output field.
        long_field: The input field that is cut when a prompt is too long; by default the first.
        long_history_field: The field that is cut in retrieved items; by default the same, or, if a history
            lacks it, the text field.
        input_pattern: A regular expression that splits a raw LaMP `input` into the input fields, with a group
            named after each; by default the whole text is the only field.
        history_template: One retrieved history item on one line; by default the query with its answer.
        retrieval_template: The text that retrieval searches with (instruction without the label list).
        personal_formats: Without an output field: what is trained on, by the first format that fits an item.
        profile: The computed profile (a name in :data:`oppu_core.prompting.profiles.PROFILES`).
        profile_prompt: The instruction for a profile written by a language model (Appendix I).
        max_answer_tokens: The most tokens of an answer; raised where a label needs more.
        lamp_ids: Names in LaMP label and prediction files; the first is the official one.
        paper_id: The name in the paper's tables.
        release_name: The folder in the authors' release.
        official_folder: The folder on LaMP's official host; empty for other tasks.
        longlamp_config: The configuration in LongLaMP's repository, without its setting; likewise.
        words: How BM25 and ROUGE split texts into words: ``official``, as in the authors' code and LaMP's
            scorer (at spaces; a-z and 0-9), or ``script``, as :func:`oppu_core.texts.script_words` does.
    """

    name: str
    kind: Kind
    input_fields: tuple[str, ...]
    instruction: str
    query_template: str
    title: str = ""
    question: str = ""
    metrics: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    output_field: str | None = None
    history_fields: tuple[str, ...] = ()
    optional_fields: tuple[str, ...] = ()
    text_field: str = ""
    long_field: str = ""
    long_history_field: str = ""
    input_pattern: str = ""
    history_template: str = ""
    retrieval_template: str = ""
    personal_formats: tuple[PersonalFormat, ...] = ()
    profile: str = ""
    profile_prompt: str = ""
    max_answer_tokens: int = 0
    lamp_ids: tuple[str, ...] = ()
    paper_id: str = ""
    release_name: str = ""
    official_folder: str = ""
    longlamp_config: str = ""
    words: str = "official"

    def __post_init__(self) -> None:
        """Fill in what was left out and check the rest, so that mistakes in a task file fail at once."""
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"task {self.name!r}: a name is lower-case letters, digits and underscores.")
        if self.kind not in get_args(Kind):
            self._refuse(f"kind is {self.kind!r}; it must be one of {', '.join(get_args(Kind))}")
        if not self.input_fields:
            self._refuse("input_fields is empty; a query needs a field")
        if (self.kind == "generation") == bool(self.labels):
            self._refuse("classification and rating need labels, generation has none")
        object.__setattr__(self, "labels", tuple(map(normal, self.labels)))
        if len(self._labels) < len(self.labels) or not all(self._labels):
            self._refuse("labels must differ and must not be empty")
        if self.kind == "rating" and None in map(as_number, self.labels):
            self._refuse("the labels of a rating are numbers")
        for name, value in self._defaults().items():
            if not getattr(self, name):
                object.__setattr__(self, name, value)
        self._check_choices()
        object.__setattr__(self, "instruction", self.instruction.replace("{labels}", ", ".join(self.labels)))
        self._check_fields()
        try:
            groups = set(re.compile(self.input_pattern).groupindex)
        except re.error as error:
            self._refuse(f"input_pattern is no regular expression: {error}")
        if groups != set(self.input_fields):
            self._refuse(f"input_pattern must have the groups {', '.join(self.input_fields)}")
        if self.max_answer_tokens < 1:
            self._refuse("max_answer_tokens must be at least 1")

    def _defaults(self) -> dict[str, Any]:
        output = (self.output_field,) if self.output_field else ()
        history = self.history_fields or (*self.input_fields, *output)
        written = f"{self.query_template.strip()} {{{self.output_field}}}"
        short = self.kind != "generation"
        about = self.output_field or history[0]
        asked = f"Which of these {len(self.labels)} answers would this person give?"
        return {
            "title": self.name,
            "question": asked if short else f"Which {about.replace('_', ' ')} would this person write?",
            "history_fields": history,
            "text_field": about,
            "long_field": self.input_fields[0],
            "input_pattern": "".join(f"(?P<{name}>.*)" for name in self.input_fields),
            "history_template": written if self.output_field else " ".join(f"{{{name}}}" for name in history),
            "retrieval_template": self.query_template,
            "profile": "most_frequent_answer" if short and self.output_field else "style",
            "profile_prompt": f"Describe in one or two sentences what is typical of this user's {about}.",
            "max_answer_tokens": 16 if short else 64,
        }

    def _check_fields(self) -> None:
        known: dict[str, tuple[str, ...]] = {
            "query_template": self.input_fields,
            "retrieval_template": self.input_fields,
            "history_template": self.history_fields,
        }
        templates = [(getattr(self, name), fields) for name, fields in known.items()]
        for form in self.personal_formats:
            templates += [(form.prompt, self.history_fields), (form.target, self.history_fields)]
        for template, fields in templates:
            try:
                unknown = _fields_of(template) - set(fields)
            except ValueError as error:
                self._refuse(f"template {template!r}: {error}")
            if unknown:
                self._refuse(f"template {template!r} names unknown fields {', '.join(sorted(unknown))}")
        for name, value, fields, what in (
            ("long_field", self.long_field, self.input_fields, "input"),
            ("text_field", self.text_field, self.history_fields, "history"),
            ("output_field", self.output_field, self.history_fields, "history"),
            ("long_history_field", self.long_history_field or None, self.history_fields, "history"),
            *(("optional_fields", each, self.history_fields, "history") for each in self.optional_fields),
        ):
            if value is not None and value not in fields:
                self._refuse(f"{name} {value!r} is no {what} field")
        if self.output_field is None and not self.personal_formats:
            self._refuse("without an output_field it needs personal_formats: what an adapter learns from")
        if self.output_field is not None:
            if self.personal_formats:
                self._refuse("personal_formats are for histories without an output_field")
            if lacking := set(self.input_fields) - set(self.history_fields):
                self._refuse(f"history_fields lack the input field {', '.join(sorted(lacking))}")
        if self.long_field not in _fields_of(self.query_template):
            self._refuse(f"query_template does not name {{{self.long_field}}}")

    def _check_choices(self) -> None:
        if self.words not in get_args(Words):
            self._refuse(f"words is {self.words!r}; it must be one of {', '.join(get_args(Words))}")
        possible = METRICS[self.kind]
        if not set(self.metrics) <= set(possible) or len(set(self.metrics)) < len(self.metrics):
            self._refuse(f"metrics are some of {', '.join(possible)}, each once")
        if self.profile not in get_args(ProfileKind):
            self._refuse(f"profile is {self.profile!r}; it must be one of {', '.join(get_args(ProfileKind))}")
        if self.profile == "usual_scores" and self.kind != "rating":
            self._refuse("the profile usual_scores is one of ratings")

    def _refuse(self, problem: str) -> NoReturn:
        raise ConfigError(f"task {self.name}: {problem}.")

    @property
    def fingerprint(self) -> str:
        """The sha256 of everything that goes into prompts and training examples."""
        about = (*_ABOUT, *(name for name, usual in _SINCE.items() if getattr(self, name) == usual))
        return content_id({k: v for k, v in dataclasses.asdict(self).items() if k not in about})

    @property
    def cut_field(self) -> str:
        """The field that is cut in retrieved items."""
        long = self.long_field if self.long_field in self.history_fields else self.text_field
        return self.long_history_field or long

    @functools.cached_property
    def _labels(self) -> Mapping[str, str]:
        return {label_key(label): label for label in self.labels}

    @functools.cached_property
    def _numbers(self) -> Mapping[decimal.Decimal, str | None]:
        """Labels that are numbers, by value; None if several labels have the same value."""
        numbers: dict[decimal.Decimal, str | None] = {}
        for label in self.labels:
            if (number := as_number(label)) is not None:
                numbers[number] = None if number in numbers else label
        return numbers

    @property
    def labelled_history(self) -> bool:
        """Whether history items hold labels."""
        return bool(self.labels) and self.output_field is not None

    def label_of(self, text: str) -> str | None:
        """The label that a text means, whatever its white space, Unicode form and zeros; None if none."""
        key = label_key(text)
        if key in self._labels or not self._numbers:
            return self._labels.get(key)
        number = as_number(key)
        return None if number is None else self._numbers.get(number)

    def answer_of(self, text: str) -> str:
        """An answer as it is trained on and compared: the label that it means, else its normal form."""
        return self.label_of(text) or normal(text)

    def query_text(self, fields: Mapping[str, str]) -> str:
        """The query as it appears in the prompt, after the instruction."""
        return self.query_template.format(**fields)

    def history_line(self, fields: Mapping[str, str]) -> str:
        """A history item on one line, answer included."""
        return self.history_template.format(**fields)

    def retrieval_text(self, fields: Mapping[str, str]) -> str:
        """What retrieval searches with."""
        return self.retrieval_template.format(**fields)

    def parse_input(self, text: str) -> dict[str, str] | None:
        """The query's fields from a raw LaMP `input`, or None if it is not of this task.

        The first match counts: it ends the instruction, and any later match is part of the text.
        """
        match = re.search(self.input_pattern, text, re.DOTALL)
        return match.groupdict() if match else None


def _fields_of(template: str) -> set[str]:
    """The fields that a template names; a ValueError if it is not a template."""
    parts = [part for part in string.Formatter().parse(template) if part[1] is not None]
    if any(form or conversion for _, _, form, conversion in parts):
        raise ValueError("between the braces stands the name of a field alone")
    return {str(name) for _, name, _, _ in parts}
