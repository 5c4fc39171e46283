"""What people call methods and data; :mod:`oppu_eval.reporting.findings` describes methods in sentences."""

from oppu_core.errors import ConfigError
from oppu_core.prompting.methods import parse_method
from oppu_core.runs.run import Run
from oppu_core.texts import shorten

from oppu_eval.scoring.evaluate import split_model

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
    method, model = split_model(method)
    return _title(method) + model


def _title(method: str) -> str:
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


_PEOPLE = {
    "sample world": "Invented people of a sample world",
    "oppu-release": "People of LaMP, from the OPPU authors’ release ({})",
    "lamp": "People of LaMP ({})",
    "longlamp": "People of LongLaMP ({})",
}


def people_of(run: Run) -> str:
    """Whose data a run is about, and whether it is a public benchmark's."""
    datasets = [run.dataset(task) for task in run.config.data]
    kinds = {str(dataset.source.get("kind")) for dataset in datasets}
    known = _PEOPLE.get(kinds.pop()) if len(kinds) == 1 else None
    names = ", ".join(shorten(dataset.path.name, 40) for dataset in datasets)
    return (known or "People of the data in {}").format(names)
