"""Cases: chosen by a stated rule, beside counts of everything; prompts as answered; a safe page."""

import dataclasses
import itertools
import random
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from html.parser import HTMLParser
from typing import Any

import pytest
from oppu_core.data.types import HistoryItem, Query, User
from oppu_core.errors import ConfigError, DataError
from oppu_core.modeling.base_files import base_tokenizer
from oppu_core.prompting.builder import PromptBuilder
from oppu_core.prompting.methods import parse_method
from oppu_core.prompting.retrieval import BM25Retriever, RandomRetriever, RecentRetriever
from oppu_core.runs import answering as inference
from oppu_core.tasks.task import Task
from oppu_core.tasks.task_files import get_task
from oppu_eval.reporting.drawing import png_bytes, svg_text
from oppu_eval.studies.case_choice import Counts, Pair, choose
from oppu_eval.studies.case_content import Case, about_user, build, verdict
from oppu_eval.studies.case_pages import cases_page, table
from oppu_eval.studies.case_picture import draw

MakeUser = Callable[..., User]
EVIL = "<script>alert(1)</script>"


class Words:
    """Counts words as tokens."""

    def __init__(self, context: int = 10_000) -> None:
        self.context = context

    def prompt_ids(self, text: str) -> list[int]:
        return [0] * len(text.split())

    answer_ids = prompt_ids


def builder_for(task: Task, context: int = 10_000) -> PromptBuilder:
    return PromptBuilder(task, Words(context), {"bm25": BM25Retriever(task)})


def built(task: Task, users: Sequence[User], predictions: Any, cases: int = 8) -> tuple[list[Case], Counts]:
    builder = builder_for(task)
    return build(task, users, predictions, lambda _: builder, lambda user: "likes films", cases=cases)


def answers(users: Sequence[User], right: Mapping[str, str]) -> dict[tuple[str, str], str]:
    """By user: one letter a query, ``+`` is the gold, ``-`` another label."""
    return {
        (user.user_id, query.id): (query.gold or "") if mark == "+" else "violence"
        for user in users
        for query, mark in zip(user.queries, right[user.user_id], strict=True)
    }


def sides(chosen: Sequence[Any]) -> str:
    return "".join("+" if one.gain > 0 else "-" if one.gain < 0 else "0" for one in chosen)


def test_half_help_and_half_harm_and_nobody_is_shown_twice(tagging: Task, make_user: MakeUser) -> None:
    users = [make_user(f"u{i}", ["comedy"] * 3) for i in range(12)]
    # Five users can stand for harm, and each of them for help as well.
    without = {user.user_id: "-+-" if i < 5 else "---" for i, user in enumerate(users)}
    personal = {user.user_id: "+-+" if i < 5 else "++-" for i, user in enumerate(users)}
    predictions = {"oppu_k0": answers(users, personal), "non_personalized": answers(users, without)}
    chosen, _ = choose(tagging, users, predictions)
    assert sides(chosen) == "++++----"
    assert len({one.user.user_id for one in chosen}) == 8
    assert {one.user.user_id for one in chosen if one.gain < 0} < {"u0", "u1", "u2", "u3", "u4"}


def test_what_one_side_lacks_comes_from_the_other(tagging: Task, make_user: MakeUser) -> None:
    users = [make_user(f"u{i}", ["comedy"] * 4) for i in range(3)]
    predictions = {
        "non_personalized": answers(users, {"u0": "----", "u1": "----", "u2": "+---"}),
        "oppu_k0": answers(users, {"u0": "++++", "u1": "++--", "u2": "-+--"}),
    }
    assert sides(choose(tagging, users, predictions, cases=3)[0]) == "++-"
    chosen, _ = choose(tagging, users, predictions, cases=6)  # more cases than users
    assert sides(chosen) == "+++++-"
    shown = sorted(one.user.user_id for one in chosen)
    assert shown == ["u0", "u0", "u1", "u1", "u2", "u2"]
    assert len(choose(tagging, users, predictions, cases=50)[0]) == 8  # no more than differ


def test_errors_rank_by_gain_then_spread_and_lower_is_better(rating: Task, make_user: MakeUser) -> None:
    users = [make_user(f"u{i}", ["5"]) for i in range(5)]
    marks = {  # a letter a user; all golds are 5
        "non_personalized": "13242",
        "oppu_k0": "53515",
        "random_k1": "51251",
    }
    predictions = {
        method: {(f"u{i}", f"u{i}-q0"): mark for i, mark in enumerate(text)} for method, text in marks.items()
    }
    chosen, counts = choose(rating, users, predictions)
    assert [(one.user.user_id, one.gain, one.spread) for one in chosen] == [
        ("u0", 4.0, 4.0),
        ("u4", 3.0, 4.0),
        ("u2", 3.0, 3.0),
        ("u3", -3.0, 4.0),
        ("u1", 0.0, 2.0),
    ]
    assert counts.pairs == (Pair("oppu_k0", "non_personalized", better=3, equal=1, worse=1),)


def test_the_rarer_side_gets_its_share_though_its_only_user_could_stand_for_both(
    rating: Task, make_user: MakeUser
) -> None:
    users = [make_user("both", ["5", "5"]), make_user("helped", ["5"])]
    users += [make_user(f"equal{i}", ["5"]) for i in range(4)]
    marks = {"non_personalized": "152" + "1111", "oppu_k0": "545" + "1111", "random_k1": "555" + "5555"}
    keys = [(user.user_id, query.id) for user in users for query in user.queries]
    predictions = {method: dict(zip(keys, text, strict=True)) for method, text in marks.items()}
    chosen, _ = choose(rating, users, predictions, cases=2)
    assert [(one.user.user_id, one.gain) for one in chosen] == [("helped", 3), ("both", -1)]
    chosen, _ = choose(rating, users, predictions, cases=4)  # the adapter's cases first, though of one user
    assert [one.gain for one in chosen] == [4, 3, -1, 0]


def test_among_equals_the_choice_is_arbitrary_and_repeatable(tagging: Task, make_user: MakeUser) -> None:
    users = [make_user(f"u{i:02}", ["comedy"]) for i in range(40)]
    predictions = {
        "non_personalized": answers(users, {user.user_id: "-" for user in users}),
        "oppu_k0": answers(users, {user.user_id: "+" for user in users}),
    }
    names = [one.user.user_id for one in choose(tagging, users, predictions)[0]]
    mixed = random.Random(1).sample(users, len(users))
    backwards = dict(reversed(predictions.items()))
    assert names == [one.user.user_id for one in choose(tagging, mixed, backwards)[0]]
    assert set(names) != {user.user_id for user in users[:8]}


def test_largest_of_several_pairs_decides_and_is_told_as_one_of_them(
    headlines: Task, make_user: MakeUser
) -> None:
    users = [make_user("u", ["big dogs run home"], fields=("text", "title"))]
    said = {
        "non_personalized": "big dogs run home",
        "rag_k1": "nothing",
        "oppu_k0": "big dogs run",
        "oppu_rag_k1": "big dogs",
    }
    predictions = {method: {("u", "u-q0"): text} for method, text in said.items()}
    (case,), counts = built(headlines, users, predictions)
    swapped = {"rag_k1": predictions["oppu_rag_k1"], "oppu_rag_k1": predictions["rag_k1"]}
    swapped |= {"non_personalized": predictions["oppu_k0"], "oppu_k0": predictions["non_personalized"]}
    (harmed,), _ = choose(headlines, users, swapped)
    assert (harmed.pair, harmed.gain) == (("oppu_rag_k1", "rag_k1"), pytest.approx(-2 / 3))
    assert case.gain == pytest.approx(2 / 3)
    assert case.why == "The adapter helps with 1 of 2 prompts: oppu_rag_k1 .667, rag_k1 .000 (ROUGE-1)."
    assert [(pair.method, pair.better, pair.worse) for pair in counts.pairs] == [
        ("oppu_k0", 0, 1),
        ("oppu_rag_k1", 1, 0),
    ]


def test_queries_without_difference_or_gold_are_no_cases(tagging: Task, make_user: MakeUser) -> None:
    users = [make_user("u", ["comedy", "comedy", None])]
    predictions = {
        "rag_k1": {("u", "u-q0"): "comedy", ("u", "u-q1"): "action", ("u", "u-q2"): "action"},
        "pag_k0": {("u", "u-q0"): "comedy", ("u", "u-q1"): "comedy", ("u", "u-q2"): "comedy"},
    }
    (case,), counts = built(tagging, users, predictions)
    assert (case.query_id, case.gain, case.spread) == ("u-q1", 0, 1)
    assert case.why == "The methods differ, and not because of an adapter."
    assert (counts.queries, counts.users, counts.alike, counts.pairs) == (2, 1, 1, ())


def test_counts_are_of_all_queries_that_both_have_answered(tagging: Task, make_user: MakeUser) -> None:
    users = [make_user(f"u{i}", ["comedy"] * 20) for i in range(3)]
    predictions = {
        "non_personalized": answers(users, {"u0": "-" * 20, "u1": "+" * 20, "u2": "+" * 20}),
        "oppu_k0": answers(users[:2], {"u0": "+" * 11 + "-" * 9, "u1": "-" * 3 + "+" * 17}),  # u2 set aside
    }
    _, counts = choose(tagging, users, predictions, cases=1)
    assert counts.pairs == (Pair("oppu_k0", "non_personalized", better=11, equal=26, worse=3),)
    assert (counts.queries, counts.users, counts.alike) == (60, 3, 46)


def test_what_cannot_be_scored_or_read_is_refused(tagging: Task, make_user: MakeUser) -> None:
    with pytest.raises(DataError, match="gold"):
        choose(tagging, [make_user("u", [None])], {"rag_k1": {}})
    users = [make_user("u", ["comedy"])]
    predictions = {"mine": {("u", "u-q0"): "comedy"}, "rag_k1": {("u", "u-q0"): "action"}}
    with pytest.raises(ConfigError, match="mine"):
        built(tagging, users, predictions)


def test_habits_count_labels_of_the_history_before_the_earliest_query(
    tagging: Task, make_user: MakeUser
) -> None:
    user = make_user("u", ["comedy"], ["romance", "action", "action", "odd one", "classic", "classic"])
    user = dataclasses.replace(user, queries=(dataclasses.replace(user.queries[0], history_len=4),))
    seen = about_user(tagging, user)
    assert seen.items == 4
    assert seen.labels[:3] == (("action", 2), ("romance", 1), ("odd one", 1))
    assert {label for label, count in seen.labels if count == 0} == set(tagging.labels) - {
        "action",
        "romance",
    }
    assert seen.latest[0] == "description: film 3 tag: odd one"
    assert len(seen.latest) == 4
    assert (seen.profile, seen.mean_words) == ("", None)


def test_habits_of_writers_are_their_profile_length_and_texts(headlines: Task, make_user: MakeUser) -> None:
    titles = ["Old dogs run!", "New cats sleep all day!", "", "A bird sings!", "Fish swim!", "Cows stand!"]
    seen = about_user(headlines, make_user("u", ["x"], titles, fields=("text", "title")))
    assert (seen.items, seen.labels) == (6, ())
    assert seen.mean_words == pytest.approx((3 + 5 + 3 + 2 + 2) / 5)
    assert seen.latest == ("Cows stand!", "Fish swim!", "A bird sings!", "New cats sleep all day!")
    assert 'always ends with "!"' in seen.profile
    nobody = about_user(headlines, make_user("u", ["x"], [], fields=("text", "title")))
    assert (nobody.items, nobody.mean_words, nobody.latest, nobody.profile) == (0, None, (), "")


def test_labels_that_histories_do_not_have_are_no_habit() -> None:
    task = get_task("lamp_1")
    item = HistoryItem("1", {"title": "On parsing", "abstract": "", "citation": ""})
    fields = {"title": "Trees", "option_1": "Cats", "option_2": "Parsing"}
    user = User("u", "test", (item,), (Query("q", fields, "[2]", 1),))
    predictions = {"rag_k1": {("u", "q"): "[1]"}, "non_personalized": {("u", "q"): "[2]"}}
    (case,), _ = built(task, [user], predictions)
    assert case.about.labels == ()
    assert case.about.latest == ("On parsing",)
    assert case.query == "title: Trees | option 1: Cats | option 2: Parsing"


@pytest.mark.parametrize("task_name", ["lamp_2m", "lamp_4"])
def test_prompts_are_those_that_answering_sends(task_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task = get_task(task_name)
    text_field, output = task.long_field, task.output_field or ""
    words = ["the", "old", "film", "of", "sea", "town", "robot", "dreams", "and", "rain"]
    chance = random.Random(3)

    def user(user_id: str) -> User:
        def text(length: int) -> str:
            return " ".join(chance.choices(words, k=length))

        history = tuple(
            HistoryItem(f"h{i}", {text_field: text(40), output: chance.choice(["comedy", "action"])})
            for i in range(6)
        )
        queries = tuple(Query(f"q{i}", {text_field: text(length)}, "comedy", 4 + i)
                        for i, length in enumerate((20, 2000)))  # fmt: skip
        return User(user_id, "test", history, queries)

    users, others = [user("u0"), user("u1")], [user("o0"), user("o1")]
    tokenizer = base_tokenizer("tiny")
    random_items = RandomRetriever(others, 0)
    plain = PromptBuilder(
        task, tokenizer, {"bm25": BM25Retriever(task), "recent": RecentRetriever(), "random": random_items}
    )
    personal = dataclasses.replace(plain, counter=tokenizer.leaving(60))  # an adapter that takes 60 tokens
    sent: dict[tuple[str, str, str], str] = {}

    def generate_answers(_: Any, groups: Any, *arguments: Any, **settings: Any) -> list[list[str]]:
        return [list(group) for group in groups]  # the prompt itself as its answer

    monkeypatch.setattr(inference, "generate_answers", generate_answers)
    methods = ("non_personalized", "random_k1", "rag_k1", "recent_k2", "pag_k1", "oppu_k0", "oppu_pag_k1")

    def builder_of(method: str) -> PromptBuilder:
        return personal if parse_method(method).personal else plain

    profiles = {one.user_id: f"profile of {one.user_id}." for one in users}
    base: Any = None
    for name in methods:
        method, builder = parse_method(name), builder_of(name)
        builder = dataclasses.replace(builder, profile_of=lambda one: profiles[one.user_id])
        rules = inference.AnswerRules(builder.answer_tokens)
        for unit in inference.answer(base, method, users, builder, rules, adapter_of=lambda _: {}):
            sent |= {(name, one.user_id, one.id): one.answer for one in unit}
    predictions = {
        method: {(u.user_id, q.id): "comedy" if i % 2 else "action" for u in users for q in u.queries}
        for i, method in enumerate(methods)
    }
    cases, _ = build(task, users, predictions, builder_of, lambda one: profiles[one.user_id])
    made = {(a.method, case.user_id, case.query_id): a.prompt for case in cases for a in case.asked}
    assert len(made) == len(sent) == 7 * 4
    assert made == sent
    long = next(case for case in cases if case.query_id == "q1")
    lengths = {asked.method: len(asked.prompt) for asked in long.asked}
    assert lengths["oppu_k0"] < lengths["non_personalized"]  # room for the adapter
    short = {asked.method: asked for case in cases if case.query_id == "q0" for asked in case.asked}
    assert len(short["recent_k2"].retrieved) == 2
    assert all(line in short["recent_k2"].prompt for line in short["recent_k2"].retrieved)
    assert short["pag_k1"].profile in ("profile of u0.", "profile of u1.")
    assert short["rag_k1"].profile == ""


def test_verdicts_say_right_wrong_how_far_or_how_alike() -> None:
    assert [verdict("classification", score) for score in (1.0, 0.0)] == ["right", "wrong"]
    assert [verdict("rating", score) for score in (0.0, 2.0, 1.5)] == ["right", "off by 2", "off by 1.5"]
    assert verdict("generation", 0.25) == ".250"


# The page, the picture, the table.


class Outline(HTMLParser):
    """Checks that tags are closed in order; collects tags, attributes and the text below each tag."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data.strip()))

    def below(self, tag: str) -> list[str]:
        return [text for opened, text in self.texts if opened == tag]


def made_up(task: Task, make_user: MakeUser, fields: tuple[str, str]) -> tuple[list[User], Any]:
    """Hostile users of a task, and predictions that hold every kind of difference."""
    labels = list(task.labels[:3]) or ["Dogs run", "Cats </pre>sleep\ud800 here", "$\\frac{Birds$ & fly\x00"]
    names = [EVIL, '"><img src=x onerror=alert(2)>', "a\ud800b", "\u202eleft $x$", "u4", "u5"]
    users = [make_user(name, labels, labels * 2, fields=fields) for name in names]
    chance = random.Random(5)
    answers = [*labels, "</details>" + EVIL]
    asked = [(user.user_id, query.id) for user in users for query in user.queries]
    methods = ("oppu_rag_k1", "rag_k1", "oppu_pag_k0", "pag_k0", "non_personalized", "oppu_k0")
    predictions = {method: {key: chance.choice(answers) for key in asked} for method in methods}
    return users, predictions


@pytest.fixture(params=["classification", "rating", "generation"])
def study(request: Any, tagging: Task, rating: Task, headlines: Task, make_user: MakeUser) -> Any:
    """({task: cases}, {task: counts}) of a task of each kind."""
    task = {"classification": tagging, "rating": rating, "generation": headlines}[request.param]
    fields = ("text", "title") if task is headlines else ("description", "tag")
    cases, counts = built(task, *made_up(task, make_user, fields))
    return {task.name: cases}, {task.name: counts}


FACTS = {"model": "<b>tiny</b>", "seed": 0, "versions": {"torch": "2"}}


def test_page_is_well_formed_and_what_users_wrote_is_no_markup(study: Any) -> None:
    page = cases_page(*study, FACTS)
    page.encode("utf-8")
    parsed = Outline(page)
    assert parsed.open == []
    assert not {"script", "img", "link", "iframe", "form"} & set(parsed.tags)
    assert EVIL not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "&lt;b&gt;tiny&lt;/b&gt;" in page
    assert not [name for name, _ in parsed.attributes if name.startswith("on") or name in ("src", "href")]
    assert not re.search(r"@import|url\(", page)
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in parsed.attributes
    ids = [value for name, value in parsed.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {value for name, value in parsed.attributes if name == "aria-labelledby"} == set(ids)
    levels = [int(tag[1]) for tag in parsed.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert '{"torch":"2"}' in parsed.below("dd")


@pytest.mark.slow
def test_same_cases_give_the_same_bytes(study: Any) -> None:
    assert cases_page(*study, FACTS) == cases_page(*study, FACTS)
    assert png_bytes(draw(study[0])) == png_bytes(draw(study[0]))


def test_page_shows_every_answer_prompt_and_count(tagging: Task, make_user: MakeUser) -> None:
    users = [make_user(f"u{i}", ["comedy"] * 5, ["action", "action", "comedy"]) for i in range(2)]
    predictions = {
        "non_personalized": answers(users, {"u0": "-----", "u1": "+++++"}),
        "oppu_k0": answers(users, {"u0": "+++--", "u1": "-++++"}),
        "rag_k1": answers(users, {"u0": "-----", "u1": "-----"}),
    }
    cases, counts = built(tagging, users, predictions, cases=2)
    page = cases_page({"lamp_2m": cases}, {"lamp_2m": counts}, {})
    parsed = Outline(page)
    assert parsed.below("td") == ["non_personalized", "3", "6", "1"]
    assert "10 queries of 2 users; on 2 of them all methods have the same score." in page.replace("\n", " ")
    assert [title[:19] for title in parsed.below("h3")] == ["1. The adapter help", "2. The adapter harm"]
    assert parsed.tags.count("details") == 2
    for case in cases:
        for asked in case.asked:
            assert asked.prompt.replace("<b>", "&lt;b&gt;").replace("</b>", "&lt;/b&gt;") in page
    # One prompt for the two methods that share it, and one with an item.
    assert parsed.below("h4").count("non_personalized, oppu_k0") == 2
    assert parsed.below("h4").count("rag_k1") == 2
    assert len(parsed.below("pre")) == 4
    assert parsed.below("dd").count("right") == sum(a.score == 1 for case in cases for a in case.asked) == 2
    assert parsed.below("dd").count("wrong") == 4
    assert "↑ the user’s answer here; said by oppu_k0" in parsed.below("dd")
    assert "↑ said by non_personalized, rag_k1" in parsed.below("dd")
    lines = parsed.below("li")  # each user's three latest items and the one that was retrieved
    assert len(lines) == 2 * (3 + 1)
    assert {asked.retrieved[0] for case in cases for asked in case.asked if asked.retrieved} <= set(lines)
    # action twice, comedy once (the gold), violence never but answered
    assert [value for name, value in parsed.attributes if name == "style"] == [
        *("width:100.0%", "width:50.0%", "width:0.0%")
    ] * 2  # fmt: skip


def test_page_without_cases_says_so(tagging: Task, make_user: MakeUser) -> None:
    users = [make_user("u", ["comedy"])]
    cases, counts = built(tagging, users, {"rag_k1": answers(users, {"u": "+"})})
    assert cases == []
    page = cases_page({"lamp_2m": cases}, {"lamp_2m": counts}, {})
    assert "there is nothing to show" in page
    assert "No personal adapter was compared" in page
    assert Outline(page).open == []
    assert "same score on every query" in svg_text(draw({"lamp_2m": cases}), "cases", "Cases")


@pytest.mark.slow
def test_picture_is_readable_without_colour_and_holds_any_text(study: Any) -> None:
    (cases,) = study[0].values()
    figure = draw(study[0])
    (axes,) = figure.axes
    texts = [text.get_text() for text in axes.texts]
    methods = {asked.method for asked in cases[0].asked}
    assert methods <= set(texts)
    asked = [one for case in cases for one in case.asked]
    if cases[0].kind == "generation":
        assert [text for text in texts if re.fullmatch(r"1?\.\d{3}", text)] == [
            verdict("generation", one.score) for one in asked
        ]
    else:
        circles = [line for line in axes.lines if line.get_marker() == "o"]
        assert [line.get_markerfacecolor() != "none" for line in circles] == [
            verdict(cases[0].kind, one.score) == "right" for one in asked
        ]
    if cases[0].kind == "rating":
        errors = [f"{one.score:g}" for one in asked if one.score]
        assert [text for text in texts if re.fullmatch(r"\d", text)] == errors
    room, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert room.x0 >= 0
    assert room.y0 >= 0
    assert room.x1 <= width
    assert room.y1 <= height
    svg = svg_text(figure, "cases", "Cases")
    ET.fromstring(svg.encode())


def test_table_has_a_row_for_each_case_and_method(study: Any) -> None:
    ((name, cases),) = study[0].items()
    made = table(study[0])
    assert len(made.rows) == sum(len(case.asked) for case in cases) == 6 * len(cases)
    columns = [column.name for column in made.columns]
    assert columns == ["task", "case", "user", "query", "why", "gold", "method", "answer", "score"]
    assert all(list(row) == columns for row in made.rows)
    last, asked = made.rows[-1], cases[-1].asked[-1]
    assert (last["task"], last["case"], last["user"]) == (name, len(cases), cases[-1].user_id)
    assert (last["method"], last["answer"], last["score"]) == (asked.method, asked.answer, asked.score)
