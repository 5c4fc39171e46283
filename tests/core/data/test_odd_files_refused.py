"""Files that are not read: one sentence says what is wrong with them."""

import bz2
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from odd_toys import ROWS, content_of, imported, lines, refused, rejected, table
from oppu_core.cli.data import app
from oppu_core.data.dataset import Dataset
from oppu_core.data.importers.detect import open_reader
from oppu_core.data.importers.json_stream import decode, read_records
from oppu_core.data.importers.text_files import codec_of, looks_like_cp1252
from oppu_core.errors import ConfigError
from typer.testing import CliRunner


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
