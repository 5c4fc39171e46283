"""What commands show of themselves: options, and how to go on."""

import sys
from collections.abc import Callable

import pytest
from oppu_core.cli import main as cli
from oppu_core.cli.shared import next_steps

Help = Callable[..., str]


@pytest.fixture
def help_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Help:
    """The help of a command."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(cli, "register_plugins", lambda: None)

    def shown(*command: str) -> str:
        monkeypatch.setattr(sys, "argv", ["oppu", *command, "--help"])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code in (0, None)
        return capsys.readouterr().out

    return shown


def test_flags_have_no_type_and_seldom_options_a_heading_of_their_own(help_of: Help) -> None:
    text = help_of("base", "train")
    assert "--sample" in text and "<bool>" not in text and "<bool>" not in help_of()
    everyday, more = text.split("More options")
    assert all(option in everyday for option in ("--run", "--data", "--model", "--methods", "--device"))
    assert all(option in more for option in ("--seed", "--dtype", "--constrain", "--report-to"))


@pytest.mark.parametrize(("depth", "program"), [(None, "oppu"), ("1", "uv run oppu")])
def test_next_steps_can_be_pasted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], depth: str | None, program: str
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.delenv("UV_RUN_RECURSION_DEPTH", raising=False)
    if depth:
        monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", depth)
    text = "a [bold] text that is longer than the terminal is wide"
    next_steps(("ask", "--run", "my runs/a", text), ("demo",))
    assert capsys.readouterr().out.splitlines() == [
        f"Next: {program} ask --run 'my runs/a' '{text}'",
        f"  or: {program} demo",
    ]
