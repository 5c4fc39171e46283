"""What studies leave behind: pictures, files, the table in the terminal, the page; the paper's numbers."""

import csv
import dataclasses
import importlib.metadata
import io
import itertools
import json
import random
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from oppu_core.data.types import User
from oppu_core.errors import DataError
from oppu_core.storage.files import read_json
from oppu_core.tasks.task import Task
from oppu_eval.reporting.drawing import make_panels, svg_text
from oppu_eval.reporting.paper import (
    paper_cosine_range,
    paper_format,
    paper_shift,
    paper_significant,
    paper_trainable_share,
)
from oppu_eval.reporting.report import render_report
from oppu_eval.reporting.study_views import (
    STUDIES,
    cell,
    group_title,
    grouped,
    merged,
    shown_text,
    study_views,
    terminal,
    write_studies_report,
)
from oppu_eval.scoring.evaluate import evaluate
from oppu_eval.scoring.results import Results
from oppu_eval.studies.activity import Activity
from oppu_eval.studies.cases import Cases
from oppu_eval.studies.cost import Cost
from oppu_eval.studies.format import Format
from oppu_eval.studies.k import RetrievedItems
from oppu_eval.studies.main import METHODS, Main
from oppu_eval.studies.output import facts_of, table_csv, write_study
from oppu_eval.studies.peft import PeftMethods
from oppu_eval.studies.picture import Panel, Series, draw_settings, label_ends, look
from oppu_eval.studies.result import Column, Picture, Result, Table
from oppu_eval.studies.scoring import COUNT_COLUMNS, VALUE_COLUMNS, difference_columns
from oppu_eval.studies.settings import setting_columns
from oppu_eval.studies.shift import Shift
from oppu_eval.studies.similarity import Similarity
from oppu_eval.studies.study import Study
from PIL import Image
from rich.console import Console

pytestmark = pytest.mark.slow  # draws every picture

EVIL = "<script>alert(1)</script>"
# Of a run, and of what a study needs beside it.
VERSIONS = [
    "oppu-core 0.1",
    "torch 2",
    *(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("oppu-eval", "matplotlib", "scikit-learn", "scipy")
    ),
]
ABOUT = "Data movies-12; base tiny; seed 7, settings"
RUNS = {
    "k-1234": {
        "config": {"model": "tiny", "methods": ["rag_k1"], "data": {"lamp_2m": "movies-12"}},
        "versions": {"oppu-core": "0.1", "torch": "2"},
    }
}
VOID = {"meta", "br"}
NINE: tuple[Study, ...] = (
    Main(), Shift(), Activity(), RetrievedItems(), Format(), PeftMethods(), Similarity(), Cost(), Cases(),
)  # fmt: skip


def drawn(values: Sequence[float], **options: Any) -> Any:
    """A figure of two panels; a series for each value, which it has in both settings."""
    methods = ["rag_k1", "oppu_k0", "oppu_rag_k1", "random_k1", "pag_k0", "oppu_pag_k0"]
    series = [
        Series(f"{method} label", method, [(value, (value - 0.1, value + 0.1)), (value, None)])
        for method, value in zip(methods, values, strict=False)
    ]
    one = Panel("Movie tagging", "Accuracy", ["none", "some\nitems"], series, ("query alone", values[0]))
    other = Panel("Ratings", "MAE, lower is better", ["none", "some\nitems"], series[:1])
    return draw_settings([one, other], "items kept (share)", **options)


def test_picture_says_what_is_where() -> None:
    svg = svg_text(drawn([0.3, 0.5]), "k", "Score")
    root = ET.fromstring(svg)
    texts = {"".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"items kept (share)", "Movie tagging: Accuracy", "Ratings: MAE, lower is better"} <= texts
    assert {"□ rag_k1 label", "● oppu_k0 label", "··· query alone"} <= texts
    assert {"none", "some", "items", "0.3", "0.5"} <= texts
    assert svg == svg_text(drawn([0.3, 0.5]), "k", "Score")
    assert svg != svg_text(drawn([0.3, 0.6]), "k", "Score")


def test_methods_are_told_apart_without_colour() -> None:
    def grey(method: str) -> tuple[Any, ...]:
        style = look(method)
        return style["marker"], style["linestyle"], style["markerfacecolor"] == style["color"]

    kinds = ["non_personalized", "random_k1", "rag_k1", "pag_k0", "oppu_k0", "oppu_rag_k1", "oppu_pag_k1"]
    assert len({grey(method) for method in kinds}) == len(kinds)
    assert grey("pag_k0")[0] == grey("pag_k1")[0] != grey("rag_k1")[0] == grey("rag_k4")[0]
    for method in METHODS:
        personal = method.startswith("oppu")
        assert (grey(method)[1] == "-", grey(method)[2]) == (personal, personal)


def test_lines_join_settings_only_where_they_have_an_order() -> None:
    for joined in (True, False):
        axes = drawn([0.3, 0.5], joined=joined).axes[0]
        markers = [line for line in axes.lines if line.get_marker() not in ("None", "", None)]
        assert [line.get_marker() for line in markers] == ["s", "o"]
        assert {line.get_linestyle() == "None" for line in markers} == {not joined}
        assert [list(line.get_ydata()) for line in markers] == [[0.3, 0.3], [0.5, 0.5]]
        whiskers = [list(line.get_ydata()) for line in axes.lines if line.get_marker() == "None"]
        assert whiskers[:-1] == [pytest.approx((0.2, 0.4)), pytest.approx((0.4, 0.6))]
        assert whiskers[-1] == [0.3, 0.3]  # the level


@pytest.mark.parametrize("values", [[0.5] * 6, [0.1, 0.1001, 0.5, 0.5001, 0.5002, 0.9], [0.2, 0.21, 0.22]])
def test_names_at_the_edge_neither_overlap_nor_leave_the_picture(values: list[float]) -> None:
    figure = drawn(values)
    for axes in figure.axes:
        names = [text for text in axes.texts if text.get_text().endswith(("label", "alone"))]
        assert len(names) == len({text.get_text() for text in names}) >= 1
        boxes = sorted((text.get_window_extent() for text in names), key=lambda box: float(box.y0))
        assert all(below.y1 <= above.y0 for below, above in itertools.pairwise(boxes))
        assert all(box.y0 >= 0 and box.y1 <= figure.bbox.y1 for box in boxes)
        assert all(axes.bbox.x1 < box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)


def test_names_with_room_stand_at_their_values() -> None:
    _, (axes,) = make_panels(1, 3.0, left=0.5, right=1.0, top=0.3, bottom=0.4)
    axes.set_ylim(0, 1)
    label_ends(axes, {})
    assert list(axes.texts) == []
    label_ends(axes, {"high": (0.9, "#000000"), "low": (0.1, "#111111"), "middle": (0.5, "#222222")})
    placed = {text.get_text(): (float(text.xy[1]), text.get_color()) for text in axes.texts}
    assert placed == {"low": (0.1, "#111111"), "middle": (0.5, "#222222"), "high": (0.9, "#000000")}


COLUMNS = (
    Column("task", "task"),
    Column("user", "user <b>"),
    Column("metric", "metric", shown=False),
    *VALUE_COLUMNS[1:],
    *difference_columns("to rag_k1"),
    *COUNT_COLUMNS,
    Column("size", "size", "bytes"),
    Column("time", "time (s)", "number"),
    Column("paper", "paper", "score"),
)


def row(task: str, user: str, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = dict.fromkeys((column.name for column in COLUMNS), None)
    made = {
        "task": task, "user": user, "metric": "accuracy", "value": 0.75, "ci95": (0.5, 1.0), "delta": -0.25,
        "delta_ci95": (-0.5, 0.125), "delta_p": 0.031, "delta_users": [1, 0, 3], "users": 1234, "queries": 9,
        "size": 12345, "time": 1.23456,
    }  # fmt: skip
    return values | made | changes


def made_result() -> Result:
    rows = [
        row("lamp_2m", EVIL, delta=None, delta_ci95=None, delta_p=None, delta_users=None),
        row("lamp_2m", "=1+1", delta_users=["=2+2", "x"]),
        row("lamp_2m", 'two\nlines, "quoted"', metric="@macro_f1", shown=False),
        row("lamp_4", "-u", paper=0.4),
    ]
    axes_label = Series(EVIL, "oppu_k0", [(0.2, None)])
    figure = draw_settings([Panel("Titles", "ROUGE-1", [EVIL], [axes_label])], "items’")
    return Result(
        [f"{EVIL} is best."],
        Table(COLUMNS, rows),
        [
            Picture("one", f"Label {EVIL}", f"Caption {EVIL}", figure),
            Picture("two", "Two", "Two", drawn([1])),
        ],
        [f"Note {EVIL}"],
        {"matrix": [[1.0, 0.5]]},
        {"more.html": "<p>More</p>"},
    )


def facts(seed: int = 7) -> dict[str, Any]:
    return facts_of(RUNS, seed, {"k": [0, 1]})


def written(folder: Path, study: Study = NINE[3], name: str = "") -> Path:
    where = folder / (name or study.name)
    titles = {"lamp_2m": f"Movies {EVIL}", "lamp_4": "Titles (lamp_4), ROUGE-1"}
    write_study(where, study, made_result(), facts(), titles)
    return where


def test_study_writes_its_table_numbers_and_pictures(tmp_path: Path) -> None:
    folder = written(tmp_path)
    assert {file.name for file in folder.iterdir()} == {
        "study.json", "table.csv", "one.svg", "one.png", "two.svg", "two.png", "more.html",
    }  # fmt: skip
    values = read_json(folder / "study.json")
    assert (values["study"], values["title"], values["options"]) == ("k", NINE[3].title, {"k": [0, 1, 2, 4]})
    assert values["provenance"] == {
        "seed": 7,
        "settings": facts()["settings"],
        "runs": RUNS,
        "data": ["movies-12"],
        "base": "tiny",
        "versions": facts()["versions"],
    }  # fmt: skip
    assert values["findings"] == [f"{EVIL} is best."]
    assert values["details"] == {"matrix": [[1.0, 0.5]]}
    assert [column["name"] for column in values["table"]["columns"]] == [column.name for column in COLUMNS]
    expected = json.loads(json.dumps([{"shown": True, **one} for one in made_result().table.rows]))
    assert values["table"]["rows"] == expected
    assert [picture["name"] for picture in values["pictures"]] == ["one", "two"]


def test_pictures_say_how_they_came_about(tmp_path: Path) -> None:
    folder = written(tmp_path)
    about = f"{ABOUT} {facts()['settings']}, {', '.join(VERSIONS)}."
    svg = ET.parse(folder / "one.svg").getroot()
    assert svg.findtext("{http://www.w3.org/2000/svg}desc") == about
    assert svg.get("aria-label") == f"Label {EVIL}"
    with Image.open(folder / "one.png") as image:
        assert image.info["Description"] == f"Label {EVIL}. {about}"
        assert image.format == "PNG"


def test_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    one, two = written(tmp_path / "a"), written(tmp_path / "b")
    write_studies_report(tmp_path / "a")
    write_studies_report(tmp_path / "b")
    names = sorted(file.relative_to(tmp_path / "a") for file in (tmp_path / "a").rglob("*.*"))
    assert len(names) == len(list(one.iterdir())) + 1 == len(list(two.iterdir())) + 1
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_settings_are_named_by_all_that_was_chosen() -> None:
    run = RUNS["k-1234"]
    other = {"k-1234": {**run, "config": {**run["config"], "methods": ["rag_k2"]}}}
    names = {
        facts_of(runs, 7, options)["settings"]
        for runs, options in ((RUNS, {"k": [0, 1]}), (other, {"k": [0, 1]}), (RUNS, {"k": [0, 2]}))
    }
    assert len(names) == 3
    assert facts()["settings"] in names


def test_csv_has_every_row_and_column_and_where_it_is_from() -> None:
    table = made_result().table
    text = table_csv(table, facts())
    read = list(csv.DictReader(io.StringIO(text)))
    assert list(read[0]) == [
        "task", "user", "metric", "value", "ci95_low", "ci95_high", "delta", "delta_ci95_low",
        "delta_ci95_high", "delta_p", "delta_users", "users", "queries", "size", "time", "paper",
        "seed", "settings", "versions",
    ]  # fmt: skip
    assert len(read) == len(table.rows)
    for line, values in zip(read, table.rows, strict=True):
        assert (line["seed"], line["settings"]) == ("7", facts()["settings"])
        assert line["versions"] == "; ".join(VERSIONS)
        assert (float(line["ci95_low"]), float(line["ci95_high"])) == values["ci95"]
        assert float(line["time"]) == 1.23456  # unrounded
    assert {read[0][name] for name in ("delta", "delta_ci95_low", "delta_p", "delta_users", "paper")} == {""}
    assert (read[3]["delta"], read[3]["delta_users"], read[3]["paper"]) == ("-0.25", "1/0/3", "0.4")
    assert read[2]["user"] == 'two\nlines, "quoted"'


def test_csv_has_no_formulas() -> None:
    cells = [one for line in csv.reader(io.StringIO(table_csv(made_result().table, facts()))) for one in line]
    risky = [one for one in cells if one.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert all(float(one) < 0 for one in risky)
    assert {"'=1+1", "'-u", "'@macro_f1", "'=2+2/x"} <= set(cells)


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("text", "a", "a"),
        ("text", (0.53, 0.567), "0.53 / 0.567"),
        ("text", False, "False"),
        ("score", 0.1234, ".123"),
        ("score", 1.0, "1.000"),
        ("signed", 0.25, "+.250"),
        ("signed", -0.25, "−.250"),
        ("signed", 0.0, ".000"),
        ("interval", [0.5, 1.0], "[.500, 1.000]"),
        ("signed_interval", [-0.5, 0.125], "[−.500, +.125]"),
        ("p", 0.0004, "p<.001*"),
        ("p", 0.049, "p=.049*"),
        ("p", 0.05, "p=.050"),
        ("count", 1234, "1,234"),
        ("number", 0.012345, "0.0123"),
        ("number", 123456.7, "123,457"),
        ("bytes", 12345, "12.3 kB"),
    ],
)
def test_values_are_shown_as_people_read_them(kind: str, value: Any, text: str) -> None:
    assert shown_text({"kind": kind}, value) == text
    assert shown_text({"kind": kind}, None) == "–"


def test_people_see_shown_rows_and_columns_with_something_in_them(tmp_path: Path) -> None:
    table = read_json(written(tmp_path) / "study.json")["table"]
    groups = grouped(table)
    assert [(name, [one["user"] for one in rows]) for name, rows in groups.items()] == [
        ("lamp_2m", [EVIL, "=1+1"]),
        ("lamp_4", ["-u"]),
    ]
    names = [[column["name"] for column in columns] for columns in merged(table, groups["lamp_2m"])]
    assert names == [["user"], ["value", "ci95"], ["delta", "delta_ci95", "delta_p"], ["size"], ["time"]]
    assert group_title({"titles": {}}, "lamp_2m", groups["lamp_2m"]) == "lamp_2m, 1,234 users"
    unlike = [{**groups["lamp_2m"][0], "users": 7}, groups["lamp_2m"][1]]
    assert group_title({"titles": {"lamp_2m": "Tags"}}, "lamp_2m", unlike) == "Tags"
    assert ["users"] in [[column["name"] for column in columns] for columns in merged(table, unlike)]
    delta = merged(table, groups["lamp_2m"])[2]
    assert cell(delta, groups["lamp_2m"][0]) == ("–", "")
    assert cell(delta, groups["lamp_2m"][1]) == ("−.250 p=.031*", "[−.500, +.125]")
    assert [columns[0]["name"] for columns in merged(table, groups["lamp_4"])][-1] == "paper"


def shown(values: Mapping[str, Any], width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(terminal(values))
    return console.export_text()


TABLES = {
    "main": (
        Column("task", "task"), Column("method", "method"), *VALUE_COLUMNS,
        *difference_columns("to non-\npersonalized"),
        *difference_columns("to same prompt,\nno adapter", "same_prompt"), *COUNT_COLUMNS,
        Column("paper", "paper", "score"),
    ),
    "k": tuple(setting_columns("k")),
    "shift": tuple(setting_columns("kept", "as many\nrandom items")),
    "format": tuple(setting_columns("history", "both\nsides", paper="text")),
}  # fmt: skip


@pytest.mark.parametrize("columns", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize("width", [80, 100, 140])
def test_terminal_loses_no_number(tmp_path: Path, columns: Sequence[Column], width: int) -> None:
    chance = random.Random(0)

    def signed() -> float:
        return chance.choice((-1, 1)) * chance.uniform(0.1, 0.9)

    make: dict[str, Callable[[], Any]] = {
        "text": lambda: chance.choice(["non_personalized", "oppu_rag_k4", "irrelevant"]),
        "score": lambda: chance.uniform(0.1, 0.9),
        "signed": signed,
        "interval": lambda: sorted(chance.uniform(0.1, 0.9) for _ in range(2)),
        "signed_interval": lambda: sorted(signed() for _ in range(2)),
        "p": lambda: chance.choice([0.0001, chance.uniform(0.01, 0.9)]),
        "count": lambda: chance.randint(10_000, 99_999),
    }
    rows = [{column.name: make[column.kind]() for column in columns} | {"task": "lamp_2m"} for _ in range(8)]
    if columns[-1].kind == "text":
        rows = [{**one, "paper": f".{chance.randint(100, 999)} / .567"} for one in rows]
    result = dataclasses.replace(made_result(), table=Table(columns, rows))
    write_study(tmp_path, NINE[3], result, facts(), {})
    values = read_json(tmp_path / "study.json")
    text = shown(values, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text.split("•", maxsplit=1)[0]
    table = values["table"]
    numbers = 0
    for one in table["rows"]:
        for column in merged(table, table["rows"]):
            names = column[0]["name"] in ("setting", "method")  # which may be folded
            parts = [] if names else " ".join(cell(column, one)).split()
            numbers += len(parts)
            assert [part for part in parts if part not in text] == []
    assert numbers >= 8 * 7


def test_terminal_shows_texts_as_they_are(tmp_path: Path) -> None:
    values = {**read_json(written(tmp_path) / "study.json"), "findings": ["[red]u1[/red] gains"]}
    text = shown(values, 100)
    assert "[red]u1[/red] gains" in text
    assert f"Movies {EVIL}" in text
    assert "Titles (lamp_4), ROUGE-1" in text
    assert "two\nlines" not in text  # a row that people are not shown
    for said in (values["title"], values["question"], f"Note {EVIL}", "seed 7, settings"):
        assert said in text


class Outline(HTMLParser):
    """Checks that tags are closed in order; collects tags, attributes and the texts of headings."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.headings: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)

    def values(self, attribute: str) -> list[str]:
        return [value for name, value in self.attributes if name == attribute]


def test_report_has_every_study_in_the_order_of_the_paper(tmp_path: Path) -> None:
    assert tuple(study.name for study in NINE) == STUDIES
    for study in random.Random(0).sample(NINE, len(NINE)):
        written(tmp_path, study)
    page = write_studies_report(tmp_path).read_text(encoding="utf-8")
    outline = Outline(page)
    assert outline.open == []
    assert outline.headings == [study.title for study in NINE]
    for study in NINE:
        assert study.question in page.replace("&#39;", "'")
    ids = outline.values("id")
    assert len(ids) == len(set(ids))
    links = outline.values("href")
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    files = [link for link in links if not link.startswith("#")]
    assert files == [f"{name}/{file}" for name in STUDIES for file in ("more.html", "table.csv")]
    assert all((tmp_path / file).is_file() for file in files)
    assert outline.tags.count("svg") == outline.tags.count("figcaption") == 2 * len(NINE)


def test_what_users_wrote_never_becomes_markup(tmp_path: Path) -> None:
    written(tmp_path, Shift(encoder=EVIL))
    page = write_studies_report(tmp_path).read_text(encoding="utf-8")
    outline = Outline(page)
    assert "script" not in outline.tags
    assert "b" not in outline.tags
    assert EVIL not in page
    safe = "&lt;script&gt;alert(1)&lt;/script&gt;"
    for text in (f"{safe} is best.", f"Caption {safe}", f"Note {safe}", f"Movies {safe}", f"encoder {safe}",
                 f"<td>{safe}", f">{safe}</text>", "user &lt;b&gt;"):  # fmt: skip
        assert text in page, text
    assert not [name for name, _ in outline.attributes if name.startswith("on")]
    assert "default-src 'none'" in page


def test_views_are_relative_to_the_report(tmp_path: Path) -> None:
    written(tmp_path / "studies")
    (view,) = study_views(tmp_path / "studies", tmp_path)
    assert view["links"] == ["studies/k/more.html", "studies/k/table.csv"]
    assert view["asked"] == "k [0, 1, 2, 4]"
    assert [group["title"] for group in view["groups"]] == [
        f"Movies {EVIL}, 1,234 users",
        "Titles (lamp_4), ROUGE-1, 1,234 users",
    ]
    assert view["groups"][1]["rows"] == [[
        ("-u", ""), (".750", "[.500, 1.000]"), ("−.250 p=.031*", "[−.500, +.125]"),
        ("12.3 kB", ""), ("1.23", ""), (".400", ""),
    ]]  # fmt: skip
    assert study_views(tmp_path / "nothing", tmp_path) == []


@pytest.mark.parametrize("damage", ["format", "json", "keys", "picture"])
def test_damaged_results_are_named(tmp_path: Path, damage: str) -> None:
    folder = written(tmp_path)
    file = folder / "study.json"
    if damage == "picture":
        (folder / "two.svg").unlink()
    else:
        texts = {"format": '{"format": 99}', "json": "{", "keys": '{"format": 1}'}
        file.write_text(texts[damage], encoding="utf-8")
    with pytest.raises(DataError, match=r"study\.json"):
        write_studies_report(tmp_path)


def test_report_of_a_run_has_a_section_for_its_studies(
    tmp_path: Path, tagging: Task, make_user: Callable[..., User]
) -> None:
    users = [make_user(f"u{number}", ["comedy", "action"]) for number in range(3)]
    answers = {(user.user_id, query.id): "comedy" for user in users for query in user.queries}
    evaluated = evaluate(tagging, users, [], {"rag_k1": answers}, 0, resamples=50)
    results = Results({tagging.name: evaluated}, {"seed": 0})
    written(tmp_path / "studies")
    views = study_views(tmp_path / "studies", tmp_path)
    without = render_report(results, {}, [], {})
    page = render_report(results, {}, [], {}, studies=views)
    assert Outline(page).open == []
    assert NINE[3].title in Outline(page).headings
    assert set(Outline(page).headings) - set(Outline(without).headings) == {NINE[3].title}
    assert 'href="studies/k/table.csv"' in page
    assert '<section aria-labelledby="study-k">' in page
    assert "study-k" not in without
    ids = Outline(page).values("id")
    assert len(ids) == len(set(ids))


def test_table_3_of_the_paper() -> None:
    assert paper_shift("LaMP-1", "full", "oppu_rag_k1", "accuracy") == 0.675
    assert paper_shift("LaMP-1", "irrelevant", "oppu_rag_k1", "accuracy") == 0.699
    assert paper_shift("LaMP-3", "irrelevant", "rag_k1", "mae") == 0.268
    assert paper_shift("LaMP-3", "irrelevant", "oppu_k0", "rmse") == 0.463
    assert paper_shift("LaMP-7", "irrelevant", "oppu_rag_k1", "rouge_l") == 0.523
    assert paper_shift("LaMP-5", "irrelevant", "non_personalized", "rouge_1") == 0.476  # reads no history
    for unknown in (
        ("LaMP-4", "full", "rag_k1", "rouge_1"),
        ("LaMP-1", "random", "rag_k1", "accuracy"),
        ("LaMP-1", "full", "pag_k0", "accuracy"),
        ("LaMP-1", "full", "rag_k1", "mae"),
    ):
        assert paper_shift(*unknown) is None


def test_table_4_of_the_paper() -> None:
    assert paper_format("LaMP-2M", "both", "oppu_k0", "accuracy") == (0.6,)
    assert paper_format("LaMP-2M", "inputs", "oppu_rag_k1", "macro_f1") == (0.539, 0.548)
    assert paper_format("LaMP-2M", "outputs", "rag_k1", "accuracy") == (0.53, 0.567)
    assert paper_format("LaMP-5", "inputs", "oppu_rag_k1", "rouge_l") == (0.429, 0.449)
    assert paper_format("LaMP-5", "both", "rag_k1", "rouge_1") == (0.505,)
    assert paper_format("LaMP-1", "both", "rag_k1", "accuracy") == ()
    assert paper_format("LaMP-5", "both", "non_personalized", "rouge_1") == ()


def test_marks_of_table_1_of_the_paper() -> None:
    marked = ["oppu_k0", "oppu_rag_k4", "oppu_pag_k0", "oppu_pag_k1"]
    methods = ["oppu_k0", "oppu_rag_k1", "oppu_rag_k2", "oppu_rag_k4", "oppu_pag_k0", "oppu_pag_k1", "rag_k4"]
    assert [m for m in methods if paper_significant("LaMP-2N", m, "accuracy")] == marked
    assert paper_significant("LaMP-2N", "oppu_rag_k1", "macro_f1") is True
    assert paper_significant("LaMP-3", "oppu_rag_k2", "mae") is False
    assert paper_significant("LaMP-9", "oppu_k0", "mae") is None
    assert paper_significant("LaMP-3", "oppu_k0", "accuracy") is None


def test_figures_6_and_7_of_the_paper() -> None:
    shares = [paper_trainable_share(peft) for peft in ("lora", "ia3", "prompt_tuning")]
    assert shares == pytest.approx([0.01 / 100, 0.06 / 100, 0.001 / 100])
    assert paper_trainable_share("full") is None
    assert paper_cosine_range() == (0.4, 0.7)
