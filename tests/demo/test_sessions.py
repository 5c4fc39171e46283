"""Sessions: private, separate, and gone without a trace."""

import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from oppu_core.data.types import HistoryItem, User
from oppu_core.errors import ConfigError
from oppu_core.training.loop import Trained
from oppu_demo.sessions import CROWDED_OUT, EXPIRED, FORGOTTEN, CancelledError, Own, Session, Sessions


def own(text: str = "A ship.") -> Own:
    user = User("me", "test", (HistoryItem("1", {"description": text, "tag": "comedy"}),), ())
    facts = {"base": Trained(2.0, 1.0, 1, 10, 0.1)}
    return Own("lamp_2m", user, {"base": {"a": torch.ones(2)}}, {"base": [2.0]}, facts)


def give(session: Session, kept: Own) -> None:
    session.keep(session.begin(lambda: None), kept)


def test_ids_cannot_be_guessed_and_folders_are_private(sessions: Sessions) -> None:
    one, two = sessions.new(), sessions.new()
    assert len(one.id) >= 32 and one.id != two.id and one.folder != two.folder
    assert one.id not in str(one.folder)  # who sees a path has no session
    for folder in (sessions.root, one.folder, two.folder):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert one.folder.parent == sessions.root
    assert sessions.get(one.id) is one


@pytest.mark.parametrize("session_id", ["", "../../etc", "<script>", "x" * 10_000, "\0"])
def test_an_id_that_never_was_is_refused(sessions: Sessions, session_id: str) -> None:
    with pytest.raises(ConfigError, match="is over"):
        sessions.get(session_id)


def test_forget_leaves_nothing_and_may_be_said_twice(sessions: Sessions) -> None:
    session, other = sessions.new(), sessions.new()
    give(session, kept := own())
    give(other, own())
    (session.folder / "my.zip").write_text("private")
    sessions.forget(session)
    sessions.forget(session)
    assert session.own is None and session.ended == FORGOTTEN
    assert not (kept.adapters or kept.losses or kept.facts)  # whoever still holds it
    assert not session.folder.exists() and session.training is None
    with pytest.raises(ConfigError, match="is over"):
        sessions.get(session.id)
    with pytest.raises(ConfigError, match="forgotten"), session.held():
        pass
    assert other.own is not None and sessions.get(other.id) is other


def test_forgetting_waits_for_whoever_writes_into_the_folder(sessions: Sessions) -> None:
    session = sessions.new()
    with session.held():
        forgetting = threading.Thread(target=sessions.forget, args=[session])
        forgetting.start()
        forgetting.join(0.1)
        assert forgetting.is_alive() and session.folder.is_dir()
        (session.folder / "my.zip").write_text("private")
    forgetting.join(5)
    assert not forgetting.is_alive() and not session.folder.exists()


def test_a_new_adapter_takes_the_place_of_the_old_one_and_its_files(session: Session) -> None:
    give(session, own("old"))
    (session.folder / "my.zip").write_text("old")
    give(session, new := own("new"))
    assert session.own is new and list(session.folder.iterdir()) == []


def test_of_two_trainings_the_later_one_counts(session: Session) -> None:
    told: list[str] = []
    first = session.begin(lambda: told.append("first"))
    second = session.begin(lambda: told.append("second"))
    assert told == ["first"] and first.cancelled and not second.cancelled
    with pytest.raises(CancelledError):
        session.keep(first, stale := own())
    assert session.own is None and not stale.adapters
    session.keep(second, new := own())
    session.cancel()
    assert session.own is new and told == ["first"]


def test_what_comes_too_late_is_not_kept(sessions: Sessions, session: Session) -> None:
    training = session.begin(lambda: None)
    sessions.forget(session)
    assert training.cancelled
    with pytest.raises(CancelledError):
        session.keep(training, late := own())
    assert session.own is None and not late.adapters and not session.folder.exists()
    with pytest.raises(ConfigError, match="forgotten"):
        session.begin(lambda: None)


def test_the_unused_expire_and_the_used_stay(sessions: Sessions) -> None:
    unused, used, touched = sessions.new(), sessions.new(), sessions.new()
    give(unused, own())
    for session in (unused, used, touched):
        session.used -= 3600
    sessions.get(used.id)
    touched.touch()
    assert sessions.expire(1800) == 1
    assert unused.ended == EXPIRED and unused.own is None and not unused.folder.exists()
    assert sessions.get(used.id) is used and sessions.get(touched.id) is touched
    assert sessions.expire(1800) == 0


def test_of_too_many_with_adapters_the_longest_unused_goes_and_is_told() -> None:
    sessions = Sessions(with_adapters=2)
    first, second, third, empty = (sessions.new() for _ in range(4))
    empty.used -= 100
    give(first, own())
    give(second, own())
    first.touch()
    give(third, own())
    assert second.ended == CROWDED_OUT and not second.folder.exists()
    assert [bool(session.own) for session in (first, second, third)] == [True, False, True]
    assert sessions.get(empty.id) is empty  # which has none
    with pytest.raises(ConfigError, match="make room"):
        second.begin(lambda: None)
    sessions.close()


def test_close_removes_everything_and_ends_trainings(sessions: Sessions) -> None:
    session = sessions.new()
    training = session.begin(lambda: None)
    (session.folder / "my.zip").write_text("private")
    sessions.close()
    sessions.close()
    assert training.cancelled and session.own is None and not sessions.root.exists()


@pytest.mark.parametrize(
    "code", ["", "sys.exit(3)", "raise RuntimeError", "os.kill(os.getpid(), signal.SIGINT)"]
)
def test_nothing_is_left_when_the_process_ends(code: str) -> None:
    script = (
        "import os, signal, sys\nfrom oppu_demo.sessions import Sessions\nsession = Sessions().new()\n"
        f"(session.folder / 'x').write_text('private')\nprint(session.folder, flush=True)\n{code}"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    folder = Path(done.stdout.strip())
    assert folder.name and not folder.exists() and not folder.parent.exists(), done.stderr


def test_many_threads_share_sessions_without_loss(sessions: Sessions) -> None:
    problems: list[BaseException] = []

    def visitor() -> None:
        try:
            for _ in range(20):
                session = sessions.get(sessions.new().id)
                give(session, kept := own())
                assert session.own is kept
                sessions.expire(60)
                sessions.forget(session)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=visitor) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems and list(sessions.root.iterdir()) == []
