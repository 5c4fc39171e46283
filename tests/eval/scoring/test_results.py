"""``results.json``: what is written comes back the same, and what is damaged is named."""

import copy
import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
from oppu_core.data.types import User
from oppu_core.errors import DataError
from oppu_core.tasks.task import Task
from oppu_eval.scoring.evaluate import evaluate
from oppu_eval.scoring.results import Results, ScoreRow

MakeUser = Callable[..., User]


def results_of(task: Task, make_user: MakeUser, fields: tuple[str, str] = ("description", "tag")) -> Results:
    users = [make_user(f"u{i}", ["comedy", "action"], ["comedy"] * (i + 1), fields=fields) for i in range(3)]
    plain = {(user.user_id, query.id): "comedy" for user in users for query in user.queries}
    some = {key: "action" for key in plain if key[0] != "u1"}
    found = evaluate(task, users, users, {"non_personalized": plain, "oppu_k0": some}, 0, resamples=50)
    return Results({task.name: found}, {"seed": 0})


@pytest.fixture
def values(tagging: Task, make_user: MakeUser) -> dict[str, Any]:
    return results_of(tagging, make_user).to_json()


def stored(values: Any) -> Any:
    """As a file gives it back: with sorted keys."""
    return json.loads(json.dumps(values, sort_keys=True))


def test_what_is_written_comes_back_the_same(tagging: Task, make_user: MakeUser) -> None:
    results = results_of(tagging, make_user)
    again = Results.from_json(stored(results.to_json()))
    assert again == results
    assert again.to_json() == results.to_json()
    assert again.tasks["lamp_2m"].set_aside == {"oppu_k0": ["u1"]}
    assert [type(row.ci95) for row in again.rows] == [tuple] * 12


def test_notes_and_other_queries_are_not_written(tagging: Task, make_user: MakeUser) -> None:
    results = results_of(tagging, make_user)
    one = results.tasks["lamp_2m"]
    rows = [dataclasses.replace(row, other_queries=True) for row in one.rows]
    more = Results({"lamp_2m": dataclasses.replace(one, rows=rows, notes=["a note"])}, results.provenance)
    assert more.to_json() == results.to_json()
    assert list(results.to_json()) == [
        "rows", "tasks", "per_user", "history_lengths", "set_aside", "warnings", "provenance",
    ]  # fmt: skip
    attributes = [field.name for field in dataclasses.fields(ScoreRow)]
    assert list(results.to_json()["rows"][0]) == [name for name in attributes if name != "other_queries"]


def test_the_primary_metric_is_the_one_that_rows_begin_with(headlines: Task, make_user: MakeUser) -> None:
    """The file sorts its keys: there the official ROUGE-1 stands before that of words by script."""
    results = results_of(dataclasses.replace(headlines, words="script"), make_user, ("text", "title"))
    values = stored(results.to_json())
    assert next(iter(values["tasks"]["lamp_4"]["metrics"])) == "rouge_1"
    again = Results.from_json(values).tasks["lamp_4"]
    assert again.primary == results.tasks["lamp_4"].primary == "rouge_1_script"
    assert list(again.metrics) == list(results.tasks["lamp_4"].metrics)


Damage = Callable[[Any], Any]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda v: v.pop("rows"), "'rows': Field required"),
        (lambda v: v.pop("provenance"), "'provenance': Field required"),
        (lambda v: v["rows"].append(5), r"'rows\.12': "),
        (lambda v: v["rows"][3].update(value=None), r"'rows\.3\.value': Input should be a valid number"),
        (lambda v: v["rows"][0].update(ci95=[0.1]), r"'rows\.0\.ci95\.1': Field required"),
        (lambda v: v["rows"][2].pop("reference"), r"'rows\.2\.reference': Field required"),
        (lambda v: v["rows"].pop(), "'rows': not every method is under every metric of 'lamp_2m'"),
        (lambda v: v["rows"].clear(), "'rows': not every method is under every metric of 'lamp_2m'"),
        (lambda v: v["tasks"]["lamp_2m"].update(kind="magic"), r"'tasks\.lamp_2m\.kind': .*'rating'"),
        (lambda v: v["tasks"]["lamp_2m"].update(metrics={}), "'rows': not every method"),
        (lambda v: v["per_user"].clear(), r"'per_user\.lamp_2m': Field required"),
        (lambda v: v["per_user"]["lamp_2m"].pop("oppu_k0"), r"'per_user\.lamp_2m': not the methods"),
        (lambda v: v["per_user"]["lamp_2m"]["oppu_k0"].update(u0="x"), r"'per_user\.lamp_2m\.oppu_k0\.u0': "),
        (lambda v: v["history_lengths"]["lamp_2m"].pop("u0"), r"'per_user\.lamp_2m': .* without a length"),
        (lambda v: v["set_aside"].clear(), r"'set_aside\.lamp_2m': Field required"),
        (lambda v: v.update(warnings={"lamp_2m": 5}), r"'warnings\.lamp_2m': "),
    ],
)
def test_what_is_damaged_is_named(values: dict[str, Any], damage: Damage, message: str) -> None:
    damaged = copy.deepcopy(values)
    damage(damaged)
    with pytest.raises(DataError, match=f"^{message}"):
        Results.from_json(damaged)


def test_what_is_no_table_at_all_is_refused() -> None:
    for values in ([], 5, None, "rows"):
        with pytest.raises(DataError, match=r"^'the whole': "):
            Results.from_json(values)
