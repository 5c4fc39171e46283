"""What the tests of this folder share."""

import functools

import pytest
from answering_toys import GROUPS, Folder, Loaded, Personal, with_adapters
from oppu_core.modeling.base import load_base
from oppu_core.training.config import Peft


@pytest.fixture(scope="module")
def personal(family_folder: Folder) -> Loaded:
    @functools.cache
    def load(family: str, method: Peft) -> Personal:
        scale = 3.0 if method == "prompt_tuning" else 0.3
        return with_adapters(load_base(str(family_folder(family)), device="cpu"), method, len(GROUPS), scale)

    return load
