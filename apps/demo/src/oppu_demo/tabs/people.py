"""The head of the tab "Compare": one question, and what several people's models answer."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import gradio as gr
from oppu_core.errors import OppuError

from oppu_demo.state import Page
from oppu_demo.templating import notice, problem
from oppu_demo.views.about import about_view
from oppu_demo.views.people import people_view


@dataclasses.dataclass(frozen=True)
class PeoplePart:
    """The controls; `question` is (task, user id, query id), `show` are an event's arguments."""

    task: gr.Dropdown
    another: gr.Button
    question: gr.State
    show: dict[str, Any]


def people_part(page: Page, tasks: list[tuple[str, str]]) -> PeoplePart:
    """Lay out the task, the question, and its answers."""
    with gr.Row(elem_id="oppu-which"):
        task = gr.Dropdown(tasks, value=tasks[0][1], label="Task", scale=3, min_width=200)
        another = gr.Button("Another question", size="md", scale=0, min_width=200)
    question = gr.State((tasks[0][1], *page.telling(tasks[0][1])))
    view = gr.HTML(elem_id="oppu-people", min_height=260)
    with gr.Accordion("How it works, in six sentences and a picture", open=False):
        gr.HTML(about_view())

    def show(asked: tuple[str, str, str]) -> Iterator[str]:
        if not asked[2]:
            yield notice("There are no questions here; ask in your own words below.")
            return
        try:
            for answers in page.several.ask(*asked):
                yield people_view(page.task(asked[0]), answers)
        except OppuError as error:
            yield problem(error)

    return PeoplePart(task, another, question, {
        "fn": show, "inputs": question, "outputs": view, "concurrency_id": "compare",
        "concurrency_limit": 2, "api_visibility": "private", "show_progress": "hidden",
    })  # fmt: skip
