"""Tests run in several processes at once (pytest-xdist): each computes on one core. Each test has a mark."""

import os
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is loaded, here and in what tests start
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Folders whose tests load models, gradio or the harness, and fixtures that load, train or serve a model.
SLOW_FOLDERS = {"modeling", "training", "demo", "lm_eval"}
SLOW_FIXTURES = {"toy_folder", "family_folder", "tiny", "encoder", "run", "finished"}


def mark_of(item: pytest.Item) -> str:
    """Which of the marks a test has that does not name one itself."""
    folders, fixtures = set(item.path.parts), set(getattr(item, "fixturenames", ()))
    if "end_to_end" in folders:
        return "e2e"
    if "browser" in fixtures:
        return "browser"
    return "slow" if folders & SLOW_FOLDERS or fixtures & SLOW_FIXTURES else "unit"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every test its mark, and start with long files: short ones fill what is left."""
    for item in items:
        if not item.get_closest_marker("slow"):
            item.add_marker(mark_of(item))
    items.sort(key=lambda item: not {"demo", "end_to_end"} & set(item.path.parts))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With ``-m unit`` leave folders without such tests out: their imports alone take seconds."""
    without = collection_path.name in {"end_to_end", *SLOW_FOLDERS}
    return True if without and config.option.markexpr == "unit" else None
