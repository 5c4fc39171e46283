"""Odd files of events are read for what they are, or one sentence says what is wrong with them."""

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from oppu_core.cli.data import app
from oppu_core.data import User
from oppu_core.data.dataset import Dataset
from oppu_core.data.importers.detect import import_files, open_reader, tell_format
from oppu_core.data.importers.json_stream import decode, read_records
from oppu_core.data.importers.text_files import codec_of, looks_like_cp1252
from oppu_core.errors import ConfigError, DataError
from oppu_core.storage.files import read_jsonl
from oppu_core.tasks.task_files import get_task
from typer.testing import CliRunner

RATINGS = get_task("lamp_3")
COLUMNS = ["user_id", "time", "text", "score"]
ROWS: list[dict[str, Any]] = [
    {
        "user_id": f"u{n % 3}",
        "time": f"2024-05-{n + 1:02d}",
        "text": f'A "café", {n}',
        "score": str(n % 5 + 1),
    }
    for n in range(24)
]


def table(
    delimiter: str = ",", end: str = "\n", rows: list[dict[str, str]] = ROWS, names: list[str] = COLUMNS
) -> str:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, lineterminator=end)
    writer.writerow(names)
    writer.writerows(row.values() for row in rows)
    return out.getvalue()


def lines(rows: list[dict[str, Any]] = ROWS) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def imported(path: Path, encoding: str | None = None) -> dict[str, User]:
    reader = open_reader(path, None, RATINGS, encoding=encoding)
    dataset = import_files(path, path.parent / "out", reader).dataset
    return {user.user_id: user for user in dataset.users()}


def refused(path: Path, encoding: str | None = None) -> str:
    with pytest.raises((DataError, ConfigError)) as caught:
        imported(path, encoding)
    message = str(caught.value)
    assert message.count(str(path)) == 1 or isinstance(caught.value, ConfigError)
    return message.replace(str(path), path.name)


def rejected(path: Path) -> list[str]:
    return [row["reason"] for row in read_jsonl(path.parent / "out" / "rejected.jsonl")]


def content_of(users: dict[str, User]) -> dict[str, list[tuple[object, ...]]]:
    """What users say, without the ids that number records."""
    return {
        name: [
            *((item.date, *item.fields.values()) for item in user.history),
            *((*query.fields.values(), query.gold) for query in user.queries),
        ]
        for name, user in users.items()
    }


@pytest.fixture
def expected(tmp_path: Path) -> dict[str, list[tuple[object, ...]]]:
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "e.jsonl").write_text(lines())
    found = content_of(imported(tmp_path / "plain" / "e.jsonl"))
    assert sum(map(len, found.values())) == len(ROWS)
    return found


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


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("e.csv", table())
    return out.getvalue()


def parquet() -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), out)
    return out.getvalue()


REFUSED: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "zip": ("e.csv", zipped, "e.csv is a zip file or spreadsheet, which is not read."),
    "spreadsheet": ("e.xlsx", zipped, "e.xlsx is a zip file or spreadsheet"),
    "bzip2": ("e.csv.bz2", lambda: bz2.compress(table().encode()), "e.csv.bz2 is a bzip2 file"),
    "xz": ("e.jsonl", lambda: lzma.compress(lines().encode()), "e.jsonl is an xz file"),
    "zstd": ("e.csv", lambda: b"\x28\xb5\x2f\xfd" + b"x" * 99, "e.csv is a zstd file"),
    "gzip twice": (
        "e.csv.gz",
        lambda: gzip.compress(gzip.compress(table().encode())),
        "e.csv.gz has a gzip file in it, packed by gzip",
    ),
    "gzipped Parquet": (
        "e.parquet.gz",
        lambda: gzip.compress(parquet()),
        "e.parquet.gz has a Parquet file in it",
    ),
    "gzip cut off": (
        "e.csv.gz",
        lambda: gzip.compress(table().encode())[:-30],
        "the gzip file is damaged or cut off",
    ),
    "gzip with another sum": (
        "e.csv.gz",
        lambda: gzip.compress(table().encode())[:-8] + b"12345678",
        "the gzip file is damaged or cut off (CRC check failed",
    ),
    "UTF-16 cut off": ("e.csv", lambda: table().encode("utf-16")[:-1], "is damaged or not in the encoding"),
    "a web page": ("e.csv", lambda: b"\n<!DOCTYPE html>", "e.csv starts with '<': a web page or XML"),
    "binary": ("e.csv", lambda: bytes(range(256)) * 9, "e.csv is no text (it holds NUL characters)"),
    "Python": ("e.jsonl", lambda: "\n".join(map(str, ROWS)).encode(), "record 1 looks like Python, not JSON"),
    "a Python list": ("e.json", lambda: str(ROWS).encode(), "looks like Python, not JSON"),
    "objects over lines": (
        "e.jsonl",
        lambda: "\n".join(json.dumps(row, indent=1) for row in ROWS).encode(),
        "line 1: an object goes on over several lines. Write one object a line",
    ),
    "no header": ("e.csv", lambda: table(names=list(ROWS[0].values())).encode(), "user_id must be text"),
    "quotes behind backslashes": (
        "e.csv",
        lambda: table().replace('""', '\\"').encode(),
        "line 2: not the CSV it should be (',' expected after '\"'). Check the quotes, which are doubled",
    ),
    "thousands separators": (
        "e.csv",
        lambda: table(rows=[{**row, "time": f"{1714521600 + n:,}"} for n, row in enumerate(ROWS)]).encode(),
        "the times have thousands separators, as in '1,714,521,600'.",
    ),
    "a list that goes wrong": (
        "e.json",
        lambda: json.dumps(ROWS).encode()[:-9],
        "in record 24: not the JSON it should be (the file ends here)",
    ),
}


@pytest.mark.parametrize(("name", "make", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_read_is_named(
    tmp_path: Path, name: str, make: Callable[[], bytes], message: str
) -> None:
    (tmp_path / name).write_bytes(make())
    assert message in refused(tmp_path / name)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_an_encoding_is_one_of_text_for_files_of_text(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text(table())
    for name in ("cp12552", "hex", "", "\0"):
        if name:
            assert "There is no text encoding" in refused(tmp_path / "e.csv", name)
    (tmp_path / "e.parquet").write_bytes(parquet())
    assert "--encoding is for text" in refused(tmp_path / "e.parquet", "cp1252")
    (tmp_path / "dev_questions.json").write_text("[]")
    with pytest.raises(ConfigError, match="--encoding is for events"):
        open_reader(tmp_path / "dev_questions.json", encoding="cp1252")


def test_the_command_takes_an_encoding(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    path.write_bytes(table(";").encode("cp1252"))
    arguments = ["import", str(path), "--task", "lamp_3", "--out", str(tmp_path / "out")]
    assert "--encoding cp1252" in str(CliRunner().invoke(app, arguments).exception)
    result = CliRunner().invoke(app, [*arguments, "--encoding", "latin-1"])
    assert result.exit_code == 0, result.output
    assert Dataset.open(tmp_path / "out").counts["test"]["history_items"] > 0


def test_a_guess_at_the_encoding_has_a_ground() -> None:
    assert looks_like_cp1252("“Café” – naïve".encode("cp1252"))
    for other in ("mac_roman", "cp850", "utf-8"):
        assert not looks_like_cp1252("Café naïve".encode(other))
    assert not looks_like_cp1252("кот сидит".encode("cp1251"))
    assert codec_of("user_id,time".encode("utf-16-be")) == "utf-16-be"
    assert codec_of(b"a\0") == codec_of(b"") == codec_of(b"NUL \0\0\0 is data") == "utf-8"


def test_nan_is_a_missing_number_in_a_list_too(tmp_path: Path) -> None:
    (tmp_path / "f.json").write_text('[{"a": NaN, "b": [Infinity, -Infinity], "c": 5.0}]')
    (record,) = read_records(tmp_path / "f.json")
    assert (
        record.value == {"a": None, "b": [None, None], "c": "5"} == decode(b'{"a":NaN,"b":[NaN,NaN],"c":5}')
    )
    path = tmp_path / "e.jsonl"
    path.write_text(lines([*ROWS, {**ROWS[0], "score": float("nan")}]))
    assert sum(map(len, content_of(imported(path)).values())) == len(ROWS)
    assert rejected(path) == ["event: score must be text, but is missing"]


# Folders of parts


def parts(folder: Path, suffix: str = ".csv") -> Path:
    folder.mkdir()
    for number in range(3):
        some = ROWS[8 * number : 8 * number + 8]
        file = folder / f"part-0000{number}{suffix}"
        text = table(rows=some) if "csv" in suffix else lines(some)
        file.write_bytes(gzip.compress(text.encode()) if suffix.endswith(".gz") else text.encode())
        (folder / f".{file.name}.crc").write_bytes(b"crc\0")
    (folder / "_SUCCESS").touch()
    (folder / f"part-00003{suffix}").touch()
    return folder


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".json", ".jsonl"])
def test_a_folder_of_parts_says_what_its_parts_say(tmp_path: Path, expected: object, suffix: str) -> None:
    folder = parts(tmp_path / "x.csv", suffix)
    assert tell_format(folder) == "events"
    users = imported(folder)
    assert content_of(users) == expected
    ids = [entry.id for user in users.values() for entry in (*user.history, *user.queries)]
    assert len(set(ids)) == len(ROWS), "unique over all files"
    source = Dataset.open(tmp_path / "out").source
    assert [file["file"] for file in source["files"]] == [f"part-0000{number}{suffix}" for number in range(3)]


def test_a_folder_of_one_part_is_the_part(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "part-0.csv").write_text(table())
    assert imported(tmp_path / "x") == imported(tmp_path / "x" / "part-0.csv")


def test_records_are_counted_in_each_part(tmp_path: Path) -> None:
    folder = parts(tmp_path / "x")
    path = folder / "part-00001.csv"
    path.write_text(path.read_text() + "u0\n")
    imported(folder)
    rows = read_jsonl(tmp_path / "out" / "rejected.jsonl")
    assert [(row["file"], row["record"]) for row in rows] == [("part-00001.csv", 9)]


def test_a_user_stands_where_the_first_row_does(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    tweets = "user_id,time,input,output\n"
    (folder / "1.csv").write_text(tweets + "u,1,,tweet\nu,2,,tweet\n")
    (folder / "2.csv").write_text(tweets + "u,3,,tweet\nv,4,asked,tweet\n")
    import_files(folder, tmp_path / "out", open_reader(folder, None, get_task("lamp_7"), test_users=2))
    (row,) = read_jsonl(tmp_path / "out" / "rejected.jsonl")
    assert (row["file"], row["record"], row["user_id"]) == ("2.csv", 2, "v")


def test_what_is_no_part_of_a_table_is_refused(tmp_path: Path) -> None:
    folder = parts(tmp_path / "x")
    (folder / "notes.jsonl").write_text(lines())
    with pytest.raises(DataError, match="format is none that oppu knows"):
        tell_format(folder)
    message = r"x has JSON lines \(notes.jsonl\) and a table \(part-00002.csv\)"
    with pytest.raises(DataError, match=message):
        open_reader(folder, "events", RATINGS)
    (folder / "notes.jsonl").unlink()
    (folder / "country=DE").mkdir()
    with pytest.raises(DataError, match="has a folder in it, 'country=DE'"):
        open_reader(folder, "events", RATINGS)
    (folder / "_delta_log").mkdir()
    with pytest.raises(DataError, match="is a Delta table"):
        open_reader(folder, "events", RATINGS)


# Parquet


def write(path: Path, **columns: Any) -> Path:
    named = {name: [row[name] for row in ROWS] for name in COLUMNS}
    pq.write_table(pa.table({**named, **columns}), path)
    return path


def test_columns_of_parquet_are_read_as_the_text_that_they_are(tmp_path: Path, expected: object) -> None:
    texts = [row["text"] for row in ROWS]
    for column in (
        pa.array([text.encode() for text in texts], pa.binary()),
        pa.array([text.encode() for text in texts], pa.large_binary()),
        pa.array(texts, pa.large_string()),
        pa.array(texts).dictionary_encode(),
    ):
        assert content_of(imported(write(tmp_path / "e.parquet", text=column))) == expected
    write(tmp_path / "e.parquet").rename(tmp_path / "e.csv")
    assert content_of(imported(tmp_path / "e.csv")) == expected


def test_uuids_are_their_usual_text(tmp_path: Path) -> None:
    ids = [uuid.UUID(int=int(row["user_id"][1:]) + 1) for row in ROWS]
    path = write(tmp_path / "e.parquet", user_id=pa.array([one.bytes for one in ids], pa.uuid()))
    assert imported(path).keys() == {str(one) for one in ids}


def test_columns_that_nobody_uses_do_not_matter(tmp_path: Path, expected: object) -> None:
    count = len(ROWS)
    path = write(
        tmp_path / "e.parquet",
        picture=pa.array([b"\x89PNG\xff"] * count),
        nested=pa.array([[{"a": [1]}]] * count),
        pairs=pa.array([[("a", 1)]] * count, pa.map_(pa.string(), pa.int64())),
        far=pa.array([10**8] * count, pa.date32()),
        long=pa.array([1] * count, pa.duration("us")),
    )
    assert content_of(imported(path)) == expected


def test_bytes_that_are_no_text_are_refused_with_the_reason(tmp_path: Path) -> None:
    path = write(tmp_path / "e.parquet", text=pa.array([b"\xff\xfe", *[b"ok"] * (len(ROWS) - 1)]))
    imported(path)
    assert rejected(path) == ["event: text is not UTF-8 text (b'\\xff\\xfe')"]
