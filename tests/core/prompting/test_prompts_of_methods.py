"""Methods by name."""

import pytest
from oppu_core.errors import ConfigError
from oppu_core.prompting.methods import DEFAULT_METHODS, parse_method, variant_method
from prompt_toys import VARIANTS


@pytest.mark.parametrize(("name", "variant"), VARIANTS.items())
def test_a_methods_name_says_everything(name: str, variant: str) -> None:
    method = parse_method(name)
    assert method.name == name
    assert method.variant == variant
    assert method.personal == name.startswith("oppu")
    prefix = name.partition("_")[0]
    assert method.adapter == {"oppu": "own", "pooled": "pooled", "stranger": "stranger"}.get(prefix)
    assert method.profile == ("pag" in name)
    assert method.k == int(name.rpartition("_k")[2] if "_k" in name else 0)
    named = next((kind for kind in ("random", "recent", "dense") if kind in name), "bm25")
    assert method.retriever == (named if method.k else None)
    assert method.without_adapter == parse_method(method.without_adapter.name)
    assert method.without_adapter.adapter is None
    assert method.without_adapter.variant == variant
    assert variant_method(variant).variant == variant
    assert variant_method(variant).retriever != "random", "training retrieves from the user's own items"


def test_same_prompt_without_the_adapter() -> None:
    pairs = {"oppu_k0": "non_personalized", "oppu_rag_k4": "rag_k4", "oppu_pag_k0": "pag_k0"}
    for name, plain in pairs.items():
        assert parse_method(name).without_adapter.name == plain


def test_default_methods_are_methods() -> None:
    assert [parse_method(name).name for name in DEFAULT_METHODS] == list(DEFAULT_METHODS)


@pytest.mark.parametrize(
    "name",
    [
        "rag_k0",
        "oppu_k1",
        "random_k0",
        "oppu_random_k1",
        "recent_k0",
        "dense_k0",
        "oppu_dense_k0",
        "oppu_recent_k0",
        "recent",
        "rag_k01",
        "rag_k",
        "rag_k-1",
        "rag_k1.5",
        "pag",
        "rag_k1x",
        "xrag_k1",
        "RAG_k1",
        "oppu",
        "oppu_",
        "oppu_rag",
        "oppu_rag_k0",
        "oppu_non_personalized",
        "pooled",
        "pooled_k1",
        "stranger_random_k1",
        "oppu_oppu_k0",
        "base",
        "rag_k1_k1",
        "",
        " ",
        "rag_k1 ",
        " rag_k1",
        "rag_k1\n",
        "rag k1",
    ],
)
def test_a_name_that_is_no_method_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="There is no method"):
        parse_method(name)
