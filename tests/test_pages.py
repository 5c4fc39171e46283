"""Pages and sources point to what is there: pages, headings, files, and the tests of the invariants."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [page for pattern in ("*.md", "docs/*.md", "*/*/README.md") for page in sorted(ROOT.glob(pattern))]
SOURCES = [
    file for folder in ("packages", "apps", "tests", "benchmarks", "scripts")
    for suffix in ("py", "toml", "j2") for file in (ROOT / folder).rglob(f"*.{suffix}")
]  # fmt: skip


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub's links call them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)", page.read_text(encoding="utf-8"))
    targets = [((page.parent / path if path else page), heading) for path, heading in links]
    assert [str(path) for path, _ in targets if not path.exists()] == []
    assert [
        (str(path), heading) for path, heading in targets if heading and heading not in anchors(path)
    ] == []


def test_sources_cite_pages_that_are_here() -> None:
    cited = {
        (str(source.relative_to(ROOT)), page)
        for source in SOURCES
        for page in re.findall(r"\bdocs/[\w-]+\.md\b", source.read_text(encoding="utf-8"))
    }
    assert len(cited) > 5
    assert [pair for pair in cited if not (ROOT / pair[1]).exists()] == []


def test_the_tests_that_hold_the_invariants_are_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"\]\(\.\./(tests/[\w/]+\.py)\)((?:,? `test_\w+`)+)", text)
    assert len(named) > 20
    for file, tests in named:
        source = (ROOT / file).read_text(encoding="utf-8")
        assert [test for test in re.findall(r"`(\w+)`", tests) if f"def {test}(" not in source] == [], file


def test_every_room_is_on_the_page_about_them() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = {
        str(package.parent.relative_to(ROOT))
        for pattern in ("packages/*/src/oppu_*", "apps/*/src/oppu_*")
        for root in ROOT.glob(pattern)
        for package in root.glob("*/__init__.py")
    }
    assert len(rooms) > 15
    assert [room for room in sorted(rooms) if f"](../{room})" not in text] == []
