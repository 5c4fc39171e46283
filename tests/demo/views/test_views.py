"""The pages of a person, the scoreboard and how it works: true numbers, safe HTML, all cases."""

import dataclasses
import importlib.resources
import re
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from typing import Any

import pytest
from oppu_core.data.sample import GRAMMARS, sample_users
from oppu_core.data.types import HistoryItem, Query, User
from oppu_core.prompting.profiles import compute_profile
from oppu_core.tasks.task import Task
from oppu_core.tasks.task_files import get_task
from oppu_demo.views.about import about_view
from oppu_demo.views.person import Adapter, habit_line, history_view, loss_curve, person_view
from oppu_demo.views.scoreboard import per_user_rows, scoreboard_view
from oppu_eval.reporting.habits import habits
from oppu_eval.reporting.method_titles import title_of
from oppu_eval.reporting.table import number
from oppu_eval.scoring.evaluate import evaluate
from oppu_eval.scoring.references import REFERENCES
from oppu_eval.scoring.results import Results

EVIL = '<script>alert(1)</script><img src=x onerror="alert(2)">'
FACTS = {"examples": 24, "first_loss": 0.556, "last_loss": 0.0497, "seconds": 0.324, "steps": 12}
MOVIES = get_task("lamp_2m")
HEADLINES = get_task("lamp_4")


class Reader(HTMLParser):
    """The tags, classes and texts of a page; refuses what is not nested well."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[dict[str, str]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.append({name: value or "" for name, value in attrs})
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.append({name: value or "" for name, value in attrs})

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def classes(self) -> set[str]:
        return {name for each in self.attributes for name in each.get("class", "").split()}


def person(
    user_id: str,
    answers: Sequence[str],
    task: Task = MOVIES,
    golds: Sequence[str] = (),
    history_len: int | None = None,
    date: str | None = None,
) -> User:
    """Somebody with these answers in their history."""
    inputs = dict.fromkeys(task.history_fields, "a scene")
    items = tuple(
        HistoryItem(f"h{i}", {**inputs, task.output_field or task.text_field: answer}, date)
        for i, answer in enumerate(answers)
    )
    seen = len(items) if history_len is None else history_len
    queries = tuple(
        Query(f"q{i}", dict.fromkeys(task.input_fields, "another scene"), gold, seen)
        for i, gold in enumerate(golds)
    )
    return User(user_id, "test", items, queries)


def view(task: Task, user: User, everybody: Sequence[User], **more: Any) -> Reader:
    profile = more.pop("profile", compute_profile(task, user.training_history))
    return Reader(person_view(task, user, habits(task, everybody), profile, **more))


def results_of(task: Task, people: Sequence[User], answers: Mapping[str, Sequence[str]]) -> Results:
    """Results of methods that give everybody these answers, one for each person."""
    predictions = {
        method: {(user.user_id, q.id): given for user, given in zip(people, each, strict=True) if given
                 for q in user.queries}
        for method, each in answers.items()
    }  # fmt: skip
    return Results({task.name: evaluate(task, people, people, predictions, 0, resamples=200)}, {})


@pytest.fixture
def results() -> Results:
    """Four people who say comedy, twice each: the adapter helps two of them and harms one."""
    people = [person(f"p{i}", ["action"] * (i + 2), golds=["comedy", "comedy"]) for i in range(4)]
    return results_of(
        MOVIES,
        people,
        {
            "non_personalized": ["action", "action", "comedy", "comedy"],
            "oppu_k0": ["comedy", "comedy", "comedy", "action"],
            "rag_k1": ["action", "action", "action", "action"],
        },
    )


@pytest.mark.parametrize("name", GRAMMARS)
def test_every_task_of_the_sample_world_has_a_page_of_each_person(name: str) -> None:
    task = get_task(name)
    people = list(sample_users(task, test_users=3, other_users=0, history=(9, 12), queries=2))
    for user in people:
        page = view(task, user, people, adapters=[Adapter("base", FACTS, 66_312)])
        assert user.user_id in page.text
        assert f"{len(user.history)} history items" in page.text
        assert f"{user.history[0].date} to {user.history[-1].date}" in page.text
        assert compute_profile(task, user.history) in page.text
        assert {"oppu-bar-own", "oppu-bar-all"} <= page.classes()
        line = habit_line(task, user)
        assert line.startswith(f"{len(user.history)} items · ")
        assert len(line) <= 60
        assert f"{len(user.history)} of {len(user.history)} items" in history_view(user, None)


def test_shares_of_labels_stand_beside_everybodys() -> None:
    ann, bob = person("ann", ["comedy"] * 3 + ["action"]), person("bob", ["action"] * 4)
    page = view(MOVIES, ann, [ann, bob])
    assert "comedy 75 % everybody: 38 %" in page.text
    assert "action 25 % everybody: 62 %" in page.text
    assert "everybody (2 people, 8 items)" in page.text
    assert "Most frequent tag: comedy (3), action (1); everybody: action (62 %), comedy (38 %)." in page.text
    widths = [each["style"] for each in page.attributes if each.get("class", "").startswith("oppu-bar-")
              and "style" in each]  # fmt: skip
    assert widths == ["width:100.0%", "width:50.0%", "width:33.33%", "width:83.33%"]
    assert habit_line(MOVIES, ann) == "4 items · mostly comedy, action"


def test_ratings_keep_their_order_and_unknown_labels_are_one_heap() -> None:
    task = get_task("lamp_3")
    ann = person("ann", ["5", "5", "1", "eleven"], task)
    text = view(task, ann, [ann]).text
    assert text.index("1 25 %") < text.index("5 50 %") < text.index("(no label) 25 %")


def test_many_labels_end_in_one_line() -> None:
    labels = tuple(f"label {i:02}" for i in range(40))
    task = dataclasses.replace(MOVIES, name="many", labels=labels)
    ann = person("ann", labels, task)
    text = view(task, ann, [ann]).text
    assert "25 other labels 62 %" in text
    assert "label 15" not in text


def test_style_is_measured_beside_everybodys() -> None:
    ann = person("ann", ["why cats win?", "two more dogs!"], HEADLINES)
    bob = person("bob", ["The End Of Trains", "Rain: 3 Towns Flooded"], HEADLINES)
    text = view(HEADLINES, ann, [ann, bob]).text
    for line in (
        "words in a text 3.0 everybody: 3.5",
        "words with a capital 0 % everybody: 50 %",
        "all in lower case 100 % everybody: 50 %",
        "end with ? 50 % everybody: 25 %",
        "end with ! 50 % everybody: 25 %",
        "have a colon 0 % everybody: 25 %",
        "have a number 0 % everybody: 25 %",
    ):
        assert line in text
    assert "hashtag" not in text  # nobody has one


def test_words_that_set_apart_are_those_of_more_than_one_text() -> None:
    ann = person("ann", ["big news today", "big news again", "odd weather"], HEADLINES)
    bob = person("bob", ["news of today", "news again", "news"], HEADLINES)
    text = view(HEADLINES, ann, [ann, bob]).text
    assert "“big” 67 % everybody: 33 %" in text
    assert "“news”" not in text  # everybody has it more often
    assert "“odd”" not in text


def test_nothing_after_the_first_query_is_shown() -> None:
    ann = person("ann", ["comedy", "comedy", "violence"], golds=["violence"], history_len=2)
    page = view(MOVIES, ann, [ann])
    assert "2 history items" in page.text
    assert "violence" not in page.text
    assert "violence" not in habit_line(MOVIES, ann)
    assert "violence" not in history_view(ann, "")


def test_history_is_newest_first_searched_and_long_texts_are_cut() -> None:
    ann = person("ann", ["alpha", "word " * 100, "<b>last</b>"], HEADLINES, date="2024-05-01T10:00")
    whole = history_view(ann, None)
    assert "3 of 3 items" in whole and "<time" in whole and "2024-05-01" in whole and "10:00" not in whole
    assert whole.index("last") < whole.index("word") < whole.index("alpha") and "…" in whole
    assert whole.count("word") < 100 and "<b>" not in whole and "&lt;b&gt;last" in whole
    found = history_view(ann, "ALPHA scene")
    assert "1 of 3 items" in found and "word" not in found
    assert "0 of 3 items" in history_view(ann, "alpha word")
    many = history_view(person("bob", ["comedy"] * 101), "comedy")
    assert "101 of 101 items" in many and "The first 100 are shown" in many and many.count("<li>") == 100


def test_nobody_without_history_breaks_the_page() -> None:
    for task in (MOVIES, HEADLINES):
        ann = person("ann", [], task)
        page = view(task, ann, [ann])
        for words in (
            "0 history items",
            "no history to look at",
            "too little for a profile",
            "no adapter yet",
        ):
            assert words in page.text
        assert habit_line(task, ann) == "0 items"
        assert "0 of 0 items" in history_view(ann, "")
        somebody = person("bob", ["comedy"], task)  # everybody else has none
        assert "everybody (1 person, 0 items)" in view(task, somebody, [ann]).text


def test_dates_are_shown_where_there_are_any() -> None:
    assert " to " not in view(MOVIES, person("ann", ["comedy"], date="2024-05-01"), []).text.split("Most")[0]
    assert "2024-05-01" in view(MOVIES, person("ann", ["comedy"], date="2024-05-01T10:00:00"), []).text
    assert "20" not in view(MOVIES, person("ann", ["comedy"]), []).text.split("Most")[0]


def test_an_adapters_facts_are_shown_and_a_failure_is_said() -> None:
    ann = person("ann", ["comedy"])
    adapters = [
        Adapter("base", FACTS, 66_312, losses=[0.5, 0.25]),
        Adapter("rag_k1", problem=f"training failed: {EVIL}"),
        Adapter("pag_k0", {"examples": 1}),
    ]
    page = view(MOVIES, ann, [ann], adapters=adapters)
    for words in (
        "OPPU",
        "OPPU + 1 similar item",
        "size 66.3 kB",
        "items learnt from 24",
        "steps 12",
        "training 0.3 s",
        "0.56 → 0.05",
    ):
        assert words in page.text
    assert f"training failed: {EVIL}" in page.text
    assert "script" not in page.tags
    assert page.tags.count("svg") == 1


def test_whatever_users_wrote_is_text() -> None:
    task = dataclasses.replace(MOVIES, name="evil", labels=(EVIL, "comedy"))
    ann = person(EVIL, [EVIL, "comedy"], task)
    page = view(task, ann, [ann], profile=EVIL)
    assert page.text.count(EVIL) >= 4  # id, line, bar, profile
    writer = person(EVIL, [f"{EVIL} <b>news", "<i>news"], HEADLINES)
    written = view(HEADLINES, writer, [writer], profile="\ud800")
    for each in (page, written):
        assert not {"script", "img"} & set(each.tags)
        assert not any("onerror" in attributes for attributes in each.attributes)
    written.text.encode("utf-8")


def test_the_loss_curve_has_a_point_for_every_step_and_keeps_its_scale() -> None:
    def points(svg: str) -> list[tuple[float, float]]:
        found = re.search(r'points="([^"]*)"', svg)
        assert found
        pairs = (pair.split(",") for pair in found[1].split())
        return [(float(x), float(y)) for x, y in pairs]

    curve = points(loss_curve([0.8, 0.4, 0.2]))
    assert len(curve) == 3
    assert [y for _, y in curve] == sorted(y for _, y in curve)  # losses fall, and down is larger
    bottom = 2 * curve[1][1] - curve[0][1]
    assert bottom == pytest.approx(122, abs=0.2)
    assert points(loss_curve([0.8, 0.4], steps=9))[-1][0] < points(loss_curve([0.8, 0.4]))[-1][0]
    assert len(points(loss_curve([0.8, float("nan"), 0.2]))) == 2
    assert loss_curve([]) == loss_curve([float("nan")]) == ""
    assert len(points(loss_curve([0.0]))) == 1
    assert ">9<" in loss_curve([1.0], steps=9)


def test_the_scoreboard_says_what_the_results_say(results: Results) -> None:
    page = Reader(scoreboard_view(results, "lamp_2m"))
    for row in results.rows:
        assert number(row.value) in page.text
    assert "OPPU best .750 .250 to 1.000" in page.text
    assert page.text.count(" best ") == 1
    assert "2/1/1" in page.text
    assert "personal adapters answer as the user did in 75 % of the queries, against 50 %" in page.text
    assert "4 users, 8 queries" in page.text
    styles = [each["style"] for each in page.attributes if "style" in each]
    assert "width:75.0%" in styles
    assert "left:25.0%;width:75.0%" in styles


def test_the_picture_has_a_bar_for_each_person(results: Results) -> None:
    page = Reader(scoreboard_view(results, "lamp_2m"))
    kinds = [each["class"] for tag, each in zip(page.tags, page.attributes, strict=True) if tag == "rect"]
    assert kinds == ["oppu-rect-good"] * 2 + ["oppu-rect-same", "oppu-rect-bad"]
    assert "2 better" in page.text
    assert "1 equal" in page.text
    assert "1 worse" in page.text
    assert "p3: −1.000" in page.text
    spans = [(float(each["y"]), float(each["height"])) for each in page.attributes if "height" in each]
    # From -1 to 1, both signs have half of the picture.
    assert spans == [(0.0, 50.0), (0.0, 50.0), (49.5, 1.0), (50.0, 50.0)]


def test_the_table_has_every_person_under_every_method(results: Results) -> None:
    headers, rows = per_user_rows(results, "lamp_2m")
    scores = results.tasks["lamp_2m"].per_user
    assert headers[:3] == ["person", "items", "adapter changes"]
    methods = ["non_personalized", "rag_k1", "oppu_k0"]  # models before reference rows
    methods += [name for name in REFERENCES if name in scores]
    assert set(methods) == set(scores)
    assert headers[3:] == [title_of(name) for name in methods]
    for user_id, items, change, *values in rows:
        assert items == results.tasks["lamp_2m"].history_lengths[user_id]
        assert change == scores["oppu_k0"][user_id] - scores["non_personalized"][user_id]
        assert values == [round(scores[method][user_id], 3) for method in methods]
    assert [row[0] for row in rows] == ["p0", "p1", "p2", "p3"]


def test_of_errors_the_sign_is_turned() -> None:
    task = get_task("lamp_3")
    people = [person(f"p{i}", ["1", "2"], task, golds=["5"]) for i in range(3)]
    results = results_of(task, people, {"non_personalized": ["1", "1", "5"], "oppu_k0": ["5", "4", "4"]})
    page = Reader(scoreboard_view(results, "lamp_3"))
    assert "lower is better" in page.text
    assert "2 better" in page.text
    headers, rows = per_user_rows(results, "lamp_3")
    assert [row[headers.index("adapter changes")] for row in rows] == [4.0, 3.0, -1.0]


def test_who_was_set_aside_is_missing_and_said() -> None:
    people = [person(f"p{i}", ["action"], golds=["comedy"]) for i in range(3)]
    results = results_of(
        MOVIES, people, {"non_personalized": ["action"] * 3, "oppu_k0": ["comedy", "", "comedy"]}
    )
    assert "OPPU: 1 person without an answer" in Reader(scoreboard_view(results, "lamp_2m")).text
    headers, rows = per_user_rows(results, "lamp_2m")
    assert rows[1][headers.index("adapter changes")] is None
    assert rows[1][headers.index("OPPU")] is None


def test_one_person_and_no_adapter_are_enough_for_a_scoreboard() -> None:
    alone = [person("p0", ["action"], golds=["comedy"])]
    both = results_of(MOVIES, alone, {"non_personalized": ["action"], "oppu_k0": ["comedy"]})
    assert "From a single user nothing follows" in Reader(scoreboard_view(both, "lamp_2m")).text
    plain = results_of(MOVIES, alone, {"non_personalized": ["action"]})
    assert "changes for each person" not in Reader(scoreboard_view(plain, "lamp_2m")).text
    assert "adapter changes" not in per_user_rows(plain, "lamp_2m")[0]


@pytest.mark.parametrize("known", [None, Results({}, {})])
def test_without_results_the_page_says_how_to_make_them(known: Results | None) -> None:
    page = Reader(scoreboard_view(known, "lamp_2m", "runs/<b>mine"))
    assert "oppu evaluate --run runs/<b>mine" in page.text
    assert "b" not in page.tags
    assert per_user_rows(known, "lamp_2m")[1] == []


def test_names_on_the_scoreboard_are_text() -> None:
    people = [person(f"{EVIL}{i}", ["action"], golds=["comedy"]) for i in range(2)]
    given = {
        "non_personalized": ["action"] * 2,
        "oppu_k0": ["comedy"] * 2,
        f"rag_k1 ({EVIL})": ["action"] * 2,
    }
    scored = results_of(MOVIES, people, given).tasks["lamp_2m"]
    results = Results({"lamp_2m": dataclasses.replace(scored, notes=[EVIL])}, {})
    page = Reader(scoreboard_view(results, "lamp_2m"))
    assert page.text.count(EVIL) >= 5  # a bar's title each, the row, its description, the note
    assert not {"script", "img"} & set(page.tags)


def test_how_it_works_is_six_sentences_and_a_picture_that_is_described() -> None:
    page = Reader(about_view())
    assert page.tags.count("li") == 6
    (picture,) = [each for each in page.attributes if each.get("role") == "img"]
    ids = {each["id"] for each in page.attributes if "id" in each}
    assert {picture["aria-labelledby"], picture["aria-describedby"]} <= ids


def test_every_class_has_the_prefix_and_a_style_that_gradio_can_read() -> None:
    folder = importlib.resources.files("oppu_demo")
    css = folder.joinpath("pages.css").read_text(encoding="utf-8")
    rules = re.sub(r"/\*.*?\*/", "", css, flags=re.DOTALL)
    assert ":is(" not in rules
    assert set(re.findall(r"\.([a-z][a-z-]*)", rules)) == {
        name for name in re.findall(r"\.([a-z][a-z-]*)", rules) if name.startswith("oppu-")
    }
    for name in ("person", "scoreboard", "about"):
        template = folder.joinpath(f"templates/{name}.html.j2").read_text(encoding="utf-8")
        for value in re.findall(r'class="([^"]*)"', template):
            words = re.sub(r"{{.*?}}|{%.*?%}", " ", value).split()
            assert all(word.startswith("oppu-") for word in words), value
