"""The tab "The person": the person who is chosen in Compare."""

import dataclasses
from typing import Any

import gradio as gr
from oppu_core.errors import OppuError

from oppu_demo.state import Page
from oppu_demo.tabs import QUIET
from oppu_demo.tabs.compare import CompareTab
from oppu_demo.templating import problem
from oppu_demo.views.person import history_view


@dataclasses.dataclass(frozen=True)
class PersonTab:
    """The tab; `meet` are the arguments of an event that shows the chosen person."""

    meet: dict[str, Any]


def person_tab(page: Page, compare: CompareTab) -> PersonTab:
    """Lay out the tab about the person who is chosen in Compare."""
    portrait = gr.HTML(min_height=300)
    search = gr.Textbox(label="Search their history", placeholder="a word, a tag, a date")
    history = gr.HTML(max_height=560)

    def meet(task: str, user_id: str, words: str, request: gr.Request) -> list[Any]:
        session = page.session(request.session_hash)
        try:
            person = page.person(task, user_id, session)
        except OppuError as error:
            return [problem(error), ""]
        return [page.portrait(task, person, session), history_view(person, words)]

    def look(task: str, user_id: str, words: str, request: gr.Request) -> str:
        try:
            return history_view(page.person(task, user_id, page.session(request.session_hash)), words)
        except OppuError as error:
            return problem(error)

    who = [compare.task, compare.user, search]
    search.change(look, who, history, trigger_mode="always_last", **QUIET)
    return PersonTab({"fn": meet, "inputs": who, "outputs": [portrait, history], **QUIET})
