"""How long training takes: made-up users of exact sizes, what is trained, what is said about the times."""

import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from oppu_core.data.sample import GRAMMARS, sample_users
from oppu_core.data.types import User
from oppu_core.errors import ConfigError, DataError
from oppu_core.modeling.adapters import attach
from oppu_core.modeling.base import Base, load_base
from oppu_core.modeling.packing import tokenize
from oppu_core.prompting.builder import PromptBuilder
from oppu_core.tasks.task import Task
from oppu_core.tasks.task_files import get_task
from oppu_core.training.config import TrainConfig, personal_config
from oppu_core.training.loop import train
from oppu_eval.reporting.drawing import png_bytes, svg_text
from oppu_eval.studies import training_times
from oppu_eval.studies.cost_lines import draw, fit, merged, result
from oppu_eval.studies.training_times import Point, data_words, measure, synthetic_user

pytestmark = pytest.mark.slow  # most train
LAMP = {name: get_task(name) for name in GRAMMARS}
VOCABULARY = [f"word{number}" for number in range(50)]


def counted(user: User) -> list[int]:
    return [sum(len(text.split()) for text in item.fields.values()) for item in user.history]


def builder_of(task: Task, base: Base) -> PromptBuilder:
    return PromptBuilder(task, base.tokenizer, {})


def settings(task: str, **changes: Any) -> TrainConfig:
    config = dataclasses.replace(personal_config(task, "tiny", 0), epochs=2, batch_size=3)
    return dataclasses.replace(config, **changes)


def shortened(base: Base, context: int) -> Base:
    return dataclasses.replace(base, tokenizer=base.tokenizer.leaving(base.tokenizer.context - context))


def a_line(task: str, axis: str, slope: float, start: float) -> list[Point]:
    """Points on a line, with repeats around it."""
    return [
        Point(
            task,
            "items" if axis == "items" else "words",
            size if axis == "items" else 10,
            100 if axis == "items" else size,
            tokens=size * 1000,
            steps=size,
            seconds=(start + slope * size + noise,),
        )
        for size in range(10, 101, 10)
        for noise in (-0.01, 0.0, 0.03)
    ]


@pytest.fixture(scope="module")
def tiny() -> Base:
    """The shipped base, for reading alone: training puts an adapter on it."""
    return load_base("tiny", device="cpu")


@pytest.fixture
def short_items(monkeypatch: pytest.MonkeyPatch) -> None:
    """Items of ten words, and three of them, for what does not depend on how many they are."""
    monkeypatch.setattr(training_times, "WORDS", 10)
    monkeypatch.setattr(training_times, "ITEMS", 3)


@pytest.mark.parametrize("task", LAMP.values(), ids=LAMP)
@pytest.mark.parametrize("length", [5, 10, 37, 100])
def test_items_have_exactly_so_many_words_and_all_are_read(task: Task, length: int, tiny: Base) -> None:
    user = synthetic_user(task, VOCABULARY, 7, length, seed=1)
    assert counted(user) == [length] * 7
    assert user.training_history == user.history
    examples = list(builder_of(task, tiny).history_examples("base", user))
    assert len(examples) == 7
    for item, example in zip(user.history, examples, strict=True):
        if task.output_field:
            assert example.answer == item.fields[task.output_field]
            assert example.prompt.endswith(task.query_text(item.fields))
        else:
            assert task.personal_formats[0].render(item.fields) == (example.prompt, example.answer)


def test_an_answer_is_a_label_or_a_tenth_of_the_words() -> None:
    for task in LAMP.values():
        user = synthetic_user(task, VOCABULARY, 40, 100, seed=0)
        answers = [item.fields[task.output_field] for item in user.history if task.output_field]
        if task.labels:
            assert set(answers) <= set(task.labels)
            assert not answers or len(set(answers)) > 3
        else:
            assert {len(answer.split()) for answer in answers} <= {10}
    citations = synthetic_user(get_task("lamp_1"), VOCABULARY, 2, 9, seed=0).history[0].fields
    assert [len(citations[name].split()) for name in ("title", "abstract", "citation")] == [5, 0, 4]


def test_the_same_seed_gives_the_same_items_and_a_longer_history_begins_with_them() -> None:
    task = get_task("lamp_5")
    longer, shorter = (synthetic_user(task, VOCABULARY, items, 20, seed=3) for items in (9, 4))
    assert longer.history[:4] == shorter.history
    assert longer != synthetic_user(task, VOCABULARY, 9, 20, seed=4)


def test_items_that_are_too_small_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"lamp_4: 1 words are too few .* takes 2"):
        synthetic_user(get_task("lamp_4"), VOCABULARY, 2, 1, seed=0)
    long_labels = dataclasses.replace(get_task("lamp_2m"), labels=("one of three", "two of three"))
    with pytest.raises(ConfigError, match="takes 4"):
        synthetic_user(long_labels, VOCABULARY, 2, 3, seed=0)
    assert counted(synthetic_user(long_labels, VOCABULARY, 2, 4, seed=0)) == [4, 4]
    mixed = dataclasses.replace(get_task("lamp_2m"), labels=("short", "one of four words"))
    assert counted(synthetic_user(mixed, VOCABULARY, 9, 2, seed=0)) == [2] * 9
    with pytest.raises(DataError, match="no words"):
        synthetic_user(get_task("lamp_4"), [], 2, 10, seed=0)


def test_the_words_of_the_data_are_those_of_the_histories() -> None:
    users = list(sample_users(get_task("lamp_4"), test_users=2, other_users=0, history=(3, 3), queries=1))
    words = data_words(users)
    assert len(words) == sum(map(sum, map(counted, users)))
    assert set(words) == {w for u in users for i in u.history for t in i.fields.values() for w in t.split()}


@pytest.mark.parametrize(("name", "supports_packing"), [("lamp_2m", True), ("lamp_7", False)])
def test_steps_and_tokens_are_those_of_a_plain_training(name: str, supports_packing: bool) -> None:
    task, base = (
        get_task(name),
        dataclasses.replace(load_base("tiny", device="cpu"), supports_packing=supports_packing),
    )
    config = settings(name, stop_loss=1e9)  # all epochs are trained all the same
    builder = builder_of(task, base)
    points = merged(measure(base, builder, config, VOCABULARY, sizes=(2, 4), repeats=1))
    assert [(p.axis, p.items, p.words) for p in points] == [
        ("items", 2, 100),
        ("items", 4, 100),
        ("words", 10, 2),
        ("words", 10, 4),
    ]
    assert all(len(point.seconds) == 1 and point.seconds[0] > 0 for point in points)
    other = load_base("tiny", device="cpu")
    plain = dataclasses.replace(config, stop_loss=0.0)
    model = attach(other.model, plain)
    for point in points:
        user = synthetic_user(task, VOCABULARY, point.items, point.words, config.seed)
        rows = tokenize(builder.history_examples("base", user), other.tokenizer)
        trained = train(model, rows, plain, other.tokenizer.pad_id)
        assert (point.steps, point.tokens) == (trained.steps, trained.tokens)
    assert points[1].steps == 2 * 2 and points[2].steps == 2 * 4


@pytest.mark.usefixtures("short_items")
def test_repeats_come_in_rounds_of_all_sizes() -> None:
    base = load_base("tiny", device="cpu")
    builder, config = builder_of(get_task("lamp_3"), base), settings("lamp_3", epochs=1)
    points = list(measure(base, builder, config, VOCABULARY, sizes=(2, 3), repeats=2))
    rounds = [[point.shape for point in points[:4]], [point.shape for point in points[4:]]]
    assert set(rounds[0]) == set(rounds[1]) and len(set(rounds[0])) == 4
    assert rounds[0] != rounds[1], "a slower machine must not look like a slope"
    assert [len(point.seconds) for point in merged(points)] == [2] * 4


@pytest.mark.usefixtures("short_items")
def test_what_is_there_is_not_measured_again(tiny: Base) -> None:
    base = load_base("tiny", device="cpu")
    builder, config = builder_of(get_task("lamp_3"), base), settings("lamp_3", epochs=1)

    def go_on(done: Iterable[Point], fresh: Base | None = None) -> list[Point]:
        fresh = fresh or load_base("tiny", device="cpu")
        return list(measure(fresh, builder, config, VOCABULARY, sizes=(2, 3), repeats=2, done=done))

    whole = list(measure(base, builder, config, VOCABULARY, sizes=(2, 3), repeats=2))
    assert go_on(whole, tiny) == []
    assert not hasattr(tiny.model, "peft_config"), "nothing warms up for nothing"
    others = [dataclasses.replace(point, task="lamp_4") for point in whole]
    rest = go_on([*whole[:3], *others])
    assert [point.shape for point in rest[:1]] == [whole[3].shape], "the interrupted round is ended first"
    assert {point.shape for point in rest[1:]} == {point.shape for point in whole[4:]}
    changed = dataclasses.replace(whole[0], tokens=whole[0].tokens + 1)
    with pytest.raises(DataError, match="timed before"):
        go_on([changed])


@pytest.mark.parametrize("name", ["lamp_1", "lamp_2m", "lamp_4"])
@pytest.mark.parametrize("context", [20, 200])
def test_a_context_that_cuts_an_item_is_refused_before_anything_is_trained(
    name: str, context: int, tiny: Base
) -> None:
    task, words = get_task(name), ["extraordinarily"]
    base = shortened(tiny, context)
    with pytest.raises(DataError, match=rf"{name}: an item of 100 words .* {context} tokens.*--model"):
        next(measure(base, builder_of(task, base), settings(name), words))
    assert not hasattr(tiny.model, "peft_config")


def test_a_soft_prompt_takes_its_place_in_the_context(tiny: Base) -> None:
    task = get_task("lamp_7")
    user = synthetic_user(task, VOCABULARY, 4, 100, seed=0)
    needed = max(
        len(r.ids) for r in tokenize(builder_of(task, tiny).history_examples("base", user), tiny.tokenizer)
    )
    base = shortened(tiny, needed)
    config = settings("lamp_7", method="prompt_tuning", targets=(), virtual_tokens=5)
    with pytest.raises(DataError, match=f"{needed - 5} tokens"):
        next(measure(base, builder_of(task, base), config, VOCABULARY, sizes=(2, 4)))


@pytest.mark.parametrize("sizes", [(5,), (5, 5), (0, 5), ()])
def test_sizes_that_make_no_line_are_refused(sizes: tuple[int, ...], tiny: Base) -> None:
    with pytest.raises(ConfigError, match="two sizes"):
        next(measure(tiny, builder_of(get_task("lamp_3"), tiny), settings("lamp_3"), VOCABULARY, sizes=sizes))


def test_points_are_read_as_they_were_saved() -> None:
    (point, *_) = a_line("lamp_4", "words", 0.1, 1.0)
    assert Point.from_json(json.loads(json.dumps(point.to_json()))) == point
    for damaged in ({}, {**point.to_json(), "seconds": 3}, {**point.to_json(), "color": "red"}):
        with pytest.raises(DataError, match="no measurement"):
            Point.from_json(damaged)


def test_a_line_is_found() -> None:
    line = fit([1, 2, 3, 4], [5.0, 7.0, 9.0, 11.0])
    assert (line.slope, line.intercept, line.r2) == pytest.approx((2, 3, 1))
    y = [1.0, 4.0, 2.0, 6.0, 5.0]
    line = fit(range(5), y)
    assert line.r2 == pytest.approx(np.corrcoef(range(5), y)[0, 1] ** 2)
    assert fit([1, 2], [3.0, 3.0]).r2 == 1
    with pytest.raises(ValueError, match="two sizes"):
        fit([4, 4], [1.0, 2.0])


def test_a_result_says_what_the_points_say() -> None:
    points = [*a_line("lamp_2m", "items", 0.25, 1.0), *a_line("lamp_2m", "words", 0.02, 0.5)]
    found = result(points[::-1])
    rows = list(found.table.rows)
    assert len(rows) == 20 and {column.name for column in found.table.columns} == set(rows[0])
    assert [row["items"] for row in rows[:10]] == list(range(10, 101, 10))
    first = rows[0]
    assert [first[name] for name in ("seconds", "fastest", "slowest")] == pytest.approx([3.5, 3.49, 3.53])
    assert (first["repeats"], first["tokens"], first["steps"]) == (3, 10000, 10)
    items, words, paper = found.findings
    assert "lamp_2m: training time grows linearly with the number of items (R² 1.000): 0.250 s" in items
    assert f"100 items take {26 / 13.5:.2f} times as long as 50" in items
    assert "20.0 ms for each word in each of 10 items; the line begins at 0.500 s" in words
    assert "Appendix B" in paper
    fits = found.details["fits"]
    assert [one["axis"] for one in fits] == ["items", "words"]
    assert fits[0]["slope"] == pytest.approx(0.25)
    json.dumps([rows, found.details])


def test_repeats_far_apart_are_said() -> None:
    steady = a_line("lamp_4", "items", 1.0, 0.0)
    assert not any("busy" in text for text in result(steady).findings)
    noisy = [*steady, dataclasses.replace(steady[0], seconds=(15.1,))]
    assert any("At 1 of 10 sizes" in text for text in result(noisy).findings)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (lambda x: math.exp(x / 10), "hardly along a line"),
        (lambda x: x * x, "nearly linearly"),
        (lambda x: 5 - x / 100, "does not grow"),
    ],
)
def test_what_is_no_line_is_not_called_one(seconds: Callable[[int], float], words: str) -> None:
    points = [
        dataclasses.replace(point, seconds=(seconds(point.size),))
        for point in a_line("t", "items", 1, 1)[::3]
    ]
    assert words in result(points).findings[0]
    assert "grows linearly" not in result(points).findings[0]


def test_a_picture_has_both_axes_and_a_label_for_each_task() -> None:
    points = [
        point
        for (number, task), axis in itertools.product(enumerate(LAMP), ("items", "words"))
        for point in a_line(task, axis, 0.01 * number + 0.02, 0.1)
    ]
    text = svg_text(draw(points), "cost", "a label")
    for label in ("items in the history, 100 words each", "words of an item, 10 items", "(s)"):
        assert label in text
    for number, task in enumerate(LAMP):
        assert text.count(f"{task}, ") == 2, "one in each panel"
        assert f"{task}, {10 * number + 20}.0 ms an item" in text
    assert png_bytes(draw(points)) == png_bytes(draw(merged(points)))
