"""Models with fresh adapters, made once for a file."""

import functools
from pathlib import Path

import pytest
from cohort_toys import Folder, Loaded, Trainee, make
from oppu_core.modeling.base import Base, load_base
from oppu_core.training.config import Peft


@pytest.fixture(scope="module")
def trainee(family_folder: Folder) -> Loaded:
    @functools.cache
    def load(family: str = "llama", method: Peft = "lora") -> Trainee:
        return make(family_folder(family), method)

    return load


@pytest.fixture
def base(toy_folder: Path) -> Base:
    return load_base(str(toy_folder), device="cpu")
