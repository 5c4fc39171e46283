"""What the import hook for lm_eval costs every other Python: ``uv run python benchmarks/import_hook.py``.

Compares environments that hold links to the packages of this one: two without the hook's ``.pth`` and one
with it. Each repeat runs all three in turn. Prints medians, the median of the differences with its 95 %
interval, and as the noise the same for the two that are alike. The last line is the hook's one function,
called directly.
"""

import argparse
import math
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
import timeit
import venv
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

HOOK = "oppu_lm_eval.pth"
IMPORTS = """
import sys, time
before, start = len(sys.modules), time.perf_counter()
import asyncio, numpy, requests, rich.console, rich.table, sqlite3, typer, unittest, xml.dom.minidom
print(time.perf_counter() - start, len(sys.modules) - before)
"""


def environment(folder: Path, hook: bool) -> Path:
    """A Python with links to the packages of this one."""
    venv.create(folder, symlinks=True)
    (target,) = folder.glob("lib/python*/site-packages")
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if entry.name != "__pycache__" and (hook or entry.name != HOOK):
            (target / entry.name).symlink_to(entry)
    python = folder / "bin" / "python"
    code = "import sys; print(any(hasattr(one, 'extends') for one in sys.meta_path))"
    if run(python, code) != f"{hook}\n":
        sys.exit(f"{HOOK} is not installed in this environment: run `uv sync`")
    return python


def run(python: Path, code: str) -> str:
    """What some code prints in a fresh process."""
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout


def start_seconds(python: Path) -> float:
    """One start of Python that does nothing."""
    start = time.perf_counter()
    run(python, "pass")
    return time.perf_counter() - start


def import_seconds(python: Path) -> float:
    """Imports in a fresh process, without its start."""
    return float(run(python, IMPORTS).split()[0])


def compared(pythons: list[Path], seconds: Callable[[Path], float], repeats: int) -> list[str]:
    """Cells: medians in ms without and with the hook, the difference and the noise."""
    rows = []
    for repeat in range(repeats + 1):
        # A different one comes first each time: what ran before may have warmed or slowed the machine.
        order = [(place + repeat) % len(pythons) for place in range(len(pythons))]
        times = {place: seconds(pythons[place]) for place in order}
        rows.append([times[place] for place in range(len(pythons))])
    rows = rows[1:]  # the first fills caches and writes bytecode
    without, alike, with_hook = (statistics.median(column) for column in zip(*rows, strict=True))
    return [
        f"{(without + alike) / 2 * 1e3:.2f}",
        f"{with_hook * 1e3:.2f}",
        middle([c - (a + b) / 2 for a, b, c in rows]),
        middle([b - a for a, b, _ in rows]),
    ]


def middle(seconds: list[float]) -> str:
    """The median and its 95 % interval, in µs; the interval from the ranks (a binomial distribution)."""
    ordered = sorted(seconds)
    count, half = len(ordered), round(0.98 * math.sqrt(len(ordered)))
    low, high = ordered[max(count // 2 - half, 0)], ordered[min(count // 2 + half, count - 1)]
    return f"{statistics.median(ordered) * 1e6:+,.0f} [{low * 1e6:+,.0f}, {high * 1e6:+,.0f}]"


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=1000, help="starts of Python; a tenth as many imports")
    repeats = parser.parse_args().repeats
    table = Table("what", "without (ms)", "with (ms)", "difference (µs)", "noise (µs)")
    with tempfile.TemporaryDirectory() as folder:
        pythons = [environment(Path(folder) / str(place), hook=place == 2) for place in range(3)]
        modules = run(pythons[2], IMPORTS).split()[1]
        table.add_row("start of Python", *compared(pythons, start_seconds, repeats))
        table.add_row(f"import of {modules} modules", *compared(pythons, import_seconds, repeats // 10))
    console = Console()
    console.print(table)
    finder = next(one for one in sys.meta_path if hasattr(one, "extends"))
    calls = 1_000_000
    each = min(timeit.repeat(lambda: finder.find_spec("some.module", None), number=calls, repeat=5)) / calls
    console.print(
        f"One look at a name: {each * 1e9:.0f} ns, {each * int(modules) * 1e6:.0f} µs for {modules}."
    )


if __name__ == "__main__":
    main()
