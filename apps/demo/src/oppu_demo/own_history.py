"""A visitor's own history: from pasted or uploaded text to items, and from items to adapters.

Input is only ever text: it is never unpacked or used as a path, and it is read up to a limit that the page
states. Nothing of it is logged or written.
"""

import collections
import dataclasses
import functools
import json
import queue
import stat
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from oppu_core.data.history_files import Row, history_records, how_to, plain_fields
from oppu_core.data.importers.text_files import decoded
from oppu_core.data.rejected import Unusable
from oppu_core.data.sample import GRAMMARS, sample_users
from oppu_core.data.types import HistoryItem, User
from oppu_core.errors import ConfigError, DataError, OppuError
from oppu_core.modeling.adapters import State
from oppu_core.ownership.personalize import usable
from oppu_core.tasks.task import Task
from oppu_core.training.loop import Progress, Trained

from oppu_demo.engine import Engine
from oppu_demo.sessions import CancelledError, Own, Session

MAX_BYTES = 1_000_000
MAX_ITEMS = 2_000
MAX_ITEM_CHARS = 10_000
MAX_COLUMNS = 64
SHOWN_PROBLEMS = 50
USER_ID = "me"
EXAMPLE_ITEMS = 24  # with half as many, an adapter in the sample world is worse than none


@dataclasses.dataclass(frozen=True, repr=False)
class Preview:
    """A parsed history.

    Attributes:
        items: The usable items, oldest first.
        problems: The first :data:`SHOWN_PROBLEMS` problems of unusable lines.
        unusable: Number of unusable lines.
    """

    items: tuple[HistoryItem, ...]
    problems: tuple[str, ...]
    unusable: int

    def something(self) -> tuple[HistoryItem, ...]:
        """The items.

        Raises:
            DataError: there are none; the message says why.
        """
        if not self.items:
            problems = " ".join(f"{problem}." for problem in self.problems[:3])
            raise DataError(f"There is no item to learn from. {problems}")
        return self.items

    @property
    def summary(self) -> str:
        """A summary in one line."""
        items = f"{len(self.items):,} item{'s' * (len(self.items) != 1)} to learn from"
        lines = f"; {self.unusable:,} line{'s' * (self.unusable != 1)} cannot be used"
        return items + (lines if self.unusable else "") + "."


def read_items(task: Task, text: str | None, file: Path | None) -> Preview:
    """Read a history, in any form that :func:`how_to` names.

    Args:
        task: The task of the history.
        text: Pasted text.
        file: An uploaded file, instead of `text`.

    Raises:
        ConfigError: both are given.
        DataError: there is nothing, it is not text, has an unknown structure, or exceeds the limits.
    """
    if file is not None and text and text.strip():
        raise ConfigError("There is pasted text and a file; take one of them away.")
    where = "The text" if file is None else "The file"
    content = ((text or "") if file is None else read_file(file)).removeprefix("\ufeff")
    if len(content.encode(errors="surrogatepass")) > MAX_BYTES:
        raise DataError(_too_large(where))
    if not content.strip():
        raise DataError(f"{where} is empty. {how_to(task)}")
    if "\0" in content:
        raise DataError(f"{where} is no text (it holds NUL characters). Save it as UTF-8 text.")
    records = history_records(task, content, where, file.suffix if file else "")
    if (columns := records.columns) > MAX_COLUMNS:
        raise DataError(f"{where} has {columns:,} columns; {MAX_COLUMNS} are the most that is read.")
    history = usable(dataclasses.replace(records, rows=_limited(records.rows, where)), task)
    return Preview(history.items, history.problems[:SHOWN_PROBLEMS], len(history.problems))


def read_file(file: Path) -> str:
    """An uploaded file's text; no more than the limit is read.

    Raises:
        DataError: it cannot be read, is too large, or is not text.
    """
    try:
        status = file.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise DataError("The upload is no plain file.")
        if status.st_size > MAX_BYTES:
            raise DataError(_too_large("The file"))
        with file.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise DataError("The file cannot be read. Upload it again.") from error
    if len(content) > MAX_BYTES:
        raise DataError(_too_large("The file"))
    return decoded(content, "The file")


def _too_large(where: str) -> str:
    return f"{where} has more than {MAX_BYTES // 10**6} MB, the most that is read. Leave some items out."


def _limited(records: Iterator[Row], where: str) -> Iterator[Row]:
    for count, (number, record) in enumerate(records, 1):
        if count > MAX_ITEMS:
            raise DataError(f"{where} has more than {MAX_ITEMS:,} items; leave the oldest out.")
        problem = None
        if isinstance(record, dict):
            if len(record) > MAX_COLUMNS:
                problem = Unusable(f"has {len(record):,} fields; at most {MAX_COLUMNS} are read")
            elif (size := sum(len(v) for v in record.values() if isinstance(v, str))) > MAX_ITEM_CHARS:
                problem = Unusable(f"has {size:,} characters; an item may have {MAX_ITEM_CHARS:,}")
        yield number, problem or record


@functools.cache
def example(task: Task) -> str:
    """Lines to try: the history of an unusual user of the sample world.

    Empty for a task that the sample world does not have.
    """
    if task.name not in GRAMMARS or GRAMMARS[task.name].task != task:
        return ""
    size = (EXAMPLE_ITEMS, EXAMPLE_ITEMS)
    # A seed that runs do not use, so that nobody in them has this history.
    users = list(sample_users(task, test_users=40, other_users=0, history=size, queries=1, seed=1000))
    words = [_words(task, user) for user in users]
    everybody: collections.Counter[str] = sum(words, collections.Counter())

    def habit(place: int) -> int:
        """In how many more items than usual the user's favourite word occurs."""
        return max(len(users) * count - everybody[word] for word, count in words[place].items())

    items = users[max(range(len(users)), key=habit)].history
    fields = plain_fields(task)
    if fields is None or len(fields) < len(task.history_fields):
        return "\n".join(json.dumps(dict(item.fields), ensure_ascii=False) for item in items)
    return "\n".join(" => ".join(item.fields[name] for name in fields) for item in items)


def _words(task: Task, user: User) -> collections.Counter[str]:
    """The number of items in which the user writes each word; a label counts as one word."""
    words: collections.Counter[str] = collections.Counter()
    for item in user.history:
        text = item.fields[task.text_field]
        words.update({text} if task.labelled_history else set(text.split()))
    return words


@dataclasses.dataclass(frozen=True)
class Step:
    """A step of a training.

    Attributes:
        variant: The variant whose adapter is being trained.
        step: Steps done, from 1.
        steps: Steps of this adapter in all.
        loss: The loss in nats.
        losses: The loss curves so far, by variant.
    """

    variant: str
    step: int
    steps: int
    loss: float
    losses: dict[str, tuple[float, ...]]


def train_own(engine: Engine, session: Session, task: str, items: Sequence[HistoryItem]) -> Iterator[Step]:
    """Train a session's adapters in a thread, yielding steps; at the end the session has the adapters.

    Steps are skipped if the consumer is slower than the training. A training of the session that is still
    running is cancelled; existing adapters are kept until the new ones are complete.

    Raises:
        CancelledError: the session or its training was cancelled or forgotten.
        ConfigError: the run has no personal method for the task.
        DataError: there are no items.
        TrainingError: the items cannot be trained on.
    """
    if not engine.personal_variants(task):
        raise ConfigError(f"The run has no method with personal adapters for {task}.")
    if not items:
        raise DataError("There is no item to learn from.")
    user = User(USER_ID, "test", tuple(items), ())
    losses: dict[str, list[float]] = {variant: [] for variant in engine.personal_variants(task)}
    news: queue.SimpleQueue[Step | dict[str, tuple[Trained, State]] | BaseException] = queue.SimpleQueue()
    training = session.begin(lambda: news.put(CancelledError()))

    def on_step(variant: str, progress: Progress) -> None:
        if training.cancelled:
            raise CancelledError
        session.touch()
        losses[variant].append(progress.loss)
        curves = {name: tuple(curve) for name, curve in losses.items() if curve}
        news.put(Step(variant, progress.step, progress.steps, progress.loss, curves))

    def work() -> None:
        try:
            news.put(engine.train(task, user, on_step))
        except OppuError as error:
            error.__cause__ = error.__context__ = None  # their tracebacks refer to the history
            news.put(error.with_traceback(None))
        except BaseException as error:
            news.put(error)

    training.thread = threading.Thread(target=work, name="own training", daemon=True)
    training.thread.start()
    step = None
    try:
        while isinstance(event := news.get(), Step):
            step = event
            if news.empty():
                yield step
                step = None
        if isinstance(event, BaseException):
            try:
                raise event
            finally:
                del event  # a cycle with its traceback would keep the history in memory
        if step:
            yield step
        facts = {variant: trained for variant, (trained, _) in event.items()}
        adapters = {variant: state for variant, (_, state) in event.items()}
        session.keep(training, Own(task, user, adapters, losses, facts))
    finally:
        training.cancel()  # even if the consumer has stopped asking
