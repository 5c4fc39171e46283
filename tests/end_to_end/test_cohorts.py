"""Users trained together, through the real command line: plans, kills, labels, and bases that cannot."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch
from oppu_core.data.dataset import Dataset
from oppu_core.data.dataset_writer import write_dataset
from oppu_core.modeling.base_files import TINY_FOLDER
from oppu_core.modeling.trial import Trial
from oppu_core.storage.store import Store
from oppu_core.tasks.task_files import get_task
from oppu_core.training.cohort import Cohort
from small_world import QUICK, ROUNDING, adapters, contents, distance, sample_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, BloomConfig, RwkvConfig

Oppu = Callable[..., CompletedProcess[str]]
PERSONAL = ["--methods", "oppu_k0", *QUICK]


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return sample_dataset(tmp_path_factory.mktemp("five") / "movies", users=5)


def plan(run: Path) -> list[list[str]]:
    """A run's cohorts by user id."""
    cohorts: dict[int, list[str]] = {}
    for line in (run / "lamp_2m" / "cohorts.jsonl").read_text().splitlines():
        row = json.loads(line)
        cohorts.setdefault(row["cohort"], []).append(row["user_id"])
    return list(cohorts.values())


def interrupt_after(monkeypatch: pytest.MonkeyPatch, stored: int) -> None:
    """A person presses Ctrl-C when so much more is in the store."""
    put, calls = Store.put, [0]

    def interrupted(self: Store, *arguments: Any) -> None:
        put(self, *arguments)
        calls[0] += 1
        if calls[0] == stored:
            raise KeyboardInterrupt

    monkeypatch.setattr(Store, "put", interrupted)


def trained(oppu: Oppu, place: Path, data: Dataset, *options: object) -> CompletedProcess[str]:
    return oppu("run", "--run", place / "run", "--data", data.path, *PERSONAL, *options)


def test_interrupted_in_the_middle_of_cohorts_a_run_ends_with_the_same_bytes(
    oppu: Oppu, five: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trained(oppu, tmp_path / "undisturbed", five, "--cohort", "3").returncode == 0
    assert [len(cohort) for cohort in plan(tmp_path / "undisturbed" / "run")] == [3, 2]
    place = tmp_path / "interrupted"
    options = ["--cohort", "3"]
    # The task LoRA and one adapter; one more; the third of the cohort and the first of the next.
    for more, stored in ((2, 1), (1, 2), (2, 4)):
        with monkeypatch.context() as patch:
            interrupt_after(patch, more)
            assert trained(oppu, place, five, *options).returncode == 130
        assert len(adapters(place / "store")) == stored
        options = []  # the plan is followed without a word about it
    assert trained(oppu, place, five).returncode == 0
    expected, found = contents(tmp_path / "undisturbed" / "run"), contents(place / "run")
    assert found.keys() == expected.keys()
    different = [name for name in expected if expected[name] != found[name]]
    assert [name for name in different if not name.endswith("report.html")] == []


def test_however_many_at_once_adapters_and_answers_are_the_same(
    oppu: Oppu, five: Dataset, tmp_path: Path
) -> None:
    found, answers, scores = {}, [], []
    for size, sizes in {"1": [1] * 5, "3": [3, 2], "auto": None}.items():
        place = tmp_path / size
        result = trained(oppu, place, five, "--cohort", size)
        assert result.returncode == 0, result.stderr
        assert sizes in (None, [len(cohort) for cohort in plan(place / "run")])
        found[size] = adapters(place / "store")
        answers.append((place / "run" / "lamp_2m" / "predictions" / "oppu_k0.jsonl").read_bytes())
        scores.append((place / "run" / "results.json").read_bytes())
    assert len(set(answers)) == len(set(scores)) == 1
    assert found["1"].keys() == found["3"].keys() == found["auto"].keys() and len(found["1"]) == 5
    away = [distance(found[size][key], alone) for key, alone in found["1"].items() for size in ("3", "auto")]
    assert max(away) < ROUNDING


@pytest.mark.parametrize("size", ["0", "-1", "x", "1.5", "", "²"])
def test_a_size_that_is_none_is_refused(oppu: Oppu, five: Dataset, tmp_path: Path, size: str) -> None:
    result = trained(oppu, tmp_path, five, f"--cohort={size}")
    assert result.returncode == 2
    assert result.stderr.count("error:") == 1 and "Traceback" not in result.stderr
    assert "--cohort" in result.stderr and "write auto, or how many users" in result.stderr
    assert oppu("personal", "train", "--run", tmp_path / "run", f"--cohort={size}").returncode == 2
    assert not (tmp_path / "store" / "adapters").exists()


def test_who_cannot_be_trained_is_tried_again_alone(
    oppu: Oppu, five: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others, (first, bad, *_) = list(five.users("others")), list(five.users("test"))
    queries = tuple(dataclasses.replace(query, history_len=0) for query in bad.queries)
    bad = dataclasses.replace(bad, history=(), queries=queries)
    data = write_dataset(tmp_path / "data", five.task, [*others, first, bad], {"kind": "test"})
    assert trained(oppu, tmp_path, data, "--cohort", "2").returncode == 0
    weights, whole = adapters(tmp_path / "store"), plan(tmp_path / "run")
    assert len(weights) == 1 and whole == [[first.user_id, bad.user_id]]
    train, seen = Cohort.train, []

    def watched(self: Cohort, users: Any, *rest: Any) -> Any:
        seen.append([len(examples) for examples in users])
        return train(self, users, *rest)

    monkeypatch.setattr(Cohort, "train", watched)
    result = trained(oppu, tmp_path, data)
    assert result.returncode == 0 and "set aside" in result.stderr
    assert seen == [[0]], "nobody else is trained for its sake"
    assert (adapters(tmp_path / "store"), plan(tmp_path / "run")) == (weights, whole)


def test_who_is_forgotten_leaves_the_plan_and_the_others_are_trained(
    oppu: Oppu, five: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = sample_dataset(tmp_path / "data", users=5)  # an own copy: it loses a user
    place = tmp_path / "runs"
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        assert trained(oppu, place, data, "--cohort", "3").returncode == 130
    ((gone, _),) = adapters(place / "store")
    whole = plan(place / "run")
    assert gone in whole[0]
    assert oppu("forget", gone, "--runs", place, "--yes").returncode == 0
    left = [[user for user in cohort if user != gone] for cohort in whole]
    assert plan(place / "run") == left
    result = trained(oppu, place, data)
    assert result.returncode == 0, result.stderr
    assert plan(place / "run") == left
    entries = [entry for entry in Store(place / "store").entries() if entry.user_id]
    assert {entry.user_id: entry.facts["cohort"] for entry in entries} == {
        user: len(cohort) for cohort in left for user in cohort
    }


def test_an_own_history_has_a_place_in_the_plan(
    oppu: Oppu, movies: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new history of `oppu personalize` replaces the old, also when it is interrupted."""
    users = list(movies.users("test"))
    files = []
    for number, user in enumerate(users[:2]):
        files.append(tmp_path / f"{number}.jsonl")
        files[-1].write_text("".join(json.dumps(dict(item.fields)) + "\n" for item in user.history))
    undisturbed, place = tmp_path / "undisturbed", tmp_path / "interrupted"
    methods = [*PERSONAL, "--users", "2"]
    for folder in (undisturbed, place):
        command = ["run", "--run", folder / "run", "--data", movies.path, *methods]
        assert oppu(*command, "--cohort", "2").returncode == 0
    before = adapters(place / "store")
    assert oppu("personalize", "--history", files[1], "--run", undisturbed / "run").returncode == 0
    command = ["personalize", "--history", files[0], "--run", place / "run"]
    assert oppu(*command).returncode == 0
    old = adapters(place / "store").keys() - before.keys()
    command[2] = files[1]
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1)
        assert oppu(*command).returncode == 130
    assert old < adapters(place / "store").keys()
    assert oppu(*command).returncode == 0
    after = adapters(place / "store")
    assert after == adapters(undisturbed / "store")
    assert before.items() <= after.items() and len(after) == len(before) + 1
    assert not old & after.keys()
    lines = (place / "run" / "lamp_2m" / "cohorts.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    own = [row for row in rows if row["user_id"] == "me"]
    assert [row["cohort"] for row in rows if row["user_id"] != "me"] == [0, 0]
    assert 0 not in [row["cohort"] for row in own]
    assert own[-1]["folder"] in {folder for _, folder in after}
    assert oppu("forget", "me", "--runs", place, "--yes").returncode == 0
    assert adapters(place / "store") == before
    kept = (place / "run" / "lamp_2m" / "cohorts.jsonl").read_text().splitlines()
    assert kept == [line for line, row in zip(lines, rows, strict=True) if row["user_id"] != "me"]
    assert len(kept) == 2


def test_labels_alone_where_a_task_has_them(
    oppu: Oppu, movies: Dataset, headlines: Dataset, tmp_path: Path
) -> None:
    def answers(run: Path, task: str) -> dict[str, list[str]]:
        files = sorted((run / task / "predictions").glob("*.jsonl"))
        return {
            file.stem: [json.loads(line)["answer"] for line in file.read_text().splitlines()]
            for file in files
        }

    free, kept = tmp_path / "free", tmp_path / "kept"
    options = ["--data", movies.path, "--data", headlines.path, "--users", "2", *QUICK]
    # A rate at which an adapter forgets what labels are.
    options += ["--methods", "non_personalized,oppu_k0", "--set", "personal.learning_rate=2"]
    assert oppu("run", "--run", free, *options).returncode == 0
    result = oppu("run", "--run", kept, *options, "--constrain")
    assert result.returncode == 0, result.stderr
    labels = set(get_task("lamp_2m").labels)
    assert {text for texts in answers(kept, "lamp_2m").values() for text in texts} <= labels
    assert not set(answers(free, "lamp_2m")["oppu_k0"]) <= labels
    assert answers(kept, "lamp_4") == answers(free, "lamp_4")
    assert len(answers(kept, "lamp_4")) == 2
    assert len(adapters(tmp_path / "store")) == 2 * 2, "adapters do not depend on it"

    asked = oppu("ask", "--run", kept, "--task", "lamp_2m", "--user", "test-000", "A ship is lost.")
    assert asked.returncode == 0, asked.stderr
    rows = [line.split("│")[2].strip() for line in asked.stdout.splitlines() if line.startswith("│")]
    assert len(rows) == 2 and set(rows) <= labels
    for run, given, was in ((free, ["--constrain"], False), (kept, [], True)):
        refused = oppu("run", "--run", run, *options, *given)
        assert refused.returncode == 2
        assert f"constrain: {was} then, {not was} now" in refused.stderr
    both = oppu("run", "--run", tmp_path / "both", *options, "--constrain", "--sample")
    assert both.returncode == 2 and "leave --sample out" in both.stderr
    assert not (tmp_path / "both").exists()


# --- bases that cannot read packed rows ------------------------------------------------------------------


def test_a_base_of_a_family_that_cannot_be_packed_is_trained_and_answers(
    oppu: Oppu, movies: Dataset, tmp_path: Path
) -> None:
    """Bloom adds a bias of its own to attention, which is not exchanged."""
    folder = tmp_path / "bloom"
    tokenizer = AutoTokenizer.from_pretrained(TINY_FOLDER)
    tokenizer.save_pretrained(folder)
    config = BloomConfig(hidden_size=32, n_layer=2, n_head=2, vocab_size=len(tokenizer))
    config.bos_token_id, config.eos_token_id = None, tokenizer.eos_token_id
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    run = tmp_path / "run"
    methods = ["--methods", "non_personalized,oppu_k0,rag_k1", "--users", "2"]
    command = ["run", "--run", run, "--data", movies.path, *QUICK, *methods, "--model", folder]
    result = oppu(*command)
    assert result.returncode == 0, result.stderr
    assert " ".join(result.stderr.split()).count("Slower, with padded batches: BloomForCausalLM") == 2
    events = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    padded = [event["variant"] for event in events if event["event"] == "padded"]
    assert padded == ["lamp_2m base", "lamp_2m rag_k1"], "once for each task base"
    assert len(adapters(tmp_path / "store")) == 2
    assert not (run / "lamp_2m" / "cohorts.jsonl").exists()
    rows = {row["method"]: row["users"] for row in json.loads((run / "results.json").read_text())["rows"]}
    assert rows["oppu_k0"] == rows["non_personalized"] == 2
    before = contents(run)
    again = oppu(*command)
    assert again.returncode == 0 and "Slower" not in again.stderr, "nothing is left to do"
    assert contents(run).items() >= {k: v for k, v in before.items() if not k.endswith(".html")}.items()


def test_a_base_that_padding_changes_answers_the_same_at_any_batch_size(
    oppu: Oppu, movies: Dataset, tmp_path: Path
) -> None:
    """RWKV reads padding as words."""
    folder = tmp_path / "rwkv"
    tokenizer = AutoTokenizer.from_pretrained(TINY_FOLDER)
    tokenizer.save_pretrained(folder)
    config = RwkvConfig(hidden_size=32, num_hidden_layers=2, vocab_size=len(tokenizer))
    config.bos_token_id, config.eos_token_id = None, tokenizer.eos_token_id
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # large, so that the words before matter
        for name, weight in model.named_parameters():
            if name.endswith("weight") and weight.dim() == 2:
                weight.normal_(0, 0.3)
    model.save_pretrained(folder)
    answers = []
    methods = ["--methods", "non_personalized,oppu_k0", "--users", "2", "--store", tmp_path / "store"]
    targets = [f"--set={kind}.targets=attention.key,attention.value" for kind in ("personal", "task_lora")]
    for size in ("1", "64"):
        run = tmp_path / size / "run"
        command = ["run", "--run", run, "--data", movies.path, *QUICK, *targets, *methods]
        result = oppu(*command, "--model", folder, "--batch-size", size)
        assert result.returncode == 0, result.stderr
        told = " ".join(result.stderr.split())
        assert "Slower, answered one prompt at a time: RwkvForCausalLM has 2 layers" in told
        assert "RwkvForCausalLM gives other answers in padded batches" in told
        events = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        assert [event["variant"] for event in events if event["event"] == "alone"] == ["lamp_2m base"]
        answers.append(
            {file.name: file.read_bytes() for file in (run / "lamp_2m" / "predictions").glob("*.jsonl")}
        )
    assert answers[0] == answers[1] and len(answers[0]) == 2
    texts = {json.loads(line)["answer"] for file in answers[0].values() for line in file.splitlines()}
    assert len(texts) > 3


def test_padded_batches_give_the_same_answers(
    oppu: Oppu, movies: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = ["--methods", "non_personalized,oppu_k0,rag_k1,oppu_rag_k1", "--users", "2", *QUICK]
    answers, weights = [], []
    for name in ("packed", "padded"):
        run = tmp_path / name / "run"
        result = oppu("run", "--run", run, "--data", movies.path, *methods)
        assert result.returncode == 0, result.stderr
        assert ("Slower" in result.stderr) == (name == "padded")
        files = [run / "results.json", *sorted((run / "lamp_2m" / "predictions").iterdir())]
        answers.append({file.name: file.read_bytes() for file in files})
        weights.append(adapters(tmp_path / name / "store"))
        monkeypatch.setattr("oppu_core.modeling.base.try_out", lambda *_: Trial("for a test"))
    assert len(answers[0]) == 5 and answers[0] == answers[1]
    assert weights[0].keys() == weights[1].keys() and len(weights[0]) == 4
