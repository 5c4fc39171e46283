"""Spoiled files are imported without what is spoiled, or refused in one clear message."""

import collections
import os
import random
from pathlib import Path

import pytest
from mutations import FORMATS, attempt


@pytest.mark.slow
@pytest.mark.parametrize("format_", FORMATS)
def test_a_spoiled_file_is_imported_or_refused_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format_: str
) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    valid = FORMATS[format_]()
    outcomes = collections.Counter(attempt(valid, random.Random(seed), tmp_path) for seed in range(200))
    assert min(outcomes["imported"], outcomes["refused"]) > 10
