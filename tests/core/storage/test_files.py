"""Files and folders are whole or absent, whenever a writer dies."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from oppu_core.errors import DataError
from oppu_core.storage import files
from oppu_core.storage.files import (
    canonical_json,
    content_id,
    locked,
    new_dir,
    read_json,
    read_jsonl,
    remove_strays,
    write_json,
    write_jsonl,
    write_text,
)

NAMES = ["a", "a-b", "[x]*?", "{b}", "with space", ".hidden", "é🎬", "-rf", "x" * 200]


@pytest.fixture(scope="module")
def dead_pid() -> int:
    child = subprocess.Popen([sys.executable, "-S", "-c", ""])
    child.wait()
    return child.pid


@pytest.fixture(scope="module")
def living_pid() -> Iterator[int]:
    child = subprocess.Popen(
        [sys.executable, "-S", "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
    )
    yield child.pid
    child.communicate()


def stray_of(path: Path, pid: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary name that process `pid` would write `path` under."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: pid)
        return files._temporary(path)


@pytest.mark.parametrize("name", NAMES)
def test_text_is_written_whole(tmp_path: Path, name: str) -> None:
    path = tmp_path / "deep" / "er" / name
    write_text(path, "one é\n")
    write_text(path, "two")
    assert path.read_text(encoding="utf-8") == "two"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("failing", ["fsync", "replace", "text"])
def test_a_failed_write_leaves_the_old_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "a"
    write_text(path, "old")

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    if failing == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    elif failing == "replace":
        monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises((OSError, UnicodeEncodeError)):
        write_text(path, "\udc80" if failing == "text" else "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_text_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "a", []
    monkeypatch.setattr(os, "fsync", lambda fd: seen.append(path.exists()))
    write_text(path, "new")
    assert seen == [False, True], "the file before the rename, the folder after it"


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_text(path, "old")
    program = (
        "import os, signal, sys; from pathlib import Path; from oppu_core.storage import files\n"
        "os.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"files.write_text(Path({str(path)!r}), 'new' * 100_000)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2, "the stray of the killed writer"
    write_text(path, "third")
    assert path.read_text() == "third"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_folder_writer_leaves_no_folder(tmp_path: Path) -> None:
    path = tmp_path / "a"
    program = (
        "import os, signal, sys; from pathlib import Path; from oppu_core.storage import files\n"
        f"with files.new_dir(Path({str(path)!r})) as folder:\n"
        "    (folder / 'half').write_text('x')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    assert not path.exists()
    assert len(list(tmp_path.iterdir())) == 1
    with new_dir(path) as folder:
        (folder / "whole").write_text("y")
    assert [entry.name for entry in path.iterdir()] == ["whole"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", NAMES)
def test_strays_of_dead_processes_are_removed_and_those_of_living_ones_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dead_pid: int, living_pid: int, name: str
) -> None:
    path = tmp_path / name
    dead, dead_folder = (stray_of(path, dead_pid, monkeypatch) for _ in range(2))
    living, living_folder = (stray_of(path, living_pid, monkeypatch) for _ in range(2))
    for stray in (dead, living):
        stray.write_text("half")
    for stray in (dead_folder, living_folder):
        stray.mkdir()
        (stray / "half").write_text("half")
    write_text(path, "whole")
    assert set(tmp_path.iterdir()) == {path, living, living_folder}
    assert (living_folder / "half").read_text() == "half"


def test_strays_of_somebody_elses_process_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stray = stray_of(tmp_path / "a", 1, monkeypatch)  # the system's first process
    stray.write_text("half")
    remove_strays(tmp_path / "a")
    assert stray.exists()


def test_only_strays_of_the_same_place_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dead_pid: int
) -> None:
    strays = {name: stray_of(tmp_path / name, dead_pid, monkeypatch) for name in NAMES}
    for name, stray in strays.items():
        stray.write_text(name)
    for name, stray in strays.items():
        remove_strays(tmp_path / name)
        assert not stray.exists()
        del strays[name]
        break
    assert all(stray.exists() for stray in strays.values())
    for kept in (".tmp-mine", ".tmp-1-2-3", "a-1-2"):
        (tmp_path / kept).write_text("a person's")
    for name in NAMES:
        remove_strays(tmp_path / name)
    assert {entry.name for entry in tmp_path.iterdir()} == {".tmp-mine", ".tmp-1-2-3", "a-1-2"}


def test_a_stray_link_is_removed_and_not_what_it_points_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dead_pid: int
) -> None:
    target = tmp_path / "precious"
    target.mkdir()
    (target / "x").write_text("x")
    stray = stray_of(tmp_path / "a", dead_pid, monkeypatch)
    stray.symlink_to(target)
    remove_strays(tmp_path / "a")
    assert not stray.is_symlink()
    assert (target / "x").exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_appears_when_it_is_whole(tmp_path: Path, name: str) -> None:
    path = tmp_path / "deep" / name
    for content in ("first", "second"):
        with new_dir(path) as folder:
            (folder / content).write_text(content)
            assert not (path / content).exists()
        assert [entry.name for entry in path.iterdir()] == [content]
        assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_folder_that_fails_leaves_the_old_one(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a"
    with pytest.raises(error), new_dir(path) as folder:
        (folder / "half").write_text("x")
        raise error
    assert list(tmp_path.iterdir()) == []
    with new_dir(path) as folder:
        (folder / "old").write_text("old")
    with pytest.raises(error), new_dir(path) as folder:
        (folder / "half").write_text("x")
        raise error
    assert list(tmp_path.iterdir()) == [path]
    assert [entry.name for entry in path.iterdir()] == ["old"]


def test_every_file_of_a_folder_is_flushed_before_it_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, flushed = tmp_path / "a", set()
    real = os.fsync

    def reporter(fd: int) -> None:
        if not path.exists():
            flushed.add(os.fstat(fd).st_ino)
        real(fd)

    monkeypatch.setattr(os, "fsync", reporter)
    with new_dir(path) as folder:
        (folder / "sub").mkdir()
        for name in ("one", "sub/two"):
            (folder / name).write_text(name)
    assert {(path / name).stat().st_ino for name in ("one", "sub/two", ".")} <= flushed


def test_json_is_read_as_it_was_written(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None, True], "a": "é\n🎬\u2028", "": {}}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value
    rows = [value, [], "line\nbreak\u2028\x85", 3]
    write_jsonl(tmp_path / "x.jsonl", rows)
    assert read_jsonl(tmp_path / "x.jsonl") == rows
    assert (tmp_path / "x.jsonl").read_bytes().count(b"\n") == 4
    write_jsonl(tmp_path / "x.jsonl", [])
    assert read_jsonl(tmp_path / "x.jsonl") == []


def test_equal_values_have_equal_json_and_ids() -> None:
    assert canonical_json({"b": 1, "a": [1, {"d": 2, "c": 3}]}) == '{"a":[1,{"c":3,"d":2}],"b":1}'
    assert content_id({"a": 1, "b": 2}) == content_id({"b": 2, "a": 1})
    ids = [
        content_id(value) for value in ({}, [], "", None, 0, False, "0", [0], {"0": 0}, "\ud800", "\ud801")
    ]
    assert len(set(ids)) == len(ids)
    assert all(len(one) == 64 for one in ids)
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(float("nan"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "line 1: not JSON"),
        (b'{"a": 1,\n"b"}', "line 2: not JSON"),
        (b"\xff\xfe", "cannot be read as text"),
        (b"[" * 100_000, "not usable as JSON"),
        (b"1" * 5_000, "not usable as JSON"),
    ],
    ids=["cut", "second line", "no text", "deep", "long number"],
)
def test_a_broken_json_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"x\.json.*{message}"):
        read_json(path)


def test_a_missing_json_file_or_a_folder_is_named(tmp_path: Path) -> None:
    for read in (read_json, read_jsonl):
        with pytest.raises(DataError, match=r"none\.json does not exist"):
            read(tmp_path / "none.json")
        with pytest.raises(DataError, match="cannot be read"):
            read(tmp_path)


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(DataError, match=r"x\.jsonl, line 2: not JSON"):
        read_jsonl(path)


def test_a_lock_keeps_others_out_and_is_lifted_when_its_process_is_killed(tmp_path: Path) -> None:
    busy = DataError("busy")
    with locked(tmp_path, busy), pytest.raises(DataError, match="busy"), locked(tmp_path, busy):
        raise AssertionError("two hold it")
    assert not list(tmp_path.iterdir())
    program = (
        "import time; from pathlib import Path; from oppu_core.storage import files\n"
        f"with files.locked(Path({str(tmp_path)!r}), Exception()):\n"
        "    print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(DataError, match="busy"), locked(tmp_path, busy):
            raise AssertionError("two hold it")
        holder.kill()
    with locked(tmp_path, busy):
        pass
