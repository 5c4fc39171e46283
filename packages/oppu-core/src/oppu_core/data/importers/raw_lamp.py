"""Importing raw LaMP, split by user or by time: ``{split}_questions.json``, each question with a profile.

The profiles of a user's questions are merged into one history, of which each question sees a prefix. A user's
questions may be anywhere in files of gigabytes: a first pass notes their places, a second reads them by user.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from oppu_core.data.importers.group_by_user import RowsByUser, longest
from oppu_core.data.importers.json_stream import decode, read_records
from oppu_core.data.importers.lamp_files import (
    detect_task,
    list_in,
    read_labels,
    read_lamp_id,
    sample_records,
)
from oppu_core.data.importers.merge_profiles import user_of
from oppu_core.data.intake import Intake, OnProgress, TestSplit, described, digest, id_of
from oppu_core.data.parsing import as_id, as_list, as_object, as_user_id
from oppu_core.data.rejected import Place, Rejects, Unusable
from oppu_core.data.types import User
from oppu_core.errors import DataError
from oppu_core.tasks.task import Task

SPLITS = ("train", "dev", "test")
_QUESTIONS = re.compile(r"(.+)_questions\.json")


def question_files(path: Path) -> dict[str, Path]:
    """The file of questions of each split, in a folder or its subfolders by split; or the one file given.

    Raises:
        DataError: a split has two files.
    """
    if match := _QUESTIONS.fullmatch(path.name) if path.is_file() else None:
        return {match[1]: path}
    files = {}
    for split in SPLITS:
        name = f"{split}_questions.json"
        found = [file for file in (path / name, path / split / name) if file.exists()]
        if len(found) > 1:
            raise DataError(f"{found[0]} and {found[1]} are the same questions; remove one of them.")
        if found:
            files[split] = found[0]
    return files


class RawLamp:
    """Files in LaMP's layout; a :class:`oppu_core.data.intake.Reader`."""

    def __init__(
        self,
        path: Path,
        task: Task | None = None,
        test_users: int | None = None,
        test_split: TestSplit | None = None,
    ) -> None:
        """Find the files and, unless it is given, the task.

        Args:
            path: The folder, or one file of questions.
            task: The task; detected if not given.
            test_users: How many users, those with the longest histories, become test users
                (:func:`oppu_core.data.importers.group_by_user.longest`).
            test_split: Instead, the split whose users become test users; they are asked only its questions.
                The others are the users of the other splits.

        Raises:
            DataError: a file is missing or unusable, or the task cannot be told.
        """
        self._questions = question_files(path)
        if not self._questions:
            names = ", ".join(f"{split}_questions.json" for split in SPLITS)
            problem = f"has none of {names}" if path.exists() else "does not exist"
            raise DataError(f"{path} {problem}; give the folder of LaMP's files, or one file of questions.")
        self._test_users, self._test_split = test_users, test_split
        self._asked = 0
        if test_split:
            self._take_split(path, test_split)
        self.source: dict[str, Any] = {"kind": "lamp"}
        self.notes: list[str] = []
        self.task = task or self._detect(path)

    def _take_split(self, path: Path, test_split: TestSplit) -> None:
        """Keep the files that a split needs, its own first, so that its questions keep LaMP's ids."""
        needed = ["train_questions.json", "train_outputs.json", f"{test_split}_questions.json"]
        found = {file.name for file in [*self._questions.values(), *self._outputs().values()]}
        if missing := [name for name in needed if name not in found]:
            raise DataError(
                f"{path}: --test-split {test_split} also needs {', '.join(missing)}. Give a folder "
                f"with {', '.join(needed)}: `oppu data download … --split user --parts train,{test_split}`."
            )
        # For dev, test is left out: it has no golds to learn from.
        splits = [test_split, "train", *(["dev"] if test_split == "test" else [])]
        self._questions = {split: self._questions[split] for split in splits if split in self._questions}

    def _outputs(self) -> dict[str, Path]:
        """The existing files of golds (LaMP withholds those of its test questions)."""
        files = {
            split: file.with_name(file.name.replace("_questions.json", "_outputs.json"))
            for split, file in self._questions.items()
        }
        return {split: file for split, file in files.items() if file.exists()}

    def _detect(self, path: Path) -> Task:
        lamp_id = next((read_lamp_id(file) for file in self._outputs().values()), None)
        records = sample_records(self._questions.values())
        samples = ((list_in(record, "profile"), [record.get("input")]) for record in records)
        return detect_task(path, lamp_id, samples)

    def users(self, scratch: Path, rejects: Rejects, on_progress: OnProgress) -> Iterator[User]:
        """Yield every user with all their questions; the users of `test_split` with those of that split only.

        A question without `user_id` is a user of its own. Test users are those of `test_split`, or else those
        with the longest histories; the others train the task base.

        Raises:
            DataError: a file is unusable, `test_split` leaves no others, or `rejects` is strict.
        """
        outputs = self._outputs()
        # Updated in place, for whoever holds it already.
        self.source.update(files=described([*self._questions.values(), *outputs.values()]))
        self.source.update(queries_that_see_less=0)
        golds = {split: read_labels(file, rejects, self.task) for split, file in outputs.items()}
        places = self._find(scratch, rejects, on_progress)
        if self._test_split:
            chosen = self._users_of(self._test_split, places)
        else:
            lengths = ((key, max(row[-1] for row in rows or [[-1]])) for key, rows in places.users())
            chosen = longest(lengths, self._test_users)
        intake = self.intake = Intake(self.task, rejects)
        with contextlib.ExitStack() as stack:
            files = {split: stack.enter_context(file.open("rb")) for split, file in self._questions.items()}
            size = sum(file.stat().st_size for file in self._questions.values())
            again = answerable = 0
            for key, rows in places.users():
                again += sum(row[3] for row in rows or [])
                on_progress(size + again, 2 * size)
                asked = [row for row in rows or [] if row[0] == self._test_split] or rows
                user = self._user(key, asked, key in chosen, files, golds, intake)
                if user is not None:
                    answerable += len(user.queries) if user.split == "test" else 0
                    yield user
        if less := self.source["queries_that_see_less"]:
            self.notes.append(
                f"{less:,} queries see less than their own profile: it is no prefix of the user's history."
            )
        if self._test_split and answerable < self._asked:
            self.notes.append(
                f"{self._asked - answerable:,} of the {self._asked:,} questions of {self._test_split} cannot "
                "be asked (rejected.jsonl says why), and LaMP's scorer takes all or nothing."
            )
        self.notes += intake.notes()

    def _users_of(self, test_split: TestSplit, places: RowsByUser) -> set[str]:
        """The users with a question in a split. Their other questions would leak into the task base."""
        chosen: set[str] = set()
        others = left_out = 0
        for key, rows in places.users():
            elsewhere = [row for row in rows or [] if row[0] != test_split]
            if len(elsewhere) < len(rows or []):
                chosen.add(key)
                left_out += len(elsewhere)
            else:
                others += 1
        file = self._questions[test_split]
        if chosen and not others:
            raise DataError(
                f"{file}: every user has questions here, as in LaMP's split by time, so --test-split "
                f"{test_split} leaves nobody to train the task base. Import with --test-users instead, or "
                "take the split by user (`oppu data download … --split user`)."
            )
        self.source.update(test_split=test_split, questions_left_out=left_out)
        if left_out:
            self.notes.append(
                f"{left_out:,} questions of the other files are left out: their users are in {file.name}, "
                "too, as in LaMP's split by time, and who is tested must not train the task base."
            )
        return chosen

    def _find(self, scratch: Path, rejects: Rejects, on_progress: OnProgress) -> RowsByUser:
        """The places of each user's questions: (split, number, start, size, query id, length of profile)."""
        total = sum(file.stat().st_size for file in self._questions.values())
        places, done, earlier = RowsByUser(scratch / "questions", total // 100), 0, set[bytes]()

        def count(size: int) -> None:
            nonlocal done
            done += size
            on_progress(done, 2 * total)

        for split, file in self._questions.items():
            own: set[bytes] = set()
            for number, (start, size, value) in enumerate(read_records(file, count), 1):
                self._asked += split == self._test_split
                try:
                    question = as_object(value)
                    question_id = as_id(question, "id")
                    nameless = question.get("user_id") is None
                    user_id = "" if nameless else as_user_id(question)
                    length = len(as_list(question, "profile"))
                    if (known := digest(question_id)) in own:
                        raise Unusable("id occurs twice in the file")
                except Unusable as problem:
                    rejects.add(Place(file, number), f"question{id_of(value)}", problem, value)
                    continue
                own.add(known)
                query_id = f"{split}/{question_id}" if known in earlier else question_id
                # A user id and an equal question id are two users.
                key = f"question {query_id}" if nameless else f"user {user_id}"
                places.add(key, [split, number, start, size, query_id, length])
            earlier |= own
        return places

    def _user(
        self,
        key: str,
        rows: list[Any] | None,
        is_test: bool,
        files: Mapping[str, BinaryIO],
        golds: Mapping[str, Mapping[str, str]],
        intake: Intake,
    ) -> User | None:
        user_id = key.partition(" ")[2]
        split, number, *_ = rows[0] if rows else (next(iter(files)), None)
        first = Place(self._questions[split], number, user_id)

        def questions() -> Iterator[tuple[Place, list[Any], Mapping[str, Any]]]:
            for split, number, start, size, query_id, _ in rows or []:
                place = Place(self._questions[split], number, user_id)
                question = self._again(place, files[split], start, size)
                gold = golds.get(split, {}).get(question["id"])
                asked = {"id": query_id, "input": question.get("input"), "gold": gold}
                yield place, question["profile"], asked

        try:
            if rows is None:
                raise Unusable("has too many questions")
            user, less = user_of(first, "test" if is_test else "others", questions(), intake)
        except Unusable as problem:
            intake.rejects.add(first, "user", problem, {"user_id": user_id, "questions": len(rows or [])})
            return None
        self.source["queries_that_see_less"] += less
        return user

    def _again(self, place: Place, file: BinaryIO, start: int, size: int) -> dict[str, Any]:
        try:
            file.seek(start)
            question: dict[str, Any] = decode(file.read(size))
            as_list(as_object(question), "profile")
            as_id(question, "id")
            return question
        except (OSError, ValueError, Unusable):
            pass
        raise DataError(f"{place}: the file changed while it was read. Import it again.")
