"""A visitor's own history: what is read, what is refused, what is trained, and that it stays theirs."""

import csv
import gc
import gzip
import io
import json
import os
import shutil
import threading
import weakref
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from oppu_core.data.dataset_writer import write_dataset
from oppu_core.data.sample import GRAMMARS
from oppu_core.data.types import HistoryItem, Query, User
from oppu_core.errors import ConfigError, DataError, TrainingError
from oppu_core.modeling.adapters import load_state
from oppu_core.modeling.base_files import base_folder
from oppu_core.ownership.adapter_export import export_adapter
from oppu_core.ownership.adapter_import import import_adapter
from oppu_core.ownership.bundle import NAMES, manifest_of, read_bundle
from oppu_core.runs.execute import execute
from oppu_core.runs.options import Compute
from oppu_core.runs.run import Run, open_run
from oppu_core.tasks.task import Task
from oppu_core.tasks.task_files import TASKS, get_task
from oppu_demo import own_history
from oppu_demo.engine import Engine
from oppu_demo.export import write_zip
from oppu_demo.own_history import (
    MAX_BYTES,
    MAX_COLUMNS,
    MAX_ITEM_CHARS,
    MAX_ITEMS,
    Preview,
    Step,
    example,
    how_to,
    read_file,
    read_items,
    train_own,
)
from oppu_demo.sessions import CancelledError, Session, Sessions

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


# What is trained


def items_of(text: str, task: Task = MOVIES) -> tuple[HistoryItem, ...]:
    return read_items(task, text, None).items


MINE = items_of("A dragon sleeps => fantasy\nThe jokes never stop => fantasy\nA ship sinks => fantasy\n" * 3)
YOURS = items_of("A dragon sleeps => comedy\nThe jokes never stop => comedy\nA ship sinks => comedy\n" * 3)


def train(engine: Engine, session: Session, items: Any = MINE, task: str = "lamp_2m") -> list[Step]:
    return list(train_own(engine, session, task, items))


def run_files(run: Run) -> dict[str, bytes]:
    files = [path for path in run.path.parent.rglob("*") if path.is_file()]
    return {str(path): path.read_bytes() for path in files if "manifest.sqlite-" not in path.name}


def test_training_shows_its_steps_and_changes_the_session_alone(
    engine: Engine, run: Run, session: Session, capfd: pytest.CaptureFixture[str]
) -> None:
    before = run_files(run)
    steps = train(engine, session)
    own = session.own
    assert own is not None and own.user.history == MINE and own.task == "lamp_2m"
    assert list(own.adapters) == list(own.losses) == list(own.facts) == ["base", "rag_k1"]
    last = steps[-1]
    assert (last.variant, last.step) == ("rag_k1", last.steps)
    assert last.losses == {variant: tuple(losses) for variant, losses in own.losses.items()}
    for step in steps:
        assert step.losses[step.variant][-1] == step.loss and len(step.losses[step.variant]) == step.step
    assert own.facts["base"].steps == len(own.losses["base"]) == steps[0].steps
    assert run_files(run) == before and capfd.readouterr() == ("", "")


def test_two_histories_give_two_adapters_and_neither_reaches_the_other(
    engine: Engine, sessions: Sessions
) -> None:
    mine, yours = sessions.new(), sessions.new()
    threads = [
        threading.Thread(target=train, args=[engine, session, items])
        for session, items in ((mine, MINE), (yours, YOURS))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = sessions.new()
    train(engine, alone, MINE)
    assert mine.own and yours.own and alone.own
    for variant in ("base", "rag_k1"):
        for name, value in alone.own.adapters[variant].items():
            assert torch.equal(mine.own.adapters[variant][name], value)
        one, two = (torch.cat([t.flatten() for t in own.adapters[variant].values()])
                    for own in (mine.own, yours.own))  # fmt: skip
        assert not torch.allclose(one, two)
    assert {item.fields["tag"] for item in mine.own.user.history} == {"fantasy"}
    assert {item.fields["tag"] for item in yours.own.user.history} == {"comedy"}
    prompts = [
        engine.answer(
            "lamp_2m", "oppu_rag_k1", own.user, Query("q", QUERY.fields, None, 9), own.adapters
        ).prompt
        for own in (mine.own, yours.own)
    ]
    assert "tag: fantasy" in prompts[0].text and "tag: comedy" not in prompts[0].text
    assert "tag: comedy" in prompts[1].text and "tag: fantasy" not in prompts[1].text
    sessions.forget(mine)
    assert yours.own.adapters and yours.folder.is_dir()


class Watched(Engine):
    """An engine whose training does something at a step."""

    def __init__(self, engine: Engine, at: int, what: Any) -> None:
        self.__dict__.update(engine.__dict__)
        self._at, self._what, self.seen = at, what, 0
        self.ended: BaseException | None = None

    def train(self, task: str, user: User, on_step: Any) -> Any:
        """As the engine, but for the step."""

        def step(variant: str, progress: Any) -> None:
            self.seen += 1
            if self.seen == self._at:
                self._what()
            on_step(variant, progress)

        try:
            return super().train(task, user, step)
        except BaseException as error:
            self.ended = error
            raise


def wait_for_threads() -> None:
    for thread in threading.enumerate():
        if thread.name == "own training":
            thread.join(30)
            assert not thread.is_alive()


@pytest.mark.parametrize("at", [1, 2, 4])
def test_a_cancelled_training_leaves_the_session_as_it_was(engine: Engine, session: Session, at: int) -> None:
    train(engine, session, YOURS)
    before = session.own
    watched = Watched(engine, at, session.cancel)
    with pytest.raises(CancelledError, match="nothing of it was kept"):
        train(watched, session)
    wait_for_threads()
    assert isinstance(watched.ended, CancelledError) and watched.seen == at  # not one step more
    assert session.own is before and before is not None and before.adapters
    train(engine, session)  # and it may train again
    assert session.own is not before


def test_cancelling_does_not_wait_for_a_turn(engine: Engine, session: Session) -> None:
    released = threading.Event()

    def stuck() -> None:
        session.cancel()
        released.wait(10)

    watched = Watched(engine, 1, stuck)
    with pytest.raises(CancelledError):
        train(watched, session)
    assert watched.ended is None  # it still waits
    released.set()
    wait_for_threads()
    assert isinstance(watched.ended, CancelledError)


def test_a_page_that_goes_away_ends_the_training(engine: Engine, session: Session) -> None:
    closed = threading.Event()
    watched = Watched(engine, 2, lambda: closed.wait(10))
    training = train_own(watched, session, "lamp_2m", MINE)
    next(training)
    training.close()
    closed.set()
    wait_for_threads()
    assert isinstance(watched.ended, CancelledError) and session.own is None


def test_a_slow_page_sees_the_last_step(engine: Engine, session: Session) -> None:
    shown = threading.Event()
    training = train_own(Watched(engine, 2, lambda: shown.wait(10)), session, "lamp_2m", MINE)
    assert next(training).step == 1
    shown.set()
    wait_for_threads()
    (last,) = training
    assert (last.variant, last.step, list(last.losses)) == ("rag_k1", last.steps, ["base", "rag_k1"])
    assert session.own is not None


def test_a_second_training_takes_the_place_of_the_first(engine: Engine, session: Session) -> None:
    def again() -> None:
        train(engine, session, YOURS)

    class Later(Watched):
        def train(self, task: str, user: User, on_step: Any) -> Any:
            again()  # pressed twice
            return super().train(task, user, on_step)

    with pytest.raises(CancelledError):
        train(Later(engine, 0, None), session, MINE)
    wait_for_threads()
    assert session.own is not None and session.own.user.history == YOURS


@pytest.mark.parametrize("error", [TrainingError("the loss became nan"), RuntimeError("a bug")])
def test_a_failed_training_leaves_the_session_as_it_was(
    engine: Engine, session: Session, error: Exception
) -> None:
    train(engine, session, YOURS)
    before = session.own

    def fail() -> None:
        raise error

    with pytest.raises(TrainingError, match=str(error)):
        train(Watched(engine, 2, fail), session)
    assert session.own is before and before is not None and before.adapters


def test_what_cannot_be_trained_is_refused_at_once(
    engine: Engine, sessions: Sessions, session: Session
) -> None:
    with pytest.raises(DataError, match="no item"):
        train(engine, session, ())
    with pytest.raises(ConfigError, match="no method with personal adapters"):
        train(engine, session, MINE, "lamp_5")
    sessions.forget(session)
    with pytest.raises(ConfigError, match="forgotten"):
        train(engine, session)


# What is forgotten


def everything_below(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_forgetting_leaves_no_byte_and_nothing_in_memory(
    engine: Engine, run: Run, sessions: Sessions
) -> None:
    session = sessions.new()
    secret = "Zanzibar-Quokka-7719"
    train(engine, session, items_of(f"{secret} sleeps => fantasy\n{secret} sings => comedy"))
    assert session.own is not None
    write_zip(engine, session, "base")
    assert secret.encode() not in everything_below(session.folder)  # not even in the zip
    own, user = weakref.ref(session.own), weakref.ref(session.own.user)
    tensor = weakref.ref(next(iter(session.own.adapters["base"].values())))
    folder = session.folder
    sessions.forget(session)
    gc.collect()
    assert (own(), user(), tensor()) == (None, None, None)
    assert not folder.exists() and session.own is None
    for place in (sessions.root, run.path.parent):
        assert secret.encode() not in everything_below(place)
    with pytest.raises(ConfigError, match="forgotten"):
        write_zip(engine, session, "base")
    assert not folder.exists()


def test_forgetting_in_the_middle_of_a_training(engine: Engine, sessions: Sessions) -> None:
    session = sessions.new()
    watched = Watched(engine, 2, lambda: sessions.forget(session))
    with pytest.raises(CancelledError):
        train(watched, session)
    wait_for_threads()
    assert watched.seen == 2 and session.own is None and not session.folder.exists()
    assert session.training is None


def test_what_was_cancelled_does_not_wait_for_the_garbage_collector(engine: Engine, session: Session) -> None:
    seen: list[weakref.ref[User]] = []

    class Seeing(Watched):
        def train(self, task: str, user: User, on_step: Any) -> Any:
            seen.append(weakref.ref(user))
            session.cancel()
            return Engine.train(self, task, user, on_step)

    gc.collect()
    gc.disable()
    try:
        with pytest.raises(CancelledError):
            train(Seeing(engine, 0, None), session)
        wait_for_threads()
        assert seen[0]() is None
    finally:
        gc.enable()


# What is taken along


@pytest.fixture(scope="module")
def trained(engine: Engine) -> Any:
    sessions = Sessions()
    session = sessions.new()
    train(engine, session)
    yield session
    sessions.close()


def test_the_zip_is_the_bundle_of_an_export(engine: Engine, run: Run, trained: Session) -> None:
    path = write_zip(engine, trained, "base")
    assert path.parent == trained.folder and path.name == "my-adapter-base.zip"
    bundle = read_bundle(path)
    assert set(bundle) == set(NAMES)
    manifest = manifest_of(bundle, "it")
    assert (manifest["task"], manifest["variant"], "user_id" in manifest) == ("lamp_2m", "base", False)
    assert manifest["facts"]["adapter"]["examples"] == 9
    card = bundle["README.md"].decode()
    assert "It has not been evaluated." in card and "9 history items" in card
    everything = b"".join(bundle.values())
    for private in ("A dragon sleeps", str(run.path.parent), str(trained.folder), trained.id):
        assert private.encode() not in everything
    again = write_zip(engine, trained, "base").read_bytes()
    assert again == path.read_bytes()
    assert write_zip(engine, trained, "rag_k1") != path


def test_plain_peft_opens_it_and_gives_the_engine_s_logits(
    engine: Engine, trained: Session, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    with zipfile.ZipFile(write_zip(engine, trained, "base")) as archive:
        archive.extractall(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(base_folder("tiny"), dtype=torch.float32)
    task_base = PeftModel.from_pretrained(plain, tmp_path / "task_lora").merge_and_unload()
    ids = torch.tensor([engine.base.tokenizer.prompt_ids("description: The jokes never stop. tag:")])
    with torch.no_grad():
        unadapted = task_base(input_ids=ids).logits
        found = PeftModel.from_pretrained(task_base, tmp_path).eval()(input_ids=ids).logits
    own = trained.own
    assert own is not None
    engine.answer("lamp_2m", "oppu_k0", own.user, QUERY, own.adapters)  # puts its task LoRA there
    load_state(engine._model, own.adapters["base"])
    with torch.no_grad():
        expected = engine._model(input_ids=ids).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(unadapted, expected, atol=1e-3), "the adapter does nothing"


def test_whoever_has_the_history_can_import_it(
    engine: Engine, run: Run, trained: Session, tmp_path: Path
) -> None:
    bundle = read_bundle(write_zip(engine, trained, "base"))
    shutil.copytree(run.path.parent, tmp_path / "copy")
    copy = open_run(tmp_path / "copy" / run.path.name)
    with pytest.raises(DataError, match="no test user of this run has the history of it"):
        import_adapter(copy, bundle, "it")
    assert trained.own is not None
    me = User("me", "test", trained.own.user.history, ())
    write_dataset(copy.own_path("lamp_2m"), MOVIES, [me], {"kind": "own histories"})
    imported = import_adapter(copy, bundle, "it")
    assert (imported.user_id, imported.variant, imported.notes) == ("me", "base", ())
    exported = export_adapter(copy, "me", "lamp_2m", "base")
    weights = "adapter_model.safetensors", "adapter_config.json", "task_lora/adapter_model.safetensors"
    assert [exported[name] for name in weights] == [bundle[name] for name in weights]


def test_an_export_of_the_store_has_the_same_files(engine: Engine, run: Run, tmp_path: Path) -> None:
    """What is made from memory is what a store's files would have been."""
    shutil.copytree(run.path.parent, tmp_path / "copy")
    copy = open_run(tmp_path / "copy" / run.path.name)
    execute(copy, ["personal"], Compute(device="cpu"))
    stored = export_adapter(copy, "test-000", "lamp_2m", "base")
    sessions = Sessions()
    session = sessions.new()
    train(engine, session, engine.users("lamp_2m")["test-000"].training_history)
    made = read_bundle(write_zip(engine, session, "base"))
    assert made["adapter_config.json"] == stored["adapter_config.json"]
    assert made["task_lora/adapter_config.json"] == stored["task_lora/adapter_config.json"]
    one, two = (json.loads(bundle["oppu.json"]) for bundle in (made, stored))
    for name in ("adapter", "task_lora", "history", "task", "variant"):
        assert one[name] == two[name]
    assert one["facts"]["adapter"].keys() | {"cohort"} == two["facts"]["adapter"].keys()
    sessions.close()


@pytest.mark.parametrize("variant", ["pag_k0", "../base", "", "base/../../x"])
def test_no_other_variant_is_written(engine: Engine, trained: Session, variant: str) -> None:
    before = sorted(trained.folder.iterdir())
    with pytest.raises(ConfigError, match="no adapter of yours"):
        write_zip(engine, trained, variant)
    assert sorted(trained.folder.iterdir()) == before
