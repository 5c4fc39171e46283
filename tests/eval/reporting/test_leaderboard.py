"""LaMP's prediction files: their form, their ids, and what is refused before anything is written."""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from oppu_core.data.dataset import Dataset
from oppu_core.data.dataset_writer import write_dataset
from oppu_core.data.types import HistoryItem, Query, User
from oppu_core.errors import ConfigError, DataError
from oppu_core.runs.config import resolve_config
from oppu_core.runs.options import RunOptions
from oppu_core.runs.run import Run
from oppu_core.runs.start import start_run
from oppu_core.storage.files import write_jsonl
from oppu_core.tasks.task import Task
from oppu_core.tasks.task_files import get_task
from oppu_eval.reporting.leaderboard import export_lamp, has_golds, not_lamp

METHODS = ("non_personalized", "oppu_k0")
# The order of users and queries is neither that of their ids nor that of the answers' file.
QUERIES = {"zoe": ["9", "10"], "ann": ["2", "q é"], "bob": ["1"]}
ORDER = [(user_id, query_id) for user_id, ids in QUERIES.items() for query_id in ids]
ANSWERS = {key: f"answer to {key[1]}" for key in ORDER}

MakeRun = Callable[..., Run]
Answers = Mapping[tuple[str, str], str]


def dataset_of(folder: Path, task: Task, gold: str | None) -> Dataset:
    def user(user_id: str, ids: Sequence[str]) -> User:
        item = HistoryItem("h", dict.fromkeys(task.history_fields, "text"))
        queries = [Query(query_id, dict.fromkeys(task.input_fields, "text"), gold, 1) for query_id in ids]
        return User(user_id, "test", (item,), tuple(queries))

    other = dataclasses.replace(user("other", ["3"]), split="others")
    users = [other, *(user(user_id, ids) for user_id, ids in QUERIES.items())]
    return write_dataset(folder, task, users, {"kind": "test"})


def give(run: Run, task: str, method: str, answers: Answers) -> None:
    rows = [{"user_id": u, "id": q, "answer": text, "gold": None} for (u, q), text in answers.items()]
    write_jsonl(run.predictions_path(task, method), rows)


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """make(task, …): a run whose methods have answered everything; nothing is trained."""

    def make(*tasks: str | Task, gold: str | None = None, users: int | None = None) -> Run:
        known = [get_task(task) if isinstance(task, str) else task for task in tasks]
        data = [dataset_of(tmp_path / "data" / task.name, task, gold).path for task in known]
        config = resolve_config(RunOptions(
            data=data, model="tiny", methods=METHODS, preset="auto", settings=[], dtype="float32", seed=0,
            users=users, sample=False,
        ))  # fmt: skip
        run = start_run(tmp_path / "run", config)
        for task in known:
            for method in METHODS:
                give(run, task.name, method, dict(reversed(ANSWERS.items())))
        return run

    return make


def without(*keys: tuple[str, str]) -> dict[tuple[str, str], str]:
    return {key: text for key, text in ANSWERS.items() if key not in keys}


def own_task(**changes: Any) -> Task:
    return dataclasses.replace(get_task("lamp_2m"), name="own", **{"lamp_ids": (), **changes})


@pytest.mark.parametrize(
    ("task", "names"),
    [
        ("lamp_1", ["LaMP_1"]),
        ("lamp_2m", ["LaMP_2", "LaMP_2M"]),
        ("lamp_2n", ["LaMP_2N", "LaMP_2"]),
        ("lamp_3", ["LaMP_3"]),
    ],
)
def test_a_file_has_the_names_ids_and_order_that_lamp_expects(
    make_run: MakeRun, task: str, names: list[str]
) -> None:
    """Also where golds are withheld, as they are for the leaderboard."""
    run = make_run(task)
    files = export_lamp(run)
    folder = run.path / "leaderboard" / task
    assert files == [folder / method / f"{name}.json" for method in METHODS for name in names]
    assert sorted(files) == sorted(path for path in folder.rglob("*") if path.is_file())
    for file in files:
        golds = [{"id": query_id, "output": f"answer to {query_id}"} for _, query_id in ORDER]
        # As text: the order of keys counts, and no byte is outside ASCII.
        expected = json.dumps({"task": file.stem, "golds": golds}, indent=2) + "\n"
        assert file.read_bytes() == expected.encode("ascii")


def test_each_method_has_its_own_answers(make_run: MakeRun) -> None:
    run = make_run("lamp_4")
    give(run, "lamp_4", "oppu_k0", dict.fromkeys(ORDER, " as it \n stands "))
    plain, personal = (json.loads(file.read_bytes())["golds"] for file in export_lamp(run))
    assert plain[0]["output"] == "answer to 9"
    assert {gold["output"] for gold in personal} == {" as it \n stands "}


def test_a_second_export_replaces_the_first(make_run: MakeRun) -> None:
    run = make_run("lamp_3")
    first = export_lamp(run)
    give(run, "lamp_3", "oppu_k0", dict.fromkeys(ORDER, "5"))
    assert export_lamp(run) == first
    assert json.loads(first[1].read_bytes())["golds"][0] == {"id": "9", "output": "5"}


REFUSED = {
    "no answer yet": (None, "5 of 5 test queries have no answer ('9', '10', '2', …)", "oppu answer --run"),
    "one is missing": (
        without(("ann", "q é")),
        "1 of 5 test queries have no answer ('q é')",
        "oppu answer --run",
    ),
    "one too many": (
        {**ANSWERS, ("bob", "77"): "x"},
        "answers belong to no test query of ",
        "('77'). Remove",
    ),
    "another user's id": (
        {**without(("bob", "1")), ("ann", "1"): "x"},
        "answers belong to no test query of ",
        "('1'). Remove",
    ),
    "a failed user": (
        without(*ORDER[2:4]),
        "2 of 5 test queries have no answer ('2', 'q é')",
        "Training failed for 1 of 3 users ('ann'; ",
    ),
    "every user failed": ({}, "5 of 5", "Training failed for 3 of 3 users ('zoe', 'ann', 'bob'; "),
}


@pytest.mark.parametrize("case", REFUSED)
def test_answers_that_are_not_those_to_the_queries_are_refused(make_run: MakeRun, case: str) -> None:
    """And then nothing is written, also not of the tasks and methods that are whole."""
    answers, problem, advice = REFUSED[case]
    run = make_run("lamp_4", "lamp_2m")
    if answers is None:
        run.predictions_path("lamp_2m", "oppu_k0").unlink()
    else:
        give(run, "lamp_2m", "oppu_k0", answers)
    with pytest.raises(DataError) as caught:
        export_lamp(run)
    message = str(caught.value)
    assert message.startswith("lamp_2m, method oppu_k0: ")
    assert problem in message and advice in message
    assert ("Training failed" in message) == ("failed" in case)
    assert ("oppu answer" in message) == ("failed" not in case)
    assert not (run.path / "leaderboard").exists()


def test_no_training_is_blamed_for_a_method_without_adapters(make_run: MakeRun) -> None:
    run = make_run("lamp_4")
    give(run, "lamp_4", "non_personalized", without(*ORDER[2:4]))
    with pytest.raises(DataError, match=r"non_personalized: 2 of 5 .*Finish with `oppu answer") as caught:
        export_lamp(run)
    assert "Training failed" not in str(caught.value)


def test_a_query_that_is_answered_twice_is_refused(make_run: MakeRun) -> None:
    run = make_run("lamp_4")
    file = run.predictions_path("lamp_4", "oppu_k0")
    file.write_text(file.read_text() + file.read_text().splitlines()[0] + "\n")
    with pytest.raises(DataError, match=r"oppu_k0\.jsonl, line 6: query '1' is answered twice"):
        export_lamp(run)
    assert not (run.path / "leaderboard").exists()


@pytest.mark.parametrize("method", METHODS)
def test_a_run_of_the_first_users_is_no_submission(make_run: MakeRun, method: str) -> None:
    run = make_run("lamp_4", users=2)
    give(run, "lamp_4", method, without(("bob", "1")))
    with pytest.raises(DataError, match=r"'1'.* made with --users 2: start a new one without it") as caught:
        export_lamp(run)
    assert "oppu answer" not in str(caught.value) and "Training failed" not in str(caught.value)


def test_two_reasons_are_both_told(make_run: MakeRun) -> None:
    run = make_run("lamp_4", users=2)
    give(run, "lamp_4", "non_personalized", {})
    with pytest.raises(DataError, match=r"--users 2: .* Finish with `oppu answer"):
        export_lamp(run)


def test_a_task_that_is_not_lamps_is_left_out(make_run: MakeRun) -> None:
    run = make_run(own_task(), "lamp_4")
    run.predictions_path("own", "oppu_k0").unlink()  # nobody asks for it
    assert {path.parts[-3] for path in export_lamp(run)} == {"lamp_4"}
    assert not_lamp(run) == ["own"]


def test_a_run_without_a_task_of_lamp_is_refused(make_run: MakeRun) -> None:
    with pytest.raises(ConfigError, match="has no task of LaMP, but own;"):
        export_lamp(make_run(own_task()))


@pytest.mark.parametrize("name", ["../../out", "", "a/b", "LaMP_6\n"])
def test_a_name_that_a_dataset_brings_along_is_no_path(make_run: MakeRun, tmp_path: Path, name: str) -> None:
    run = make_run(own_task(lamp_ids=("LaMP_6", name)))
    with pytest.raises(DataError, match=re.escape(repr(name)) + ".* among its lamp_ids"):
        export_lamp(run)
    assert not list(tmp_path.rglob("*LaMP_6*"))


@pytest.mark.parametrize(("gold", "expected"), [(None, False), ("comedy", True)])
def test_golds_are_there_or_withheld(make_run: MakeRun, gold: str | None, expected: bool) -> None:
    assert has_golds(make_run("lamp_2m", gold=gold)) is expected
