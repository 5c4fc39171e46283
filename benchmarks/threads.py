"""What waiting threads cost on busy cores: ``uv run python benchmarks/threads.py``.

Times the same personal training with OpenMP threads that spin while they wait (the default) and with threads
that sleep (``OMP_WAIT_POLICY=PASSIVE``), on an otherwise idle machine and beside a program that keeps a core
busy. The command line sets the second, because of the last row. Prints medians of repeats in seconds, and
their ratio.
"""

import os
import statistics
import subprocess
import sys

from rich.console import Console
from rich.table import Table

REPEATS = 5
TRAINING = """
import dataclasses, time
from oppu_core.data.sample import sample_users
from oppu_core.modeling.base import load_base
from oppu_core.modeling.packing import tokenize
from oppu_core.prompting.builder import PromptBuilder
from oppu_core.tasks.task_files import get_task
from oppu_core.training.config import personal_config
from oppu_core.training.loop import train
from oppu_core.modeling.adapters import attach
task = get_task("lamp_2m")
base = load_base("tiny", device="cpu")
user = next(sample_users(task, test_users=1, other_users=0))
builder = PromptBuilder(task, base.tokenizer, {})
examples = tokenize(builder.history_examples("base", user), base.tokenizer)[:32]
config = dataclasses.replace(personal_config("lamp_2m", "tiny", 0), epochs=1)
model = attach(base.model, config)
train(model, examples, config, base.tokenizer.pad_id)
start = time.monotonic()
train(model, examples, config, base.tokenizer.pad_id)
print(time.monotonic() - start)
"""


def seconds(policy: str) -> float:
    """One training in a fresh process."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    if policy:
        environment["OMP_WAIT_POLICY"] = policy
    command = [sys.executable, "-c", TRAINING]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    """Print the table."""
    table = Table("machine", "spinning (s)", "sleeping (s)", "ratio")
    for name in ("idle", "one core busy"):
        busy = [sys.executable, "-c", "while True: pass"]
        neighbour = subprocess.Popen(busy) if name != "idle" else None
        try:
            runs = [(seconds(""), seconds("PASSIVE")) for _ in range(REPEATS)]
        finally:
            if neighbour:
                neighbour.kill()
        spinning, sleeping = (statistics.median(column) for column in zip(*runs, strict=True))
        table.add_row(name, f"{spinning:.2f}", f"{sleeping:.2f}", f"{spinning / sleeping:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
