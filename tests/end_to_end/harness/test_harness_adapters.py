"""Adapters that are not there or not meant, and arguments that are wrong."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness_runs import (
    USERS,
    Asked,
    answers,
    ask,
    key_of,
    metrics,
    opened,
    task_manager,
)
from lm_eval.api.instance import Instance
from lm_eval.api.model import CachingLM
from lm_eval.evaluator import evaluate
from lm_eval.models.dummy import DummyLM
from oppu_core.data.dataset import Dataset
from oppu_core.data.dataset_writer import write_dataset
from oppu_core.errors import ConfigError, OppuError, StoreError
from oppu_core.modeling.base_files import TINY_FOLDER
from oppu_core.runs.execute import execute
from oppu_core.runs.options import Compute
from oppu_core.runs.run import open_run
from oppu_eval.lm_eval.model import OppuLM
from oppu_eval.scoring.run_results import evaluate_run

# --- adapters that are not there --------------------------------------------------------------------------


def _removed(run: Path) -> None:
    with opened(run, "lamp_2m", "base") as (work, store):
        store.remove([key_of(work, USERS[1]).folder])


def _deleted_by_hand(run: Path) -> None:
    with opened(run, "lamp_2m", "base") as (work, store):
        shutil.rmtree(store.path / key_of(work, USERS[1]).folder)


@pytest.mark.parametrize("lose", [_removed, _deleted_by_hand])
def test_a_missing_adapter_names_the_user_and_the_command(
    copied: Path, asked: Asked, lose: Callable[[Path], None]
) -> None:
    lose(copied)
    named = r"1 of 3 test users have no adapter .*lamp_2m, oppu_k0.*'test-001'"
    with pytest.raises(StoreError, match=rf"{named}.*`oppu personal train --run {copied}`"):
        ask({"run": str(copied), "method": "oppu_k0"}, ["lamp_4", "lamp_2m"])
    assert not asked.batches
    ask({"run": str(copied), "method": "oppu_rag_k1"}, ["lamp_2m"], limit=1)  # this one's adapters are there


def test_a_user_whom_the_store_does_not_know_is_not_answered_by_the_base(
    run: Path, twins: Dataset, tmp_path: Path, asked: Asked
) -> None:
    users = {user.user_id: user for user in twins.users()}
    queries = tuple(dataclasses.replace(query, id=f"new-{query.id}") for query in users[USERS[0]].queries)
    history = users[USERS[0]].history[::-1]
    new = dataclasses.replace(users[USERS[0]], user_id="new", queries=queries, history=history)
    data = write_dataset(tmp_path / "data", twins.task, [*users.values(), new], {"kind": "test"})
    explicit = {"pretrained": "tiny", "store": str(run.parent / "store"), "data": str(data.path)}
    with pytest.raises(StoreError, match=r"1 of 4 test users have no adapter.*'new'.*`oppu run "):
        ask({**explicit, "method": "oppu_k0"}, ["lamp_2m"])
    assert not asked.batches
    results = ask({**explicit, "method": "non_personalized"}, ["lamp_2m"])
    assert len(answers(results, "lamp_2m")) == 12


def test_a_method_that_the_run_was_not_trained_for_says_what_to_run(run: Path) -> None:
    with pytest.raises(StoreError, match=r"no task base of the variant rag_k3 .*`oppu run .*oppu_rag_k3"):
        ask({"run": str(run), "method": "oppu_rag_k3"}, ["lamp_2m"])


def test_users_whose_training_failed_are_set_aside_as_in_evaluate(
    copied: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(copied, "lamp_2m", "base") as (work, store):
        key = key_of(work, USERS[1])
        store.remove([key.folder])
        store.put_failure(key, "diverged")
    (copied / "lamp_2m" / "predictions" / "oppu_k0.jsonl").unlink()
    execute(open_run(copied), ["answers"], Compute(device="cpu"))
    ours = {
        row.metric: row.value
        for row in evaluate_run(open_run(copied)).rows
        if (row.task, row.method) == ("lamp_2m", "oppu_k0")
    }
    asking = {"run": str(copied), "method": "oppu_k0"}
    results = ask(asking, ["lamp_2m"])
    assert "1 users are set aside" in caplog.text and "'test-001': diverged" in caplog.text
    assert metrics(results, "lamp_2m") == ours
    assert {user for user, _ in answers(results, "lamp_2m")} == {USERS[0], USERS[2]}
    about = results["configs"]["lamp_2m"]["metadata"]["lamp"]
    assert about["set_aside"] == [USERS[1]] and about["queries"] == 6
    for chosen in ({"limit": 2}, {"samples": {"lamp_2m": [3]}}):  # by numbers, which would mean others
        with pytest.raises(ConfigError, match=r"1 users are set aside.*leave them out"):
            ask(asking, ["lamp_2m"], **chosen)
    everybody = ask({**asking, "method": "non_personalized"}, ["lamp_2m"])
    assert {user for user, _ in answers(everybody, "lamp_2m")} == set(USERS)

    with opened(copied, "lamp_2m", "base") as (work, store):
        for user_id in (USERS[0], USERS[2]):
            store.remove([key_of(work, user_id).folder])
            store.put_failure(key_of(work, user_id), "diverged")
    with pytest.raises(StoreError, match=r"3 of 3 test users have no adapter"):
        ask(asking, ["lamp_2m"])


@pytest.mark.parametrize("kind", ["adapters", "task_loras"])
def test_damaged_weights_are_refused(copied: Path, asked: Asked, kind: str) -> None:
    for file in (copied.parent / "store" / kind).rglob("adapter_model.safetensors"):
        damaged = bytearray(file.read_bytes())
        damaged[-1] ^= 1
        file.write_bytes(damaged)
    with pytest.raises(StoreError, match="is damaged"):
        ask({"run": str(copied), "method": "oppu_k0"}, ["lamp_2m"])
    assert not asked.batches


# --- adapter methods and other models ---------------------------------------------------------------------

NO_ADAPTERS = "oppu_k0 answers through adapters, and this model has none"


def test_a_model_without_adapters_does_not_answer_for_them(run: Path, tmp_path: Path) -> None:
    metadata = {"data": str(run), "method": "oppu_k0"}
    with pytest.raises(ConfigError, match=NO_ADAPTERS):
        ask({}, ["lamp_2m"], "dummy", metadata)
    with pytest.raises(ConfigError, match=NO_ADAPTERS):
        ask({}, ["lamp_2m"], "dummy", metadata, use_cache=str(tmp_path / "answers"))
    with pytest.raises(ConfigError, match=NO_ADAPTERS):
        ask({"pretrained": str(TINY_FOLDER)}, ["lamp_2m"], "hf", metadata)


@pytest.mark.parametrize("cached", [False, True])
def test_it_does_not_matter_when_tasks_are_loaded(run: Path, tmp_path: Path, cached: bool) -> None:
    """A task learns who answers it when it is asked."""

    def wrapped(model: Any) -> Any:
        return CachingLM(model, str(tmp_path / f"{type(model).__name__}.db")) if cached else model

    asking = {"run": str(run), "method": "oppu_k0"}
    expected = answers(ask(asking, ["lamp_2m"]), "lamp_2m")
    loaded = task_manager(asking).load(["lamp_2m"])
    with pytest.raises(ConfigError, match=NO_ADAPTERS):
        evaluate(wrapped(DummyLM()), loaded, bootstrap_iters=0)
    for _ in range(2):
        results = evaluate(wrapped(OppuLM(str(run), device="cpu")), loaded, bootstrap_iters=0)
        assert answers(results, "lamp_2m") == expected
    with pytest.raises(ConfigError, match=NO_ADAPTERS):
        evaluate(wrapped(DummyLM()), loaded, bootstrap_iters=0)


# --- arguments --------------------------------------------------------------------------------------------

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"run": "RUN", "adapter": "x"}, r"--model oppu has no argument 'adapter'\. It has run"),
    "nothing": ({}, r"needs --model_args run=FOLDER"),
    "both": ({"run": "RUN", "pretrained": "tiny"}, r"needs --model_args run=FOLDER"),
    "run and store": ({"run": "RUN", "store": "STORE"}, r"needs --model_args run=FOLDER"),
    "no store": ({"pretrained": "tiny"}, r"or pretrained=BASE,store=FOLDER"),
    "dtype": ({"run": "RUN", "dtype": "bfloat16"}, r"dtype=bfloat16: the adapters of .* in float32"),
    "quantize": ({"run": "RUN", "quantize": "nf4"}, r"quantize=nf4: the adapters of .* not quantized"),
    "no dtype": ({"run": "RUN", "dtype": "float8"}, r"dtype=float8: it is one of float32"),
    "no quantize": ({"run": "RUN", "quantize": "int2"}, r"quantize=int2: it is one of nf4"),
    "method": ({"run": "RUN", "method": "magic"}, r"There is no method 'magic'"),
    "no run": ({"run": "RUN/nowhere"}, r"nowhere is no run"),
    "batch size": ({"run": "RUN", "batch_size": 0}, r"batch_size=0: write auto"),
    "auto what": ({"run": "RUN", "batch_size": "auto:x"}, r"batch_size=auto:x: write auto"),
    "no batch": ({"run": "RUN", "max_batch_size": -3}, r"max_batch_size=-3: it is how many"),
    "GPU": ({"run": "RUN", "device": "cuda:77"}, r"--device cuda:77: there is no such device"),
    "device": ({"run": "RUN", "device": "abacus"}, r"--device 'abacus' is no device"),
    "two data": ({"run": "RUN", "data": "DATA"}, r"brings its own data; leave data="),
    "no store there": ({"pretrained": "tiny", "store": "DATA", "data": "DATA"}, r"is no store of weights"),
    "other base's store": (
        {"pretrained": "tiny", "store": "STORE", "data": "DATA", "dtype": "bfloat16"},
        r"no task LoRA of the base tiny \(bfloat16",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_arguments_say_what_is_wrong(run: Path, twins: Dataset, case: str, asked: Asked) -> None:
    given, expected = BAD[case]
    places = {"RUN": str(run), "DATA": str(twins.path), "STORE": str(run.parent / "store")}
    arguments = {
        name: value.replace(place, places[place]) if isinstance(value, str) else value
        for name, value in given.items()
        for place in [next((place for place in places if str(value).startswith(place)), "RUN")]
    }
    with pytest.raises(OppuError, match=expected):
        ask(arguments, ["lamp_2m"])
    assert not asked.batches


WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "typo": ({"methd": "rag_k1"}, {}, r"--metadata methd: .*Did you mean method"),
    "seed": ({"seed": "x"}, {}, r"seed='x': it is a whole number"),
    "length": ({"max_length": 0}, {}, r"max_length=0: it is a whole number, from 1"),
    "tokenizer": ({"tokenizer": 7}, {}, r"tokenizer=7: it is a folder"),
    "profiles": ({"profiles": 5}, {}, r"profiles=5: it is a file"),
    "empty data": ({"data": ""}, {}, r"data=\. is no dataset folder"),
    "other profiles": ({"profiles": "PROFILES", "method": "pag_k0"}, {}, r"there are none of lamp_2m"),
    "limit": ({}, {"limit": 0}, r"--limit 0: it is how many"),
    "samples": ({}, {"samples": {"lamp_2m": [3, 99]}}, r"lamp_2m has no query 99; its 9 queries"),
    "tokens": ({}, {"gen_kwargs": {"max_gen_toks": -5}}, r"max_gen_toks=-5: it is a number of tokens"),
    "no tokens": ({}, {"gen_kwargs": {"max_new_tokens": "abc"}}, r"max_new_tokens=abc"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_metadata_and_options_say_what_is_wrong(run: Path, twins: Dataset, case: str) -> None:
    metadata, options, expected = WRONG[case]
    places = {"data": str(twins.path), **metadata}
    if metadata.get("profiles") == "PROFILES":
        places["profiles"] = str(run / "lamp_4" / "profiles.jsonl")
    with pytest.raises(OppuError, match=expected):
        ask({}, ["lamp_2m"], "dummy", places, **options)


GENERATION = {
    "temperature": ({"do_sample": True, "temperature": "hot"}, r"--gen_kwargs .*hot"),
    "top_k": ({"do_sample": True, "temperature": 1.0, "top_k": -2}, r"top_k are not below 0"),
    "until": ({"until": [7]}, r"until=\[7\]: write texts"),
}


@pytest.mark.parametrize("case", GENERATION)
def test_our_model_refuses_settings_that_cannot_be_meant(run: Path, case: str) -> None:
    settings, expected = GENERATION[case]
    with pytest.raises(ConfigError, match=expected):
        ask({"run": str(run)}, ["lamp_2m"], gen_kwargs=settings)


def test_two_methods_at_once_are_refused(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"--model_args says method=rag_k1, --metadata method=oppu_k0"):
        ask({"run": str(run), "method": "rag_k1"}, ["lamp_2m"], metadata={"method": "oppu_k0"})


def test_a_store_that_is_gone_is_named(copied: Path) -> None:
    (copied.parent / "store").rename(copied.parent / "elsewhere")
    with pytest.raises(StoreError, match=r"are not at .*store any more.*oppu personal train"):
        ask({"run": str(copied), "method": "oppu_k0"}, ["lamp_2m"])
    assert not (copied.parent / "store").exists(), "nothing is made in its place"


def test_a_task_that_the_run_does_not_have_is_refused(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no lamp_3; it has lamp_2m, lamp_4.*--tasks lamp_2m,lamp_4"):
        ask({"run": str(run)}, ["lamp_2m", "lamp_3"])


def test_the_data_of_somebody_else_are_refused(run: Path, twins: Dataset) -> None:
    """The same data, but not through the run: retrieval and profiles might be others."""
    loaded = task_manager({"data": str(twins.path)}).load(["lamp_2m"])
    with pytest.raises(ConfigError, match=r"The data are those of .*Take both from one run"):
        evaluate(OppuLM(str(run)), loaded, bootstrap_iters=0)


def test_requests_of_other_tasks_are_refused(run: Path) -> None:
    model = OppuLM(str(run))
    arguments = {"until": ["\n"], "max_gen_toks": 5}
    for kind, given in (
        ("generate_until", ("Q:", arguments)),
        ("loglikelihood", ("Q:", "A")),
        ("loglikelihood_rolling", ("Q:",)),
    ):
        request = Instance(kind, {}, given, 0, metadata=("gsm8k", 0, 1))
        with pytest.raises(ConfigError, match=r"gsm8k is none"):
            getattr(model, kind)([request])
