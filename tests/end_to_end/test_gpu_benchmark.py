"""The benchmark for GPUs runs, at toy size, where there is none."""

import json
import os
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


def test_gpu_benchmark_runs_every_part_at_toy_size(tmp_path: Path) -> None:
    found = tmp_path / "gpu.json"
    line = [sys.executable, str(BENCHMARK), "--json", str(found), "--limit", "10000"]
    done = subprocess.run(
        line, capture_output=True, text=True, check=False, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(found.read_text(encoding="utf-8"))
    assert {"checks", "attention", "training toy", "answering"} <= set(results)
    assert all(row["ok"] for row in results["checks"])
    assert results["answering"]["different"] == 0
