"""Look at adapters, take one out of a run, bring one back in.

What leaves is a bundle (:mod:`oppu_core.ownership.bundle`). What comes in is held against the run's own
identity of that adapter (base, task, settings, others' data, the user's history) and the shapes that the base
asks for.
"""

import contextlib
import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from oppu_core.data.schema import shown
from oppu_core.data.types import User
from oppu_core.errors import ConfigError, DataError, StoreError
from oppu_core.modeling.adapters import State, adapter_config_json, adapter_shapes, attach
from oppu_core.modeling.base import base_folder, base_skeleton
from oppu_core.ownership.bundle import CARD_FILE, WEIGHT_FILES, Bundle, manifest_of, seal
from oppu_core.ownership.card import Score, adapter_card
from oppu_core.runs.run import Run, differences
from oppu_core.runs.variants import Variant, find_variant, variants_of
from oppu_core.storage.files import canonical_json, read_json
from oppu_core.storage.store import CONFIG_FILE, WEIGHTS_FILE, Entry, Key, Store
from oppu_core.tasks.task import TASKS
from oppu_core.training.config import TrainConfig


@dataclasses.dataclass(frozen=True)
class AdapterRow:
    """What a list says of one adapter; None is not known.

    `items` were trained on, `loss` is the last epoch's mean in nats, `bytes` are the weights' on disk.
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
    """Every adapter that the run's methods use, and who of its users lacks one, by task and variant.

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
    """Every adapter of a store, whichever run it was made for.

    Raises:
        ConfigError: there is no store.
        StoreError: it cannot be used.
    """
    names = {task.fingerprint: name for name, task in TASKS.items()}
    with open_store(path) as store:
        entries = list(store.entries())
        grounds = {entry.config_id: entry.identity for entry in entries if entry.kind == "task_lora"}
        for entry in entries:
            if entry.kind == "adapter":
                config = entry.identity["config"]
                variant = grounds.get(config["task_lora"], {}).get("variant", "?")
                yield _row(store, entry, names.get(config["task"], f"own {config['task'][:8]}"), variant)


@contextlib.contextmanager
def open_store(path: Path) -> Iterator[Store]:
    """An existing store, closed at the end.

    Raises:
        ConfigError: there is none.
    """
    if not (path / "manifest.sqlite").is_file():
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
    """One user's adapter in a run: where it is looked for, what the store has there, how it scored."""

    user: User
    work: Variant
    key: Key
    entry: Entry | None
    status: str
    scores: tuple[Score, ...]


def find_adapter(run: Run, store: Store, user_id: str, task: str | None, variant: str | None) -> Found:
    """Everything that is known of a user's adapter.

    Raises:
        ConfigError: the run has no such task or variant, or several that could be meant.
        DataError: there is no such test or own user.
    """
    work = find_variant(run, task, variant, personal=True)
    user = _test_user(work, user_id)
    key = work.key_of(user)
    entry = next((entry for entry in store.entries(key.config_id) if entry.folder == key.folder), None)
    status = _row(store, entry, "", "").status if entry else "not trained"
    return Found(user, work, key, entry, status, tuple(_scores(run, work, user_id)))


def describe_adapter(
    run: Run, user_id: str, task: str | None, variant: str | None
) -> tuple[dict[str, str], tuple[Score, ...]]:
    """Everything that is known of a user's adapter, in words, and its scores if the run was evaluated.

    Raises:
        ConfigError, DataError: as :func:`find_adapter`.
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


def _test_user(work: Variant, user_id: str) -> User:
    """A user who can have an adapter: a test user, or an own one of `oppu personalize`."""
    user = work.run.user(work.dataset.task.name, user_id)
    if user.split != "test":
        raise DataError(f"User {shown(user_id)} is one of the others; only test users have adapters.")
    return user


def _scores(run: Run, work: Variant, user_id: str) -> Iterator[Score]:
    """What the run's ``results.json`` says of this variant's prompts, with and without the adapter."""
    file = run.path / "results.json"
    if not file.exists():
        return
    results, task = read_json(file), work.dataset.task.name
    try:
        if results["provenance"]["config"] != run.config.to_json():
            return  # of another run
        titles = results["tasks"][task]["metrics"]
        names = [method.name for method in work.methods if method.retriever != "random"]
        for row in results["rows"]:
            if row["task"] == task and row["method"] in names:
                first = row["metric"] == next(iter(titles))
                own = results["per_user"][task][row["method"]].get(user_id) if first else None
                interval = None
                if row["ci95"] is not None:  # of one user there is none
                    low, high = row["ci95"]
                    interval = low, high
                title = titles[row["metric"]]
                yield Score(row["method"], title, own, row["value"], interval, row["users"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{file} is no results file. Run `oppu evaluate --run {run.path}`.") from error


def export_adapter(
    run: Run, user_id: str, task: str | None, variant: str | None, with_user_id: bool = False
) -> Bundle:
    """A user's adapter to take along, with the task LoRA that it stands on.

    Args:
        run: A run whose adapters are trained.
        user_id: One of its test users.
        task: As for :func:`find_adapter`.
        variant: Likewise.
        with_user_id: Whether the user's id goes along. History texts never do.

    Raises:
        ConfigError, DataError: as :func:`find_adapter`.
        StoreError: the user has no intact adapter.
    """
    with open_store(run.store_path) as store:
        found = find_adapter(run, store, user_id, task, variant)
        if found.entry is not None and found.entry.status == "failed":
            raise StoreError(f"User {shown(user_id)} has no adapter; training failed: {found.entry.reason}.")
        store.load(found.key)  # says what is wrong, and what to do
        assert found.entry is not None
        folder = store.path / found.key.folder
        own = [(folder / name).read_bytes() for name in (CONFIG_FILE, WEIGHTS_FILE)]
        named = {"user_id": user_id} if with_user_id else {}
        return _bundle(store, found.work, found.key, own, found.entry.facts, found.scores, named)


def bundle_of(
    store: Store, work: Variant, user: User, state: State, facts: Mapping[str, int | float]
) -> Bundle:
    """The bundle of an adapter that is in no store.

    Args:
        store: Has the task LoRA that it stands on.
        work: What it was trained for.
        user: Whose it is, as trained.
        state: Its weights.
        facts: What is known of its training.

    Raises:
        StoreError: there is no intact task LoRA.
    """
    model = attach(base_skeleton(base_folder(work.run.config.model)), work.personal_config)
    # The bytes that a store would write.
    config = json.dumps(adapter_config_json(model), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    own = [config.encode(), safetensors.torch.save(dict(state), metadata={"format": "pt"})]
    return _bundle(store, work, work.key_of(user), own, facts, (), {})


def _bundle(
    store: Store,
    work: Variant,
    key: Key,
    own: Sequence[bytes],
    own_facts: Mapping[str, Any],
    scores: Sequence[Score],
    named: Mapping[str, str],
) -> Bundle:
    """What is exported: the adapter's two files (`own`), the task LoRA's, a card and a manifest."""
    store.load(work.task_lora)
    folder = store.path / work.task_lora.folder
    ground = next(store.entries(work.task_lora.config_id))
    shared = [(folder / name).read_bytes() for name in (CONFIG_FILE, WEIGHTS_FILE)]
    facts = {
        "task": work.dataset.task.name,
        "variant": work.name,
        "task_lora": dict(ground.identity),
        "adapter": dict(key.identity["config"]),
        "history": key.identity["history"],
        "facts": {"adapter": dict(own_facts), "task_lora": dict(ground.facts)},
        **named,
    }
    files = dict(zip(WEIGHT_FILES, (*own, *shared), strict=True))
    card = adapter_card(work.run, work, facts, scores)
    return seal({**files, CARD_FILE: card.encode()}, facts)


@dataclasses.dataclass(frozen=True)
class Imported:
    """What came in: whose adapter, where it is in the store now, and what a person should know of it."""

    user_id: str
    task: str
    variant: str
    folder: Path
    notes: tuple[str, ...]


def import_adapter(run: Run, bundle: Bundle, where: str, user_id: str | None = None) -> Imported:
    """Put an adapter, and its task LoRA if there is none, into the run's store.

    Args:
        run: A run with the same base, task, settings and data of the others.
        bundle: What was exported.
        where: What to call it in messages.
        user_id: Whose it is; told by the bundle, or by the hash of the history, if left out.

    Raises:
        ConfigError: the run has not this task or variant, or has another adapter of this user's already.
        DataError: the bundle is damaged, does not fit the run, or belongs to nobody in it.
    """
    manifest = manifest_of(bundle, where)
    try:
        task, variant, history = (str(manifest[name]) for name in ("task", "variant", "history"))
        identity, config, facts = (dict(manifest[name]) for name in ("task_lora", "adapter", "facts"))
        counted = [_numbers(facts[name]) for name in ("task_lora", "adapter")]
        named = manifest.get("user_id")
        if not isinstance(named, str | None):
            raise TypeError("user_id is no text")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{where}, oppu.json does not describe an exported adapter ({error}).") from error
    with contextlib.closing(Store(run.store_path)) as store:
        work = find_variant(run, task, variant, personal=True)
        _check_same(work.task_lora.identity, identity, f"{where} stands on another task base than {run.path}")
        user = _owner(work, history, user_id if user_id is not None else named, where)
        key = work.key_of(user)
        _check_same(key.identity["config"], config, f"{where} was trained otherwise than {run.path} asks")
        ground_config, ground = _weights(run, work.task_config, bundle, f"task_lora/{WEIGHTS_FILE}", where)
        own_config, own = _weights(run, work.personal_config, bundle, WEIGHTS_FILE, where)
        had = store.intact(key)
        if had and not _equal(store.load(key), own):
            raise ConfigError(
                f"{run.path} has another adapter of user {shown(user.user_id)} ({task}, {variant}), which is "
                "kept. Remove it first, if you want this one."
            )
        notes = ["The store had it already."] if had else []
        if not store.intact(work.task_lora):
            store.put(work.task_lora, ground_config, ground, counted[0])
        elif not _equal(store.load(work.task_lora), ground):
            notes.append(
                "The task LoRA in the store has the same settings but other weights (trained on another "
                "machine?); the adapter will stand on the store's."
            )
        if not had:
            store.put(key, own_config, own, counted[1])
    return Imported(user.user_id, task, variant, run.store_path / key.folder, tuple(notes))


def _check_same(here: Mapping[str, Any], there: Mapping[str, Any], problem: str) -> None:
    """Refuse what was made of something else, and show the difference."""

    def text(value: Any) -> str:
        return shown(value if isinstance(value, str | int | float | None) else canonical_json(value))

    here = json.loads(canonical_json(dict(here)))  # tuples become lists
    if wrong := list(differences(here, there)):
        raise DataError(
            f"{problem}:\n"
            + "\n".join(f"  {name}: {text(two)} there, {text(one)} here" for name, one, two in wrong)
            + "\nImport it into a run with the same base, data and settings."
        )


def _numbers(facts: Mapping[str, Any]) -> dict[str, int | float]:
    """The counts, losses and seconds of a foreign file; anything else in it is left out."""
    return {
        name: value
        for name, value in facts.items()
        if type(value) in (int, float) and math.isfinite(value) and name.isidentifier()
    }


def _owner(work: Variant, history: str, user_id: str | None, where: str) -> User:
    """The test or own user whose history an adapter was trained on."""

    def trained_on(user: User) -> bool:
        return bool(work.key_of(user).identity["history"] == history)

    if user_id is None:
        own = work.run.own_users(work.dataset.task.name)
        owners = [user for user in (*work.dataset.users("test"), *own) if trained_on(user)]
        if len(owners) == 1:
            return owners[0]
        problem = f"{len(owners)} users have" if owners else "no test user of this run has"
        advice = " Name the user with --user." if owners else ""
        raise DataError(f"{where} does not say whose it is, and {problem} the history of it.{advice}")
    user = _test_user(work, user_id)
    if not trained_on(user):
        raise DataError(
            f"{where} was trained on another history than the one that user {shown(user_id)} has in "
            f"{work.dataset.path}; it is not this user's adapter here."
        )
    return user


def _weights(
    run: Run, config: TrainConfig, bundle: Bundle, name: str, where: str
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """PEFT's configuration, and the tensors of a foreign file once they were found to fit the run's base."""
    try:
        state: dict[str, torch.Tensor] = safetensors.torch.load(bundle[name])
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise DataError(f"{where}: {name} is no safetensors file ({error}).") from error
    model = attach(base_skeleton(base_folder(run.config.model)), config)
    expected = adapter_shapes(model)
    found = {name: value.shape for name, value in state.items()}
    if wrong := sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name)):
        raise DataError(
            f"{where}: {name} does not fit the base {run.config.model}: {len(wrong)} tensors are missing, "
            f"unknown or of another shape, e.g. {shown(wrong[0])}."
        )
    if not all(value.dtype == torch.float32 and bool(value.isfinite().all()) for value in state.values()):
        raise DataError(f"{where}: {name} holds numbers that are not finite float32.")
    return adapter_config_json(model), state


def _equal(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
