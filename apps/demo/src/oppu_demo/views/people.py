"""One question and the answers of several people's models as HTML."""

from oppu_core.tasks.task import Task
from oppu_core.texts import shorten

from oppu_demo.people import Answers
from oppu_demo.templating import render
from oppu_demo.views.comparison import marked
from oppu_demo.views.person import habit_line


def people_view(task: Task, answers: Answers) -> str:
    """The question in words, the whole text asked, the generic answer, and those of people's models."""
    people = [
        {
            "name": shorten(user.user_id, 40),
            "habit": habit_line(task, user),
            "words": marked(text, answers.generic),
        }
        for user, text in answers.people
    ]
    return render(
        "people.html.j2",
        task=task,
        text=answers.query.fields[task.long_field],
        generic=answers.generic,
        people=people,
        waiting=answers.waiting,
    )
