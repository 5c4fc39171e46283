"""Serving the page, by the command line's options, until Ctrl-C."""

import signal
import socket
import sys
import time
from pathlib import Path

from oppu_core.errors import ConfigError
from oppu_core.modeling.base import pick_device
from oppu_core.modeling.base_files import TINY, base_folder
from oppu_core.modeling.precision import slow_dtype
from oppu_core.runs.config import placed
from oppu_core.runs.progress import ProgressReporter
from oppu_core.runs.run import Run, open_run
from oppu_eval.quickstart import default_folder
from rich.console import Console

from oppu_demo.app import build
from oppu_demo.engine import Engine
from oppu_demo.launch import launch
from oppu_demo.prepare import CHANGE_SECONDS, RELOAD, Status, check_ready, prepare, ready, waiting_page
from oppu_demo.state import Page

FIRST_PORT, PORTS = 7860, 100


def free_port(host: str, port: int | None) -> int:
    """The given port, or the first free one.

    Raises:
        ConfigError: the port is taken, or this machine has no such address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in [port] if port else range(FIRST_PORT, FIRST_PORT + PORTS):
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, candidate))
            except OSError as error:
                if not isinstance(error, PermissionError) and error.errno not in (98, 48):
                    raise ConfigError(f"--host {host}: {error.strerror}.") from error
                continue
            return candidate
    taken = f"--port {port} is" if port else f"The ports {FIRST_PORT} to {FIRST_PORT + PORTS - 1} are"
    raise ConfigError(f"{taken} in use; choose another with --port.")


def _page(run: Run, device: str) -> Page:
    check_ready(run)
    reporter = ProgressReporter(Console(stderr=True))
    reporter.warn(slow_dtype(run.config.dtype, pick_device(device)))
    engine = Engine(run, device)
    reporter.warn(engine.base.caution)
    return Page(engine)


def serve(
    path: Path | None,
    model: str,
    host: str,
    port: int | None,
    auth: str | None,
    browser: bool,
    device: str,
) -> None:
    """Serve the page for a run until it is interrupted.

    Args:
        path: The run; None takes the quickstart's.
        model: The base of the quickstart's run.
        host: The address to listen on.
        port: The port; None takes a free one.
        auth: ``name:password``, or None.
        browser: Whether to open the page in a browser.
        device: Where to compute.

    Raises:
        OppuError: the run cannot be shown, or the address cannot be used.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # visitors' files are removed, as on Ctrl-C
    console = Console(stderr=True, highlight=False)
    if path is None:
        base_folder(model)  # refused before a page is opened
    port, quickstart = free_port(host, port), default_folder(model)
    name, _, password = (auth or "").partition(":")
    options = {"auth": (name, password) if auth else None, "prevent_thread_lock": True}
    if path is None and not ready(quickstart):
        status = Status()
        waiting = waiting_page(status)
        address = launch(waiting, host, port, head=RELOAD, inbrowser=browser, **options)
        console.print(f"Getting ready; the page shows how far it is: [bold]{address}[/]")
        browser = False
        try:
            page = _page(prepare(quickstart, model, device, status), device)
            blocks = build(page)
            status.ready = True
            time.sleep(CHANGE_SECONDS / 2)  # until every page has been notified
        finally:
            waiting.close(verbose=False)
    else:
        with console.status("loading the base …"):
            run = open_run(path or quickstart)
            if path is None and run.config.model != (model if model == TINY else placed(model)):
                raise ConfigError(
                    f"{quickstart} is of another base, {run.config.model}; move it away, or show it by --run."
                )
            page = _page(run, device)
            blocks = build(page)
    address = launch(blocks, host, port, inbrowser=browser, **options)
    console.print(f"The page: [bold]{address}[/]   (Ctrl-C ends it)")
    if auth is None and host not in ("127.0.0.1", "localhost", "::1"):
        console.print("[yellow]Anybody who reaches this machine can use it; --auth asks for a password.[/]")
    try:
        while True:
            time.sleep(3600)
    finally:
        blocks.close(verbose=False)
        page.close()
