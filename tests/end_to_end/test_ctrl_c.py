"""Ctrl-C ends every command with one line, wherever it was."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

INTERRUPT = "import os, signal\ndef stop(*_, **__): os.kill(os.getpid(), signal.SIGINT)\n"
PLACES = {
    "in a command that has nothing to continue": (
        "import oppu_core.data.sample as module; module.sample_users = stop",
        ["data", "sample", "--task", "lamp_2m", "--out", "{out}"],
        "Interrupted.",
    ),
    "in a command that can be continued": (
        "import oppu_core.data.dataset as module; module.Dataset.open = stop",
        ["profiles", "--data", "{out}", "--model", "tiny", "--out", "{out}"],
        "Interrupted. Start the same command again to continue.",
    ),
    "while plug-ins are loaded": (
        "import oppu_core.cli.main as module; module.register_plugins = stop",
        ["--version"],
        "Interrupted.",
    ),
    "while the command line is loaded": (
        "import sys, importlib.abc\n"
        "class Finder(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'oppu_core.cli.main': stop()\n"
        "sys.meta_path.insert(0, Finder())",
        ["--version"],
        "Interrupted.",
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_ctrl_c_is_answered_in_one_line(place: str, tmp_path: Path) -> None:
    code, arguments, expected = PLACES[place]
    script = (
        f"{INTERRUPT}{code}\nimport sys; from oppu_core.__main__ import main\nsys.argv[0] = 'oppu'\nmain()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *(argument.format(out=tmp_path / "out") for argument in arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", expected + "\n")
