"""The tasks, as data: one frozen :class:`Task` each, and no code that knows a task by its name.

Everything task-specific that other modules need (fields, labels, prompts, metric kind) is a field of the
dataclass. Prompts are those of the paper's Appendix H, history lines those of the authors' code.
"""

import dataclasses
import difflib
import string
from collections.abc import Mapping
from typing import Literal

from oppu_core.errors import ConfigError
from oppu_core.files import content_id

Kind = Literal["classification", "rating", "generation"]


@dataclasses.dataclass(frozen=True)
class Task:
    """One personalization task.

    Attributes:
        name: Our name, as in ``lamp_2m``; also the name of files and folders.
        title: What a person calls it.
        lamp_ids: Names in LaMP label and prediction files; the first is the official one.
        paper_id: The name in the paper's tables.
        release_name: The folder in the authors' release.
        kind: Decides the metrics.
        labels: The fixed label set (classification), else empty.
        input_fields: Fields of a query.
        history_fields: Fields of a history item.
        output_field: The history field that is an answer; None where the history does not have the task's
            format.
        long_field: The input field that is cut when a prompt is too long.
        marker: The text of a raw LaMP `input` after which the query's field starts.
        instruction: What the model is asked, before the query (Appendix H).
        query_template: The query behind the instruction; ends where the answer starts.
        history_template: One retrieved history item on one line.
        retrieval_template: The text that retrieval searches with (instruction without the label list).
        profile: The computed profile (a name in :data:`oppu_core.profiles.PROFILES`).
        profile_prompt: The instruction for a profile written by a language model (Appendix I).
        max_answer_tokens: How many tokens an answer may have.
    """

    name: str
    title: str
    lamp_ids: tuple[str, ...]
    paper_id: str
    release_name: str
    kind: Kind
    labels: tuple[str, ...]
    input_fields: tuple[str, ...]
    history_fields: tuple[str, ...]
    output_field: str | None
    long_field: str
    marker: str
    instruction: str
    query_template: str
    history_template: str
    retrieval_template: str
    profile: str
    profile_prompt: str
    max_answer_tokens: int

    def __post_init__(self) -> None:
        """Check that templates name existing fields, so that a slip in the data fails at once."""
        for template, fields in (
            (self.query_template, self.input_fields),
            (self.retrieval_template, self.input_fields),
            (self.history_template, self.history_fields),
        ):
            try:
                named = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
            except ValueError as error:
                raise ConfigError(f"task {self.name}: template {template!r}: {error}.") from error
            if unknown := named - set(fields):
                raise ConfigError(f"task {self.name}: template {template!r} names unknown fields {unknown}.")
        if self.long_field not in self.input_fields:
            raise ConfigError(f"task {self.name}: long_field {self.long_field!r} is no input field.")
        if self.output_field is not None and self.output_field not in self.history_fields:
            raise ConfigError(f"task {self.name}: output_field {self.output_field!r} is no history field.")
        if (self.kind == "classification") != bool(self.labels):
            raise ConfigError(f"task {self.name}: exactly classification tasks have labels.")

    @property
    def fingerprint(self) -> str:
        """The sha256 of everything that prompts and examples are made from."""
        return content_id(dataclasses.asdict(self))

    def query_text(self, fields: Mapping[str, str]) -> str:
        """The query as it stands in the prompt, behind the instruction."""
        return self.query_template.format(**fields)

    def history_line(self, fields: Mapping[str, str]) -> str:
        """A history item on one line, answer included."""
        return self.history_template.format(**fields)

    def retrieval_text(self, fields: Mapping[str, str]) -> str:
        """What retrieval searches with."""
        return self.retrieval_template.format(**fields)


_MOVIE_TAGS = (
    "sci-fi",
    "based on a book",
    "comedy",
    "action",
    "twist ending",
    "dystopia",
    "dark comedy",
    "classic",
    "psychology",
    "fantasy",
    "romance",
    "thought-provoking",
    "social commentary",
    "violence",
    "true story",
)

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="lamp_2m",
            title="Personalized movie tagging",
            lamp_ids=("LaMP_2", "LaMP_2M"),
            paper_id="LaMP-2M",
            release_name="movie_tagging",
            kind="classification",
            labels=_MOVIE_TAGS,
            input_fields=("description",),
            history_fields=("description", "tag"),
            output_field="tag",
            long_field="description",
            marker="description: ",
            instruction="Which tag does this movie relate to among the following tags? Just answer with the "
            f"tag name without further explanation. tags: [{', '.join(_MOVIE_TAGS)}]",
            query_template="description: {description} tag:",
            history_template="description: {description} tag: {tag}",
            retrieval_template="Which tag does this movie relate to among the following tags? Just answer "
            "with the tag name without further explanation. description: {description}",
            profile="most_frequent_answer",
            profile_prompt="Look at the following past movies this user has watched and determine the most "
            "popular tag they labeled. Answer in the following form: most popular tag: <tag>.",
            max_answer_tokens=12,
        ),
        Task(
            name="lamp_4",
            title="Personalized news headlines",
            lamp_ids=("LaMP_4",),
            paper_id="LaMP-4",
            release_name="news_headline",
            kind="generation",
            labels=(),
            input_fields=("text",),
            history_fields=("text", "title"),
            output_field="title",
            long_field="text",
            marker="article: ",
            instruction="Generate a headline for the following article.",
            query_template="article: {text} headline:",
            history_template="article: {text} headline: {title}",
            retrieval_template="Generate a headline for the following article. article: {text}",
            profile="style",
            profile_prompt="Given this author's previous articles, try to describe a template for their "
            "headlines. I want to be able to accurately predict the headline gives one of their articles. "
            "Be specific about their style and wording, don't tell me anything generic.",
            max_answer_tokens=48,
        ),
    )
}


def get_task(name: str) -> Task:
    """The task called `name`.

    Raises:
        ConfigError: no such task; the message lists the names.
    """
    if name in TASKS:
        return TASKS[name]
    close = difflib.get_close_matches(name, TASKS, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise ConfigError(f"There is no task {name!r}; known tasks: {', '.join(TASKS)}.{hint}")
