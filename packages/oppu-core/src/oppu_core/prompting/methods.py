"""Methods: the rows of the paper's Table 1."""

import dataclasses
import re
from typing import Literal

from oppu_core.errors import ConfigError

DEFAULT_METHODS = (
    "non_personalized",
    "random_k1",
    "rag_k1",
    "pag_k0",
    "oppu_k0",
    "oppu_rag_k1",
    "oppu_pag_k0",
)


@dataclasses.dataclass(frozen=True)
class Method:
    """A way of answering.

    Attributes:
        k: How many retrieved items stand in the prompt.
        retriever: From where: the user's own items (BM25, or the most recent), others' at random, or nowhere.
        profile: Whether the user's profile stands in the prompt.
        personal: Whether the user's own adapter answers.
    """

    k: int
    retriever: Literal["bm25", "recent", "random"] | None
    profile: bool
    personal: bool

    @property
    def name(self) -> str:
        """The method's name, as :func:`parse_method` reads it."""
        if self.retriever == "random":
            return f"random_k{self.k}"
        if not self.personal:
            return "non_personalized" if self.variant == "base" else self.variant
        return "oppu_k0" if self.variant == "base" else f"oppu_{self.variant}"

    @property
    def variant(self) -> str:
        """The prompt construction whose task base answers: ``base``, ``rag_kN``, ``recent_kN``, ``pag_kN``.

        ``random_kN`` is answered by the base of ``rag_kN``; the paper does not say which it took.
        """
        if self.profile:
            return f"pag_k{self.k}"
        if self.retriever == "recent":
            return f"recent_k{self.k}"
        return f"rag_k{self.k}" if self.k else "base"

    @property
    def without_adapter(self) -> "Method":
        """The same prompt, answered by the task base alone."""
        return dataclasses.replace(self, personal=False)


def parse_method(name: str) -> Method:
    """Read a method's name: ``non_personalized``, ``random_kN``, ``rag_kN``, ``recent_kN``, ``pag_kN``,
    ``oppu_k0``, ``oppu_rag_kN``, ``oppu_recent_kN`` or ``oppu_pag_kN``.

    Raises:
        ConfigError: it is none of these.
    """
    if name == "non_personalized":
        return Method(0, None, profile=False, personal=False)
    if name == "oppu_k0":
        return Method(0, None, profile=False, personal=True)
    match = re.fullmatch(r"(oppu_)?(rag|recent|pag|random)_k(0|[1-9][0-9]{0,3})", name)
    if match:
        personal, kind, k = bool(match[1]), match[2], int(match[3])
        if kind == "pag":
            return Method(k, "bm25" if k else None, profile=True, personal=personal)
        if k and kind == "rag":
            return Method(k, "bm25", profile=False, personal=personal)
        if k and kind == "recent":
            return Method(k, "recent", profile=False, personal=personal)
        if k and kind == "random" and not personal:
            return Method(k, "random", profile=False, personal=False)
    raise ConfigError(
        f"There is no method {name!r}. Methods: non_personalized, random_kN, rag_kN, recent_kN, "
        "pag_kN, oppu_k0, oppu_rag_kN, oppu_recent_kN, oppu_pag_kN, with N items in the prompt (N from 1; "
        "pag also 0)."
    )


def variant_method(variant: str) -> Method:
    """The method that makes a variant's prompts (retrieval from the user's own items)."""
    return parse_method("non_personalized" if variant == "base" else variant)
