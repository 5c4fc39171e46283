"""Opening a run whose description is damaged."""

from pathlib import Path

import pytest
from oppu_core.errors import ConfigError
from oppu_core.runs.run import open_run


@pytest.mark.parametrize("content", ['{"checksum": ', "", '{"checksum": "\xe9'])
def test_a_damaged_description_is_said_with_what_to_do(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"run\.json.*damaged: start a new run"):
        open_run(tmp_path)


def test_what_may_not_be_read_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run.json").write_text("{}")
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "no")))
    with pytest.raises(ConfigError, match="cannot be read: you have no permission to"):
        open_run(tmp_path)


def test_what_is_no_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no run"):
        open_run(tmp_path)
