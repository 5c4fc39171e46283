"""The engine behind the page, where it is not the page's own doing."""

import pytest
from oppu_core.errors import StoreError
from oppu_core.runs.run import Run, follow_data
from oppu_demo.engine import Engine


def test_nobody_is_answered_once_somebody_was_forgotten(engine: Engine, run: Run) -> None:
    """The page has everybody in memory; whoever goes from the disk must not go on answering."""
    user = next(iter(engine.users("lamp_2m").values()))
    asked = user.queries[0]
    before = engine.answer("lamp_2m", "rag_k1", user, asked).text
    description = run.path / "run.json"
    content = description.read_bytes()
    try:
        follow_data(run, {"lamp_2m": "what is left without the user"})  # as `oppu forget` ends
        with pytest.raises(StoreError, match=r"somebody was forgotten.*Start the page again"):
            engine.answer("lamp_2m", "rag_k1", user, asked)
    finally:
        description.write_bytes(content)
    assert engine.answer("lamp_2m", "rag_k1", user, asked).text == before
