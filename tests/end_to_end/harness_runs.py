"""Runs for the tests of lm-evaluation-harness, and what is done with them: asked, copied, changed."""

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lm_eval
import torch
from lm_eval.tasks import TaskManager
from oppu_core.data.dataset import Dataset
from oppu_core.data.dataset_writer import write_dataset
from oppu_core.modeling.base import Base
from oppu_core.runs.answering import generate_answers
from oppu_core.runs.config import resolve_config
from oppu_core.runs.execute import execute
from oppu_core.runs.options import Compute, RunOptions
from oppu_core.runs.run import open_run
from oppu_core.runs.start import start_run
from oppu_core.runs.variants import Variant, find_variant
from oppu_core.storage.files import read_json
from oppu_core.storage.keys import Key
from oppu_core.storage.store import Store
from oppu_core.storage.weights import CONFIG_FILE
from oppu_eval.lm_eval import plugin
from small_world import QUICK

METHODS = ("non_personalized", "rag_k1", "oppu_k0", "oppu_rag_k1")
USERS = ["test-000", "test-001", "test-002"]
QueryId = tuple[str, str]  # (user id, query id)


def make_run(
    folder: Path, data: Sequence[Dataset], methods: Sequence[str] = METHODS, model: str = "tiny"
) -> Path:
    """A finished run of one quick epoch."""
    config = resolve_config(RunOptions(
        data=[dataset.path for dataset in data], model=model, methods=methods, preset="auto",
        settings=QUICK[1::2], dtype="float32", seed=0, users=None, sample=False,
    ))  # fmt: skip
    execute(start_run(folder, config), compute=Compute(device="cpu"))
    return folder


def copy_run(run: Path, folder: Path) -> Path:
    """A copy of a run and the store beside it; the datasets are the same."""
    shutil.copytree(run.parent, folder)
    return folder / run.name


def changed(dataset: Dataset, folder: Path, **queries: Any) -> Dataset:
    """The dataset with other values in all queries of its test users, e.g. ``gold=None``."""
    users = [
        dataclasses.replace(user, queries=tuple(dataclasses.replace(q, **queries) for q in user.queries))
        if user.split == "test"
        else user
        for user in dataset.users()
    ]
    return write_dataset(folder, dataset.task, users, {"kind": "test"})


@contextmanager
def opened(run: Path, task: str, variant: str) -> Iterator[tuple[Variant, Store]]:
    """What a run has on one task base, and its store."""
    its = open_run(run)
    store = Store(its.store_path)
    yield find_variant(its, task, variant, personal=True), store
    store.close()


def key_of(variant: Variant, user_id: str) -> Key:
    """The key of a user's adapter."""
    return variant.key_of(next(user for user in variant.users if user.user_id == user_id))


def replace_adapters(run: Path, seed: int, *, task: str, variant: str, user_id: str | None = None) -> None:
    """Put random weights in the place of a user's adapter, or of everybody's.

    One quick epoch hardly changes an answer, so that an adapter of somebody else's would not show. After
    this no two adapters answer alike.
    """
    with opened(run, task, variant) as (work, store):
        for number, user in enumerate(work.users):
            if user_id in (None, user.user_id):
                key = work.key_of(user)
                draw = torch.Generator().manual_seed(100 * seed + number)
                state = {
                    name: torch.randn(tensor.shape, generator=draw) * 0.3
                    for name, tensor in store.load(key).items()
                }
                store.put(key, read_json(store.path / key.folder / CONFIG_FILE), state, {})


def task_manager(metadata: dict[str, Any]) -> Any:
    """What loads our tasks; looking for the harness's own thousands would take seconds."""
    return TaskManager(include_defaults=False, include_path=str(plugin.TASKS), metadata=metadata)


def ask(
    arguments: dict[str, Any],
    tasks: Sequence[str],
    model: Any = "oppu",
    metadata: dict[str, Any] | None = None,
    **options: Any,
) -> Any:
    """The results of ``lm_eval``, in this process; options are those of ``simple_evaluate``."""
    plugin.register()
    return lm_eval.simple_evaluate(
        model=model,
        model_args=arguments,
        tasks=list(tasks),
        task_manager=task_manager({**arguments, **(metadata or {})}),
        metadata=metadata,
        **{"bootstrap_iters": 0, "device": "cpu", **options},
    )


def answers(results: Any, task: str) -> dict[QueryId, str]:
    """The logged answers."""
    found = {
        (sample["doc"]["user_id"], sample["doc"]["id"]): sample["filtered_resps"][0]
        for sample in results["samples"][task]
    }
    assert len(found) == len(results["samples"][task])
    return found


def prompts(results: Any, task: str) -> dict[QueryId, str]:
    """The logged prompts."""
    return {
        (sample["doc"]["user_id"], sample["doc"]["id"]): sample["arguments"][0][0]
        for sample in results["samples"][task]
    }


def metrics(results: Any, task: str) -> dict[str, float]:
    """The values of a task's metrics."""
    return {
        name.removesuffix(",none"): value
        for name, value in results["results"][task].items()
        if name.endswith(",none") and "_stderr" not in name
    }


class Asked:
    """Stands before the model.

    Attributes:
        batches: The groups of prompts of every batch that was answered.
        before: Called with the base and the groups before each batch.
    """

    def __init__(self) -> None:
        self.batches: list[list[list[str]]] = []
        self.before: Callable[[Base, Sequence[Sequence[str]]], None] = lambda base, groups: None

    def __call__(
        self, base: Base, groups: Sequence[Sequence[str]], *rest: Any, **options: Any
    ) -> list[list[str]]:
        self.before(base, groups)
        written = generate_answers(base, groups, *rest, **options)
        self.batches.append([list(group) for group in groups])
        return written

    def count(self) -> int:
        """How many prompts were answered since the last count."""
        number = sum(len(group) for groups in self.batches for group in groups)
        self.batches.clear()
        return number


def requests_of(results: Any, task: str) -> list[tuple[Any, Any]]:
    """(doc, arguments) as they were asked."""
    return [(sample["doc"], sample["arguments"]) for sample in results["samples"][task]]
