"""Hooks of MkDocs (mkdocs.yml): README, CONTRIBUTING and docs/ become one site, each kept in one place.

Links between pages lead to the site's pages. Links to files of the repository lead there if ``repo_url`` is
set in mkdocs.yml, and are their text otherwise.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
# Pages of the repository that have another place on the site.
PLACES = {"README.md": "index.md", "docs/index.md": "pages.md", "CONTRIBUTING.md": "contributing.md"}
SOURCES = {place: source for source, place in PLACES.items()}
LINK = re.compile(r"(?P<text>!?\[[^\]]*\])\((?![a-z]+:)(?P<path>[^)#\s]+)(?P<heading>#[^)\s]+)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that do not lie in docs/."""
    for source, place in PLACES.items():
        if present := files.get_file_from_path(place):
            files.remove(present)
        files.append(File.generated(config, place, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Rewrite relative links, which are those of the repository."""
    folder = posixpath.dirname(SOURCES.get(page.file.src_uri, f"docs/{page.file.src_uri}"))

    def site_link(match: re.Match[str]) -> str:
        target, heading = posixpath.normpath(posixpath.join(folder, match["path"])), match["heading"] or ""
        if target in PLACES or target.startswith("docs/"):
            return f"{match['text']}({PLACES.get(target, target.removeprefix('docs/'))}{heading})"
        if config.repo_url:
            return f"{match['text']}({config.repo_url.rstrip('/')}/blob/main/{target}{heading})"
        return match["text"].strip("[]")

    return LINK.sub(site_link, markdown)
