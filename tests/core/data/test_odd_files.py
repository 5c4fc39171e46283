"""Odd files of events are read for what they are."""

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from odd_toys import COLUMNS, ROWS, content_of, imported, lines, refused, rejected, table
from oppu_core.data.importers.detect import tell_format


def unquoted(delimiter: str) -> str:
    return "\n".join(delimiter.join(cells) for cells in [COLUMNS, *(row.values() for row in ROWS)]) + "\n"


def spaced(text: str) -> str:
    return text.replace(",", ", ", 3)  # in the header


READ: dict[str, tuple[str, Callable[[], bytes]]] = {
    "UTF-8 with a mark": ("e.csv", lambda: table().encode("utf-8-sig")),
    "UTF-16": ("e.csv", lambda: table().encode("utf-16")),
    "UTF-16 without a mark": ("e.csv", lambda: table().encode("utf-16-le")),
    "UTF-16 of the other end": ("e.jsonl", lambda: lines().encode("utf-16-be")),
    "UTF-32": ("e.csv", lambda: table().encode("utf-32")),
    "UTF-16 JSON list": ("e.json", lambda: json.dumps(ROWS, ensure_ascii=False).encode("utf-16")),
    "CR": ("e.csv", lambda: table(end="\r").encode()),
    "CR LF": ("e.csv", lambda: table(end="\r\n").encode()),
    "CR CR LF": ("e.csv", lambda: table(end="\r\r\n").encode()),
    "ends of all kinds": ("e.csv", lambda: table().replace("\n", "\r", 9).replace("\n", "\r\n", 9).encode()),
    "CR in JSON lines": ("e.jsonl", lambda: lines().replace("\n", "\r").encode()),
    "semicolons": ("e.csv", lambda: table(";").encode()),
    "tabs": ("e.tsv", lambda: table("\t").encode()),
    "pipes": ("e.csv", lambda: table("|").encode()),
    "another delimiter in the header": (
        "e.csv",
        lambda: table(names=[*COLUMNS, "a|b|c|d|e|f"], rows=[{**row, "x": "y"} for row in ROWS]).encode(),
    ),
    "a sep line": ("e.csv", lambda: b"sep=,\r\n" + table().encode()),
    "a sep line with another sign": ("e.csv", lambda: b'"sep=^"\n' + table("^").encode()),
    "spaces in the header": ("e.csv", lambda: spaced(table()).encode()),
    "spaces everywhere": ("e.csv", lambda: unquoted(" ; ").encode()),
    "blank lines first": ("e.csv", lambda: b"\n \r\n" + table().encode()),
    "an index": (
        "e.csv",
        lambda: table(names=["", *COLUMNS], rows=[{"": "0", **row} for row in ROWS]).encode(),
    ),
    "a delimiter at each end": ("e.csv", lambda: table().replace("\n", ",\n").encode()),
    "a delimiter at the rows' ends": (
        "e.csv",
        lambda: table().replace("\n", ",\n").replace(",\n", "\n", 1).encode(),
    ),
    "rows of commas at the end": ("e.csv", lambda: table().encode() + b",,,\n" * 9),
    "a Markdown table": (
        "e.txt",
        lambda: (
            re.sub("(?m)^(.*)$", r"| \1 |", unquoted(" | ").strip())
            .replace("\n", "\n|---|:--|---|--:|\n", 1)
            .encode()
        ),
    ),
    "gzip": ("e.csv.gz", lambda: gzip.compress(table().encode())),
    "gzip of another name": ("e.csv", lambda: gzip.compress(lines().encode())),
    "gzip of UTF-16": ("e.jsonl.gz", lambda: gzip.compress(lines().encode("utf-16"))),
    "JSON lines of another name": ("e.csv", lambda: lines().encode()),
    "a JSON list": ("e.json", lambda: json.dumps(ROWS).encode()),
    "a JSON list over lines": ("e.jsonl", lambda: b"\n" + json.dumps(ROWS, indent=1).encode()),
    "a gzipped JSON list": ("e.json.gz", lambda: gzip.compress(json.dumps(ROWS).encode())),
    "JSON lines called .json": ("e.json", lambda: lines().encode()),
    "NaN where nobody looks": (
        "e.jsonl",
        lambda: lines([{**row, "a": float("nan"), "b": [float("-inf")]} for row in ROWS]).encode(),
    ),
    "NaN in a list": ("e.json", lambda: json.dumps([{**row, "a": float("nan")} for row in ROWS]).encode()),
    "a broken byte where nobody looks": (
        "e.csv",
        lambda: (
            table(names=[*COLUMNS, "note"], rows=[{**row, "note": "?"} for row in ROWS])
            .encode()
            .replace(b"?", b"\xff", 1)
        ),
    ),
}


@pytest.mark.parametrize(("name", "make"), READ.values(), ids=READ.keys())
def test_it_says_the_same_as_plain_json_lines(
    tmp_path: Path, expected: object, name: str, make: Callable[[], bytes]
) -> None:
    (tmp_path / name).write_bytes(make())
    assert tell_format(tmp_path / name) == "events"
    assert content_of(imported(tmp_path / name)) == expected
    assert not (tmp_path / "out" / "rejected.jsonl").exists()


@pytest.mark.parametrize(
    ("encoding", "hint"),
    [
        ("cp1252", "it looks like Windows-1252: add --encoding cp1252 (or utf-8, "),
        ("mac_roman", "name the file's encoding, e.g. --encoding cp1251"),
        ("cp850", "name the file's encoding"),
    ],
)
@pytest.mark.parametrize("make", [table, lines])
def test_another_encoding_is_named_or_asked_for(
    tmp_path: Path, expected: object, encoding: str, hint: str, make: Callable[[], str]
) -> None:
    path = tmp_path / "e.csv"
    path.write_bytes(make().encode(encoding))
    message = refused(path)
    assert message.startswith(f"e.csv, line {2 if make is table else 1} is not UTF-8; ") and hint in message
    assert content_of(imported(path, encoding)) == expected


@pytest.mark.parametrize("encoding", ["cp1251", "shift_jis", "gb18030"])
def test_an_encoding_of_another_script_is_asked_for(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "e.csv"
    path.write_bytes(table().replace("café", "кот").encode(encoding))
    assert "name the file's encoding" in refused(path)
    assert {
        item.fields["text"][3:6] for user in imported(path, encoding).values() for item in user.history
    } == {"кот"}


def test_one_broken_row_of_a_utf8_file_is_left_out_for_that_reason(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    path.write_bytes(table().encode().replace("é".encode(), b"\xe9", 1))
    assert sum(map(len, content_of(imported(path)).values())) == len(ROWS) - 1
    assert rejected(path) == ["event: text is not UTF-8 text (b'A \"caf\\xe9\", 0')"]
    path = tmp_path / "e.jsonl"
    path.write_bytes(lines().encode().replace("é".encode(), b"\xe9", 1))
    assert sum(map(len, content_of(imported(path)).values())) == len(ROWS) - 1
    assert rejected(path) == ["event: is not UTF-8 text"]
    # Whoever says that it is UTF-8 gets what is.
    path.write_bytes(lines().encode("cp1252") + lines(ROWS[:3]).replace("é", "e").encode())
    assert sum(map(len, content_of(imported(path, "utf-8")).values())) == 3
    assert len(rejected(path)) == len(ROWS)


def test_half_an_emoji_is_still_a_lone_surrogate(tmp_path: Path) -> None:
    for name, content in (
        ("e.jsonl", lines().encode().replace("é".encode(), b"\\ud83d", 1)),
        ("e.csv", table().replace("é", "\udcff", 1).encode("utf-16", "surrogatepass")),
    ):
        (tmp_path / name).write_bytes(content)
        imported(tmp_path / name)
        (reason,) = rejected(tmp_path / name)
        assert reason.startswith("event: text has a broken character (a lone surrogate)")


def test_what_stands_in_quotes_stays_as_it_is(tmp_path: Path) -> None:
    texts = ["a\r\nb\rc\nd", "\ufeffx", " spaces ", "a;b|c\td"]
    rows = [{**ROWS[3 * n], "text": text} for n, text in enumerate(texts)]
    path = tmp_path / "e.csv"
    path.write_bytes(table(rows=rows).encode())
    (user,) = imported(path).values()
    assert [item.fields["text"] for item in user.history] == texts[:3]
    assert user.queries[0].fields["text"] == texts[3]


def test_files_that_were_put_together_have_marks_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    path.write_bytes(table(rows=ROWS[:12]).encode("utf-8-sig") + table(rows=ROWS[12:]).encode("utf-8-sig"))
    assert imported(path).keys() == {"u0", "u1", "u2"}
    assert rejected(path) == ["event: score is no number ('score')"]
    path = tmp_path / "e.jsonl"
    path.write_bytes(lines(ROWS[:12]).encode("utf-8-sig") + lines(ROWS[12:]).encode("utf-8-sig"))
    assert sum(map(len, content_of(imported(path)).values())) == len(ROWS)
