"""The candidates of ``oppu study recipe``, and the users on whom they are compared."""

import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from oppu_core.data.dataset import Dataset
from oppu_core.data.types import User
from oppu_core.errors import DataError
from oppu_core.modeling.base_files import base_folder
from oppu_core.modeling.families import default_targets
from oppu_core.modeling.skeleton import skeleton_of
from oppu_core.runs.config import RunConfig
from oppu_core.storage.files import content_id
from oppu_core.training.config import ONLY_OF, PERSONAL_ROLES, TASK_ROLES, TrainConfig, personal_config

from oppu_eval.studies.scoring import Scored
from oppu_eval.studies.settings import told


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Settings to compare; `title` is for people, `label` identifies the run.

    Attributes:
        kind: ``task_lora`` or ``personal``.
        title: What is special about it.
        changes: Fields of :class:`TrainConfig`; None takes the paper's settings as they are.
        users: The number of users on whom it is compared.
    """

    kind: str
    title: str
    changes: Mapping[str, Any] | None
    users: int

    @property
    def label(self) -> str:
        """Its name among the study's runs."""
        changes = None if self.changes is None else dict(self.changes)
        return f"recipe-{content_id([self.kind, changes, self.users])[:10]}"


def kept_aside(dataset: Dataset, held_out: int) -> tuple[User, ...]:
    """The others with the longest histories that have a gold answer, in a random but fixed order.

    Raises:
        DataError: there are fewer than two.
    """
    return _longest(dataset.path, dataset.fingerprint, held_out)


@functools.lru_cache(maxsize=16)
def _longest(folder: Path, fingerprint: str, held_out: int) -> tuple[User, ...]:
    dataset = Dataset.open(folder)
    able = [
        user
        for user in dataset.users("others")
        if user.training_history and any(query.gold is not None for query in user.queries)
    ]
    if len(able) < 2:
        raise DataError(
            f"{folder} ({dataset.task.name}) has {len(able)} others with a history and a gold answer; to "
            "compare settings at least two are needed."
        )
    able.sort(key=lambda user: (-len(user.training_history), _draw(user)))
    return tuple(sorted(able[:held_out], key=_draw))


def split_others(dataset: Dataset, held_out: int, others: int) -> Iterator[User]:
    """The dataset's others as both splits: those kept aside become test users.

    Its own test users are not read.
    """
    aside = kept_aside(dataset, held_out)
    known = {user.user_id for user in aside}
    rest = (user for user in dataset.users("others") if user.user_id not in known)
    yield from sorted(rest, key=_draw)[:others]
    yield from (dataclasses.replace(user, split="test") for user in aside)


def _draw(user: User) -> str:
    return content_id(["recipe", user.user_id])


def places(model: str) -> dict[str, tuple[str, ...]]:
    """Sets of projections to adapt."""
    projections = skeleton_of(base_folder(model)).projections
    layers = (name for name in projections if re.search(r"\.\d+\.", name))
    return {
        "query and value": default_targets(PERSONAL_ROLES["lora"], projections),
        "attention": default_targets(TASK_ROLES, projections),
        "all linear": tuple(dict.fromkeys(name.rpartition(".")[2] for name in layers)),
    }


def personal_settings(config: RunConfig, one: Candidate) -> dict[str, TrainConfig]:
    """A candidate's settings by task."""
    if one.changes is not None:
        return {task: dataclasses.replace(c, **one.changes) for task, c in config.personal.items()}
    projections = skeleton_of(base_folder(config.model)).projections
    return {task: personal_config(task, "paper", config.seed, projections) for task in config.personal}


def neighbours(start: Candidate) -> Iterator[Candidate]:
    """The same settings with more or fewer epochs, larger or smaller batches, a higher or lower rank."""
    now = dict(start.changes or {})
    for field in ("epochs", "batch_size", "rank"):
        for value in (now[field] * 2, now[field] // 2):
            if value >= 1:
                changes = {**now, field: value}
                yield dataclasses.replace(start, title=title_of(start, changes), changes=changes)


def title_of(start: Candidate, changes: Mapping[str, Any]) -> str:
    words = {"epochs": "epochs", "batch_size": "batches of", "rank": "rank"}
    new = [f"{words[k]} {v}" for k, v in changes.items() if k in words and v != (start.changes or {})[k]]
    return ", ".join([start.title, *new])


def common_settings(configs: Mapping[str, TrainConfig]) -> dict[str, Any]:
    """The settings of a preset, as far as all tasks have the same."""
    first = next(iter(configs.values()))
    fields = (field.name for field in dataclasses.fields(TrainConfig))
    names = [
        name for name in fields if name not in ("seed", "method") and ONLY_OF.get(name, "lora") == "lora"
    ]
    same = (name for name in names if len({getattr(one, name) for one in configs.values()}) == 1)
    return {name: getattr(first, name) for name in same}


def finding(task: str, winner: Candidate, own: Scored | None, plain: Scored | None, seed: int) -> str:
    """What the winner changes in a task, in a sentence."""
    gain = own.against(plain, seed) if own and plain else None
    if own is None or plain is None or gain is None:
        return f"{task}: no adapters with {winner.title}."
    return (
        f"{task}: {own.metric.title} {own.value:.3f}, without an adapter {plain.value:.3f}; difference "
        f"{told(gain.delta, gain.ci95)} over {winner.users} users (positive is better)."
    )
