"""An exported adapter: six files, as a folder, a zip or a repository of the hub.

::

    README.md                       a model card
    oppu.json                       what the weights are, and the sha256 of the other files
    adapter_config.json, adapter_model.safetensors              the personal adapter, for plain PEFT
    task_lora/adapter_config.json, …/adapter_model.safetensors  the task LoRA, likewise

Untrusted bundles are read here: other names, links, a wrong size or checksum are refused, and nothing is
unpacked to disk. Things added in transit are ignored: a folder around the files, and what git, the hub and
desktops leave (:func:`is_litter`). People may change the card or leave it out. Knows nothing of runs.
"""

import dataclasses
import hashlib
import io
import itertools
import json
import os
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from oppu_core.data.schema import shown
from oppu_core.errors import ConfigError, DataError
from oppu_core.storage.files import new_dir, write_bytes
from oppu_core.storage.weights import CONFIG_FILE, WEIGHTS_FILE

Bundle = Mapping[str, bytes]  # content by name

FORMAT = 1
CARD_FILE = "README.md"
MANIFEST_FILE = "oppu.json"
WEIGHT_FILES = (CONFIG_FILE, WEIGHTS_FILE, f"task_lora/{CONFIG_FILE}", f"task_lora/{WEIGHTS_FILE}")
NAMES = (*WEIGHT_FILES, CARD_FILE, MANIFEST_FILE)
LITTER_FOLDERS = frozenset({".git", ".cache", ".huggingface", "__MACOSX"})
LITTER_FILES = frozenset({".gitattributes", ".gitignore", ".DS_Store", "Thumbs.db", "desktop.ini"})
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1"
LIMIT = 2**30  # bytes of a bundle: a LoRA of rank 64 on all projections of a 7B model has 640 MB
ENTRIES = 2_000  # files and folders, including litter; a clone's .git has about a hundred
LISTING = 2**20  # bytes of a zip's central directory


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file or folder in a folder or zip, its name with slashes; if `plain`, neither a link nor a device."""

    name: str
    size: int = 0
    folder: bool = False
    plain: bool = True


def seal(files: Bundle, facts: Mapping[str, Any]) -> Bundle:
    """Add the manifest to a bundle: `facts` and the checksums of `files`."""
    manifest = {**facts, "format": FORMAT, "kind": "adapter", "files": _sums(files)}
    text = json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    return {**files, MANIFEST_FILE: text.encode()}


def _sums(files: Bundle) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items() if name != MANIFEST_FILE}


def manifest_of(bundle: Bundle, where: str) -> dict[str, Any]:
    """A bundle's manifest, after checking the checksums of weights and configurations.

    Raises:
        DataError: it is not a manifest of this format, or a checksum differs.
    """
    try:
        manifest = json.loads(bundle[MANIFEST_FILE])
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}, {MANIFEST_FILE}: not JSON ({error}).") from error
    if not isinstance(manifest, dict) or manifest.get("kind") != "adapter":
        raise DataError(f"{where}, {MANIFEST_FILE} does not describe an exported adapter.")
    if manifest.get("format") != FORMAT:
        raise DataError(
            f"{where} has format {shown(manifest.get('format'))}; this oppu reads format {FORMAT}."
        )
    sums, found = manifest.get("files"), _sums(bundle)
    for name in WEIGHT_FILES:
        if not isinstance(sums, dict) or sums.get(name) != found[name]:
            raise DataError(
                f"{where}: {name} is not the file that was exported (its sha256 is not the one in "
                f"{MANIFEST_FILE}). Export or fetch it again."
            )
    return manifest


def is_litter(name: str) -> bool:
    """Whether a path is something that git, downloads from the hub or desktops put beside an export."""
    parts = name.split("/")
    return not LITTER_FOLDERS.isdisjoint(parts) or parts[-1] in LITTER_FILES or parts[-1].startswith("._")


def find_files(entries: Iterable[Entry], where: str) -> dict[str, str]:
    """Find the files of the format; names, kinds and sizes are checked before anything is read.

    Args:
        entries: All entries of a folder or zip.
        where: What to call it in messages.

    Returns:
        {name: path}, without the card if there is none.

    Raises:
        DataError: there is an unknown file, a link, or a name twice; a file is missing; it is too large.
    """
    found = list(itertools.islice(entries, ENTRIES + 1))
    if len(found) > ENTRIES:
        raise DataError(
            f"{where} holds more than {ENTRIES:,} files and folders; an exported adapter has six files. "
            "Nothing was read."
        )
    for entry in found:
        if {"", ".", ".."}.intersection(entry.name.split("/")):
            raise _foreign(where, shown(entry.name))
        if not entry.plain:
            raise _foreign(where, f"{shown(entry.name)}, no plain file but a link or device")
    files = [entry for entry in found if not entry.folder and not is_litter(entry.name)]
    manifests = [name for entry in files if (name := f"/{entry.name}").endswith(f"/{MANIFEST_FILE}")]
    # The folder around the files that zip programs, clones and downloads make.
    top = min(manifests, key=len, default=f"/{MANIFEST_FILE}")[1:].removesuffix(MANIFEST_FILE)
    places = {f"{top}{name}": name for name in NAMES}
    folders = {name[:end] for name in places for end, sign in enumerate(name) if sign == "/"}
    for entry in found:
        if entry.name not in (folders if entry.folder else places) and not is_litter(entry.name):
            raise _foreign(where, f"the folder {shown(entry.name)}" if entry.folder else shown(entry.name))
    names = [places[entry.name] for entry in files]
    for name in NAMES:
        if names.count(name) > 1:
            raise DataError(f"{where} holds {name} twice; nothing was read.")
        if name not in names and name != CARD_FILE:
            raise DataError(f"{where} is no exported adapter: it has no {name}.")
    if (size := sum(entry.size for entry in files)) > LIMIT:
        raise DataError(f"{where} has {size:,} bytes; an adapter has at most {LIMIT:,}. Nothing was read.")
    return {name: place for place, name in places.items() if name in names}


def _foreign(where: str, what: str) -> DataError:
    return DataError(f"{where} holds {what}, which an exported adapter does not have; nothing was read.")


def read_bundle(path: Path, where: str | None = None) -> Bundle:
    """Read a folder or zip file; `where` is what to call it in messages.

    Raises:
        DataError: it is missing, cannot be read, or is not an export: see :func:`find_files`.
    """
    where = where or str(path)
    bundle: Bundle
    if path.is_dir():
        places = find_files(_entries(path), where)
        bundle = {name: (path / place).read_bytes() for name, place in places.items()}
    elif path.is_file():
        try:
            bundle = _read_zip(path)
        except (
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            NotImplementedError,
            RuntimeError,
            OSError,
        ) as error:
            raise DataError(f"{path} is no zip file that can be read: {error}.") from error
    else:
        raise DataError(f"{path} does not exist; name a folder or zip file of `oppu adapters export`.")
    for name, content in bundle.items():
        if content.startswith(LFS_POINTER):
            raise DataError(
                f"{where}: {name} is a git-LFS pointer, not the file that it stands for. Run `git lfs pull` "
                "in the clone (git-lfs has to be installed), and try again."
            )
    return bundle


def _entries(top: Path) -> Iterator[Entry]:
    """Everything below a folder; litter is not entered, links are not followed."""
    folders = [""]
    while folders:
        below = folders.pop()
        with os.scandir(top / below) as found:  # one by one: it may be a whole disk
            for one in found:
                name, status = f"{below}{one.name}", one.stat(follow_symlinks=False)
                folder = stat.S_ISDIR(status.st_mode)
                if folder and not is_litter(name):
                    folders.append(f"{name}/")
                yield Entry(name, status.st_size, folder, folder or stat.S_ISREG(status.st_mode))


class _ZipFile(io.FileIO):
    """Refuses an overlong central directory, which `zipfile` would read into memory as a whole."""

    listed = False

    def read(self, size: int | None = -1, /) -> bytes:
        """See :meth:`io.FileIO.read`."""
        if not self.listed and size is not None and size > LISTING:
            raise zipfile.BadZipFile(f"its list of contents has {size:,} bytes")
        return super().read(size)


def _read_zip(path: Path) -> Bundle:
    with _ZipFile(path) as file, zipfile.ZipFile(file) as archive:
        file.listed = True
        places = find_files(map(_entry, archive.infolist()), str(path))
        return {name: archive.read(place) for name, place in places.items()}


def _entry(info: zipfile.ZipInfo) -> Entry:
    kind = stat.S_IFMT(info.external_attr >> 16)  # 0: made on a system without such kinds
    plain = kind in (0, stat.S_IFDIR if info.is_dir() else stat.S_IFREG)
    return Entry(info.filename.removesuffix("/"), info.file_size, info.is_dir(), plain)


def write_bundle(bundle: Bundle, out: Path) -> None:
    """Write a folder, or a zip if `out` ends in .zip; all or nothing, the same bytes for the same bundle.

    Raises:
        ConfigError: `out` holds something other than an exported adapter, or more than was exported.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        _check_replaceable(out)
    if out.suffix.lower() == ".zip":
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            for name in sorted(bundle):
                info = zipfile.ZipInfo(name)  # dated 1980, not with the time of writing
                info.external_attr = (stat.S_IFREG | 0o644) << 16
                info.create_system = 3
                archive.writestr(info, bundle[name])
        write_bytes(out, content.getvalue())
        return
    with new_dir(out) as folder:
        (folder / "task_lora").mkdir()
        for name, data in bundle.items():
            (folder / name).write_bytes(data)


def _check_replaceable(out: Path) -> None:
    """Refuse to overwrite anything but an unchanged export: a changed card may be somebody's work."""
    try:
        bundle = read_bundle(out)
        as_written = _sums(bundle).items() <= manifest_of(bundle, str(out))["files"].items()
    except DataError as error:
        raise ConfigError(
            f"{out} is there already and is no exported adapter; choose another --out."
        ) from error
    if out.is_dir():
        names = {entry.name for entry in _entries(out)}
    else:
        with zipfile.ZipFile(out) as archive:
            names = set(archive.namelist())
    more = sorted(names - {*NAMES, "task_lora", "task_lora/"})
    if more or not as_written:
        problem = f"it also holds {shown(more[0])}" if more else f"{CARD_FILE} was changed"
        raise ConfigError(
            f"{out} is there already and is no longer as it was exported ({problem}); choose another --out."
        )
