"""Figure 6: LoRA, (IA)³ and prompt tuning as personal adapters."""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from oppu_core.modeling.base_files import base_folder
from oppu_core.modeling.skeleton import skeleton_of
from oppu_core.runs.variants import find_variant
from oppu_core.storage.store import Store
from oppu_core.storage.weights import WEIGHTS_FILE
from oppu_core.tasks.task import Task
from oppu_core.training.config import Peft

from oppu_eval.reporting.paper import paper_trainable_share
from oppu_eval.scoring.metrics import metrics_for
from oppu_eval.studies.context import Done, StudyContext, Work
from oppu_eval.studies.picture import Panel, Series, draw_settings
from oppu_eval.studies.result import Column, Picture, Result, Table
from oppu_eval.studies.scoring import COUNT_COLUMNS, VALUE_COLUMNS, difference, difference_columns
from oppu_eval.studies.settings import named, sure, told
from oppu_eval.studies.study import Plain

PEFT: Mapping[Peft, str] = {"lora": "LoRA", "ia3": "(IA)³", "prompt_tuning": "prompt tuning"}


@dataclasses.dataclass(frozen=True)
class PeftMethods(Plain):
    """Kinds of personal adapters: score, size and time."""

    name: ClassVar[str] = "peft"
    title: ClassVar[str] = "Kinds of adapters"
    question: ClassVar[str] = "What does each kind of adapter gain, and what does it cost?"
    paper: ClassVar[str] = (
        "Paper, Figure 6: LoRA first, then (IA)³, then prompt tuning; it names trainable shares of 0.01 %, "
        "0.06 % and 0.001 % and prints no scores."
    )

    def works(self, context: StudyContext) -> Sequence[Work]:
        """Adapters of each kind, without retrieval."""
        methods = ("non_personalized", "oppu_k0")
        return [context.work(peft, methods, config=context.resolve(peft)) for peft in PEFT]

    def conclude(self, context: StudyContext, done: Mapping[str, Done]) -> Result:
        """Scores against the task base and against LoRA; sizes and times from the store."""
        seed = context.config.seed
        parameters = skeleton_of(base_folder(context.config.model)).parameters
        rows: list[dict[str, Any]] = []
        findings, panels = [], []
        for task in context.tasks:
            about = context.dataset(task).task
            costs = {peft: adapter_costs(done[peft], task) for peft in PEFT}
            for number, metric in enumerate(metrics_for(about)):
                plain = done["lora"].score(task, "non_personalized", metric)
                scored = {peft: done[peft].score(task, "oppu_k0", metric, *_names(peft)) for peft in PEFT}
                if plain:
                    rows.append({"task": task, "peft": "none", "kind": "no adapter", **plain.row(seed),
                                 "metric_title": metric.title, "shown": not number})  # fmt: skip
                for peft, one in scored.items():
                    if one is None:
                        continue
                    lora = scored["lora"] if peft != "lora" else None
                    trained, size, seconds = costs[peft]
                    change = one.against(lora, seed) if lora else None
                    rows.append(
                        {
                            "task": task,
                            "peft": peft,
                            "kind": PEFT[peft],
                            "metric_title": metric.title,
                            **one.row(seed),
                            **difference(one.against(plain, seed) if plain else None, "gain"),
                            **difference(change, "to_lora"),
                            "trainable": trained,
                            "share": 100 * trained / parameters,
                            "bytes": size,
                            "seconds": seconds,
                            "paper_share": _percent(paper_trainable_share(peft)),
                            "shown": not number,
                        }
                    )
                    if change and not number:
                        findings.append(
                            f"{task}: {PEFT[peft]} against LoRA {told(change.delta, change.ci95)} "
                            f"{named(metric)} ({sure(change.ci95)})."
                        )
            panels.append(_panel(about, [row for row in rows if row["task"] == task and row["shown"]]))
        columns = [
            Column("task", "task"),
            Column("kind", "adapter"),
            Column("peft", "peft", shown=False),
            Column("metric_title", "metric", shown=False),
            *VALUE_COLUMNS,
            *difference_columns("to no\nadapter", "gain"),
            *difference_columns("to LoRA", "to_lora"),
            *COUNT_COLUMNS,
            Column("trainable", "parameters trained", "count", shown=False),
            Column("share", "trained,\n% of base", "number"),
            Column("bytes", "file", "bytes"),
            Column("seconds", "s a user", "number"),
            Column("paper_share", "paper:\n% of base", "number"),
        ]
        picture = Picture(
            "peft",
            "Score of each kind of adapter, with its size",
            "The dotted line is the task base without an adapter. Whiskers are 95 % intervals over users.",
            draw_settings(panels, "kind of adapter, and its file", joined=False),
        )
        notes = [
            "Learning rates are each kind’s own (docs/presets.md); epochs and batches are the same. Seconds "
            "are the median user’s share of its training, as the store has it from when it was trained: of "
            "one machine, and not of one undisturbed measurement.",
        ]
        return Result(findings, Table(columns, rows), [picture], notes)


def adapter_costs(done: Done, task: str) -> tuple[int, int, float]:
    """(trained parameters, bytes of the weights file, median seconds of training) of a run's adapters."""
    with contextlib.closing(Store(done.run.store_path)) as store:
        variant = find_variant(done.run, task, "base", personal=True)
        keys = [key for user in variant.users if store.has(key := variant.key_of(user))]
        if not keys:
            return 0, 0, 0.0
        state = store.load(keys[0])
        facts = {entry.folder: entry.facts for entry in store.entries(keys[0].config_id)}
        seconds = [float(facts[key.folder]["seconds"]) for key in keys]
        size = (store.path / keys[0].folder / WEIGHTS_FILE).stat().st_size
    return sum(tensor.numel() for tensor in state.values()), size, float(np.median(seconds))


def _names(peft: str) -> tuple[str, ...]:
    """LoRA's numbers are those of `oppu evaluate`."""
    return () if peft == "lora" else (peft,)


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _panel(task: Task, rows: Sequence[Mapping[str, Any]]) -> Panel:
    """The kinds side by side, with their costs in their names."""
    metric = metrics_for(task)[0]
    kinds = {
        row["peft"]: f"{row['kind']}\n{row['bytes'] / 1000:.0f} kB" for row in rows if row["peft"] in PEFT
    }
    values = [(row["value"], row["ci95"]) for row in rows if row["peft"] in kinds]
    plain = next((row["value"] for row in rows if row["peft"] == "none"), None)
    return Panel(
        task.title,
        metric.title + ("" if metric.higher_is_better else ", lower is better"),
        list(kinds.values()),
        [Series("with adapter", "oppu_k0", values)],
        None if plain is None else ("no adapter", plain),
    )
