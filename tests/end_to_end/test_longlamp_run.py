"""LongLaMP from its files to scores, by the commands, with the shipped base; and the same in the harness."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from oppu_core.storage.files import read_json, read_jsonl
from small_world import QUICK
from test_harness_parity import evaluated, scores

TASKS = {
    "longlamp_abstract": ("name", "title", "abstract"),
    "longlamp_review": ("reviewerId", "summary", "reviewText"),
    "longlamp_topic": ("author", "summary", "content"),
}
INPUTS = {
    "longlamp_abstract": 'Generate an abstract for the title "{title}" using the following items: 1. a\n2. b',
    "longlamp_review": "Generate the review text written by a reviewer who has a given an overall rating of "
    '"{overall}" for a product with description "{description}". '
    'The summary of the review text is "{summary}".',
    "longlamp_topic": "Generate the content for a reddit post {summary}",
}
METHODS = ["rag_k1", "oppu_rag_k1"]


def made_up(task: str, folder: Path) -> Path:
    """A configuration of ten users in `train` and two in `test`."""
    column, asked, written = TASKS[task]
    rng = random.Random(task)
    words = ["nurse", "in", "Greyford", "retells", "the", "real", "case", "of", "one", "missing", "pilot"]

    def item(number: int) -> dict[str, Any]:
        text = {asked: " ".join(rng.choices(words, k=5)), written: " ".join(rng.choices(words, k=30)) + "."}
        extra = {"overall": 4.0, "description": "cup"} if task == "longlamp_review" else {"id": str(number)}
        return {**extra, **text}

    folder.mkdir(parents=True)
    for split, users in (("train", 10), ("test", 2)):
        rows = []
        for user in range(users):
            own = item(0)
            profile = [item(number) for number in range(1, 6)]
            rows.append(
                {column: f"{split} {user}", "input": INPUTS[task].format(**own), "output": own[written],
                 "profile": profile}
            )  # fmt: skip
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}-00000-of-00001.parquet")
    return folder


def test_from_files_to_scores_and_the_harness_agrees(oppu: Callable[..., Any], tmp_path: Path) -> None:
    data = []
    for task in TASKS:
        result = oppu(
            "data", "import", made_up(task, tmp_path / "raw" / task), "--out", tmp_path / "data" / task
        )
        assert result.returncode == 0, result.stderr
        data += ["--data", tmp_path / "data" / task]
    run = tmp_path / "runs" / "long"
    result = oppu("run", "--run", run, *data, "--methods", ",".join(METHODS), *QUICK)
    assert result.returncode == 0, result.stderr
    rows = read_json(run / "results.json")["rows"]
    assert {row["metric"] for row in rows} == {"rouge_1", "rouge_l", "meteor"}
    assert any(0 < row["value"] < 1 for row in rows if row["metric"] == "meteor")
    assert "METEOR (no synonyms)" in (run / "report.html").read_text()
    answers = list(read_jsonl(run / "longlamp_review" / "predictions" / "oppu_rag_k1.jsonl"))
    assert len(answers) == 2 and all("\n" not in answer["answer"] for answer in answers)
    method = METHODS[-1]
    assert scores({"run": str(run), "method": method}, ["longlamp"]) == evaluated(run, method)
