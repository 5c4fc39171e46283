"""A person's history: text with a structure is understood or refused, and never taken for plain lines."""

import gzip
import json
from pathlib import Path

import pytest
from oppu_core.data.history_files import history_records, how_to
from oppu_core.errors import DataError
from oppu_core.ownership.personalize import History, read_history, usable
from oppu_core.tasks.task import Task
from oppu_core.tasks.task_files import TASKS

TWEETS, HEADLINES, MOVIES, PAPERS = (TASKS[name] for name in ("lamp_7", "lamp_4", "lamp_2m", "lamp_1"))
TEXTS = ["off to the market, again", "rain all day; tea it is", "new bike day!!", "“é” | who => left"]


def read(task: Task, text: str, suffix: str = "") -> History:
    return usable(history_records(task, text, "The text", suffix), task)


def texts(task: Task, text: str, suffix: str = "") -> list[str]:
    history = read(task, text, suffix)
    assert not history.problems
    return [item.fields["text"] for item in history.items]


def refused(task: Task, text: str, suffix: str = "") -> str:
    with pytest.raises(DataError) as caught:
        read(task, text, suffix)
    assert str(caught.value).startswith("The text")
    return str(caught.value)


def archive(*tweets: dict[str, object], name: str = "tweets") -> str:
    return f"window.YTD.{name}.part0 = " + json.dumps([{"tweet": tweet} for tweet in tweets], indent=2)


def tweet(number: int, text: str, **more: object) -> dict[str, object]:
    created = f"Wed May 01 1{number}:00:00 +0200 2024"
    return {"id_str": f"t{number}", "full_text": text, "created_at": created, **more}


OBJECTS = [{"text": text} for text in TEXTS]
FORMS = {
    "lines": "\n".join(TEXTS),
    "lines that end with CR": "\r".join(TEXTS),
    "JSON lines": "\n".join(map(json.dumps, OBJECTS)),
    "JSON lines with a space": "\n".join(json.dumps(row).replace("{", "{ ") for row in OBJECTS),
    "a list": json.dumps(OBJECTS),
    "a list over lines": "\n" + json.dumps(OBJECTS, indent=2),
    "objects over lines": "\n".join(json.dumps(row, indent=2) for row in OBJECTS),
    "objects over lines, with commas": ",\n".join(json.dumps(row, indent=2) for row in OBJECTS),
    "tabs": "id\ttext\n" + "\n".join(f"{n}\t{text}" for n, text in enumerate(TEXTS)),
    "semicolons": "id;text\n" + "\n".join(f'{n};"{text}"' for n, text in enumerate(TEXTS)),
    "commas": "text,id\n" + "\n".join(f'"{text}",{n}' for n, text in enumerate(TEXTS)),
    "a sep line": "sep=;\nid;text\n" + "\n".join(f'{n};"{text}"' for n, text in enumerate(TEXTS)),
    "capitals": "ID,Text\n" + "\n".join(f'{n},"{text}"' for n, text in enumerate(TEXTS)),
    "an index": "\ttext\n" + "\n".join(f"{n}\t{text}" for n, text in enumerate(TEXTS)),
    "an X archive": archive(*(tweet(n, text) for n, text in enumerate(TEXTS))),
    "an old X archive": archive(*(tweet(n, text) for n, text in enumerate(TEXTS)), name="tweet") + ";\n",
    "tweets without the script": json.dumps([{"tweet": tweet(n, text)} for n, text in enumerate(TEXTS)]),
}


@pytest.mark.parametrize("text", FORMS.values(), ids=FORMS.keys())
def test_every_form_says_the_same(tmp_path: Path, text: str) -> None:
    assert texts(TWEETS, text) == TEXTS
    assert texts(TWEETS, "\ufeff" + text.replace("\n", "\r\n")) == TEXTS
    for encoding in ("utf-8-sig", "utf-16", "utf-16-be"):
        (tmp_path / "mine").write_bytes(text.encode(encoding))
        assert [item.fields["text"] for item in read_history(tmp_path / "mine", TWEETS).items] == TEXTS
    (tmp_path / "mine").write_bytes(gzip.compress(text.encode()))
    assert [item.fields["text"] for item in read_history(tmp_path / "mine", TWEETS).items] == TEXTS


def test_tweets_have_their_ids_and_times_and_are_oldest_first() -> None:
    history = read(TWEETS, archive(tweet(3, "late"), tweet(1, "A &amp; B &lt;3")))
    assert [(item.id, item.date, dict(item.fields)) for item in history.items] == [
        ("t1", "2024-05-01T09:00:00+00:00", {"text": "A & B <3"}),
        ("t3", "2024-05-01T11:00:00+00:00", {"text": "late"}),
    ]


def test_a_tweet_that_is_none_of_ones_own_words_is_named() -> None:
    text = archive(
        tweet(1, "RT @ann: hello"), {"id_str": "2"}, tweet(2, "x", created_at="May"), tweet(3, "y")
    )
    history = read(TWEETS, text)
    assert [item.id for item in history.items] == ["t3"]
    assert history.problems == (
        "record 1: is a retweet: somebody else's words",
        "record 2: a tweet has no full_text",
        "record 3: created_at is no date of X",
    )


@pytest.mark.parametrize("task", [HEADLINES, MOVIES, PAPERS])
def test_tweets_are_no_history_of_another_task(task: Task) -> None:
    assert f"tweets of an X archive, and a history of {task.name} is no tweets" in refused(
        task, archive(tweet(1, "x"))
    )
    listed = read(task, json.dumps([{"tweet": tweet(1, "x")}]))
    assert listed.problems == (f"record 1: is a tweet, and a history of {task.name} is no tweets",)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('window.YTD.like.part0 = [{"like": {"fullText": "x"}}]', "is a script ('window.YTD.like.part0 =')"),
        ("Grailbird.data.tweets = [\n{}]", "is a script ('Grailbird.data.tweets =')"),
        ("var tweets = [1]", "is a script ('var tweets =')"),
        ("export default [1]", "is a script"),
        ("window.YTD.tweets.part0 = [ {", "is not JSON (Expecting property name"),
        ("<!DOCTYPE html>\n<p>off to the market", "is a web page or XML"),
        ("<?xml version='1.0'?>", "is a web page or XML"),
        ("<tweets>\n<tweet>off to the market</tweet>", "is a web page or XML"),
        ("[{'text': 'off to the market'}]", "looks like Python, not JSON; write it with json.dumps"),
        ('[\n{"text": "a"},\n{"text": }]', "is not JSON (Expecting value, line 3)"),
        ("[NEW] look\nat this", "Plain lines may not start so; put another line first"),
        ("[" * 100_000, "is nested too deeply"),
        ('{\n"text": "a"\n}\n{\n"text": }', "what follows object 1 is not JSON"),
        ('mine:\n[\n  {\n    "text": "a"\n  }\n]', "has JSON in it (a line '[')"),
        ("text: off to the market\ntext: rain all day", "looks like YAML"),
        ("- text: off to the market\n- text: rain all day", "looks like YAML"),
        ("1\toff to the market\n2\train all day", "has no header line with the columns text."),
        ("1,2024-05-01,off\n2,2024-05-02,rain\n3,2024-05-03,\"tea, it is\"", "has no header line"),
        ("1;off to the market\n2;rain all day\n3;tea", "has no header line"),
        ("date,tweet\n2024-05-01,off\n2024-05-02,\"tea, it is\"", "has no header line"),
        ("sep=;\nnumber;tweet\n1;a", "has no header line"),
        ("text,id,text\na,1,b", "the header has a column twice"),
        ('text,id\n"never closed,1\n', "line 2: not the CSV it should be"),
    ],
)  # fmt: skip
def test_a_structure_that_is_not_understood_is_refused(text: str, problem: str) -> None:
    assert problem in refused(TWEETS, text)
    later = problem.replace("line 3", "line 5").replace("line 2", "line 4")
    assert later in refused(TWEETS, "\n \n" + text), "blank lines change nothing, and count as lines"


@pytest.mark.parametrize(
    "lines",
    [
        ["<3 this song", "so tired :{"],
        ["<b>bold</b> plans for today", "so tired"],
        ["mood = [tired]", "let it = be"],
        ["off to the market, again", "rain all day, tea it is", "no, thanks"],
        ["one;two"],
        ["so,so", "well,well"],
        ["export deals of the day", "window shopping", "var is back"],
        ["today:", "(none)", ";)", "…"],
        ["https://example.org/a,b", "x", "y"],
    ],
)
def test_texts_that_only_look_a_little_like_it_stay_lines(lines: list[str]) -> None:
    assert texts(TWEETS, "\n".join(lines)) == lines


def test_lines_of_two_fields_stay_lines() -> None:
    for separator in ("\t", " => ", " | "):
        text = "\n".join(f"a,b{separator}c;d" for _ in range(4))
        assert [dict(item.fields) for item in read(HEADLINES, text).items] == 4 * [
            {"text": "a,b", "title": "c;d"}
        ]
    for text in ("1\ta\tb\n2\tc\td", "a,b\nc,d\ne,f", "a;b\nc;d\ne;f"):
        assert "has no header line with the columns text, title" in refused(HEADLINES, text)
    assert [dict(item.fields) for item in read(HEADLINES, "Title | Text\na | b").items] == [
        {"text": "b", "title": "a"}
    ]
    assert [
        dict(item.fields) for item in read(HEADLINES, "| text | title |\n|---|:-:|\n| a | b |").items
    ] == [{"text": "a", "title": "b"}]


def test_what_is_json_among_lines_is_named() -> None:
    history = read(TWEETS, 'hello\n{ "text": "a" },\n{\'text\': "b"}\n[1]\n{no json}')
    assert [item.fields["text"] for item in history.items] == ["hello", "{no json}"]
    assert history.problems == tuple(f"line {number}: is JSON among plain lines" for number in (2, 3, 4))


def test_a_bad_line_of_json_is_named_with_its_reason() -> None:
    history = read(TWEETS, '{"text": "a"}\n{\'text\': "b"}\n\n{"text": "c"},')
    assert history.problems == (
        "line 2: looks like Python, not JSON; write it with json.dumps",
        "line 4: is not JSON (Extra data)",
    )


def test_the_name_of_a_file_says_what_it_has_to_be() -> None:
    for suffix in (".csv", ".TSV"):
        assert "has no header line with the columns text" in refused(TWEETS, "off to the market\n", suffix)
    assert read(TWEETS, "off to the market\n", ".jsonl").problems == (
        "line 1: is not JSON (Expecting value)",
    )
    assert texts(TWEETS, "off to the market\n", ".txt") == ["off to the market"]
    assert texts(TWEETS, '[{"text": "a"}]', ".csv") == ["a"]


def test_numbers_are_the_text_that_import_makes_of_them() -> None:
    text = '[{"text": "a", "score": 5.0, "id": 7, "other": NaN}, {"text": "b", "score": NaN}]'
    history = read(TASKS["lamp_3"], text)
    assert [(item.id, item.fields["score"]) for item in history.items] == [("7", "5")]
    assert history.problems == ("record 2: score must be text, but is null",)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"caf\xe9\nrain", "is no UTF-8 text (byte 4 cannot be read, it looks like Windows-1252). Save it"),
        ("кот".encode("cp1251"), "is no UTF-8 text (byte 1 cannot be read). Save it as UTF-8."),
        (b"a\0b", "is no text (it holds NUL characters)"),
        (b"PK\x03\x04", "is a zip file or spreadsheet, which is not unpacked"),
        (b"%PDF-1.7", "is a PDF, which is not unpacked"),
        (gzip.compress(b"hello", mtime=0)[:-5], "cannot be read"),
        (b" \n", "has no usable item: it is empty. Write one item a line: text."),
        (b"[]", "has no usable item. Write one item a line: text."),
        (b'["a"]', "has no usable item. record 1: is not an object"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_history_is_one_message(tmp_path: Path, content: bytes, problem: str) -> None:
    file = tmp_path / "mine.txt"
    file.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_history(file, TWEETS)
    assert str(caught.value).startswith(f"{file} {problem}")


def test_how_to_names_what_is_read() -> None:
    assert "tweets.js" in how_to(TWEETS) and "tweets.js" not in how_to(PAPERS)
    assert how_to(MOVIES).startswith("Write one item a line: description => tag (a tab or |")
