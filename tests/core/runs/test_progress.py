"""What is seen of a run at work: how far all of it is, and lines where there is no terminal."""

import io

import pytest
from oppu_core.runs import progress
from oppu_core.runs.progress import ProgressReporter
from rich.console import Console


class Clock:
    """Seconds that pass when they are told to."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    one = Clock()
    monkeypatch.setattr(progress, "time", one)
    return one


def shown(terminal: bool) -> tuple[ProgressReporter, io.StringIO]:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=100, color_system=None)
    return ProgressReporter(console), file


def test_announced_stages_say_which_they_are_and_how_long_all_will_take(clock: Clock) -> None:
    reporter, file = shown(terminal=True)
    reporter.expect(["%", "queries", "queries", "queries"])
    seen = []
    for title, unit, seconds in (
        ("task base", "%", 60), ("first", "queries", 10), ("encoding", "users", 5), ("second", "queries", 20),
        ("third", "queries", 30),
    ):  # fmt: skip
        start = len(file.getvalue())
        with reporter.stage(title, 4, unit) as stage:
            clock.now += seconds
            stage.advance(4)
        seen.append(file.getvalue()[start:])
    assert "step 1 of 4" in seen[0] and "left" not in seen[0]  # nothing is known of queries yet
    assert "step 2 of 4" in seen[1] and "left" not in seen[1]
    assert "step" not in seen[2]  # it was not announced
    assert "step 3 of 4, about 20 s left" in seen[3]
    assert "step 4 of 4, about 15 s left" in seen[4]
    assert all("step" not in one.splitlines()[-1] for one in seen)  # what stays is the bar alone


def test_a_single_stage_is_not_numbered(clock: Clock) -> None:
    reporter, file = shown(terminal=True)
    reporter.expect(["queries"])
    with reporter.stage("answers", 1, "queries") as stage:
        stage.advance()
    assert "step" not in file.getvalue()


def test_without_a_terminal_a_line_is_written_every_half_minute(clock: Clock) -> None:
    reporter, file = shown(terminal=False)
    with reporter.stage("lamp_2m base adapters", 16, "users") as stage:
        for _ in range(10):
            clock.now += 10
            stage.advance(0.5, loss=1.5, tokens=100)
        lines = file.getvalue().splitlines()
    assert [line.partition(",")[0] for line in lines] == [
        f"lamp_2m base adapters: {done} of 16 users" for done in (1, 3, 4)
    ]
    assert all(line.endswith("loss 1.50, 10 tokens/s") for line in lines)


def test_without_bars_nothing_is_written(clock: Clock) -> None:
    file = io.StringIO()
    reporter = ProgressReporter(Console(file=file), bars=False)
    with reporter.stage("answers", 4, "queries") as stage:
        clock.now += 100
        stage.advance()
    assert file.getvalue() == ""
