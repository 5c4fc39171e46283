"""How long commands take that compute nothing: ``uv run python benchmarks/startup.py``.

Makes a small run, and times commands in processes of their own: wall and CPU seconds, the median of five, and
of the first call after the files of all packages were dropped from memory, where the system allows that (root
on Linux).
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path


def commands(run: Path, data: Path, nowhere: Path) -> dict[str, list[str]]:
    """What is timed, by what it is called."""
    at, methods = ["--run", str(run)], ["--methods", "non_personalized,oppu_k0"]
    return {
        "--help": ["--help"],
        "run, a wrong path": ["run", *at, "--data", str(nowhere)],
        "run, a changed setting": ["run", *at, "--data", str(data), *methods, "--set", "personal.epochs=9"],
        "ask, a wrong path": ["ask", "--run", str(nowhere), "A ship."],
        "adapters list": ["adapters", "list", *at],
        "evaluate": ["evaluate", *at],
        "report": ["report", *at],
        "forget --dry-run": ["forget", "test-000", "--dry-run", "--runs", str(run.parent)],
        "data describe": ["data", "describe", str(data)],
    }


def timed(arguments: Sequence[str]) -> tuple[float, float]:
    """Wall and CPU seconds of one call."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "oppu_core", *arguments], capture_output=True, check=False)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def drop_caches() -> bool:
    """Whether the system's cache of files was dropped."""
    try:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError:
        return False
    return True


def main() -> None:
    """Make a run, time the commands, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run, data = Path(folder) / "runs" / "movies", Path(folder) / "data"
        oppu = [sys.executable, "-m", "oppu_core"]
        sample = ["data", "sample", "--task", "lamp_2m", "--users", "3", "--out", str(data)]
        methods = ["--methods", "non_personalized,oppu_k0", "--set", "personal.epochs=1"]
        for command in (sample, ["run", "--run", str(run), "--data", str(data), *methods]):
            subprocess.run([*oppu, *command], check=True, capture_output=True)
        print("| `oppu …` | wall, s | CPU, s | first call, wall, s |\n|---|---|---|---|")
        for name, command in commands(run, data, Path(folder) / "nowhere").items():
            cold = f"{timed(command)[0]:.1f}" if drop_caches() else "–"
            walls, cpus = zip(*(timed(command) for _ in range(arguments.repeats)), strict=True)
            print(f"| {name} | {statistics.median(walls):.2f} | {statistics.median(cpus):.2f} | {cold} |")


if __name__ == "__main__":
    main()
