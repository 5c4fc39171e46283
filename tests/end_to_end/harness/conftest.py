"""One run of two tasks, three users each, and a copy of it in which surely no two adapters answer alike."""

import dataclasses
from pathlib import Path

import pytest
from harness_runs import (
    USERS,
    Asked,
    copy_run,
    make_run,
    replace_adapters,
)
from oppu_core.data.dataset import Dataset
from oppu_core.data.dataset_writer import write_dataset


@pytest.fixture(scope="module")
def twins(movies: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Tagging, where the first two users' first queries have the same text."""
    users = {user.user_id: user for user in movies.users()}
    one, other = (users[user_id] for user_id in USERS[:2])
    asked = dataclasses.replace(other.queries[0], fields=one.queries[0].fields)
    users[other.user_id] = dataclasses.replace(other, queries=(asked, *other.queries[1:]))
    return write_dataset(
        tmp_path_factory.mktemp("twins") / "data", movies.task, users.values(), {"kind": "test"}
    )


@pytest.fixture(scope="module")
def run(twins: Dataset, headlines: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that is asked, and not changed."""
    return make_run(tmp_path_factory.mktemp("quick") / "run", [twins, headlines])


@pytest.fixture(scope="module")
def distinct(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy in which no two adapters answer alike."""
    copy = copy_run(run, tmp_path_factory.mktemp("distinct") / "world")
    for seed, (task, variant) in enumerate([("lamp_2m", "base"), ("lamp_2m", "rag_k1"), ("lamp_4", "base")]):
        replace_adapters(copy, seed, task=task, variant=variant)
    return copy


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be changed."""
    return copy_run(run, tmp_path / "copied")


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No request leaves this machine, and requests are cached in the test's own folder."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # read from the environment before
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("lm_eval.caching.cache.PATH", str(tmp_path / "requests"))
    # Two dozen processes for a description of the machine, which is most of the time of a small evaluation.
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """What the model is asked."""
    recorder = Asked()
    monkeypatch.setattr("oppu_eval.lm_eval.model.generate_answers", recorder)
    return recorder
