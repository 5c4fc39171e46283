"""Measuring how long one user's adapter takes to train (Figure 8, Appendix B).

Time is measured against the number of history items of 100 words, and against the words of each of 10 items.
The users are made up of words of the data, so that every size is exact; only time is measured.
"""

import collections
import dataclasses
import math
import random
import statistics
import string
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from oppu_core.data.types import HistoryItem, User
from oppu_core.errors import ConfigError, DataError, TrainingError
from oppu_core.tasks.task import Task

if TYPE_CHECKING:
    from oppu_core.modeling.base import Base
    from oppu_core.modeling.packing import TokenizedExample
    from oppu_core.prompting.builder import PromptBuilder
    from oppu_core.training.config import TrainConfig
    from oppu_core.training.loop import Trained

Axis = Literal["items", "words"]

SIZES = range(10, 101, 10)
ITEMS, WORDS = 10, 100  # the fixed value while the other one grows


@dataclasses.dataclass(frozen=True)
class Point:
    """Trainings of one user.

    Attributes:
        task: The task's name.
        axis: What was varied.
        items: Items of the history.
        words: Words of each item.
        tokens: Tokens of all steps together, without padding.
        steps: Steps of training.
        seconds: The time of each repeat.
    """

    task: str
    axis: Axis
    items: int
    words: int
    tokens: int
    steps: int
    seconds: tuple[float, ...]

    @property
    def size(self) -> int:
        """The number that was varied."""
        return self.items if self.axis == "items" else self.words

    @property
    def shape(self) -> "Point":
        """The point without its times: equal for the repeats of one training."""
        return dataclasses.replace(self, seconds=())

    @property
    def median(self) -> float:
        """The median of the repeats, in seconds."""
        return statistics.median(self.seconds)

    def to_json(self) -> dict[str, Any]:
        """The form in which it is saved."""
        return {**dataclasses.asdict(self), "seconds": list(self.seconds)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Point":
        """The inverse of :meth:`to_json`.

        Raises:
            DataError: the value is not a point.
        """
        try:
            return cls(**{**values, "seconds": tuple(values["seconds"])})
        except (KeyError, TypeError) as error:
            raise DataError(f"This is no measurement of training time ({error}): {values!r}.") from error


def data_words(users: Iterable[User]) -> list[str]:
    """All words of the users' histories, each as often as it occurs."""
    texts = (text for user in users for item in user.history for text in item.fields.values())
    return [word for text in texts for word in text.split()]


def synthetic_user(task: Task, words: Sequence[str], items: int, words_per_item: int, seed: int) -> User:
    """A user whose items have an exact number of words, only in the fields that training reads.

    All fields of an item are counted, including the answer: a label, or a tenth of the words if answers are
    free text. The fields before it (without an output field, those of the first personal format) share the
    rest evenly. With the same seed, users with more items begin with the same items.

    Args:
        task: The task.
        words: The words to draw from, without white space.
        items: Items of the history.
        words_per_item: Words of each item.
        seed: The seed of the draw.

    Raises:
        ConfigError: the words are too few to fill the fields.
        DataError: there are no words to draw from.
    """
    if not words:
        raise DataError(f"Task {task.name}: the histories have no words to make up items from.")
    fields = _fields_read(task)
    shortest = min((len(label.split()) for label in task.labels), default=1) if task.output_field else 0
    room = words_per_item - len(fields)  # for the answer
    if room < shortest:
        raise ConfigError(
            f"Task {task.name}: {words_per_item} words are too few for an item's fields; "
            f"it takes {len(fields) + shortest}."
        )
    labels = [label for label in task.labels if len(label.split()) <= room]
    draw = random.Random(seed)

    def some(count: int) -> str:
        return " ".join(draw.choices(words, k=count))

    history = []
    for number in range(items):
        texts = dict.fromkeys((*task.input_fields, *task.history_fields), "")
        left = words_per_item
        if task.output_field:
            answer = draw.choice(labels) if labels else some(min(room, max(1, words_per_item // 10)))
            texts[task.output_field] = answer
            left -= len(answer.split())
        for place, name in enumerate(fields):
            texts[name] = some(left // len(fields) + (place < left % len(fields)))
        history.append(HistoryItem(f"item-{number}", texts))
    return User("made-up", "test", tuple(history), ())


def _fields_read(task: Task) -> list[str]:
    """The history fields that training reads before an answer, or, without answers, at all."""
    if task.output_field:
        template = task.query_template
    else:
        template = task.personal_formats[0].prompt + task.personal_formats[0].target
    return list(dict.fromkeys(name for _, name, _, _ in string.Formatter().parse(template) if name))


def measure(
    base: "Base",
    builder: "PromptBuilder",
    config: "TrainConfig",
    words: Sequence[str],
    *,
    sizes: Sequence[int] = SIZES,
    repeats: int = 3,
    done: Iterable[Point] = (),
) -> Iterator[Point]:
    """Time the training of one user's adapter, for every size of both axes.

    Each training yields a point with one repeat, to be saved at once; :func:`.cost_lines.merged` merges
    repeats. Trainings are done in rounds; every round has every size once, in random order, so that a
    machine that gets slower does not look like a slope. Rounds continue after `done`: only an interrupted
    round mixes sizes of two processes. One epoch of every size warms up.

    Training itself is timed: packing, steps and copying the adapter; not prompts and tokenizing. All epochs
    are trained, whatever the loss.

    Args:
        base: A task base; its model has an adapter afterwards.
        builder: Makes its task's prompts.
        config: Training settings; the seed is also that of the users.
        words: The words of the users (:func:`data_words`).
        sizes: Numbers of items, and of words.
        repeats: Trainings of each size.
        done: Points measured earlier with the same base, settings and words.

    Raises:
        ConfigError: a size cannot be measured.
        DataError: an item does not fit into the base's context, or `done` is from other trainings.
        TrainingError: a training fails.
    """
    from oppu_core.modeling.adapters import adapter_state, attach

    task = builder.task
    if len(set(sizes)) < 2 or min(sizes) < 1 or repeats < 1:
        raise ConfigError(f"Sizes {list(sizes)}, {repeats} repeats: two sizes and one repeat are the least.")
    config = dataclasses.replace(config, stop_loss=0.0)
    builder = dataclasses.replace(builder, counter=base.tokenizer.leaving(config.prefix))
    rows_of: dict[Point, list[TokenizedExample]] = {}
    for axis, items, length in _shapes(sizes):
        rows = _rows(base, builder, synthetic_user(task, words, items, length, config.seed))
        steps = config.epochs * math.ceil(len(rows) / config.batch_size)
        tokens = config.epochs * sum(len(row.ids) for row in rows)
        rows_of[Point(task.name, axis, items, length, tokens, steps, ())] = rows
    before = collections.Counter[Point]()
    for point in done:
        if point.task == task.name:
            if point.shape not in rows_of:
                raise DataError(
                    f"A training was timed before that is none of these now: {point.shape.to_json()}. "
                    "Settings, data or sizes have changed; remove those measurements and start again."
                )
            before[point.shape] += len(point.seconds)
    if all(before[shape] >= repeats for shape in rows_of):
        return

    model = attach(base.model, config)
    fresh = adapter_state(model)
    for rows in rows_of.values():
        _train(base, model, fresh, dataclasses.replace(config, epochs=1), rows)
    for number in range(repeats):
        shapes = [shape for shape in rows_of if before[shape] <= number]
        for shape in random.Random(number).sample(shapes, len(shapes)):
            trained, seconds = _train(base, model, fresh, config, rows_of[shape])
            yield dataclasses.replace(shape, tokens=trained.tokens, steps=trained.steps, seconds=(seconds,))


def _shapes(sizes: Sequence[int]) -> Iterator[tuple[Axis, int, int]]:
    """(what varies, items, words of an item)."""
    yield from (("items", size, WORDS) for size in sizes)
    yield from (("words", ITEMS, size) for size in sizes)


def _rows(base: "Base", builder: "PromptBuilder", user: User) -> "list[TokenizedExample]":
    """The user's training examples; none may be lost or cut."""
    from oppu_core.modeling.packing import tokenize

    examples = list(builder.history_examples("base", user))
    read = [f"{example.prompt} {example.answer}" for example in examples]
    if len(read) < len(user.history) or not all(
        " ".join(field.split()) in text
        for item, text in zip(user.history, read, strict=True)
        for field in item.fields.values()
    ):
        longest = max(len(" ".join(item.fields.values()).split()) for item in user.history)
        raise DataError(
            f"Task {builder.task.name}: an item of {longest} words does not fit into the context of "
            f"{builder.counter.context} tokens of the base {base.name!r}, and would be cut. "
            "Take a --model with a longer context."
        )
    return tokenize(examples, base.tokenizer)


def _train(
    base: "Base", model: Any, fresh: Any, config: "TrainConfig", rows: "Sequence[TokenizedExample]"
) -> "tuple[Trained, float]":
    """Train one user as personal training does on this base: (result, seconds).

    The time is complete even on a GPU: every step waits for its loss, and the end for the weights.
    """
    from oppu_core.training.trainer import Trainer

    start = time.perf_counter()
    trainer = Trainer(dataclasses.replace(base, model=model), config, fresh)
    ((_, outcome),) = trainer.train([rows])
    seconds = time.perf_counter() - start
    if isinstance(outcome, TrainingError):
        raise TrainingError(f"A user of {len(rows)} items could not be trained: {outcome}.") from outcome
    return outcome[0], seconds
