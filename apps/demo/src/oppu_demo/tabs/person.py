"""The tab "Person": the person who is chosen in Compare."""

import dataclasses
from typing import Any

import gradio as gr
from oppu_core.errors import OppuError

from oppu_demo.state import Page
from oppu_demo.tabs import QUIET
from oppu_demo.templating import problem
from oppu_demo.views.person import history_view


@dataclasses.dataclass(frozen=True)
class PersonTab:
    """The tab; `meet` are the arguments of an event that shows the chosen person."""

    meet: dict[str, Any]


def person_tab(page: Page) -> PersonTab:
    """Lay out the tab about the person who is chosen in Compare."""
    portrait = gr.HTML(min_height=300)
    search = gr.Textbox(label="Search their history", placeholder="a word, a tag, a date")
    history = gr.HTML(max_height=560)

    def meet(words: str, request: gr.Request) -> list[Any]:
        session, at = page.session(request.session_hash), page.looking(request.session_hash)
        try:
            person = page.person(at.task, at.user_id, session)
        except OppuError as error:
            return [problem(error), ""]
        return [page.portrait(at.task, person, session), history_view(person, words)]

    def look(words: str, request: gr.Request) -> str:
        session, at = page.session(request.session_hash), page.looking(request.session_hash)
        try:
            return history_view(page.person(at.task, at.user_id, session), words)
        except OppuError as error:
            return problem(error)

    search.change(look, search, history, trigger_mode="always_last", **QUIET)
    return PersonTab({"fn": meet, "inputs": search, "outputs": [portrait, history], **QUIET})
