"""The tab "Compare": a person, a query, and the answers side by side."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import gradio as gr
from oppu_core.errors import OppuError

from oppu_demo.state import Page
from oppu_demo.tabs import QUIET
from oppu_demo.templating import notice, problem
from oppu_demo.views.comparison import default_methods, title_of
from oppu_demo.views.head import what_is_shown

FIELDS = 3  # the most input fields that a task of LaMP has
THEIRS, FREE = "One of their questions", "My own words"
EMPTY = notice("Choose a person and a question, then press Compare.")


@dataclasses.dataclass(frozen=True)
class CompareTab:
    """The tab's controls; `outputs` are those that :meth:`open` sets."""

    page: Page
    task: gr.Dropdown
    user: gr.Dropdown
    source: gr.Radio
    query: gr.Dropdown
    words: list[gr.Textbox]
    result: gr.HTML

    @property
    def outputs(self) -> list[Any]:
        """The controls that :meth:`open` sets, in order."""
        return [self.task, self.user, self.source, self.query, *self.words, self.result]

    def shows(self, task: str, user_id: str | None, visit: str | None) -> bool:
        """Whether the visitor is already looking at this task, and at this person if one is given."""
        before = self.page.facing(visit)
        return before[0] == task and user_id in (None, before[1])

    def open(
        self, task: str, user_id: str | None, visit: str | None, kept: tuple[str, str] | None = None
    ) -> list[Any]:
        """Switch to a task and a person.

        Args:
            task: The task.
            user_id: The person; None takes the one of :meth:`Page.telling`.
            visit: The visitor.
            kept: The kind of question and its query's id, if the question stays the same.
        """
        page, session = self.page, self.page.session(visit)
        page.keep(visit, None)
        told, query_id = page.telling(task)
        who = user_id or told
        try:
            person = page.person(task, who, session)
        except OppuError:  # forgotten meanwhile
            who, person = told, page.person(task, told, session)
        page.turn_to(visit, task, who)
        queries = page.queries(task, person)
        kinds = [THEIRS, FREE] if queries else [FREE]
        kind = kept[0] if kept and kept[0] in kinds else kinds[0]
        if kept and kept[0] == THEIRS and (same := page.same_question(task, kept[1])):
            if same not in queries:
                queries, kinds = [same, *queries], [THEIRS, FREE]
            kind, query_id = THEIRS, same[1]
        elif who != told:
            query_id = queries[0][1] if queries else ""
        words = [gr.skip()] * FIELDS if kept and kept[0] == kind == FREE else self.boxes(task, kind)
        return [
            gr.update(value=task),
            gr.update(choices=page.people(task, session), value=who, info=page.habit(task, person)),
            gr.update(choices=kinds, value=kind),
            gr.update(
                choices=queries,
                value=query_id if queries else None,
                visible=bool(queries) and kind == THEIRS,
            ),
            *words,
            EMPTY,
        ]

    def boxes(self, task: str, kind: str) -> list[Any]:
        """Text boxes for a task's input fields, or none."""
        fields = self.page.task(task).input_fields
        return [
            gr.update(
                visible=kind == FREE and place < len(fields),
                label=fields[place].replace("_", " ") if place < len(fields) else "",
                value="",
            )
            for place in range(FIELDS)
        ]


def compare_tab(page: Page, tasks: list[tuple[str, str]]) -> CompareTab:
    """Lay out the tab."""
    first = tasks[0][1]
    who, what = page.telling(first)
    person = page.engine.users(first)[who]
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=280):
            task = gr.Dropdown(tasks, value=first, label="Task")
            user = gr.Dropdown(
                page.people(first, None), value=who, label="Person (type to search)",
                info=page.habit(first, person),
            )  # fmt: skip
            source = gr.Radio([THEIRS, FREE], value=THEIRS, label="Question")
            query = gr.Dropdown(page.queries(first, person), value=what, label="Which question")
            words = [
                gr.Textbox(
                    visible=False,
                    lines=3,
                    max_lines=8,
                    info=None if place else what_is_shown(page.engine.run),
                )
                for place in range(FIELDS)
            ]
            go = gr.Button("Compare", variant="primary")
            reveal = gr.Checkbox(False, label="Show the person’s own answer")
            with gr.Accordion("Methods", open=False):
                methods = gr.CheckboxGroup(
                    [(title_of(name), name) for name in page.engine.methods],
                    value=default_methods(page.engine.methods),
                    label="Side by side",
                )
        with gr.Column(scale=3, min_width=300):
            result = gr.HTML(EMPTY, elem_id="oppu-result", min_height=420)
    tab = CompareTab(page, task, user, source, query, words, result)

    def choose_source(name: str, kind: str) -> list[Any]:
        return [gr.update(visible=kind == THEIRS), *tab.boxes(name, kind)]

    def run(
        name: str, who: str, kind: str, query_id: str, chosen: list[str], revealed: bool,
        one: str, two: str, three: str, request: gr.Request,
    ) -> Iterator[str]:  # fmt: skip
        session = page.session(request.session_hash)
        try:
            somebody = page.person(name, who, session)
            texts = (one, two, three)
            what = page.question(name, somebody, query_id or "" if kind == THEIRS else None, texts)
            for state in page.compare(name, somebody, what, page.chosen(chosen), session):
                page.keep(request.session_hash, state)
                yield page.shown(state, revealed)
        except OppuError as error:
            page.keep(request.session_hash, None)
            yield problem(error)

    def show_gold(revealed: bool, request: gr.Request) -> Any:
        asked = page.latest(request.session_hash)
        return page.shown(asked, revealed) if asked else gr.skip()

    source.input(choose_source, [task, source], [query, *words], api_visibility="private")
    go.click(
        run, [task, user, source, query, methods, reveal, *words], result,
        concurrency_id="compare", concurrency_limit=2, api_visibility="private", show_progress="minimal",
        show_progress_on=[result],
    )  # fmt: skip
    reveal.input(show_gold, reveal, result, **QUIET)
    return tab
