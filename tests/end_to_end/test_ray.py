"""Training by workers on a real Ray cluster on this machine: same bytes, whatever happens to the workers."""

import contextlib
import ipaddress
import itertools
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from oppu_core.data.dataset import Dataset
from oppu_core.errors import ConfigError
from oppu_core.runs import ray_cluster
from oppu_core.runs.execute import execute
from oppu_core.runs.options import Cluster, Compute, RunOptions
from oppu_core.runs.progress import quiet
from oppu_core.runs.ray_cluster import RayCluster, RayCohorts, Worker
from oppu_core.runs.run import Run
from oppu_core.runs.start import start_run
from oppu_core.runs.variants import find_variant
from oppu_core.storage.files import read_jsonl
from oppu_core.storage.store import Store
from oppu_core.training.config import Peft
from oppu_core.training.plan import CohortPlan
from small_world import QUICK, adapters, sample_dataset

HERE = Compute(device="cpu", cohort="2")
ray = ray_cluster.import_ray()
CLUSTER, ONE = (Cluster(ray="local", workers=workers) for workers in (2, 1))


@pytest.fixture(scope="module", autouse=True)
def connected() -> Iterator[None]:
    """A cluster for all tests, as many threads here as in a worker."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cluster = RayCluster(CLUSTER, quiet())
    cluster.connect()
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import tests
    yield
    cluster.close()
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Five users: three cohorts."""
    return sample_dataset(tmp_path_factory.mktemp("ray") / "movies", users=5)


def new_run(folder: Path, people: Dataset, base: Path, peft: Peft = "lora") -> Run:
    settings = QUICK[1::2]
    methods = ("non_personalized", "oppu_k0")
    return start_run(
        folder / "run",
        RunOptions(data=[people.path], model=str(base), methods=methods, settings=settings, peft=peft),
    )


def train(run: Run, cluster: Cluster | None = CLUSTER) -> dict[tuple[str, str], bytes]:
    execute(run, ["bases", "personal"], HERE, cluster=cluster)
    return adapters(run.store_path)


@pytest.fixture(scope="module")
def expected(
    people: Dataset, shallow: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], bytes]:
    """The adapters that this process trains."""
    trained = train(new_run(tmp_path_factory.mktemp("here"), people, shallow), None)
    assert len(trained) == 5
    return trained


def test_adapters_have_the_bytes_of_this_process_though_a_worker_is_killed(
    tmp_path: Path,
    people: Dataset,
    shallow: Path,
    expected: dict[tuple[str, str], bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain, killed = RayCohorts._count_steps, []

    def kill_the_first(cohorts: RayCohorts, workers: Sequence[Any], *rest: Any) -> None:
        if workers and not killed:
            killed.append(workers[0])
            ray.kill(workers[0], no_restart=False)
        plain(cohorts, workers, *rest)

    monkeypatch.setattr(ray_cluster, "_WAIT_SECONDS", 0.01)  # sees it while it trains
    monkeypatch.setattr(RayCohorts, "_count_steps", kill_the_first)
    run = new_run(tmp_path, people, shallow)
    assert train(run, Cluster(ray="local", workers=2)) == expected and len(killed) == 1
    entries = [entry for entry in Store(run.store_path).entries() if entry.user_id]
    assert all(entry.facts["cohort"] in (1, 2) and entry.facts["steps"] > 0 for entry in entries)


@pytest.mark.parametrize("peft", ["ia3", "prompt_tuning"])
def test_so_have_adapters_of_other_kinds(tmp_path: Path, people: Dataset, shallow: Path, peft: Peft) -> None:
    """What a worker does, without another process."""
    expected = train(new_run(tmp_path / "here", people, shallow, peft), None)
    run = new_run(tmp_path / "there", people, shallow, peft)
    execute(run, ["bases"], HERE)
    variant, store = find_variant(run, None, None, personal=True), Store(run.store_path)
    known = store.entry(variant.task_lora)
    assert known is not None
    worker = Worker(run.path, "lamp_2m", "base", "cpu", [known])
    assert worker.together()
    plan = read_jsonl(new_run(tmp_path / "here", people, shallow, peft).plan_path("lamp_2m"))
    for _, rows in itertools.groupby(plan, key=lambda row: row["cohort"]):
        folders = [row["folder"] for row in rows]
        for entry in worker.train(folders, folders):
            store.record(entry)
        assert worker.steps() and not worker.steps()
    assert adapters(run.store_path) == expected and len(expected) == 5


class Deadly(Worker):
    """Ends its process when it trains a certain user."""

    def train(self, folders: Sequence[str], wanted: Any) -> Any:
        if folders and (Path(self._where[0]).parent / "fatal").read_text() in folders:
            os._exit(1)
        return Worker.train(self, folders, wanted)


def test_whoever_kills_every_worker_is_set_aside_and_the_others_are_trained(
    tmp_path: Path,
    people: Dataset,
    shallow: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = new_run(tmp_path, people, shallow)
    variant = find_variant(run, None, None, personal=True)
    # Whoever has most to train comes first, with another one.
    keyed = {variant.key_of(user).folder: user for user in variant.users}
    fatal = min(keyed, key=lambda folder: (-len(keyed[folder].training_history), folder))
    whose = keyed[fatal].user_id
    (tmp_path / "fatal").write_text(fatal)
    monkeypatch.setattr(ray_cluster, "_ATTEMPTS", 1)
    monkeypatch.setattr(ray_cluster, "Worker", Deadly)
    trained = train(run, ONE)
    assert {user_id for user_id, _ in trained} == {user.user_id for user in variant.users} - {whose}
    with_reason = [entry for entry in Store(run.store_path).entries() if entry.status == "failed"]
    assert [(entry.user_id, entry.folder) for entry in with_reason] == [(whose, fatal)]
    assert "no worker could train this user alone" in (with_reason[0].reason or "")
    # The plan has the split: the same command trains in the same cohorts.
    recorded = [row["cohort"] for row in read_jsonl(run.plan_path("lamp_2m"))]
    assert sorted(Counter(recorded).values()) == [1, 1, 1, 2]


def test_an_interrupted_training_ends_its_workers_and_goes_on_later(
    tmp_path: Path,
    people: Dataset,
    shallow: Path,
    expected: dict[tuple[str, str], bytes],
    monkeypatch: pytest.MonkeyPatch,
    oppu: Callable[..., Any],
) -> None:
    run = new_run(tmp_path, people, shallow)
    plain, calls, alive = Store.record, itertools.count(), list[psutil.Process]()

    def interrupted(*arguments: Any) -> None:
        if next(calls) == 3:  # the task LoRA, two users of the first cohort, and the next one
            alive.extend(workers())
            raise KeyboardInterrupt
        plain(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "record", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(run, ONE)
    assert alive, "there were workers"
    assert psutil.wait_procs(alive, timeout=20)[1] == []
    assert 0 < len(adapters(run.store_path)) < 5
    result = oppu(
        "personal", "train", "--run", run.path, "--device", "cpu", "--cohort", "2", "--workers", "1", "--ray"
    )
    assert result.returncode == 0, result.stderr
    assert adapters(run.store_path) == expected


def workers() -> list[psutil.Process]:
    """The processes of workers."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "ray::Worker" in " ".join(process.cmdline()):
                found.append(process)
    return found


def test_a_worker_whose_machine_lacks_the_run_is_left_out(
    tmp_path: Path, people: Dataset, shallow: Path, expected: dict[tuple[str, str], bytes]
) -> None:
    run = new_run(tmp_path / "there", people, shallow)
    execute(run, ["bases"], HERE)
    variant = find_variant(run, None, None, personal=True)
    store = Store(run.store_path)
    known = store.entry(variant.task_lora)
    assert known is not None
    make = ray.remote(num_cpus=1, max_restarts=-1, max_concurrency=2)(Worker)
    places = iter([tmp_path / "not there", run.path])

    def start(places: Iterator[Path]) -> Any:
        return make.remote(next(places), "lamp_2m", "base", "cpu", [known])

    folders = sorted(folder for _, folder in expected)
    plan = CohortPlan()
    cohorts = RayCohorts(lambda: start(places), 2, variant, store, plan, quiet())
    assert cohorts.together
    assert {entry.folder for entry in cohorts.train([folders], folders, None)} == set(folders)
    cohorts.end()


def test_nobody_outside_this_machine_can_reach_it() -> None:
    listening = {
        connection.laddr.ip
        for process in psutil.Process().children(recursive=True)
        for connection in connections(process)
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening
    for text in listening:
        address = ipaddress.ip_address(text)
        assert (getattr(address, "ipv4_mapped", None) or address).is_loopback, text


def connections(process: psutil.Process) -> list[Any]:
    try:
        return list(process.net_connections("inet"))
    except psutil.Error:
        return []


def test_without_the_package_or_a_cluster_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'oppu-core\[ray\]'"):
        RayCluster(CLUSTER, quiet()).connect()
