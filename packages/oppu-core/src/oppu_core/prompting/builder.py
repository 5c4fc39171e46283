"""Prompts and training examples.

A :class:`PromptBuilder` turns (user, query, method) into the text before the answer: profile,
retrieved items, instruction, query, in this order (Appendix H). It knows tokens only to keep a prompt within
the model's context, and knows nothing of training.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from oppu_core.data.types import HistoryItem, Query, User
from oppu_core.errors import DataError
from oppu_core.prompting.methods import Method, variant_method
from oppu_core.prompting.profiles import compute_profile
from oppu_core.prompting.retrieval import Retriever
from oppu_core.tasks.task import Task
from oppu_core.texts import normal

_SHORT_ANSWER = 64  # tokens; answers up to here are as long as the task says on any base


class TokenCounter(Protocol):
    """The part of :class:`oppu_core.modeling.tokenizer.Tokenizer` that prompts need."""

    @property
    def context(self) -> int:
        """How many tokens fit into the model at once."""

    def prompt_ids(self, text: str) -> list[int]:
        """Token ids of a prompt, special tokens included."""

    def answer_ids(self, text: str) -> list[int]:
        """Token ids of an answer, the end-of-text token included."""


def answer_tokens(task: Task, counter: TokenCounter) -> int:
    """The most tokens of an answer: the task's setting; more if its longest label needs more; of a long text
    at most half of the context, as something has to be asked."""
    most = min(task.max_answer_tokens, max(_SHORT_ANSWER, counter.context // 2))
    return max([most, *(len(counter.answer_ids(label)) for label in task.labels)])


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A prompt and what it contains, without what had to be left out for length."""

    text: str
    retrieved: tuple[HistoryItem, ...]
    profile: str


@dataclasses.dataclass(frozen=True)
class Example:
    """A training example: the model reads `prompt` and learns to write `answer`."""

    prompt: str
    answer: str


@dataclasses.dataclass(frozen=True)
class PromptBuilder:
    """Makes the prompts of one task for one model.

    Attributes:
        task: The task.
        counter: Counts tokens.
        retrievers: ``bm25``, ``dense``, ``recent`` and ``random``, as far as methods ask for them.
        profile_of: A user's profile text; by default the computed one.
        reserved: Tokens of the context to leave free after a query's prompt; None for the longest answer.
    """

    task: Task
    counter: TokenCounter
    retrievers: Mapping[str, Retriever]
    profile_of: Callable[[User], str] | None = None
    reserved: int | None = None

    def prompt(
        self,
        method: Method,
        fields: Mapping[str, str],
        items: tuple[HistoryItem, ...],
        before: int,
        profile: str,
        key: str,
        answer: str | None = None,
    ) -> Prompt:
        """The prompt for one query.

        Args:
            method: Decides what comes before the query.
            fields: The query's input fields.
            items: The user's items, oldest first.
            before: How many of them the query may see: only ``items[:before]`` are retrieved from.
            profile: The user's profile text; used by profile methods only.
            key: Identifies the query (see :meth:`Retriever.retrieve`).
            answer: In training, the answer that has to fit after the prompt.

        Raises:
            DataError: instruction and answer alone do not fit into the model's context.
        """
        retrieved: list[HistoryItem] = []
        if method.retriever:
            search = self.task.retrieval_text(_clean(fields))
            retrieved = self.retrievers[method.retriever].retrieve(search, items, before, method.k, key)
        profile = normal(profile) if method.profile else ""
        reserve = self.answer_tokens if self.reserved is None else self.reserved
        if answer is not None:
            reserve = max(reserve, len(self.counter.answer_ids(answer)))
        return self._fit(_clean(fields), retrieved, profile, reserve)

    @functools.cached_property
    def answer_tokens(self) -> int:
        """:func:`answer_tokens` of this task and model."""
        return answer_tokens(self.task, self.counter)

    def query_prompt(self, method: Method, user: User, query: Query, profile: str) -> Prompt:
        """The prompt that asks a user's query."""
        key = f"{user.user_id}/{query.id}"
        return self.prompt(method, query.fields, user.history, query.history_len, profile, key)

    def query_examples(self, variant: str, user: User) -> Iterator[Example]:
        """Training examples for a task base: the user's queries with their golds."""
        method = variant_method(variant)
        profile = self.profile_for(method, user)
        for query in user.queries:
            key = f"{user.user_id}/{query.id}"
            gold = query.gold or ""
            yield from self._example(
                method, query.fields, user.history, query.history_len, profile, key, gold
            )

    def history_examples(self, variant: str, user: User) -> Iterator[Example]:
        """Training examples from a history: item t is the question, and sees only the items before t."""
        if self.task.output_field is None:
            for item in user.training_history:
                yield from self._text_example(item)
            return
        method = variant_method(variant)
        profile = self.profile_for(method, user)
        for t, item in enumerate(user.training_history):
            fields = {name: item.fields[name] for name in self.task.input_fields}
            key = f"{user.user_id}/history/{item.id}"
            answer = item.fields[self.task.output_field]
            yield from self._example(method, fields, user.history, t, profile, key, answer)

    def _example(
        self,
        method: Method,
        fields: Mapping[str, str],
        items: tuple[HistoryItem, ...],
        before: int,
        profile: str,
        key: str,
        answer: str,
    ) -> Iterator[Example]:
        """The example, or none: an empty answer teaches nothing, which is no reason to drop the user's other
        items. Of a text that does not fit into the context after its instruction, the beginning is learned,
        as long as an answer may be; a label of that length cannot be learned."""
        whole = self.task.answer_of(answer)
        for text in (whole,) if self.task.labels else (whole, self._beginning(whole, self.answer_tokens)):
            with contextlib.suppress(DataError):
                if text:
                    prompt = self.prompt(method, fields, items, before, profile, key, text).text
                    yield Example(prompt, text)
                return

    def _text_example(self, item: HistoryItem) -> Iterator[Example]:
        """An item without an answer as text to continue: no retrieval, no profile, on any base.

        Cut at a word's end to fit the context; none if the item is empty.
        """
        fields = _clean(item.fields)
        rendered = next((pair for form in self.task.personal_formats if (pair := form.render(fields))), None)
        if rendered is None:
            return
        prompt, target = rendered
        target = self._beginning(target, self.counter.context - len(self.counter.prompt_ids(prompt)))
        if target:
            yield Example(prompt, target)

    def _beginning(self, answer: str, room: int) -> str:
        """An answer, cut at a word's end to at most `room` tokens."""
        while answer and (tokens := len(self.counter.answer_ids(answer))) > room:
            answer = _cut(answer, max(0, min(len(answer) - 1, len(answer) * room // tokens)))
        return answer

    def profile_for(self, method: Method, user: User) -> str:
        """The user's profile, if the method uses one."""
        if not method.profile:
            return ""
        if self.profile_of is None:
            return compute_profile(self.task, user.training_history)
        return self.profile_of(user)

    def _fit(
        self, fields: Mapping[str, str], retrieved: Sequence[HistoryItem], profile: str, reserve: int
    ) -> Prompt:
        """The prompt, cut to the context: retrieved texts first, then the profile, then the query's text;
        never the instruction."""
        long = self.task.long_field
        cut = self.task.cut_field
        items = [_clean(item.fields) for item in retrieved]

        def render(item_chars: int | None, profile_chars: int | None, query_chars: int | None) -> Prompt:
            kept = _cut(profile, profile_chars)
            lines = [kept] if kept else []
            if item_chars != 0:
                lines += [self.task.history_line({**i, cut: _cut(i[cut], item_chars)}) for i in items]
            query = self.task.query_text({**fields, long: _cut(fields[long], query_chars)})
            text = "\n".join([*lines, self.task.instruction, query])
            return Prompt(text, tuple(retrieved) if item_chars != 0 else (), kept)

        def fits(prompt: Prompt) -> bool:
            return len(self.counter.prompt_ids(prompt.text)) <= self.counter.context - reserve

        if fits(whole := render(None, None, None)):
            return whole
        chars: list[int | None] = [None, None, None]
        longest = max((len(item[cut]) for item in items), default=0)
        for stage, length in enumerate((longest, len(profile), len(fields[long]))):
            chars[stage] = 0
            if fits(best := render(*chars)):
                low, high = 0, length  # `low` fits, `high` does not
                while high - low > 1:
                    chars[stage] = middle = (low + high) // 2
                    if fits(prompt := render(*chars)):
                        low, best = middle, prompt
                    else:
                        high = middle
                return best
        raise DataError(
            f"Task {self.task.name}: the instruction and an answer of {reserve} tokens do not fit into the "
            f"model's context of {self.counter.context} tokens. Use a model with a longer context."
        )


def _clean(fields: Mapping[str, str]) -> dict[str, str]:
    """Each text on one line: an answer ends at a newline, and a retrieved item takes one line."""
    return {name: normal(text) for name, text in fields.items()}


def _cut(text: str, chars: int | None) -> str:
    """The first `chars` characters, cut back to a word's end if there is one."""
    if chars is None or len(text) <= chars:
        return text
    head = text[:chars]
    return head if text[chars].isspace() or " " not in head else head.rsplit(" ", 1)[0]
