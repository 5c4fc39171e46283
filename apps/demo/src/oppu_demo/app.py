"""The page: its tabs, and the events between them."""

import dataclasses
from typing import Any

import gradio as gr
from oppu_core.errors import OppuError

from oppu_demo.api import add_api
from oppu_demo.state import YOU, Page
from oppu_demo.tabs.about import about_view
from oppu_demo.tabs.compare import CompareTab, compare_tab
from oppu_demo.tabs.own import own_tab
from oppu_demo.tabs.scoreboard import per_user_rows, scoreboard_view
from oppu_demo.templating import problem, render
from oppu_demo.views.person import history_view

TITLE = "OPPU: one model, many people"
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


def build(page: Page) -> gr.Blocks:
    """Build the page for a run."""
    tasks = [(task.title, name) for name, task in page.engine.tasks.items()]
    gr.set_static_paths([page.sessions.root])  # else Gradio would keep copies of downloads
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        add_api(page)  # first, or a control's function of the same name would take the endpoint's name
        gr.HTML(render("head.html.j2"))
        with gr.Tabs() as tabs:
            with gr.Tab("Compare", id="compare"):
                compare = compare_tab(page, tasks)
            with gr.Tab("The user", id="user"):
                person = _person_tab(page, compare)
            with gr.Tab("Your own history", id="own"):
                own = own_tab(page, tasks)
            with gr.Tab("Scoreboard", id="scores"):
                board = _scoreboard_tab(page, tasks)
            with gr.Tab("How it works", id="about"):
                gr.HTML(about_view())

        def choose_task(task: str, request: gr.Request) -> list[Any]:
            if compare.shows(task, None, request.session_hash):
                return [gr.skip()] * len(compare.outputs)
            return compare.open(task, None, request.session_hash)

        def choose_user(task: str, user_id: str, request: gr.Request) -> list[Any]:
            if compare.shows(task, user_id, request.session_hash):  # a list that was opened and left
                return [gr.skip()] * len(compare.outputs)
            return compare.open(task, user_id, request.session_hash)

        def came_or_went(task: str, here: str, trained: int, request: gr.Request) -> list[Any]:
            """Select a visitor who has just trained an adapter; deselect one who was forgotten."""
            return compare.open(task if trained else here, YOU if trained else None, request.session_hash)

        def pick(task: str, event: gr.SelectData, request: gr.Request) -> list[Any]:
            who = str(event.row_value[0])
            return [gr.update(selected="compare"), *compare.open(task, who, request.session_hash)]

        def left(request: gr.Request) -> None:
            page.forget(request.session_hash)
            blocks.state_holder.session_data.pop(request.session_hash, None)

        def forget_values(visit: str) -> None:
            """Erase the controls' last values, which Gradio keeps for each visit until the server ends."""
            if visit in blocks.state_holder:
                blocks.state_holder.session_data[visit].config_values.clear()

        page.on_forget = forget_values

        both = [compare.task, compare.user]
        blocks.load(**person.meet)
        blocks.load(**board.score)
        for event in (
            compare.task.input(choose_task, compare.task, compare.outputs, **QUIET),
            compare.user.input(choose_user, both, compare.outputs, **QUIET),
            own.trained.change(came_or_went, [own.task, compare.task, own.trained], compare.outputs, **QUIET),
            board.people.select(pick, board.task, [tabs, *compare.outputs], **QUIET),
        ):
            event.then(**person.meet)
        blocks.unload(left)
    return blocks


@dataclasses.dataclass(frozen=True)
class _PersonTab:
    """The tab; `meet` are the arguments of an event that shows the chosen person."""

    meet: dict[str, Any]


def _person_tab(page: Page, compare: CompareTab) -> _PersonTab:
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
    return _PersonTab({"fn": meet, "inputs": who, "outputs": [portrait, history], **QUIET})


@dataclasses.dataclass(frozen=True)
class _ScoreboardTab:
    """The tab; `score` are the arguments of an event that shows the current results."""

    task: gr.Dropdown
    people: gr.Dataframe
    score: dict[str, Any]


def _scoreboard_tab(page: Page, tasks: list[tuple[str, str]]) -> _ScoreboardTab:
    """Lay out the tab with the run's results, over all people and for each."""
    results, run = page.results(), str(page.engine.run.path)  # current ones; a page reads them again
    task = gr.Dropdown(tasks, value=tasks[0][1], label="Task")
    board = gr.HTML(scoreboard_view(results, tasks[0][1], run))
    headers, rows = per_user_rows(results, tasks[0][1])
    gr.HTML(
        '<p class="oppu-note">Every person’s score by each method; click one to open them in Compare.</p>'
    )
    people = gr.Dataframe(
        rows, headers=headers, label="People", interactive=False, show_search="search", max_height=420
    )

    def score(name: str) -> list[Any]:
        results = page.results()
        names, values = per_user_rows(results, name)
        return [scoreboard_view(results, name, run), gr.update(value=values, headers=names)]

    task.input(score, task, [board, people], **QUIET)
    return _ScoreboardTab(task, people, {"fn": score, "inputs": task, "outputs": [board, people], **QUIET})
