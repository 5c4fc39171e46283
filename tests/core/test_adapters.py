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


@pytest.mark.parametrize("name", NAMES)
def test_a_changed_file_is_named(name: str) -> None:
    changed = BUNDLE[name].replace(b"content", b"CONTENT").replace(b'format": 1', b'format": 2')
    with pytest.raises(DataError, match="format 2" if name == MANIFEST_FILE else f"{name} is not the file"):
        manifest_of({**BUNDLE, name: changed}, "it")


@pytest.mark.parametrize(
    "manifest",
    ["", "{", "[]", "null", '"x"', "{}", '{"kind": "task_base"}', '{"kind": "adapter"}', "[" * 100_000,
     '{"kind": "adapter", "format": 1, "files": []}', '{"kind": "adapter", "format": [1]}', "\x80"],
)  # fmt: skip
def test_a_broken_manifest_is_refused(manifest: str) -> None:
    with pytest.raises(DataError, match="it"):
        manifest_of({**BUNDLE, MANIFEST_FILE: manifest.encode("latin-1")}, "it")


def zipped(files: Bundle, path: Path, kind: int = stat.S_IFREG, **more: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = ((kind if name in more else stat.S_IFREG) | 0o644) << 16
            archive.writestr(info, content)
    return path


@pytest.mark.parametrize(
    "name",
    ["../evil.txt", "/etc/passwd", "adapter_model.bin", "task_lora/../../evil", "code.py", "C:\\evil",
     "a\x00b", "README.md/x", "optimizer.pt"],
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
    missing = zipped({n: c for n, c in BUNDLE.items() if n != CARD_FILE}, tmp_path / "missing.zip")
    with pytest.raises(DataError, match=r"has no README\.md"):
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


@pytest.mark.parametrize("kind", ["link", "folder", "file", "pipe", "linked folder"])
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
    elif kind == "folder":
        (folder / "more").mkdir()
    elif kind == "pipe":
        (folder / CARD_FILE).unlink()
        os.mkfifo(folder / CARD_FILE)
    else:
        (folder / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(DataError, match="does not have"):
        read_bundle(folder)


def test_what_git_and_the_hub_add_does_no_harm(tmp_path: Path) -> None:
    write_bundle(BUNDLE, tmp_path / "in")
    (tmp_path / "in" / ".gitattributes").write_text("*.safetensors filter=lfs")
    assert read_bundle(tmp_path / "in") == BUNDLE


def test_what_is_not_there_is_said() -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_bundle(Path("/nowhere/at/all"))
    assert json.loads(BUNDLE[MANIFEST_FILE])["format"] == 1
