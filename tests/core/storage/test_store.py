"""The store: what it says it has is what was put there, to the byte, and paths know nothing of users."""

import dataclasses
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from oppu_core.data import HistoryItem, Query, User
from oppu_core.errors import StoreError
from oppu_core.modeling.adapters import OWN, adapter_config_json, peft_config
from oppu_core.modeling.base_files import BaseIdentity
from oppu_core.modeling.dtypes import Dtype
from oppu_core.storage.keys import Key, adapter_key, task_lora_key
from oppu_core.storage.store import Store
from oppu_core.storage.weights import CONFIG_FILE, WEIGHTS_FILE
from oppu_core.tasks.task_files import TASKS
from oppu_core.training.config import TrainConfig, personal_config
from oppu_core.training.keys import history_hash, of_adapter

CONFIG = {"r": 8, "target_modules": ["q_proj", "v_proj"]}
STATE = {
    "a.weight": torch.tensor([[1.0, -0.0, float("inf")], [1e-45, 2.0, 3.0]]),
    "b.weight": torch.arange(5, dtype=torch.bfloat16),
}
KEY = adapter_key({"seed": 0}, "u", "history")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "store")
    yield store
    store.close()


def test_what_is_put_is_what_is_loaded(store: Store) -> None:
    for key in (KEY, task_lora_key({"base": "x"})):
        assert not store.has(key)
        store.put(key, CONFIG, STATE, {"loss": 0.5, "steps": 3})
        assert store.has(key)
        loaded = store.load(key)
        assert loaded.keys() == STATE.keys()
        for name, tensor in STATE.items():
            assert loaded[name].dtype == tensor.dtype
            assert torch.equal(loaded[name].view(torch.uint8), tensor.view(torch.uint8))
        assert json.loads((store.path / key.folder / CONFIG_FILE).read_text()) == CONFIG


def test_another_process_finds_what_was_put(store: Store) -> None:
    store.put(KEY, CONFIG, STATE, {"loss": 0.5})
    other = Store(store.path)
    assert other.has(KEY)
    assert other.load(KEY).keys() == STATE.keys()
    assert [(e.folder, e.kind, e.user_id, e.status, e.reason, e.facts) for e in other.entries()] == [
        (KEY.folder, "adapter", "u", "ok", None, {"loss": 0.5})
    ]
    other.close()


def test_the_same_weights_give_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    folders = []
    for name, state, config in (
        ("one", STATE, CONFIG),
        ("two", dict(reversed(STATE.items())), dict(reversed(CONFIG.items()))),
    ):
        store = Store(tmp_path / name)
        store.put(KEY, config, state, {})
        store.close()
        folders.append({file.name: file.read_bytes() for file in (store.path / KEY.folder).iterdir()})
    assert set(folders[0]) == {CONFIG_FILE, WEIGHTS_FILE}
    assert folders[0] == folders[1]


# --- identity --------------------------------------------------------------------------------------------

USER = User(
    "u",
    "test",
    tuple(
        HistoryItem(f"h{t}", {"description": f"film {t}", "tag": "comedy"}, f"2020-01-0{t + 1}")
        for t in range(3)
    ),
    (Query("q", {"description": "x"}, "comedy", 2),),
)
TRAINING = personal_config("lamp_2m", "small", 0)


def item_with(**changes: Any) -> User:
    return dataclasses.replace(
        USER, history=(dataclasses.replace(USER.history[0], **changes), *USER.history[1:])
    )


def a_base(fingerprint: str, dtype: Dtype = "float32") -> dict[str, Any]:
    return dataclasses.asdict(BaseIdentity(fingerprint, dtype, 64))


def key_with(
    training: TrainConfig = TRAINING,
    user: User = USER,
    profile: str = "",
    lora: Mapping[str, Any] | None = None,
    task: str = "lamp_2m",
) -> Key:
    return of_adapter(
        task_lora_key(lora or {"base": a_base("b"), "variant": "base"}), TASKS[task], training, user, profile
    )


CHANGES: dict[str, Callable[[], Key]] = {
    "base": lambda: key_with(lora={"base": a_base("c"), "variant": "base"}),
    "variant": lambda: key_with(lora={"base": a_base("b"), "variant": "rag_k1"}),
    "task": lambda: key_with(task="lamp_4"),
    "user": lambda: key_with(user=dataclasses.replace(USER, user_id="v")),
    "profile": lambda: key_with(profile="most popular tag: comedy."),
    "item text": lambda: key_with(user=item_with(fields={"description": "film 0", "tag": "action"})),
    "item id": lambda: key_with(user=item_with(id="other")),
    "item date": lambda: key_with(user=item_with(date=None)),
    "order": lambda: key_with(
        user=dataclasses.replace(USER, history=(USER.history[1], USER.history[0], USER.history[2]))
    ),
    "longer": lambda: key_with(
        user=dataclasses.replace(USER, queries=(dataclasses.replace(USER.queries[0], history_len=3),))
    ),
}
OTHER_SETTINGS: dict[str, Any] = {"targets": ("q_proj",), "gradient_checkpointing": True, "method": "ia3"}


@pytest.mark.parametrize("what", CHANGES)
def test_every_part_of_what_an_adapter_is_made_from_changes_its_key(what: str) -> None:
    assert CHANGES[what]().folder != key_with().folder
    assert CHANGES[what]().identity != key_with().identity
    assert key_with() == key_with()


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(TrainConfig)])
def test_every_training_setting_changes_the_keys(field: str) -> None:
    value = OTHER_SETTINGS[field] if field in OTHER_SETTINGS else getattr(TRAINING, field) + 1
    other = dataclasses.replace(TRAINING, **{field: value})
    assert key_with(training=other).config_id != key_with().config_id
    identities = [{"training": dataclasses.asdict(config)} for config in (TRAINING, other)]
    assert task_lora_key(identities[0]).folder != task_lora_key(identities[1]).folder


def test_what_training_may_not_see_does_not_change_the_key() -> None:
    later = dataclasses.replace(
        USER, history=(*USER.history[:2], HistoryItem("z", {"description": "", "tag": ""}))
    )
    asked = dataclasses.replace(
        USER, queries=(Query("other", {"description": "y"}, "violence", 2, "violence"),)
    )
    assert history_hash(later, "") == history_hash(USER, "")
    assert key_with(user=later) == key_with(user=asked) == key_with()


def test_parts_of_an_identity_cannot_run_into_each_other() -> None:
    pairs = [("ab", "c"), ("a", "bc"), ("abc", ""), ("", "abc"), ('a","b', "c"), ("a", 'b","c')]
    assert len({adapter_key({}, user, history).folder for user, history in pairs}) == len(pairs)


STRANGE = [
    "../../x",
    "/etc/passwd",
    "🎬 família",
    "u" * 10_000,
    "",
    "nul \0 inside",
    "a\nb",
    ".",
    "..",
    "CON",
    "x'; --",
]


@pytest.mark.parametrize("user_id", STRANGE, ids=[ascii(user_id)[:20] for user_id in STRANGE])
def test_a_user_id_is_never_part_of_a_path(store: Store, user_id: str) -> None:
    key = adapter_key({"seed": 0}, user_id, "h")
    assert re.fullmatch(r"adapters/[0-9a-f]{24}/([0-9a-f]{2})/\1[0-9a-f]{30}", key.folder)
    store.put(key, CONFIG, STATE, {})
    assert store.has(key)
    assert torch.equal(store.load(key)["a.weight"], STATE["a.weight"])
    assert [entry.user_id for entry in store.entries()] == [user_id]
    assert (store.path / key.folder / WEIGHTS_FILE).is_file()
    assert {path.name for path in store.path.iterdir()} <= {
        "adapters", "manifest.sqlite", "manifest.sqlite-wal", "manifest.sqlite-shm"
    }  # fmt: skip
    assert [path.name for path in store.path.parent.iterdir()] == ["store"]


def test_users_whose_ids_differ_by_little_have_folders_of_their_own() -> None:
    ids = ["a", "A", "a ", " a", "á", "a\u0301", "a\0", "", " ", "1", "01", "ａ"]
    assert len({adapter_key({}, user_id, "h").folder.lower() for user_id in ids}) == len(ids)


# --- damage ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
@pytest.mark.parametrize("place", [0, -1], ids=["first byte", "last byte"])
def test_a_flipped_byte_is_refused(store: Store, name: str, place: int) -> None:
    store.put(KEY, CONFIG, STATE, {})
    file = store.path / KEY.folder / name
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(StoreError) as caught:
        store.load(KEY)
    message = str(caught.value)
    assert "damaged" in message
    assert "user 'u'" in message
    assert str(store.path / KEY.folder) in message
    assert "oppu personal train" in message


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_cut_or_missing_file_is_refused(store: Store, name: str) -> None:
    store.put(KEY, CONFIG, STATE, {})
    file = store.path / KEY.folder / name
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(StoreError, match="damaged"):
        store.load(KEY)
    file.unlink()
    with pytest.raises(StoreError, match="damaged"):
        store.load(KEY)


def test_weights_of_another_entry_are_refused(store: Store) -> None:
    other = adapter_key({"seed": 0}, "v", "history")
    store.put(KEY, CONFIG, STATE, {})
    store.put(other, CONFIG, {"a.weight": torch.zeros(2, 3)}, {})
    (store.path / KEY.folder / WEIGHTS_FILE).write_bytes(
        (store.path / other.folder / WEIGHTS_FILE).read_bytes()
    )
    with pytest.raises(StoreError, match="damaged"):
        store.load(KEY)


def test_a_folder_without_a_row_does_not_exist(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Store, "record", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):  # killed between the folder and the row
            store.put(KEY, CONFIG, STATE, {})
    assert (store.path / KEY.folder / WEIGHTS_FILE).is_file()
    assert not store.has(KEY)
    with pytest.raises(StoreError, match="train it first"):
        store.load(KEY)
    store.put(KEY, CONFIG, STATE, {})
    assert store.load(KEY).keys() == STATE.keys()


def test_a_row_without_its_folder_does_not_exist(store: Store) -> None:
    store.put(KEY, CONFIG, STATE, {})
    folder = store.path / KEY.folder
    folder.rename(folder.with_name("elsewhere"))
    assert not store.has(KEY)
    with pytest.raises(StoreError, match="train it first"):
        store.load(KEY)
    store.put(KEY, CONFIG, STATE, {})
    assert store.has(KEY)


def test_a_put_that_fails_inside_leaves_what_was_there(store: Store) -> None:
    store.put(KEY, CONFIG, STATE, {})
    with pytest.raises((TypeError, ValueError)):
        store.put(KEY, {"x": object()}, STATE, {})
    assert torch.equal(store.load(KEY)["a.weight"], STATE["a.weight"])
    with pytest.raises(StoreError, match="no adapter of user 'w'"):
        store.load(adapter_key({"seed": 0}, "w", "history"))


def test_failures_are_remembered_with_their_reason_until_training_succeeds(store: Store) -> None:
    assert store.failure(KEY) is None
    store.put_failure(KEY, "the loss became nan at step 1 of 9")
    assert store.failure(KEY) == "the loss became nan at step 1 of 9"
    assert not store.has(KEY)
    with pytest.raises(StoreError):
        store.load(KEY)
    assert [(entry.status, entry.reason) for entry in store.entries()] == [
        ("failed", "the loss became nan at step 1 of 9")
    ]
    store.put(KEY, CONFIG, STATE, {})
    assert store.failure(KEY) is None
    assert store.has(KEY)
    assert len(list(store.entries())) == 1


def test_entries_come_by_configuration(store: Store) -> None:
    keys = [adapter_key({"seed": seed}, user, "h") for seed, user in itertools.product((0, 1), "ab")]
    for key in keys:
        store.put(key, CONFIG, STATE, {"steps": 1})
    found = [entry.folder for entry in store.entries(keys[0].config_id)]
    assert found == sorted(key.folder for key in keys[:2])
    assert [entry.folder for entry in store.entries()] == sorted(key.folder for key in keys)
    assert list(store.entries("none")) == []


@pytest.mark.parametrize("content", [b"this is no database, but long enough to be one " * 50, b"\xff" * 4096])
def test_a_broken_manifest_is_a_store_error(tmp_path: Path, content: bytes) -> None:
    store = Store(tmp_path / "store")
    store.put(KEY, CONFIG, STATE, {})
    store.close()
    (store.path / "manifest.sqlite").write_bytes(content)
    with pytest.raises(StoreError, match=r"The store .* cannot be opened"):
        Store(store.path)


def test_a_store_where_a_file_lies_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    with pytest.raises(StoreError, match="cannot be opened"):
        Store(tmp_path / "store")


def test_two_processes_see_each_others_entries_at_once(tmp_path: Path) -> None:
    one, two = Store(tmp_path), Store(tmp_path)
    for number in range(6):
        key = adapter_key({}, str(number), "h")
        writer, reader = (one, two) if number % 2 else (two, one)
        writer.put(key, CONFIG, STATE, {"number": number})
        assert reader.has(key)
        reader.put(key, CONFIG, STATE, {"number": -number})  # the same weights again
        assert writer.load(key).keys() == STATE.keys()
    assert len(list(one.entries())) == 6
    one.close()
    two.close()


class Name(str):
    """Text whose hash, and so whose place in a set, can be chosen: another process in this one."""

    __slots__ = ("place",)
    place: int

    def __hash__(self) -> int:
        return self.place


def carrying(config: TrainConfig) -> SimpleNamespace:
    """What is read of a model that carries such an adapter."""
    return SimpleNamespace(peft_config={OWN: peft_config(config)})


def test_adapter_config_has_the_same_bytes_whatever_the_hash_seed() -> None:
    """PEFT keeps target modules in a set, whose order follows the hashes of the names."""
    names = [f"{letter}_proj" for letter in "qkvo"]
    orders, texts = set(), set()
    for places in itertools.permutations(range(len(names))):
        targets = [Name(name) for name in names]
        for target, place in zip(targets, places, strict=True):
            target.place = place
        config = dataclasses.replace(TRAINING, targets=tuple(targets))
        orders.add(tuple(str(target) for target in peft_config(config).target_modules or ()))
        texts.add(json.dumps(adapter_config_json(carrying(config)), indent=2, sort_keys=True))
    assert len(orders) == 24, "PEFT itself has every order"
    assert len(texts) == 1
    assert not [value for value in adapter_config_json(carrying(TRAINING)).values() if isinstance(value, set)]


def test_adapter_config_says_what_was_trained_and_nothing_of_this_machine() -> None:
    config = adapter_config_json(carrying(TRAINING))
    assert config["target_modules"] == ["q_proj", "v_proj"]
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (8, 8, 0.0)
    assert config["base_model_name_or_path"] is None
    assert config["inference_mode"] is True
    assert config["task_type"] == "CAUSAL_LM"
    assert config["peft_type"] == "LORA"


def test_adapters_on_a_base_of_few_bits_are_not_those_of_when_it_took_up_the_task_lora() -> None:
    def settings(dtype: Dtype) -> Any:
        return key_with(lora={"base": a_base("b", dtype), "variant": "base"}).identity["config"]

    assert "task_lora_lies" not in settings("float32")
    assert (
        settings("bfloat16")["task_lora_lies"]
        == settings("float16")["task_lora_lies"]
        == "beside the weights"
    )
