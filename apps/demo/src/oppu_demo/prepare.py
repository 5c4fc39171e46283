"""Making the quickstart's run while a page shows the progress."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import gradio as gr
from oppu_core.errors import ConfigError
from oppu_core.runs.execute import execute
from oppu_core.runs.options import JOBS, Compute
from oppu_core.runs.progress import ProgressReporter, Stage
from oppu_core.runs.run import Run, open_run
from oppu_core.runs.variants import variants_of
from oppu_eval.quickstart import quickstart_run, size_for
from oppu_eval.reporting.run_report import write_report
from oppu_eval.scoring.run_results import evaluate_run, results_path, run_predictions
from rich.console import Console

from oppu_demo.templating import render

TITLE = "OPPU is getting ready"
CHANGE_SECONDS = 4  # between the notice that it is ready and the first check for the new page
# Once the run is ready, the page checks repeatedly whether the new page has replaced it.
RELOAD = f"""<script>
let waiting = setInterval(() => {{
  if (!document.querySelector("[data-ready]")) return;
  clearInterval(waiting);
  setInterval(async () => {{
    try {{
      const config = await (await fetch("config")).json();
      if (config.title !== {TITLE!r}) location.reload();
    }} catch (error) {{ /* the pages are changing places */ }}
  }}, {1000 * CHANGE_SECONDS});
}}, 500);
</script>"""


@dataclasses.dataclass
class Status:
    """The progress: the stage's title, and the share of the whole that is done."""

    title: str = "Laying out the sample world"
    share: float = 0.0
    ready: bool = False


class _PageStage(Stage):
    """A stage that also reports the share of it that is done."""

    def __init__(self, stage: Stage, on_move: Callable[[float], None], total: float) -> None:
        self._stage, self._on_move, self._total, self._moved = stage, on_move, total, 0.0

    def advance(self, amount: float = 1, *, loss: float | None = None, tokens: int = 0) -> None:
        """See :meth:`Stage.advance`."""
        self._moved += amount
        self._on_move(min(self._moved / max(self._total, 1), 1))
        self._stage.advance(amount, loss=loss, tokens=tokens)


class PageWatch(ProgressReporter):
    """Reports progress to the page as well as to the terminal.

    Args:
        console: The terminal.
        log: The run's log.
        status: What the page shows.
        stages: The number of stages.
    """

    def __init__(self, console: Console, log: Path, status: Status, stages: int) -> None:
        super().__init__(console, log)
        self._status, self._stages, self._done = status, stages, 0

    @contextlib.contextmanager
    def stage(self, title: str, total: int, unit: str) -> Iterator[Stage]:
        """See :meth:`ProgressReporter.stage`."""
        self._status.title = title
        with super().stage(title, total, unit) as stage:
            yield _PageStage(stage, self._move, total)
        self._done += 1
        self._move(0)

    def _move(self, share: float) -> None:
        """Record the share of the stage that is done."""
        self._status.share = min((self._done + share) / self._stages, 1)


def ready(path: Path) -> bool:
    """Whether there is a run that is answered and scored."""
    return (path / "run.json").is_file() and results_path(open_run(path)).exists()


def prepare(path: Path, model: str, device: str, status: Status) -> Run:
    """Make the quickstart's run, or whatever is missing of it."""
    run = quickstart_run(path, size_for(model).tasks, model)
    trainings = sum(1 + variant.personal + variant.pooled for variant in variants_of(run))
    stages = trainings + len(run.config.data) * len(run.config.methods) + 1
    reporter = PageWatch(Console(stderr=True), run.log_path, status, stages)
    with run.lock():
        execute(run, JOBS, Compute(device=device), reporter)
    status.title = "Scoring, with intervals over users"
    predictions = run_predictions(run)
    write_report(run, evaluate_run(run, predictions), paper=False, predictions=predictions)
    status.share = 1.0
    return run


def check_ready(run: Run) -> None:
    """Check that a run has something to show.

    Raises:
        ConfigError: it has no personal method, so that there is nothing to compare.
    """
    if not any(name.startswith("oppu") for name in run.config.methods):
        raise ConfigError(
            f"{run.path} has no method with personal adapters; it has {', '.join(run.config.methods)}. "
            "Start one with --methods non_personalized,rag_k1,oppu_k0."
        )


def waiting_page(status: Status) -> gr.Blocks:
    """The page that is shown until the run is ready."""
    with gr.Blocks(title=TITLE, analytics_enabled=False) as blocks:
        view = gr.HTML(lambda: render("preparing.html.j2", status=status), every=1.0)
        del view
    return blocks
