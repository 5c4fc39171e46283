"""A small run of the sample world, with its task bases trained, and one engine for all tests.

For the tests of the page, a finished run as well, and one server of it.
"""

import os
import shutil
from collections.abc import Callable, Iterator

import pytest
from browser_pages import SECONDS, Served, Visitor
from oppu_core.data.dataset_writer import write_dataset
from oppu_core.data.sample import sample_users
from oppu_core.runs.config import resolve_config
from oppu_core.runs.execute import execute
from oppu_core.runs.options import Compute, RunOptions
from oppu_core.runs.run import Run
from oppu_core.runs.start import start_run
from oppu_core.tasks.task_files import get_task
from oppu_demo.app import build
from oppu_demo.engine import Engine
from oppu_demo.launch import launch
from oppu_demo.sessions import Session, Sessions
from oppu_demo.state import Page
from oppu_eval.scoring.run_results import evaluate_run
from playwright.sync_api import Browser, expect, sync_playwright

TASKS = ("lamp_2m", "lamp_7")
METHODS = ("non_personalized", "rag_k1", "oppu_k0", "oppu_rag_k1")


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two tasks, two variants, one quick epoch; nobody's adapter is trained."""
    folder = tmp_path_factory.mktemp("demo")
    for name in TASKS:
        users = sample_users(get_task(name), test_users=2, other_users=6, history=(6, 9), queries=2, seed=0)
        write_dataset(folder / "data" / name, get_task(name), users, {"kind": "sample world"})
    config = resolve_config(RunOptions(
        data=[folder / "data" / name for name in TASKS], model="tiny", methods=METHODS, preset="auto",
        settings=["personal.epochs=1", "task_lora.epochs=1"], dtype="float32", seed=0, users=None,
        sample=False,
    ))  # fmt: skip
    made = start_run(folder / "run", config)
    execute(made, ["bases"], Compute(device="cpu"))
    return made


@pytest.fixture(scope="session")
def engine(run: Run) -> Engine:
    """The run's engine; it is never changed by what is asked of it."""
    return Engine(run, "cpu")


@pytest.fixture
def sessions() -> Iterator[Sessions]:
    """No sessions yet."""
    made = Sessions()
    yield made
    made.close()


@pytest.fixture
def session(sessions: Sessions) -> Session:
    """A new one."""
    return sessions.new()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The quickstart in small: what adapters learn shows in the answers, and everything is scored."""
    folder = tmp_path_factory.mktemp("finished")
    for name, people, others, history in (("lamp_2m", 3, 6, (16, 28)), ("lamp_4", 2, 4, (6, 9))):
        users = sample_users(
            get_task(name), test_users=people, other_users=others, history=history, queries=4, seed=0
        )
        write_dataset(folder / "data" / name, get_task(name), users, {"kind": "sample world"})
    config = resolve_config(RunOptions(
        data=[folder / "data" / "lamp_2m", folder / "data" / "lamp_4"], model="tiny",
        methods=("non_personalized", "rag_k1", "pag_k0", "oppu_k0", "oppu_rag_k1"), preset="auto",
        settings=["personal.epochs=4"], dtype="float32", seed=0, users=None, sample=False,
    ))  # fmt: skip
    made = start_run(folder / "run", config)
    execute(made, ["bases", "personal", "answers"], Compute(device="cpu"))
    evaluate_run(made)
    return made


@pytest.fixture(scope="module")  # an idle server takes a tenth of a core from the tests that come after
def served(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The page of the finished run."""
    cache = tmp_path_factory.mktemp("gradio")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(cache))
        page = Page(Engine(finished, "cpu"))
        blocks = build(page)
        address = launch(blocks, prevent_thread_lock=True)
        yield Served(page, address.rstrip("/"), cache)
        blocks.close(verbose=False)
        page.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None and not os.environ.get("CI"):
        pytest.skip("There is no Chromium here; install Debian's package chromium.")
    assert chromium, "The tests of the page need Debian's package chromium."
    expect.set_options(timeout=1000 * SECONDS)  # a loaded machine takes its time
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def visit(browser: Browser, served: Served) -> Iterator[Callable[..., Visitor]]:
    """Come to the page, each time as somebody else. At the end nobody met an error or another server."""
    visitors: list[Visitor] = []

    def come(width: int = 1280, theme: str = "light") -> Visitor:
        context = browser.new_context(viewport={"width": width, "height": 844}, accept_downloads=True)
        visitors.append(Visitor(context.new_page(), served.address, theme))
        return visitors[-1]

    yield come
    for visitor in visitors:
        hacked = None if visitor.page.is_closed() else visitor.page.evaluate("window.hacked")
        visitor.page.context.close()
        assert hacked is None
        assert visitor.errors == []
        elsewhere = [
            url for url in visitor.requests if not url.startswith((served.address, "data:", "blob:"))
        ]
        assert elsewhere == []
