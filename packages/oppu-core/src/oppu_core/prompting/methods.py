"""Methods: the rows of the paper's Table 1."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Literal

from oppu_core.errors import ConfigError

PROMPT_METHODS = "non_personalized, random_kN, rag_kN, dense_kN, recent_kN, pag_kN"
METHODS = (
    f"{PROMPT_METHODS}, oppu_k0, oppu_rag_kN, oppu_dense_kN, oppu_recent_kN, oppu_pag_kN, and as controls "
    "pooled_… and stranger_… in place of oppu_…"
)
Retrieval = Literal["bm25", "dense", "recent", "random"]
Whose = Literal["own", "pooled", "stranger"]

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

_NAME = re.compile(r"(?:(oppu|pooled|stranger)_)?(rag|dense|recent|pag|random)_k(0|[1-9][0-9]{0,3})")
_RETRIEVERS: Mapping[str, Retrieval] = {
    "random": "random",
    "rag": "bm25",
    "dense": "dense",
    "recent": "recent",
    "pag": "bm25",
}
_KINDS = ("base", "random", "rag", "dense", "recent", "pag")  # as in the paper's Table 1
_WHOSE: Mapping[str, Whose] = {"oppu": "own", "pooled": "pooled", "stranger": "stranger"}
_PREFIXES = {whose: prefix for prefix, whose in _WHOSE.items()}


@dataclasses.dataclass(frozen=True)
class Method:
    """A way of answering.

    Attributes:
        k: Number of retrieved items in the prompt.
        retriever: How they are chosen: the user's own by BM25, by a sentence encoder or by
            recency, others' at random, or None.
        profile: Whether the user's profile is in the prompt.
        adapter: Whose adapter answers: the user's ``own``, one ``pooled`` over all test users' histories,
            that of a ``stranger`` (another test user, drawn by the seed), or None.
    """

    k: int
    retriever: Retrieval | None
    profile: bool
    adapter: Whose | None

    @property
    def personal(self) -> bool:
        """Whether the user's own adapter answers."""
        return self.adapter == "own"

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
        prefix = f"{_PREFIXES[self.adapter]}_" if self.adapter else ""
        if self.kind == "base":
            return f"{prefix}k0" if prefix else "non_personalized"
        return f"{prefix}{self.kind}_k{self.k}"

    @property
    def variant(self) -> str:
        """The prompt construction whose task base answers: ``base``, ``rag_kN``, ``dense_kN`` …

        ``random_kN`` uses the task base of ``rag_kN``; the paper does not say which one it used.
        """
        kind = self.kind.replace("random", "rag")
        return kind if kind == "base" else f"{kind}_k{self.k}"

    @property
    def order(self) -> tuple[int, int]:
        """Sorts methods as the paper's Table 1 does; controls stand last."""
        place = [None, *_WHOSE.values()].index(self.adapter)
        return len(_KINDS) * place + _KINDS.index(self.kind), self.k

    @property
    def without_adapter(self) -> "Method":
        """The same prompt, answered by the task base alone."""
        return dataclasses.replace(self, adapter=None)


def parse_method(name: str) -> Method:
    """Parse a method's name, one of :data:`METHODS`.

    Raises:
        ConfigError: it is none of them.
    """
    if name == "non_personalized":
        return Method(0, None, profile=False, adapter=None)
    if whose := _WHOSE.get(name.removesuffix("_k0")) if name.endswith("_k0") else None:
        return Method(0, None, profile=False, adapter=whose)
    if match := _NAME.fullmatch(name):
        whose, kind, k = _WHOSE.get(match[1]), match[2], int(match[3])
        if kind == "pag" or (k and not (kind == "random" and whose)):
            return Method(k, _RETRIEVERS[kind] if k else None, profile=kind == "pag", adapter=whose)
    raise ConfigError(
        f"There is no method {name!r}. Methods: {METHODS}, with N items in the prompt (N from 1; pag also 0)."
    )


def variant_method(variant: str) -> Method:
    """The method that makes a variant's prompts (retrieval from the user's own items)."""
    return parse_method("non_personalized" if variant == "base" else variant)
