"""Other packages say what they keep of a user: it goes with the rest, and nobody is forgotten by half."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from oppu_core.data.dataset import Dataset
from oppu_core.data.dataset_writer import write_dataset
from oppu_core.data.types import HistoryItem, Query, User
from oppu_core.errors import ConfigError, DataError
from oppu_core.ownership.forget import erase, find_traces, open_workspace
from oppu_core.tasks.task_files import get_task

Install = Callable[[str], str]

NUMBERS = itertools.count()  # a module is imported once, so each has another name

NOTES = """
from oppu_core.ownership.traces import Keeper, KeptFolder, Trace, in_lines

class Notes(Keeper):
    def folders(self, places, runs):
        return [KeptFolder(path) for path in places if path.name == "notes"]

    def in_folder(self, folder, user_id, involved):
        return in_lines(sorted(folder.path.glob("*.jsonl")), lambda row: row["about"] == user_id)
"""
# Knows by the dataset whose its summary is; the dataset is rewritten before the summary is removed.
SUMMARY = """
from functools import partial
from oppu_core.data.dataset import Dataset
from oppu_core.ownership.traces import Keeper, KeptFolder, Trace

class Notes(Keeper):
    def folders(self, places, runs):
        return [KeptFolder(path, data=path / "copies") for path in places if path.name == "notes"]

    def in_folder(self, folder, user_id, involved):
        if involved or user_id in Dataset.open(folder.path.parent / "movies").user_ids("test"):
            yield Trace(folder.path, "a summary of all", partial(self.remove, folder.path / "summary.txt"))

    def remove(self, path):
        if (path.parent / "closed").exists():
            raise RuntimeError("closed today")
        path.unlink(missing_ok=True)
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """install(code): a package of that code, whose class Notes keeps things of users; its module's name."""

    def install(code: str) -> str:
        name, site = f"made_up_{next(NUMBERS)}", tmp_path / "site"
        about = site / f"{name}-1.0.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[oppu.keeps]\nnotes = {name}:Notes\n")
        (site / f"{name}.py").write_text(code)
        monkeypatch.syspath_prepend(site)
        return name

    return install


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A dataset of two, and another package's folder."""
    task = get_task("lamp_2m")
    item = HistoryItem("h", dict.fromkeys(task.history_fields, "text"))
    asked = dict.fromkeys(task.input_fields, "text")
    users = [User(name, "test", (item,), (Query(name[0], asked, None, 1),)) for name in ("ann", "bob")]
    write_dataset(tmp_path / "runs" / "movies", task, users, {"kind": "test"})
    notes = tmp_path / "runs" / "notes"
    notes.mkdir()
    rows = [{"about": name, "note": f"a note on {name}"} for name in ("ann", "bob", "cleo")]
    (notes / "notes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (notes / "summary.txt").write_text("ann, bob and cleo")
    return tmp_path / "runs"


def forget(folder: Path, user_id: str) -> None:
    space = open_workspace(folder)
    erase(space, find_traces(space, user_id, False))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_a_package_keeps_is_forgotten_with_the_rest(install: Install, workspace: Path) -> None:
    install(NOTES)
    space = open_workspace(workspace)
    found = find_traces(space, "ann", False).found
    assert [(trace.place.name, trace.what.split()[0]) for trace in found] == [
        ("movies", "1"),
        ("notes.jsonl", "1"),  # the last of all
    ]
    forget(workspace, "ann")
    assert list(Dataset.open(workspace / "movies").user_ids("test")) == ["bob"]
    notes = (workspace / "notes" / "notes.jsonl").read_text()
    assert "ann" not in notes and notes.count("a note on") == 2


def test_a_user_whom_only_another_package_knows_is_known(install: Install, workspace: Path) -> None:
    with pytest.raises(DataError, match="has anything of a user 'cleo'"):
        forget(workspace, "cleo")
    install(NOTES)
    forget(workspace, "cleo")
    assert "cleo" not in (workspace / "notes" / "notes.jsonl").read_text()


def test_a_call_that_ended_in_the_middle_is_finished_by_the_same_call(
    install: Install, workspace: Path
) -> None:
    """Though the dataset no longer tells whom the summary is of."""
    name = install(SUMMARY)
    (workspace / "notes" / "closed").touch()
    with pytest.raises(ConfigError, match=rf"{name}:Notes.*notes failed: RuntimeError: closed today"):
        forget(workspace, "ann")
    assert list(Dataset.open(workspace / "movies").user_ids("test")) == ["bob"]
    with pytest.raises(ConfigError, match="'ann' was interrupted"):
        forget(workspace, "bob")
    (workspace / "notes" / "closed").unlink()
    assert (workspace / "notes" / "summary.txt").exists()
    forget(workspace, "ann")
    assert not (workspace / "notes" / "summary.txt").exists()
    assert find_traces(open_workspace(workspace), "ann", False).nothing_left


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import a_package_that_is_not_there", "cannot be loaded: ModuleNotFoundError"),
        ("raise OSError('no such library')", "cannot be loaded: OSError: no such library"),
        ("", "cannot be loaded: AttributeError"),
        ("Notes = 3", "failed: TypeError"),
        ("class Notes: pass", "failed: AttributeError"),
        (NOTES.replace("return [", "return 1 / 0, ["), "failed: ZeroDivisionError"),
        (NOTES.replace("return in_lines", "in_lines"), "failed: TypeError"),
        (NOTES.replace("return in_lines", "return [{}] or in_lines"), "failed: TypeError"),
        (NOTES.replace('row["about"]', 'row["whom"]'), "failed: KeyError: 'whom'"),
    ],
)
def test_a_broken_package_is_named_and_nobody_is_forgotten(
    install: Install, workspace: Path, code: str, message: str
) -> None:
    before = files(workspace)
    name = install(code)
    with pytest.raises(ConfigError, match=rf"{name}:Notes.* {message}.*uninstall its package"):
        forget(workspace, "ann")
    assert files(workspace) == before
