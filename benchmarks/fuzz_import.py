"""Spoil valid files in thousands of ways and import them: ``uv run python benchmarks/fuzz_import.py``.

Every import must work without losing a user who is intact, or end in one clear error (tests/core/mutations.py
says how it is checked). Prints counts; the first seed that fails stops it with its traceback.
"""

import argparse
import collections
import os
import random
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "core"))

from mutations import FORMATS, attempt


def main() -> None:
    """Run the seeds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2000, help="how many for each format")
    parser.add_argument("--first", type=int, default=1000, help="the first seed")
    options = parser.parse_args()
    os.fsync = lambda fd: None  # nobody pulls the plug here
    table = Table("format", "imported", "refused")
    for name, valid in FORMATS.items():
        counts: collections.Counter[str] = collections.Counter()
        files = valid()
        for seed in track(range(options.first, options.first + options.seeds), name):
            with tempfile.TemporaryDirectory() as folder:
                try:
                    counts[attempt(files, random.Random(seed), Path(folder))] += 1
                except BaseException:
                    print(f"{name}, seed {seed}", file=sys.stderr)
                    raise
        table.add_row(name, f"{counts['imported']:,}", f"{counts['refused']:,}")
    Console().print(table)


if __name__ == "__main__":
    main()
