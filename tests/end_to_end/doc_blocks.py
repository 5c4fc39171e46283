"""Code blocks of the pages, and the commands in them."""

import dataclasses
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from oppu_core.cli.main import _give_ray_an_address, app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_RUN = re.compile(r"# not run in the tests: \S.+\n")
NOTHING_RUN = re.compile(r"The\s+commands\s+of\s+this\s+page\s+are\s+not\s+run\s+in\s+the\s+tests")
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
# Takes the place of every program: writes its name and arguments down.
RECORDER = """#!/bin/sh
{ printf '%s\\037' "${0##*/}" "$@"; printf '\\036'; } >> "$RECORD"
"""
PROGRAMS = ("uv", "uvx", "python", "python3", "pip", "oppu")


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: The page.
        line: Its line on the page.
        language: As the fence says; empty for output and drawings.
        text: What it holds.
        runs: Whether neither it nor its page says that it is not run in the tests.
    """

    page: Path
    line: int
    language: str
    text: str
    runs: bool

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path, *languages: str) -> list[Block]:
    """A page's blocks in these languages, or all of them."""
    content = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(content):
        indent, language, text = match.groups()
        text = re.sub(f"^{indent}", "", text, flags=re.MULTILINE)
        runs = not NOT_RUN.match(text) and not NOTHING_RUN.search(content)
        if not languages or language in languages:
            found.append(Block(page, content.count("\n", 0, match.start()) + 1, language, text, runs))
    return found


def commands(block: Block, folder: Path) -> list[list[str]]:
    """What a block would start, word by word, as bash understands it; nothing is started.

    Args:
        block: In the shell's language.
        folder: For the recording.
    """
    places, record = folder / "programs", folder / "record"
    places.mkdir(exist_ok=True)
    record.write_text("")
    for name in PROGRAMS:
        (places / name).write_text(RECORDER)
        (places / name).chmod(0o755)
    variables = {"PATH": str(places), "RECORD": str(record), "RELEASE": "release", "BASE": "models/base"}
    bash = shutil.which("bash", path=os.defpath)
    assert bash
    subprocess.run([bash, "-c", block.text], env=variables, check=False, cwd=folder, capture_output=True)
    return [line.split("\x1f")[:-1] for line in record.read_text().split("\x1e")[:-1]]


def parse_oppu(words: Sequence[str]) -> dict[str, Any]:
    """The parameters of a command of `oppu`; raises for one that is not there."""
    command: Any = typer.main.get_command(app)
    rest = list(words)
    _give_ray_an_address(rest)
    while hasattr(command, "commands") and rest and rest[0] in command.commands:
        command = command.commands[rest.pop(0)]
    parameters: dict[str, Any] = command.make_context("oppu", rest).params
    return {name: value for name, value in parameters.items() if value is not None}
