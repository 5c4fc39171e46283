"""Measure training settings on a dataset: ``uv run python benchmarks/presets.py --help``.

Prints, for every combination of the given learning rates, epochs and batch sizes, the primary metric without
and with personal adapters, and the seconds of training per user. What ``oppu_core.training.config`` calls
"small" was chosen with it; the commands and tables are in docs/presets.md.
"""

import argparse
import itertools
import json
import tempfile
from pathlib import Path

from oppu_core.runs.config import resolve_config
from oppu_core.runs.execute import execute
from oppu_core.runs.options import RunOptions
from oppu_core.runs.start import start_run
from oppu_core.storage.store import Store
from oppu_eval.scoring.run_results import evaluate_run
from rich.console import Console
from rich.table import Table


def main() -> None:
    """Run the grid and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a dataset folder")
    parser.add_argument("--model", default="tiny")
    parser.add_argument(
        "--kind", choices=["personal", "task_lora"], default="personal", help="what is varied"
    )
    parser.add_argument("--learning-rates", type=float, nargs="+", default=[1e-4, 1e-3, 3e-3, 1e-2])
    parser.add_argument("--epochs", type=int, nargs="+", default=[6])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8])
    parser.add_argument("--peft", choices=["lora", "ia3", "prompt_tuning"], default="lora")
    parser.add_argument("--variant", default="base", help="base, rag_k1 or pag_k0")
    parser.add_argument("--users", type=int, default=None, help="only the first N test users")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="as in `oppu run`")
    parser.add_argument("--json", type=Path, default=None, help="also write the table here")
    args = parser.parse_args()

    plain = "non_personalized" if args.variant == "base" else args.variant
    personal = "oppu_k0" if args.variant == "base" else f"oppu_{args.variant}"
    table = Table("learning rate", "epochs", "batch size", plain, personal, "seconds a user")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        grid = itertools.product(args.learning_rates, args.epochs, args.batch_sizes)
        for number, (rate, epochs, batch_size) in enumerate(grid):
            varied = {"learning_rate": rate, "epochs": epochs, "batch_size": batch_size}
            config = resolve_config(
                RunOptions(
                    data=[args.data],
                    model=args.model,
                    methods=[plain, personal],
                    preset="auto",
                    settings=[
                        *args.overrides,
                        *(f"{args.kind}.{name}={value}" for name, value in varied.items()),
                    ],
                    dtype="float32",
                    seed=0,
                    users=args.users,
                    sample=False,
                    peft=args.peft,
                )
            )
            run = start_run(Path(folder) / str(number), config)
            before = {entry.folder for entry in Store(run.store_path).entries()}
            execute(run)
            seconds = [
                entry.facts["seconds"]
                for entry in Store(run.store_path).entries()
                if entry.kind == "adapter" and entry.folder not in before and entry.status == "ok"
            ]
            scores = {row.method: row.value for row in reversed(evaluate_run(run).rows)}
            row = {**varied, "plain": scores[plain], "personal": scores[personal]}
            row["seconds_per_user"] = sum(seconds) / max(1, len(seconds))
            rows.append(row)
            Console().print({name: round(value, 4) for name, value in row.items()})
            table.add_row(*(f"{value:.4g}" for value in row.values()))
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
