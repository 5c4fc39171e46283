"""The site of the repository's pages is built without a warning, and loads nothing from elsewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow  # starts a process


def build(site: Path, config: Path = ROOT / "mkdocs.yml") -> None:
    """Build it; a link that leads nowhere is an error."""
    arguments = ["build", "--strict", "--quiet", "--config-file", config, "--site-dir", site]
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_all_pages_become_one_site(tmp_path: Path) -> None:
    build(tmp_path)
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"} | {"pages", "contributing"}
    built = {path.parent.name for path in tmp_path.glob("*/index.html")}
    assert pages == built
    start = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert '<a href="demo/">docs/demo.md</a>' in start and 'src="images/comparison.svg"' in start
    contributing = (tmp_path / "contributing" / "index.html").read_text(encoding="utf-8")
    assert "CI runs <code>.ci/run</code>" in contributing, "a file that is no page is no link"
    for page in tmp_path.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|img|link|iframe)[^>]+(?:src|href)=\"(?:https?:)?//", text), page


def test_links_to_files_lead_to_the_repository_if_it_is_named(tmp_path: Path) -> None:
    config = tmp_path / "mkdocs.yml"
    config.write_text(
        f"INHERIT: {ROOT / 'mkdocs.yml'}\nrepo_url: https://example.org/oppu/\ndocs_dir: {ROOT / 'docs'}\n"
        f"hooks: [{ROOT / 'scripts' / 'docs_site.py'}]\n",
        encoding="utf-8",
    )
    build(tmp_path / "site", config)
    contributing = (tmp_path / "site" / "contributing" / "index.html").read_text(encoding="utf-8")
    assert '<a href="https://example.org/oppu/blob/main/.ci/run">' in contributing
