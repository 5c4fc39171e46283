"""What goes wrong silently when adapters meet lm-evaluation-harness: caches, missing adapters, batches.

All tests ask one run of two tasks, three users each; those that need answers of adapters that surely differ
ask a copy with random adapters.
"""

import dataclasses
import json
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from harness_runs import (
    answers,
    ask,
    changed,
    copy_run,
    key_of,
    make_run,
    metrics,
    opened,
    prompts,
    replace_adapters,
    task_manager,
)
from lm_eval.api.instance import Instance
from lm_eval.api.model import CachingLM
from lm_eval.evaluator import evaluate
from lm_eval.models.dummy import DummyLM
from oppu_core.data.dataset import Dataset
from oppu_core.data.dataset_writer import write_dataset
from oppu_core.data.sample import GRAMMARS
from oppu_core.errors import ConfigError, ModelError, OppuError, StoreError
from oppu_core.modeling import base_files
from oppu_core.modeling.base import Base
from oppu_core.modeling.base_files import TINY_FOLDER, base_tokenizer
from oppu_core.ownership.base_export import export_base
from oppu_core.runs.answering import generate_answers
from oppu_core.runs.execute import execute
from oppu_core.runs.options import Compute
from oppu_core.runs.run import open_run
from oppu_core.storage.files import read_json, read_jsonl
from oppu_core.tasks.task_files import get_task
from oppu_eval.lm_eval.model import OppuLM
from oppu_eval.lm_eval.task import LampTask
from oppu_eval.scoring.metrics import metrics_for
from oppu_eval.scoring.run_results import evaluate_run
from small_world import sample_dataset

USERS = ["test-000", "test-001", "test-002"]


@pytest.fixture(scope="module")
def twins(movies: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Tagging, where the first two users' first queries have the same text."""
    users = {user.user_id: user for user in movies.users()}
    one, other = (users[user_id] for user_id in USERS[:2])
    asked = dataclasses.replace(other.queries[0], fields=one.queries[0].fields)
    users[other.user_id] = dataclasses.replace(other, queries=(asked, *other.queries[1:]))
    return write_dataset(
        tmp_path_factory.mktemp("twins") / "data", movies.task, users.values(), {"kind": "test"}
    )


@pytest.fixture(scope="module")
def run(twins: Dataset, headlines: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that is asked, and not changed."""
    return make_run(tmp_path_factory.mktemp("quick") / "run", [twins, headlines])


@pytest.fixture(scope="module")
def distinct(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy in which no two adapters answer alike."""
    copy = copy_run(run, tmp_path_factory.mktemp("distinct") / "world")
    for seed, (task, variant) in enumerate([("lamp_2m", "base"), ("lamp_2m", "rag_k1"), ("lamp_4", "base")]):
        replace_adapters(copy, seed, task=task, variant=variant)
    return copy


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be changed."""
    return copy_run(run, tmp_path / "copied")


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No request leaves this machine, and requests are cached in the test's own folder."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # read from the environment before
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("lm_eval.caching.cache.PATH", str(tmp_path / "requests"))
    # Two dozen processes for a description of the machine, which is most of the time of a small evaluation.
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)


class Asked:
    """Stands before the model.

    Attributes:
        batches: The groups of prompts of every batch that was answered.
        before: Called with the base and the groups before each batch.
    """

    def __init__(self) -> None:
        self.batches: list[list[list[str]]] = []
        self.before: Callable[[Base, Sequence[Sequence[str]]], None] = lambda base, groups: None

    def __call__(
        self, base: Base, groups: Sequence[Sequence[str]], *rest: Any, **options: Any
    ) -> list[list[str]]:
        self.before(base, groups)
        written = generate_answers(base, groups, *rest, **options)
        self.batches.append([list(group) for group in groups])
        return written

    def count(self) -> int:
        """How many prompts were answered since the last count."""
        number = sum(len(group) for groups in self.batches for group in groups)
        self.batches.clear()
        return number


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """What the model is asked."""
    recorder = Asked()
    monkeypatch.setattr("oppu_eval.lm_eval.model.generate_answers", recorder)
    return recorder


# --- cached answers (--use_cache) -------------------------------------------------------------------------


def test_a_cached_answer_is_of_this_user_and_these_weights(
    distinct: Path, tmp_path: Path, asked: Asked
) -> None:
    copy = copy_run(distinct, tmp_path / "copy")
    arguments = {"run": str(copy), "method": "oppu_k0"}
    cache: dict[str, Any] = {"use_cache": str(tmp_path / "answers")}
    first = ask(arguments, ["lamp_2m"], **cache)
    before = answers(first, "lamp_2m")
    assert asked.count() == 9
    queries = list(before)
    assert prompts(first, "lamp_2m")[queries[0]] == prompts(first, "lamp_2m")[queries[3]]
    assert before[queries[0]] != before[queries[3]], "the same prompt, two users"

    again = ask(arguments, ["lamp_2m"], **cache)
    assert answers(again, "lamp_2m") == before and again["results"] == first["results"]
    assert not asked.batches, "unchanged weights come from the cache"

    replace_adapters(copy, 77, task="lamp_2m", variant="base", user_id=USERS[0])
    retrained = answers(ask(arguments, ["lamp_2m"], **cache), "lamp_2m")
    assert asked.count() == 3
    for query in queries:
        assert (retrained[query] != before[query]) == (query[0] == USERS[0])
    assert retrained == answers(ask(arguments, ["lamp_2m"]), "lamp_2m")


def test_a_cached_answer_is_of_this_method_and_task_base(
    run: Path, distinct: Path, tmp_path: Path, asked: Asked
) -> None:
    """Nobody's adapter, somebody's, and other settings of generation never share an answer."""
    cache: dict[str, Any] = {"use_cache": str(tmp_path / "answers")}
    for method in ("non_personalized", "oppu_k0", "non_personalized"):
        ask({"run": str(distinct), "method": method}, ["lamp_2m"], **cache)
    assert asked.count() == 9 + 9
    ask({"run": str(distinct), "method": "oppu_k0"}, ["lamp_2m"], gen_kwargs={"max_gen_toks": 2}, **cache)
    assert asked.count() == 9
    # The same base and task LoRA in another place answer the same without adapters.
    ask({"run": str(run), "method": "non_personalized"}, ["lamp_2m"], **cache)
    assert not asked.batches


def test_an_interrupted_run_keeps_what_was_answered(distinct: Path, tmp_path: Path, asked: Asked) -> None:
    arguments = {"run": str(distinct), "method": "oppu_k0", "batch_size": 3}
    cache: dict[str, Any] = {"use_cache": str(tmp_path / "answers")}

    def interrupt(base: Base, groups: Sequence[Sequence[str]]) -> None:
        if asked.batches:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asked.before = interrupt
        ask(arguments, ["lamp_2m"], **cache)
    asked.before = lambda base, groups: None
    kept = asked.count()
    assert 0 < kept < 9
    _wait_for_rows(tmp_path / "answers_rank0.db", kept)
    resumed = ask(arguments, ["lamp_2m"], **cache)
    assert asked.count() == 9 - kept
    assert answers(resumed, "lamp_2m") == answers(ask(arguments, ["lamp_2m"]), "lamp_2m")


def _wait_for_rows(file: Path, rows: int) -> None:
    """The cache writes in a thread of its own."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        with sqlite3.connect(file) as cache:
            if cache.execute("SELECT count(*) FROM unnamed").fetchone()[0] == rows:
                return
        time.sleep(0.05)
    raise AssertionError(f"{file} never had {rows} rows")


# --- cached requests (--cache_requests) -------------------------------------------------------------------


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The prompts that tasks make; each task makes one to look at when it is loaded."""
    calls: list[str] = []
    make = LampTask.doc_to_text

    def recorded(self: LampTask, doc: Any, *rest: Any) -> str:
        calls.append(make(self, doc, *rest))
        return calls[-1]

    monkeypatch.setattr(LampTask, "doc_to_text", recorded)
    return calls


def requests_of(results: Any, task: str) -> list[tuple[Any, Any]]:
    """(doc, arguments) as they were asked."""
    return [(sample["doc"], sample["arguments"]) for sample in results["samples"][task]]


def test_cached_requests_are_never_those_of_something_else(
    twins: Dataset, tmp_path: Path, made: list[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(twins.path, data)
    profiles = tmp_path / "profiles.jsonl"

    def profile(text: str) -> None:
        rows = [{"task": "lamp_2m", "user_id": user.user_id, "profile": text} for user in twins.users()]
        profiles.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def other_data() -> None:
        """Other users' queries in the same place."""
        sample_dataset(data, seed=5)

    steps: list[tuple[dict[str, Any], dict[str, Any], Callable[[], None] | None]] = [
        ({"method": "non_personalized"}, {"limit": 2}, None),
        ({"method": "non_personalized"}, {}, None),
        ({"method": "rag_k1"}, {}, None),
        ({"method": "random_k1"}, {}, None),
        ({"method": "random_k1", "seed": 3}, {}, None),
        ({"method": "pag_k0"}, {}, None),
        ({"method": "pag_k0", "profiles": str(profiles)}, {}, lambda: profile("likes goats")),
        ({"method": "pag_k0", "profiles": str(profiles)}, {}, lambda: profile("likes ships")),
        ({"method": "rag_k1", "tokenizer": str(TINY_FOLDER), "max_length": 100}, {}, None),
        ({"method": "rag_k1"}, {"gen_kwargs": {"until": ["."]}}, None),
        ({"method": "rag_k1"}, {"system_instruction": "Be brief."}, None),
        ({"method": "rag_k1"}, {"limit": 2}, None),
        ({"method": "rag_k1"}, {"samples": {"lamp_2m": [1, 4]}}, None),
        ({"method": "rag_k1"}, {"samples": {"lamp_2m": [2, 4]}}, None),
        ({"method": "rag_k1"}, {}, None),
        ({"method": "rag_k1"}, {}, other_data),
        ({"method": "non_personalized"}, {}, None),
    ]
    seen = set()
    for given, options, change in steps:
        if change:
            change()
        metadata = {"data": str(data), **given}
        plain = ask({}, ["lamp_2m"], "dummy", metadata, **options)
        for _ in range(2):
            cached = ask({}, ["lamp_2m"], "dummy", metadata, cache_requests=True, **options)
            assert requests_of(cached, "lamp_2m") == requests_of(plain, "lamp_2m"), (metadata, options)
        seen.add(str(requests_of(plain, "lamp_2m")))
    assert len(seen) == len(steps) - 1, "one step comes twice, all others ask something else"


def test_cached_requests_are_used_again(run: Path, made: list[str]) -> None:
    for method in ("rag_k1", "oppu_k0"):
        asking = {"run": str(run), "method": method}
        first = ask(asking, ["lamp_2m"], cache_requests=True)
        assert len(made) == 1 + 9
        made.clear()
        again = ask(asking, ["lamp_2m"], cache_requests=True)
        assert len(made) == 1
        assert requests_of(again, "lamp_2m") == requests_of(first, "lamp_2m")
        assert again["results"] == first["results"]
        made.clear()


def test_cached_requests_name_the_weights_of_today(distinct: Path, tmp_path: Path) -> None:
    copy = copy_run(distinct, tmp_path / "copy")
    asking = {"run": str(copy), "method": "oppu_k0"}
    both: dict[str, Any] = {"use_cache": str(tmp_path / "answers"), "cache_requests": True}
    before = answers(ask(asking, ["lamp_2m"], **both), "lamp_2m")
    replace_adapters(copy, 77, task="lamp_2m", variant="base", user_id=USERS[1])
    after = answers(ask(asking, ["lamp_2m"], **both), "lamp_2m")
    assert after == answers(ask(asking, ["lamp_2m"]), "lamp_2m") != before


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


# --- options of the command -------------------------------------------------------------------------------


def test_parts_of_the_docs(run: Path) -> None:
    asking = {"run": str(run), "method": "oppu_rag_k1"}
    whole = answers(ask(asking, ["lamp_2m"]), "lamp_2m")
    for options, expected in (
        ({"limit": 2}, [0, 1]),
        ({"limit": 0.5}, [0, 1, 2, 3, 4]),
        ({"samples": {"lamp_2m": [1, 4, 8]}}, [1, 4, 8]),
    ):
        results = ask(asking, ["lamp_2m"], **options)
        assert answers(results, "lamp_2m") == {list(whole)[i]: list(whole.values())[i] for i in expected}
        assert [sample["doc_id"] for sample in results["samples"]["lamp_2m"]] == expected


def test_logged_samples_say_whose_they_are(run: Path, twins: Dataset) -> None:
    asking = {"run": str(run), "method": "oppu_k0"}
    results = ask(asking, ["lamp_2m"])
    logged = [
        (doc["user_id"], doc["id"], doc["method"], doc["gold"], doc["fields"], doc["history_len"])
        for doc in (sample["doc"] for sample in results["samples"]["lamp_2m"])
    ]
    assert logged == [
        (user.user_id, query.id, "oppu_k0", query.gold, dict(query.fields), query.history_len)
        for user in twins.users("test")
        for query in user.queries
    ]
    assert all(sample["target"] == sample["doc"]["gold"] for sample in results["samples"]["lamp_2m"])
    assert "samples" not in ask(asking, ["lamp_2m"], log_samples=False, limit=1)


def test_predict_only_needs_no_golds(run: Path, twins: Dataset, tmp_path: Path) -> None:
    withheld = changed(twins, tmp_path / "withheld", gold=None)
    expected = answers(ask({"run": str(run), "method": "oppu_k0"}, ["lamp_2m"]), "lamp_2m")
    explicit = {"pretrained": "tiny", "store": str(run.parent / "store"), "method": "oppu_k0"}
    for data in (withheld, twins):
        results = ask({**explicit, "data": str(data.path)}, ["lamp_2m"], predict_only=True)
        assert answers(results, "lamp_2m") == expected
        assert set(metrics(results, "lamp_2m")) <= {"bypass"}
    with pytest.raises(ConfigError, match=r"nothing to score.*--predict_only"):
        ask({**explicit, "data": str(withheld.path)}, ["lamp_2m"])


def test_queries_without_gold_are_answered_and_not_scored(run: Path, twins: Dataset, tmp_path: Path) -> None:
    first, *others = twins.users("test")
    withheld = dataclasses.replace(
        first, queries=tuple(dataclasses.replace(query, gold=None) for query in first.queries)
    )
    users = [*twins.users("others"), withheld, *others]
    data = write_dataset(tmp_path / "data", twins.task, users, {"kind": "test"})
    explicit = {"pretrained": "tiny", "store": str(run.parent / "store"), "data": str(data.path)}
    results = ask({**explicit, "method": "oppu_k0"}, ["lamp_2m"])
    written = answers(results, "lamp_2m")
    assert written == open_run(run).predictions("lamp_2m", "oppu_k0")
    golds = {(user.user_id, query.id): query.gold or "" for user in others for query in user.queries}
    assert metrics(results, "lamp_2m") == {
        metric.name: metric.score([written[query] for query in golds], list(golds.values()))
        for metric in metrics_for(twins.task)
    }


def test_sampled_answers_depend_on_the_seed_and_the_adapter(distinct: Path) -> None:
    def sampled(seed: int, **options: Any) -> dict[tuple[str, str], str]:
        hot = {"do_sample": True, "temperature": 1.0}
        asking = {"run": str(distinct), "method": "oppu_k0"}
        results = ask(asking, ["lamp_2m"], gen_kwargs=hot, torch_random_seed=seed, **options)
        return answers(results, "lamp_2m")

    first = sampled(1)
    assert sampled(1) == first != sampled(2)
    assert sampled(1, limit=2).items() <= first.items()
    texts = list(first.values())
    assert texts[0] != texts[3], "the same prompt and seed, two adapters"


CHAT = (
    "{% for message in messages %}<s>{{ message['role'] }}: {{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant:{% endif %}"
)


def test_a_chat_template_is_rendered_and_its_special_tokens_are_single(
    twins: Dataset, tmp_path: Path, asked: Asked
) -> None:
    base = tmp_path / "talkative"
    shutil.copytree(TINY_FOLDER, base)
    config = read_json(base / "tokenizer_config.json") | {"chat_template": CHAT}
    (base / "tokenizer_config.json").write_text(json.dumps(config))
    run = make_run(tmp_path / "run", [twins], ["non_personalized", "oppu_k0"], str(base))
    read: list[list[int]] = []

    def read_ids(base: Base, groups: Sequence[Sequence[str]]) -> None:
        read.extend(base.tokenizer.prompt_ids(text) for group in groups for text in group)

    asked.before = read_ids
    asking = {"run": str(run), "method": "oppu_k0"}
    plain = prompts(ask(asking, ["lamp_2m"]), "lamp_2m")

    def rendered(system: str, user: str) -> str:
        return f"<s>system: {system}</s><s>user: {user}</s><s>assistant:"

    read.clear()
    chat: dict[str, Any] = {"apply_chat_template": True, "system_instruction": "Be brief."}
    results = ask(asking, ["lamp_2m"], **chat)
    assert prompts(results, "lamp_2m") == {
        query: rendered("Be brief.", user) for query, user in plain.items()
    }
    tokenizer = base_tokenizer(str(base)).ending(["\n"], chat=True)
    assert len(read) == 9
    for ids in read:
        assert [id for id in ids if id in tokenizer.hf.all_special_ids] == [0, 1, 0, 1, 0]
        assert ids[0] == 0
    assert any(answers(results, "lamp_2m").values())

    # And what stands around a prompt is room that it does not have.
    room = tokenizer.context - get_task("lamp_2m").max_answer_tokens
    system = "Be brief."
    while min(len(tokenizer.prompt_ids(rendered(system, user))) for user in plain.values()) <= room:
        system += " Be brief."
    read.clear()
    tight = ask(asking, ["lamp_2m"], **{**chat, "system_instruction": system})
    assert len(read) == 9 and all(len(ids) <= room for ids in read)
    for prompt in prompts(tight, "lamp_2m").values():
        assert get_task("lamp_2m").instruction in prompt and prompt.endswith("</s><s>assistant:")


def test_a_chat_template_knows_no_today_and_leaves_no_room_for_thoughts(tmp_path: Path) -> None:
    base = tmp_path / "thoughtful"
    shutil.copytree(TINY_FOLDER, base)
    template = "{{ strftime_now('%d %b %Y') }} " + CHAT + "{% if not enable_thinking %}<think>\n{% endif %}"
    config = read_json(base / "tokenizer_config.json") | {"chat_template": template}
    (base / "tokenizer_config.json").write_text(json.dumps(config))
    model = OppuLM(pretrained=str(base), store=str(tmp_path / "store"))
    said = [{"role": "user", "content": "Hello"}]
    before = "26 Jul 2024 <s>user: Hello</s>"
    assert model.apply_chat_template(said) == f"{before}<s>assistant:<think>\n\n</think>\n\n"
    assert model.apply_chat_template(said, add_generation_prompt=False) == f"{before}<think>\n"


def test_a_base_without_a_chat_template_says_so(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"--apply_chat_template: the base tiny has no chat template"):
        ask({"run": str(run), "method": "oppu_k0"}, ["lamp_2m"], apply_chat_template=True)


def test_a_prompt_leaves_room_for_a_system_instruction(run: Path) -> None:
    tokenizer = base_tokenizer("tiny")
    room = tokenizer.context - get_task("lamp_2m").max_answer_tokens
    asking = {"run": str(run), "method": "oppu_rag_k1"}
    plain = prompts(ask(asking, ["lamp_2m"]), "lamp_2m")
    shortest = min(len(tokenizer.prompt_ids(prompt)) for prompt in plain.values())
    system = "Be brief. " * 200
    while len(tokenizer.prompt_ids(system)) + shortest > room + 10:
        system = system[: -len("Be brief. ")]
    results = ask(asking, ["lamp_2m"], system_instruction=system)
    for query, prompt in prompts(results, "lamp_2m").items():
        assert prompt.startswith(system) and len(tokenizer.prompt_ids(prompt)) <= room
        assert len(tokenizer.prompt_ids(system + "\n\n" + plain[query])) > room
        assert get_task("lamp_2m").instruction in prompt
    assert any(answers(results, "lamp_2m").values())


def test_write_out_shows_the_prompt(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "lm_eval")
    results = ask({"run": str(run), "method": "rag_k1"}, ["lamp_2m"], write_out=True)
    prompt = next(iter(prompts(results, "lamp_2m").values()))
    assert f"context prompt (starting on next line):    \n{prompt}\n(end of prompt" in caplog.text


def test_examples_of_others_are_refused(run: Path) -> None:
    asking = {"run": str(run), "method": "rag_k1"}
    with pytest.raises(ConfigError, match=r"--num_fewshot 3: lamp_2m has no few-shot examples.*rag_k3"):
        ask(asking, ["lamp_2m"], num_fewshot=3)
    plain, zero = (ask(asking, ["lamp_2m"], num_fewshot=number, limit=2) for number in (None, 0))
    assert requests_of(zero, "lamp_2m") == requests_of(plain, "lamp_2m")


def test_gen_kwargs_override_ours(run: Path) -> None:
    asking = {"run": str(run), "method": "oppu_k0"}
    plain = answers(ask(asking, ["lamp_4"]), "lamp_4")
    assert all("e" in text for text in plain.values())
    cut = answers(ask(asking, ["lamp_4"], gen_kwargs={"until": ["e"]}), "lamp_4")
    assert cut == {query: text.split("e")[0].strip() for query, text in plain.items()}
    tokenizer = base_tokenizer("tiny").hf
    short = {
        name: answers(ask(asking, ["lamp_4"], gen_kwargs={name: 3}), "lamp_4")
        for name in ("max_gen_toks", "max_new_tokens", "max_tokens")
    }
    assert short["max_new_tokens"] == short["max_tokens"] == short["max_gen_toks"] != plain
    for query, text in short["max_gen_toks"].items():
        assert plain[query].startswith(text) and len(tokenizer.tokenize(" " + text)) <= 3


def test_gen_kwargs_that_mean_nothing_here_are_refused(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"--gen_kwargs num_beams: --model oppu knows .*until"):
        ask({"run": str(run), "method": "oppu_k0"}, ["lamp_2m"], gen_kwargs={"num_beams": 2})


def command(*arguments: str | Path, cache: Path) -> subprocess.CompletedProcess[str]:
    """Run the released harness's own command."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "LM_HARNESS_CACHE_PATH": str(cache), "COLUMNS": "200"}
    return subprocess.run(
        [Path(sys.executable).with_name("lm_eval"), *map(str, arguments)],
        capture_output=True, text=True, env=environment, timeout=300, check=False,
    )  # fmt: skip


def test_the_real_command_writes_what_was_asked(tmp_path: Path, movies: Dataset, headlines: Dataset) -> None:
    # A base that a process of its own finds as well.
    run = make_run(tmp_path / "made" / "run", [movies, headlines], model=str(base_files.TINY_FOLDER))
    options: list[str | Path] = [
        "--model", "oppu", "--model_args", f"run={run},method=oppu_rag_k1", "--tasks", "lamp_2m,lamp_4",
        "--device", "cpu", "--use_cache", tmp_path / "answers", "--cache_requests", "true", "--write_out",
        "--seed", "7", "--log_samples", "--output_path", tmp_path / "out",
    ]  # fmt: skip
    done = command(*options, cache=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "out").rglob("results_*.json")
    results = read_json(file)
    rows = evaluate_run(open_run(copy_run(run, tmp_path / "copied"))).rows
    for task in ("lamp_2m", "lamp_4"):
        assert metrics(results, task) == {
            row.metric: row.value for row in rows if (row.task, row.method) == (task, "oppu_rag_k1")
        }
        (logged,) = (tmp_path / "out").rglob(f"samples_{task}_*.jsonl")
        found = {
            (row["doc"]["user_id"], row["doc"]["id"]): row["filtered_resps"][0] for row in read_jsonl(logged)
        }
        assert found == open_run(run).predictions(task, "oppu_rag_k1")
    assert results["config"]["model"] == "oppu"
    assert list((tmp_path / "cache").iterdir()) and (tmp_path / "answers_rank0.db").exists()


# --- several tasks ----------------------------------------------------------------------------------------


def test_two_tasks_at_once_are_each_as_alone(distinct: Path) -> None:
    asking = {"run": str(distinct), "method": "oppu_k0"}
    both = ask(asking, ["lamp_4", "lamp_2m"])
    for task in ("lamp_2m", "lamp_4"):
        alone = ask(asking, [task])
        assert answers(alone, task) == answers(both, task)
        assert metrics(alone, task) == metrics(both, task)


def test_the_group_shows_each_task_and_no_average() -> None:
    """Any model of the harness, with nothing at hand: the built-in sample world."""
    results = ask({}, ["lamp"], "dummy", limit=5)
    assert set(results["results"]) == {"lamp", *GRAMMARS} and "groups" not in results
    assert not metrics(results, "lamp")
    for task in map(get_task, GRAMMARS):
        expected = metrics_for(task)
        assert set(metrics(results, task.name)) == {metric.name for metric in expected}
        assert results["higher_is_better"][task.name] == {
            metric.name: metric.name not in ("mae", "rmse") for metric in expected
        }
        assert len(results["samples"][task.name]) == 5
    assert set(results["higher_is_better"]["lamp_3"]) == {"mae", "rmse"}


def test_longlamp_needs_data_which_the_sample_world_has_not() -> None:
    with pytest.raises(ConfigError, match="sample world has no longlamp_topic; name a dataset"):
        ask({}, ["longlamp_topic"], "dummy", limit=1)


def test_tags_name_the_kinds() -> None:
    def named(tag: str) -> set[str]:
        return set(task_manager({}).load([tag])["tasks"])

    assert named("lamp_classification") == {"lamp_1", "lamp_2n", "lamp_2m", "lamp_3"}
    assert named("lamp_generation") == {"lamp_4", "lamp_5", "lamp_7"}


# --- batches ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["rag_k1", "oppu_rag_k1"])
def test_answers_depend_on_nobody_else(distinct: Path, method: str, asked: Asked) -> None:
    """Neither on the batch size, nor on the order of the docs, nor on who shares a batch."""
    asking = {"run": str(distinct), "method": method}
    expected = open_run(distinct).predictions("lamp_2m", method) if method == "rag_k1" else {}
    shapes = set()
    for size in (1, 3, "auto"):
        results = ask({**asking, "batch_size": size}, ["lamp_2m"])
        shapes.add(len(asked.batches))
        assert asked.count() == 9
        expected = expected or answers(results, "lamp_2m")
        assert answers(results, "lamp_2m") == expected
    assert len(shapes) == 3

    loaded = task_manager(asking).load(["lamp_2m"])
    (task,) = loaded["tasks"].values()
    task.dataset["test"] = task.dataset["test"].shuffle(seed=1)
    shuffled = answers(evaluate(OppuLM(str(distinct), batch_size=4), loaded, bootstrap_iters=0), "lamp_2m")
    assert list(shuffled) != list(expected) and shuffled == expected
    for samples in ([0, 3, 6], [2], [1, 8]):
        part = answers(ask(asking, ["lamp_2m"], samples={"lamp_2m": samples}), "lamp_2m")
        assert part == {query: expected[query] for query in [list(expected)[index] for index in samples]}


def test_the_harness_default_of_1_is_read_as_auto(run: Path) -> None:
    def size(arguments: dict[str, Any], **options: Any) -> tuple[int, bool]:
        model = OppuLM.create_from_arg_obj({"run": str(run), **arguments}, options)
        return model._batch_size, model._auto

    assert size({}, batch_size=1) == size({}) == size({"batch_size": "auto:4"}, batch_size=1) == (64, True)
    assert size({"batch_size": 1}, batch_size=1) == (1, False)
    assert size({}, batch_size="8") == (8, False)
    assert size({}, batch_size="auto", max_batch_size=16) == (16, True)


@pytest.mark.parametrize("fails", ["above 2", "second call"])
def test_auto_takes_smaller_batches_when_memory_runs_out(distinct: Path, asked: Asked, fails: str) -> None:
    asking = {"run": str(distinct), "method": "oppu_k0"}
    expected = answers(ask(asking, ["lamp_2m"]), "lamp_2m")
    asked.batches.clear()
    calls: list[int] = []

    def run_out_of_memory(base: Base, groups: Sequence[Sequence[str]]) -> None:
        calls.append(sum(map(len, groups)))
        if calls[-1] > 2 if fails == "above 2" else len(calls) == 2:
            raise torch.OutOfMemoryError

    asked.before = run_out_of_memory
    results = ask(asking, ["lamp_2m"], batch_size="auto", max_batch_size=4)
    assert answers(results, "lamp_2m") == expected
    assert len(calls) > len(asked.batches) > 2
    assert asked.count() == 9, "nothing is answered twice"
    with pytest.raises(
        ModelError, match=r"Memory is too small for 4 prompts at a time\. Try --batch_size auto"
    ):
        calls.clear()
        ask({**asking, "batch_size": 4}, ["lamp_2m"])


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


# --- the other models -------------------------------------------------------------------------------------


def test_an_exported_task_base_answers_in_hf_as_in_ours(run: Path, tmp_path: Path) -> None:
    export_base(open_run(run), "lamp_2m", "base", tmp_path / "base")
    results = ask(
        {"pretrained": str(tmp_path / "base"), "dtype": "float32"}, ["lamp_2m"], "hf",
        {"data": str(run), "method": "non_personalized"}, batch_size=4,
    )  # fmt: skip
    ours = ask({"run": str(run), "method": "non_personalized"}, ["lamp_2m"])
    predictions = open_run(run).predictions("lamp_2m", "non_personalized")
    assert {query: text.strip() for query, text in answers(results, "lamp_2m").items()} == predictions
    assert answers(ours, "lamp_2m") == predictions
    assert metrics(results, "lamp_2m") == metrics(ours, "lamp_2m")
    assert prompts(results, "lamp_2m") == prompts(ours, "lamp_2m")
