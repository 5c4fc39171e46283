"""Importing files of any format: detect the format, read, write, and report what was left out."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, get_args

from oppu_core.data.dataset import Dataset
from oppu_core.data.dataset_writer import write_dataset
from oppu_core.data.importers.event_files import looks_like_parts
from oppu_core.data.importers.events import Events
from oppu_core.data.importers.longlamp import LongLamp, shards
from oppu_core.data.importers.raw_lamp import RawLamp, question_files
from oppu_core.data.importers.release import OTHERS_FILE, TEST_FILES, Release
from oppu_core.data.intake import OnProgress, Reader, TestSplit
from oppu_core.data.rejected import Rejects
from oppu_core.data.types import User
from oppu_core.errors import ConfigError, DataError
from oppu_core.storage.files import scratch_dir
from oppu_core.tasks.task import Task, Words

Format = Literal["oppu-release", "lamp", "longlamp", "events"]


@dataclasses.dataclass(frozen=True)
class Imported:
    """A finished import.

    Attributes:
        dataset: The dataset.
        notes: Notes for the person who imports: refused records and reasons, an empty split, ….
    """

    dataset: Dataset
    notes: tuple[str, ...]


def tell_format(path: Path) -> Format:
    """Detect the format of files.

    Raises:
        DataError: it cannot be told.
    """
    is_release = any((path / name).exists() for name in (OTHERS_FILE, *TEST_FILES))
    found: list[Format] = ["oppu-release"] if is_release else []
    found += ["lamp"] if question_files(path) else []
    found += ["longlamp"] if shards(path) else []
    if not found and (path.is_file() or (path.is_dir() and looks_like_parts(path))):
        return "events"
    if len(found) == 1:
        return found[0]
    if not path.exists():
        raise DataError(f"{path} does not exist.")
    problem = f"may be {' or '.join(found)}" if found else "is none that oppu knows"
    raise DataError(f"{path}: the format {problem}. Say --format with one of {', '.join(get_args(Format))}.")


def open_reader(
    path: Path,
    format_: Format | None = None,
    task: Task | None = None,
    test_users: int | None = None,
    queries: int | None = None,
    test_split: TestSplit | None = None,
    encoding: str | None = None,
) -> Reader:
    """The reader for some files; see the readers for the arguments.

    Raises:
        ConfigError: an argument does not apply to this format.
        DataError: the files cannot be used.
    """
    try:
        known = format_ or tell_format(path)
    except OSError as error:  # no permission, a name too long
        raise DataError(f"{path} cannot be read: {error}.") from error
    if known == "oppu-release" and test_users is not None:
        raise ConfigError("--test-users is not for a release, which says itself who is a test user.")
    splits = {"lamp": ("dev", "test"), "longlamp": ("val", "test")}
    if test_split is not None and test_split not in splits.get(known, ()):
        raise ConfigError(
            "--test-split is for lamp (dev or test) and longlamp (val or test), whose files are splits; "
            f"{known} has no {test_split}."
        )
    if known == "lamp" and test_split is not None and test_users is not None:
        raise ConfigError("--test-split already says who the test users are; leave --test-users out.")
    if known != "events" and queries is not None:
        raise ConfigError(f"--queries is for events; {known} has queries of its own.")
    if known != "events" and encoding is not None:
        raise ConfigError(f"--encoding is for events; the files of {known} are UTF-8.")
    if known == "oppu-release":
        return Release(path, task)
    if known == "lamp":
        return RawLamp(path, task, test_users, test_split)
    if known == "longlamp":
        return LongLamp(path, task, test_users, test_split or "test")
    return Events(path, task, test_users, queries, encoding)


def import_files(
    path: Path,
    out: Path,
    reader: Reader,
    strict: bool = False,
    on_progress: OnProgress = lambda done, total: None,
    words: Words | None = None,
) -> Imported:
    """Import files into a dataset folder, all or nothing.

    Refused records are written to its ``rejected.jsonl`` and counted in ``source["rejected"]``.

    Args:
        path: What is imported, for messages.
        out: The dataset folder; an existing dataset is replaced.
        reader: Reads the files.
        strict: Whether the first refused record is an error.
        on_progress: Called with the bytes read so far and in all.
        words: How BM25 and ROUGE split words (:attr:`Task.words`). None takes the task's setting, or
            ``script`` if the official words cover less than half of most texts.

    Returns:
        The dataset and notes about the import.

    Raises:
        DataError: a file is unusable as a whole, no record is usable, the disk refuses, or `strict`.
    """
    with contextlib.ExitStack() as stack:
        try:
            scratch = stack.enter_context(scratch_dir(Path(os.path.realpath(out))))
        except OSError as error:
            raise DataError(f"{out} cannot be written: {error}.") from error
        rejects = Rejects(scratch, strict)
        stack.callback(rejects.release)

        def users() -> Iterator[User]:
            some = False
            for user in reader.users(scratch, rejects, on_progress):
                some = True
                yield user
            rejects.close()
            reader.source.update(rejected=rejects.count)
            if not some:
                why = f" ({rejects.summary()})" if rejects.count else ""
                raise DataError(f"{path} has no usable user{why}.")

        dataset = write_dataset(
            out, reader.task, users(), reader.source, scratch, lambda: words or words_for(reader)
        )
    notes = [*reader.notes, *_about_words(reader.intake.texts, dataset.task)]
    if not dataset.counts["others"]["users"]:
        notes.append("There are no others: a task base cannot be trained on this dataset.")
    if not dataset.counts["test"]["users"]:
        notes.append("There are no test users: nobody gets an adapter from this dataset.")
    elif not dataset.counts["test"]["queries"]:
        notes.append("The test users have no queries: nothing can be scored on this dataset.")
    if rejects.count:
        notes.append(f"{rejects.summary()}. All of them: {out / rejects.file.name}")
    return Imported(dataset, tuple(notes))


def words_for(reader: Reader) -> Words:
    """The setting of :attr:`Task.words` that fits the texts that a reader has read."""
    texts = reader.intake.texts
    by_script = reader.task.words == "script" or 2 * texts["unseen"] > texts["all"]
    return "script" if by_script else "official"


def _about_words(texts: Mapping[str, int], task: Task) -> Iterator[str]:
    if not texts["unseen"]:
        return
    share = f"{texts['unseen']:,} of {texts['all']:,} texts"
    seen = f"{share} are mostly in letters that LaMP's scorer does not see"
    if task.words == "script":
        yield (
            f"{seen}: words go by script here, for retrieval and for a ROUGE that stands beside the official "
            "one (--words official switches this off)."
        )
    elif 100 * texts["unseen"] >= texts["all"]:
        yield f"{seen}; --words script counts words of every script."
