"""Workers on a Ray cluster, who train personal adapters cohort by cohort (extra ``oppu-core[ray]``).

A worker is an actor that loads a variant's task base once, reads its own users from the dataset, trains
closed cohorts, and writes adapters into the store's folders. It never opens the store's manifest: it hands
over what is known of its adapters, and this process, the only writer, records it. So a cohort that is trained
twice, because its worker died before it could answer, gives the same bytes twice.
"""

import contextlib
import dataclasses
import functools
import os
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from oppu_core.errors import ConfigError, ModelError, OppuError, TrainingError
from oppu_core.process import tune_process
from oppu_core.runs.options import Cluster, Compute
from oppu_core.runs.progress import ProgressReporter
from oppu_core.runs.run import open_run
from oppu_core.runs.variants import Variant, find_variant
from oppu_core.storage.weights import Entry, HandedWeights, Weights
from oppu_core.training.loop import Progress
from oppu_core.training.personal import Cohorts, OnStep
from oppu_core.training.plan import CohortPlan

LOCAL = "local"
_ATTEMPTS = 3  # at a cohort whose worker dies
_WAIT_SECONDS = 1.0  # between looks at the workers
_STORE_BYTES = 256 * 2**20  # of Ray's object store on this machine, through which next to nothing goes
# Ray would listen on all interfaces, write a token into the home folder, pack and upload the working folder
# (with runs and adapters in it), and tell its makers of its use.
_SWITCHES = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


class Worker:
    """Trains cohorts of one variant; runs as an actor.

    Args:
        run: The run's folder.
        task: The task's name.
        variant: The variant's name.
        device: Where to compute.
        known: What is known of the weights that it needs: the task LoRA's.
    """

    def __init__(self, run: Path, task: str, variant: str, device: str, known: Sequence[Entry]) -> None:
        tune_process()
        self._where = run, task, variant, device
        self._known = known
        self._steps: list[Progress] = []
        self._cohorts: Cohorts | None = None

    def _loaded(self) -> Cohorts:
        """Whoever trains cohorts here; everything is loaded at the first call."""
        if self._cohorts is None:
            from oppu_core.runs.jobs import VariantJobs  # loads torch

            path, task, name, device = self._where
            run = open_run(path)
            weights = HandedWeights(run.store_path, self._known)
            variant = find_variant(run, task, name, personal=True)
            jobs = VariantJobs(variant, weights, Compute(device=device))
            self._cohorts = jobs.cohorts(*jobs.trainer(*jobs.task_base()))
        return self._cohorts

    def together(self) -> bool:
        """Whether users are trained at once."""
        return self._loaded().together

    def size(self, folders: Collection[str]) -> int:
        """See :meth:`Cohorts.size`."""
        return self._loaded().size(folders)

    def train(self, folders: Sequence[str], wanted: Collection[str]) -> list[Entry]:
        """Train a cohort, and hand over what is known of the wanted adapters."""
        return list(self._loaded().train([folders], wanted, self._steps.append))

    def steps(self) -> list[Progress]:
        """The training steps since the last call."""
        done, self._steps[:] = self._steps[:], []
        return done


class RayCluster:
    """A connection to a cluster, made when it is first needed.

    Args:
        cluster: The cluster, and how many workers with what.
        reporter: Is told what happens to workers.
    """

    def __init__(self, cluster: Cluster, reporter: ProgressReporter) -> None:
        self._cluster, self._reporter = cluster, reporter
        self._ours = False

    @contextlib.contextmanager
    def cohorts(self, variant: Variant, device: str, weights: Weights, plan: CohortPlan) -> Iterator[Cohorts]:
        """Workers for a variant, whose task LoRA is stored; they end with the block.

        Args:
            variant: The variant.
            device: Where workers compute.
            weights: What is handed over is recorded there.
            plan: Of the cohorts; one that no worker survives is split.
        """
        ray = self.connect()
        known = weights.entry(variant.task_lora)
        assert known is not None
        room = ray.cluster_resources()
        gpus = self._cluster.gpus_per_worker
        if gpus is None:
            gpus = 0.0 if device == "cpu" else float(min(1, room.get("GPU", 0)))
        most = self._cluster.workers or max(
            1,
            int(room.get("GPU", 0) // gpus if gpus else room.get("CPU", 0) // self._cluster.cpus_per_worker),
        )
        make = ray.remote(
            num_cpus=self._cluster.cpus_per_worker,
            num_gpus=gpus,
            max_restarts=-1,
            max_concurrency=2,  # so that a worker that trains can be asked how far it is
        )(Worker)
        arguments = (variant.run.path.resolve(), variant.task.name, variant.name, device, [known])
        cohorts = RayCohorts(lambda: make.remote(*arguments), most, variant, weights, plan, self._reporter)
        try:
            yield cohorts
        finally:
            cohorts.end()

    def close(self) -> None:
        """End the connection; a cluster that was started for it ends, too."""
        if self._ours:
            import_ray().shutdown()
            self._ours = False

    def connect(self) -> Any:
        """Ray, connected to the cluster; one that this process is connected to already is taken as it is.

        Raises:
            ConfigError: Ray is not installed, or there is no cluster.
        """
        ray = import_ray()
        if ray.is_initialized():
            return ray
        if self._cluster.ray == LOCAL:
            workers, cores = self._cluster.workers, self._cluster.cpus_per_worker
            where = {
                "num_cpus": workers * cores if workers else None,
                "include_dashboard": False,
                "object_store_memory": _STORE_BYTES,
                "_node_ip_address": "127.0.0.1",
            }
        else:
            where = {"address": self._cluster.ray}
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                ray.init(**where, log_to_driver=False, logging_level="error")
                break
            except Exception as error:  # plain ones, too: a busy machine may be too slow for it
                ray.shutdown()
                if attempt == _ATTEMPTS or self._cluster.ray != LOCAL:
                    raise ConfigError(
                        f"--ray {self._cluster.ray}: no cluster can be used there ({_reason(error)}). "
                        "Start one with `ray start`, or leave the address out for one on this machine."
                    ) from error
        self._ours = True
        return ray


def import_ray() -> Any:
    """The package, which reads its switches when it is imported.

    Raises:
        ConfigError: it is not installed.
    """
    for name, value in _SWITCHES.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--ray needs the package ray: pip install 'oppu-core[ray]'.") from error
    return ray


@dataclasses.dataclass
class _Cohort:
    folders: Sequence[str]
    deaths: int = 0  # of workers that trained it


class RayCohorts:
    """Trains cohorts by workers, each one cohort at a time.

    A worker that dies is started again, and its cohort is trained again; a cohort that kills its workers is
    split, down to single users, who are set aside then. A worker whose machine lacks what is needed is left
    out with the reason, as long as others are there.

    Args:
        start: Starts a worker: an actor of :class:`Worker`.
        most: The most workers.
        variant: Whose users are trained.
        weights: What is handed over is recorded there.
        plan: Records splits.
        reporter: Is told what happens to workers.
    """

    def __init__(
        self,
        start: Callable[[], Any],
        most: int,
        variant: Variant,
        weights: Weights,
        plan: CohortPlan,
        reporter: ProgressReporter,
    ) -> None:
        self._start, self._most, self._variant = start, most, variant
        self._weights, self._plan, self._reporter = weights, plan, reporter
        self._workers: list[Any] = []

    def end(self) -> None:
        """End all workers, whatever they are doing."""
        for worker in self._workers:
            import_ray().kill(worker)
        self._workers = []

    @functools.cached_property
    def together(self) -> bool:
        """See :class:`Cohorts`."""
        return bool(self._ask_one("together"))

    def size(self, folders: Collection[str]) -> int:
        """See :meth:`Cohorts.size`."""
        return int(self._ask_one("size", list(folders)))

    def _ask_one(self, method: str, *arguments: Any) -> Any:
        """The answer of the first worker that can give one; as many as there may be are tried."""
        for left in reversed(range(self._most)):
            worker = self._workers[0] if self._workers else self._started()
            try:
                return import_ray().get(getattr(worker, method).remote(*arguments))
            except Exception as error:
                self._leave_out(worker, error, others=left)
        raise AssertionError

    def _started(self) -> Any:
        self._workers.append(self._start())
        return self._workers[-1]

    def _leave_out(self, worker: Any, error: Exception, others: int) -> None:
        """Go on with the others.

        Raises:
            OppuError: there are no others.
        """
        self._workers.remove(worker)
        import_ray().kill(worker)
        if not others:
            raise _cause(error) from error
        self._reporter.warn(f"A worker is left out: {_cause(error)}")

    def train(
        self, cohorts: Sequence[Sequence[str]], wanted: Collection[str], on_step: OnStep | None
    ) -> Iterator[Entry]:
        """See :meth:`Cohorts.train`."""
        ray = import_ray()
        waiting = deque(_Cohort(folders) for folders in cohorts)
        while len(self._workers) < min(self._most, len(cohorts)):
            self._started()
        idle: list[Any] = []
        # What is waited for: (worker, its cohort); without one it is only getting ready.
        running: dict[Any, tuple[Any, _Cohort | None]] = {}
        asked: dict[Any, Any] = {}  # worker: its answer about steps, to come
        for worker in self._workers:
            running[worker.together.remote()] = worker, None
        while waiting or any(cohort for _, cohort in running.values()):
            while waiting and idle:
                worker, cohort = idle.pop(), waiting.popleft()
                mine = [folder for folder in cohort.folders if folder in wanted]
                running[worker.train.remote(list(cohort.folders), mine)] = worker, cohort
            ended, _ = ray.wait(list(running), timeout=_WAIT_SECONDS)
            self._count_steps([worker for worker, cohort in running.values() if cohort], asked, on_step)
            for reference in ended:
                worker, of_it = running.pop(reference)
                try:
                    found = ray.get(reference)
                except Exception as error:
                    again = self._after_error(error, worker, of_it, others=len(running) + len(idle))
                    waiting.extendleft(again)
                    if worker in self._workers:
                        running[worker.together.remote()] = worker, None
                    if of_it and not again:
                        yield self._set_aside(of_it.folders[0], _reason(error))
                    continue
                idle.append(worker)
                for entry in found if of_it else ():
                    self._weights.record(entry)
                    yield entry

    def _after_error(
        self, error: Exception, worker: Any, cohort: _Cohort | None, others: int
    ) -> list[_Cohort]:
        """What to train again after a worker's error; nothing if a single user's training killed it.

        Raises:
            OppuError: the worker is of no use, and there are no others.
        """
        exceptions = import_ray().exceptions
        # Of a process that has ended Ray says first that it is unavailable, as it starts it again.
        gone = exceptions.ActorUnavailableError | exceptions.ActorDiedError | exceptions.OutOfMemoryError
        if cohort and isinstance(error, gone):
            return self._after_death(cohort, _reason(error))
        if cohort and isinstance(cause := _cause(error), TrainingError):  # a step needs too much memory
            cohort.deaths = _ATTEMPTS
            return self._after_death(cohort, str(cause))
        if isinstance(error, exceptions.ActorUnavailableError):  # its machine may be lost, or is only slow
            time.sleep(_WAIT_SECONDS)
        else:
            self._leave_out(worker, error, others)
        return [cohort] if cohort else []

    def _after_death(self, cohort: _Cohort, reason: str) -> list[_Cohort]:
        """What to train in place of a cohort whose worker has died; nothing if it is a single user."""
        cohort.deaths += 1
        if cohort.deaths < _ATTEMPTS:
            self._reporter.event("worker_died", folders=list(cohort.folders), reason=reason)
            return [cohort]
        if len(cohort.folders) > 1:
            halves = self._plan.split(cohort.folders)
            self._reporter.warn(
                f"{len(cohort.folders)} users at once are too many for a worker ({reason}). Half as many are "
                "tried."
            )
            return [_Cohort(half) for half in halves]
        return []

    def _set_aside(self, folder: str, reason: str) -> Entry:
        """Record that a user cannot be trained."""
        keys = (self._variant.key_of(user) for user in self._variant.users)
        key = next(key for key in keys if key.folder == folder)
        self._weights.put_failure(
            key,
            f"no worker could train this user alone ({reason}); take smaller batches (--set "
            "personal.batch_size=…), --quantize, or machines with more memory",
        )
        entry = self._weights.entry(key)
        assert entry is not None
        return entry

    def _count_steps(self, workers: Sequence[Any], asked: dict[Any, Any], on_step: OnStep | None) -> None:
        """Report the steps of workers that are busy; nobody is waited for."""
        ray = import_ray()
        for worker in workers:
            reference = asked.setdefault(worker, None) or worker.steps.remote()
            asked[worker] = reference
            if ray.wait([reference], timeout=0)[0]:
                asked[worker] = None
                with contextlib.suppress(ray.exceptions.RayError):  # it has died; its cohort says so
                    for progress in ray.get(reference):
                        if on_step:
                            on_step(progress)


def _cause(error: Exception) -> OppuError:
    """What a worker raised, as if it had been raised here."""
    cause = getattr(error, "cause", error)
    if isinstance(cause, OppuError):
        return cause
    return ModelError(f"A worker failed: {_reason(error)}")


def _reason(error: Exception) -> str:
    """An exception of Ray in one line."""
    return " ".join(str(error).split())[:300]
