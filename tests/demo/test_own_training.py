"""A visitor's own adapter: what is trained, forgotten and taken along, and that it stays theirs."""

import gc
import json
import shutil
import threading
import weakref
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from oppu_core.data.dataset_writer import write_dataset
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
from oppu_core.tasks.task_files import get_task
from oppu_demo.engine import Engine
from oppu_demo.export import write_zip
from oppu_demo.own_history import (
    Step,
    read_items,
    train_own,
)
from oppu_demo.sessions import CancelledError, Session, Sessions

MOVIES, TWEETS, NEWS, PAPERS = (get_task(name) for name in ("lamp_2m", "lamp_7", "lamp_2n", "lamp_1"))
QUERY = Query("q", {"description": "A dragon sleeps under the castle. The jokes never stop."}, None, 0)


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
