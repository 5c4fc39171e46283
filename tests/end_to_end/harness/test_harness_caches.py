"""Cached answers, cached requests and batches: what goes wrong silently when adapters meet the harness."""

import json
import shutil
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from harness_runs import (
    USERS,
    Asked,
    answers,
    ask,
    copy_run,
    metrics,
    prompts,
    replace_adapters,
    requests_of,
    task_manager,
)
from lm_eval.evaluator import evaluate
from oppu_core.data.dataset import Dataset
from oppu_core.errors import ModelError
from oppu_core.modeling.base import Base
from oppu_core.modeling.base_files import TINY_FOLDER
from oppu_core.ownership.base_export import export_base
from oppu_core.runs.run import open_run
from oppu_eval.lm_eval.model import OppuLM
from oppu_eval.lm_eval.task import LampTask
from small_world import sample_dataset

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
