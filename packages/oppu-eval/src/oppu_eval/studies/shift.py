"""Table 3: behaviour shift. Histories reduced to the items that are least relevant to the queries."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from oppu_core.data.dataset import Dataset
from oppu_core.data.types import User
from oppu_core.errors import ConfigError
from oppu_core.modeling.base_files import base_folder
from oppu_core.modeling.skeleton import skeleton_of
from oppu_core.training.config import resolve_preset

from oppu_eval.reporting.paper import paper_shift
from oppu_eval.scoring.metrics import Metric, metrics_for
from oppu_eval.studies import histories
from oppu_eval.studies.context import Done, StudyContext, Work
from oppu_eval.studies.picture import READING, draw_settings
from oppu_eval.studies.result import Picture, Result, Table
from oppu_eval.studies.scoring import Scored
from oppu_eval.studies.settings import (
    Cells,
    each,
    named,
    setting_columns,
    setting_panel,
    setting_rows,
    sure,
    told,
)
from oppu_eval.studies.study import FOUR, Plain

if TYPE_CHECKING:
    from oppu_eval.studies.relevance import Features

# The parts of a history that are kept. Random and oldest items are our addition, as many as least relevant
# ones.
SETTINGS = {"full": "all items", "random": "random", "irrelevant": "least\nrelevant", "oldest": "oldest"}
LIMITED = ("random", "irrelevant", "oldest")


@dataclasses.dataclass(frozen=True)
class Shift(Plain):
    """Only a part of each history is kept; adapters, retrieval and answers all use it.

    Attributes:
        items: How many items to keep of a longer history.
        share: The share to keep of a shorter one.
        encoder: The source of sentence features: ``base``, ``tfidf``, an encoder's folder or hub id, or
            ``auto``: the base if it is large, else TF-IDF (hidden states of small bases tell little).
        per_query: Whether to choose items for each query separately (as many trainings as queries).
    """

    items: int = 100
    share: float = 0.3
    encoder: str = "auto"
    per_query: bool = False

    name: ClassVar[str] = "shift"
    title: ClassVar[str] = "Behaviour shift"
    question: ClassVar[str] = "What is left when the history has little to do with what is asked now?"
    paper: ClassVar[str] = (
        "Paper, Table 3: with the 100 least relevant items retrieval falls back to non-personalized, and "
        "adapters hold better. It has no control with as many items of another choice; ours are random "
        "ones and the oldest."
    )

    def __post_init__(self) -> None:
        """Refuse options that keep nothing or everything."""
        if not 0 < self.share < 1:
            raise ConfigError(f"--share {self.share}: it has to be above 0 and below 1.")
        if self.items < 1:
            raise ConfigError(f"--items {self.items}: at least one item has to be kept.")

    def works(self, context: StudyContext) -> Sequence[Work]:
        """The four methods on the full history, and on each part of it."""
        data: dict[str, dict[str, Path]] = {setting: {} for setting in LIMITED}
        for task in context.tasks:
            features = functools.cache(functools.partial(self._features, context, task))
            for setting in LIMITED:
                data[setting][task] = self._data(context, task, setting, features)
        return [
            context.work("four", FOUR),
            *(context.work(setting, FOUR, data[setting]) for setting in LIMITED),
        ]

    def _data(
        self, context: StudyContext, task: str, setting: str, features: Callable[[], "tuple[Features, str]"]
    ) -> Path:
        dataset = context.dataset(task)
        by_relevance = setting == "irrelevant"
        how = {
            "kept": setting,
            "items": self.items,
            "share": self.share,
            "per query": self.per_query,
            "seed": context.config.seed,
            "test users": context.config.users,
            **({"encoder": self._encoder(context), "base": context.config.model} if by_relevance else {}),
        }
        users = functools.partial(self._users, context, dataset, setting, features)
        return context.derive(f"{task}-{setting}", dataset, how, dataset.task, users)

    def _users(
        self,
        context: StudyContext,
        dataset: Dataset,
        setting: str,
        features: Callable[[], "tuple[Features, str]"],
    ) -> Iterator[User]:
        yield from dataset.users("others")
        for whole in context.users(dataset.task.name):
            for user in histories.per_query(whole) if self.per_query else [whole]:
                yield self._kept(context.config.seed, dataset, user, setting, features)

    def _kept(
        self,
        seed: int,
        dataset: Dataset,
        user: User,
        setting: str,
        features: Callable[[], "tuple[Features, str]"],
    ) -> User:
        from oppu_eval.studies.relevance import relevance

        length = len(user.training_history)
        count = histories.kept_count(length, self.items, self.share)
        if setting == "random":
            positions = histories.drawn(length, count, seed, user.user_id)
        elif setting == "oldest":
            positions = histories.oldest(length, count)
        elif not user.queries or not length:
            positions = []
        else:
            of_items = relevance(dataset.task, user, user.queries, features()[0])
            positions = histories.least_relevant(of_items, count)
        return histories.keep(user, positions)

    def _encoder(self, context: StudyContext) -> str:
        if self.encoder != "auto":
            return self.encoder
        parameters = skeleton_of(base_folder(context.config.model)).parameters
        return "base" if resolve_preset("auto", parameters) in ("medium", "paper") else "tfidf"

    def _features(self, context: StudyContext, task: str) -> "tuple[Features, str]":
        from oppu_eval.studies.relevance import sentence_features

        dataset = context.dataset(task)
        config = context.config
        texts = [
            text
            for user in context.users(task)
            for text in (
                *(dataset.task.history_line(item.fields) for item in user.training_history),
                *(" ".join(query.fields.values()) for query in user.queries),
            )
        ]
        from oppu_core.modeling.base import load_base

        base = functools.partial(load_base, config.model, config.dtype, context.device, config.quantize)
        return sentence_features(self._encoder(context), base, texts, context.device)

    def conclude(self, context: StudyContext, done: Mapping[str, Done]) -> Result:
        """Scores by what was kept; the least relevant items against as many random ones."""
        seed = context.config.seed
        rows, findings, panels = [], [], []
        for task in context.tasks:
            about = context.dataset(task).task
            for number, metric in enumerate(metrics_for(about)):
                cells = {
                    (setting, method): scored
                    for setting in SETTINGS
                    for method in FOUR
                    if (scored := self._score(done, task, setting, method, metric))
                }
                paper = functools.partial(_paper, about.paper_id)
                new = setting_rows(
                    task, cells, seed, shown=not number, reference="random", whole="full", paper=paper
                )
                rows += new
                if not number:
                    findings += _findings(task, metric, cells, seed)
                    series = each(FOUR[1:], list(SETTINGS))
                    panels.append(setting_panel(about, metric, new, SETTINGS, series, FOUR[0]))
        picture = Picture(
            "shift",
            "Score with all items, and with a part of them chosen at random, by least relevance and by age",
            "All but the first keep as many items. The dotted line is the task base without history. "
            + READING,
            draw_settings(panels, "what is kept of each history", joined=False),
        )
        kept = f"{self.items} items of longer histories, {100 * self.share:.0f} % of shorter ones"
        encoder = self._encoder(context)
        features = {
            "base": f"mean-pooled hidden states of the base {context.config.model}",
            "tfidf": "TF-IDF",
        }
        whose = "each query" if self.per_query else "the user’s queries, on average"
        notes = [
            f"Kept are {kept}. Least relevant: lowest cosine to {whose}, of "
            f"{features.get(encoder, f'mean-pooled hidden states of {encoder}')}.",
            "The query alone (non_personalized) does not depend on the history.",
        ]
        columns = setting_columns("kept", "as many\nrandom items")
        return Result(findings, Table(columns, rows), [picture], notes)

    def _score(
        self, done: Mapping[str, Done], task: str, setting: str, method: str, metric: Metric
    ) -> Scored | None:
        if setting == "full":  # its numbers are those of `oppu evaluate`
            return done["four"].score(task, method, metric)
        one = done[setting]
        owners = {user.user_id: histories.owner(user.user_id) for user in one.users(task)}
        return one.score(task, method, metric, setting, owner=owners if self.per_query else None)


def _paper(paper_id: str, setting: str, method: str, metric: str) -> float | None:
    return paper_shift(paper_id, setting, method, metric)


def _findings(task: str, metric: Metric, cells: Cells, seed: int) -> list[str]:
    """The cost of keeping the least relevant or oldest items, beyond having fewer items."""
    findings = []
    for setting, words in (("irrelevant", "the least relevant"), ("oldest", "the oldest")):
        parts = []
        for method in FOUR[1:]:
            one, control = cells.get((setting, method)), cells.get(("random", method))
            change = one.against(control, seed) if one and control else None
            if change:
                parts.append(f"{method} {told(change.delta, change.ci95)} ({sure(change.ci95)})")
        if parts:
            findings.append(
                f"{task}, {named(metric)} with {words} items against as many random ones: {'; '.join(parts)}."
            )
    return findings
