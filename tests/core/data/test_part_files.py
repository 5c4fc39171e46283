"""Tables in several files, and in Parquet."""

import gzip
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from odd_toys import COLUMNS, RATINGS, ROWS, content_of, imported, lines, rejected, table
from oppu_core.data.dataset import Dataset
from oppu_core.data.importers.detect import import_files, open_reader, tell_format
from oppu_core.errors import DataError
from oppu_core.storage.files import read_jsonl
from oppu_core.tasks.task_files import get_task


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
