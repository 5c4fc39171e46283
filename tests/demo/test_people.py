"""One question to several people's models, and what a visitor is looking at."""

import dataclasses
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import gradio as gr
import pytest
from oppu_core.data.types import HistoryItem, Query, User
from oppu_core.errors import StoreError
from oppu_core.tasks.task_files import get_task
from oppu_demo.app import build
from oppu_demo.engine import Engine
from oppu_demo.looking import Asked, Looking
from oppu_demo.people import Answers, People
from oppu_demo.state import Page
from oppu_demo.tabs.compare import FREE
from oppu_demo.views.people import people_view


class Answering:
    """An engine whose people answer what they are told to; None has no adapter."""

    def __init__(self, says: Mapping[str, str | None]) -> None:
        self.says, self.methods, self.asked = says, ["non_personalized", "rag_k1", "oppu_k0"], 0
        item = HistoryItem("1", {"description": "a", "tag": "comedy"})
        self.people = {
            name: User(
                name, "test", (item,), (Query(f"{name}-0", {"description": f"Whose? {name}"}, None, 1),)
            )
            for name in says
        }

    def users(self, task: str) -> Mapping[str, User]:
        return self.people

    def check_current(self) -> None:
        pass

    def answer(self, task: str, name: str, user: User, query: Query) -> Any:
        self.asked += 1
        said = "nothing personal" if name == "non_personalized" else self.says[user.user_id]
        if said is None:
            raise StoreError("There is no adapter.")
        assert query.fields["description"] == "Whose? c"
        return SimpleNamespace(text=said)


def asked(engine: Answering) -> list[Answers]:
    return list(People(cast(Engine, engine)).ask("lamp_2m", "c", "c-0"))


def names(answers: Answers) -> list[tuple[str, str]]:
    return [(user.user_id, text) for user, text in answers.people]


def test_people_who_answer_differently_are_shown_the_asker_first() -> None:
    engine = Answering({"a": "1", "b": "2", "c": "3", "d": "3", "e": None, "f": "4", "g": "1", "h": "5"})
    *coming, last = asked(engine)
    assert names(last) == [("c", "3"), ("f", "4"), ("g", "1"), ("h", "5")]
    assert last.generic == "nothing personal" and last.waiting == 0
    assert coming[0].generic is None and coming[0].waiting == 4
    counts = [len(one.people) for one in coming]
    assert counts == sorted(counts)  # nobody who is shown goes again


def test_where_all_answer_alike_the_view_is_filled() -> None:
    assert names(asked(Answering(dict.fromkeys("abcde", "same")))[-1]) == [(name, "same") for name in "cdea"]
    assert names(asked(Answering({"a": None, "b": None, "c": None}))[-1]) == []


def test_at_most_eight_are_asked_and_only_once() -> None:
    engine = Answering(dict.fromkeys("abcdefghijkl", "same"))
    people = People(cast(Engine, engine))
    first = list(people.ask("lamp_2m", "c", "c-0"))
    assert engine.asked == 1 + 8
    assert list(people.ask("lamp_2m", "c", "c-0")) == first[-1:]
    assert engine.asked == 1 + 8


def test_questions_go_round() -> None:
    people = People(cast(Engine, Answering(dict.fromkeys("abc", "same"))))
    assert people.after("lamp_2m", "a", "a-0") == ("lamp_2m", "b", "b-0")
    assert people.after("lamp_2m", "c", "c-0") == ("lamp_2m", "a", "a-0")


def test_texts_are_text_in_the_view() -> None:
    evil = "<img src=x>"
    user = User(evil, "test", (), (Query("0", {"description": evil}, None, 0),))
    shown = people_view(get_task("lamp_2m"), Answers(user, user.queries[0], evil, ((user, evil),), 0))
    assert "<img" not in shown and shown.count("&lt;img") == 4
    assert shown.count("<mark>") == 1  # in the legend: the model alone says the same
    assert people_view(get_task("lamp_2m"), Answers(user, user.queries[0])).count("waiting") >= 5


@pytest.mark.parametrize("pressed", [False, True])
def test_the_latest_comparison_is_kept(pressed: bool) -> None:
    looking, one = Looking("lamp_2m", "a", "a-0"), Asked("lamp_2m", "?", None, ())
    old = looking.begin()
    assert looking.keep(old, one) and looking.asked is one
    new = looking.begin(pressed)
    assert looking.asked is None and looking.pressed == pressed
    assert not looking.keep(old, one) and looking.asked is None
    assert looking.keep(new, one) and looking.asked is one


def test_a_run_without_questions_has_a_page(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        engine, "users", lambda task: {
            name: dataclasses.replace(user, queries=()) for name, user in Engine.users(engine, task).items()
        },
    )  # fmt: skip
    page = Page(engine)
    try:
        who, query_id = page.telling("lamp_2m")
        assert query_id == "" and page.looking(None) == Looking("lamp_2m", who, None)
        assert page.queries("lamp_2m", page.engine.users("lamp_2m")[who]) == []
        assert page.several.after("lamp_2m", who, "") == ("lamp_2m", who, "")
        controls = [
            block for block in build(page).blocks.values() if isinstance(block, gr.Radio | gr.Textbox)
        ]
        assert [one.choices for one in controls if isinstance(one, gr.Radio)] == [[(FREE, FREE)]]
        boxes = [one for one in controls if isinstance(one, gr.Textbox) and one.visible]
        assert "description" in [one.label for one in boxes]
    finally:
        page.close()
