"""All methods on real users with one base, as one table and one picture.

    uv run python benchmarks/real_users.py DATA --model models/smollm2 --preset preset.toml --out runs/real

DATA holds folders in the layout of the authors' release, one a dataset (``oppu data import`` says what
it reads). So that a dataset takes about an hour of two cores with a base of 135 M parameters, histories,
queries and others are cut to a number of the latest or of drawn ones; a GPU takes ``--users 100 --history
500``. Each dataset is one ``oppu run``, and a second one with profiles that the base has written. Whatever is
there is not done again; without a model the table is made of the runs that are there.
"""

import argparse
import dataclasses
import random
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from oppu_core.data.dataset import MANIFEST, Dataset
from oppu_core.data.dataset_writer import write_dataset
from oppu_core.data.types import User
from oppu_core.storage.files import read_json
from oppu_eval.reporting.figures import comparison
from oppu_eval.reporting.table import number, p_text, signed
from oppu_eval.scoring.results import Results, ScoreRow, TaskResults
from oppu_eval.studies.histories import keep

METHODS = (
    "non_personalized", "rag_k1", "rag_k4", "pag_k0", "stranger_k0", "pooled_k0", "oppu_k0", "oppu_rag_k1",
)  # fmt: skip
WRITTEN = "pag_k0, written"  # with profiles that the base has written
RUN, WRITTEN_RUN = "run-{}", "written-{}"


def oppu(*arguments: str | Path) -> None:
    """Run a command, visibly, with its time; end with its exit code if it fails."""
    command = [sys.executable, "-m", "oppu_core", *map(str, arguments)]
    print("$ oppu", shlex.join(command[3:]), flush=True)
    start = time.monotonic()
    if code := subprocess.run(command, check=False).returncode:
        sys.exit(code)
    print(f"({time.monotonic() - start:,.0f} s)", flush=True)


def smaller(whole: Dataset, users: int, others: int, history: int, queries: int) -> Iterator[User]:
    """Some others, drawn, and the first test users with their latest items and latest queries."""
    drawn = random.Random(0).sample(whole.user_ids("others"), min(others, whole.counts["others"]["users"]))
    chosen = set(drawn)
    yield from (user for user in whole.users("others") if user.user_id in chosen)
    for user, _ in zip(whole.users("test"), range(users), strict=False):
        length = len(user.training_history)
        cut = keep(user, range(max(0, length - history), length))
        yield dataclasses.replace(cut, queries=cut.queries[-queries:])


def carry_out(name: str, arguments: argparse.Namespace) -> None:
    """Import a dataset, cut it, and run all methods on it."""
    out: Path = arguments.out
    whole, data = out / "whole" / name, out / "data" / name
    if not (whole / MANIFEST).exists():
        oppu("data", "import", arguments.data / name, "--format", "oppu-release", "--out", whole)
    if not (data / MANIFEST).exists():
        opened = Dataset.open(whole)
        sizes = {key: getattr(arguments, key) for key in ("users", "others", "history", "queries")}
        write_dataset(data, opened.task, smaller(opened, **sizes), {**opened.source, "cut": sizes})
    base = ["--data", data, "--model", arguments.model, "--dtype", arguments.dtype]
    settings = ["--preset", arguments.preset, "--store", out / "store"]
    oppu("run", "--run", out / RUN.format(name), *base, *settings, "--methods", ",".join(METHODS))
    profiles = out / f"profiles-{name}.jsonl"
    oppu("profiles", *base, "--out", profiles)
    written = ["--methods", "non_personalized,pag_k0", "--profiles", profiles]
    oppu("run", "--run", out / WRITTEN_RUN.format(name), *base, *settings, *written)


def found(name: str, out: Path) -> TaskResults | None:
    """A dataset's results, with the row of written profiles beside the other of profiles."""
    files = [out / run.format(name) / "results.json" for run in (RUN, WRITTEN_RUN)]
    if not files[0].exists():
        return None
    (one,) = Results.from_json(read_json(files[0])).tasks.values()
    rows = list(one.rows)
    if files[1].exists():
        (written,) = Results.from_json(read_json(files[1])).tasks.values()
        place = next((at for at, row in enumerate(rows) if row.method == "stranger_k0"), len(rows))
        rows[place:place] = [
            dataclasses.replace(row, method=WRITTEN) for row in written.rows if row.method == "pag_k0"
        ]
    return dataclasses.replace(one, title=name.replace("_", " "), rows=rows)


def _with_interval(value: float, ci95: Sequence[float] | None, show: Callable[[float], str] = number) -> str:
    return show(value) if ci95 is None else f"{show(value)} [{', '.join(map(show, ci95))}]"


def _value(row: ScoreRow | None, best: float) -> str:
    if row is None:
        return "–"
    return f"**{number(row.value)}**" if row.value == best else number(row.value)


def tables(results: Sequence[TaskResults]) -> str:
    """Two Markdown tables: every method's first metric, and what the own adapter changes."""
    rows = [one.primary_rows() for one in results]
    rules = sorted({method for of_task in rows for method, row in of_task.items() if row.reference})
    methods = [*METHODS[:4], WRITTEN, *METHODS[4:]]
    better = [max if one.higher_is_better else min for one in results]
    best = [pick(row.value for row in of_task.values()) for pick, of_task in zip(better, rows, strict=True)]
    heads = [f"{one.title}, {one.primary_title}" for one in results]
    lines = [f"| | {' | '.join(heads)} |", "|---" * (len(results) + 1) + "|"]
    for method in (*rules, *methods):
        values = [_value(of_task.get(method), top) for of_task, top in zip(rows, best, strict=True)]
        lines.append(f"| {method} | {' | '.join(values)} |")
    lines += ["", "| | users, queries | no adapter | oppu_k0 | Δ | p | users +/=/− | best simple rule |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for one, of_task, pick in zip(results, rows, better, strict=True):
        plain, own = of_task["non_personalized"], of_task["oppu_k0"]
        rule = pick((row for row in of_task.values() if row.reference), key=lambda row: row.value)
        wins = own.wins or {}
        count = "/".join(str(wins.get(key, "–")) for key in ("better", "equal", "worse"))
        p = "–" if own.p_value is None else p_text(own.p_value)
        delta = "–" if own.delta is None else _with_interval(own.delta, own.delta_ci95, signed)
        values = [_with_interval(row.value, row.ci95) for row in (plain, own, rule)]
        lines.append(
            f"| {one.title} | {own.users}, {own.queries} | {values[0]} | {values[1]} | {delta} | "
            f"{p} | {count} | {rule.method} {values[2]} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Carry out what is missing, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder with a folder for each dataset")
    parser.add_argument("names", nargs="*", help="which of them; all if left out")
    parser.add_argument("--out", type=Path, default=Path("runs/real"), help="datasets, store and runs")
    parser.add_argument("--model", help="the base; without it only the tables are made")
    parser.add_argument("--preset", default="auto", help="a preset, or a file of `oppu study recipe`")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--users", type=int, default=15, help="test users of a dataset")
    parser.add_argument("--others", type=int, default=120, help="users who train the task base")
    parser.add_argument("--history", type=int, default=40, help="latest items of a history")
    parser.add_argument("--queries", type=int, default=8, help="latest queries of a user")
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        sys.exit(f"{arguments.data} is no folder; name the one with a folder for each dataset.")
    names = arguments.names or sorted(
        folder.name for folder in arguments.data.iterdir() if any(folder.glob("*.json"))
    )
    for name in names if arguments.model else ():
        carry_out(name, arguments)
    if not (results := [one for name in names if (one := found(name, arguments.out)) is not None]):
        sys.exit(f"No run of {', '.join(names) or 'any dataset'} in {arguments.out}: give --model.")
    print(tables(results))
    picture = arguments.out / "real-users.svg"
    picture.write_text(comparison(results), encoding="utf-8")
    print(f"\nPicture: {picture}")


if __name__ == "__main__":
    main()
