"""The tab "Compare": one question to several people's models, then one person's answers side by side."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr
from oppu_core.errors import OppuError
from oppu_eval.reporting.method_titles import title_of

from oppu_demo.state import Page
from oppu_demo.tabs import QUIET
from oppu_demo.templating import notice, problem, render
from oppu_demo.views.comparison import default_methods
from oppu_demo.views.head import what_is_shown

FIELDS = 3  # the most input fields that a task of LaMP has
THEIRS, FREE = "From the data", "My own words"
EMPTY = notice("Choose a person and a question, then press Compare.")
# On a narrow screen the answers are below what was pressed.
SCROLL = """(...given) => {
  const result = document.getElementById("oppu-result");
  if (result.getBoundingClientRect().top > innerHeight / 2) result.scrollIntoView({behavior: "smooth"});
  return given;
}"""


@dataclasses.dataclass(frozen=True)
class CompareTab:
    """The tab's controls; `outputs` are those that :meth:`open` sets.

    `fill` are the arguments of an event that shows the chosen person's answers.
    """

    page: Page
    task: gr.Dropdown
    user: gr.Dropdown
    source: gr.Radio
    query: gr.Dropdown
    words: list[gr.Textbox]
    result: gr.HTML
    fill: dict[str, Any]

    @property
    def outputs(self) -> list[Any]:
        """The controls that :meth:`open` sets, in order."""
        return [self.task, self.user, self.source, self.query, *self.words, self.result]

    def shows(self, task: str, user_id: str | None, visit: str | None) -> bool:
        """Whether the visitor is already looking at this task, and at this person if one is given."""
        before = self.page.looking(visit)
        return before.task == task and user_id in (None, before.user_id)

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
        looking = page.looking(visit)
        looking.begin()
        told, query_id = page.telling(task)
        who = user_id or told
        try:
            person = page.person(task, who, session)
        except OppuError:  # forgotten meanwhile
            who, person = told, page.person(task, told, session)
        queries = page.queries(task, person)
        kinds = [THEIRS, FREE] if queries else [FREE]
        kind = kept[0] if kept and kept[0] in kinds else kinds[0]
        if kept and kept[0] == THEIRS and (same := page.same_question(task, kept[1])):
            if same not in queries:
                queries, kinds = [same, *queries], [THEIRS, FREE]
            kind, query_id = THEIRS, same[1]
        elif who != told:
            query_id = queries[0][1] if queries else ""
        looking.task, looking.user_id = task, who
        looking.query_id = query_id if kind == THEIRS else None
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
                label=_label(fields, place),
                value="",
            )
            for place in range(FIELDS)
        ]


def _label(fields: Sequence[str], place: int) -> str:
    return fields[place].replace("_", " ") if place < len(fields) else ""


def compare_tab(page: Page, task: gr.Dropdown) -> CompareTab:
    """Lay out the part of the tab that is about one person; `task` stands above it."""
    first = str(task.value)
    who, what = page.telling(first)
    person = page.engine.users(first)[who]
    asks = page.queries(first, person)
    gr.HTML(render("one_person.html.j2"))
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=280):
            user = gr.Dropdown(
                page.people(first, None), value=who, label="Person (type to search)",
                info=page.habit(first, person),
            )  # fmt: skip
            source = gr.Radio(
                [THEIRS, FREE] if asks else [FREE], value=THEIRS if asks else FREE, label="Question"
            )
            query = gr.Dropdown(asks, value=what or None, label="Which question", visible=bool(asks))
            fields = [] if asks else page.task(first).input_fields
            words = [
                gr.Textbox(
                    visible=place < len(fields),
                    label=_label(fields, place),
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

    def answer(
        visit: str | None, pressed: bool, name: str, who: str, query_id: str | None, texts: Sequence[str],
        chosen: list[str], revealed: bool,
    ) -> Iterator[str]:  # fmt: skip
        session, looking = page.session(visit), page.looking(visit)
        mine = looking.begin(pressed)
        try:
            somebody = page.person(name, who, session)
            what = page.question(name, somebody, query_id, texts)
            for state in page.compare(name, somebody, what, page.chosen(chosen), session):
                if not looking.keep(mine, state):
                    return  # the visitor has asked something else meanwhile
                yield page.shown(state, revealed)
        except OppuError as error:
            yield problem(error)

    def run(
        name: str, who: str, kind: str, query_id: str, chosen: list[str], revealed: bool,
        one: str, two: str, three: str, request: gr.Request,
    ) -> Iterator[str]:  # fmt: skip
        known = query_id or "" if kind == THEIRS else None
        yield from answer(request.session_hash, True, name, who, known, (one, two, three), chosen, revealed)

    def fill(
        chosen: list[str], revealed: bool, one: str, two: str, three: str, request: gr.Request
    ) -> Iterator[Any]:
        at = page.looking(request.session_hash)
        if at.pressed:
            yield gr.skip()
        else:
            asked = at.task, at.user_id, at.query_id, (one, two, three)
            yield from answer(request.session_hash, False, *asked, chosen, revealed)

    def show_gold(revealed: bool, request: gr.Request) -> Any:
        asked = page.looking(request.session_hash).asked
        return page.shown(asked, revealed) if asked else gr.skip()

    options = [methods, reveal, *words]
    answering: dict[str, Any] = {
        "outputs": result, "concurrency_id": "compare", "concurrency_limit": 2, "api_visibility": "private",
        "show_progress": "minimal", "show_progress_on": [result],
    }  # fmt: skip
    tab = CompareTab(
        page, task, user, source, query, words, result, {"fn": fill, "inputs": options, **answering}
    )

    def choose_source(name: str, kind: str) -> list[Any]:
        return [gr.update(visible=kind == THEIRS), *tab.boxes(name, kind)]

    source.input(choose_source, [task, source], [query, *words], api_visibility="private")
    go.click(run, [task, user, source, query, *options], **answering, js=SCROLL)
    reveal.input(show_gold, reveal, result, **QUIET)
    return tab
