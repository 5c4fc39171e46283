"""Finding training settings for a base, on users who are kept aside from the others.

Nothing of the test users is read. Of the others, those with the longest histories become the users of this
study, and the rest trains the task bases. Candidates are compared in rounds: task LoRAs by their rate, then
personal adapters by rate and place on a few users, the best of these on all users (one round of successive
halving, Jamieson & Talwalkar, arXiv 1502.07943), and the neighbours of the best one in epochs, batch size and
rank.

Adapters on all linear maps, with rates above the paper's, are in the grid because "LoRA Without Regret" (J.
Schulman, Thinking Machines Lab, 2025) recommends them; the paper's settings are compared as they are.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from oppu_core.errors import ConfigError, DataError
from oppu_core.runs.preset_files import preset_text
from scipy.stats import rankdata

from oppu_eval.scoring.metrics import metrics_for
from oppu_eval.studies.context import Done, StudyContext, Work
from oppu_eval.studies.picture import Panel, Series, draw_settings
from oppu_eval.studies.recipe_candidates import (
    Candidate,
    common_settings,
    finding,
    kept_aside,
    neighbours,
    personal_settings,
    places,
    split_others,
    title_of,
)
from oppu_eval.studies.result import Column, Picture, Result, Table
from oppu_eval.studies.scoring import COUNT_COLUMNS, VALUE_COLUMNS, Scored, difference, difference_columns
from oppu_eval.studies.study import Plain

PLAIN, OWN = "non_personalized", "oppu_k0"
PRESET_FILE = "preset.toml"
EPOCHS, BATCH_SIZE, RANK = 3, 4, 8  # where the search starts: the paper's, for movie tagging
_NEIGHBOURS, _TOKENS_A_WORD, _INSTRUCTION = 8, 1.6, 90  # roughly, for the expected time
_SHARE = 3  # of the users in the first round, and of the candidates that go on to all users


@dataclasses.dataclass(frozen=True)
class Recipe(Plain):
    """Settings by successive halving.

    Attributes:
        held_out: Users of the others on whom settings are compared.
        others: At most so many of the other others train the task bases.
        rates: Learning rates of personal adapters.
        task_rates: Learning rates of task LoRAs.
    """

    held_out: int = 24
    others: int = 400
    rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3)
    task_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3)

    name: ClassVar[str] = "recipe"
    title: ClassVar[str] = "Settings for this base"
    question: ClassVar[str] = "With which settings do adapters on this base answer best, on users kept aside?"
    paper: ClassVar[str] = (
        "Paper, Table 5 and the authors' code: LoRA on query and value, rank 8, 1e-4; it does not say how "
        "these were found. They are compared here as they are."
    )

    def works(self, context: StudyContext) -> Sequence[Work]:
        """The task bases with each rate, without adapters."""
        given = (*self.rates, *self.task_rates)
        if not self.rates or not self.task_rates or not all(0 < rate < math.inf for rate in given):
            raise ConfigError("--rates and --task-rates need numbers above 0, e.g. 1e-4,1e-3.")
        return [self._work(context, one, {}) for one in self._task_rates(context)]

    def own_tokens(self, context: StudyContext, done: Mapping[str, Done]) -> float:
        """Roughly the tokens of all personal candidates; none if all are there from an earlier call."""
        known = dict(done)
        while new := [work for work in self.more(context, known) if work.label not in known]:
            found = {work.label: context.earlier(work) for work in new}
            if None in found.values():
                break
            known |= {label: one for label, one in found.items() if one}
        else:
            return 0.0
        tokens = 0.0
        for task in context.tasks:
            for user in kept_aside(context.dataset(task), self.held_out):
                words = (len(" ".join(item.fields.values()).split()) for item in user.training_history)
                tokens += sum(_INSTRUCTION + _TOKENS_A_WORD * count for count in words)
        grid = len(self.rates) * len(places(context.config.model))
        return tokens * EPOCHS * (2 * grid / _SHARE + _NEIGHBOURS)

    def more(self, context: StudyContext, done: Mapping[str, Done]) -> Sequence[Work]:
        """The next round's candidates."""
        *_, last = self._rounds(context, done)
        task_lora = self._best(context, done, self._task_rates(context)).changes or {}
        return [self._work(context, one, task_lora) for one in last]

    def _rounds(self, context: StudyContext, done: Mapping[str, Done]) -> Iterator[Sequence[Candidate]]:
        """The rounds of personal candidates up to the first that is not finished."""
        grid = self._grid(context)
        yield grid
        if not _finished(grid, done):
            return
        everybody = self._everybody(context)
        best = self._ordered(context, done, grid)[: max(2, len(grid) // _SHARE)]
        finals = [dataclasses.replace(one, users=everybody) for one in best]
        finals.append(Candidate("personal", "the paper's", None, everybody))
        yield finals
        if not _finished(finals, done):
            return
        start = next(one for one in self._ordered(context, done, finals) if one.changes is not None)
        near = list(neighbours(start))
        yield near
        if not _finished(near, done):
            return
        better = self._ordered(context, done, [start, *near])
        changed = [one for one in better[: better.index(start)] if one.changes is not None]
        merged = dict(start.changes or {})
        for one in reversed(changed):  # the best one's change last, where two are of one field
            merged |= {k: v for k, v in (one.changes or {}).items() if v != (start.changes or {})[k]}
        if len(changed) > 1:
            yield [dataclasses.replace(start, title=title_of(start, merged), changes=merged)]

    def _task_rates(self, context: StudyContext) -> list[Candidate]:
        users = self._everybody(context)
        return [
            Candidate("task_lora", f"task LoRA, rate {rate:g}", {"learning_rate": rate}, users)
            for rate in self.task_rates
        ]

    def _grid(self, context: StudyContext) -> list[Candidate]:
        users = max(2, -(-self._everybody(context) // _SHARE))
        same = {"rank": RANK, "epochs": EPOCHS, "batch_size": BATCH_SIZE}
        return [
            Candidate(
                "personal",
                f"{place}, rate {rate:g}",
                {"learning_rate": rate, "targets": targets, **same},
                users,
            )
            for place, targets in places(context.config.model).items()
            for rate in self.rates
        ]

    def _everybody(self, context: StudyContext) -> int:
        return min(len(kept_aside(context.dataset(task), self.held_out)) for task in context.tasks)

    def _work(self, context: StudyContext, one: Candidate, task_lora: Mapping[str, Any]) -> Work:
        """A candidate's run; personal ones stand on the best task LoRA."""
        config = context.resolve("lora")
        if one.kind == "task_lora":
            task_lora = one.changes or {}
        else:
            config = dataclasses.replace(config, personal=personal_settings(config, one))
        loras = {task: dataclasses.replace(c, **task_lora) for task, c in config.task_lora.items()}
        methods = [PLAIN if one.kind == "task_lora" else OWN]
        work = context.work(
            one.label, methods, self._data(context), config=dataclasses.replace(config, task_lora=loras)
        )
        return dataclasses.replace(work, config=dataclasses.replace(work.config, users=one.users))

    def _data(self, context: StudyContext) -> dict[str, Path]:
        data = {}
        for task in context.tasks:
            dataset = context.dataset(task)
            how = {"kept aside": self.held_out, "others": self.others}
            users = functools.partial(split_others, dataset, self.held_out, self.others)
            data[task] = context.derive(f"{task}-recipe", dataset, how, dataset.task, users)
        return data

    def _ordered(
        self, context: StudyContext, done: Mapping[str, Done], some: Sequence[Candidate]
    ) -> list[Candidate]:
        """Candidates on the same users, best first: by their mean rank over the tasks, then as listed."""
        ranks = np.zeros(len(some))
        for task in context.tasks:
            metric = metrics_for(context.dataset(task).task)[0]
            scores = [_score(done, one, task, context) for one in some]
            able = set().union(*(one.by_user for one in scores if one))  # whom any candidate could train
            values = [
                metric.sign * one.value if one and set(one.by_user) == able else -np.inf for one in scores
            ]
            ranks += rankdata([-value for value in values])
        return [some[place] for place in np.argsort(ranks, kind="stable")]

    def _best(self, context: StudyContext, done: Mapping[str, Done], some: Sequence[Candidate]) -> Candidate:
        return self._ordered(context, done, some)[0]

    def conclude(self, context: StudyContext, done: Mapping[str, Done]) -> Result:
        """The best candidate that all users have tried, as a preset file, beside all that were compared."""
        seed = context.config.seed
        tasks_best = self._best(context, done, self._task_rates(context))
        rounds = list(self._rounds(context, done))
        winner = self._ordered(context, done, [one for some in rounds[1:] for one in some])[0]
        if not any(_score(done, winner, task, context) for task in context.tasks):
            raise DataError(
                "No candidate could train any of the users kept aside; there is nothing to compare."
            )
        rows: list[dict[str, Any]] = []
        findings, panels = [], []
        for task in context.tasks:
            about = context.dataset(task).task
            metric = metrics_for(about)[0]
            plain = _score(done, tasks_best, task, context)
            for number, one in enumerate([*self._task_rates(context), *(c for some in rounds for c in some)]):
                if (scored := _score(done, one, task, context)) is None:
                    continue
                gain = scored.against(plain, seed) if plain and one.kind == "personal" else None
                rows.append(
                    {"task": task, "setting": one.title, "order": number, **scored.row(seed),
                     **difference(gain, "adapter"), "metric_title": metric.title,
                     "best": one in (winner, tasks_best)}
                )  # fmt: skip
            findings.append(finding(task, winner, _score(done, winner, task, context), plain, seed))
            panels.append(self._panel(context, done, task))
        config = done[winner.label].run.config
        settings = {
            "task_lora": common_settings(config.task_lora),
            "personal": common_settings(config.personal),
        }
        data = ", ".join(f"{task} ({context.dataset(task).fingerprint[:8]})" for task in context.tasks)
        comment = (
            f"oppu study recipe: the base {Path(context.config.model).name} ({context.config.dtype}),\n"
            f"{winner.users} users kept aside from the others of each of: {data}."
        )
        findings.insert(0, f"Best over all tasks: {winner.title}, on the {tasks_best.title}.")
        picture = Picture(
            "recipe",
            "Score against the learning rate, by where the adapters are",
            "The first round. The dotted line is the task base without an adapter. Whiskers are 95 % "
            "intervals over users.",
            draw_settings(panels, "learning rate of the personal adapters"),
        )
        columns = [
            Column("task", "task"),
            Column("setting", "setting"),
            Column("metric_title", "metric", shown=False),
            *VALUE_COLUMNS,
            *difference_columns("to no\nadapter", "adapter"),
            *COUNT_COLUMNS,
            Column("best", "chosen", shown=False),
            Column("order", "order", "count", shown=False),
        ]
        notes = [
            "Users are some of the others, the test users were not read; the task bases were trained on the "
            "rest of the others.",
            "The winner was chosen among many by few users: its score here is too good to be true. Measure "
            "it on the test users.",
            f"Use it: `--preset {context.folder / self.name / PRESET_FILE}`.",
        ]
        differing = [
            f"{kind}.{name}"
            for kind, configs in (("task_lora", config.task_lora), ("personal", config.personal))
            for name in ("epochs", "batch_size")
            if name not in settings[kind] and configs
        ]
        if differing:
            notes.append(f"The preset leaves out {', '.join(differing)}, which differ from task to task.")
        pages = {PRESET_FILE: preset_text(settings, comment)}
        return Result(findings, Table(columns, rows), [picture], notes, pages=pages)

    def _panel(self, context: StudyContext, done: Mapping[str, Done], task: str) -> Panel:
        """The grid of the first round."""
        about, seed = context.dataset(task).task, context.config.seed
        metric, grid = metrics_for(about)[0], self._grid(context)
        series = []
        for place, targets in places(context.config.model).items():
            mine = [one for one in grid if (one.changes or {})["targets"] == targets]
            scores = [_score(done, one, task, context) for one in mine]
            rows = [scored.row(seed) if scored else None for scored in scores]
            series.append(Series(place, OWN, [(row["value"], row["ci95"]) if row else None for row in rows]))
        plain = _score(done, self._best(context, done, self._task_rates(context)), task, context)
        return Panel(
            about.title,
            metric.title + ("" if metric.higher_is_better else ", lower is better"),
            [f"{rate:g}" for rate in self.rates],
            series,
            ("no adapter", plain.value) if plain else None,
        )


def _finished(some: Sequence[Candidate], done: Mapping[str, Done]) -> bool:
    return all(one.label in done for one in some)


def _score(done: Mapping[str, Done], one: Candidate, task: str, context: StudyContext) -> Scored | None:
    metric = metrics_for(context.dataset(task).task)[0]
    method = PLAIN if one.kind == "task_lora" else OWN
    return done[one.label].score(task, method, metric, one.label)
