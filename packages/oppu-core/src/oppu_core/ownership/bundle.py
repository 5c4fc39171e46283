"""An adapter to take along: six files, as a folder, a zip or a repository of the hub.

::

    README.md                       a model card
    oppu.json                       what the weights are, and the sha256 of the other files
    adapter_config.json, adapter_model.safetensors              the personal adapter, for plain PEFT
    task_lora/adapter_config.json, …/adapter_model.safetensors  what it stands on, likewise

Everything that comes in is read here: other names, links, a wrong size or checksum are refused, and nothing
is unpacked to the disk. Knows nothing of runs.
"""

import hashlib
import io
import json
import stat
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from oppu_core.data.rows import shown
from oppu_core.errors import ConfigError, DataError
from oppu_core.files import new_dir, write_bytes
from oppu_core.store import CONFIG_FILE, WEIGHTS_FILE

Bundle = Mapping[str, bytes]  # content by name

FORMAT = 1
CARD_FILE = "README.md"
MANIFEST_FILE = "oppu.json"
WEIGHT_FILES = (CONFIG_FILE, WEIGHTS_FILE, f"task_lora/{CONFIG_FILE}", f"task_lora/{WEIGHTS_FILE}")
NAMES = (*WEIGHT_FILES, CARD_FILE, MANIFEST_FILE)
GIT_FILE = ".gitattributes"  # the hub puts one into every repository
LIMIT = 2**30  # bytes of a whole bundle: a LoRA of rank 64 on all projections of a 7B model has 640 MB


def seal(files: Bundle, facts: Mapping[str, Any]) -> Bundle:
    """Put the manifest into a bundle: `facts` and the checksums of `files`."""
    manifest = {
        **facts,
        "format": FORMAT,
        "kind": "adapter",
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    text = json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    return {**files, MANIFEST_FILE: text.encode()}


def manifest_of(bundle: Bundle, where: str) -> dict[str, Any]:
    """A bundle's manifest, once every checksum in it has been found right.

    Raises:
        DataError: it is no manifest of this format, or a file is not the one that it names.
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
    sums = manifest.get("files")
    for name in NAMES:
        if name == MANIFEST_FILE:
            continue
        if not isinstance(sums, dict) or sums.get(name) != hashlib.sha256(bundle[name]).hexdigest():
            raise DataError(
                f"{where}: {name} is not the file that was exported (its sha256 is not the one in "
                f"{MANIFEST_FILE}). Export or fetch it again."
            )
    return manifest


def check_files(files: Iterable[tuple[str, int]], where: str) -> None:
    """Hold names and sizes against the format, before anything is read.

    Raises:
        DataError: a name is not of the format, occurs twice or is missing; together they are too large.
    """
    files = [(name, size) for name, size in files if name != GIT_FILE]
    names = [name for name, _ in files]
    for name in names:
        if name not in NAMES:
            raise DataError(
                f"{where} holds {shown(name)}, which an exported adapter does not have; nothing was read."
            )
        if names.count(name) > 1:
            raise DataError(f"{where} holds {name} twice; nothing was read.")
    for name in NAMES:
        if name not in names:
            raise DataError(f"{where} is no exported adapter: it has no {name}.")
    if (size := sum(size for _, size in files)) > LIMIT:
        raise DataError(f"{where} has {size:,} bytes; an adapter has at most {LIMIT:,}. Nothing was read.")


def read_bundle(path: Path) -> Bundle:
    """Read a folder or zip file.

    Raises:
        DataError: it is not there, cannot be read, or holds anything but the files of the format.
    """
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise DataError(f"{path} does not exist; name a folder or zip file of `oppu adapters export`.")
    try:
        with zipfile.ZipFile(path) as archive:
            return _read_zip(archive, str(path))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise DataError(f"{path} is no zip file that can be read: {error}.") from error


def _read_folder(path: Path) -> Bundle:
    found = []
    for file in path.rglob("*"):
        name = file.relative_to(path).as_posix()
        status = file.lstat()
        if stat.S_ISDIR(status.st_mode) and name == "task_lora":
            continue
        if not stat.S_ISREG(status.st_mode):
            kind = "folder" if stat.S_ISDIR(status.st_mode) else "link or special file"
            raise DataError(
                f"{path} holds the {kind} {shown(name)}, which an exported adapter does not have."
            )
        found.append((name, status.st_size))
        if len(found) > len(NAMES) + 1:  # no export: see no more of what may be a whole disk
            break
    check_files(found, str(path))
    return {name: (path / name).read_bytes() for name in NAMES}


def _read_zip(archive: zipfile.ZipFile, where: str) -> Bundle:
    infos = [info for info in archive.infolist() if info.filename != "task_lora/"]
    for info in infos:
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
            raise DataError(f"{where}: {shown(info.filename)} is no plain file; nothing was read.")
    check_files(((info.filename, info.file_size) for info in infos), where)
    return {name: archive.read(name) for name in NAMES}


def write_bundle(bundle: Bundle, out: Path) -> None:
    """Write a folder, or a zip if `out` ends so; whole or not at all, the same bytes for the same bundle.

    Raises:
        ConfigError: `out` holds something that is no exported adapter.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        try:
            manifest_of(read_bundle(out), str(out))
        except DataError as error:
            raise ConfigError(
                f"{out} is there already and is no exported adapter; choose another --out."
            ) from error
    if out.suffix.lower() == ".zip":
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            for name in sorted(bundle):
                info = zipfile.ZipInfo(name)  # dated 1980: no time of writing
                info.external_attr = (stat.S_IFREG | 0o644) << 16
                info.create_system = 3
                archive.writestr(info, bundle[name])
        write_bytes(out, content.getvalue())
        return
    with new_dir(out) as folder:
        (folder / "task_lora").mkdir()
        for name, data in bundle.items():
            (folder / name).write_bytes(data)
