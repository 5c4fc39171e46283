"""What the tests of this folder share."""

from pathlib import Path

import pytest
from odd_toys import ROWS, content_of, imported, lines
from oppu_core.data import User
from oppu_core.data.sample import (
    GRAMMARS,
    sample_users,
)
from oppu_core.tasks.task_files import TASKS


@pytest.fixture(scope="module")
def users_of() -> dict[str, list[User]]:
    """Forty test users of each task."""
    return {
        name: list(sample_users(TASKS[name], test_users=40, other_users=0, queries=8, seed=7))
        for name in GRAMMARS
    }


@pytest.fixture
def expected(tmp_path: Path) -> dict[str, list[tuple[object, ...]]]:
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "e.jsonl").write_text(lines())
    found = content_of(imported(tmp_path / "plain" / "e.jsonl"))
    assert sum(map(len, found.values())) == len(ROWS)
    return found
