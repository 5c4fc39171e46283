"""`oppu evaluate --export lamp`: LaMP's files from a real run, with golds and without."""

import dataclasses
import json
from pathlib import Path

import pytest
from oppu_core.data.dataset import Dataset
from oppu_core.data.dataset_writer import write_dataset
from oppu_core.runs.config import resolve_config
from oppu_core.runs.options import RunOptions
from oppu_core.runs.start import start_run
from oppu_core.storage.files import write_jsonl
from small_world import QUICK


@pytest.mark.parametrize("withheld", [False, True])
def test_a_run_is_exported_for_the_leaderboard(oppu, movies: Dataset, tmp_path: Path, withheld: bool) -> None:
    """And scored where there are golds; where there are none, that is said and is no error."""
    users = [
        dataclasses.replace(user, queries=tuple(dataclasses.replace(q, gold=None) for q in user.queries))
        if withheld and user.split == "test"
        else user
        for user in movies.users()
    ]
    data = write_dataset(tmp_path / "data", movies.task, users, {"kind": "test"})
    run = tmp_path / "[bold]run"
    options = ["--run", run, "--data", data.path, "--methods", "non_personalized", *QUICK]
    assert oppu("base", "train", *options).returncode == 0
    early = oppu("evaluate", "--run", run, "--export", "lamp")
    assert early.returncode == 1 and "oppu answer --run" in early.stderr
    assert not (run / "leaderboard").exists()

    assert oppu("answer", "--run", run).returncode == 0
    result = oppu("evaluate", "--run", run, "--export", "lamp")
    assert result.returncode == 0, result.stderr
    answers = run / "lamp_2m" / "predictions" / "non_personalized.jsonl"
    rows = [json.loads(line) for line in answers.read_text().splitlines()]
    for name in ("LaMP_2", "LaMP_2M"):
        file = run / "leaderboard" / "lamp_2m" / "non_personalized" / f"{name}.json"
        assert f"Leaderboard: {file}\n" in result.stdout
        golds = [{"id": row["id"], "output": row["answer"]} for row in rows]
        assert json.loads(file.read_bytes()) == {"task": name, "golds": golds}

    assert "Left out" not in result.stderr
    assert ("nothing to score here" in result.stderr) == withheld
    assert ("accuracy" in result.stdout.lower()) != withheld
    assert (run / "results.json").exists() != withheld
    assert (oppu("evaluate", "--run", run).returncode == 0) != withheld  # scoring alone needs golds


def test_whose_training_failed_is_told(oppu, movies: Dataset, tmp_path: Path) -> None:
    """A user without history has no adapter, so `oppu_k0` has no submission."""
    others, tests = list(movies.users("others")), list(movies.users("test"))
    empty = tuple(dataclasses.replace(query, history_len=0) for query in tests[0].queries)
    tests[0] = dataclasses.replace(tests[0], user_id="nobody", history=(), queries=empty)
    data = write_dataset(tmp_path / "data", movies.task, [*others, *tests], {"kind": "test"})
    run = tmp_path / "run"
    options = ["--data", data.path, "--methods", "non_personalized,oppu_k0", *QUICK]
    assert oppu("run", "--run", run, *options).returncode == 0
    result = oppu("evaluate", "--run", run, "--export", "lamp")
    assert result.returncode == 1
    assert "lamp_2m, method oppu_k0: 3 of 9 test queries have no answer" in result.stderr
    assert "Training failed for 1 of 3 users ('nobody'; " in result.stderr
    assert '"user_id": "nobody"' in (run / "log.jsonl").read_text(), "where the message points to"
    assert not (run / "leaderboard").exists()


def test_own_tasks_are_left_out_and_named(oppu, movies: Dataset, tmp_path: Path) -> None:
    own = dataclasses.replace(movies.task, name="own", lamp_ids=())
    data = write_dataset(tmp_path / "own", own, movies.users(), {"kind": "test"})
    config = resolve_config(RunOptions(
        data=[data.path, movies.path], model="tiny", methods=["rag_k1"], preset="auto", settings=[],
        dtype="float32", seed=0, users=None, sample=False,
    ))  # fmt: skip
    run = start_run(tmp_path / "run", config)
    rows = [
        {"user_id": user.user_id, "id": query.id, "answer": "comedy", "gold": query.gold}
        for user in movies.users("test")
        for query in user.queries
    ]
    for task in config.data:
        write_jsonl(run.predictions_path(task, "rag_k1"), rows)
    result = oppu("evaluate", "--run", run.path, "--export", "lamp")
    assert result.returncode == 0, result.stderr
    assert "Left out, not tasks of LaMP: own.\n" in result.stderr
    assert result.stdout.count("Leaderboard: ") == 2
    assert [path.name for path in (run.path / "leaderboard").iterdir()] == ["lamp_2m"]


def test_only_lamps_form_is_known(oppu, tmp_path: Path) -> None:
    result = oppu("evaluate", "--run", tmp_path, "--export", "kaggle")
    assert result.returncode == 2 and "lamp" in result.stderr
