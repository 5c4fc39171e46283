"""`oppu study recipe`: settings found on others alone, and the preset file that it writes."""

import dataclasses
import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
from oppu_core.data.dataset import Dataset
from oppu_core.data.dataset_writer import write_dataset
from oppu_core.errors import ConfigError, DataError
from oppu_core.runs.config import resolve_config
from oppu_core.runs.options import RunOptions
from oppu_core.runs.preset_files import preset_text, read_preset
from oppu_eval.scoring.metrics import metrics_for
from oppu_eval.studies import recipe
from oppu_eval.studies.context import Done
from oppu_eval.studies.driver import context_of
from oppu_eval.studies.options import StudyOptions
from oppu_eval.studies.recipe import Recipe
from oppu_eval.studies.recipe_candidates import Candidate, kept_aside, neighbours, split_others
from oppu_eval.studies.scoring import Scored
from small_world import QUICK, sample_dataset

Oppu = Callable[..., CompletedProcess[str]]


def test_settings_are_found_written_and_taken(oppu: Oppu, tmp_path: Path) -> None:
    data = sample_dataset(tmp_path / "movies")
    out = tmp_path / "studies"
    command = [
        "study", "recipe", "--data", data.path, "--out", out, "--held-out", "2", "--rates", "3e-2",
        "--task-rates", "2e-3,1e-6",
    ]  # fmt: skip
    result = oppu(*command, *QUICK)
    assert result.returncode == 0, result.stderr
    study = json.loads((out / "recipe" / "study.json").read_text())
    rows = study["table"]["rows"]
    titles = [row["setting"] for row in rows]
    assert titles[:2] == ["task LoRA, rate 0.002", "task LoRA, rate 1e-06"]
    assert titles[2:5] == [f"{place}, rate 0.03" for place in ("query and value", "attention", "all linear")]
    assert "the paper's" in titles and any("epochs 6" in title for title in titles)
    assert sum(row["best"] for row in rows) == 2
    assert all(row["users"] == 2 for row in rows)

    # Only others were asked, and trained on.
    for run in study["provenance"]["runs"].values():
        assert list(run["config"]["data"].values()) != [data.path.name]
    (derived,) = (out / "data").iterdir()
    known = {user.user_id for user in Dataset.open(derived).users()}
    assert known <= set(data.user_ids("others")) and len(known) == 6
    assert "recipe/preset.toml" in (out / "report.html").read_text(encoding="utf-8")

    preset = out / "recipe" / "preset.toml"
    written = tomllib.loads(preset.read_text())
    config = resolve_config(RunOptions(data=[data.path], preset=str(preset)))
    for kind in ("task_lora", "personal"):
        found = json.loads(json.dumps(dataclasses.asdict(getattr(config, kind)["lamp_2m"])))
        assert {name: found[name] for name in written[kind]} == written[kind]
    assert written["personal"]["learning_rate"] in (3e-2, 1e-4)
    assert str(preset) in " ".join(study["notes"])

    again = oppu(*command, *QUICK)
    assert again.returncode == 0 and "Everything is there" in again.stderr
    assert json.loads((out / "recipe" / "study.json").read_text()) == study


def test_the_longest_histories_are_kept_aside_and_nobody_is_on_both_sides(tmp_path: Path) -> None:
    data = sample_dataset(tmp_path / "movies")
    others = list(data.users("others"))
    aside = kept_aside(data, 3)
    longest = sorted((len(user.training_history) for user in others), reverse=True)[:3]
    assert sorted((len(user.training_history) for user in aside), reverse=True) == longest
    users = list(split_others(data, 3, 2))
    assert {user.user_id for user in users if user.split == "test"} == {user.user_id for user in aside}
    rest = {user.user_id for user in users if user.split == "others"}
    assert len(rest) == 2 and not rest & {user.user_id for user in aside}
    assert rest <= {user.user_id for user in others}


def test_others_without_histories_are_said_to_be_too_few(tmp_path: Path) -> None:
    data = sample_dataset(tmp_path / "movies")
    bare = [
        dataclasses.replace(u, history=(), queries=()) if u.split == "others" else u for u in data.users()
    ]
    poor = write_dataset(tmp_path / "poor", data.task, bare, {"kind": "test"})
    with pytest.raises(DataError, match="has 0 others with a history"):
        kept_aside(poor, 3)


def scored(values: Mapping[str, Sequence[float]], task: Any) -> Callable[..., Scored | None]:
    """Stands in for the scores of runs: by candidate, the share of right answers of two users."""
    metric = metrics_for(task)[0]

    def score(done: Mapping[str, Done], one: Candidate, *_: object) -> Scored | None:
        users = values[one.title]
        by_user = {}
        right, wrong = task.labels[:2]
        for place, value in enumerate(users):
            golds = [right] * round(10 * value) + [wrong] * round(10 - 10 * value)
            by_user[str(place)] = metric.statistics([right] * 10, golds)[None]
        return Scored(metric, by_user, (one.label,)) if users else None

    return score


def test_candidates_are_ordered_by_score_and_failed_trainings_come_last(
    movies: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"good": [0.9, 0.7], "poor": [0.2, 0.3], "same": [0.7, 0.9], "lost one": [1.0], "lost": []}
    monkeypatch.setattr(recipe, "_score", scored(values, movies.task))
    context = context_of(StudyOptions(data=[movies.path], out=tmp_path), "cpu")
    some = [Candidate("personal", title, {"rank": place}, 2) for place, title in enumerate(values)]
    order = [one.title for one in Recipe()._ordered(context, {}, some)]
    assert order == ["good", "same", "poor", "lost one", "lost"]


def test_neighbours_differ_in_one_setting() -> None:
    start = Candidate("personal", "here", {"epochs": 1, "batch_size": 4, "rank": 8, "learning_rate": 1e-3}, 5)
    near = list(neighbours(start))
    changes = [
        {k: v for k, v in (one.changes or {}).items() if v != (start.changes or {})[k]} for one in near
    ]
    assert changes == [{"epochs": 2}, {"batch_size": 8}, {"batch_size": 2}, {"rank": 16}, {"rank": 4}]
    assert [one.title for one in near][:2] == ["here, epochs 2", "here, batches of 8"]
    assert len({one.label for one in (start, *near)}) == 6
    assert np.unique([one.users for one in near]).tolist() == [5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[personal]\nlearning_rat = 1e-3\n", "learning_rat"),
        ("[personal]\nepochs = 'many'\n", "many"),
        ("[other]\nepochs = 1\n", "it has other"),
        ("personal = 3\n", "it has personal"),
        ("", "it has nothing"),
        ("[personal\n", "cannot be read as TOML"),
    ],
)
def test_a_broken_preset_file_is_named(text: str, message: str, movies: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "preset.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        resolve_config(RunOptions(data=[movies.path], preset=str(path)))
    assert str(path) in str(error.value)


def test_a_preset_file_gives_way_to_set_and_speaks_of_loras_alone(movies: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "preset.toml"
    settings = {
        "task_lora": {"epochs": 7},
        "personal": {"targets": ("q_proj", "down_proj"), "learning_rate": 2e-3, "rank": 4},
    }
    path.write_text(preset_text(settings, "two lines\nof comment"))
    assert path.read_text().startswith("# two lines\n# of comment\n")
    options = RunOptions(data=[movies.path], preset=str(path), settings=["personal.rank=2"])
    config = resolve_config(options)
    own = config.personal["lamp_2m"]
    assert (own.targets, own.learning_rate, own.rank) == (("q_proj", "down_proj"), 2e-3, 2)
    assert config.task_lora["lamp_2m"].epochs == 7
    plain = resolve_config(RunOptions(data=[movies.path], peft="ia3"))
    other = resolve_config(RunOptions(data=[movies.path], preset=str(path), peft="ia3"))
    assert other.personal == plain.personal and other.task_lora["lamp_2m"].epochs == 7
    with pytest.raises(ConfigError, match="no preset 'larg': choose auto"):
        read_preset("larg")


def test_rates_that_are_no_rates_are_refused(oppu: Oppu, movies: Dataset, tmp_path: Path) -> None:
    for rates in ("fast", "0", "-1", "nan", ""):
        result = oppu("study", "recipe", "--data", movies.path, "--out", tmp_path / "s", "--rates", rates)
        assert result.returncode == 2 and "rates" in result.stderr and "Traceback" not in result.stderr
