"""What the harness costs: ``uv run python benchmarks/harness.py --help``.

Twenty users of the sample world ask twenty queries each (lamp_2m), answered by their own adapters: whole
commands, in turn. `lm_eval --model oppu` should take at most 1.3 times as long as `oppu answer` and the
harness's own start-up together. Start-up is `lm_eval --model dummy` on one query: Python, the index of all
its tasks, a table; no model.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from oppu_core.data.dataset_writer import write_dataset
from oppu_core.data.sample import sample_users
from oppu_core.tasks.task_files import get_task
from rich.console import Console
from rich.table import Table

BOUND = 1.3
BIN = Path(sys.executable).parent


def seconds(*command: str) -> float:
    """How long a command takes."""
    start = time.perf_counter()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "100"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    taken = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    return taken


def prepare(folder: Path, users: int, queries: int, method: str) -> Path:
    """A run with everything but answers; one epoch, as only the time of answering counts."""
    task = get_task("lamp_2m")
    people = sample_users(task, test_users=users, other_users=30, history=(20, 40), queries=queries)
    write_dataset(folder / "data", task, people, {"kind": "sample world"})
    run = folder / "run"
    quick = ["--set", "personal.epochs=1", "--set", "task_lora.epochs=1"]
    data = ["--data", str(folder / "data"), "--methods", method, *quick]
    seconds(str(BIN / "oppu"), "base", "train", "--run", str(run), *data)
    seconds(str(BIN / "oppu"), "personal", "train", "--run", str(run))
    return run


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--method", default="oppu_rag_k1")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, default=None, help="also write the figures here")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        run = prepare(Path(name), args.users, args.queries, args.method)
        asked = ["--tasks", "lamp_2m", "--model"]
        ways = {
            "oppu answer": [str(BIN / "oppu"), "answer", "--run", str(run)],
            "start-up of lm_eval": [str(BIN / "lm_eval"), *asked, "dummy", "--limit", "1"],
            "lm_eval --model oppu": [
                str(BIN / "lm_eval"), *asked, "oppu", "--model_args", f"run={run},method={args.method}",
            ],
        }  # fmt: skip
        taken: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(args.repeats):
            (run / "lamp_2m" / "predictions" / f"{args.method}.jsonl").unlink(missing_ok=True)
            for way, command in ways.items():
                taken[way].append(seconds(*command))
    ratios = [ours / (answer + start) for answer, start, ours in zip(*taken.values(), strict=True)]
    table = Table("command", "seconds, median", "least", "most")
    for way, times in taken.items():
        table.add_row(way, *(f"{value:.1f}" for value in (statistics.median(times), min(times), max(times))))
    console, ratio = Console(), statistics.median(ratios)
    console.print(f"{args.users} users × {args.queries} queries, {args.method}; {args.repeats} times.")
    console.print(table)
    console.print(
        f"lm_eval / (oppu answer + start-up): {ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f}), "
        f"at most {BOUND}: {'met' if ratio <= BOUND else 'NOT MET'}"
    )
    if args.json:
        args.json.write_text(json.dumps({"ratio": ratio, **taken}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
