"""Rendering chat templates reproducibly and without reasoning, and removing reasoning from replies.

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
_ASKED = "USER-MESSAGE"
_MARKS = {CHANNEL, *(mark for pair in THOUGHTS for mark in pair)}

DATE = datetime.datetime(2024, 7, 26, 12)  # the default of Llama's templates
_FORMATS = [f"%{letter}" for letter in "aAbBcdDeFGHIjmMpSTuUVwWxXyYzZ"]
_REPLACED = "".join(f"|replace({form!r}, {DATE.strftime(form)!r})" for form in ["%-d", "%-m", *_FORMATS])
# Transformers passes templates a function for today's date that cannot be replaced, so the template itself
# redefines it. The newline belongs to the tag; what follows begins a line, as without it.
_STRFTIME_NOW = f"{{% macro strftime_now(format) %}}{{{{ format{_REPLACED} }}}}{{% endmacro %}}\n"


def render_chat(
    tokenizer: Any, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
) -> str:
    """Render messages by the tokenizer's chat template, with a fixed date and reasoning switched off.

    If the template opens a block of reasoning for the model to continue, the block is closed.

    Args:
        tokenizer: A Hugging Face tokenizer.
        messages: The messages, each with ``role`` and ``content``.
        add_generation_prompt: Whether the model is to answer next.

    Raises:
        Exception: there is no template, or it refuses the messages; templates raise various kinds.
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
        thinking=False,  # other templates' name for it
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


def chat_frame(tokenizer: Any) -> tuple[str, str]:
    """What the chat template puts before and behind a person's message.

    Raises:
        ModelError: it cannot be used, or leaves the message out.
    """
    before, found, after = _rendered(tokenizer, [{"role": "user", "content": _ASKED}]).partition(_ASKED)
    if not found:
        raise ModelError("The model's chat template leaves out the person's message.")
    return before, after


def _rendered(
    tokenizer: Any, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
) -> str:
    try:
        return render_chat(tokenizer, messages, add_generation_prompt)
    except Exception as error:  # a template is a program
        line = f", line {error.lineno}" if hasattr(error, "lineno") else ""
        raise ModelError(
            f"The model's chat template ({tokenizer.name_or_path}{line}) cannot be used: {error}"
        ) from error


def chat_turn(tokenizer: Any) -> ChatTurn:
    """The frame of a question and its answer in a tokenizer's chat template.

    Raises:
        ModelError: there is no template, or it cannot be used for a question and an answer.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ModelError(
            f"The base {tokenizer.name_or_path} has no chat template (chat_template.jinja), which prompts in "
            "chat form need: take a chat model, or --prompt-format plain."
        )
    before, after = chat_frame(tokenizer)
    open_text, said = f"{before}{_ASKED}{after}", "ASSISTANT-ANSWER"
    whole = _rendered(
        tokenizer, [{"role": "user", "content": _ASKED}, {"role": "assistant", "content": said}], False
    )
    shown, found, end = whole.partition(said)
    if not found:
        raise ModelError("The model's chat template leaves out the model's answer.")
    # Where the template writes more in front of an answer that is asked for (a closed thought), that stands.
    lead = shown.removeprefix(open_text) if shown.startswith(open_text) else ""
    return ChatTurn(before, after, lead, end)


def decode_marked(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of ids without special tokens, except those that mark reasoning."""
    special = {
        index
        for index, token in tokenizer.added_tokens_decoder.items()
        if token.special and token.content not in _MARKS
    }
    text: str = tokenizer.decode([index for index in ids if index not in special])
    return text


def without_thoughts(text: str) -> str:
    """The text after the last block of reasoning; empty if a block is not closed."""
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
