"""The command line teaches, and says what is wrong in one message."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from oppu_core.data.dataset import Dataset
from small_world import QUICK


def commands(app: typer.Typer) -> list[tuple[str, object]]:
    """Every command as typer knows it."""
    from typer.main import get_command

    def walk(command, name: str):
        children = getattr(command, "commands", None)
        if not children:
            yield name, command
            return
        for child_name, child in children.items():
            yield from walk(child, f"{name} {child_name}")

    return list(walk(get_command(app), "oppu"))


def test_every_command_has_help_with_an_example() -> None:
    from oppu_core.cli import main as cli

    cli.register_plugins()
    found = commands(cli.app)
    assert {name for name, _ in found} >= {
        "oppu quickstart",
        "oppu run",
        "oppu data import",
        "oppu data sample",
        "oppu base train",
        "oppu personal train",
        "oppu answer",
        "oppu evaluate",
        "oppu report",
        "oppu ask",
    }
    for name, command in found:
        assert command.help and len(command.help) > 30, name
        assert command.epilog and name in command.epilog, f"{name} shows no example of itself"
        for parameter in command.params:
            assert getattr(parameter, "help", None) or parameter.name == "help", f"{name}: {parameter.name}"


def test_help_imports_neither_torch_nor_other_heavy_packages() -> None:
    script = (
        "import sys; sys.argv = ['oppu', '--help']\nfrom oppu_core.cli.main import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'peft', 'pyarrow', 'matplotlib', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "quickstart" in done.stdout


BAD = {
    "unknown method": (["run", "--methods", "oppu_k7"], "There is no method 'oppu_k7'"),
    "missing dataset": (["run", "--data", "nowhere"], "nowhere"),
    "two datasets of a task": (["run", "--data", "{movies}"], "one dataset of each task"),
    "missing model": (["run", "--model", "./no-model"], "no-model"),
    "a file as model": (["run", "--model", "{movies}/dataset.json"], "is no folder"),
    "unknown setting": (["run", "--set", "personal.rnak=3"], "--set"),
    "setting of the wrong type": (["run", "--set", "personal.epochs=many"], "many"),
    "stop loss that is no number": (["run", "--set", "personal.stop_loss=nan"], "personal.stop_loss is nan"),
    "setting that cannot train": (["run", "--set", "personal.epochs=0"], "personal.epochs is 0"),
    "projection that the base lacks": (["run", "--set", "personal.targets=c_attn"], "c_attn"),
    "no users": (["run", "--users", "0"], "--users 0"),
    "absent GPU": (["run", "--device", "cuda:99"], "cuda:99"),
    "nonsense device": (["run", "--device", "abacus"], "abacus"),
    "not a run": (["answer"], "is no run"),
    "no run to evaluate": (["evaluate"], "is no run"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_message_and_no_traceback(
    oppu, movies: Dataset, tmp_path: Path, case: str
) -> None:
    arguments, expected = BAD[case]
    arguments = [argument.format(movies=movies.path) for argument in arguments]
    command, *options = arguments
    needed = ["--run", str(tmp_path / "run")]
    if command == "run":
        needed += [*QUICK, "--data", str(movies.path)] if case != "missing dataset" else []
    result = oppu(command, *needed, *options)
    assert result.returncode in (1, 2), result.stdout
    assert expected in result.stderr.replace("\n", " ")
    assert "Traceback" not in result.stderr
    assert result.stderr.count("error:") == 1


def test_answering_without_adapters_names_the_users_and_the_command(
    oppu, movies: Dataset, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    methods = ["--methods", "non_personalized,oppu_k0"]
    assert oppu("base", "train", "--run", run, "--data", movies.path, *methods, *QUICK).returncode == 0
    result = oppu("answer", "--run", run)
    assert result.returncode == 1
    assert "'test-000'" in result.stderr
    assert "oppu personal train" in result.stderr


def test_the_steps_one_by_one_are_the_run(oppu, movies: Dataset, headlines: Dataset, tmp_path: Path) -> None:
    """`base train`, `personal train`, `answer`, `evaluate`, `report` end with what `run` ends with."""
    options = ["--data", movies.path, "--data", headlines.path, *QUICK]
    options += ["--methods", "non_personalized,oppu_k0", "--users", "2"]
    whole, steps = tmp_path / "whole" / "run", tmp_path / "steps" / "run"
    assert oppu("run", "--run", whole, *options).returncode == 0
    assert oppu("base", "train", "--run", steps, *options).returncode == 0
    for command in (["personal", "train"], ["answer"], ["evaluate"], ["report"]):
        result = oppu(*command, "--run", steps)
        assert result.returncode == 0, result.stderr
    assert (whole / "results.json").read_bytes() == (steps / "results.json").read_bytes()
    rows = json.loads((whole / "results.json").read_text())["rows"]
    found = {(row["task"], row["method"]) for row in rows}
    simple = {"global_majority", "user_majority", "user_classifier", "copy_label", "oracle"}
    both = simple | {"non_personalized", "oppu_k0"}
    assert {method for task, method in found if task == "lamp_2m"} == both
    assert {method for task, method in found if task == "lamp_4"} == {
        "copy_input",
        "copy_retrieved",
        "oracle",
        "non_personalized",
        "oppu_k0",
    }
    assert {row["users"] for row in rows} == {2}
    assert (steps / "report.html").read_text().startswith("<!doctype html>")
    events = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    assert sum(event["event"] == "user" for event in events) == 4

    question = [
        "--run",
        whole,
        "--user",
        "test-001",
        "A dragon sleeps under the castle. The jokes never stop.",
    ]
    asked = oppu("ask", "--task", "lamp_2m", *question)
    assert asked.returncode == 0, asked.stderr
    assert "oppu_k0" in asked.stdout and "non_personalized" in asked.stdout
    first = "".join(oppu("ask", *question).stdout.split())
    assert "lamp_2m,user'test-001'" in first and "oppu_k0" in first, "the first task, which is said"
    unknown = oppu("ask", "--task", "lamp_2m", "--run", whole, "--user", "test-00l", "A text.")
    assert unknown.returncode == 1 and "test-00" in unknown.stderr
    empty = oppu("ask", "--task", "lamp_2m", "--run", whole, "--user", "test-001", "  ")
    assert empty.returncode == 2 and "empty" in empty.stderr


def test_a_second_process_on_the_same_run_waits_its_turn(oppu, movies: Dataset, tmp_path: Path) -> None:
    from oppu_core.runs.run import open_run

    run = tmp_path / "run"
    options = ["--data", movies.path, "--methods", "non_personalized", *QUICK]
    assert oppu("base", "train", "--run", run, *options).returncode == 0
    with open_run(run).lock():
        result = oppu("answer", "--run", run)
    assert result.returncode == 2 and "Another process" in result.stderr
    assert oppu("answer", "--run", run).returncode == 0


def test_answers_can_be_sampled_as_in_the_paper(oppu, movies: Dataset, tmp_path: Path) -> None:
    options = ["--data", movies.path, "--methods", "non_personalized", "--sample", *QUICK]
    files = []
    for name, size in (("a", "1"), ("b", "8")):
        run = tmp_path / name / "run"
        assert oppu("run", "--run", run, "--batch-size", size, *options).returncode == 0
        files.append((run / "lamp_2m" / "predictions" / "non_personalized.jsonl").read_bytes())
    assert files[0] == files[1]


def test_a_user_that_cannot_be_trained_is_set_aside_and_shown(oppu, movies: Dataset, tmp_path: Path) -> None:
    """One of two users has no history: the other's comparison stands, and the report says who is missing."""
    from oppu_core.data.dataset_writer import write_dataset

    others = list(movies.users("others"))
    good, bad = list(movies.users("test"))[:2]
    queries = tuple(dataclasses.replace(query, history_len=0) for query in bad.queries)
    bad = dataclasses.replace(bad, user_id="[/red] <b>nobody</b>", history=(), queries=queries)
    data = write_dataset(tmp_path / "data", movies.task, [*others, bad, good], {"kind": "test"})
    options = ["--data", data.path, "--methods", "non_personalized,oppu_k0", *QUICK]
    result = oppu("run", "--run", tmp_path / "run", *options)
    assert result.returncode == 0, result.stderr
    assert "nobody" in result.stderr and "set aside" in result.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["set_aside"]["lamp_2m"] == {"oppu_k0": [bad.user_id]}
    users = {row["method"]: row["users"] for row in results["rows"]}
    assert users["oppu_k0"] == 1 and users["non_personalized"] == 2
    report = (tmp_path / "run" / "report.html").read_text()
    assert "nobody" in report and "<b>nobody" not in report

    nobody = write_dataset(tmp_path / "nobody", movies.task, [*others, bad], {"kind": "test"})
    result = oppu("run", "--run", tmp_path / "run2", "--data", nobody.path, *options[2:])
    assert result.returncode == 0, result.stderr
    results = json.loads((tmp_path / "run2" / "results.json").read_text())
    assert results["set_aside"]["lamp_2m"] == {"oppu_k0": [bad.user_id]}
    assert "oppu_k0" not in {row["method"] for row in results["rows"]}


def test_a_run_remembers_its_store(oppu, movies: Dataset, tmp_path: Path) -> None:
    options = ["--data", movies.path, "--methods", "non_personalized,oppu_k0", "--users", "1", *QUICK]
    store = tmp_path / "elsewhere"
    assert oppu("base", "train", "--run", tmp_path / "run", "--store", store, *options).returncode == 0
    assert oppu("personal", "train", "--run", tmp_path / "run").returncode == 0
    assert len(list(store.rglob("adapter_model.safetensors"))) == 2
    assert not (tmp_path / "store").exists()
