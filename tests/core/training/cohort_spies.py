"""What a cohort packs, seen by tests."""

from typing import Any

import oppu_core.training.cohort
import pytest
from oppu_core.modeling.packing import Packed, pack


def spy_on_pack(monkeypatch: pytest.MonkeyPatch) -> list[Packed]:
    supports_packing: list[Packed] = []

    def spy(*args: Any, **options: Any) -> Packed:
        supports_packing.append(pack(*args, **options))
        return supports_packing[-1]

    monkeypatch.setattr(oppu_core.training.cohort, "pack", spy)
    return supports_packing
