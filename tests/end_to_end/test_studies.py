"""`oppu study`: every study through the real command line, on datasets, on a run and on the sample world."""

import csv
import dataclasses
import json
import re
import signal
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from oppu_core.data.dataset import Dataset
from oppu_core.data.dataset_writer import write_dataset
from oppu_core.modeling import base_files
from oppu_core.modeling.base_files import TINY_FOLDER
from oppu_core.storage.store import Store
from oppu_eval.reporting.study_views import STUDIES
from oppu_eval.studies import context, cost, estimate
from small_world import QUICK, sample_dataset

Oppu = Callable[..., CompletedProcess[str]]
FOUR = "non_personalized,rag_k1,oppu_k0,oppu_rag_k1"
BOTH = ("k", "format")  # on two tasks; the others on one, to be quick
OWN = {"cost": ["--repeats", "1"]}
KINDS = {"k": 8, "main": 13, "shift": 13, "format": 10, "peft": 4, "similarity": 4}  # rows a task shows

# Kills the process when the second user's weights are written, those of the task base before them.
KILL = """
import os, signal
import safetensors.torch
save, calls = safetensors.torch.save_file, []
def save_and_die(*args, **kwargs):
    save(*args, **kwargs)
    calls.append(args)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
safetensors.torch.save_file = save_and_die
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tests of this file work: with one store, that little is trained."""
    return tmp_path_factory.mktemp("studies")


@pytest.fixture(autouse=True)
def short_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expected times come from shorter trials than usual."""
    for name in ("STEPS", "QUERIES"):
        monkeypatch.setattr(estimate, f"_TRIAL_{name}", 2)


@pytest.fixture
def four(oppu: Oppu, place: Path, movies: Dataset, headlines: Dataset) -> Path:
    """A run of the paper's four methods; made once."""
    run = place / "runs" / "four"
    data = ["--data", movies.path, "--data", headlines.path]
    done = oppu("run", "--run", run, *data, "--methods", FOUR, "--store", place / "store", *QUICK)
    assert done.returncode == 0, done.stderr
    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def trained(store: Path) -> set[str]:
    opened = Store(store)
    folders = {entry.folder for entry in opened.entries()}
    opened.close()
    return folders


def read(folder: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """A study's values, and the rows of its CSV file."""
    with (folder / "table.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return json.loads((folder / "study.json").read_text(encoding="utf-8")), rows


def refuse_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever trains or answers is an error from now on."""

    def no_work(*_: object, **__: object) -> None:
        raise AssertionError("trained or answered again")

    for name in ("training.cohort.Cohort.train", "training.loop.train", "runs.answering.generate_answers"):
        monkeypatch.setattr(f"oppu_core.{name}", no_work)


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_writes_what_it_found_and_the_same_command_finds_the_same(
    oppu: Oppu, place: Path, movies: Dataset, headlines: Dataset, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(cost, "SIZES", [2, 4])
    datasets = [movies, headlines] if name in BOTH else [movies]
    out = place / "runs" / f"studies-{len(datasets)}"
    if name == "cases":  # the shallow base tells nobody apart
        monkeypatch.setattr(base_files, "TINY_FOLDER", TINY_FOLDER)
        out = place / "runs" / "studies-whole"
    data = [part for dataset in datasets for part in ("--data", dataset.path)]
    command = ["study", name, *OWN.get(name, []), *data, "--out", out, "--store", place / "store", *QUICK]
    result = oppu(*command)
    assert result.returncode == 0, result.stderr
    assert re.search(r"Expected time: about \d+ (s|min|h) |Everything is there", result.stderr)

    values, rows = read(out / name)
    assert values["study"] == name and values["provenance"]["seed"] == 0
    shown = [row for row in values["table"]["rows"] if row["shown"]]
    for dataset in datasets:
        of_task = [row for row in shown if row["task"] == dataset.task.name]
        assert len(of_task) == KINDS.get(name, len(of_task)) > 0
    assert len(rows) == len(values["table"]["rows"])
    assert {(row["task"], row["seed"]) for row in rows} == {(row["task"], "0") for row in shown}
    assert values["title"] in result.stdout and values["provenance"]["settings"] in result.stdout
    words = " ".join(result.stdout.split())
    assert values["findings"] and all(" ".join(text.split()) in words for text in values["findings"])
    assert len(values["pictures"]) > 0
    for picture in values["pictures"]:
        root = ET.fromstring((out / name / f"{picture['name']}.svg").read_bytes())
        assert root.get("aria-label") == picture["label"]
        assert (out / name / f"{picture['name']}.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert f'id="study-{name}"' in (out / "report.html").read_text(encoding="utf-8")
    assert all(str(out / name / file) in result.stdout for file in ("table.csv", "study.json"))

    before, weights = contents(out / name), trained(place / "store")
    refuse_work(monkeypatch)
    again = oppu(*command)
    assert again.returncode == 0, again.stderr
    assert "Everything is there" in again.stderr
    assert contents(out / name) == before
    assert trained(place / "store") == weights


def test_a_study_of_the_kinds_of_adapters_has_three_of_them(oppu: Oppu, place: Path, movies: Dataset) -> None:
    out = place / "runs" / "studies-1"
    command = ["study", "peft", "--data", movies.path, "--out", out, "--store", place / "store", *QUICK]
    assert oppu(*command).returncode == 0
    rows = {row["peft"]: row for row in read(out / "peft")[0]["table"]["rows"] if row["shown"]}
    assert list(rows) == ["none", "lora", "ia3", "prompt_tuning"]
    weights = {run.name.split("-")[0] for run in (out / "runs").iterdir()}
    assert {"lora", "ia3", "prompt_tuning"} <= weights
    assert rows["lora"]["bytes"] > rows["ia3"]["bytes"] > 0 and rows["lora"]["share"] > rows["ia3"]["share"]
    assert all(rows[peft]["seconds"] > 0 for peft in ("lora", "ia3", "prompt_tuning"))


def test_without_data_a_study_stands_on_the_sample_world(
    oppu: Oppu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {"OTHERS": 6, "HISTORY": (6, 9), "QUERIES": 2}.items():
        monkeypatch.setattr(context, f"SAMPLE_{name}", value)
    command = ["study", "similarity", "--users", 6, "--task", "lamp_2m", *QUICK]
    result = oppu(*command)
    assert result.returncode == 0, result.stderr
    values, rows = read(tmp_path / "runs" / "studies" / "similarity")
    assert {row["task"] for row in rows} == {"lamp_2m"} and {row["users"] for row in rows} == {"6"}
    planted = [row["planted"] for row in values["table"]["rows"]]
    assert len([r for r in planted if r is not None]) >= 2, "what was planted is known"
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["store", "studies"]
    other = oppu(*command, "--plant", "shift=0.5", "--seed", "1")
    assert other.returncode == 0, other.stderr
    assert (tmp_path / "runs" / "studies-planted" / "similarity" / "table.csv").is_file()


def test_the_numbers_are_those_of_a_run(
    oppu: Oppu, place: Path, movies: Dataset, headlines: Dataset, four: Path
) -> None:
    out = place / "runs" / "studies-2"
    data = ["--data", movies.path, "--data", headlines.path]
    done = oppu("study", "k", *data, "--out", out, "--store", place / "store", *QUICK)
    assert done.returncode == 0, done.stderr
    rows = {(r["task"], r["method"], r["metric"]): r for r in read(out / "k")[0]["table"]["rows"]}
    results = json.loads((four / "results.json").read_text())["rows"]
    expected = [row for row in results if row["method"] in FOUR.split(",")]
    assert len(expected) == 2 * 2 * 4
    for one in expected:
        row = rows[one["task"], one["method"], one["metric"]]
        theirs = [one[name] for name in ("value", "ci95", "users", "queries")]
        assert [row[name] for name in ("value", "ci95", "users", "queries")] == theirs
        theirs = [
            one[name] for name in ("delta_same_prompt", "delta_same_prompt_ci95", "p_value_same_prompt")
        ]
        assert [row[name] for name in ("adapter", "adapter_ci95", "adapter_p")] == theirs
    assert any(row["adapter"] for row in rows.values()), "some adapter makes a difference"


STUDIES_OF_A_RUN = {
    "k": ["--k", "0,1"],
    "activity": ["--groups", "2"],
    "similarity": ["--method", "oppu_rag_k1"],
    "cases": ["--cases", "2"],
}


def test_answers_are_taken_over_from_a_run_with_the_same_settings(
    oppu: Oppu, place: Path, movies: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ["--data", movies.path, "--out", tmp_path / "studies", "--store", place / "store", *QUICK]
    assert oppu("study", "k", "--k", "0,1", *context).returncode == 0
    refuse_work(monkeypatch)
    result = oppu("study", "cases", *context)
    assert result.returncode == 0, result.stderr
    assert "Everything is there" in result.stderr
    runs = sorted((tmp_path / "studies" / "runs").iterdir())
    assert [path.name.rpartition("-")[0] for path in runs] == ["four", "k"]
    four, k = ({file.name: file.read_bytes() for file in path.glob("*/predictions/*")} for path in runs)
    assert four == k and len(four) == 4
    result = oppu("study", "cases", *context, "--seed", "1")  # another seed is another run
    assert result.returncode != 0 and "trained or answered again" in result.stderr


def test_a_study_of_a_run_takes_its_weights_and_joins_its_report(
    oppu: Oppu, place: Path, four: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = trained(place / "store")
    for name, options in STUDIES_OF_A_RUN.items():
        result = oppu("study", name, "--run", four, *options)
        assert result.returncode == 0, result.stderr
        assert (four / "studies" / name / "table.csv").is_file()
        assert f'id="study-{name}"' in (four / "report.html").read_text(encoding="utf-8")
    assert trained(place / "store") == weights
    assert oppu("report", "--run", four).returncode == 0
    report = (four / "report.html").read_text(encoding="utf-8")
    for name in STUDIES:
        assert (f'id="study-{name}"' in report) == (name in STUDIES_OF_A_RUN)
    links = re.findall(r'href="(studies/[^"]+)"', report)
    assert "studies/cases/cases.html" in links and all((four / link).is_file() for link in links)

    some = oppu("study", "cases", "--run", four, "--users", "2")
    assert some.returncode == 0, some.stderr
    assert {row["config"]["users"] for row in _runs(four / "studies" / "cases")} == {2}
    assert trained(place / "store") == weights


def _runs(folder: Path) -> list[dict[str, Any]]:
    return list(read(folder)[0]["provenance"]["runs"].values())


SETTINGS_OF_A_RUN = {
    "--model": "other",
    "--seed": "1",
    "--data": "data",
    "--task": "lamp_4",
    "--plant": "shift=0.5",
    "--store": "store",
    "--preset": "small",
    "--set": "personal.epochs=2",
    "--dtype": "bfloat16",
    "--quantize": "nf4",
    "--profiles": "profiles.jsonl",
    "--constrain": None,
}


def test_settings_of_a_run_are_refused_by_name(oppu: Oppu, four: Path) -> None:
    before = contents(four)
    for option, value in SETTINGS_OF_A_RUN.items():
        result = oppu("study", "k", "--run", four, option, *([value] if value else []))
        assert result.returncode == 2
        assert f"error: {option} is a setting of the run" in result.stderr
    assert contents(four) == before


def test_an_interrupted_study_ends_as_an_undisturbed_one(
    oppu: Oppu, oppu_process: Oppu, place: Path, movies: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def command(folder: Path) -> list[str | Path]:
        return ["study", "k", "--k", "0,1", "--data", movies.path, "--out", folder / "studies", *QUICK]

    undisturbed, disturbed = place / "undisturbed", place / "disturbed"
    done = oppu(*command(undisturbed))
    assert done.returncode == 0, done.stderr
    killed = oppu_process(*command(disturbed), code=KILL)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    known = trained(disturbed / "store")
    assert len(known) == 2, "the task base and one user"
    put = Store.put

    def put_and_stop(store: Store, key: Any, *rest: Any) -> None:
        put(store, key, *rest)
        if key.kind == "adapter":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Store, "put", put_and_stop)
        stopped = oppu(*command(disturbed))
    assert stopped.returncode == 130 and "same command again" in stopped.stderr
    assert not (disturbed / "studies" / "k").exists()
    assert len(trained(disturbed / "store")) == 3
    done = oppu(*command(disturbed))
    assert done.returncode == 0, done.stderr
    assert contents(disturbed / "studies" / "k") == contents(undisturbed / "studies" / "k")


LACKING = ("shift", "format", "activity", "similarity", "cases")


def test_who_cannot_be_trained_stops_no_study(
    oppu: Oppu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of five users one has no history, and the training of one fails."""
    whole = sample_dataset(tmp_path / "whole", users=5)
    empty, failing, *good = whole.users("test")
    queries = tuple(dataclasses.replace(query, history_len=0) for query in empty.queries)
    empty = dataclasses.replace(empty, history=(), queries=queries)
    users = [*whole.users("others"), empty, failing, *good]
    data = write_dataset(tmp_path / "data", whole.task, users, {"kind": "test"})
    put = Store.put

    def put_unless_failing(store: Store, key: Any, *rest: Any) -> None:
        if key.user_id == failing.user_id:
            store.put_failure(key, "the loss became nan at step 1")
        else:
            put(store, key, *rest)

    monkeypatch.setattr(Store, "put", put_unless_failing)
    tables = {}
    for name in LACKING:
        out = tmp_path / "runs" / "studies"
        if name == "cases":
            monkeypatch.setattr(base_files, "TINY_FOLDER", TINY_FOLDER)
            out = tmp_path / "runs" / "studies-whole"
        result = oppu("study", name, "--data", data.path, "--out", out, *QUICK)
        assert result.returncode == 0, f"{name}: {result.stderr}"
        tables[name] = [row for row in read(out / name)[0]["table"]["rows"] if row["shown"]]
    for name in ("shift", "format"):
        users_of = {(row["setting"], row["method"]): row["users"] for row in tables[name]}
        # The query alone stands in one setting: it reads no history.
        assert len(users_of) == (3 * 4 + 1 if name == "shift" else 3 * 3 + 1)
        assert all(
            users == (3 if method.startswith("oppu") else 5) for (_, method), users in users_of.items()
        )
    counts = dict.fromkeys(FOUR.split(","), 0)
    for row in tables["activity"]:
        counts[row["method"]] += row["users"]
    assert counts == {"non_personalized": 4, "rag_k1": 4, "oppu_k0": 3, "oppu_rag_k1": 3}
    assert {row["users"] for row in tables["similarity"]} == {3}
    assert len(tables["cases"]) > 0


WRONG = {
    "a task of the sample world with own data": (
        ["k", "--data", "DATA", "--task", "lamp_4"], 2, "--task and --plant are about the sample world"
    ),
    "a plant that is none": (["k", "--plant", "nonsense"], 2, "--plant 'nonsense'.*irrelevant=0.5"),
    "a share above one": (["k", "--plant", "irrelevant=2"], 2, "irrelevant.*2"),
    "a share that is no number": (["k", "--plant", "shift=x"], 2, "--plant 'shift=x'"),
    "a task that the sample world lacks": (["k", "--task", "lamp_9"], 2, "lamp_9"),
    "a range upside down": (["activity", "--data", "DATA", "--ranges", "5-1"], 2, "--ranges '5-1'.*ascend"),
    "a range that is none": (["activity", "--data", "DATA", "--ranges", "many"], 2, "--ranges 'many'.*1-10"),
    "a range of nobody": (["activity", "--data", "DATA", "--ranges", "500-600"], 1, "500"),
    "one k alone": (["k", "--data", "DATA", "--k", "4"], 2, "--k 4: give two or more numbers"),
    "a k that is none": (["k", "--data", "DATA", "--k", "x"], 2, "--k 'x'.*0,1,2,4"),
    "descending k": (["k", "--data", "DATA", "--k", "1,0"], 2, "--k 1,0: .*ascending"),
    "nothing kept": (["shift", "--data", "DATA", "--share", "0"], 2, "--share 0.0: .*above 0"),
    "everything kept": (["shift", "--data", "DATA", "--share", "1"], 2, "--share 1.0: .*below 1"),
    "an encoder that is not there": (["shift", "--data", "DATA", "--encoder", "gone"], 1, "encoder 'gone'"),
    "a task without sides": (["format", "--task", "lamp_1", "--users", "2"], 2, "lamp_1.*no output_field"),
    "a method without adapters": (
        ["similarity", "--data", "DATA", "--method", "rag_k1"], 2, "--method rag_k1 has no adapter"
    ),
    "a method that is none": (["similarity", "--data", "DATA", "--method", "best"], 2, "best"),
    "a run that is none": (["k", "--run", "gone"], 2, "gone is no run"),
    "data that are none": (["k", "--data", "gone"], 1, "gone"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_in_a_line(
    oppu: Oppu, movies: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {"OTHERS": 3, "HISTORY": (6, 9), "QUERIES": 2}.items():
        monkeypatch.setattr(context, f"SAMPLE_{name}", value)
    refuse_work(monkeypatch)
    arguments, code, message = WRONG[case]
    result = oppu("study", *(str(movies.path) if part == "DATA" else part for part in arguments), *QUICK)
    assert result.returncode == code, result.stderr
    lines = result.stderr.strip().splitlines()
    assert [line for line in lines if line.startswith("error:")] == lines[-1:], result.stderr
    assert re.search(message, lines[-1])
    assert "Traceback" not in result.stderr and not list(tmp_path.rglob("table.csv"))


@pytest.mark.parametrize("own_data", [True, False])
def test_a_folder_of_something_else_is_left_alone(
    oppu: Oppu, movies: Dataset, tmp_path: Path, own_data: bool
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "report.html").write_text("mine")
    data = ["--data", movies.path] if own_data else ["--users", "2"]
    result = oppu("study", "k", *data, "--out", tmp_path / "photos", *QUICK)
    assert result.returncode == 2 and "photos exists and is no folder of studies" in result.stderr
    assert "Traceback" not in result.stderr
    assert contents(tmp_path) == {"photos/report.html": b"mine"}


def test_help_names_every_study_and_says_what_it_is(oppu: Oppu) -> None:
    overview = " ".join(oppu("study", "--help").stdout.split())
    for name in STUDIES:
        result = oppu("study", name, "--help")
        assert result.returncode == 0
        text = result.stdout
        assert all(option in text for option in ("--run", "--data", "--model", "--users", "--plant"))
        # The first words say which table or figure; the overview has the same sentence.
        about = re.search(r"((?:Table|Figure) \d[^:]*: .{20})", " ".join(text.split()))
        assert about, text
        assert re.search(rf"\b{name}\s+{re.escape(about[1][:20])}", overview), name
