"""The tab "Scores": the run's results, over all people and for each."""

import dataclasses
from typing import Any

import gradio as gr

from oppu_demo.state import Page
from oppu_demo.tabs import QUIET
from oppu_demo.views.scoreboard import per_user_rows, scoreboard_view


@dataclasses.dataclass(frozen=True)
class ScoreboardTab:
    """The tab; `score` are the arguments of an event that shows the current results."""

    task: gr.Dropdown
    people: gr.Dataframe
    score: dict[str, Any]


def scoreboard_tab(page: Page, tasks: list[tuple[str, str]]) -> ScoreboardTab:
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
    return ScoreboardTab(task, people, {"fn": score, "inputs": task, "outputs": [board, people], **QUIET})
