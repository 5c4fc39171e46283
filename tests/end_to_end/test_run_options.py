"""What a run may be asked for besides the paper's: recency, given profiles, examples from histories."""

import json
import shutil
from pathlib import Path

import pytest
from oppu_core.data.dataset import Dataset
from oppu_core.modeling.base_files import TINY_FOLDER
from small_world import QUICK


def given_profiles(path: Path, dataset: Dataset, **changes: str) -> Path:
    texts = {user.user_id: f"profile of {user.user_id}" for user in dataset.users()} | changes
    rows = [{"task": "lamp_2m", "user_id": user_id, "profile": text} for user_id, text in texts.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def entries(store: Path) -> set[str]:
    return {str(path.parent.relative_to(store)) for path in store.rglob("adapter_model.safetensors")}


def test_given_profiles_are_what_a_run_stands_on(oppu, movies: Dataset, tmp_path: Path) -> None:
    """In prompts, keys and fingerprints; nothing that has no profile in it is trained again."""
    store = tmp_path / "store"
    options = ["--data", movies.path, "--methods", "oppu_k0,oppu_pag_k0", "--users", "1", *QUICK]
    assert oppu("run", "--run", tmp_path / "computed", *options).returncode == 0
    before = entries(store)
    file = given_profiles(tmp_path / "profiles.jsonl", movies)
    run = tmp_path / "given"
    result = oppu("run", "--run", run, *options, "--profiles", file)
    assert result.returncode == 0, result.stderr
    assert (run / "lamp_2m" / "profiles.jsonl").read_text() == (
        '{"profile":"profile of test-000","task":"lamp_2m","user_id":"test-000"}\n'
    )
    with_given = entries(store)
    assert before < with_given and len(with_given - before) == 2, "a task LoRA and an adapter of pag_k0"

    moved = given_profiles(tmp_path / "moved.jsonl", movies)
    assert oppu("run", "--run", run, *options, "--profiles", moved).returncode == 0
    assert entries(store) == with_given

    given_profiles(moved, movies, **{"test-000": "another"})
    for command in (["answer", "--run", run], ["run", "--run", run, *options, "--profiles", moved]):
        result = oppu(*command)
        assert result.returncode != 0
        assert "profiles" in result.stderr and "started with" in result.stderr.replace("\n", " ")
    other = tmp_path / "other"
    assert oppu("run", "--run", other, *options, "--profiles", moved).returncode == 0
    new = entries(store) - with_given
    assert len(new) == 1 and next(iter(new)).startswith("adapters/"), "a test user's text: the adapter alone"


BAD_PROFILES = {
    "incomplete": ({"task": "lamp_2m", "user_id": "test-000", "profile": "p"}, "users of .* have none"),
    "foreign task": (
        {"task": "lamp_4", "user_id": "a", "profile": "p"},
        "'lamp_4', but this run's tasks are",
    ),
    "no profile": ({"task": "lamp_2m"}, "line 1: not a profile"),
}


@pytest.mark.parametrize("case", BAD_PROFILES)
def test_profiles_that_do_not_fit_are_refused_before_anything_is_done(
    oppu, movies: Dataset, tmp_path: Path, case: str
) -> None:
    import re

    row, expected = BAD_PROFILES[case]
    file = tmp_path / "profiles.jsonl"
    file.write_text(json.dumps(row) + "\n")
    options = ["--data", movies.path, *QUICK, "--profiles", file]
    result = oppu("run", "--run", tmp_path / "run", *options)
    assert result.returncode in (1, 2)
    assert re.search(expected, result.stderr.replace("\n", " "))
    assert not (tmp_path / "run").exists()


def test_part_of_the_profiles_is_enough_where_nobody_uses_them(movies: Dataset, tmp_path: Path) -> None:
    from oppu_core.runs.config import resolve_config
    from oppu_core.runs.options import RunOptions
    from oppu_core.runs.start import start_run

    file = tmp_path / "profiles.jsonl"
    file.write_text(json.dumps({"task": "lamp_2m", "user_id": "test-000", "profile": "p"}) + "\n")
    config = resolve_config(RunOptions(
        data=[movies.path], model="tiny", methods=["rag_k1"], preset="auto", settings=[], dtype="float32",
        seed=0, users=None, sample=False, profiles=[file],
    ))  # fmt: skip
    assert set(start_run(tmp_path / "run", config).provenance["profiles"]) == {"lamp_2m"}


def test_examples_can_come_from_histories_and_recency_has_a_base_of_its_own(
    oppu, movies: Dataset, tmp_path: Path
) -> None:
    from oppu_core.storage.store import Store

    options = ["--data", movies.path, "--methods", "recent_k1,oppu_recent_k1", "--users", "1", *QUICK]
    for name, examples in (("a", "queries"), ("b", "queries+history")):
        result = oppu("run", "--run", tmp_path / name, *options, "--examples", examples)
        assert result.returncode == 0, result.stderr
        assert "oppu_recent_k1" in result.stdout
    others = list(movies.users("others"))
    queries, items = (sum(map(len, parts)) for parts in (
        [user.queries for user in others], [user.training_history for user in others]
    ))  # fmt: skip
    found = {
        entry.identity["examples"]: (entry.facts["examples"], entry.identity["variant"])
        for entry in Store(tmp_path / "store").entries()
        if entry.kind == "task_lora"
    }
    assert found == {"queries": (queries, "recent_k1"), "queries+history": (queries + items, "recent_k1")}
    result = oppu("run", "--run", tmp_path / "a", *options, "--examples", "queries+history")
    assert result.returncode == 2 and "examples: 'queries' then" in result.stderr


def test_losses_are_reported_without_user_ids(
    oppu, movies: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys
    import types

    logged: list[dict[str, object]] = []
    project = types.SimpleNamespace(log=logged.append, finish=lambda: None)
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=lambda **_: project))
    options = ["--data", movies.path, "--methods", "oppu_k0", *QUICK]
    assert oppu("base", "train", "--run", tmp_path / "run", *options, "--report-to", "wandb").returncode == 0
    steps = len(logged)
    assert steps > 1 and all(list(one) == ["lamp_2m base/task LoRA"] for one in logged)
    assert oppu("personal", "train", "--run", tmp_path / "run", "--report-to", "wandb").returncode == 0
    assert len(logged) == steps + 3
    folders = {Path(name).name for name in entries(tmp_path / "store")}
    for one in logged[steps:]:
        assert set(one) == {"lamp_2m base/adapters", "adapter"} and one["adapter"] in folders
    assert "test-0" not in str(logged)


def test_a_chat_template_that_is_not_used_is_mentioned_once(
    oppu, movies: Dataset, headlines: Dataset, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(TINY_FOLDER, base)
    (base / "chat_template.jinja").write_text("{{ messages[0].content }}")
    data = ["--data", movies.path, "--data", headlines.path]
    asked = ["run", "--run", tmp_path / "run", *data, "--methods", "non_personalized", "--users", "1", *QUICK]
    result = oppu(*asked, "--model", base)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("The base has a chat template, but prompts are plain") == 1


def test_a_processor_without_units_for_a_type_is_told_of_once(
    oppu, movies: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True}, raising=False)
    options = ["--data", movies.path, "--methods", "non_personalized,rag_k1", "--users", "1", *QUICK]
    for dtype, times in (("bfloat16", 1), ("float32", 0)):
        run = tmp_path / dtype
        result = oppu("run", "--run", run, *options, "--dtype", dtype, "--device", "cpu")
        assert result.returncode == 0, result.stderr
        said = "This processor has no units for bfloat16"
        assert result.stderr.count(said) == (run / "log.jsonl").read_text().count(said) == times
