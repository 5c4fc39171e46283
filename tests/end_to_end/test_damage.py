"""What somebody or something has changed on the disk is noticed, named, and never taken for whole."""

import json
import shutil
from pathlib import Path

import pytest
from oppu_core.data.dataset import Dataset
from oppu_core.modeling.base_files import TINY_FOLDER
from small_world import QUICK, sample_dataset

METHODS = ["--methods", "non_personalized,oppu_k0"]


@pytest.fixture
def run(oppu, movies: Dataset, tmp_path: Path) -> Path:
    """A finished run on an own copy of the dataset."""
    data = tmp_path / "data"
    shutil.copytree(movies.path, data)
    done = oppu("run", "--run", tmp_path / "run", "--data", data, *METHODS, *QUICK)
    assert done.returncode == 0, done.stderr
    return tmp_path / "run"


def test_a_damaged_adapter_is_trained_again_to_the_same_bytes(oppu, run: Path) -> None:
    files = sorted((run.parent / "store" / "adapters").rglob("adapter_model.safetensors"))
    before = [file.read_bytes() for file in files]
    files[0].write_bytes(before[1])
    shutil.rmtree(files[2].parent)
    again = oppu("personal", "train", "--run", run)
    assert again.returncode == 0, again.stderr
    assert [file.read_bytes() for file in files] == before


def test_a_dataset_may_move_but_not_change(oppu, run: Path, tmp_path: Path) -> None:
    options = [*METHODS, *QUICK]
    (tmp_path / "data").rename(tmp_path / "moved")
    moved = oppu("run", "--run", run, "--data", tmp_path / "moved", *options)
    assert moved.returncode == 0, moved.stderr
    assert oppu("evaluate", "--run", run).returncode == 0  # the run knows the new place

    other = sample_dataset(tmp_path / "other", seed=9)
    for shard in other.path.glob("*.parquet"):
        shutil.copy(shard, tmp_path / "moved" / shard.name)
    swapped = oppu("run", "--run", tmp_path / "second", "--data", tmp_path / "moved", *options)
    assert swapped.returncode == 1 and "parquet" in swapped.stderr


@pytest.mark.parametrize("edit", [{"seed": "x"}, {"methods": [5]}, {"data": {}}, {"personal": {}}])
def test_an_edited_run_is_refused(oppu, run: Path, edit: dict[str, object]) -> None:
    values = json.loads((run / "run.json").read_text())
    values["config"].update(edit)
    (run / "run.json").write_text(json.dumps(values))
    for command in ("answer", "evaluate", "report"):
        result = oppu(command, "--run", run)
        assert result.returncode == 2 and "was changed" in result.stderr


@pytest.mark.parametrize("line", ["5", "[]", '{"a": 1}', '{"id": ["a"]}', "torn", None])
def test_a_broken_prediction_file_names_its_line_and_the_way_out(oppu, run: Path, line: str | None) -> None:
    file = run / "lamp_2m" / "predictions" / "oppu_k0.jsonl"
    whole = file.read_text()
    file.write_text(whole + (line or whole.splitlines()[0]) + "\n")
    result = oppu("evaluate", "--run", run)
    assert result.returncode == 1
    assert "line 10" in result.stderr and "Remove the file" in result.stderr
    file.unlink()
    assert oppu("answer", "--run", run).returncode == 0
    assert file.read_text() == whole


def test_answers_that_went_missing_are_not_taken_for_failed_training(oppu, run: Path) -> None:
    file = run / "lamp_2m" / "predictions" / "non_personalized.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[3:]))
    result = oppu("evaluate", "--run", run)
    assert result.returncode == 1 and "'test-000'" in result.stderr


def test_a_results_file_of_another_shape_is_refused(oppu, run: Path) -> None:
    wrong = {'{"rows": []}': "'tasks'", '{"rows": 5}': "'rows'", "[]": "'the whole'", "{": "line 1"}
    for text, field in wrong.items():
        (run / "results.json").write_text(text)
        result = oppu("report", "--run", run)
        assert result.returncode == 1 and field in result.stderr, text


def test_code_in_a_model_folder_is_never_run(oppu, movies: Dataset, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(TINY_FOLDER, model)
    config = json.loads((model / "config.json").read_text())
    config |= {"auto_map": {"AutoConfig": "evil.Config"}, "model_type": "custom"}
    (model / "config.json").write_text(json.dumps(config))
    (model / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    result = oppu("run", "--run", tmp_path / "run", "--data", movies.path, "--model", model)
    assert result.returncode == 1 and "never run" in result.stderr
    assert not (tmp_path / "ran").exists()


def test_training_that_diverges_is_a_failure_and_is_not_stored(oppu, movies: Dataset, tmp_path: Path) -> None:
    options = ["--data", movies.path, *METHODS, *QUICK]
    users = oppu("run", "--run", tmp_path / "a", *options, "--set", "personal.learning_rate=1e30")
    assert users.returncode == 0, users.stderr
    assert users.stderr.count("set aside") == 3 and "diverged" in users.stderr
    base = oppu("run", "--run", tmp_path / "b", *options, "--set", "task_lora.learning_rate=1e30")
    assert base.returncode == 1 and "task LoRA" in base.stderr
