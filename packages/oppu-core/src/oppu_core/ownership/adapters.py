"""Listing the adapters of a run or store, and describing one.

See also :mod:`oppu_core.ownership.adapter_export` and :mod:`oppu_core.ownership.adapter_import`.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from oppu_core.data.schema import shown
from oppu_core.data.types import User
from oppu_core.errors import ConfigError, DataError, explained
from oppu_core.ownership.card import Score
from oppu_core.ownership.plugins import ADVICE, installed
from oppu_core.runs.run import Run
from oppu_core.runs.variants import Variant, find_variant, variants_of
from oppu_core.storage.keys import Key
from oppu_core.storage.store import Store, is_store
from oppu_core.storage.weights import WEIGHTS_FILE, Entry
from oppu_core.tasks.task_files import TASKS


@dataclasses.dataclass(frozen=True)
class AdapterRow:
    """A row of a list of adapters; None is unknown.

    `items` were trained on, `loss` is the last epoch's mean in nats, `bytes` is the weights' size on disk.
    """

    user_id: str
    task: str
    variant: str
    method: str
    items: int | None
    loss: float | None
    bytes: int | None
    seconds: float | None
    status: str


def list_run(run: Run) -> Iterator[AdapterRow]:
    """Every adapter that the run's methods use, including missing ones, by task and variant.

    Raises:
        OppuError: the run's data or store cannot be used.
    """
    with open_store(run.store_path) as store:
        for work in variants_of(run):
            if not work.personal:
                continue
            entries = {entry.folder: entry for entry in store.entries() if entry.kind == "adapter"}
            own = run.own_users(work.dataset.task.name)
            asked = {user.user_id for user in (*work.users, *own)}
            method = _peft_method(dataclasses.asdict(work.personal_config))
            for user in (*work.dataset.users("test"), *own):
                entry = entries.get(work.key_of(user).folder)
                if entry is not None:
                    yield _row(store, entry, work.dataset.task.name, work.name)
                elif user.user_id in asked:
                    yield AdapterRow(
                        user.user_id, work.dataset.task.name, work.name, method,
                        None, None, None, None, "not trained",
                    )  # fmt: skip


def list_store(path: Path) -> Iterator[AdapterRow]:
    """Every adapter of a store, of any run.

    Raises:
        ConfigError: there is no store.
        StoreError: it cannot be used.
    """
    names = {task.fingerprint: name for name, task in TASKS.items()}
    with open_store(path) as store:
        entries = list(store.entries())
        task_loras = {entry.config_id: entry.identity for entry in entries if entry.kind == "task_lora"}
        for entry in entries:
            if entry.kind == "adapter":
                config = entry.identity["config"]
                variant = task_loras.get(config["task_lora"], {}).get("variant", "?")
                yield _row(store, entry, names.get(config["task"], f"own {config['task'][:8]}"), variant)


@contextlib.contextmanager
def open_store(path: Path) -> Iterator[Store]:
    """An existing store, closed at the end.

    Raises:
        ConfigError: there is none.
    """
    if not is_store(path):
        raise ConfigError(f"{path} is no store (it has no manifest.sqlite); nothing has been trained there.")
    with contextlib.closing(Store(path)) as store:
        yield store


def _row(store: Store, entry: Entry, task: str, variant: str) -> AdapterRow:
    condition = store.condition(entry)
    status = {
        "ok": "ok",
        "failed": f"failed: {entry.reason}",
        "missing": "missing on disk; `oppu personal train` makes it again",
        "damaged": "damaged on disk; `oppu personal train` makes it again",
    }[condition]
    weights = store.path / entry.folder / WEIGHTS_FILE
    return AdapterRow(
        user_id=entry.user_id or "",
        task=task,
        variant=variant,
        method=_peft_method(entry.identity["config"]["training"]),
        items=entry.facts.get("examples"),
        loss=entry.facts.get("last_loss"),
        bytes=weights.stat().st_size if weights.is_file() else None,
        seconds=entry.facts.get("seconds"),
        status=status,
    )


def _peft_method(training: Mapping[str, Any]) -> str:
    return str(training.get("method", "lora"))


@dataclasses.dataclass(frozen=True)
class Found:
    """One user's adapter in a run: its variant and key, its entry in the store, and its scores."""

    user: User
    work: Variant
    key: Key
    entry: Entry | None
    status: str
    scores: tuple[Score, ...]


def find_adapter(run: Run, store: Store, user_id: str, task: str | None, variant: str | None) -> Found:
    """Find a user's adapter in a run.

    Raises:
        ConfigError: the run has no such task or variant, or several that match.
        DataError: there is no such user.
    """
    work = find_variant(run, task, variant, personal=True)
    user = adapter_user(work, user_id)
    key = work.key_of(user)
    entry = next((entry for entry in store.entries(key.config_id) if entry.folder == key.folder), None)
    status = _row(store, entry, "", "").status if entry else "not trained"
    return Found(user, work, key, entry, status, tuple(_scores(run, work, user_id)))


def describe_adapter(
    run: Run, user_id: str, task: str | None, variant: str | None
) -> tuple[dict[str, str], tuple[Score, ...]]:
    """Everything that is known of a user's adapter, in words, and its scores if the run was evaluated.

    Errors are those of :func:`find_adapter`.
    """
    with open_store(run.store_path) as store:
        found = find_adapter(run, store, user_id, task, variant)
    base, training = run.base_identity(), dataclasses.asdict(found.work.personal_config)
    entry = found.entry
    counts = dict(entry.facts) if entry is not None else {}
    return {
        "user": user_id,
        "status": found.status,
        "task": f"{found.work.dataset.task.title} ({found.work.dataset.task.name})",
        "prompts": f"variant {found.work.name}",
        "base": f"{run.config.model}, {base.dtype}, context {base.context}, sha256 {base.fingerprint}",
        "task LoRA": found.work.task_lora.folder,
        "history": f"{len(found.user.training_history)} items, sha256 {found.key.identity['history']}",
        "training": ", ".join(f"{name} {value}" for name, value in training.items()),
        "trained": ", ".join(f"{name} {value}" for name, value in counts.items()) or "–",
        "folder": str(run.store_path / found.key.folder),
        "sha256 of its files": (entry.sha256 if entry is not None else None) or "–",
    }, found.scores


def adapter_user(work: Variant, user_id: str) -> User:
    """A user who can have an adapter: a test user, or one added by `oppu personalize`."""
    user = work.run.user(work.dataset.task.name, user_id)
    if user.split != "test":
        raise DataError(f"User {shown(user_id)} is one of the others; only test users have adapters.")
    return user


def _scores(run: Run, work: Variant, user_id: str) -> Iterator[Score]:
    """The scores of this variant's prompts, with and without the adapter, from packages that evaluate runs.

    Such a package has an entry point in the group ``oppu.scores`` that names a function: it takes a run, a
    task, names of methods and a user's id, and yields each :class:`Score` that it has.
    """
    names = [m.name for m in work.methods if m.retriever != "random" and m.adapter in (None, "own")]
    for name, scores in installed("oppu.scores"):
        with explained(f"Asking {name} for the scores of {run.path}", ConfigError, ADVICE):
            yield from scores(run, work.dataset.task.name, names, user_id)
