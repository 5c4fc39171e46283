"""A visitor's own history: what is read, and what is refused."""

import csv
import gzip
import io
import json
import os
import zipfile
from pathlib import Path

import pytest
from oppu_core.data.sample import GRAMMARS
from oppu_core.data.types import Query
from oppu_core.errors import ConfigError, DataError
from oppu_core.tasks.task import Task
from oppu_core.tasks.task_files import TASKS, get_task
from oppu_demo import own_history
from oppu_demo.own_history import (
    MAX_BYTES,
    MAX_COLUMNS,
    MAX_ITEM_CHARS,
    MAX_ITEMS,
    Preview,
    example,
    how_to,
    read_file,
    read_items,
)

MOVIES, TWEETS, NEWS, PAPERS = (get_task(name) for name in ("lamp_2m", "lamp_7", "lamp_2n", "lamp_1"))
QUERY = Query("q", {"description": "A dragon sleeps under the castle. The jokes never stop."}, None, 0)


def fields(preview: Preview) -> list[dict[str, str]]:
    return [dict(item.fields) for item in preview.items]


def read(task: Task, text: str) -> list[dict[str, str]]:
    preview = read_items(task, text, None)
    assert not preview.problems, preview.problems
    return fields(preview)


# What is read


@pytest.mark.parametrize("separator", ["\t", " => ", " | "])
def test_a_plain_line_is_input_and_output(separator: str) -> None:
    text = f"A ship sinks.{separator}action\r\n\n  A cat dances.  {separator}  comedy  \n"
    assert read(MOVIES, text) == [
        {"description": "A ship sinks.", "tag": "action"},
        {"description": "A cat dances.", "tag": "comedy"},
    ]


def test_the_last_separator_of_the_strongest_kind_counts() -> None:
    lines = ["a => b => comedy", "a | b => comedy", "a => b | c\tcomedy", "a | b | comedy"]
    inputs = ["a => b", "a | b", "a => b | c", "a | b"]
    assert [row["description"] for row in read(MOVIES, "\n".join(lines))] == inputs


def test_without_an_output_a_line_is_an_item() -> None:
    assert read(TWEETS, "so tired => lol\n\nwow | <b>hi</b>\n") == [
        {"text": "so tired => lol"},
        {"text": "wow | <b>hi</b>"},
    ]
    assert read(PAPERS, "On whales") == [{"title": "On whales", "abstract": "", "citation": ""}]


def test_all_formats_say_the_same_pasted_or_uploaded(tmp_path: Path) -> None:
    rows = [{"description": "A ship, sunk.", "tag": "action"}, {"description": "A cat.", "tag": "comedy"}]
    table = io.StringIO()
    writer = csv.DictWriter(table, ["description", "tag"])
    writer.writeheader()
    writer.writerows(rows)
    forms = {
        "a.txt": "A ship, sunk. => action\nA cat. => comedy",
        "a.jsonl": "\n".join(map(json.dumps, rows)),
        "a.csv": table.getvalue(),
    }
    for name, text in forms.items():
        assert read(MOVIES, text) == rows
        assert read(MOVIES, "\ufeff\n" + text) == rows
        for file in (tmp_path / name, tmp_path / "no-suffix", tmp_path / (name.upper())):
            file.write_text("\ufeff" + text, encoding="utf-8")
            assert fields(read_items(MOVIES, None, file)) == rows
            assert fields(read_items(MOVIES, " \n", file)) == rows  # an empty box beside it


def test_structured_text_never_becomes_plain_lines(tmp_path: Path) -> None:
    rows = [{"text": "off to the market"}, {"text": "rain all day"}]
    archive = "window.YTD.tweets.part0 = " + json.dumps(
        [{"tweet": {"full_text": row["text"]}} for row in rows]
    )
    for text in (json.dumps(rows, indent=1), "\n".join(map(json.dumps, rows)).replace("{", "{ "), archive):
        assert read(TWEETS, text) == rows
        for encoding in ("utf-8", "utf-16"):
            (tmp_path / "a.txt").write_bytes(text.encode(encoding))
            assert fields(read_items(TWEETS, None, tmp_path / "a.txt")) == rows
    for text in ("window.x = {}", "<html>", "[{'text': 'a'}]", "1\toff\n2\train", "text: a\ntext: b"):
        with pytest.raises(DataError, match=r"^The text "):
            read_items(TWEETS, text, None)
    assert read(TWEETS, "off to the market\rrain all day") == rows


def test_nothing_to_learn_from_says_why() -> None:
    preview = read_items(TWEETS, "{'text': 'a'}", None)
    with pytest.raises(DataError, match=r"There is no item to learn from\. line 1: looks like Python"):
        preview.something()
    assert read_items(TWEETS, "a", None).something() == read_items(TWEETS, "a", None).items


def test_dates_put_items_in_order_oldest_first() -> None:
    rows = [{"text": f"day {day}", "date": f"2024-01-0{day}"} for day in (3, 1, 2)]
    preview = read_items(TWEETS, "\n".join(map(json.dumps, rows)), None)
    assert [item.fields["text"] for item in preview.items] == ["day 1", "day 2", "day 3"]


def test_a_task_with_several_inputs_takes_no_plain_lines() -> None:
    task = Task(
        name="recipes", kind="generation", input_fields=("dish", "guest"), output_field="note",
        instruction="Note.", query_template="{dish} for {guest}:",
    )  # fmt: skip
    with pytest.raises(
        DataError, match="an object a line\\) or a table \\(CSV, TSV\\) with dish, guest, note; an item"
    ):
        read_items(task, "soup => salt", None)
    row = {"dish": "soup", "guest": "Ada", "note": "salt"}
    assert read(task, json.dumps(row)) == [row]
    assert read(task, "dish,guest,note\nsoup,Ada,salt") == [row]
    assert example(task) == ""


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("A cat. => comedy\nA ship. => fun", "line 2: tag is none of sci-fi, "),
        ("A cat. => comedy\nA ship.", "line 2: write description => tag"),
        ("A cat. => comedy\n => action", "line 2: description is empty"),
        ("A cat. => comedy\nA ship. => ", "line 2: tag is empty"),
        ('{"description": "A cat.", "tag": "comedy"}\n{', "line 2: is not JSON"),
        ('{"description": "A cat.", "tag": "comedy"}\n[1]', "line 2: is not an object but a list"),
        ('{"description": "A cat.", "tag": "comedy"}\n{"description": "\\ud800", "tag": "comedy"}',
         "line 2: description has a broken character"),
        ('{"description": "A cat.", "tag": "comedy"}\n' + "[" * 100_000, "line 2: is not JSON (nested"),
        ('{"description": "A cat.", "tag": "comedy"}\n{"description": "A", "tag": ' + "9" * 5000 + "}",
         "line 2: tag is none of"),
        ("description,tag\nA cat.,comedy\nA ship, sunk.,action", "line 3: has more cells than columns"),
        ("description,tag\nA cat.,comedy\nA ship.", "line 3: tag must be text, but is missing"),
        ("description,tag\nA cat.,comedy\n" + "x" * 200_000 + ",comedy", "an item may have 10,000"),
        ("A cat. => comedy\n" + "x" * MAX_ITEM_CHARS + " => action", "an item may have 10,000"),
        ('{"description": "A cat.", "tag": "comedy"}\n'
         + json.dumps({"description": "A ship.", "tag": "action", **{f"c{n}": 1 for n in range(1000)}}),
         "line 2: has 1,002 fields; at most 64"),
    ],
)  # fmt: skip
def test_a_line_that_cannot_be_used_is_named_and_the_others_are(text: str, problem: str) -> None:
    preview = read_items(MOVIES, text, None)
    assert fields(preview) == [{"description": "A cat.", "tag": "comedy"}]
    (found,) = preview.problems
    assert problem in found and len(found) < 400
    assert preview.summary == "1 item to learn from; 1 line cannot be used."


def test_problems_are_counted_and_fifty_are_shown() -> None:
    preview = read_items(MOVIES, "A cat. => comedy\n" * 2 + "A ship.\n" * 70, None)
    assert (len(preview.items), len(preview.problems), preview.unusable) == (2, 50, 70)
    assert preview.summary == "2 items to learn from; 70 lines cannot be used."
    assert read_items(MOVIES, "A ship.", None).items == ()  # nothing to learn from is no error here


@pytest.mark.parametrize(
    "item_id",
    ["../../../etc/passwd", "/etc/passwd", "<script>alert(1)</script>", "C:\\x", "{{ 7*7 }}", "; rm"],
)
def test_an_id_is_data_and_nothing_else(item_id: str) -> None:
    row = {"id": item_id, "description": "A cat.", "tag": "comedy"}
    preview = read_items(MOVIES, json.dumps(row) + "\n" + json.dumps(row), None)
    assert [item.id for item in preview.items] == [item_id]
    assert preview.problems == (f"line 2: id occurs twice ({item_id!r})",)


# What is refused


@pytest.mark.parametrize("text", [None, "", " \n\t\n", "\ufeff"])
def test_nothing_is_said_to_be_nothing(text: str | None, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"The text is empty\. Write one item a line: description => tag"):
        read_items(MOVIES, text, None)
    (tmp_path / "a.csv").write_text(text or "")
    with pytest.raises(DataError, match="The file is empty"):
        read_items(MOVIES, None, tmp_path / "a.csv")


def test_a_text_and_a_file_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="take one of them away"):
        read_items(MOVIES, "A cat. => comedy", tmp_path / "a.csv")


def zipped(content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv", content)
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (zipped(b"\0" * 10**8), "a zip file or spreadsheet, which is not unpacked"),
        (b"PK\x05\x06" + bytes(18), "a zip file, which is not unpacked"),
        (gzip.compress(b"\0" * 10**8), "a gzip file, which is not unpacked"),
        (b"A cat.\0 => comedy", "is no text"),
        ("A cat. => comedy".encode("utf-16")[:-1], "no UTF-16 text"),
        (b"A caf\xe9 => comedy", r"no UTF-8 text \(byte 6 cannot be read, it looks like Windows-1252\)"),
        ("кот => comedy".encode("cp1251"), r"no UTF-8 text \(byte 1 cannot be read\)"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "no UTF-8 text"),
        (b"\x7fELF\2\1\1\0\0\0", "is no text"),
        (b"x" * (MAX_BYTES + 1), "more than 1 MB"),
        (b"a,b\n1,2\n", "no header line with the columns description, tag"),
        (
            ",".join(["description", "tag", *map(str, range(1000))]).encode() + b"\nA cat.,comedy",
            "1,002 columns",
        ),
        (b'description,tag\n"never closed,comedy', "not the CSV it should be"),
    ],
)
def test_an_upload_that_is_no_history_is_one_clear_message(
    content: bytes, problem: str, tmp_path: Path
) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(content)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DataError, match=problem) as caught:
        read_items(MOVIES, None, file)
    assert str(tmp_path) not in str(caught.value) and len(str(caught.value)) < 300
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("kind", ["folder", "link", "pipe", "missing", "NUL in its name"])
def test_only_a_plain_file_is_opened(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    if kind == "folder":
        file.mkdir()
    elif kind == "link":
        (tmp_path / "secret").write_text("A secret. => comedy")
        file.symlink_to(tmp_path / "secret")
    elif kind == "pipe":
        os.mkfifo(file)  # opening it would wait for ever
    elif kind == "NUL in its name":
        file = tmp_path / "a\0.txt"
    with pytest.raises(DataError, match=r"no plain file|cannot be read"):
        read_items(MOVIES, None, file)


def test_no_more_than_the_limit_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.txt"
    with file.open("wb") as sparse:
        sparse.truncate(2**40)  # what is too large is not opened
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda *_: pytest.fail("it was opened"))
        with pytest.raises(DataError, match="more than 1 MB"):
            read_items(MOVIES, None, file)
    # A file that has grown since it was looked at.
    monkeypatch.setattr(Path, "lstat", lambda _: os.stat_result((0o100600, *[0] * 9)))
    with pytest.raises(DataError, match="more than 1 MB"):
        read_file(Path("/dev/zero"))


@pytest.mark.parametrize(
    "text", ["é" * (MAX_BYTES // 2 + 1), "\ud800" * MAX_BYTES], ids=["bytes", "surrogates"]
)
def test_a_giant_paste_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="The text has more than 1 MB"):
        read_items(MOVIES, text, None)


@pytest.mark.parametrize(
    "text",
    ["A cat. => comedy\n" * (MAX_ITEMS + 1), "x\n" * 400_000, '{"a": 1}\n' * 100_000,
     "[" + "{}," * MAX_ITEMS + "{}]",
     "description,tag\n" + "A cat.,comedy\n" * (MAX_ITEMS + 1)],
    ids=["lines", "bad lines", "objects", "list", "table"],
)  # fmt: skip
def test_too_many_items_are_refused(text: str) -> None:
    with pytest.raises(DataError, match="more than 2,000 items"):
        read_items(MOVIES, text, None)


def test_what_is_at_the_limits_is_read() -> None:
    assert len(read(TWEETS, "x\n" * MAX_ITEMS)) == MAX_ITEMS
    assert len(read(TWEETS, "x" * MAX_ITEM_CHARS)) == 1
    assert len(read(TWEETS, f"{'y' * 9_999}\n" * 100)) == 100  # 1 MB to the byte
    row = {"text": "x"} | {f"c{number}": "" for number in range(MAX_COLUMNS - 1)}
    assert len(read(TWEETS, json.dumps(row))) == 1
    assert len(read(TWEETS, ",".join(row) + "\n" + ",".join(["x"] * len(row)))) == 1


# Examples


@pytest.mark.parametrize("name", list(GRAMMARS))
def test_an_example_can_be_used_as_it_is(name: str) -> None:
    task = TASKS[name]
    preview = read_items(task, example(task), None)
    assert len(preview.items) == own_history.EXAMPLE_ITEMS and not preview.problems
    assert task.history_fields[0] in how_to(task)
    assert all(item.fields[field] for item in preview.items for field in task.history_fields)


def test_the_example_user_is_unlike_the_crowd() -> None:
    """Of fifteen tags three are evoked at a time: chance gives a favourite tag 5 of 24 items at most."""
    tags = [row["tag"] for row in read(MOVIES, example(MOVIES))]
    assert max(map(tags.count, tags)) >= 6
    scores = [row["score"] for row in read(TASKS["lamp_3"], example(TASKS["lamp_3"]))]
    assert max(map(scores.count, scores)) >= 18
