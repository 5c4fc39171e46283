"""Exported adapters as files: whole, repeatable, and read with suspicion. What is in them: test_ownership."""

import io
import json
import os
import stat
import zipfile
from pathlib import Path

import pytest
from oppu_core.errors import ConfigError, DataError
from oppu_core.ownership import bundle as bundles
from oppu_core.ownership.bundle import (
    CARD_FILE,
    MANIFEST_FILE,
    NAMES,
    WEIGHT_FILES,
    Bundle,
    manifest_of,
    read_bundle,
    seal,
    write_bundle,
)

FILES = {name: f"content of {name}".encode() for name in (*WEIGHT_FILES, CARD_FILE)}
BUNDLE = seal(FILES, {"task": "lamp_2m"})


@pytest.mark.parametrize("name", ["out", "out.zip"])
def test_what_is_written_is_read_again_and_is_the_same_twice(tmp_path: Path, name: str) -> None:
    write_bundle(BUNDLE, tmp_path / name)
    assert read_bundle(tmp_path / name) == BUNDLE
    assert manifest_of(read_bundle(tmp_path / name), "it")["task"] == "lamp_2m"
    before = (tmp_path / name).read_bytes() if name == "out.zip" else b""
    os.utime(tmp_path / name, (10**9, 10**9))
    write_bundle(BUNDLE, tmp_path / name)  # an earlier export is replaced
    assert not before or (tmp_path / name).read_bytes() == before
    if before:
        with zipfile.ZipFile(tmp_path / name) as archive:
            assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize("name", ["out", "out.zip"])
def test_nothing_but_an_export_is_overwritten(tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    if name == "out":
        out.mkdir()
        (out / "thesis.txt").write_text("three years of work")
    else:
        out.write_text("three years of work")
    with pytest.raises(ConfigError, match="is no exported adapter"):
        write_bundle(BUNDLE, out)
    assert [file.read_text() for file in (out.iterdir() if name == "out" else [out])] == [
        "three years of work"
    ]


@pytest.mark.parametrize("name", ["out", "out.zip"])
@pytest.mark.parametrize("work", ["more", "card", "top"])
def test_work_on_an_export_is_not_overwritten(tmp_path: Path, name: str, work: str) -> None:
    """A clone with its history, a card with somebody's words: readable, but more than what was exported."""
    files = {
        "more": {**BUNDLE, ".git/objects/12/34": b"commits"},
        "card": {**BUNDLE, CARD_FILE: b"my own words"},
        "top": placed(BUNDLE, "mine/"),
    }[work]
    out = packed(files, tmp_path / name)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert set(read_bundle(out)) == set(NAMES)
    with pytest.raises(ConfigError, match="no longer as it was exported"):
        write_bundle(BUNDLE, out)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_an_export_without_its_card_is_replaced(tmp_path: Path) -> None:
    write_bundle(BUNDLE, tmp_path / "out")
    (tmp_path / "out" / CARD_FILE).unlink()
    write_bundle(BUNDLE, tmp_path / "out")
    assert read_bundle(tmp_path / "out") == BUNDLE


@pytest.mark.parametrize("name", [name for name in NAMES if name != CARD_FILE])
def test_a_changed_file_is_named(name: str) -> None:
    changed = BUNDLE[name].replace(b"content", b"CONTENT").replace(b'format": 1', b'format": 2')
    with pytest.raises(DataError, match="format 2" if name == MANIFEST_FILE else f"{name} is not the file"):
        manifest_of({**BUNDLE, name: changed}, "it")


def test_the_card_may_change_and_may_be_missing(tmp_path: Path) -> None:
    changed = packed({**BUNDLE, CARD_FILE: b"# My adapter"}, tmp_path / "changed.zip")
    bundle = read_bundle(changed)
    assert bundle[CARD_FILE] == b"# My adapter"
    assert manifest_of(bundle, "it")["task"] == "lamp_2m"
    without = {name: content for name, content in BUNDLE.items() if name != CARD_FILE}
    bundle = read_bundle(packed(without, tmp_path / "without"))
    assert bundle == without and manifest_of(bundle, "it")["task"] == "lamp_2m"


@pytest.mark.parametrize(
    "manifest",
    ["", "{", "[]", "null", '"x"', "{}", '{"kind": "task_base"}', '{"kind": "adapter"}', "[" * 100_000,
     '{"kind": "adapter", "format": 1, "files": []}', '{"kind": "adapter", "format": [1]}', "\x80"],
)  # fmt: skip
def test_a_broken_manifest_is_refused(manifest: str) -> None:
    with pytest.raises(DataError, match="it"):
        manifest_of({**BUNDLE, MANIFEST_FILE: manifest.encode("latin-1")}, "it")


def zipped(files: Bundle, path: Path, kind: int = stat.S_IFREG, **more: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = ((kind if name in more else stat.S_IFREG) | 0o644) << 16
            archive.writestr(info, content)
    return path


def packed(files: Bundle, path: Path) -> Path:
    """The files as a folder, or as a zip if the path ends so."""
    if path.suffix == ".zip":
        return zipped(files, path)
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def placed(files: Bundle, top: str) -> Bundle:
    return {f"{top}{name}": content for name, content in files.items()}


LITTER = {
    "finder": {".DS_Store": b"x", "task_lora/.DS_Store": b"x", "task_lora/._adapter_config.json": b"x"},
    "archive utility": {"__MACOSX/._README.md": b"x", "__MACOSX/task_lora/._adapter_model.safetensors": b"x"},
    "hub": {".cache/huggingface/download/adapter_config.json.metadata": b"x", ".gitattributes": b"x"},
    "old hub": {".huggingface/download/README.md.lock": b""},
    "git": {".git/HEAD": b"ref", ".git/hooks/pre-commit.sample": b"#!/bin/sh", ".gitignore": b"*.tmp"},
    "worktree": {".git": b"gitdir: elsewhere"},
    "windows": {"Thumbs.db": b"x", "desktop.ini": b"x"},
}


@pytest.mark.parametrize("name", ["in", "in.zip"])
@pytest.mark.parametrize("top", ["", "mine/", "Méine Zip/mine/"])
@pytest.mark.parametrize("litter", LITTER)
def test_what_an_export_meets_on_its_way_does_no_harm(
    tmp_path: Path, name: str, top: str, litter: str
) -> None:
    """Neither inside the folder around it nor beside that."""
    inside = packed({**placed(BUNDLE, top), **placed(LITTER[litter], top)}, tmp_path / "inside" / name)
    assert read_bundle(inside) == BUNDLE
    outside = {file: content for file, content in LITTER[litter].items() if "task_lora/" not in file}
    beside = packed({**placed(BUNDLE, top), **outside}, tmp_path / "beside" / name)
    assert read_bundle(beside) == BUNDLE


def test_the_entries_of_folders_in_a_zip_do_no_harm(tmp_path: Path) -> None:
    path = packed(placed(BUNDLE, "mine/"), tmp_path / "in.zip")
    with zipfile.ZipFile(path, "a") as archive:
        for name in ("mine/", "mine/task_lora/", "__MACOSX/", "mine/.git/"):
            archive.mkdir(name)
    assert read_bundle(path) == BUNDLE
    with zipfile.ZipFile(path, "a") as archive:
        archive.mkdir("mine/checkpoints")
    with pytest.raises(DataError, match="folder 'mine/checkpoints', which an exported adapter does not have"):
        read_bundle(path)


@pytest.mark.parametrize("name", ["in", "in.zip"])
@pytest.mark.parametrize(
    "strange", ["beside.py", "mine/model.bin", "mine/task_lora/x.pkl", "README.md", "other/README.md"]
)
def test_a_folder_around_it_hides_no_strange_file(tmp_path: Path, name: str, strange: str) -> None:
    path = packed({**placed(BUNDLE, "mine/"), strange: b"x"}, tmp_path / name)
    with pytest.raises(DataError, match=f"{strange}', which an exported adapter does not have|'other'"):
        read_bundle(path)


@pytest.mark.parametrize("file", [name for name in NAMES if name != CARD_FILE])
def test_a_pointer_of_git_lfs_is_called_one(tmp_path: Path, file: str) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1234\n"
    clone = packed({**BUNDLE, file: pointer, ".git/HEAD": b"ref"}, tmp_path / "clone")
    with pytest.raises(DataError, match=rf"clone: {file} is a git-LFS pointer.*`git lfs pull`"):
        read_bundle(clone)


def test_a_zip_of_very_many_files_is_refused_before_they_are_counted(tmp_path: Path, monkeypatch) -> None:
    many = packed({**BUNDLE, **{f"._{number}": b"" for number in range(30_000)}}, tmp_path / "many.zip")
    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "infolist", lambda _: pytest.fail("its contents were read"))
        with pytest.raises(DataError, match="list of contents"):
            read_bundle(many)
    more = packed({**BUNDLE, **{f"._{number}": b"" for number in range(2_000)}}, tmp_path / "more.zip")
    with pytest.raises(DataError, match="more than 2,000"):
        read_bundle(more)


def test_of_a_folder_that_is_a_whole_disk_little_is_seen(tmp_path: Path, monkeypatch) -> None:
    for number in range(200):
        (tmp_path / str(number // 20) / str(number)).mkdir(parents=True)
    monkeypatch.setattr(bundles, "ENTRIES", 30)
    scan, seen = os.scandir, []

    def counted(path: Path):
        seen.append(path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", counted)
    with pytest.raises(DataError, match="more than 30"):
        read_bundle(tmp_path)
    assert len(seen) < 30


@pytest.mark.parametrize(
    "name",
    ["../evil.txt", "/etc/passwd", "adapter_model.bin", "task_lora/../../evil", "code.py", "C:\\evil",
     "a\x00b", "README.md/x", "optimizer.pt", "__MACOSX/../evil", ".git/../../.DS_Store", "/.DS_Store"],
)  # fmt: skip
def test_a_zip_with_a_strange_name_is_refused_and_nothing_is_unpacked(tmp_path: Path, name: str) -> None:
    path = zipped({**BUNDLE, name: b"x"}, tmp_path / "in.zip")
    with pytest.raises(DataError, match="does not have"):
        read_bundle(path)
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["in.zip"]


def test_a_zip_with_a_link_a_double_or_a_missing_file_is_refused(tmp_path: Path) -> None:
    link = zipped(BUNDLE, tmp_path / "link.zip", stat.S_IFLNK, **{CARD_FILE: b""})
    with pytest.raises(DataError, match="no plain file"):
        read_bundle(link)
    for kind, litter in ((stat.S_IFLNK, ".DS_Store"), (stat.S_IFIFO, ".git/x"), (stat.S_IFDIR, "._x")):
        hidden = zipped({**BUNDLE, litter: b""}, tmp_path / "hidden.zip", kind, **{litter: b""})
        with pytest.raises(DataError, match="no plain file"):
            read_bundle(hidden)
    for name in NAMES:
        if name != CARD_FILE:
            missing = zipped({n: c for n, c in BUNDLE.items() if n != name}, tmp_path / "missing.zip")
            with pytest.raises(DataError, match=f"has no {name}"):
                read_bundle(missing)
    double = zipped(BUNDLE, tmp_path / "double.zip")
    with zipfile.ZipFile(double, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(CARD_FILE, "another")
    with pytest.raises(DataError, match="twice"):
        read_bundle(double)


@pytest.mark.parametrize("damage", ["empty", "text", "torn", "flipped", "encrypted"])
def test_a_damaged_zip_is_one_error(tmp_path: Path, damage: str) -> None:
    whole = zipped(BUNDLE, tmp_path / "in.zip").read_bytes()
    place = whole.index(b"content of adapter_model")
    entry = b"PK\x01\x02\x14\x03\x14\x00"  # of the directory; the flags follow
    broken = {
        "empty": b"",
        "text": b"no zip",
        "torn": whole[: len(whole) // 2],
        "flipped": whole[:place] + b"X" + whole[place + 1 :],
        "encrypted": whole.replace(entry + b"\x00", entry + b"\x01"),
    }[damage]
    assert broken != whole
    (tmp_path / "in.zip").write_bytes(broken)
    with pytest.raises(DataError, match=r"in\.zip"):
        read_bundle(tmp_path / "in.zip")


def test_what_is_too_large_is_refused_before_it_is_read(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(bundles, "LIMIT", 10**6)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in NAMES:
            archive.writestr(name, b"\0" * 10**6)
    assert len(content.getvalue()) < 10**5
    (tmp_path / "bomb.zip").write_bytes(content.getvalue())
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("it was read"))
    with pytest.raises(DataError, match="at most"):
        read_bundle(tmp_path / "bomb.zip")


def test_a_zip_that_lies_about_a_size_gives_no_more_than_it_said(tmp_path: Path) -> None:
    card = b"\0" * 10**6
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {**BUNDLE, CARD_FILE: card}.items():
            archive.writestr(name, data)
    honest = content.getvalue()
    size, lie = (number.to_bytes(4, "little") for number in (10**6, 10))
    (tmp_path / "in.zip").write_bytes(honest.replace(size, lie))
    with pytest.raises(DataError, match=r"in\.zip"):
        read_bundle(tmp_path / "in.zip")


@pytest.mark.parametrize("kind", ["link", "folder", "file", "pipe", "linked folder", "linked litter"])
def test_a_folder_with_anything_else_is_refused(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "in"
    write_bundle(BUNDLE, folder)
    (tmp_path / "secret").write_text("secret")
    if kind == "link":
        (folder / CARD_FILE).unlink()
        (folder / CARD_FILE).symlink_to(tmp_path / "secret")
    elif kind == "linked folder":
        (folder / "task_lora").rename(tmp_path / "elsewhere")
        (folder / "task_lora").symlink_to(tmp_path / "elsewhere")
    elif kind == "linked litter":
        (folder / ".cache").symlink_to(tmp_path)
    elif kind == "folder":
        (folder / "more").mkdir()
    elif kind == "pipe":
        (folder / CARD_FILE).unlink()
        os.mkfifo(folder / CARD_FILE)
    else:
        (folder / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(DataError, match="does not have"):
        read_bundle(folder)


def test_what_is_not_there_is_said() -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_bundle(Path("/nowhere/at/all"))
    assert json.loads(BUNDLE[MANIFEST_FILE])["format"] == 1
