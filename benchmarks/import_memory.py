"""Memory of an import: ``uv run python benchmarks/import_memory.py --megabytes 3000``.

Writes a file of each format of that size, imports it in a process of its own and prints its peak memory and
speed. Fails if an import takes more than 1 GB. Needs about four times the size on the disk, in ``--folder``.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table

INSTRUCTION = "Which tag does this movie relate to …? tags: [comedy, action] description: "
COMMAND = "import sys; from oppu_core.cli.main import main; sys.argv[0] = 'oppu'; main()"


def texts() -> list[str]:
    """Descriptions to draw from; with letters beyond ASCII, which take more memory."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnoé", k=rng.randrange(2, 10))) for _ in range(5000)]
    return [" ".join(rng.choices(words, k=rng.randrange(20, 150))) for _ in range(2000)]


def histories() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Users without end; most have short histories, some thousands of items."""
    rng, descriptions = random.Random(1), texts()
    for number in range(sys.maxsize):
        size = min(int(rng.paretovariate(0.8) * 8), 5000)
        items = [
            {
                "id": f"{number}-{t}",
                "description": rng.choice(descriptions),
                "tag": "comedy",
                "date": f"{1000 + t}-01-01",
            }
            for t in range(size)
        ]
        yield f"user {number}", items


def release(folder: Path, size: int) -> Path:
    """``user_others.json`` of about `size` bytes, and some test users."""
    users = histories()

    def record() -> str:
        user_id, items = next(users)
        query = {"id": f"q {user_id}", "input": INSTRUCTION + "A film.", "gold": "action"}
        return json.dumps({"user_id": user_id, "profile": items, "query": [query]}, ensure_ascii=False)

    for name, wanted in (("user_top_100_history.json", size // 100), ("user_others.json", size)):
        with (folder / name).open("w", encoding="utf-8") as file:
            _fill(file, wanted, record)
    return folder


def lamp(folder: Path, size: int) -> Path:
    """Questions split by time, a user's scattered over the whole file (each user comes back later on)."""
    users, open_users, rng = histories(), list[tuple[str, list[dict[str, Any]], int]](), random.Random(2)
    count = 0

    def question() -> str:
        nonlocal count
        count += 1
        if len(open_users) < 200:
            open_users.append((*next(users), 1))
        place = rng.randrange(len(open_users))
        user_id, items, nth = open_users[place]
        if nth == 4:
            del open_users[place]
        else:
            open_users[place] = (user_id, items, nth + 1)
        profile = items[: len(items) * nth // 4]
        asked = {"id": str(count), "input": INSTRUCTION + "A film.", "user_id": user_id, "profile": profile}
        return json.dumps(asked, ensure_ascii=False)

    with (folder / "train_questions.json").open("w", encoding="utf-8") as file:
        _fill(file, size, question)
    golds = [{"id": str(number), "output": "comedy"} for number in range(1, count + 1)]
    (folder / "train_outputs.json").write_text(json.dumps({"task": "LaMP_2", "golds": golds}))
    return folder


def _fill(file: TextIO, size: int, record: Callable[[], str]) -> None:
    file.write("[" + record())
    while file.tell() < size:
        file.write(",\n" + record())
    file.write("]")


def events(folder: Path, size: int) -> Path:
    """A table of events in no order."""
    descriptions, rng = texts(), random.Random(3)
    path = folder / "events.csv"
    with path.open("w", encoding="utf-8") as file:
        file.write("user_id,time,description,tag\n")
        written, users = 0, max(100, size // 20_000)
        while written < size:
            user = int(users * rng.random() ** 3)
            line = f"user {user},{rng.randrange(10**9)},{rng.choice(descriptions)},comedy\n"
            written += len(line)
            file.write(line)
    return path


def measured(path: Path, out: Path) -> tuple[float, float]:
    """Import in a process of its own: peak memory in MB, and seconds."""
    start = time.monotonic()
    arguments = ["data", "import", str(path), "--task", "lamp_2m", "--out", str(out)]
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", COMMAND, *arguments], dict(os.environ))
    _, status, usage = os.wait4(pid, 0)
    if status:
        sys.exit(f"the import of {path} failed")
    # Linux counts in kilobytes, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return usage.ru_maxrss * unit / 1e6, time.monotonic() - start


def main() -> None:
    """Measure each format and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=3000, help="size of each file")
    parser.add_argument("--folder", type=Path, help="where there is room; by default a temporary folder")
    parser.add_argument("--only", choices=["release", "lamp", "events"], help="one format")
    options = parser.parse_args()
    table = Table("format", "MB", "peak memory (MB)", "seconds", "MB/s")
    peaks = []
    for make in (release, lamp, events):
        if options.only in (None, make.__name__):
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                (source := Path(folder) / "source").mkdir()
                path = make(source, options.megabytes * 1_000_000)
                size = sum(file.stat().st_size for file in source.iterdir()) / 1e6
                peak, seconds = measured(path, Path(folder) / "out")
            peaks.append(peak)
            table.add_row(
                make.__name__, f"{size:,.0f}", f"{peak:,.0f}", f"{seconds:,.0f}", f"{size / seconds:.0f}"
            )
    Console().print(table)
    if max(peaks) > 1000:
        sys.exit("more than 1 GB")


if __name__ == "__main__":
    main()
