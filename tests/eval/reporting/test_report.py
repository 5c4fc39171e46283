"""Table, pictures and page: honest words, safe and self-contained HTML, same input same bytes."""

import dataclasses
import io
import itertools
import json
import random
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from oppu_core.data.types import User
from oppu_core.runs.run import Run
from oppu_core.tasks.task import Task
from oppu_eval.reporting.examples import ExampleUser, pick_examples, shorten
from oppu_eval.reporting.figures import draw_figures, personal_pair
from oppu_eval.reporting.findings import describe_method, finding
from oppu_eval.reporting.method_titles import people_of, title_of
from oppu_eval.reporting.report import render_report
from oppu_eval.reporting.table import p_text, render_table, signed
from oppu_eval.scoring.evaluate import evaluate
from oppu_eval.scoring.results import Results, ScoreRow
from rich.console import Console

pytestmark = pytest.mark.slow  # draws pictures and whole reports

MakeUser = Callable[..., User]
AnswerWith = Callable[..., dict[tuple[str, str], str]]

EVIL = "<script>alert(1)</script>"
VOID = {"meta", "br"}


@pytest.fixture
def users(tagging: Task, make_user: MakeUser) -> list[User]:
    chance = random.Random(0)
    names = [EVIL, '"><img src=x onerror=alert(2)>', *(f"u{i}" for i in range(8))]
    return [
        make_user(
            name, chance.choices(tagging.labels[:4], k=8), chance.choices(tagging.labels[:4], k=6 + i * i)
        )
        for i, name in enumerate(names)
    ]


@pytest.fixture
def predictions(tagging: Task, users: list[User], answer_with: AnswerWith) -> dict[str, Any]:
    accuracies = {"non_personalized": 0.3, "rag_k1": 0.5, "oppu_k0": 0.8, "oppu_rag_k1": 0.8}
    made = {name: answer_with(tagging, users, acc, i) for i, (name, acc) in enumerate(accuracies.items())}
    first = next(key for key in made["oppu_k0"] if key[0] == EVIL)
    made["oppu_k0"][first] = "</style><script>alert(3)</script>\ud800"
    return made


def results_for(task: Task, users: list[User], predictions: Any) -> Results:
    found = evaluate(task, users, users[:3], predictions, 0, resamples=300)
    return Results({task.name: found}, {"seed": 0})


@pytest.fixture
def results(tagging: Task, users: list[User], predictions: dict[str, Any]) -> Results:
    return results_for(tagging, users, predictions)


def changed(results: Results, **changes: Any) -> Results:
    return Results({"lamp_2m": dataclasses.replace(results.tasks["lamp_2m"], **changes)}, {})


def with_rows(results: Results, change: Callable[[ScoreRow], dict[str, Any]]) -> Results:
    """The same with other values in some rows."""
    return changed(results, rows=[dataclasses.replace(row, **change(row)) for row in results.rows])


def all_users(
    task: Task, users: list[User], predictions: dict[str, Any], results: Results
) -> list[ExampleUser]:
    """An example of every user, so that nothing hostile is left out by chance."""
    examples = []
    for user in users:
        one = results.tasks[task.name]
        per_user = {method: {user.user_id: scores[user.user_id]} for method, scores in one.per_user.items()}
        alone = dataclasses.replace(one, per_user=per_user)
        examples += pick_examples(task, users, predictions, alone)
    return examples


@pytest.fixture
def page(tagging: Task, users: list[User], predictions: dict[str, Any], results: Results) -> str:
    examples = all_users(tagging, users, predictions, results)
    run = {"base": "<b>tiny</b>", "versions": {"torch": "2.9"}, "methods": ["a", "b"], "note": None}
    return render_report(results, draw_figures(results), examples, run, paper=True)


class Outline(HTMLParser):
    """Checks that tags are closed in order; collects tags, ids, attributes and headings."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def outline(page: str) -> Outline:
    parser = Outline()
    parser.feed(page)
    parser.close()
    return parser


def test_what_users_wrote_never_becomes_markup(page: str) -> None:
    tags = outline(page).tags
    assert "script" not in tags
    assert "img" not in tags
    assert "b" in tags  # ours
    assert EVIL not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "&lt;/style&gt;&lt;script&gt;alert(3)" in page
    assert "&lt;b&gt;tiny&lt;/b&gt;" in page
    assert not [name for name, _ in outline(page).attributes if name.startswith("on")]
    page.encode("utf-8")


def test_page_loads_nothing(page: str) -> None:
    parser = outline(page)
    assert not {"link", "iframe", "object", "embed", "base", "form"} & set(parser.tags)
    for name, value in parser.attributes:
        if name in ("src", "srcset", "href", "xlink:href", "action"):
            assert value.startswith("#"), (name, value)
    assert not re.search(r"@import|url\(\s*['\"]?(?!#)", page)
    policy = dict(parser.attributes)["http-equiv"], "default-src 'none'" in page
    assert policy == ("Content-Security-Policy", True)


def test_page_is_well_formed_with_unique_ids_and_one_outline(page: str) -> None:
    parser = outline(page)
    assert parser.open == []
    assert len(parser.ids) == len(set(parser.ids))
    assert parser.tags.count("h1") == 1
    levels = [int(tag[1]) for tag in parser.tags if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert page.count("<figure") == page.count("<figcaption") == 3
    referenced = {value[1:] for name, value in parser.attributes if name.endswith("href")}
    assert referenced <= set(parser.ids)


def test_page_shows_every_row_and_answer(page: str, results: Results) -> None:
    for method in {row.method for row in results.rows}:
        named = f"{title_of(method)}<code>{method}</code>"
        assert f'<th scope="row">{named}</th>' in page
        assert f"<dt>{named}</dt><dd>{describe_method(method)}</dd>" in page
    assert page.count("<article") == 10
    assert "✓" in page
    assert "✗" in page
    assert "prefers-color-scheme: dark" in page
    assert ".478" in page  # the paper's non_personalized


def test_same_input_gives_the_same_bytes(
    tagging: Task, users: list[User], predictions: dict[str, Any], results: Results, page: str
) -> None:
    again = Results.from_json(json.loads(json.dumps(results_for(tagging, users, predictions).to_json())))
    examples = all_users(tagging, users, predictions, again)
    run = {"base": "<b>tiny</b>", "versions": {"torch": "2.9"}, "methods": ["a", "b"], "note": None}
    assert render_report(again, draw_figures(again), examples, run, paper=True) == page
    assert draw_figures(again) == draw_figures(results)


def test_figures_are_valid_svg_without_outside_references(results: Results) -> None:
    figures = draw_figures(results)
    assert list(figures) == ["lamp_2m/comparison", "lamp_2m/differences", "lamp_2m/history"]
    for svg in figures.values():
        root = ET.fromstring(svg)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "<metadata" not in svg
        assert "clip-path" not in svg or 'id="' in svg
    texts = "".join(ET.fromstring(figures["lamp_2m/comparison"]).itertext())
    assert all(title_of(row.method) in texts for row in results.rows)


def test_figures_without_adapters_show_the_comparison_alone(
    tagging: Task, users: list[User], predictions: dict[str, Any]
) -> None:
    results = results_for(tagging, users, {"rag_k1": predictions["rag_k1"]})
    assert personal_pair(results.tasks["lamp_2m"]) is None
    assert list(draw_figures(results)) == ["lamp_2m/comparison"]
    assert pick_examples(tagging, users, predictions, results.tasks["lamp_2m"]) == []
    assert "no personal adapter was compared" in finding(results.tasks["lamp_2m"])


@pytest.mark.parametrize("count", [1, 2])
def test_few_users_make_a_whole_report(
    tagging: Task, users: list[User], predictions: dict[str, Any], count: int
) -> None:
    some = users[2 : 2 + count]
    names = {user.user_id for user in some}
    few = {m: {key: a for key, a in answers.items() if key[0] in names} for m, answers in predictions.items()}
    results = results_for(tagging, some, few)
    examples = pick_examples(tagging, some, few, results.tasks["lamp_2m"])
    assert len(examples) == count
    outline(render_report(results, draw_figures(results), examples, {}))


def test_rating_and_generation_make_a_whole_report(
    rating: Task, headlines: Task, make_user: MakeUser
) -> None:
    for task, gold, fields in (
        (rating, "4", ("description", "tag")),
        (headlines, "Rain again", ("text", "title")),
    ):
        some = [make_user(f"u{i}", [gold] * 3, [gold] * (3 + i), fields=fields) for i in range(5)]
        right = {(user.user_id, query.id): gold for user in some for query in user.queries}
        predictions = {"non_personalized": dict.fromkeys(right, "2"), "oppu_k0": right}
        results = results_for(task, some, predictions)
        examples = pick_examples(task, some, predictions, results.tasks[task.name])
        text = render_report(results, draw_figures(results), examples, {})
        outline(text)
        assert ("off by 2" in text) == (task.kind == "rating")


def finding_with(results: Results, delta: float, interval: tuple[float, float] | None) -> str:
    values = {"delta_same_prompt": delta, "delta_same_prompt_ci95": interval}
    other = with_rows(results, lambda row: values if row.method == "oppu_k0" else {})
    return finding(other.tasks["lamp_2m"])


def test_finding_says_what_the_interval_allows(results: Results) -> None:
    good = finding_with(results, 0.48, (0.41, 0.55)).replace("\u00a0", " ")
    assert "On movie tagging" in good
    assert "difference +48 points, 95 % interval +41 to +55" in good
    assert "above zero: the adapters help" in good
    unclear = finding_with(results, 0.02, (-0.03, 0.07))
    assert "−3 to +7" in unclear
    assert "does not show" in unclear
    bad = finding_with(results, -0.1, (-0.2, -0.01))
    assert "do harm" in bad
    assert "zero: the adapters help" not in bad + unclear
    assert "single user" in finding_with(results, 0.5, None)


def test_finding_admits_that_a_simple_rule_does_better(results: Results) -> None:
    better = with_rows(results, lambda row: {"value": 0.99} if row.method == "user_majority" else {})
    text = finding(better.tasks["lamp_2m"])
    first = "Always repeating the user’s most frequent answer does as well as personal adapters or better: 99"
    assert text.startswith(first)
    assert not finding(results.tasks["lamp_2m"]).startswith("Always")


def test_finding_tells_what_is_not_personal(
    tagging: Task, users: list[User], predictions: dict[str, Any], results: Results
) -> None:
    assert "control" not in finding(results.tasks["lamp_2m"])
    controls = {
        "stranger_k0": predictions["non_personalized"],
        "pooled_k0": predictions["rag_k1"],
    }
    whole = results_for(tagging, users, {**predictions, **controls}).tasks["lamp_2m"]
    rows = whole.primary_rows()
    stranger, pooled = (f"{100 * rows[name].value:.0f} %" for name in controls)
    text = finding(whole).replace("\u00a0", " ")
    said = f"another user’s adapter reaches {stranger} and one adapter for all test users reaches {pooled}."
    assert f"As controls, {said}" in text
    assert personal_pair(whole) == ("oppu_k0", "non_personalized")
    assert list(rows)[-2:] == ["pooled_k0", "stranger_k0"]


def test_examples_are_the_best_the_typical_and_the_least_served_user(
    tagging: Task, users: list[User], predictions: dict[str, Any], results: Results
) -> None:
    scores = results.tasks["lamp_2m"].per_user
    gain = {name: scores["oppu_k0"][name] - scores["non_personalized"][name] for name in scores["oppu_k0"]}
    examples = pick_examples(tagging, users, predictions, results.tasks["lamp_2m"])
    assert len(examples) == 3
    assert gain[examples[0].user_id] == max(gain.values())
    assert gain[examples[2].user_id] == min(gain.values())
    for example in examples:
        user = next(user for user in users if user.user_id == example.user_id)
        assert [query.gold for query in example.queries] == [query.gold for query in user.queries[:3]]
        for shown in example.queries:
            assert [answer.method for answer in shown.answers] == list(predictions)
            assert all(answer.right == (answer.text == shown.gold) for answer in shown.answers)


def test_helping_with_an_error_metric_means_lowering_it(rating: Task, make_user: MakeUser) -> None:
    some = [make_user(name, ["5", "5"]) for name in ("helped", "same", "harmed")]
    right = {(user.user_id, query.id): "5" for user in some for query in user.queries}
    plain = {key: "1" if key[0] == "helped" else "5" for key in right}
    oppu = {key: "1" if key[0] == "harmed" else "5" for key in right}
    predictions = {"non_personalized": plain, "oppu_k0": oppu}
    results = results_for(rating, some, predictions)
    examples = pick_examples(rating, some, predictions, results.tasks[rating.name])
    assert [(example.user_id, example.story) for example in examples] == [
        ("helped", "The adapter helps most"),
        ("same", "A typical user"),
        ("harmed", "The adapter harms most"),
    ]


def render(results: Results, width: int, paper: bool) -> str:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(render_table(results, paper))
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 100, 140])
@pytest.mark.parametrize("paper", [False, True])
def test_table_cuts_nothing_at_usual_widths(results: Results, width: int, paper: bool) -> None:
    wide = with_rows(results, lambda row: {"wins": {"better": 88, "equal": 10, "worse": 12}})
    text = render(wide, width, paper)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    for row in results.rows:
        assert row.method in text
        if row.metric == "accuracy" and row.delta is not None and row.p_value is not None:
            assert f"{signed(row.delta)} {p_text(row.p_value)}" in text
    assert "88/10/12" in text
    assert ("users\n" in text or "queries" in text) and ("Llama-2-7B" in text) == paper


def test_table_stars_mark_p_below_five_percent(results: Results) -> None:
    stars = with_rows(results, lambda row: {"p_value": 0.049 if row.method == "rag_k1" else 0.051})
    text = render(stars, 100, False)
    assert text.count("p=.049*") == 1
    assert "p=.051*" not in text


def test_untrusted_names_do_not_become_rich_markup(results: Results) -> None:
    assert "[red]my[/red] task" in render(changed(results, title="[red]my[/red] task"), 100, False)


def test_numbers_are_written_with_a_true_sign() -> None:
    assert [signed(x) for x in (0.4831, -0.02, 0.0001, 1.25)] == ["+.483", "−.020", ".000", "+1.250"]
    assert [p_text(p) for p in (0.0001, 0.042, 1.0)] == ["p<.001", "p=.042", "p=1.000"]
    assert shorten("one  two\nthree four", 11) == "one two …"
    assert len(shorten("x" * 500, 80)) == 80


def test_every_method_of_the_paper_is_described_in_plain_words() -> None:
    names = [
        "non_personalized",
        "random_k1",
        "rag_k4",
        "pag_k0",
        "pag_k1",
        "oppu_k0",
        "oppu_rag_k1",
        "oppu_pag_k1",
    ]
    texts = [describe_method(name) for name in names]
    assert len(set(texts)) == len(names)
    assert all(
        ("personal part" in text) == name.startswith("oppu") for name, text in zip(names, texts, strict=True)
    )
    assert "A method of this run." not in texts
    assert describe_method("my_idea") == "A method of this run."


def test_importing_the_package_does_not_import_torch_or_matplotlib() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from oppu_eval.reporting import report, table, figures, examples;"
        "print([m for m in ('torch', 'matplotlib', 'rouge_score', 'nltk') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_first_screen_says_whose_data_and_from_what_to_what(page: str, results: Results) -> None:
    rows = results.tasks["lamp_2m"].primary_rows()
    first = render_report(results, {}, [], {}, people="Invented <people>").partition("<section")[0]
    assert '<p class="badge">Invented &lt;people&gt;</p>' in first
    before, after = (
        f"{100 * rows[method].value:.0f}\N{NO-BREAK SPACE}%" for method in ("non_personalized", "oppu_k0")
    )
    assert f">{before} <" in first and f">{after}</b>" in first
    assert '<p class="badge">' not in page  # nothing is known of whose data it is
    places = [page.index(f"<code>{method}</code></th>") for method in ("oppu_k0", "global_majority")]
    assert places == sorted(places)  # models before reference rows
    folded = page.index("<details><summary><h3>Some users’ answers")
    assert folded < page.index("<article") < page.index("</details>", folded)


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        (["sample world", "sample world"], "Invented people of a sample world"),
        (["oppu-release"], "People of LaMP, from the OPPU authors’ release (data-0)"),
        (["lamp", "lamp"], "People of LaMP (data-0, data-1)"),
        (["lamp", "sample world"], "People of the data in data-0, data-1"),
        (["events"], "People of the data in data-0"),
    ],
)
def test_whose_data_it_is(kinds: list[str], said: str) -> None:
    datasets = {
        f"task-{number}": SimpleNamespace(path=Path(f"data-{number}"), source={"kind": kind})
        for number, kind in enumerate(kinds)
    }
    run = SimpleNamespace(config=SimpleNamespace(data=datasets), dataset=datasets.__getitem__)
    assert people_of(cast(Run, run)) == said


def test_numbers_of_users_are_a_column_only_where_they_differ(page: str, results: Results) -> None:
    assert ">Queries</th>" not in page
    fewer = with_rows(results, lambda row: {"users": 1} if row.method == "rag_k1" else {})
    assert ">Queries</th>" in render_report(fewer, {}, [], {})
