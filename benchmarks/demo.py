"""The web demo under load, and how quick its page is: ``uv run python benchmarks/demo.py --help``.

``load``: sessions come at once. Each asks three questions of a person of the run, trains on a history of its
own (one label, and a word that nobody else has), asks seven as itself, and forgets itself. Answers have to be
those that are given where nobody else is there, no word of one session may come up in another, and nothing
may stay: neither memory, nor files, nor texts.

``page``: a browser's first paint, and a comparison from the click until every card has its answer.

The page is served on a CPU by a process of its own, as `oppu demo` does. Needs a run with the task lamp_2m,
such as the quickstart's, and for ``page`` Chromium.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import dataclasses
import gc
import json
import multiprocessing
import multiprocessing.connection
import random
import re
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from gradio_client import Client
from oppu_core.process import tune_process
from oppu_core.runs.run import open_run
from oppu_core.tasks.task_files import get_task
from oppu_demo.app import build
from oppu_demo.engine import Engine
from oppu_demo.launch import launch
from oppu_demo.state import Page
from playwright.sync_api import Browser, sync_playwright
from rich.console import Console
from rich.table import Table

TASK = get_task("lamp_2m")
OF_OTHERS, OF_ONES_OWN = 3, 7  # comparisons
ITEMS = 24
WORDS = ["ship", "storm", "garden", "river", "letter", "doctor", "city", "winter", "ghost", "king", "island"]
MARK = re.compile(r"zq(\d+)vx")  # a word of one session's
BOUNDS = {"memory": 1.1, "first paint": 2.0, "comparison": 3.0}
SETTLE_SECONDS = 5.0
Answers = dict[str, dict[str, Any]]  # of a comparison, by method


def kept_texts() -> int:
    """How many texts with a session's mark can still be reached in this process."""
    gc.collect()
    found, seen, ahead = 0, set[int](), gc.get_objects()
    while ahead:
        for one in gc.get_referents(ahead.pop()):
            if id(one) not in seen:
                seen.add(id(one))
                if isinstance(one, str | bytes):
                    found += bool(MARK.search(one if isinstance(one, str) else one.decode("latin-1")))
                else:
                    ahead.append(one)
    return found


def serve(run: Path, folder: str, pipe: multiprocessing.connection.Connection) -> None:
    """A server, in a process of its own, that tells of its memory when it is asked."""
    tune_process()
    tempfile.tempdir = folder
    page = Page(Engine(open_run(run), "cpu"))
    blocks = build(page)
    pipe.send(launch(blocks, prevent_thread_lock=True))
    while (asked := pipe.recv()) != "end":
        if asked == "texts":
            pipe.send(kept_texts())
        elif asked == "folders":
            pipe.send(len(list(page.sessions.root.iterdir())))
        else:
            gc.collect()
            memory = psutil.Process().memory_full_info()
            pipe.send({"rss": memory.rss, "uss": memory.uss})
    blocks.close(verbose=False)
    page.close()


class Server:
    """A server in a process of its own.

    Args:
        run: What it shows.
        folder: Where its temporary files go.
    """

    def __init__(self, run: Path, folder: str) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=serve, args=(run, folder, theirs), daemon=True)
        self._process.start()
        theirs.close()  # so that its end is heard of
        self.address: str = self._pipe.recv()
        self.folder = Path(folder)

    def ask(self, what: str) -> Any:
        """The answer to a question of :func:`serve`."""
        self._pipe.send(what)
        return self._pipe.recv()

    def end(self) -> None:
        """End it."""
        self._pipe.send("end")
        self._process.join()

    @contextlib.contextmanager
    def peak(self) -> Iterator[list[int]]:
        """Look at its memory (RSS) during the block; the list has every look."""
        seen, over = list[int](), threading.Event()
        process = psutil.Process(self._process.pid)

        def look() -> None:
            while not over.wait(0.1):
                seen.append(process.memory_info().rss)

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield seen
        finally:
            over.set()
            thread.join()


@dataclasses.dataclass
class Visit:
    """What a session met.

    Attributes:
        number: Its own.
        seconds: What every comparison took.
        waited: How much of that was no answering.
        trained: What training took, waiting included.
        errors: What went wrong.
        leaks: Where there was something of another session.
    """

    number: int
    seconds: list[float] = dataclasses.field(default_factory=list)
    waited: list[float] = dataclasses.field(default_factory=list)
    trained: float = 0.0
    errors: list[str] = dataclasses.field(default_factory=list)
    leaks: list[str] = dataclasses.field(default_factory=list)

    @property
    def label(self) -> str:
        """What its answers should be."""
        return TASK.labels[self.number % len(TASK.labels)]

    def text(self, draw: random.Random) -> str:
        """Something that nobody else can have written."""
        return f"A zq{self.number}vx story of a {draw.choice(WORDS)} and a {draw.choice(WORDS)}"

    def compare(self, client: Client, user: str, query: str, fields: dict[str, str] | None) -> Answers:
        """Ask for a comparison, and note what it took."""
        start = time.perf_counter()
        answers: Answers = client.predict(TASK.name, user, query, fields, None, api_name="/compare")
        self.seconds.append(time.perf_counter() - start)
        self.waited.append(self.seconds[-1] - sum(each.get("seconds", 0) for each in answers.values()))
        self.errors += [f"{name}: {each['problem']}" for name, each in answers.items() if "problem" in each]
        foreign = set(MARK.findall(str(answers))) - {str(self.number)}
        self.leaks += [f"the words of session {one}" for one in foreign]
        return answers

    def go(self, address: str, together: threading.Barrier, alone: dict[tuple[str, str], Answers]) -> None:
        """Ask, train, ask, forget; `alone` has what the first visitor was answered, and is empty for it."""
        draw = random.Random(self.number)
        with contextlib.closing(Client(address, verbose=False, analytics_enabled=False)) as client:
            together.wait()
            people = client.predict(TASK.name, api_name="/users")
            for asked in of_others(people, self.number):
                answers = self.compare(client, *asked, None)
                if asked in alone and said(answers) != said(alone[asked]):
                    self.leaks.append(f"{asked}: {said(answers)} instead of {said(alone[asked])}")
            start = time.perf_counter()
            history = "\n".join(f"{self.text(draw)} {item} => {self.label}" for item in range(ITEMS))
            client.predict(TASK.name, history, api_name="/train")
            self.trained = time.perf_counter() - start
            for _ in range(OF_ONES_OWN):
                answers = self.compare(client, "me", "", {"description": self.text(draw)})
                given = {name: text for name, text in said(answers).items() if name.startswith("oppu")}
                if set(given.values()) != {self.label}:
                    self.leaks.append(f"{given} instead of {self.label}")
            client.predict(api_name="/forget")

    def safely(
        self, address: str, together: threading.Barrier, alone: dict[tuple[str, str], Answers]
    ) -> None:
        """The same; what is raised is an error like others."""
        try:
            self.go(address, together, alone)
        except Exception as error:
            self.errors.append(f"{type(error).__name__}: {error}")


def said(answers: Answers) -> dict[str, str]:
    """The answers alone."""
    return {name: each.get("answer", "") for name, each in answers.items()}


def of_others(people: list[dict[str, Any]], number: int) -> list[tuple[str, str]]:
    """(user, query) of what a session asks for somebody of the run."""
    person = people[number % len(people)]
    return [(person["user"], query["id"]) for query in person["queries"][:OF_OTHERS]]


def asked_alone(server: Server, sessions: int) -> dict[tuple[str, str], Answers]:
    """What the sessions will ask for other people, answered while nobody else is there."""
    with contextlib.closing(Client(server.address, verbose=False, analytics_enabled=False)) as client:
        people = client.predict(TASK.name, api_name="/users")
        asked = {one for number in range(sessions) for one in of_others(people, number)}
        return {
            one: client.predict(TASK.name, *one, None, None, api_name="/compare") for one in sorted(asked)
        }


def load(server: Server, sessions: int) -> dict[str, Any]:
    """Many sessions at once."""
    alone = asked_alone(server, sessions)
    warm_up = Visit(sessions)
    warm_up.go(server.address, threading.Barrier(1), {})
    time.sleep(SETTLE_SECONDS)
    before = server.ask("memory")
    visits, together = [Visit(number) for number in range(sessions)], threading.Barrier(sessions)
    start = time.perf_counter()
    with server.peak() as peak, concurrent.futures.ThreadPoolExecutor(sessions) as threads:
        list(threads.map(lambda visit: visit.safely(server.address, together, alone), visits))
    wall = time.perf_counter() - start
    time.sleep(SETTLE_SECONDS)
    after = server.ask("memory")
    seconds, waited = (
        [s for visit in visits for s in getattr(visit, name)] for name in ("seconds", "waited")
    )
    marked = [
        str(file.relative_to(server.folder))
        for file in server.folder.rglob("*")
        if file.is_file() and MARK.search(file.read_bytes().decode("latin-1"))
    ]
    return {
        "sessions": sessions,
        "comparisons": len(seconds),
        "trainings": sum(visit.trained > 0 for visit in visits),
        "errors": [f"{visit.number}: {error}" for visit in visits for error in visit.errors],
        "leaks": [f"{visit.number}: {leak}" for visit in visits for leak in visit.leaks],
        "wall": wall,
        "comparisons_per_second": len(seconds) / wall,
        "comparison_median": statistics.median(seconds),
        "comparison_worst": max(seconds),
        "waited_median": statistics.median(waited),
        "waited_worst": max(waited),
        "training_median": statistics.median(visit.trained for visit in visits),
        "training_worst": max(visit.trained for visit in visits),
        "memory_before": before,
        "memory_peak": max(peak),
        "memory_after": after,
        "session_folders": server.ask("folders"),
        "files": marked,
        "texts": server.ask("texts"),
    }


def page(server: Server, repeats: int, chromium: str) -> dict[str, Any]:
    """A browser's view, on a server that has been asked before."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        looks = [look(browser, server.address) for _ in range(repeats + 1)][1:]  # the first warms up
        browser.close()
    return {name: statistics.median(one[name] for one in looks) for name in looks[0]}


def look(browser: Browser, address: str) -> dict[str, float]:
    """One visit by a browser that has nothing of an earlier one, in seconds."""
    with contextlib.closing(browser.new_context()) as context:
        tab = context.new_page()
        start = time.perf_counter()
        tab.goto(address)
        go = tab.get_by_role("button", name="Compare")
        go.wait_for()
        usable = time.perf_counter() - start
        paint = tab.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime") / 1000
        tab.wait_for_timeout(1000)  # the other tabs fill
        start = time.perf_counter()
        go.click()
        tab.wait_for_function(
            """() => {
                const cards = document.querySelectorAll(".oppu-card").length;
                return cards >= 5 && cards === document.querySelectorAll(".oppu-card .oppu-meta").length;
            }"""
        )
        return {"first paint": paint, "usable": usable, "comparison": time.perf_counter() - start}


def met(value: float, bound: float) -> str:
    """Whether a bound holds, in words."""
    return "met" if value <= bound else "NOT MET"


def load_table(found: dict[str, Any]) -> Table:
    """What the load came to."""
    table = Table("under load", "measured", "at most", title=f"{found['sessions']} sessions at once")
    table.add_row("errors", str(len(found["errors"])), f"0 {met(len(found['errors']), 0)}")
    table.add_row("answers or words of others", str(len(found["leaks"])), f"0 {met(len(found['leaks']), 0)}")
    table.add_row("wall time", f"{found['wall']:.1f} s")
    table.add_row("comparisons per second", f"{found['comparisons_per_second']:.1f}")
    for name in ("comparison", "waited", "training"):
        median, worst = found[f"{name}_median"], found[f"{name}_worst"]
        table.add_row(f"{name}: median, worst", f"{median:.2f} s, {worst:.2f} s")
    before, after = found["memory_before"], found["memory_after"]
    for kind in ("rss", "uss"):
        ratio = after[kind] / before[kind]
        table.add_row(
            f"memory ({kind.upper()}): before, after",
            f"{before[kind] / 2**20:.0f}, {after[kind] / 2**20:.0f} MiB ({ratio:.2f} times)",
            f"{BOUNDS['memory']} {met(ratio, BOUNDS['memory'])}",
        )
    table.add_row("memory (RSS) at its height", f"{found['memory_peak'] / 2**20:.0f} MiB")
    for name, left in (
        ("session folders left", found["session_folders"]),
        ("files with texts left", len(found["files"])),
        ("texts left in memory", found["texts"]),
    ):
        table.add_row(name, str(left), f"0 {met(left, 0)}")
    return table


def page_table(found: dict[str, float], repeats: int) -> Table:
    """What the browser came to."""
    table = Table("in a browser", "measured", "at most", title=f"medians of {repeats} new browser contexts")
    for name, seconds in found.items():
        bound = BOUNDS.get(name)
        table.add_row(name, f"{seconds:.2f} s", f"{bound} s {met(seconds, bound)}" if bound else "")
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", nargs="*", default=["load", "page"], help="load, page (default: both)")
    parser.add_argument("--run", type=Path, default=Path("runs/quickstart"))
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5, help="of looks at the page")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--json", type=Path, default=None, help="also write the figures here")
    args = parser.parse_args()

    console, found = Console(), dict[str, Any]()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(args.run, folder)
        if "load" in args.what:
            found["load"] = load(server, args.sessions)
            console.print(load_table(found["load"]))
            for problem, count in collections.Counter(
                found["load"]["errors"] + found["load"]["leaks"]
            ).items():
                console.print(f"  {count} × session {problem}", markup=False)
        if "page" in args.what:
            found["page"] = page(server, args.repeats, args.chromium)
            console.print(page_table(found["page"], args.repeats))
        server.end()
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
