"""What an import leaves out is counted and kept; what it needs on the way is removed."""

import errno
import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from mutations import FORMATS, name
from oppu_core.cli.data import app
from oppu_core.data.dataset import Dataset
from oppu_core.data.dataset_writer import rewrite_dataset
from oppu_core.data.importers import group_by_user
from oppu_core.data.importers.detect import import_files, open_reader, tell_format
from oppu_core.data.rejected import Place, Rejects, Unusable
from oppu_core.errors import ConfigError, DataError
from oppu_core.storage.files import read_jsonl
from oppu_core.tasks.task_files import get_task
from typer.testing import CliRunner


def files(folder: Path, format_: str) -> Path:
    """The valid files of a format; what to import."""
    valid = FORMATS[format_]()
    folder.mkdir()
    for file, content in valid.files.items():
        (folder / file).write_bytes(content)
    return folder / valid.path


def test_rows_are_whole_whatever_the_value(tmp_path: Path) -> None:
    rejects = Rejects(tmp_path)
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    values = ["\ud800", {"a": ["x" * 20_000]}, deep, {1: object()}, b"\xff"]
    for number, value in enumerate(values):
        rejects.add(Place(Path("f.json"), number, "ü"), "event", Unusable("tag is empty", "''"), value)
    rejects.close()
    rows = read_jsonl(tmp_path / "rejected.jsonl")
    assert [row["record"] for row in rows] == list(range(5))
    assert max(len(row["value"]) for row in rows) == 10_000
    assert rows[0] == {
        "file": "f.json",
        "record": 0,
        "user_id": "ü",
        "reason": "event: tag is empty ('')",
        "value": "\ud800",
    }


def test_the_summary_has_the_commonest_reasons(tmp_path: Path) -> None:
    rejects = Rejects(tmp_path)
    for count, reason in enumerate("abcde", 1):
        for _ in range(count):
            rejects.add(Place(Path("f")), "event", Unusable(reason, f"detail {count}"), None)
    assert rejects.summary() == "15 records refused: 5 × e; 4 × d; 3 × c; 2 more reasons"


def test_the_format_is_told_by_the_files(tmp_path: Path) -> None:
    for format_ in FORMATS:
        told = tell_format(files(tmp_path / format_, format_))
        assert told == {"release": "oppu-release", "lamp": "lamp"}.get(format_, "events")
    both = tmp_path / "release"
    (both / "dev_questions.json").write_text("[]")
    with pytest.raises(DataError, match=r"may be oppu-release or lamp. Say --format"):
        tell_format(both)
    with pytest.raises(DataError, match="does not exist"):
        tell_format(tmp_path / "nowhere")


def test_options_of_another_format_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--test-users is not for a release"):
        open_reader(files(tmp_path / "r", "release"), test_users=3)
    with pytest.raises(ConfigError, match="--queries is for events"):
        open_reader(files(tmp_path / "l", "lamp"), queries=3)


def test_nothing_usable_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    for file in ("user_others.json", "user_top_100_history.json"):
        (tmp_path / "r" / file).write_text('[{"user_id": "u", "profile": [], "query": []}]')
    reader = open_reader(tmp_path / "r", "oppu-release", task=get_task("lamp_2m"))
    with pytest.raises(DataError, match=r"r has no usable user \(2 records refused: 1 × has no usable"):
        import_files(tmp_path / "r", tmp_path / "out", reader)
    assert [entry.name for entry in tmp_path.iterdir()] == ["r"]


@pytest.mark.parametrize("format_", ["release", "lamp", "jsonl"])
@pytest.mark.parametrize("moment", ["scratch", "rejects", "shard"])
def test_a_full_disk_is_one_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format_: str, moment: str
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = files(tmp_path / "source", format_)
    if moment == "scratch":
        monkeypatch.setattr(group_by_user.RowsByUser, "_flush", full)
        monkeypatch.setattr(
            "oppu_core.data.importers.release.canonical_json", full
        )  # as profiles are written
    elif moment == "rejects":
        (victim,) = [file for file in path.parent.rglob("*") if file.name in VICTIMS]
        victim.write_bytes(victim.read_bytes().replace(b'"tag"', b'"gat"', 1))
        monkeypatch.setattr("oppu_core.data.rejected.json.dumps", full)
    else:
        monkeypatch.setattr("oppu_core.data.schema.pq.ParquetWriter", full)
    with pytest.raises(DataError, match=r"out cannot be written: .*No space left"):
        import_files(path, tmp_path / "out", open_reader(path))
    assert [entry.name for entry in tmp_path.iterdir()] == ["source"]


def test_a_disk_that_is_full_to_the_end_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is still buffered is refused once more when the file is closed."""
    path = files(tmp_path / "source", "jsonl")
    path.write_bytes(path.read_bytes() + b"{\n")
    real = Path.open

    def opened(self: Path, *arguments: Any, **options: Any) -> Any:
        file = real(self, *arguments, **options)
        if self.name != "rejected.jsonl":
            return file
        file.close()
        full = mock.Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
        return mock.Mock(write=full, close=full)

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(DataError, match=r"out cannot be written: .*No space left"):
        import_files(path, tmp_path / "out", open_reader(path))
    assert [entry.name for entry in tmp_path.iterdir()] == ["source"]


VICTIMS = ("user_others.json", "train_questions.json", "e.jsonl")


def test_the_command_says_what_was_left_out(tmp_path: Path) -> None:
    path = files(tmp_path / "source", "jsonl")
    path.write_bytes(path.read_bytes() + b"{\n{\n")
    arguments = ["import", str(path), "--out", str(tmp_path / "out"), "--test-users", "2", "--queries", "1"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "2 records refused: 2 × is not JSON" in result.output
    assert "rejected.jsonl" in result.output
    dataset = Dataset.open(tmp_path / "out")
    assert (dataset.source["rejected"], dataset.counts["test"]["users"]) == (2, 2)
    strict = CliRunner().invoke(app, [*arguments, "--strict"])
    assert isinstance(strict.exception, DataError) and "e.jsonl, record 25, event" in str(strict.exception)
    # A failed import leaves the dataset that was there.
    assert Dataset.open(tmp_path / "out").fingerprint == dataset.fingerprint
    own = tmp_path / "own.toml"
    own.write_text(
        'name = "likes"\ntitle = "[/no] markup"\nkind = "classification"\nlabels = ["comedy", "action"]\n'
        'input_fields = ["description"]\noutput_field = "tag"\n'
        'instruction = "Which?"\nquery_template = "{description}"\n'
    )
    result = CliRunner().invoke(app, [*arguments, "--task", str(own)])
    assert result.exit_code == 0, result.output
    assert Dataset.open(tmp_path / "out").task.name == "likes"
    assert "[/no] markup (likes)" in " ".join(result.output.split()), "however lines break"


def test_test_users_without_queries_are_said(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    path.write_text(
        "user_id,time,output\n" + "".join(f"{user},{day},t\n" for user in "ab" for day in range(3))
    )
    notes = import_files(path, tmp_path / "out", open_reader(path, "events", get_task("lamp_7"))).notes
    assert notes == ("The test users have no queries: nothing can be scored on this dataset.",)


def test_a_dataset_without_one_user_keeps_everything_else(tmp_path: Path) -> None:
    path = files(tmp_path / "source", "release")
    user, other = name("user", 1), name("user", 4)
    for file in ("user_others.json", "user_top_100_history.json"):
        records = json.loads((path / file).read_bytes())
        for record in records:
            record["profile"].append({"id": "\ud800"})
        (path / file).write_text(json.dumps(records))
    before = import_files(path, tmp_path / "out", open_reader(path)).dataset
    users = list(before.users())
    profiles = read_jsonl(before.path / "profiles.jsonl")
    refused = read_jsonl(before.path / "rejected.jsonl")
    assert len(profiles) == len(refused) == 6
    after = rewrite_dataset(before.path, lambda user_id: user_id not in (user, other))
    assert list(after.users()) == [entry for entry in users if entry.user_id not in (user, other)]
    assert (after.task, after.source) == (before.task, before.source)
    for file, rows in (("profiles.jsonl", profiles), ("rejected.jsonl", refused)):
        kept = read_jsonl(after.path / file)
        assert kept == [row for row in rows if row["user_id"] not in (user, other)] != rows
    after.verify()
    assert rewrite_dataset(after.path, lambda _: True).fingerprint == after.fingerprint
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out", "source"]
    (after.path / "profiles.jsonl").write_text("nonsense")
    with pytest.raises(DataError, match=r"profiles.jsonl cannot be copied"):
        rewrite_dataset(after.path, lambda _: True)
    assert Dataset.open(after.path).fingerprint == after.fingerprint
