"""The Python API: names that are imported when used, and values in memory under the rules of files."""

import ast
import datetime
import importlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import oppu_core
import pandas as pd
import pytest
from oppu_core.errors import ConfigError, DataError
from oppu_core.ownership import personalize as own

EVENTS = [
    {"user_id": user, "time": f"2024-01-0{day}", "input": f"Film {day}.", "output": "comedy"}
    for user in ("ann", "bob")
    for day in range(1, 7)
]


@pytest.mark.parametrize("name", ["oppu_core", "oppu_eval"])
def test_what_type_checkers_see_is_what_there_is(name: str) -> None:
    package = importlib.import_module(name)
    tree = ast.parse(Path(package.__file__ or "").read_text(encoding="utf-8"))
    (seen,) = (node for node in tree.body if isinstance(node, ast.If))
    homes = {
        alias.name: node.module or ""
        for node in seen.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted(homes) == package.__all__
    for each, module in homes.items():
        assert getattr(package, each) is getattr(importlib.import_module(module), each)
        assert getattr(package, each).__doc__
    assert set(homes) <= set(dir(package))
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        package.trian  # noqa: B018


def test_importing_the_packages_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'transformers', 'peft', 'pyarrow', 'pandas', 'numpy', 'typer'} & set(sys.modules)"
    script = f"import sys, oppu_core, oppu_eval; assert not {heavy}, {heavy}"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_dicts_and_frames_become_the_dataset_of_their_file(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in EVENTS))
    dated = [{**event, "time": datetime.date.fromisoformat(event["time"])} for event in EVENTS]
    frame = pd.DataFrame(EVENTS).assign(time=lambda table: pd.to_datetime(table.time), extra=float("nan"))
    sources: dict[str, Any] = {
        "file": tmp_path / "events.jsonl",
        "dicts": EVENTS,
        "dated": iter(dated),
        "frame": frame[::-1],
    }
    made = {
        name: oppu_core.build_dataset(events, tmp_path / name, "lamp_2m", test_users=1, queries=2)
        for name, events in sources.items()
    }
    users = {name: sorted(dataset.user_ids("test")) for name, dataset in made.items()}
    assert len(users["file"]) == 1 and made["file"].counts["test"]["queries"] == 2
    assert made["dicts"].content("test") == made["file"].content("test")

    def texts(name: str) -> list[tuple[str, str, str | None]]:
        return [
            (user.user_id, item.fields["description"], (item.date or "")[:10])
            for user in sorted(made[name].users(), key=lambda user: user.user_id)
            for item in user.history
        ]

    assert texts("file") == texts("dated")
    assert {text for _, text, _ in texts("frame")} == {text for _, text, _ in texts("file")}
    # Only what was asked for is there.
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*sources, "events.jsonl"])


def test_events_that_cannot_be_used_are_told_and_kept(tmp_path: Path) -> None:
    bad = [*EVENTS, {"user_id": "ann", "time": "2024-02-01", "input": "No answer."}]
    with pytest.warns(UserWarning, match="1 record") as told:
        dataset = oppu_core.build_dataset(bad, tmp_path / "data", "lamp_2m")
    assert told[0].filename == __file__
    assert dataset.source["rejected"] == 1 and "No answer." in (tmp_path / "data/rejected.jsonl").read_text()
    with pytest.raises(DataError, match="record 13, user 'ann', event: tag must be text"):
        oppu_core.build_dataset(bad, tmp_path / "strict", "lamp_2m", strict=True)
    with pytest.raises(DataError, match="Item 2 cannot be used: object is no text, number or date"):
        oppu_core.build_dataset([EVENTS[0], {"user_id": object()}], tmp_path / "no", "lamp_2m")
    with pytest.raises(DataError, match="mixed or unknown types"):
        frame = pd.DataFrame([*EVENTS[1:], {**EVENTS[0], "output": 3}])
        oppu_core.build_dataset(frame, tmp_path / "no", "lamp_2m")
    assert not (tmp_path / "strict").exists() and not (tmp_path / "no").exists()


def test_a_history_that_is_not_learned_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(DataError, match=r"no item to learn from. Items that cannot be used: 1 \(item 1: tag"):
        oppu_core.personalize([{"description": "A ship.", "tag": "fun"}], "lamp_2m")
    with pytest.raises(ConfigError, match="Name the task"):
        oppu_core.personalize([{"description": "A ship.", "tag": "comedy"}])

    def broken(*_: object) -> None:
        raise DataError("No.")

    monkeypatch.setattr(own, "own_run", broken)
    with pytest.raises(DataError, match="No"), pytest.warns(UserWarning, match="cannot be used: 1"):
        oppu_core.personalize([{"input": "A ship.", "output": "comedy"}, {"input": "A cat."}], "lamp_2m")
    assert not any(tmp_path.iterdir())
