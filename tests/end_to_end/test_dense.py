"""Methods that retrieve by a sentence encoder, on every way to an answer, and what hangs on the encoder."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from harness_runs import answers, replace_adapters
from harness_runs import ask as ask_harness
from oppu_core.data import HistoryItem, Query, User
from oppu_core.data.dataset import Dataset
from oppu_core.errors import ConfigError, ModelError, StoreError
from oppu_core.runs.asking import ask
from oppu_core.runs.execute import execute
from oppu_core.runs.options import Compute, RunOptions
from oppu_core.runs.run import Run, open_run
from oppu_core.runs.start import start_run
from oppu_core.runs.variants import variants_of
from oppu_core.storage.store import Store
from oppu_demo.engine import Engine
from small_world import QUICK
from toy_encoder import write_encoder

pytest.importorskip("sentence_transformers")
Oppu = Callable[..., CompletedProcess[str]]
METHODS = ("rag_k1", "dense_k1", "oppu_dense_k1")
TASK = "lamp_2m"


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("encoders")
    return [write_encoder(folder / f"bert-{seed}", seed) for seed in (0, 1)]


def options(movies: Dataset, encoder: Path) -> RunOptions:
    return RunOptions(
        data=[movies.path], methods=METHODS, settings=QUICK[1::2], users=2, encoder=str(encoder)
    )


@pytest.fixture(scope="module")
def run(movies: Dataset, encoders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run; random adapters, whose answers surely differ."""
    made = start_run(tmp_path_factory.mktemp("dense") / "run", options(movies, encoders[0]))
    execute(made, ["bases", "personal"], Compute(device="cpu"))
    replace_adapters(made.path, 1, task=TASK, variant="dense_k1")
    execute(made, ["answers"], Compute(device="cpu"))
    return made


def predicted(run: Run, user: User, query: Query) -> dict[str, str]:
    return {name: run.predictions(TASK, name)[user.user_id, query.id] for name in METHODS}


def test_asking_and_the_page_give_the_run_s_answers(run: Run) -> None:
    engine = Engine(run, "cpu")
    for user in run.test_users(run.dataset(TASK)):
        query = user.queries[-1]
        said = predicted(run, user, query)
        found = {name: engine.answer(TASK, name, user, query).text for name in METHODS}
        assert found == said
        stranger = dataclasses.replace(user, user_id="somebody on the page")  # nothing of theirs is kept
        assert engine.answer(TASK, "dense_k1", stranger, query).text == said["dense_k1"]
        if query.history_len == len(user.history):
            assert ask(run, user.user_id, query.fields["description"], TASK, "cpu") == said


def test_the_harness_gives_them_from_the_run_and_from_the_store(run: Run, encoders: list[Path]) -> None:
    stored = {"pretrained": "tiny", "store": str(run.store_path), "data": run.config.data[TASK]}
    for method in ("dense_k1", "oppu_dense_k1"):
        from_run = ask_harness({"run": str(run.path), "method": method}, [TASK], batch_size=64)
        assert answers(from_run, TASK) == run.predictions(TASK, method)
    asked = {**stored, "method": "dense_k1", "encoder": str(encoders[0])}
    found = answers(ask_harness(asked, [TASK], batch_size=64), TASK)
    assert run.predictions(TASK, "dense_k1").items() <= found.items()
    with pytest.raises(StoreError, match="no task LoRA"):
        ask_harness({**asked, "encoder": str(encoders[1])}, [TASK])
    with pytest.raises(ConfigError, match="its own profiles, seed and encoder; leave encoder out"):
        ask_harness({"run": str(run.path), "method": "dense_k1", "encoder": str(encoders[0])}, [TASK])


def test_the_encoder_chooses_what_is_shown(run: Run, encoders: list[Path]) -> None:
    """Two encoders of random weights choose otherwise, and BM25 otherwise again."""
    (variant,) = (one for one in variants_of(run) if one.name == "dense_k1")

    class Letters:
        context = 10_000

        def prompt_ids(self, text: str) -> list[int]:
            return []

        answer_ids = prompt_ids

    def shown(retriever: str, which: Run) -> list[tuple[HistoryItem, ...]]:
        builder = variant.__class__(
            which, variant.dataset, variant.users, variant.profiles, variant.name
        ).prompt_builder(Letters())
        return [
            tuple(builder.retrievers[retriever].retrieve(
                variant.task.retrieval_text(query.fields), user.history, query.history_len, 3, ""
            ))
            for user in variant.users
            for query in user.queries
        ]  # fmt: skip

    other = start_run(run.path.parent / "other", options(variant.dataset, encoders[1]), run.store_path)
    assert shown("dense", run) != shown("dense", other) != shown("bm25", run) != shown("dense", run)


def test_another_encoder_is_another_run_with_other_weights(
    oppu: Oppu, run: Run, encoders: list[Path], movies: Dataset
) -> None:
    arguments = ["--data", movies.path, "--methods", ",".join(METHODS), "--users", "2", *QUICK]
    result = oppu("run", "--run", run.path, *arguments, "--encoder", encoders[1])
    assert result.returncode == 2
    assert "encoder: " in result.stderr and "encoder's files: " in result.stderr

    second = run.path.parent / "second"
    result = oppu("run", "--run", second, *arguments, "--encoder", encoders[1], "--store", run.store_path)
    assert result.returncode == 0, result.stderr
    assert f'"stage": "{TASK} dense_k1 encoding", "total": 6' in (second / "log.jsonl").read_text()
    keys = {
        (variant.name, one.path.name): variant.task_lora.folder
        for one in (run, open_run(second))
        for variant in variants_of(one)
    }
    assert keys["rag_k1", "run"] == keys["rag_k1", "second"], "retrieval by words does not ask an encoder"
    assert keys["dense_k1", "run"] != keys["dense_k1", "second"]
    identities = [entry.identity for entry in Store(run.store_path).entries() if entry.kind == "task_lora"]
    assert sorted("encoder" in identity for identity in identities) == [False, True, True]

    # What is not made with an encoder does not know of any: as in runs of older versions.
    plain = start_run(run.path.parent / "plain", RunOptions(data=[movies.path], methods=["rag_k1"]))
    assert "encoder" not in (plain.path / "run.json").read_text()


def test_an_encoder_that_has_changed_is_refused(run: Run, encoders: list[Path], movies: Dataset) -> None:
    moved = encoders[0].with_name("aside")
    encoders[0].rename(moved)
    shutil.copytree(encoders[1], encoders[0])
    try:
        (user, _) = run.test_users(run.dataset(TASK))
        with pytest.raises(
            ModelError, match=r"encoder .* is no longer the one that the run was started with"
        ):
            ask(run, user.user_id, "A ship.", TASK, "cpu")
        with pytest.raises(ConfigError, match="encoder's files"):
            start_run(run.path, options(movies, encoders[0]))
    finally:
        shutil.rmtree(encoders[0])
        moved.rename(encoders[0])


def test_an_own_history_is_searched_too(oppu: Oppu, run: Run, tmp_path: Path) -> None:
    history = tmp_path / "mine.jsonl"
    rows = [{"description": f"A ship sails {n} seas.", "tag": "action"} for n in range(4)]
    history.write_text("\n".join(map(json.dumps, rows)))
    result = oppu("personalize", "--history", history, "--run", run.path, "--task", TASK, "--user", "me")
    assert result.returncode == 0, result.stderr
    result = oppu("ask", "--run", run.path, "--user", "me", "A ship sails.")
    assert result.returncode == 0 and "oppu_dense_k1" in result.stdout
