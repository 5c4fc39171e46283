"""`oppu ask`: whom one can ask for, and queries of several fields."""

import dataclasses
import os
import shutil
from pathlib import Path

import pytest
from oppu_core.data import HistoryItem, Query, User
from oppu_core.data.dataset_writer import write_dataset
from oppu_core.errors import ConfigError, DataError
from oppu_core.runs.asking import ask, asked_query, read_fields
from oppu_core.runs.config import resolve_config
from oppu_core.runs.options import RunOptions
from oppu_core.runs.run import Run
from oppu_core.runs.start import start_run
from oppu_core.tasks.task_files import TASKS


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run about citations; nothing is trained."""
    fields = {"title": "My paper", "option_1": "First", "option_2": "Second"}
    item = HistoryItem("1", {"title": "An older paper", "abstract": "", "citation": ""})
    users = [
        User(f"{split[0]}{n}", split, (item,), (Query(f"{split}{n}", fields, "[1]", 1),))
        for split, count in (("others", 1), ("test", 7))
        for n in range(count)
    ]  # fmt: skip
    data = write_dataset(tmp_path / "data", TASKS["lamp_1"], users, {"kind": "test"})
    config = resolve_config(RunOptions(
        data=[data.path], model="tiny", methods=["non_personalized"], preset="auto", settings=[],
        dtype="float32", seed=0, users=6, sample=False,
    ))  # fmt: skip
    return start_run(tmp_path / "run", config)


BOTH = {"option_1": "First", "option_2": "Second"}


def test_some_test_users_are_named_to_those_who_do_not_know_them(run: Run) -> None:
    hint = r"Test users of .*run: 't0', 't1', 't2', 't3', 't4' …"
    with pytest.raises(ConfigError, match=rf"--user. {hint} \(6\)"):
        ask(run, None, "A title", None, "cpu", BOTH)
    with pytest.raises(DataError, match=rf"no user 'nobody'.*{hint}"):
        ask(run, "nobody", "A title", None, "cpu", BOTH)
    with pytest.raises(DataError, match=rf"'o0' is one of the others.*{hint}"):
        ask(run, "o0", "A title", None, "cpu", BOTH)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, r"lamp_1 also needs option_1, option_2: add --field option_1=… --field option_2=…"),
        ({"option_1": "First"}, r"also needs option_2: add"),
        ({**BOTH, "option_2": "  "}, r"also needs option_2"),
        ({**BOTH, "option_3": "x"}, r"'option_3'.*lamp_1 has option_1, option_2"),
        ({**BOTH, "title": "x"}, r"'title'.*beside the text \(title\)"),
        ({**BOTH, "option_1": "\ud800"}, r"not valid Unicode"),
    ],
)
def test_a_query_of_several_fields_needs_them_all(run: Run, fields: dict[str, str], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        ask(run, "t0", "A title", None, "cpu", fields)


def test_the_query_has_its_fields_when_it_is_asked(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from oppu_core.runs.jobs import VariantJobs

    seen = []

    def remember(self: VariantJobs, user: User, query: Query) -> dict[str, str]:
        seen.append((user.user_id, query.fields, query.history_len))
        return {"non_personalized": "[1]"}

    monkeypatch.setattr(VariantJobs, "ask", remember)
    options = read_fields(["option_2=Second=2", "option_1=First"])
    assert ask(run, "t1", "A title", None, "cpu", options) == {"non_personalized": "[1]"}
    fields = {"title": "A title", "option_1": "First", "option_2": "Second=2"}
    assert seen == [("t1", fields, 1)] and list(fields) == list(seen[0][1])


def test_a_query_of_the_user_s_own_is_asked_under_its_id() -> None:
    """random_kN draws its items by the id. One that saw less of the history is another query."""
    item = HistoryItem("1", {"description": "A film.", "tag": "comedy"})
    queries = tuple(
        Query(f"q{seen}{text[-1]}", {"description": text}, "comedy", seen)
        for text in ("A ship a", "A ship b")
        for seen in (1, 2)
    )
    user = User("u", "test", (item, dataclasses.replace(item, id="2")), queries)
    asked = asked_query(user, {"description": " A  ship\nb"})
    assert asked == Query("q2b", {"description": " A  ship\nb"}, None, 2)
    assert asked_query(user, {"description": "A ship c"}).id == "asked"
    assert asked_query(dataclasses.replace(user, queries=queries[::2]), queries[0].fields).id == "asked"


@pytest.mark.parametrize("texts", [["option_1"], ["a=1", "a=2"]])
def test_a_field_option_that_cannot_be_read_is_refused(texts: list[str]) -> None:
    with pytest.raises(ConfigError, match="write name=text, each name once"):
        read_fields(texts)


def test_the_run_used_last_its_first_task_and_user_are_asked_unless_told(
    oppu, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def remember(opened: Run, *rest: object) -> dict[str, str]:
        asked.append((opened.path.name, *rest[:3]))
        return {"non_personalized": "[1]"}

    monkeypatch.setattr("oppu_core.runs.asking.ask", remember)
    monkeypatch.chdir(tmp_path)
    nothing = oppu("ask", "A title")
    assert nothing.returncode == 2 and "There is no run in runs" in nothing.stderr
    for name, seconds in (("old", 100), ("new", 300), ("older", 200)):
        shutil.copytree(run.path, tmp_path / "runs" / name)
        os.utime(tmp_path / "runs" / name / "run.json", (seconds, seconds))
    (tmp_path / "runs" / "store").mkdir()
    found = oppu("ask", "A title")
    assert found.returncode == 0 and "runs/new: lamp_1, user 't0'" in found.stdout
    assert "user" not in oppu("ask", "A title", "--run", tmp_path / "runs" / "old", "--user", "t1").stdout
    assert asked == [("new", "t0", "A title", "lamp_1"), ("old", "t1", "A title", "lamp_1")]

    unknown = oppu("ask", "A title", "--task", "nope")
    assert unknown.returncode == 0 and asked.pop() == (
        "new",
        None,
        "A title",
        "nope",
    )  # which says what there is
