"""Importing the authors' processed release of LaMP ("OPPU release"): a folder of JSON files for one task.

``user_others.json`` has the users that train the task base, ``user_top_100_history.json`` (tweets:
``user_more_100_history.json``) the test users, ``…_label.json`` beside it the test users' golds, and
``profile_user_others.json`` and ``profile_user_100.json`` their profile texts. Gigabytes, read as streams.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from oppu_core.data.dataset import PROFILES
from oppu_core.data.importers.json_stream import read_records
from oppu_core.data.importers.lamp_files import (
    detect_task,
    list_in,
    read_labels,
    read_lamp_id,
    sample_records,
)
from oppu_core.data.intake import Intake, OnProgress, described
from oppu_core.data.parsing import as_id, as_list, as_object, as_text, as_user_id
from oppu_core.data.rejected import Place, Rejects, Unusable
from oppu_core.data.types import Query, Split, User
from oppu_core.errors import DataError
from oppu_core.storage.files import canonical_json
from oppu_core.tasks.task import Task
from oppu_core.tasks.task_files import TASKS

OTHERS_FILE = "user_others.json"
TEST_FILES = ("user_top_100_history.json", "user_more_100_history.json")
PROFILE_FILES = ("profile_user_others.json", "profile_user_100.json")


class Release:
    """A folder in the release's layout; a :class:`oppu_core.data.intake.Reader`."""

    def __init__(self, folder: Path, task: Task | None = None) -> None:
        """Find the files and, unless it is given, the task.

        Raises:
            DataError: a file is missing or unusable, or the task cannot be told.
        """
        if not folder.is_dir():
            raise DataError(f"{folder} {'is not a folder' if folder.exists() else 'does not exist'}.")
        found = [name for name in TEST_FILES if (folder / name).exists()]
        if len(found) != 1 or not (folder / OTHERS_FILE).exists():
            raise DataError(
                f"{folder} must have {OTHERS_FILE} and one of {' or '.join(TEST_FILES)}; "
                f"it has {', '.join([OTHERS_FILE] * (folder / OTHERS_FILE).exists() + found) or 'neither'}."
            )
        # Test users come first: a user in both files is a test user.
        self._files: dict[Split, Path] = {"test": folder / found[0], "others": folder / OTHERS_FILE}
        self._labels = self._files["test"].with_name(found[0].replace(".json", "_label.json"))
        self._profiles = [folder / name for name in PROFILE_FILES if (folder / name).exists()]
        self.source: dict[str, Any] = {"kind": "oppu-release"}
        self.notes: list[str] = []
        self.task = task or self._detect(folder)

    def _detect(self, folder: Path) -> Task:
        for task in TASKS.values():
            if folder.resolve().name == task.release_name:
                return task
        samples = (
            (
                list_in(record, "profile"),
                [query.get("input") for query in list_in(record, "query") if isinstance(query, dict)],
            )
            for record in sample_records(self._files.values())
        )
        return detect_task(folder, read_lamp_id(self._labels), samples)

    def users(self, scratch: Path, rejects: Rejects, on_progress: OnProgress) -> Iterator[User]:
        """Yield the test users, then the others.

        Each history is stably sorted by date if all its items have one, else kept in the file's order. Every
        query sees the whole history.

        Raises:
            DataError: a file is unusable, two test queries have one id, or `rejects` is strict.
        """
        labelled = [self._labels] if self._labels.exists() else []
        golds = read_labels(self._labels, rejects, self.task) if labelled else {}
        # Updated in place, for whoever holds it already.
        self.source.update(files=described([*self._files.values(), *labelled, *self._profiles]))
        self.source.update(gold_disagreements=0)
        intake = self.intake = Intake(self.task, rejects)
        total = sum(file.stat().st_size for file in (*self._files.values(), *self._profiles))
        done = 0

        def count(size: int) -> None:
            nonlocal done
            done += size
            on_progress(done, total)

        for split, file in self._files.items():
            for number, record in enumerate(read_records(file, count), 1):
                user = self._user(Place(file, number), record.value, split, intake, golds)
                if user is not None:
                    yield user
        self.notes += intake.notes()
        if self._profiles:
            with (scratch / PROFILES).open("w", encoding="utf-8") as out:
                for row in self._profile_rows(intake, count):
                    out.write(canonical_json(row) + "\n")

    def _user(
        self, place: Place, value: Any, split: Split, intake: Intake, golds: Mapping[str, str]
    ) -> User | None:
        try:
            record = as_object(value)
            place = place._replace(user_id=as_user_id(record))
            intake.new_user(place)
            items = intake.items(place, as_list(record, "profile"))
            queries = [
                self._with_gold(query, golds) if split == "test" else query
                for value in as_list(record, "query")
                if (query := intake.query(place, value, len(items))) is not None
            ]
            return intake.user(place, split, items, queries)
        except Unusable as problem:
            intake.rejects.add(place, "user", problem, value)
            return None

    def _with_gold(self, query: Query, golds: Mapping[str, str]) -> Query:
        label = golds.get(query.id)
        self.source["gold_disagreements"] += None not in (query.gold, label) and query.gold != label
        return query if query.gold is not None else dataclasses.replace(query, gold=label)

    def _profile_rows(self, intake: Intake, count: Callable[[int], object]) -> Iterator[dict[str, str]]:
        seen: set[str] = set()
        for file in self._profiles:
            for number, record in enumerate(read_records(file, count), 1):
                place = Place(file, number)
                try:
                    profile = as_object(record.value)
                    place = place._replace(user_id=as_id(profile, "id"))
                    user_id, text = as_id(profile, "id"), as_text(profile, "output")
                    if not intake.has(user_id):
                        raise Unusable("there is no such user")
                    if user_id in seen:
                        raise Unusable("the user has a profile already")
                except Unusable as problem:
                    intake.rejects.add(place, "profile", problem, record.value)
                    continue
                seen.add(user_id)
                yield {"task": self.task.name, "user_id": user_id, "profile": text}
