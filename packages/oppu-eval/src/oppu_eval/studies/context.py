"""The context of a study: data, a base and training settings, from a run, from options or the sample world.

A study requests runs (:class:`Work`) and derived datasets; both are in the study folder and made only once.
"""

import dataclasses
import functools
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from oppu_core.data.dataset import MANIFEST, Dataset
from oppu_core.data.dataset_writer import write_dataset
from oppu_core.data.sample import GRAMMARS, Planted, sample_users
from oppu_core.data.types import User
from oppu_core.errors import ConfigError
from oppu_core.runs.config import RunConfig
from oppu_core.runs.options import JOBS, Job
from oppu_core.runs.predictions import QueryId
from oppu_core.runs.run import Run, open_run
from oppu_core.storage.files import content_id
from oppu_core.tasks.task import Task
from oppu_core.tasks.task_files import get_task
from oppu_core.training.config import Peft

from oppu_eval.files import STUDY_DATA, STUDY_RUNS
from oppu_eval.scoring.metrics import Metric
from oppu_eval.studies.scoring import Scored, score

SAMPLE_TASKS = ("lamp_2m", "lamp_4")
SAMPLE_USERS = 20
SAMPLE_OTHERS = 40
SAMPLE_HISTORY = (8, 80)
SAMPLE_QUERIES = 10
SAMPLE_SETTINGS = ("personal.epochs=4",)  # a little less than the preset, as in the quickstart


@dataclasses.dataclass(frozen=True)
class Work:
    """A run that a study needs.

    Attributes:
        label: The study's name for it.
        config: Its configuration.
        jobs: The jobs that are needed.
    """

    label: str
    config: RunConfig
    jobs: Sequence[Job] = JOBS

    @property
    def folder(self) -> str:
        """The run folder's name: studies that need the same run share it, wherever its data is."""
        data = {task: Dataset.open(Path(path)).fingerprint for task, path in self.config.data.items()}
        return f"{self.label}-{content_id({**self.config.to_json(), 'data': data})[:8]}"


@dataclasses.dataclass(frozen=True)
class StudyContext:
    """The data, base and settings that a study uses.

    Attributes:
        folder: Where its results, runs and derived datasets go.
        store: The store of weights.
        config: The settings; each study sets its own methods.
        resolve: Returns settings for another PEFT method of personal adapters.
        device: Where to compute.
        run: The given run, if any.
    """

    folder: Path
    store: Path
    config: RunConfig
    resolve: Callable[[Peft], RunConfig]
    device: str = "auto"
    run: Run | None = None

    @property
    def tasks(self) -> list[str]:
        """The tasks' names."""
        return list(self.config.data)

    def dataset(self, task: str) -> Dataset:
        """A task's dataset; if there is a run, the run's, checked."""
        return self.run.dataset(task) if self.run else Dataset.open(Path(self.config.data[task]))

    def users(self, task: str) -> list[User]:
        """A task's test users, at most `config.users` of them."""
        return list(itertools.islice(self.dataset(task).users("test"), self.config.users))

    def work(
        self,
        label: str,
        methods: Sequence[str],
        data: Mapping[str, Path] | None = None,
        *,
        config: RunConfig | None = None,
        jobs: Sequence[Job] = JOBS,
    ) -> Work:
        """A run on these settings.

        Args:
            label: The study's name for it.
            methods: How to answer.
            data: Derived datasets by task, with all their test users; by default the context's own.
            config: Other settings.
            jobs: The jobs that are needed.
        """
        config = dataclasses.replace(config or self.config, methods=tuple(methods))
        if data is not None:

            def by_task(settings: Mapping[str, Any]) -> dict[str, Any]:
                return {task: settings[task] for task in data}

            config = dataclasses.replace(
                config,
                data={task: str(path.resolve()) for task, path in data.items()},
                users=None,
                task_lora=by_task(config.task_lora),
                personal=by_task(config.personal),
            )
        return Work(label, config, jobs)

    def earlier(self, work: Work) -> "Done | None":
        """The run of a work, if an earlier call has finished its answers."""
        folder = self.folder / STUDY_RUNS / work.folder
        if not (folder / "run.json").exists():
            return None
        run = open_run(folder)
        files = [run.predictions_path(task, name) for task in run.config.data for name in run.config.methods]
        return Done(work, run) if all(file.exists() for file in files) else None

    def derive(
        self,
        name: str,
        dataset: Dataset,
        how: Mapping[str, Any],
        task: Task,
        users: Callable[[], Iterable[User]],
    ) -> Path:
        """A dataset derived from another, made only once; its name depends on the source and on `how`.

        Args:
            name: The first part of the folder's name.
            dataset: The source.
            how: How it is derived, in JSON values.
            task: Its task.
            users: Its users, of both splits.
        """
        source = {"kind": "derived for a study", "from": dataset.fingerprint, "how": dict(how)}
        return _written(self.folder / STUDY_DATA / f"{name}-{content_id(source)[:8]}", source, task, users)


def _written(path: Path, source: Mapping[str, Any], task: Task, users: Callable[[], Iterable[User]]) -> Path:
    if not (path / MANIFEST).exists():
        write_dataset(path, task, users(), source)
    return path


def sample_data(folder: Path, tasks: Sequence[str], users: int, seed: int, plant: Planted) -> list[Path]:
    """The sample world's datasets for studies, written once.

    Raises:
        ConfigError: the sample world has no such task.
    """
    if missing := [name for name in tasks if get_task(name).name not in GRAMMARS]:
        raise ConfigError(f"The sample world has no task {missing[0]}; it has {', '.join(GRAMMARS)}.")
    paths = []
    for name in dict.fromkeys(get_task(name).name for name in tasks):
        source = {
            "kind": "sample world",
            "for": "studies",
            "seed": seed,
            "test users": users,
            "planted": dataclasses.asdict(plant),
        }

        drawn = functools.partial(
            sample_users,
            get_task(name),
            test_users=users,
            other_users=SAMPLE_OTHERS,
            history=SAMPLE_HISTORY,
            queries=SAMPLE_QUERIES,
            seed=seed,
            plant=plant,
        )
        label = content_id({**source, "task": name})[:8]
        paths.append(_written(folder / STUDY_DATA / f"world-{name}-{label}", source, get_task(name), drawn))
    return paths


def sample_seed(dataset: Dataset) -> int | None:
    """The seed of a dataset of the sample world; None for other datasets."""
    source = dataset.source
    planted = source.get("kind") == "sample world" and "seed" in source
    return int(source["seed"]) if planted else None


@dataclasses.dataclass(frozen=True)
class Done:
    """A finished run of a study.

    Attributes:
        work: The request.
        run: The run.
    """

    work: Work
    run: Run

    def users(self, task: str) -> list[User]:
        """The test users."""
        return self.run.test_users(self.run.dataset(task))

    def answers(self, task: str, method: str) -> dict[QueryId, str]:
        """A method's answers."""
        return self.run.predictions(task, method)

    def score(
        self, task: str, method: str, metric: Metric, *names: str, owner: Mapping[str, str] | None = None
    ) -> Scored | None:
        """A method's scores; None if nobody has an adapter. `names`, `owner`: see :func:`score`."""
        dataset = self.run.dataset(task)
        users = self.run.test_users(dataset)
        made = (task, method, metric.name, *names)
        return score(metric, dataset.task, users, self.answers(task, method), made, owner)


def provenance(done: Sequence[Done]) -> dict[str, Any]:
    """Where the numbers of a study come from: every run's settings, fingerprints and versions."""
    runs = {one.work.folder: {"config": one.run.config.to_json(), **one.run.provenance} for one in done}
    plain: dict[str, Any] = json.loads(json.dumps(runs))
    for values in plain.values():  # a dataset's path does not matter
        values["config"]["data"] = {task: Path(path).name for task, path in values["config"]["data"].items()}
    return plain
