"""Methods: the rows of the paper's Table 1."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Literal

from oppu_core.errors import ConfigError

PROMPT_METHODS = "non_personalized, random_kN, rag_kN, dense_kN, recent_kN, pag_kN"
METHODS = f"{PROMPT_METHODS}, oppu_k0, oppu_rag_kN, oppu_dense_kN, oppu_recent_kN, oppu_pag_kN"
Retrieval = Literal["bm25", "dense", "recent", "random"]

# Which of the others' data a task LoRA learns from: queries, as in the paper, or histories as well.
Examples = Literal["queries", "queries+history"]
DEFAULT_METHODS = (
    "non_personalized",
    "random_k1",
    "rag_k1",
    "pag_k0",
    "oppu_k0",
    "oppu_rag_k1",
    "oppu_pag_k0",
)

_NAME = re.compile(r"(oppu_)?(rag|dense|recent|pag|random)_k(0|[1-9][0-9]{0,3})")
_RETRIEVERS: Mapping[str, Retrieval] = {
    "random": "random",
    "rag": "bm25",
    "dense": "dense",
    "recent": "recent",
    "pag": "bm25",
}
_KINDS = ("base", "random", "rag", "dense", "recent", "pag")  # as in the paper's Table 1


@dataclasses.dataclass(frozen=True)
class Method:
    """A way of answering.

    Attributes:
        k: Number of retrieved items in the prompt.
        retriever: How they are chosen: the user's own by BM25, by a sentence encoder or by
            recency, others' at random, or None.
        profile: Whether the user's profile is in the prompt.
        personal: Whether the user's own adapter answers.
    """

    k: int
    retriever: Retrieval | None
    profile: bool
    personal: bool

    @property
    def kind(self) -> str:
        """What the prompt holds: ``base`` (the query alone), ``random``, ``rag``, ``dense``, ``recent`` or
        ``pag``."""
        if self.profile:
            return "pag"
        return "rag" if self.retriever == "bm25" else self.retriever or "base"

    @property
    def name(self) -> str:
        """The method's name, as :func:`parse_method` reads it."""
        if self.kind == "base":
            return "oppu_k0" if self.personal else "non_personalized"
        return f"{'oppu_' * self.personal}{self.kind}_k{self.k}"

    @property
    def variant(self) -> str:
        """The prompt construction whose task base answers: ``base``, ``rag_kN``, ``dense_kN`` …

        ``random_kN`` uses the task base of ``rag_kN``; the paper does not say which one it used.
        """
        kind = self.kind.replace("random", "rag")
        return kind if kind == "base" else f"{kind}_k{self.k}"

    @property
    def order(self) -> tuple[int, int]:
        """Sorts methods as the paper's Table 1 does."""
        return len(_KINDS) * self.personal + _KINDS.index(self.kind), self.k

    @property
    def without_adapter(self) -> "Method":
        """The same prompt, answered by the task base alone."""
        return dataclasses.replace(self, personal=False)


def parse_method(name: str) -> Method:
    """Parse a method's name, one of :data:`METHODS`.

    Raises:
        ConfigError: it is none of them.
    """
    if name in ("non_personalized", "oppu_k0"):
        return Method(0, None, profile=False, personal=name == "oppu_k0")
    if match := _NAME.fullmatch(name):
        personal, kind, k = bool(match[1]), match[2], int(match[3])
        if kind == "pag" or (k and not (kind == "random" and personal)):
            return Method(k, _RETRIEVERS[kind] if k else None, profile=kind == "pag", personal=personal)
    raise ConfigError(
        f"There is no method {name!r}. Methods: {METHODS}, with N items in the prompt (N from 1; pag also 0)."
    )


def variant_method(variant: str) -> Method:
    """The method that makes a variant's prompts (retrieval from the user's own items)."""
    return parse_method("non_personalized" if variant == "base" else variant)
