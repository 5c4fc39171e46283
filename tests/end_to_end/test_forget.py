"""`oppu forget`: not a byte of the user is left, the others keep all, and a kill changes nothing."""

import dataclasses
import json
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from oppu_core.data.dataset import Dataset
from oppu_core.data.dataset_writer import write_dataset
from oppu_core.data.types import User
from oppu_core.runs.run import open_run
from oppu_core.storage.keys import adapter_key
from oppu_core.storage.store import Store
from small_world import QUICK, sample_dataset

USER, OTHER = "test-001", "others-002"
METHODS = "non_personalized,oppu_k0,oppu_pag_k0"
DEAD = 999_999_999  # no process has this id

# Kills between the two renames that put a new folder in the place of an old one.
KILL_IN_SWAP = """
import os, signal
import oppu_core.storage.files as files
def swap(new, path, aside):
    path.rename(aside)
    os.kill(os.getpid(), signal.SIGKILL)
files._swap = swap
"""
KILL_IN_STORE = """
import os, shutil, signal
import oppu_core.storage.store as store
def rmtree(path, **kwargs):
    shutil.os.remove(path / "adapter_config.json")
    os.kill(os.getpid(), signal.SIGKILL)
store.shutil = type("", (), {"rmtree": staticmethod(rmtree)})
"""
KILL_BEFORE_THE_RUN_FOLLOWS = """
import os, signal
import oppu_core.ownership.forget.erasing as erasing
erasing.follow_data = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
"""
KILL_IN_STUDIES = """
import os, signal
import oppu_eval.keeps as keeps
from oppu_core.storage.files import remove
def stop_in_the_middle(*paths):
    remove(*paths[:1])
    if paths[-1].name == "studies.json":
        os.kill(os.getpid(), signal.SIGKILL)
keeps.remove = stop_in_the_middle
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace after `oppu run`; a run knows its data by absolute paths, so the tests take turns in it."""
    import os

    from oppu_core.runs.execute import execute_visibly
    from oppu_core.runs.options import JOBS, Compute, RunOptions
    from oppu_core.runs.start import start_run
    from oppu_eval.reporting.run_report import write_report
    from oppu_eval.scoring.run_results import evaluate_run

    os.environ["NO_COLOR"] = "1"
    place = tmp_path_factory.mktemp("forget") / "workspace"
    sample_dataset(place / "data" / "movies")
    settings = [setting for setting in QUICK if setting != "--set"]
    options = RunOptions(data=[place / "data" / "movies"], methods=METHODS, settings=settings)
    run = start_run(place / "runs" / "movies", options)
    execute_visibly(run, JOBS, Compute(device="cpu", batch_size=32))
    write_report(run, evaluate_run(run), False)
    litter(place, Dataset.open(place / "data" / "movies").user(USER))
    shutil.copytree(place, place.parent / "as-built")
    return place


@pytest.fixture
def workspace(built: Path) -> Iterator[Path]:
    """The workspace as it was built."""
    shutil.rmtree(built)
    shutil.copytree(built.parent / "as-built", built)
    return built


def litter(place: Path, user: User) -> None:
    """Everything else that may know of a user: kept profiles, refused records, what killed processes left."""
    rows = [{"task": "lamp_2m", "user_id": name, "profile": f"about {name}"} for name in (USER, "test-000")]
    (place / "data" / "movies" / "profiles.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    refused = [
        {"file": "a", "record": 1, "user_id": USER, "reason": "r", "value": texts(user)[0]},
        {"file": "a", "record": 2, "user_id": None, "reason": "r", "value": json.dumps({"user_id": USER})},
        {"file": "a", "record": 3, "user_id": "test-000", "reason": "r", "value": "stays"},
    ]
    file = place / "data" / "movies" / "rejected.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in refused))
    run = place / "runs" / "movies"
    row = {"user_id": USER, "id": user.queries[0].id, "answer": texts(user)[1], "gold": None}
    journal = run / "lamp_2m" / "predictions" / ".oppu_k0.partial.jsonl"
    journal.write_text(json.dumps(row) + "\n" + json.dumps(row)[:-9])
    with (run / "log.jsonl").open("a") as log:
        log.write(json.dumps({"event": "user", "reason": f"user {USER!r} has no examples"}) + "\n")
    exported = run / "leaderboard" / "lamp_2m" / "oppu_k0" / "LaMP_2.json"
    exported.parent.mkdir(parents=True)
    exported.write_text(json.dumps({"golds": [{"id": user.queries[0].id, "output": texts(user)[1]}]}))
    stray = run / f".tmp-0123456789ab-{DEAD}-01234567"
    stray.write_text(texts(user)[2])
    store = Store(place / "runs" / "store")
    store.put_failure(adapter_key({"c": 1}, USER, "h"), f"user {USER!r}: loss is not finite")
    unlisted = store.path / adapter_key({"c": 2}, USER, "h").folder  # killed before its row was written
    shutil.copytree(store.path / next(e.folder for e in store.entries() if e.user_id == USER), unlisted)
    store.close()


def texts(user: User) -> list[str]:
    """The user's own texts; descriptions are nobody else's by construction."""
    return [item.fields["description"] for item in (*user.history, *user.queries)]


def everything(place: Path) -> dict[str, bytes]:
    """Every file, with its name; what Parquet packs is also read back."""
    content = {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}
    for manifest in place.rglob("dataset.json"):
        users = list(Dataset.open(manifest.parent).users())
        content[f"{manifest.relative_to(place)} read"] = repr(users).encode()
    return content


def adapters(place: Path) -> dict[str, bytes]:
    return {name: content for name, content in everything(place).items() if "/adapters/" in name}


def comparable(place: Path) -> dict[str, bytes]:
    """Everything but the salt, times, and how SQLite lays out its pages."""
    skipped = ("forgotten.json", ".lock", "manifest.sqlite", "manifest.sqlite-wal", "manifest.sqlite-shm")
    kept = {name: content for name, content in everything(place).items() if Path(name).name not in skipped}
    with sqlite3.connect(place / "runs" / "store" / "manifest.sqlite") as manifest:
        kept["rows"] = repr(manifest.execute("SELECT * FROM entries ORDER BY folder").fetchall()).encode()
    return kept


def test_not_a_byte_of_the_user_is_left(oppu, workspace: Path, monkeypatch) -> None:
    user = Dataset.open(workspace / "data" / "movies").user(USER)
    store = Store(workspace / "runs" / "store")
    keys = [entry.folder.split("/")[-1] for entry in store.entries() if entry.user_id == USER]
    store.close()
    marks = [USER, *keys, adapter_key({"c": 2}, USER, "h").folder, *texts(user)]
    before = everything(workspace)
    assert all(
        any(mark.encode() in name.encode() + content for name, content in before.items()) for mark in marks
    )
    assert len(keys) == 3
    kept_adapters = {
        name: content for name, content in adapters(workspace).items()
        if not any(key in name for key in (*keys, marks[4]))
    }  # fmt: skip
    assert len(kept_adapters) == 2 * 2 * 2  # two users, two variants, two files
    plan = workspace / "runs" / "movies" / "lamp_2m" / "cohorts.jsonl"
    planned = plan.read_text().splitlines()
    assert len(planned) == 3 * 2 and sum(USER in line for line in planned) == 2

    result = oppu("forget", USER, "--runs", workspace / "runs", "--yes")
    assert result.returncode == 0, result.stderr
    assert not any(text in result.stdout + result.stderr for text in texts(user))
    found = {
        (mark, name)
        for name, content in everything(workspace).items()
        for mark in marks
        if mark.encode() in name.encode() + content
    }
    assert found == set()
    folders = [str(path) for path in workspace.rglob("*") if path.is_dir()]
    assert not any(mark in folder for mark in marks for folder in folders)
    assert adapters(workspace) == kept_adapters
    assert b"stays" in (workspace / "data" / "movies" / "rejected.jsonl").read_bytes()
    assert plan.read_text().splitlines() == [line for line in planned if USER not in line]
    assert not any(workspace.rglob(".tmp-*"))

    # The others' answers stay, nothing is trained again, and the run is whole again.
    def no_training(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("oppu_core.training.cohort.Cohort.train", no_training)
    monkeypatch.setattr("oppu_core.training.loop.train", no_training)
    run = workspace / "runs" / "movies"
    data = workspace / "data" / "movies"
    assert [u.user_id for u in open_run(run).dataset("lamp_2m").users("test")] == ["test-000", "test-002"]
    command = ["run", "--run", run, "--data", data, "--methods", METHODS, *QUICK]
    again = oppu(*command)
    assert again.returncode == 0, again.stderr
    assert adapters(workspace) == kept_adapters
    assert json.loads((run / "results.json").read_text())["rows"][0]["users"] == 2


def test_without_a_terminal_nothing_is_removed_unless_told(oppu, workspace: Path) -> None:
    before = comparable(workspace)
    result = oppu("forget", USER, "--runs", workspace / "runs")
    assert result.returncode == 2 and "--yes" in result.stderr
    assert comparable(workspace) == before


def test_a_dry_run_shows_it_and_changes_nothing(oppu, workspace: Path) -> None:
    before = comparable(workspace)
    result = oppu("forget", USER, "--runs", workspace / "runs", "--dry-run")
    assert result.returncode == 0, result.stderr
    for what in ("2 adapters, 1 failed training", "3 queries", "results.json", "torn line", "temporary"):
        assert what in " ".join(result.stdout.split())
    assert comparable(workspace) == before
    assert not (workspace / "runs" / "forgotten.json").exists()


def test_what_cannot_be_searched_is_named(oppu, workspace: Path) -> None:
    (path,) = {Path(path) for path in open_run(workspace / "runs" / "movies").config.data.values()}
    path.rename(path.with_name("moved"))
    for more in (["--dry-run"], ["--yes"]):
        result = oppu("forget", USER, "--runs", workspace / "runs", *more)
        said = "".join(result.stdout.split())
        assert result.returncode == 0 and "Notfound,sonotsearched" in said and str(path) in said
    assert "forgotten, in what was found" in " ".join(result.stdout.split())
    nothing = "".join(oppu("forget", USER, "--runs", workspace / "runs").stdout.split())
    assert "isleft" in nothing and "Notfound,sonotsearched" in nothing
    again = oppu("forget", USER, "--runs", workspace / "runs", "--data", path.with_name("moved"), "--yes")
    assert again.returncode == 0 and "Not found" not in again.stdout

    (workspace / "runs" / "movies" / "run.json").write_text("{")
    damaged = oppu("forget", "test-000", "--runs", workspace / "runs", "--dry-run")
    assert damaged.returncode == 2 and "move the folder away if nobody needs it" in damaged.stderr


def test_a_second_call_has_nothing_to_do_and_an_unknown_user_is_an_error(oppu, workspace: Path) -> None:
    unknown = oppu("forget", "tset-001", "--runs", workspace / "runs", "--yes")
    assert unknown.returncode == 1
    assert "'test-001'" in unknown.stderr
    assert oppu("forget", USER, "--runs", workspace / "runs", "--yes").returncode == 0
    after = comparable(workspace)
    again = oppu("forget", USER, "--runs", workspace / "runs", "--yes")
    assert (again.returncode, "is left" in again.stdout) == (0, True)
    assert comparable(workspace) == after


def test_killed_anywhere_the_same_command_ends_the_same(oppu, oppu_process, workspace: Path) -> None:
    command = ["forget", USER, "--runs", workspace / "runs", "--yes"]
    assert oppu(*command).returncode == 0
    expected = comparable(workspace)
    shutil.rmtree(workspace)
    shutil.copytree(workspace.parent / "as-built", workspace)
    for code in (KILL_IN_SWAP, KILL_IN_STORE, KILL_BEFORE_THE_RUN_FOLLOWS):
        killed = oppu_process(*command, code=code)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (workspace / "runs" / ".forget.json").exists()
    another = oppu("forget", "test-000", "--runs", workspace / "runs", "--yes")
    assert another.returncode == 2 and "interrupted" in another.stderr
    finished = oppu(*command)
    assert finished.returncode == 0, finished.stderr
    assert comparable(workspace) == expected


def test_what_one_of_the_others_has_taught_is_named_and_removed_when_asked(oppu, workspace: Path) -> None:
    run = workspace / "runs" / "movies"

    def weights() -> list[str]:
        return sorted(path.parent.name for path in (workspace / "runs" / "store").rglob("adapter_model*"))

    before = weights()
    result = oppu("forget", OTHER, "--runs", workspace / "runs", "--yes")
    assert result.returncode == 0, result.stderr
    words = " ".join(result.stdout.split())
    assert "one of the others" in words and words.count("--task-bases") == 2
    assert [name for name in before if name not in weights()] == [
        adapter_key({"c": 2}, USER, "h").folder[-32:]
    ]
    assert not any((run / "lamp_2m" / "predictions").glob("*.jsonl"))
    assert not (run / "results.json").exists()
    assert OTHER not in [user.user_id for user in open_run(run).dataset("lamp_2m").users()]
    assert OTHER.encode() not in b"".join(everything(workspace).values())

    again = oppu("forget", OTHER, "--runs", workspace / "runs", "--yes")
    assert "is left" in again.stdout and again.stdout.count("--task-bases") == 2
    result = oppu(
        "forget", OTHER, "--runs", workspace / "runs", "--yes", "--task-bases"
    )  # also as an afterthought
    assert result.returncode == 0, result.stderr
    assert weights() == []


def test_a_locked_run_and_places_that_are_none_are_refused(oppu, workspace: Path, tmp_path: Path) -> None:
    before = comparable(workspace)
    with open_run(workspace / "runs" / "movies").lock():
        locked = oppu("forget", USER, "--runs", workspace / "runs", "--yes")
    assert locked.returncode == 2 and "Another process" in locked.stderr
    for arguments in (
        ["--runs", tmp_path / "none"],
        ["--runs", workspace / "runs", "--data", tmp_path],
        ["--runs", workspace / "runs", "--store", tmp_path],
    ):
        refused = oppu("forget", USER, *arguments)
        assert refused.returncode in (1, 2) and str(tmp_path) in "".join(refused.stderr.split("\n"))
    for name in ("../../x", "", "x" * 10_000, "🦊", "[bold]"):
        result = oppu("forget", name, "--runs", workspace / "runs", "--yes")
        assert result.returncode == 1 and "Traceback" not in result.stderr and len(result.stderr) < 500
    assert comparable(workspace) == before


def test_studies_go_with_a_user_who_has_a_part_in_them(oppu, oppu_process, workspace: Path) -> None:
    """Also what stands for the user's queries in a study that looks at each by itself."""
    runs, data = workspace / "runs", workspace / "data" / "movies"
    folders = [runs / "movies" / "studies", runs / "studies-movies"]
    commands = [
        ["study", "cases", "--run", runs / "movies"],
        ["study", "shift", "--per-query", "--data", data, "--out", folders[1], *QUICK],
    ]
    for command in commands:
        done = oppu(*command)
        assert done.returncode == 0, done.stderr
    for folder in folders:
        (folder / "notes.txt").write_text("mine")
    user = Dataset.open(data).user(USER)
    store = Store(runs / "store")
    entries = {entry.folder: str(entry.user_id) for entry in store.entries() if entry.kind == "adapter"}
    store.close()
    theirs = [folder.split("/")[-1] for folder, name in entries.items() if name.startswith(USER)]
    assert sum(name.startswith(f"{USER}#") for name in set(entries.values())) == len(user.queries)
    marks = [USER, *theirs, *texts(user)]
    before = everything(workspace)
    for folder in folders:
        place = str(folder.relative_to(workspace))
        assert any(USER.encode() in content for name, content in before.items() if name.startswith(place))
    unlisted = adapter_key({"c": 2}, USER, "h").folder.split("/")[-1]
    kept = {
        name: content for name, content in adapters(workspace).items()
        if not any(key in name for key in (*theirs, unlisted))
    }  # fmt: skip

    forget = ["forget", USER, "--runs", runs, "--yes"]
    killed = oppu_process(*forget, code=KILL_IN_STUDIES)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    result = oppu(*forget)
    assert result.returncode == 0, result.stderr
    found = {
        (mark, name)
        for name, content in everything(workspace).items()
        for mark in marks
        if mark.encode() in name.encode() + content
    }
    assert found == set()
    assert adapters(workspace) == kept
    assert [sorted(path.name for path in folder.iterdir()) for folder in folders] == [["notes.txt"]] * 2

    # The same study of the others finds its adapters again.
    shutil.rmtree(folders[1])
    again = oppu(*commands[1])
    assert again.returncode == 0, again.stderr
    assert adapters(workspace).items() >= kept.items()
    assert not any(USER.encode() in content for content in everything(workspace).values())


def readers(place: Path) -> Dataset:
    """A dataset of people who are in no other."""
    whole = sample_dataset(place / "drawn", "lamp_4", seed=7)
    users = [dataclasses.replace(user, user_id=f"reader-{user.user_id}") for user in whole.users()]
    data = write_dataset(place / "data" / "readers", whole.task, users, {"kind": "test"})
    shutil.rmtree(whole.path)
    return data


def test_studies_without_the_user_are_left_alone(oppu, oppu_process, workspace: Path) -> None:
    """And a study alone tells where its data and its store are, to a killed call as well."""
    data, store = readers(workspace), workspace / "weights"
    folder = workspace / "runs" / "studies-readers"
    study = ["study", "similarity", "--data", data.path, "--out", folder, "--store", store, *QUICK]
    done = oppu(*study)
    assert done.returncode == 0, done.stderr
    before = everything(workspace)
    result = oppu("forget", USER, "--runs", workspace / "runs", "--yes")
    assert result.returncode == 0 and "studies" not in result.stdout
    after = everything(workspace)
    theirs = ("runs/studies-readers", "data/readers", "weights/adapters")
    ours = [name for name in before if name.startswith(theirs)]
    assert len(ours) > 10 and all(after[name] == before[name] for name in ours)

    forget = ["forget", "reader-test-000", "--runs", workspace / "runs", "--yes"]
    killed = oppu_process(*forget, code=KILL_IN_SWAP)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert oppu(*forget).returncode == 0
    assert not list(folder.iterdir())
    assert not any(b"reader-test-000" in content for content in everything(workspace).values())
    assert len(list((store / "adapters").rglob("adapter_model.safetensors"))) == 2


def test_what_studies_have_taught_with_one_of_the_others_is_removed_when_asked(oppu, workspace: Path) -> None:
    """`format` trains task bases on the others' data cut to one side."""
    data, folder = readers(workspace), workspace / "runs" / "studies-readers"

    def weights() -> set[str]:
        return {path.parent.name for path in (workspace / "runs" / "store").rglob("adapter_model*")}

    known = weights()
    done = oppu("study", "format", "--data", data.path, "--out", folder, *QUICK)
    assert done.returncode == 0, done.stderr
    assert len(weights() - known) > 3 * 3  # three datasets, each with task bases and three users' adapters
    forget = ["forget", "reader-others-002", "--runs", workspace / "runs", "--yes"]
    result = oppu(*forget, "--task-bases")
    assert result.returncode == 0, result.stderr
    assert weights() <= known
    assert not any(b"reader-others-002" in content for content in everything(workspace).values())
