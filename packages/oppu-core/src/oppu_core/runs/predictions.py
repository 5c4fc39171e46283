"""Prediction files, and the journals in which answers are collected until a file is complete."""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oppu_core.errors import DataError
from oppu_core.storage.files import append_jsonl, read_appended, read_jsonl, write_jsonl

QueryId = tuple[str, str]  # (user id, query id)


@dataclasses.dataclass(frozen=True)
class Answer:
    """One line of a prediction file."""

    user_id: str
    id: str
    answer: str
    gold: str | None


def _answer_of(row: Any) -> Answer:
    """Parse a line of a prediction file; a TypeError if it is not an answer."""
    one = Answer(**row)
    texts = (one.user_id, one.id, one.answer, one.gold or "")
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("user_id, id, answer and gold have to be texts")
    return one


def read_answers(path: Path) -> dict[QueryId, Answer]:
    """Read a prediction file: {(user id, query id): answer}.

    Raises:
        DataError: a line is not an answer, or answers a query twice.
    """
    # <run>/<task>/predictions/<method>.jsonl
    advice = f"Remove the file and answer again (`oppu answer --run {path.parents[2]}`)."
    answers: dict[QueryId, Answer] = {}
    try:
        rows = read_jsonl(path)
    except DataError as error:
        raise DataError(f"{error} {advice}") from error
    for number, row in enumerate(rows, 1):
        try:
            one = _answer_of(row)
        except TypeError as error:
            raise DataError(f"{path}, line {number}: not an answer ({error}). {advice}") from error
        if (one.user_id, one.id) in answers:
            raise DataError(f"{path}, line {number}: query {one.id!r} is answered twice. {advice}")
        answers[one.user_id, one.id] = one
    return answers


class Journal:
    """Finished answers of one method whose prediction file is not complete yet.

    Args:
        path: The prediction file; the journal is beside it.
    """

    def __init__(self, path: Path) -> None:
        self._target = path
        self._path = path.parent / f".{path.stem}.partial.jsonl"

    def read(self) -> dict[QueryId, Answer]:
        """The answers so far; a line torn by a kill is dropped."""
        answers = read_answers(self._target) if self._target.exists() else {}
        for row in read_appended(self._path):
            with contextlib.suppress(TypeError):
                one = _answer_of(row)
                answers[one.user_id, one.id] = one
        return answers

    def add(self, answers: Sequence[Answer]) -> None:
        """Append finished answers."""
        append_jsonl(self._path, [dataclasses.asdict(one) for one in answers])

    def finish(self, answers: Mapping[QueryId, Answer], order: Sequence[QueryId]) -> None:
        """Write the prediction file, in the order of the dataset, and remove the journal."""
        write_jsonl(self._target, [dataclasses.asdict(answers[key]) for key in order if key in answers])
        self._path.unlink(missing_ok=True)
