"""How fast personal training is: ``uv run python benchmarks/training.py [--model 60m|tiny|FOLDER|…]``.

Sixteen users of 64 items each share an instruction of 70 tokens; their items have 15 to 60 tokens and answers
of 2 to 4; LoRA r=8 on query and value, batch 16, one epoch. Three ways train the same adapters: ``plain``, a
PEFT loop as most people write it; ``trainer``, Hugging Face's with the authors' settings; ``fast``, the one
of ``oppu personal train``. Repeats are interleaved (plain, trainer, fast, plain, …), so that a machine that
changes its speed changes all of them; the slow ways train only the first users, and ratios are of seconds
an adapter. A ratio is the median of the repeats' ratios.

Before that: how many operations the plain and the packed way have to do for these batches (flops.py has
the formulas), and the peak memory of each way in a process of its own, on the heaviest batches. Beside it:
the machine's own speed at a large matrix product, just before and after the fast way in every repeat; and
losses and adapters of both ways compared: in float32 a relative difference above 1e-4 ends with exit status
1. The bounds that the project has set itself are printed as met or not met.

``60m`` (a random Llama) and ``tiny`` (the base that ships) are for CPUs; the process is tuned as the command
line tunes its own, for all ways alike (oppu_core/process.py). ``0.5b``, ``1.5b`` and ``7b`` have random
bfloat16 weights in the sizes of Qwen2-0.5B, Qwen2-1.5B and Llama-2-7B, made on the device; they need a GPU
(``--device cuda``; benchmarks/gpu.py runs them all).
"""

import argparse
import concurrent.futures
import importlib.metadata
import json
import math
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from flops import Counter, packed_load, plain_load, user_batches
from oppu_core.process import tune_process
from rich.console import Console
from rich.table import Table
from shapes import BATCH_SIZE, SHAPES, Subject, Users, load_subject, make_users, real_tokens
from ways import Result, Way, ways

ITEMS, TOLERANCE, SAME_REGION = 64, 1e-4, 0.1
NAMES = {"plain": "plain PEFT loop", "trainer": "Trainer + peft", "fast": "fast"}
# (ratio to the plain way, to the Trainer, share of the machine's rate); None where no bound was set.
BOUNDS: dict[str, tuple[float | None, float | None, float | None]] = {
    "60m": (3.5, 5.0, 0.6),
    "tiny": (3.0, None, None),
    "0.5b": (10.0, None, None),
    "7b": (3.0, None, None),
}
OF_OPERATIONS = 0.85  # 60m is to save at least this share of the operations that it can save
Figures = dict[str, list[float]]


def main() -> None:
    """Measure, and print the tables."""
    args = arguments()
    console = Console(width=110)
    if args.profile:
        print(profiled(args))
        return
    results = run(args, console)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    difference = results["difference"]
    exact = results["machine"]["dtype"] == "float32"
    if exact and max(difference["losses"], difference["adapters"]) > TOLERANCE:
        sys.exit(f"plain and fast training differ by more than {TOLERANCE}")
    if difference.get("trainer", 0) > SAME_REGION:
        sys.exit("the Trainer's loss is far from the others'")


def arguments(line: Sequence[str] | None = None) -> argparse.Namespace:
    """What is to be measured: the command line, or another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="60m", help=f"{', '.join(SHAPES)}, tiny, or a model folder")
    parser.add_argument("--repeats", type=int, default=5, help="of each measurement")
    parser.add_argument("--users", type=int, help="16, or a whole cohort if that is more")
    parser.add_argument("--measured-users", type=int, default=2, help="how many the slow ways train")
    parser.add_argument("--cohort", type=int, help="how many users to train at once")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N")
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16"], help="of the base; by default the shape's"
    )
    parser.add_argument("--skip-trainer", action="store_true", help="leave Hugging Face's Trainer out")
    parser.add_argument("--skip-memory", action="store_true", help="leave the peaks of memory out")
    parser.add_argument("--profile", action="store_true", help="only profile one fast step")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    args = parser.parse_args(line)
    args.cohort = args.cohort or (SHAPES[args.model].cohort if args.model in SHAPES else 4)
    args.users = args.users or max(16, args.cohort)
    args.measured_users = min(args.measured_users, args.users)
    return args


def run(args: argparse.Namespace, console: Console) -> dict[str, Any]:
    """The figures, printed as tables as well."""
    names = [name for name in NAMES if name != "trainer" or not args.skip_trainer]
    transformers.logging.set_verbosity_error()
    # First of all: a process's peak counts what its parent held when it was started.
    memory = {} if args.skip_memory else {name: peak_memory(name, args) for name in names}
    subject = load_subject(args.model, args.device, args.dtype, args.epochs)
    users = make_users(args.users, ITEMS, subject.vocabulary)
    results: dict[str, Any] = {"machine": machine(args, subject), "peak_memory_mb": memory}
    results |= {name: value for name, value in vars(args).items() if name not in ("json", "profile")}
    results["operations"] = operations(subject, users)
    console.print(versions(results["machine"]), results_line(results["operations"]), highlight=False)
    seconds, rates, last = measure(subject, users, names, args)
    results |= {"seconds_per_adapter": seconds, "matmul_gflops": rates}
    results["difference"] = differences(last)
    results["bounds"] = bounds(results)
    console.print(speed_table(results, users), bounds_table(results["bounds"]), highlight=False)
    difference = results["difference"]
    console.print(
        f"plain against fast, largest relative difference: losses {difference['losses']:.1e}, "
        f"adapters {difference['adapters']:.1e}"
        + (f"; the Trainer's mean loss: {difference['trainer']:.1e}" if "trainer" in difference else "")
    )
    return results


def heaviest(users: Users) -> Users:
    """The longest items of every user, one batch of them."""
    return [sorted(rows, key=lambda row: len(row.ids))[-BATCH_SIZE:] for rows in users]


def clock(subject: Subject) -> float:
    """Seconds, when the device has done what it was asked for."""
    if subject.model.device.type == "cuda":
        torch.cuda.synchronize(subject.model.device)
    return time.perf_counter()


def timed(subject: Subject, way: Way, users: Users) -> tuple[float, list[Result]]:
    """Seconds an adapter, and what came of the trainings."""
    start = clock(subject)
    results = way(users)
    return (clock(subject) - start) / len(users), results


def measure(
    subject: Subject, users: Users, names: list[str], args: argparse.Namespace
) -> tuple[Figures, list[float], dict[str, list[Result]]]:
    """Seconds an adapter of each way in each repeat (``fast_all``: of all users), the device's own rate in
    each, and the last results."""
    all_ways = ways(subject, args.cohort)
    some = users[: args.measured_users]
    for name in names:  # warm up
        all_ways[name](heaviest(users[: args.cohort] if name == "fast" else users[:1]))
    seconds: Figures = {name: [] for name in (*names, "fast_all")}
    rates: list[float] = []
    last: dict[str, list[Result]] = {}
    for _ in range(args.repeats):
        for name in names:
            each, last[name] = timed(subject, all_ways[name], some)
            seconds[name].append(each)
        before = matmul_rates(subject)
        seconds["fast_all"].append(timed(subject, all_ways["fast"], users)[0])
        rates.append(statistics.median(before + matmul_rates(subject)))
    return seconds, rates, last


def peak_memory(name: str, args: argparse.Namespace) -> dict[str, float]:
    """The peak memory in MB of a process that trains on the heaviest batches, and what it was before; where
    there is a GPU, of the GPU."""
    if args.device.startswith("cuda"):  # which counts by itself, and from where one likes
        torch.cuda.reset_peak_memory_stats(args.device)
        return _peak_memory_here(name, args)
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
        return pool.submit(_peak_memory_here, name, args).result()


def _peak_memory_here(name: str, args: argparse.Namespace) -> dict[str, float]:
    transformers.logging.set_verbosity_error()
    subject = load_subject(args.model, args.device, args.dtype)
    users = make_users(args.cohort if name == "fast" else 1, ITEMS, subject.vocabulary)
    loaded = _peak_now(subject)
    ways(subject, args.cohort)[name](heaviest(users))
    return {"loaded": loaded, "peak": _peak_now(subject)}


def _peak_now(subject: Subject) -> float:
    if subject.model.device.type == "cuda":
        return torch.cuda.max_memory_allocated(subject.model.device) / 1e6
    # Linux counts in kilobytes, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def matmul_rates(subject: Subject, repeats: int = 5) -> list[float]:
    """The device's own speed at one large product of matrices, in GFLOP/s."""
    device = subject.model.device
    size = 8192 if device.type == "cuda" else 2048
    a, b = torch.randn(2, size, size, device=device, dtype=subject.model.dtype)
    rates = []
    for _ in range(repeats + 1):
        start = clock(subject)
        torch.mm(a, b)
        rates.append(2 * size**3 / (clock(subject) - start) / 1e9)
    return rates[1:]


def operations(subject: Subject, users: Users) -> dict[str, float]:
    """What both ways have to do for all users, and the ratio C."""
    plain, packed = Counter(subject.model).training(users, subject.config)
    batches = [batch for rows in users for batch in user_batches(rows, subject.config)]
    return {
        "plain_gflop": plain / 1e9,
        "packed_gflop": packed / 1e9,
        "C": plain / packed,
        "plain_tokens": sum(plain_load(batch).tokens for batch in batches),
        "packed_tokens": sum(packed_load(batch).tokens for batch in batches),
        "real_tokens": real_tokens(users) * subject.config.epochs,
    }


def differences(last: dict[str, list[Result]]) -> dict[str, float]:
    """The largest relative differences to the plain results: of fast ones, and of the Trainer's mean loss."""
    losses = adapters = 0.0
    for a, b in zip(last["plain"], last["fast"], strict=True):
        pairs = zip(a.losses, b.losses, strict=True)
        losses = max(losses, *(abs(x - y) / abs(x) for x, y in pairs))
        flat_a, flat_b = (torch.cat([result.state[name].flatten() for name in a.state]) for result in (a, b))
        adapters = max(adapters, float((flat_a - flat_b).norm() / flat_a.norm()))
    found = {"losses": losses, "adapters": adapters}
    if "trainer" in last:
        means = [statistics.mean(result.losses) for result in last["plain"]]
        theirs = (result.losses[0] for result in last["trainer"])
        found["trainer"] = max(abs(x - y) / x for x, y in zip(means, theirs, strict=True))
    return found


def ratios(seconds: Figures, name: str, to: str) -> float:
    """How many times as long one way takes: the median of the repeats' ratios."""
    return statistics.median(a / b for a, b in zip(seconds[name], seconds[to], strict=True))


def bounds(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Each figure that the project has set itself a bound for, and whether it is met."""
    seconds, counted = results["seconds_per_adapter"], results["operations"]
    to_plain, to_trainer, to_machine = BOUNDS.get(results["model"], (None, None, None))
    if results["model"] == "60m" and to_plain:
        to_plain = max(OF_OPERATIONS * counted["C"], to_plain)
    done = [counted["packed_gflop"] / results["users"] / each for each in seconds["fast_all"]]
    shares = [rate / device for rate, device in zip(done, results["matmul_gflops"], strict=True)]
    found = [("plain / fast (all users)", ratios(seconds, "plain", "fast_all"), to_plain)]
    found.append(("plain / fast (the same users)", ratios(seconds, "plain", "fast"), None))
    if "trainer" in seconds:
        found.append(("Trainer / fast (all users)", ratios(seconds, "trainer", "fast_all"), to_trainer))
    found += [
        ("GFLOP/s of fast training (all users)", statistics.median(done), None),
        ("GFLOP/s of a large matrix product", statistics.median(results["matmul_gflops"]), None),
        ("the one / the other", statistics.median(shares), to_machine),
    ]
    return [
        {"name": name, "value": value, "bound": bound, "met": None if bound is None else value >= bound}
        for name, value, bound in found
    ]


def profiled(args: argparse.Namespace) -> str:
    """Where the time of one fast step goes (and of the look at its result)."""
    subject = load_subject(args.model, args.device, args.dtype)
    batch = heaviest(make_users(args.cohort, ITEMS, subject.vocabulary))
    way = ways(subject, args.cohort)["fast"]
    way(batch)
    with torch.profiler.profile() as profile:
        way(batch)
    table: str = profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=20)
    return table


def machine(args: argparse.Namespace, subject: Subject) -> dict[str, Any]:
    """What the figures depend on, beside the code."""
    packages = ("torch", "transformers", "peft", "accelerate")
    cuda = torch.cuda.get_device_name(args.device) if args.device.startswith("cuda") else None
    return {
        **{name: importlib.metadata.version(name) for name in packages},
        "python": platform.python_version(),
        "parameters": subject.model.get_base_model().num_parameters(),
        "dtype": str(subject.model.dtype).removeprefix("torch."),
        "device": cuda or args.device,
        "threads": torch.get_num_threads(),
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", ""),
        "load_average": math.nan if not hasattr(os, "getloadavg") else os.getloadavg()[0],
    }


def versions(facts: dict[str, Any]) -> str:
    """The machine in a line."""
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def results_line(counted: dict[str, float]) -> str:
    """The operations in a line."""
    return (
        f"\nC = {counted['C']:.2f}: plain {counted['plain_gflop']:,.1f} GFLOP in {counted['plain_tokens']:,} "
        f"padded tokens, packed {counted['packed_gflop']:,.1f} GFLOP in {counted['packed_tokens']:,} tokens "
        f"({counted['real_tokens']:,} real ones in prompts and answers)"
    )


def speed_table(results: dict[str, Any], users: Users) -> Table:
    """Seconds, rates, and memory of each way: of the process, and what of it came with training."""
    some, everyone, epochs = results["measured_users"], results["users"], results["epochs"]
    table = Table(
        "way", "users", "s/adapter", "min–max", "adapters/h", "real tokens/s", "peak MB", "of training",
        title=f"{results['model']}, cohorts of {results['cohort']}, {results['repeats']} repeats",
    )  # fmt: skip
    for name, seconds in results["seconds_per_adapter"].items():
        count = everyone if name == "fast_all" else some
        median = statistics.median(seconds)
        memory = ["", ""]
        if name in results["peak_memory_mb"]:
            peak = results["peak_memory_mb"][name]
            memory = [f"{peak['peak']:,.0f}", f"{peak['peak'] - peak['loaded']:,.0f}"]
        table.add_row(
            NAMES[name.removesuffix("_all")],
            str(count),
            f"{median:.3f}",
            f"{min(seconds):.3f}–{max(seconds):.3f}",
            f"{3600 / median:,.0f}",
            f"{real_tokens(users[:count]) * epochs / count / median:,.0f}",
            *memory,
        )
    return table


def bounds_table(rows: list[dict[str, Any]]) -> Table:
    """What was reached, and what was to be reached."""
    table, words = Table("", "measured", "at least", ""), {None: "", True: "met", False: "NOT MET"}
    for row in rows:
        bound = "" if row["bound"] is None else f"{row['bound']:.2f}"
        table.add_row(row["name"], f"{row['value']:.2f}", bound, words[row["met"]])
    return table


if __name__ == "__main__":
    tune_process()  # as the command line does; for all ways alike
    main()
