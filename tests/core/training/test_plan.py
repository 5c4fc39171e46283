"""Who is trained together: everybody once, recorded before training starts, and followed after a kill."""

import itertools
import json
import random
import types
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from oppu_core.errors import DataError
from oppu_core.modeling.adapters import adapter_state, attach
from oppu_core.modeling.base import load_base
from oppu_core.modeling.packing import TokenizedExample
from oppu_core.training import plan as plan_module
from oppu_core.training.cohort import Cohort
from oppu_core.training.config import personal_config
from oppu_core.training.plan import CohortPlan, auto_size

# Folders and how much there is to train: two pairs are alike.
AMOUNTS = {"a": 3, "b": 9, "c": 3, "d": 7, "e": 9, "f": 1, "g": 5}
LARGEST_FIRST = ["b", "e", "d", "g", "a", "c", "f"]


def missing(folders: Collection[str]) -> dict[str, tuple[str, int]]:
    return {folder: (f"user {folder}", AMOUNTS.get(folder, 4)) for folder in folders}


def unasked() -> int:
    raise AssertionError("there is nothing to decide")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def recorded(path: Path, variant: str = "base") -> list[list[str]]:
    """The cohorts in a file, as they stand there."""
    rows = [row for row in lines(path) if row["variant"] == variant]
    assert all(row["user_id"] == f"user {row['folder']}" for row in rows)
    groups = itertools.groupby(rows, key=lambda row: row["cohort"])
    numbers, cohorts = zip(*((number, [row["folder"] for row in group]) for number, group in groups),
                           strict=True)  # fmt: skip
    assert len(set(numbers)) == len(numbers)
    return list(cohorts)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "lamp_2m" / "cohorts.jsonl"


@pytest.fixture
def started(path: Path) -> Path:
    """The record of a run of seven users in cohorts of three."""
    cohorts = CohortPlan(path, "base").cohorts(missing(AMOUNTS), (), (), lambda: 3)
    assert cohorts == [["b", "e", "d"], ["g", "a", "c"], ["f"]]
    return path


def test_everybody_is_in_one_cohort_and_alike_users_are_together() -> None:
    draw = random.Random(0)
    for _ in range(50):
        amounts = {f"{number:02}": draw.randrange(5) for number in range(draw.randrange(12))}
        asked = {folder: ("user", amount) for folder, amount in amounts.items()}
        size = draw.randrange(1, 6)
        cohorts = CohortPlan(size=size).cohorts(asked, (), (), unasked)
        flat = [folder for cohort in cohorts for folder in cohort]
        assert flat == sorted(amounts, key=lambda folder: (-amounts[folder], folder))
        assert all(len(cohort) == size for cohort in cohorts[:-1])
        assert not cohorts or 1 <= len(cohorts[-1]) <= size
        shuffled = dict(draw.sample(sorted(asked.items()), len(asked)))
        assert CohortPlan(size=size).cohorts(shuffled, (), (), unasked) == cohorts
        assert CohortPlan().cohorts(shuffled, (), (), lambda size=size: size) == cohorts


def test_the_plan_is_recorded_as_lines(path: Path) -> None:
    CohortPlan(path, "rag_k1", 2).cohorts(missing("abf"), (), (), unasked)
    assert lines(path) == [
        {"variant": "rag_k1", "cohort": 0, "user_id": "user b", "folder": "b"},
        {"variant": "rag_k1", "cohort": 0, "user_id": "user a", "folder": "a"},
        {"variant": "rag_k1", "cohort": 1, "user_id": "user f", "folder": "f"},
    ]


def test_where_nobody_is_new_nothing_is_decided_or_written(
    started: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_module, "write_jsonl", unasked)
    plan = CohortPlan(started, "base")
    assert plan.cohorts({}, (), AMOUNTS, unasked) == []
    assert len(plan.cohorts(missing(AMOUNTS), (), (), unasked)) == 3
    assert CohortPlan().cohorts({}, (), (), unasked) == []


def test_killed_at_any_moment_the_same_cohorts_are_trained_again(started: Path) -> None:
    """Whatever of a cohort is there already: all of it is trained again, in the same order."""
    whole = recorded(started)
    draw = random.Random(0)
    for _ in range(200):
        present = {folder for folder in AMOUNTS if draw.random() < 0.5}
        absent = missing(draw.sample(sorted(set(AMOUNTS) - present), len(AMOUNTS) - len(present)))
        again = CohortPlan(started, "base").cohorts(absent, (), present, unasked)
        assert again == [cohort for cohort in whole if not set(cohort) <= present]
    assert recorded(started) == whole


def test_new_users_come_behind_in_cohorts_of_their_own(started: Path) -> None:
    cohorts = CohortPlan(started, "base").cohorts(missing("fxyz"), (), set("abcdeg"), lambda: 2)
    assert cohorts == [["f"], ["x", "y"], ["z"]]
    assert recorded(started) == [["b", "e", "d"], ["g", "a", "c"], ["f"], ["x", "y"], ["z"]]
    assert [row["cohort"] for row in lines(started)] == [0, 0, 0, 1, 1, 1, 2, 3, 3, 4]


def test_one_that_failed_is_tried_again_alone(started: Path) -> None:
    plan = CohortPlan(started, "base")
    assert plan.cohorts(missing("a"), "a", set("bcdefg"), unasked) == [["a"]]
    # Unless the cohort is trained again anyway: then it is what it was.
    assert plan.cohorts(missing("ac"), "a", set("bdefg"), unasked) == [["g", "a", "c"]]
    # It is nobody's reason to train others again, however small the cohorts that are asked for.
    assert CohortPlan(started, "base", 1).cohorts(missing("ad"), "ad", set("bcefg"), unasked) == [
        ["d"],
        ["a"],
    ]
    assert recorded(started) == [["b", "e", "d"], ["g", "a", "c"], ["f"]]


def test_who_was_forgotten_is_left_out(started: Path) -> None:
    # Neither absent nor there: another task base's, or a user's who is not asked for any more.
    cohorts = CohortPlan(started, "base").cohorts(missing("ec"), (), set("dg"), unasked)
    assert cohorts == [["e", "d"], ["g", "c"]]


def test_another_size_holds_for_what_is_unfinished(started: Path) -> None:
    # The second cohort is done, and the third fits: both stay what they were.
    cohorts = CohortPlan(started, "base", 2).cohorts(missing("bdf"), (), set("egac"), unasked)
    assert cohorts == [["f"], ["b", "d"]]
    assert recorded(started) == [["g", "a", "c"], ["f"], ["b", "d"]]
    # Followed from now on, also when no size is asked for.
    assert CohortPlan(started, "base").cohorts(missing("b"), (), set("acdefg"), unasked) == [["b", "d"]]
    # Who is trained in fewer at once than allowed keeps the cohort: it fits, and gives the same bytes.
    assert CohortPlan(started, "base", 5).cohorts(missing("b"), (), set("acdefg"), unasked) == [["b", "d"]]
    assert CohortPlan(started, "base", 1).cohorts(missing("bd"), (), set("acefg"), unasked) == [["b"], ["d"]]
    assert recorded(started) == [["g", "a", "c"], ["f"], ["b"], ["d"]]


def test_variants_have_plans_of_their_own_in_one_file(started: Path) -> None:
    base = recorded(started)
    rag = CohortPlan(started, "rag_k1", 2).cohorts(missing("bcd"), (), (), unasked)
    assert rag == [["b", "d"], ["c"]]
    assert (recorded(started), recorded(started, "rag_k1")) == (base, rag)
    CohortPlan(started, "base").cohorts(missing("x"), (), AMOUNTS, lambda: 1)
    assert (recorded(started), recorded(started, "rag_k1")) == ([*base, ["x"]], rag)
    assert CohortPlan(started, "rag_k1").cohorts(missing("d"), (), set("bc"), unasked) == [["b", "d"]]


DAMAGED = {
    "no JSON": b"{",
    "no text": b"\xff\n",
    "no object": b"[]\n",
    "no folder": b'{"variant": "base", "cohort": 0, "user_id": "u"}\n',
    "a cohort that is no number": b'{"variant": "base", "cohort": "0", "user_id": "u", "folder": "f"}\n',
    "a folder that is no text": b'{"variant": "base", "cohort": 0, "user_id": "u", "folder": ["f"]}\n',
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_record_is_refused_with_what_to_do(started: Path, damage: str) -> None:
    started.write_bytes(started.read_bytes() + DAMAGED[damage])
    before = started.read_bytes()
    with pytest.raises(DataError, match="Remove it, and start the command again") as caught:
        CohortPlan(started, "base").cohorts(missing("ax"), (), (), lambda: 2)
    assert str(started) in str(caught.value)
    assert started.read_bytes() == before


# --- how many at once ------------------------------------------------------------------------------------

GIB = 2**30
ROW = [TokenizedExample((1, 2, 3), 2)]


def trainer(tokens: int, kept: int, device: str = "cpu") -> Any:
    """What `auto_size` asks of a cohort."""

    def measured(batch: Sequence[TokenizedExample]) -> tuple[int, int]:
        return tokens, kept

    return types.SimpleNamespace(measure=measured, device=torch.device(device))


@pytest.fixture(autouse=True)
def bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds that were measured are not these tests' matter."""
    monkeypatch.setattr(plan_module, "ENOUGH_TOKENS", {"cpu": 4096})
    monkeypatch.setattr(plan_module, "MAX_USERS", 64)
    monkeypatch.setattr(plan_module, "MEMORY_SHARE", 0.5)


def free(monkeypatch: pytest.MonkeyPatch, available: int) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: types.SimpleNamespace(available=available))


@pytest.mark.parametrize(
    ("available", "tokens", "kept", "size"),
    [
        (8 * GIB, 100, GIB, 4),  # half of what is free
        (8 * GIB - 1, 100, GIB, 3),
        (GIB, 100, GIB, 1),
        (0, 100, GIB, 1),  # never less than one
        (64 * GIB, 1000, 1, 4),  # enough to keep a processor busy
        (64 * GIB, 5000, 1, 1),
        (64 * GIB, 1, 1, 64),  # the most there are
        (64 * GIB, 1, 0, 64),
        (8 * GIB, 2000, GIB, 2),  # the smallest bound counts
    ],
)
def test_the_size_is_what_memory_and_use_allow(
    monkeypatch: pytest.MonkeyPatch, available: int, tokens: int, kept: int, size: int
) -> None:
    free(monkeypatch, available)
    assert auto_size(trainer(tokens, kept), ROW) == size


def test_on_a_gpu_its_memory_is_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (6 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 5 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 3 * GIB)
    assert auto_size(trainer(100_000, GIB // 2, "cuda"), ROW) == 8, "what torch has cached is free too"


def test_without_examples_nothing_is_measured() -> None:
    nothing: Any = None
    assert auto_size(nothing, []) == 1


def test_what_is_measured_is_a_step_of_the_model(toy_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed tokens, and memory that grows with them and is not the frozen model's own."""
    base = load_base(str(toy_folder), device="cpu")
    config = personal_config("lamp_2m", "tiny", 0)
    model = attach(base.model, config)
    fresh = adapter_state(model)
    cohort = Cohort(model, fresh, config, 0)
    batch = [TokenizedExample((*range(20), 30 + number, 5), 20) for number in range(4)]
    tokens, kept = cohort.measure(batch)
    assert tokens == 19 + 4 * 2 + 1  # a prefix of 19, two own tokens each, and one place for nobody
    twice, more = cohort.measure([TokenizedExample((*row.ids, *row.ids), 40) for row in batch])
    assert twice > 1.5 * tokens and 1.3 * kept < more < 6 * kept
    assert kept > tokens * 32 * 4, "at least what goes into a layer"
    free(monkeypatch, 2 * 3 * kept)
    assert auto_size(cohort, batch) == 3
    monkeypatch.setattr(plan_module, "ENOUGH_TOKENS", {"cpu": 2 * tokens})
    assert auto_size(cohort, batch) == 2
    now: Mapping[str, torch.Tensor] = adapter_state(model)
    assert all(torch.equal(now[name], fresh[name]) for name in fresh), "measuring trains nothing"
