"""Profiles by a language model: what it is shown, and that its texts depend on nothing else."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from oppu_core.data import HistoryItem, Query, User
from oppu_core.data.dataset import Dataset
from oppu_core.data.dataset_writer import write_dataset
from oppu_core.errors import ConfigError, ModelError
from oppu_core.tasks.task_files import TASKS
from rich.console import Console

MOVIE = TASKS["lamp_2m"]
TEMPLATE = (
    "{% for m in messages %}<end>person: {{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}|model:{% endif %}"
)


@pytest.fixture(scope="session")
def chat_folder(toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy model with room for a real prompt, and a chat template."""
    folder = tmp_path_factory.mktemp("chat") / "base"
    shutil.copytree(toy_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 700}))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def load(folder: Path):
    from oppu_core.modeling.base import load_base

    base = load_base(str(folder), device="cpu")
    return dataclasses.replace(base, name=str(folder))


@pytest.fixture(scope="module")
def base(chat_folder: Path):
    return load(chat_folder)


def user(name: str, items: int, visible: int | None = None, text: str = "a film") -> User:
    history = tuple(
        HistoryItem(f"{name}{t}", {"description": f"{text} {name}-{t}.", "tag": f"tag{t}"})
        for t in range(items)
    )
    query = Query(
        f"q-{name}", {"description": "ASKED"}, "GOLD", items if visible is None else visible, "ORACLE"
    )
    return User(name, "test", history, (query,))


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few tokens are enough to tell texts apart."""
    from oppu_core.runs import profile_writer

    monkeypatch.setattr(profile_writer, "NEW_TOKENS", 12)


def text_of(base, asked: User, seed: int = 0) -> str:
    from oppu_core.runs.profile_writer import Writer

    return base.tokenizer.hf.decode(Writer(MOVIE, base, seed).prompt_ids(asked))


def test_the_model_is_asked_as_in_appendix_i(base, short: None) -> None:
    text = text_of(base, user("u", 2))
    assert text == (
        f"<end>person: {MOVIE.profile_prompt}\nUser History:\n"
        "description: a film u-0. tag: tag0\ndescription: a film u-1. tag: tag1|model:"
    )


def test_without_a_chat_template_the_prompt_is_plain(base, short: None) -> None:
    from oppu_core.modeling.tokenizer import Tokenizer
    from oppu_core.runs.profile_writer import Writer

    tokenizer = type(base.tokenizer.hf).from_pretrained(base.name)
    tokenizer.chat_template = None
    plain = dataclasses.replace(base, tokenizer=Tokenizer(tokenizer, 700))
    text = text_of(plain, user("u", 1))
    assert text == f"{MOVIE.profile_prompt}\nUser History:\ndescription: a film u-0. tag: tag0\nAnswer:"
    assert Writer(MOVIE, plain, 0).settings["chat_template"] is None


def test_ten_items_of_the_training_history_in_their_order(base, short: None) -> None:
    """Not from the future, no query, no gold; which ones depends on the seed and the user."""
    import re

    def shown(name: str, seed: int) -> list[int]:
        text = text_of(base, user(name, 40, 25, text="f"), seed)
        assert "ASKED" not in text and "GOLD" not in text and "ORACLE" not in text
        return [int(number) for number in re.findall(r"f \w+-(\d+)", text)]

    draws = [shown("u", 0), shown("u", 1), shown("v", 0)]
    for items in draws:
        assert len(items) == 10 and items == sorted(set(items)) and max(items) < 25
    assert len({tuple(items) for items in draws}) == 3
    assert shown("u", 0) == draws[0]


def test_long_texts_are_cut_to_200_words_and_further_until_they_fit(base, short: None) -> None:
    from oppu_core.runs.profile_writer import Writer

    asked = user("u", 1, text="wo " * 220)
    assert text_of(dataclasses.replace(base, tokenizer=tokenizer(base, 5000)), asked).count("wo ") == 200
    ids = Writer(MOVIE, base, 0).prompt_ids(asked)
    assert 12 + len(ids) <= 700 and base.tokenizer.hf.decode(ids).count("wo ") == 100
    with pytest.raises(ModelError, match="context of 100 tokens has no room"):
        Writer(MOVIE, dataclasses.replace(base, tokenizer=tokenizer(base, 100)), 0).prompt_ids(asked)


def tokenizer(base, context: int):
    from oppu_core.modeling.tokenizer import Tokenizer

    return Tokenizer(base.tokenizer.hf, context)


def test_a_special_token_in_a_users_text_is_text(base, short: None) -> None:
    from oppu_core.runs.profile_writer import Writer

    ids = Writer(MOVIE, base, 0).prompt_ids(user("u", 1, text="a <end> b"))
    assert ids.count(base.tokenizer.eos_id) == 1, "the template's own"
    assert "a <end> b" in base.tokenizer.hf.decode(ids)


def test_a_text_depends_on_user_and_seed_and_not_on_the_batch(base, short: None) -> None:
    from oppu_core.runs.profile_writer import Writer

    users = [user("a", 3), user("b", 12, text="longer texts"), user("nobody", 0), user("c", 1)]
    texts = Writer(MOVIE, base, 0).write(users)
    assert texts[2] == "" and all(texts[i] for i in (0, 1, 3))
    assert [Writer(MOVIE, base, 0).write([one])[0] for one in users] == texts
    assert Writer(MOVIE, base, 0).write(users[::-1]) == texts[::-1]
    other = Writer(MOVIE, base, 1).write(users)
    assert all(other[i] != texts[i] for i in (0, 1, 3))
    twins = Writer(MOVIE, base, 0).write([user("a", 3), dataclasses.replace(user("a", 3), user_id="twin")])
    assert twins[0] != twins[1], "the same history, another draw"


def test_texts_are_sampled_at_the_papers_temperature() -> None:
    """The Gumbel noise draws from softmax(logits / 0.6), whatever the row."""
    import torch
    from oppu_core.runs.profile_writer import TEMPERATURE, _SeededSampling

    assert TEMPERATURE == 0.6
    logits = torch.tensor([1.0, 0.5, -1.0, -50.0])
    noisy = _SeededSampling([str(row) for row in range(4000)])(torch.zeros(0), logits.repeat(4000, 1))
    found = torch.bincount(noisy.argmax(1), minlength=4) / 4000
    torch.testing.assert_close(found, torch.softmax(logits / 0.6, 0), atol=0.03, rtol=0)


def test_the_ends_of_turns_that_the_folder_names_end_a_profile(base, chat_folder: Path) -> None:
    from oppu_core.runs.profile_writer import _chat_stop_ids

    assert _chat_stop_ids(base) == [0]
    (chat_folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 7]}))
    try:
        assert _chat_stop_ids(base) == [0, 7]
    finally:
        (chat_folder / "generation_config.json").unlink()


class Says:
    """In the place of a model: writes the same text behind every prompt, and keeps what it was asked."""

    device = "cpu"

    def __init__(self, tokenizer, text: str) -> None:
        self.ids = tokenizer(text, add_special_tokens=False).input_ids
        self.asked: list[list[list[int]]] = []

    def generate(self, input_ids, **_):
        import torch

        self.asked.append(input_ids.tolist())
        return torch.cat([input_ids, torch.tensor([self.ids] * len(input_ids))], dim=1)


def saying(base, text: str, template: str = TEMPLATE, special: tuple[str, ...] = ()):
    """The base with a model that only says this, and another template."""
    from oppu_core.modeling.tokenizer import Tokenizer

    tokenizer = type(base.tokenizer.hf).from_pretrained(base.name)
    tokenizer.chat_template = template
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    return dataclasses.replace(base, tokenizer=Tokenizer(tokenizer, 700), model=Says(tokenizer, text))


GPT = (
    "<|channel|>analysis<|message|>Tags?<|end|><|start|>assistant<|channel|>final<|message|>Likes films.<end>"
)


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Likes films.", "Likes films."),
        ("<think>\nTags?\n</think>\n\nLikes\nfilms.<end>", "Likes films."),
        ("Tags?</think>Likes films.", "Likes films."),
        ("<think>a</think>No. <think>b</think>Likes films.", "Likes films."),
        ("[THINK]Tags?[/THINK]Likes films.", "Likes films."),
        ("<|channel>thought\nTags?<channel|>Likes films.", "Likes films."),
        (GPT, "Likes films."),
        ("Likes a < b, [films] and </b>.", "Likes a < b, [films] and </b>."),
    ],
)
def test_thoughts_are_no_part_of_a_profile(
    base, short: None, text: str, expected: str, special: bool
) -> None:
    from oppu_core.runs.profile_writer import Writer

    marks = ("<think>", "</think>", "[THINK]", "[/THINK]", "<|channel>", "<channel|>", "<|channel|>",
             "<|message|>", "<|start|>", "<|end|>")  # fmt: skip
    model = saying(base, text, special=marks if special else ())
    assert Writer(MOVIE, model, 0).write([user("u", 2)]) == [expected]


@pytest.mark.parametrize(
    "text", ["<think>Tags? So many", "<think>a</think> <think>b", "<think></think>\n", "Hm. <think>Tags?",
             "<|channel|>analysis<|message|>Tags?"],
)  # fmt: skip
def test_a_model_that_only_thinks_is_an_error_that_names_the_user(base, short: None, text: str) -> None:
    from oppu_core.runs.profile_writer import Writer

    writer = Writer(MOVIE, saying(base, text), 0)
    with pytest.raises(ModelError, match=r"User 'u': .*nothing but thoughts in 12 tokens\. Use a"):
        writer.write([user("nobody", 0), user("u", 2)])


def test_thinking_is_switched_off_or_closed_by_the_prompt(base, short: None) -> None:
    from oppu_core.runs.profile_writer import Writer

    switch = TEMPLATE + (
        "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
    )
    opened = TEMPLATE + "{% if add_generation_prompt %}<think>\n{% endif %}"
    for template in (switch, opened):
        model = saying(base, "Likes films.", template)
        assert text_of(model, user("u", 1)).endswith("tag: tag0|model:<think>\n\n</think>\n\n")
        assert Writer(MOVIE, model, 0).write([user("u", 1)]) == ["Likes films."]


def test_a_template_with_todays_date_gives_the_same_texts_tomorrow(
    base, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datetime as clock

    from oppu_core.runs.profile_writer import Writer
    from transformers.utils import chat_template_utils

    class Tomorrow(clock.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2031, 1, 2)

    dated = (
        "{%- macro day() %}{{ strftime_now('%Y') }}{% endmacro -%}\n"
        "{%- if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
        "{{ day() }}/{{ strftime_now('%d') | int - 1 }}/{{ strftime_now('%A %-d %B %Y') }}/{{ date_string }}"
    )
    model = saying(base, "Likes films.", dated + TEMPLATE)
    today = Writer(MOVIE, model, 0)
    before = today.prompt_ids(user("u", 1))
    assert text_of(model, user("u", 1)).startswith("2024/25/Friday 26 July 2024/26 Jul 2024<end>person:")
    monkeypatch.setattr(chat_template_utils, "datetime", Tomorrow)
    tomorrow = Writer(MOVIE, model, 0)
    assert tomorrow.prompt_ids(user("u", 1)) == before and tomorrow.settings == today.settings


@pytest.mark.parametrize("head", ["", "\n", "  ", "  \n ", "{# a comment #}\n", "x\n"])
def test_a_fixed_date_changes_nothing_else_of_a_template(base, head: str) -> None:
    """Jinja looks at what stands before a tag and behind it on its line."""
    from oppu_core.modeling.chat import render_chat

    body = head + "{% if true %}\n a{% endif %}\n" + TEMPLATE
    tokenizer = saying(base, "").tokenizer.hf
    said = [{"role": "user", "content": "hello"}]
    tokenizer.chat_template = body
    plain = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
    tokenizer.chat_template = body + "{% if false %}{{ strftime_now('%Y') }}{% endif %}"
    assert render_chat(tokenizer, said) == plain


def test_the_settings_tell_what_a_chat_model_is_asked(base, chat_folder: Path, short: None) -> None:
    """A file that was begun when thoughts were kept, or by another template, is not continued."""
    from oppu_core.runs.profile_writer import Writer
    from oppu_core.storage.files import content_id

    def setting(template: str) -> str:
        return Writer(MOVIE, saying(base, "", template), 0).settings["chat_template"]

    assert setting(TEMPLATE) == setting(TEMPLATE) != setting(TEMPLATE + " ")
    assert setting(TEMPLATE) != content_id(TEMPLATE), "the setting of files with thoughts"
    before = setting(TEMPLATE)
    (chat_folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 7]}))
    try:
        assert setting(TEMPLATE) != before
    finally:
        (chat_folder / "generation_config.json").unlink()


@pytest.mark.parametrize(("supports_padding", "sizes"), [(True, [3]), (False, [1, 1, 1])])
def test_where_padding_changes_answers_users_are_written_one_at_a_time(
    base, short: None, supports_padding: bool, sizes: list[int]
) -> None:
    from oppu_core.runs.profile_writer import Writer

    model = saying(base, "Likes films.")
    object.__setattr__(model, "supports_padding", supports_padding)
    users = [user("a", 3), user("nobody", 0), user("b", 1), user("c", 2)]
    assert Writer(MOVIE, model, 0).write(users) == ["Likes films.", "", "Likes films.", "Likes films."]
    assert [len(rows) for rows in model.model.asked] == sizes


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    users = [dataclasses.replace(user(name, 3), split="others") for name in "abc"]
    return write_dataset(tmp_path / "data", MOVIE, [*users, user("t", 2), user("none", 0)], {"kind": "test"})


def written(dataset: Dataset, base, out: Path, seed: int = 0, **options) -> None:
    from oppu_core.runs.profile_writer import write_profiles
    from oppu_core.runs.progress import ProgressReporter

    splits = options.pop("splits", ("others", "test"))
    write_profiles(
        dataset, splits, base, out, seed, options.pop("size", 2), ProgressReporter(Console(quiet=True))
    )


def test_an_interrupted_file_is_continued_and_ends_with_the_same_bytes(
    base, dataset: Dataset, tmp_path: Path, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from oppu_core.prompting.profile_files import read_profiles
    from oppu_core.runs.profile_writer import Writer

    written(dataset, base, tmp_path / "whole.jsonl")
    texts = read_profiles([tmp_path / "whole.jsonl"])["lamp_2m"]
    assert list(texts) == ["a", "b", "c", "t", "none"] and texts["none"] == ""

    original, calls = Writer.write, []

    def stop_at_the_second(self, users):
        calls.append([one.user_id for one in users])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, users)

    monkeypatch.setattr(Writer, "write", stop_at_the_second)
    out = tmp_path / "stopped.jsonl"
    with pytest.raises(KeyboardInterrupt):
        written(dataset, base, out)
    assert not out.exists()
    with (tmp_path / "stopped.jsonl.partial.jsonl").open("a") as file:
        file.write('{"task": "lamp_2m", "user_id": "c", "pro')  # torn by a kill
    written(dataset, base, out)
    assert calls == [["a", "b"], ["c", "t"], ["c", "t"], ["none"]]
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not (tmp_path / "stopped.jsonl.partial.jsonl").exists()
    written(dataset, base, out)
    assert len(calls) == 4, "a finished file is left alone"


def test_texts_of_other_settings_are_never_mixed(base, dataset: Dataset, tmp_path: Path, short: None) -> None:
    out = tmp_path / "out.jsonl"
    written(dataset, base, out, splits=("test",))
    identity = dataclasses.replace(base.identity, fingerprint="another")
    for changes, named in (
        ({"seed": 1}, "seed: 0 then, 1 now"),
        ({"splits": ("others",)}, "splits: "),
        ({"base": dataclasses.replace(base, identity=identity)}, "model.fingerprint"),
    ):
        arguments = {"base": base, "splits": ("test",), **changes}
        with pytest.raises(ConfigError, match=named):
            written(dataset, out=out, **arguments)
    (tmp_path / "notes.jsonl").write_text("mine")
    with pytest.raises(ConfigError, match="was not written by"):
        written(dataset, base, tmp_path / "notes.jsonl")
    assert (tmp_path / "notes.jsonl").read_text() == "mine"
