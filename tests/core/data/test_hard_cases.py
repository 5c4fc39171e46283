"""Hard cases, each of which went wrong once."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from oppu_core.data import HistoryItem
from oppu_core.errors import ConfigError, OppuError, StoreError
from oppu_core.modeling.adapters import adapter_state, attach, load_state
from oppu_core.modeling.base import load_base
from oppu_core.modeling.generation import generate
from oppu_core.prompting.methods import parse_method
from oppu_core.prompting.profiles import compute_profile
from oppu_core.storage.files import new_dir
from oppu_core.storage.keys import adapter_key
from oppu_core.storage.store import Store
from oppu_core.tasks.task_files import TASKS
from oppu_core.training.config import personal_config

PROMPTS = ["hello world:" * i for i in (1, 5, 2)]
CFG = personal_config("lamp_2m", "small", 0)


def answers(folder, config):
    base = load_base(str(folder), device="cpu")
    model = attach(base.model, config)
    g = torch.Generator().manual_seed(1)
    load_state(
        model, {k: v + torch.randn(v.shape, generator=g) * 0.2 for k, v in adapter_state(model).items()}
    )
    return generate(model, base.tokenizer, PROMPTS, max_new_tokens=10)


def test_gradient_checkpointing_changes_no_answer(toy_folder):
    assert answers(toy_folder, dataclasses.replace(CFG, gradient_checkpointing=True)) == answers(
        toy_folder, CFG
    )


@pytest.mark.slow
def test_lora_dropout_is_not_active_when_answering(toy_folder):
    assert answers(toy_folder, dataclasses.replace(CFG, dropout=0.3)) == answers(toy_folder, CFG)


@pytest.mark.slow
def test_style_profile_is_the_same_in_every_process():
    program = """
from oppu_core.data import HistoryItem
from oppu_core.prompting.profiles import style
from oppu_core.tasks.task_files import TASKS
title = "alpha beta gamma delta epsilon zeta eta theta"
print(style(TASKS["lamp_4"], [HistoryItem(str(i), {"text": "x", "title": title}) for i in range(5)]))
"""
    said = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in "1234"
    }
    assert len(said) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting", [{"repetition_penalty": 1.5}, {"no_repeat_ngram_size": 1}, {"num_beams": 3}], ids=str
)
def test_generation_config_of_a_base_does_not_change_greedy_answers(toy_folder, tmp_path, setting):
    shutil.copytree(toy_folder, tmp_path / "b")
    base = load_base(str(toy_folder), device="cpu")
    plain = generate(base.model, base.tokenizer, PROMPTS, max_new_tokens=12)
    file = tmp_path / "b" / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **setting}))
    other = load_base(str(tmp_path / "b"), device="cpu")
    assert other.identity == base.identity
    assert generate(other.model, other.tokenizer, PROMPTS, max_new_tokens=12) == plain


def test_two_writers_of_the_same_key(tmp_path):
    errors, barrier = ([], threading.Barrier(4))

    def work():
        barrier.wait(5)
        store = Store(tmp_path / "s")
        for i in range(30):
            barrier.wait(5)
            try:
                store.put(adapter_key({"c": i}, "u", "h"), {"r": 8}, {"w": torch.ones(3)}, {})
            except Exception as e:
                errors.append(repr(e))
        store.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not errors
    assert not list((tmp_path / "s").rglob(".tmp-*"))


def test_special_tokens_in_a_users_text_are_text(toy_folder):
    tokenizer = load_base(str(toy_folder), device="cpu").tokenizer
    assert tokenizer.answer_ids("a<end>b").count(tokenizer.eos_id) == 1
    assert tokenizer.eos_id not in tokenizer.prompt_ids("description: a<end>b tag:")


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "a"
    with new_dir(path) as f:
        (f / "old").write_text("old")
    real = Path.rename

    def rename(self, target):
        if Path(target) == path and self.name.startswith(".tmp-") and (self / "new").exists():
            raise OSError("no")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OSError), new_dir(path) as f:
        (f / "new").write_text("new")
    assert (path / "old").exists()


def test_a_manifest_broken_behind_its_first_page_is_a_store_error(tmp_path):
    store = Store(tmp_path)
    for i in range(60):
        store.put_failure(adapter_key({"c": i}, "u" * 200, "h"), "x")
    store.close()
    file = tmp_path / "manifest.sqlite"
    data = bytearray(file.read_bytes())
    assert len(data) > 8192
    data[4096:] = b"\xff" * (len(data) - 4096)
    file.write_bytes(bytes(data))
    with pytest.raises(StoreError):
        store = Store(tmp_path)
        store.has(adapter_key({"c": 1}, "u", "h"))
        list(store.entries())


@pytest.mark.parametrize("config", ["[]", "null", "3"])
def test_a_config_json_that_is_no_object(toy_folder, tmp_path, config):
    shutil.copytree(toy_folder, tmp_path / "b")
    (tmp_path / "b" / "config.json").write_text(config)
    with pytest.raises(OppuError):
        load_base(str(tmp_path / "b"), device="cpu")


@pytest.mark.parametrize("device", ["meta", "xpu", "mps"])
def test_a_device_that_torch_knows_and_this_machine_lacks(toy_folder, device):
    with pytest.raises(ConfigError):
        load_base(str(toy_folder), device=device)


def test_method_names_take_ascii_digits_only():
    with pytest.raises(ConfigError):
        parse_method("rag_k1१")


def test_items_without_an_answer_are_no_most_frequent_answer():
    h = [HistoryItem(str(i), {"description": "x", "tag": t}) for i, t in enumerate(["comedy", "", " ", " "])]
    assert compute_profile(TASKS["lamp_2m"], h) == "most popular tag: comedy."
    assert compute_profile(TASKS["lamp_2m"], h[1:]) == ""


def test_one_quoted_word_is_not_every_word_capitalized():
    h = [HistoryItem(str(i), {"text": "x", "title": "'tis 'Odd"}) for i in range(3)]
    assert "every word capitalized" not in compute_profile(TASKS["lamp_4"], h)


@pytest.mark.parametrize(
    "template",
    [
        "description: {} tag:",
        "description: {description tag:",
        "description: {0} tag:",
        "{description:d}",
        "{description!x}",
    ],
)
def test_templates_that_cannot_be_filled_are_refused(template):
    with pytest.raises(ConfigError):
        dataclasses.replace(TASKS["lamp_2m"], query_template=template)
