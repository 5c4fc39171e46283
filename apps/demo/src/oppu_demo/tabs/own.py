"""The tab "Your history": paste, train, download, forget."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from oppu_core.data.history_files import how_to
from oppu_core.errors import ConfigError, OppuError
from oppu_core.tasks.task import Task

from oppu_demo.export import write_zip
from oppu_demo.own_history import (
    MAX_BYTES,
    MAX_ITEM_CHARS,
    MAX_ITEMS,
    example,
    read_file,
    read_items,
    train_own,
)
from oppu_demo.state import Page
from oppu_demo.tabs import QUIET
from oppu_demo.templating import notice, problem, render
from oppu_demo.views.comparison import adapter_title
from oppu_demo.views.person import loss_curve

PROMISE = (
    "What you paste stays in the memory of this server and in a folder of your session. Nobody else sees it. "
    "It goes when you press Forget me, close the page, or leave it unused for an hour."
)
LIMITS = (
    f"At most {MAX_BYTES // 10**6} MB, {MAX_ITEMS:,} items, {MAX_ITEM_CHARS:,} characters an item; archives "
    "are not unpacked."
)
UNCHECKED = notice("Your items will be checked here.")
FORGOTTEN = notice("Forgotten: your items, your adapter and the downloads are gone from memory and disk.")


@dataclasses.dataclass(frozen=True)
class OwnTab:
    """The controls that others listen to; `trained` changes when an adapter is trained or removed."""

    task: gr.Dropdown
    trained: gr.State
    compare: gr.Button


def _how(task: Task) -> str:
    """How to write items, and which answers they may have."""
    labels = f" The {task.output_field} is one of: {', '.join(task.labels)}." if task.labelled_history else ""
    return how_to(task) + labels


class _Handlers:
    """The event handlers of the tab's controls."""

    def __init__(self, page: Page) -> None:
        self._page = page

    def check(self, task: str, content: str) -> str:
        """Check pasted items."""
        if not content.strip():
            return UNCHECKED
        try:
            return render("preview.html.j2", preview=read_items(self._page.task(task), content, None))
        except OppuError as error:
            return problem(error)

    def choose_task(self, task: str, content: str) -> list[Any]:
        """Show how items of another task are written."""
        # A text pasted meanwhile is checked separately, and its result may come before this one.
        preview = self.check(task, content) if content.strip() else gr.skip()
        return [gr.update(info=_how(self._page.task(task))), preview]

    def fill(self, task: str) -> str:
        """Items to try."""
        return example(self._page.task(task))

    def take_file(self, task: str, file: str) -> list[Any]:
        """Put an uploaded file's text into the box for pasted text."""
        try:
            content = read_file(Path(file))
            read_items(self._page.task(task), None, Path(file))  # its suffix tells the format
        except OppuError as error:
            return [gr.skip(), problem(error)]
        finally:
            Path(file).unlink(missing_ok=True)  # nothing of it stays on disk
            with contextlib.suppress(OSError):
                Path(file).parent.rmdir()  # Gradio's folder, named by a hash of the file
        return [content, self.check(task, content)]

    def learn(self, task: str, content: str, request: gr.Request) -> Iterator[list[Any]]:
        """Train and show the progress: [progress, train, cancel, variant, download, compare, trained]."""
        session = self._page.session(request.session_hash)
        off, on, rest = gr.update(interactive=False), gr.update(interactive=True), [gr.skip()] * 4
        try:
            items = read_items(self._page.task(task), content, None).something()
            yield [render("training.html.j2", step=None, curve=""), off, on, *rest]
            for step in train_own(self._page.engine, session, task, items):
                curve = loss_curve(step.losses[step.variant], step.steps)
                yield [render("training.html.j2", step=step, curve=curve), off, on, *rest]
            if (own := session.own) is None:
                raise ConfigError(session.ended)
            names = list(own.adapters)
            named = [(adapter_title(name), name) for name in names]
            seconds = sum(facts.seconds for facts in own.facts.values())
            yield [
                render("trained.html.j2", own=own, seconds=seconds),
                on,
                off,
                gr.update(choices=named, value=names[0], visible=True),
                gr.update(visible=True, value=str(write_zip(self._page.engine, session, names[0]))),
                gr.update(visible=True),
                id(own),
            ]
        except OppuError as error:
            yield [problem(error), on, off, *rest]

    def something(self, content: str, request: gr.Request) -> Any:
        """Offer to forget what there is."""
        session = self._page.known(request.session_hash)
        return gr.update(visible=bool(content.strip() or (session and session.own)))

    def cancel(self, request: gr.Request) -> None:
        """End the training at its next step."""
        self._page.session(request.session_hash).cancel()

    def choose_variant(self, variant: str, request: gr.Request) -> Any:
        """Make another adapter ready for download."""
        try:
            path = write_zip(self._page.engine, self._page.session(request.session_hash), variant)
        except OppuError:
            return gr.update(visible=False)
        return gr.update(value=str(path))

    def erase(self, request: gr.Request) -> list[Any]:
        """Remove everything: [text, preview, progress, variant, download, compare, trained]."""
        self._page.forget(request.session_hash)
        return [
            "", UNCHECKED, FORGOTTEN, gr.update(visible=False, choices=[]),
            gr.update(visible=False, value=None), gr.update(visible=False), 0,
        ]  # fmt: skip


def own_tab(page: Page, tasks: list[tuple[str, str]]) -> OwnTab:
    """Lay out the tab."""
    first = tasks[0][1]
    gr.HTML(render("own_head.html.j2", promise=PROMISE, limits=LIMITS))
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=300):
            task = gr.Dropdown(tasks, value=first, label="What for")
            text = gr.Textbox(
                label="Your items", info=_how(page.task(first)), lines=12, max_lines=18,
                max_length=2 * MAX_BYTES,
            )  # fmt: skip
            with gr.Row():
                sample = gr.Button("Fill in an example", size="sm")
                upload = gr.UploadButton("Upload a file", size="sm", type="filepath")
        with gr.Column(scale=1, min_width=300):
            preview = gr.HTML(UNCHECKED, elem_id="oppu-preview")
            with gr.Row():
                train = gr.Button("Train my adapter", variant="primary")
                cancel = gr.Button("Cancel", interactive=False)
            progress = gr.HTML(elem_id="oppu-training", min_height=120)
            with gr.Row():
                variant = gr.Dropdown([], label="Adapter", visible=False)
                download = gr.DownloadButton("Download it", visible=False)
            compare = gr.Button("Compare yourself with the model alone", variant="primary", visible=False)
            forget = gr.Button("Forget me", variant="stop", visible=False)
    trained = gr.State(0)
    do, done = _Handlers(page), [variant, download, compare, trained]
    text.change(do.check, [task, text], preview, trigger_mode="always_last", **QUIET)
    text.input(lambda: "", None, progress, **QUIET)  # what was said of other items
    gr.on([text.change, trained.change], do.something, text, forget, trigger_mode="always_last", **QUIET)
    task.input(do.choose_task, [task, text], [text, preview], **QUIET)
    sample.click(do.fill, task, text, **QUIET)
    upload.upload(do.take_file, [task, upload], [text, preview], **QUIET)
    train.click(
        do.learn, [task, text], [progress, train, cancel, *done],
        concurrency_id="train", concurrency_limit=2, api_visibility="private", show_progress="minimal",
        show_progress_on=[progress],
    )  # fmt: skip
    cancel.click(do.cancel, queue=False, **QUIET)
    variant.input(do.choose_variant, variant, download, **QUIET)
    forget.click(do.erase, None, [text, preview, progress, *done], **QUIET)
    return OwnTab(task, trained, compare)
