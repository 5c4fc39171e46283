"""`oppu personalize`: an own history becomes an own adapter, the same that any test user would get."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from oppu_core.data.dataset import Dataset
from oppu_core.data.dataset_writer import write_dataset
from oppu_core.data.types import HistoryItem, Query, User
from oppu_core.errors import ConfigError, DataError
from oppu_core.ownership import personalize
from oppu_core.storage.store import Store
from oppu_core.tasks.task_files import get_task
from small_world import QUICK, sample_dataset

METHODS = "non_personalized,oppu_k0,oppu_pag_k0"
TEXT = "A nurse finds a letter in a cold harbour town."


def as_lines(items: tuple[HistoryItem, ...]) -> str:
    rows = [{"id": item.id, "date": item.date, **item.fields} for item in items]
    return "".join(json.dumps(row) + "\n" for row in rows)


def weights_of(store: Path, user_id: str) -> dict[str, bytes]:
    """A user's adapters in a store: {folder: bytes}."""
    opened = Store(store)
    folders = [entry.folder for entry in opened.entries() if entry.user_id == user_id]
    opened.close()
    return {folder: (store / folder / "adapter_model.safetensors").read_bytes() for folder in folders}


def test_an_own_adapter_is_the_one_of_a_test_user_and_lives_until_it_is_forgotten(
    oppu: Callable[..., object], movies: Dataset, tmp_path: Path
) -> None:
    # Another dataset with the same others, where "me" is a test user of this very history.
    history = next(iter(sample_dataset(tmp_path / "drawn", seed=7).users("test"))).history
    asked = Query("q", {"description": TEXT}, None, len(history))
    everybody = [*movies.users("others"), User("me", "test", history, (asked,))]
    write_dataset(tmp_path / "with-me", movies.task, everybody, {})
    for run, data in (("runs/mine", movies.path), ("elsewhere/reference", tmp_path / "with-me")):
        bases = oppu("base", "train", "--run", tmp_path / run, "--data", data, "--methods", METHODS, *QUICK)
        assert bases.returncode == 0, bases.stderr
    assert oppu("personal", "train", "--run", tmp_path / "elsewhere" / "reference").returncode == 0

    run, store = tmp_path / "runs" / "mine", tmp_path / "runs" / "store"
    data_before = {file.name: file.read_bytes() for file in movies.path.iterdir()}
    run_before = (run / "run.json").read_bytes()
    file = tmp_path / "my.jsonl"
    file.write_text(as_lines(history[::-1]))  # dates put it in order
    command = ["personalize", "--history", file, "--run", run]
    result = oppu(*command)
    assert result.returncode == 0, result.stderr
    first = weights_of(store, "me")
    assert len(first) == 2  # the base and the profile variant
    assert first == weights_of(tmp_path / "elsewhere" / "store", "me")
    assert f"oppu ask --run {run} --task lamp_2m --user me" in result.stdout

    again = oppu(*command)
    assert again.returncode == 0 and "nothing was trained" in again.stdout
    answers = oppu("ask", "--run", run, "--user", "me", TEXT)
    assert answers.returncode == 0 and "oppu_pag_k0" in answers.stdout, answers.stderr

    listed = oppu("adapters", "list", "--run", run)
    assert "│me " in listed.stdout, listed.stderr
    bundle = tmp_path / "me.zip"
    own = ("adapters", "export", "me", "--run", run, "--variant", "base", "--out", bundle)
    assert oppu(*own).returncode == 0
    back = oppu("adapters", "import", bundle, "--run", run)
    assert back.returncode == 0 and "the adapter of me" in back.stdout, back.stderr

    file.write_text(as_lines(history[:-1]))
    changed = oppu(*command)
    assert changed.returncode == 0 and "2 adapters of the old one were removed" in changed.stdout
    second = weights_of(store, "me")
    assert len(second) == 2 and not second.keys() & first.keys()
    assert {path.parent.name for path in store.rglob("adapters/*/*/*/*.safetensors")} == {
        Path(folder).name for folder in second
    }
    assert {file.name: file.read_bytes() for file in movies.path.iterdir()} == data_before
    assert (run / "run.json").read_bytes() == run_before

    assert oppu("forget", "me", "--runs", tmp_path / "runs", "--yes").returncode == 0
    left = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert not [path for path in left if history[0].fields["description"].encode() in path.read_bytes()]
    assert list(Dataset.open(run / "own" / "lamp_2m").users()) == []
    assert weights_of(store, "me") == {}
    assert oppu("ask", "--run", run, "--user", "me", TEXT).returncode == 1


def test_an_older_history_keeps_its_adapters_until_the_new_ones_are_there(
    oppu: Callable[..., object], movies: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, file = tmp_path / "runs" / "mine", tmp_path / "my.jsonl"
    history = next(iter(movies.users("test"))).history
    bases = oppu("base", "train", "--run", run, "--data", movies.path, "--methods", "oppu_k0", *QUICK)
    assert bases.returncode == 0, bases.stderr
    command = ["personalize", "--history", file, "--run", run]
    file.write_text(as_lines(history))
    assert oppu(*command).returncode == 0
    old = weights_of(tmp_path / "runs" / "store", "me")
    file.write_text(as_lines(history[1:]))
    with monkeypatch.context() as patch:

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(personalize, "write_dataset", killed)
        assert oppu(*command).returncode == 130
    assert oppu(*command).returncode == 0
    new = weights_of(tmp_path / "runs" / "store", "me")
    assert len(new) == 1 and not new.keys() & old.keys()


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "line 2: is not JSON"),
        ("[]", "line 2: is not an object but a list"),
        ('{"description": "A ship."}', "line 2: tag must be text, but is missing"),
        ('{"description": "", "tag": "comedy"}', "line 2: description is empty"),
        ('{"description": ["A ship."], "tag": "comedy"}', "line 2: description must be text"),
        ('{"description": "A ship.", "tag": "fun"}', "line 2: tag is none of"),
        ('{"description": "A ship.", "tag": "comedy", "date": "May"}', "line 2: date is not an ISO date"),
        ('{"input": "A ship."}', "line 2: output"),
    ],
)
def test_a_bad_line_is_named_and_skipped(tmp_path: Path, line: str, problem: str) -> None:
    file = tmp_path / "my.jsonl"
    file.write_text(
        '\ufeff{"description": "A cat.", "tag": "comedy"}\n'
        + line
        + '\n{"input": "A dog.", "output": "comedy"}'
    )
    history = personalize.read_history(file, get_task("lamp_2m"))
    assert [item.fields["description"] for item in history.items] == ["A cat.", "A dog."]
    (found,) = history.problems
    assert problem in found
    file.write_text(line)  # alone
    with pytest.raises(DataError, match="has no usable item"):
        personalize.read_history(file, get_task("lamp_2m"))


def test_an_id_counts_once(tmp_path: Path) -> None:
    (tmp_path / "my.jsonl").write_text(2 * '{"id": "a", "description": "A cat.", "tag": "comedy"}\n')
    history = personalize.read_history(tmp_path / "my.jsonl", get_task("lamp_2m"))
    assert (len(history.items), history.problems) == (1, ("line 2: id occurs twice ('a')",))


def test_a_history_of_several_people_is_nobodys(tmp_path: Path) -> None:
    rows = [
        f"{user},A cat number {number}.,comedy" for number, user in enumerate(("ann", "bob", "ann", "cy"))
    ]
    (tmp_path / "all.csv").write_text("\n".join(["user_id,input,output", *rows]))
    with pytest.raises(
        DataError, match=r"records of 3 people \(user_id 'ann', 'bob', 'cy'\).*oppu data import"
    ):
        personalize.read_history(tmp_path / "all.csv", get_task("lamp_2m"))
    (tmp_path / "one.csv").write_text("\n".join(["user_id,input,output", rows[0], rows[2]]))
    assert len(personalize.read_history(tmp_path / "one.csv", get_task("lamp_2m")).items) == 2


def test_a_table_and_lines_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "my.csv").write_text(
        'text,score,time\n"good, ""very""\ngood",5,2020-02-01\nbad,1,2020-01-01\n'
    )
    lines = [
        {"id": "3", "text": 'good, "very"\ngood', "score": 5, "date": "2020-02-01"},
        {"id": "4", "input": "bad", "output": 1, "date": "2020-01-01"},
    ]
    (tmp_path / "my.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    table, listed = (
        personalize.read_history(tmp_path / name, get_task("lamp_3")) for name in ("my.csv", "my.jsonl")
    )
    assert table == listed
    assert [item.fields["score"] for item in table.items] == ["1", "5"]


def test_names_and_files_that_cannot_be_are_refused(
    oppu: Callable[..., object], movies: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, file = tmp_path / "runs" / "mine", tmp_path / "my.jsonl"
    file.write_text(as_lines(next(iter(movies.users("test"))).history) + "{\n")
    bases = oppu("base", "train", "--run", run, "--data", movies.path, "--methods", "rag_k1", *QUICK)
    assert bases.returncode == 0, bases.stderr

    def refused(*arguments: object, history: Path = file, in_run: Path = run) -> str:
        result = oppu("personalize", "--history", history, "--run", in_run, *arguments)
        assert result.returncode in (1, 2) and "Traceback" not in result.stderr
        return " ".join(result.stderr.split())

    assert "has a user 'test-000' already" in refused("--user", "test-000")
    assert "more than 1,000 characters" in refused("--user", "x" * 10_000)
    assert "user is empty" in refused("--user", "")
    assert "no method with personal adapters" in refused("--user", "../../x 🦊")
    assert "is not JSON (Expecting property name enclosed in double quotes). Correct it" in refused(
        "--strict"
    )
    assert "no such task lamp_4" in refused("--task", "lamp_4", history=_headline(tmp_path))
    assert "cannot be read" in refused(history=tmp_path)
    assert "cannot be read" in refused(history=tmp_path / "none")
    assert "is no run" in refused(in_run=tmp_path)
    (tmp_path / "empty.jsonl").touch()
    assert "no usable item" in refused(history=tmp_path / "empty.jsonl")


def _headline(folder: Path) -> Path:
    (folder / "headlines.jsonl").write_text('{"text": "A ship sank.", "title": "Ship lost"}\n')
    return folder / "headlines.jsonl"


def test_without_a_run_the_sample_world_teaches_the_task(
    oppu: Callable[..., object], movies: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(personalize, "OTHERS", 2)
    monkeypatch.setattr(personalize, "METHODS", ("oppu_k0",))
    Path("my.jsonl").write_text(as_lines(next(iter(movies.users("test"))).history))
    result = oppu("personalize", "--history", "my.jsonl", "--task", "lamp_2m")
    assert result.returncode == 0, result.stderr
    assert "sample world" in result.stderr and "--run runs/own-lamp_2m" in result.stdout
    assert len(weights_of(Path("runs/store"), "me")) == 1
    Path("own.toml").write_text(
        'name = "recipes"\nkind = "generation"\ninput_fields = ["dish"]\noutput_field = "note"\n'
        'instruction = "Note."\nquery_template = "dish: {dish} note:"\n'
    )
    Path("own.jsonl").write_text('{"dish": "soup", "note": "more salt"}\n')
    with pytest.raises(ConfigError, match="a run with a dataset of it is needed"):
        from oppu_core.tasks.task_files import load_task

        personalize.own_run(load_task("own.toml"), Path("runs"))
    refused = oppu("personalize", "--history", "own.jsonl", "--task", "own.toml")
    assert refused.returncode == 2 and "--run" in refused.stderr
