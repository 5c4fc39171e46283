"""Chat templates rendered alike on every day and without thoughts, and what a model says behind its thoughts.

A template is a small program in a base's folder. Knows nothing of users or tasks.
"""

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from oppu_core.errors import ModelError

# How models open and close their thoughts.
THOUGHTS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|channel>", "<channel|>"),
)
CHANNEL, FINAL = "<|channel|>", "<|channel|>final"  # in OpenAI's format every part names its channel
_MARKS = {CHANNEL, *(mark for pair in THOUGHTS for mark in pair)}

DATE = datetime.datetime(2024, 7, 26, 12)  # what Llama's templates take where they are told no date
_FORMATS = [f"%{letter}" for letter in "aAbBcdDeFGHIjmMpSTuUVwWxXyYzZ"]
_REPLACED = "".join(f"|replace({form!r}, {DATE.strftime(form)!r})" for form in ["%-d", "%-m", *_FORMATS])
# Transformers offers templates today's date as a function, and takes no other one instead: so the template
# defines it. The newline goes with the tag; what follows begins a line, as without it.
_STRFTIME_NOW = f"{{% macro strftime_now(format) %}}{{{{ format{_REPLACED} }}}}{{% endmacro %}}\n"


def render_chat(
    tokenizer: Any, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
) -> str:
    """Messages as the tokenizer's chat template renders them: on a fixed date, thinking switched off.

    Where the template opens a thought for the model to go on with, the thought is closed.

    Args:
        tokenizer: A Hugging Face tokenizer.
        messages: What was said, each with ``role`` and ``content``.
        add_generation_prompt: Whether the model is to answer now.

    Raises:
        Exception: there is no template, or it refuses the messages; each does so in its own way.
    """
    template: str = tokenizer.get_chat_template()
    if "strftime_now" in template:
        template = _STRFTIME_NOW + template
    text: str = tokenizer.apply_chat_template(
        list(messages),
        chat_template=template,
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
        enable_thinking=False,
        thinking=False,  # what others call it
        date_string=DATE.strftime("%d %b %Y"),
    )
    if add_generation_prompt:
        for opening, closing in THOUGHTS:
            if text.rstrip().endswith(opening):
                return f"{text.rstrip()}\n\n{closing}\n\n"
    return text


@dataclasses.dataclass(frozen=True)
class ChatTurn:
    """What a chat template puts around a person's message and the model's answer.

    Attributes:
        before: In front of the message.
        after: Between the message and where the model begins to write.
        lead: Between that place and the answer, e.g. a space; mostly nothing.
        end: Behind the answer; begins with what closes the turn.
    """

    before: str
    after: str
    lead: str
    end: str


def chat_turn(tokenizer: Any) -> ChatTurn:
    """The frame of a question and its answer in a tokenizer's chat template.

    Raises:
        ModelError: there is no template, or it cannot be used for a question and an answer.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ModelError(
            "The base has no chat template (chat_template.jinja); use --prompt-format plain, or a chat model."
        )
    asked, said = "USER-MESSAGE", "ASSISTANT-ANSWER"
    question = {"role": "user", "content": asked}
    answer = {"role": "assistant", "content": said}
    try:
        open_text = render_chat(tokenizer, [question])
        whole = render_chat(tokenizer, [question, answer], add_generation_prompt=False)
    except Exception as error:  # a template is a program
        raise ModelError(f"The model's chat template cannot be used: {error}") from error
    before, found, after = open_text.partition(asked)
    if not found:
        raise ModelError("The model's chat template leaves out the person's message.")
    shown, found, end = whole.partition(said)
    if not found:
        raise ModelError("The model's chat template leaves out the model's answer.")
    # Where the template writes more in front of an answer that is asked for (a closed thought), that stands.
    lead = shown.removeprefix(open_text) if shown.startswith(open_text) else ""
    return ChatTurn(before, after, lead, end)


def decode_marked(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of ids without special tokens, but for those that mark thoughts."""
    special = {
        index
        for index, token in tokenizer.added_tokens_decoder.items()
        if token.special and token.content not in _MARKS
    }
    text: str = tokenizer.decode([index for index in ids if index not in special])
    return text


def without_thoughts(text: str) -> str:
    """What is said behind the last thought; nothing where a thought does not end."""
    if CHANNEL in text:
        _, said, text = text.rpartition(FINAL)
        if not said:
            return ""
        text = text.removeprefix("<|message|>")
    for opening, closing in THOUGHTS:
        text = text.rpartition(closing)[2]
        if opening in text:
            return ""
    return text
