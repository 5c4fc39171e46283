"""Studies find what was planted into the sample world, and do not find what was not."""

import functools
from collections.abc import Callable

import pytest
from oppu_core.data.dataset_writer import write_dataset
from oppu_core.data.sample import Planted, sample_users
from oppu_core.runs.config import RunConfig, resolve_config
from oppu_core.runs.options import Compute, RunOptions
from oppu_core.tasks.task_files import get_task
from oppu_core.training.config import Peft
from oppu_eval.studies import activity, estimate, shift, study
from oppu_eval.studies.context import StudyContext
from oppu_eval.studies.driver import carry_out
from oppu_eval.studies.similarity import UPDATE, Similarity

Interval = tuple[float, float]
World = Callable[..., StudyContext]
NOTHING = Planted()
# The effect is one of adapters; without retrieved items a third is to be trained.
PAIR = ("non_personalized", "oppu_k0")
EPOCHS = {"lamp_2m": 3, "lamp_4": 4}  # enough to see it


@pytest.fixture(scope="module", autouse=True)
def without_retrieval() -> None:
    """Only the two methods without retrieval, and no trial of how long they take."""
    patch = pytest.MonkeyPatch()
    for module in (activity, shift, study):
        patch.setattr(module, "FOUR", PAIR)
    patch.setattr(estimate, "expected_seconds", lambda *_: None)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """world(task, …): what studies need of a small planted world, made once."""
    place = tmp_path_factory.mktemp("planted")

    @functools.cache
    def make(
        task: str,
        plant: Planted = NOTHING,
        users: int = 8,
        history: tuple[int, int] = (40, 50),
    ) -> StudyContext:
        name = f"{task}-{plant.shift}-{plant.inactive}-{plant.irrelevant}"
        drawn = sample_users(
            get_task(task), test_users=users, other_users=30, history=history, queries=15, plant=plant
        )
        write_dataset(place / name, get_task(task), drawn, {"kind": "sample world", "seed": 0})

        def resolve(peft: Peft) -> RunConfig:
            return resolve_config(RunOptions(
                data=[place / name], model="tiny", methods=PAIR, preset="auto",
                settings=[f"personal.epochs={EPOCHS[task]}"], dtype="float32", seed=0, users=None,
                sample=False, peft=peft,
            ))  # fmt: skip

        return StudyContext(place / f"studies-{name}", place / "store", resolve("lora"), resolve, "cpu")

    return make


def row_of(context: StudyContext, one: study.Study, **wanted: str) -> dict:
    """The only shown row with these values of a study's table."""
    import json

    folder = carry_out(one, context, Compute(device="cpu"))
    rows = json.loads((folder / "study.json").read_text())["table"]["rows"]
    (row,) = [row for row in rows if row["shown"] and all(row[name] == wanted[name] for name in wanted)]
    return row


def change(context: StudyContext, setting: str) -> tuple[float, Interval]:
    """What the adapter loses when the items are chosen so, against as many random ones."""
    with pytest.MonkeyPatch.context() as patch:  # without the third choice of items, which is not looked at
        patch.setattr(shift, "LIMITED", ("random", setting))
        patch.setattr(shift, "SETTINGS", {name: shift.SETTINGS[name] for name in ("full", "random", setting)})
        row = row_of(context, shift.Shift(share=0.4), setting=setting, method="oppu_k0")
    return row["change"], row["change_ci95"]


def test_irrelevant_history_is_found_where_it_was_planted(world: World) -> None:
    """Half of each history is about subjects that are never asked for: the least relevant items teach less
    than as many random ones."""
    planted = world("lamp_2m", Planted(irrelevant=0.5))
    delta, (_, high) = change(planted, "irrelevant")
    assert delta < -0.15
    assert high < -0.05


def test_irrelevant_history_is_not_found_where_it_was_not_planted(world: World) -> None:
    delta, (low, high) = change(world("lamp_2m"), "irrelevant")
    assert low <= 0 <= high
    assert abs(delta) < 0.1


def test_a_shift_in_time_is_found_where_it_was_planted(world: World) -> None:
    """The older half of each history follows another style: the oldest items mislead."""
    planted = world("lamp_4", Planted(shift=0.5), 8, (30, 40))
    delta, (_, high) = change(planted, "oldest")
    assert delta < -0.05
    assert high < 0


def test_a_shift_in_time_is_not_found_where_it_was_not_planted(world: World) -> None:
    delta, (low, high) = change(world("lamp_4", Planted(), 8, (30, 40)), "oldest")
    assert low <= 0 <= high
    assert abs(delta) < 0.04


def gains(context: StudyContext) -> list[tuple[float, Interval]]:
    """What the adapter adds to users with short and with long histories."""
    import json

    folder = carry_out(activity.Activity(groups=2), context, Compute(device="cpu"))
    rows = json.loads((folder / "study.json").read_text())["table"]["rows"]
    personal = [row for row in rows if row["shown"] and row["method"] == "oppu_k0"]
    return [(row["adapter"], row["adapter_ci95"]) for row in personal]


def test_inactive_users_are_found_where_they_were_planted(world: World) -> None:
    """Four users have 2 to 6 items: their adapters add less."""
    (short, (_, short_high)), (long, (long_low, _)) = gains(
        world("lamp_4", Planted(inactive=0.5), 8, (30, 40))
    )
    assert long - short > 0.08
    assert long_low > short_high


def test_inactive_users_are_not_found_where_they_were_not_planted(world: World) -> None:
    (short, (short_low, short_high)), (long, (long_low, long_high)) = gains(
        world("lamp_4", Planted(), 8, (30, 40))
    )
    assert abs(long - short) < 0.08
    assert long_low <= short_high
    assert short_low <= long_high


def test_alike_adapters_belong_to_users_with_alike_planted_habits(world: World) -> None:
    row = row_of(world("lamp_2m"), Similarity(), kind=UPDATE)
    assert row["planted"] > 0.3
    assert row["planted_p"] < 0.05
