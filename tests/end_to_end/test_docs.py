"""docs/own-task.md does what it says: its blocks, as they stand there."""

import dataclasses
import json
import re
import runpy
import shlex
from pathlib import Path

import pytest
from oppu_core.data.dataset import Dataset
from oppu_core.data.sample import GRAMMARS
from oppu_core.tasks.task import Task
from oppu_core.tasks.task_files import load_task
from small_world import QUICK

PAGE = (Path(__file__).parents[2] / "docs" / "own-task.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_an_own_task_from_file_to_report(oppu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    task, second = blocks("toml")
    Path("watch.toml").write_text(task)
    Path("make_events.py").write_text(blocks("python")[0])
    make, *commands = blocks("sh")[0].replace("\\\n", "").splitlines()
    assert make == "uv run python make_events.py"
    runpy.run_path("make_events.py")
    assert all(command.startswith("uv run oppu ") for command in commands)
    import_, audit, run = (shlex.split(command)[3:] for command in commands)

    assert (result := oppu(*import_)).returncode == 0, result.stderr
    dataset = Dataset.open(Path("data/watch"))
    assert dataset.counts["test"]["users"] == 12 and dataset.counts["others"]["users"] == 28
    assert not Path("data/watch/rejected.jsonl").exists()
    Path("watch.toml").unlink()  # "nothing but `import` needs the file again"

    assert (result := oppu(*audit)).returncode == 0, result.stderr
    assert "query_in_own_history" in result.stdout, "the page says so"
    assert "gold_outside_labels" not in result.stdout

    # What comes later counts: one task base, quickly trained.
    quick = ["--users", "2", "--methods", "non_personalized,oppu_k0", "--examples", "queries", *QUICK]
    assert (result := oppu(*run, *quick)).returncode == 0, result.stderr
    assert Path("runs/watch/report.html").stat().st_size > 10_000
    assert "Watch or skip" in Path("runs/watch/report.html").read_text()
    rows = Path("runs/watch/watch/predictions/oppu_k0.jsonl").read_text().splitlines()
    assert len({json.loads(row)["user_id"] for row in rows}) == 2

    # The second block is the end of a task without an output field.
    Path("tweets.toml").write_text(
        'name = "tweets"\nkind = "generation"\ninput_fields = ["text"]\nhistory_fields = ["text"]\n'
        f'instruction = "Paraphrase."\nquery_template = "{{text}} tweet:"\n{second}'
    )
    assert load_task("tweets.toml").personal_formats


def test_every_setting_of_a_task_is_explained() -> None:
    """All but what only the tasks of LaMP have."""
    lamp = {"lamp_ids", "paper_id", "release_name", "official_folder", "longlamp_config", "personal_formats"}
    assert {field.name for field in dataclasses.fields(Task)} - lamp == set(
        re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    )


def test_the_sample_world_names_its_tasks(oppu) -> None:
    told = oppu("data", "sample", "--help").stdout
    assert all(name in told for name in GRAMMARS)
