"""Text to token ids and back, with the conventions of one tokenizer."""

import array
import copy
import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from oppu_core.errors import ModelError
from oppu_core.modeling.chat import ChatTurn, chat_turn

CACHED_TEXTS = 4096  # the ids of this many texts of 2,048 tokens take 32 MiB


class Tokenizer:
    """Converts text to token ids and back, by the conventions of one tokenizer.

    The ids of recent texts are cached: a prompt's length is checked before its ids are used, and methods
    share prompts.

    Args:
        hf: A Hugging Face tokenizer.
        context: The most tokens that the model takes at once.
        known: The number of tokens that the model knows (rows of its embedding); None skips the check.

    Raises:
        ModelError: answers could not end, or the tokenizer produces tokens that the model does not know.
    """

    def __init__(self, hf: Any, context: int, known: int | None = None) -> None:
        if hf.eos_token_id is None:
            raise ModelError("The tokenizer has no end-of-text token; answers could not end.")
        self.hf = hf
        self.context = context
        self.eos_id: int = hf.eos_token_id
        pad_id = hf.pad_token_id
        # Often a padding token was added to the tokenizer only. Padding is never read, so any id will do.
        self.pad_id: int = self.eos_id if pad_id is None or (known and pad_id >= known) else pad_id
        # SentencePiece-style tokenizers put a space before the first word themselves.
        pieces = hf.tokenize("a")
        self._lead = "" if pieces and pieces[0].startswith("▁") else " "
        self._until: tuple[str, ...] = ("\n",)
        self._chat = False
        self._turn: ChatTurn | None = None

        def ids(text: str, special: bool, chat: bool = False) -> "array.array[int]":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # "sequence longer than …": lengths are checked by the caller
                # "</s>" in a user's text is four characters, not the end of text.
                options = {"verbose": False, "split_special_tokens": not chat, "add_special_tokens": special}
                found = array.array("i", hf(text, **options)["input_ids"])
            if known and found and max(found) >= known:
                raise _unknown(hf, max(found), known)
            return found

        self._read: Callable[..., array.array[int]] = ids
        # Its own; it holds Hugging Face's tokenizer, not this one.
        self._ids: Callable[..., array.array[int]] = functools.lru_cache(CACHED_TEXTS)(ids)
        if known:
            self._check_tokens(known)

    def _check_tokens(self, known: int) -> None:
        """Check that the model knows all tokens that may occur: words, the end of text, and what is put in
        front. Other special tokens do not occur in texts; Gemma's image tokens often exceed the embedding."""
        self.prompt_ids("a")
        special = special_ids(self.hf)
        words = (index for index in range(known, len(self.hf)) if index not in special)
        if (unknown := self.eos_id if self.eos_id >= known else next(words, None)) is not None:
            raise _unknown(self.hf, unknown, known)

    def forgetful(self) -> "Tokenizer":
        """The same tokenizer without a cache, so that no text is kept."""
        other = copy.copy(self)
        other._ids = self._read
        return other

    def leaving(self, tokens: int) -> "Tokenizer":
        """The same tokenizer for a context with `tokens` fewer; both share the cache."""
        shorter = copy.copy(self)
        shorter.context -= tokens
        return shorter

    def ending(self, until: Sequence[str], chat: bool = False) -> "Tokenizer":
        """The same tokenizer with other ends of answers than a newline.

        Args:
            until: An answer ends before the first of these texts, and in any case at the end of text.
            chat: Whether prompts are rendered chat templates, which already have all special tokens.
        """
        if (tuple(until), chat) == (self._until, self._chat):
            return self  # keeps its stop_ids, which took a pass over the whole vocabulary
        other = copy.copy(self)
        other._until, other._chat = tuple(until), chat
        vars(other).pop("stop_ids", None)
        return other

    def chatting(self) -> "Tokenizer":
        """The same for prompts that are messages to a chat model, and answers that close its turn.

        Raises:
            ModelError: see :func:`~oppu_core.modeling.chat.chat_turn`.
        """
        other = copy.copy(self)
        other._turn = chat_turn(self.hf)
        for cached in ("stop_ids", "_end_id"):
            vars(other).pop(cached, None)
        return other

    def prompt_ids(self, text: str) -> list[int]:
        """Token ids of a prompt, with the special tokens that this tokenizer or the chat template puts
        around it; what looks like one in `text` is its characters."""
        if self._turn and not self._chat:
            before, after = self._turn.before, self._turn.after
            if not any(token in text for token in self._special_texts):
                return self._ids(before + text + after, special=False, chat=True).tolist()
            parts = ((before, True), (text, False), (after, True))
            return [index for part, chat in parts for index in self._ids(part, special=False, chat=chat)]
        ids = self._ids(text, special=not self._chat, chat=self._chat).tolist()
        return ids[:-1] if ids and ids[-1] == self.eos_id else ids

    def answer_ids(self, text: str) -> list[int]:
        """Token ids of an answer as it continues a prompt, closed by the end of text or of the turn."""
        lead = self._turn.lead if self._turn else self._lead
        return [*self._ids(lead + text, special=False), self._end_id]

    @functools.cached_property
    def _special_texts(self) -> list[str]:
        return [token.content for token in self.hf.added_tokens_decoder.values() if token.special]

    @functools.cached_property
    def _end_id(self) -> int:
        """What closes an answer: the first special token that the chat template has behind it, or the end of
        text."""
        if self._turn is None:
            return self.eos_id
        special = special_ids(self.hf)
        ids = self._ids(self._turn.end, special=False, chat=True)
        return next((index for index in ids if index in special), self.eos_id)

    def answer_text(self, ids: list[int]) -> str:
        """The answer in generated ids: up to a newline or the end of text, stripped."""
        text: str = self.hf.decode(ids, skip_special_tokens=True)
        text = text.lstrip()
        return text[: min((text.index(end) for end in self._until if end in text), default=None)].strip()

    @functools.cached_property
    def stop_ids(self) -> list[int]:
        """The ids that end an answer: end of text or of the turn, and every token with a newline in it."""
        size = len(self.hf)
        texts = self.hf.batch_decode([[index] for index in range(size)])
        ends = (index for index, text in enumerate(texts) if any(end in text for end in self._until))
        return sorted({self.eos_id, self._end_id, *ends})


def special_ids(hf: Any) -> set[int]:
    return {index for index, token in hf.added_tokens_decoder.items() if token.special}


def _unknown(hf: Any, index: int, known: int) -> ModelError:
    return ModelError(
        f"The tokenizer writes {hf.convert_ids_to_tokens(index)!r} as token {index}, but the model's "
        f"embedding has {known} rows. Take the tokenizer that belongs to the model, or resize the model "
        "(model.resize_token_embeddings(len(tokenizer))) and save it anew."
    )
