"""The page: its tabs, and the events between them."""

from typing import Any

import gradio as gr

from oppu_demo.api import add_api
from oppu_demo.state import YOU, Page
from oppu_demo.tabs import QUIET
from oppu_demo.tabs.compare import THEIRS, compare_tab
from oppu_demo.tabs.own import own_tab
from oppu_demo.tabs.people import people_part
from oppu_demo.tabs.person import person_tab
from oppu_demo.tabs.scoreboard import scoreboard_tab
from oppu_demo.templating import render
from oppu_demo.views.head import what_is_shown

TITLE = "OPPU: one model, many people"


def build(page: Page) -> gr.Blocks:
    """Build the page for a run."""
    tasks = [(task.title, name) for name, task in page.engine.tasks.items()]
    gr.set_static_paths([page.sessions.root])  # else Gradio would keep copies of downloads
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        add_api(page)  # first, or a control's function of the same name would take the endpoint's name
        gr.HTML(render("head.html.j2", what=what_is_shown(page.engine.run)))
        with gr.Tabs() as tabs:
            with gr.Tab("Compare", id="compare"):
                people = people_part(page, tasks)
                compare = compare_tab(page, people.task)
            with gr.Tab("Person", id="person"):
                person = person_tab(page)
            with gr.Tab("Your history", id="own"):
                own = own_tab(page, tasks)
            with gr.Tab("Scores", id="scores"):
                board = scoreboard_tab(page, tasks)

        def turn(task: str, who: str | None, request: gr.Request) -> list[Any]:
            """Open a task and a person: [question, *compare.outputs]; another task has another question."""
            same = compare.shows(task, None, request.session_hash)
            question = gr.skip() if same else (task, *page.telling(task))
            return [question, *compare.open(task, who, request.session_hash)]

        def choose_task(task: str, request: gr.Request) -> list[Any]:
            if compare.shows(task, None, request.session_hash):
                return [gr.skip()] * len(turned)
            return turn(task, None, request)

        def next_question(question: tuple[str, str, str], request: gr.Request) -> list[Any]:
            task, user_id, query_id = following = page.several.after(*question)
            return [following, *compare.open(task, user_id, request.session_hash, (THEIRS, query_id))]

        def choose_user(
            task: str, user_id: str, kind: str, query: str | None, request: gr.Request
        ) -> list[Any]:
            """Turn to another person; the question stays."""
            if compare.shows(task, user_id, request.session_hash):  # a list that was opened and left
                return [gr.skip()] * len(compare.outputs)
            return compare.open(task, user_id, request.session_hash, (kind, query or ""))

        def came_or_went(task: str, here: str, trained: int, request: gr.Request) -> list[Any]:
            """Select a visitor who has just trained an adapter; deselect one who was forgotten."""
            return turn(task if trained else here, YOU if trained else None, request)

        def pick(task: str, event: gr.SelectData, request: gr.Request) -> list[Any]:
            return [gr.update(selected="compare"), *turn(task, str(event.row_value[0]), request)]

        def left(request: gr.Request) -> None:
            page.forget(request.session_hash)
            blocks.state_holder.session_data.pop(request.session_hash, None)

        def forget_values(visit: str) -> None:
            """Erase the controls' last values, which Gradio keeps for each visit until the server ends."""
            if visit in blocks.state_holder:
                blocks.state_holder.session_data[visit].config_values.clear()

        page.on_forget = forget_values

        asked = [compare.task, compare.user, compare.source, compare.query]
        turned = [people.question, *compare.outputs]
        blocks.load(**board.score)
        for event in (
            people.task.input(choose_task, people.task, turned, **QUIET).then,
            people.another.click(next_question, people.question, turned, **QUIET).then,
            own.trained.change(came_or_went, [own.task, people.task, own.trained], turned, **QUIET).then,
            board.people.select(pick, board.task, [tabs, *turned], **QUIET).then,
            blocks.load,
        ):
            event(**people.show)
            event(**person.meet).then(**compare.fill)
        chosen = compare.user.input(choose_user, asked, compare.outputs, **QUIET)
        chosen.then(**person.meet).then(**compare.fill)
        own.compare.click(lambda: gr.update(selected="compare"), None, tabs, **QUIET)
        blocks.unload(left)
    return blocks
