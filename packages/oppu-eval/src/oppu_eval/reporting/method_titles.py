"""What people call methods; :mod:`oppu_eval.reporting.findings` describes them in sentences."""

from oppu_core.errors import ConfigError
from oppu_core.prompting.methods import parse_method

_ADAPTERS = {"own": "OPPU", "pooled": "One adapter for all", "stranger": "A stranger’s adapter"}
_ITEMS = {
    "bm25": "similar item",
    "recent": "latest item",
    "dense": "semantically similar item",
    "random": "item of others",
}
_REFERENCES = {
    "global_majority": "Others’ most frequent answer",
    "user_majority": "Own most frequent answer",
    "user_classifier": "Naive Bayes on own words",
    "copy_label": "Own answer to the most similar item",
    "copy_input": "The input as it is",
    "copy_retrieved": "Own text of the most similar item",
    "oracle": "Best possible answer",
}


def title_of(method: str) -> str:
    """A method's name for people; the name itself if it is of no known method."""
    if method in _REFERENCES:
        return _REFERENCES[method]
    try:
        parsed = parse_method(method)
    except ConfigError:
        return method
    searched = parsed.retriever in ("bm25", "dense")
    kind = "" if parsed.adapter else "PAG: " if parsed.profile else "RAG: " if searched else ""
    parts = [_ADAPTERS[parsed.adapter]] if parsed.adapter else []
    if parsed.profile:
        parts.append("profile")
    if parsed.retriever:
        items = _ITEMS[parsed.retriever]
        parts.append(f"{parsed.k} {items.replace('item', 'items') if parsed.k > 1 else items}")
    return kind + " + ".join(parts) if parts else "Not personalized"
