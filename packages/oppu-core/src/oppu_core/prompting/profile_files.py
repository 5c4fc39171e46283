"""The profile texts of a run: computed, or given in files of JSON lines ``{"task", "user_id", "profile"}``.

Such files come with the authors' release, from ``oppu profiles``, or are written by hand.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from oppu_core.data.dataset import Dataset
from oppu_core.data.schema import shown
from oppu_core.data.types import User
from oppu_core.errors import ConfigError, DataError
from oppu_core.prompting.profiles import compute_profile
from oppu_core.storage.files import content_id, read_jsonl
from oppu_core.tasks.task import Task

FIELDS = ("task", "user_id", "profile")


def read_profiles(paths: Sequence[Path]) -> dict[str, dict[str, str]]:
    """Read files of profiles, one per line: {task: {user id: text}}.

    Raises:
        DataError: a file cannot be read, a line is not a profile, or a user has two in one task.
    """
    profiles: dict[str, dict[str, str]] = {}
    for path in paths:
        for number, row in enumerate(read_jsonl(path), 1):
            where = f"{path}, line {number}"
            if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in FIELDS):
                raise DataError(f'{where}: not a profile; write {{"task": …, "user_id": …, "profile": …}}.')
            texts = profiles.setdefault(row["task"], {})
            if row["user_id"] in texts:
                raise DataError(
                    f"{where}: user {shown(row['user_id'])} has a profile for {shown(row['task'])} already; "
                    "keep one of the two."
                )
            texts[row["user_id"]] = " ".join(row["profile"].split())
    return profiles


def check_covered(
    given: Mapping[str, str], dataset: Dataset, test_users: Iterable[User], histories: bool
) -> None:
    """Check that everybody whose prompts need a given profile has one.

    Args:
        given: Texts by user id.
        dataset: Its other users need one if they have queries.
        test_users: Test users; all of them need one.
        histories: Whether others who only have a history need one, too.

    Raises:
        ConfigError: some have none.
    """
    missing = [user.user_id for user in test_users if user.user_id not in given]
    if not given.keys() >= set(dataset.user_ids("others")):
        missing += [
            user.user_id
            for user in dataset.users("others")
            if user.user_id not in given and (user.queries or (histories and user.history))
        ]
    if missing:
        raise ConfigError(
            f"--profiles: {len(missing)} users of {dataset.path} ({dataset.task.name}) have none, "
            f"e.g. {', '.join(shown(user_id) for user_id in missing[:3])}. Give every user one "
            "(`oppu profiles` writes them), or leave the task out of the file: then they are computed."
        )


class Profiles:
    """The profile text of every user of a task: the given one, else a computed one.

    In a run either everybody has a given one, or nobody (:func:`check_covered`); users added later
    (`oppu personalize`) have computed ones.

    Args:
        task: The task.
        given: Texts by user id; None if all are computed.
    """

    def __init__(self, task: Task, given: Mapping[str, str] | None = None) -> None:
        self._task = task
        self._given = given
        self._texts = dict(given or {})

    def __call__(self, user: User) -> str:
        """A user's text; computed only once."""
        if user.user_id not in self._texts:
            self._texts[user.user_id] = compute_profile(self._task, user.training_history)
        return self._texts[user.user_id]

    def content(self, dataset: Dataset) -> str | None:
        """The sha256 of the given profiles of a dataset's others; None if profiles are computed."""
        if self._given is None:
            return None
        return content_id({user_id: self._given.get(user_id) for user_id in dataset.user_ids("others")})
