"""A run's variants: one prompt construction of one task, and the keys of the weights that belong to it.

Everything here is known without loading a base; :mod:`oppu_core.runs.jobs` does the work.
"""

import bisect
import dataclasses
import functools
from collections.abc import Iterator, Sequence

from oppu_core.data.dataset import Dataset
from oppu_core.data.types import User
from oppu_core.errors import ConfigError, StoreError
from oppu_core.prompting.builder import PromptBuilder, TokenCounter
from oppu_core.prompting.methods import Method, parse_method, variant_method
from oppu_core.prompting.profile_files import Profiles
from oppu_core.prompting.retrieval import (
    BM25Retriever,
    DenseRetriever,
    RandomRetriever,
    RecentRetriever,
    Retriever,
    TextEncoder,
)
from oppu_core.runs.run import Run
from oppu_core.storage.files import content_id
from oppu_core.storage.keys import Key
from oppu_core.tasks.task import Task
from oppu_core.training import keys
from oppu_core.training.config import TrainConfig


@dataclasses.dataclass(frozen=True, eq=False)
class Variant:
    """One prompt construction of a task of a run.

    Attributes:
        run: The run.
        dataset: The task's data.
        users: The test users.
        profiles: Its users' profile texts.
        name: The prompt construction: ``base``, ``rag_kN``, ``dense_kN``, ``recent_kN`` or ``pag_kN``.
    """

    run: Run
    dataset: Dataset
    users: Sequence[User]
    profiles: Profiles
    name: str

    @property
    def task(self) -> Task:
        """The task."""
        return self.dataset.task

    @property
    def title(self) -> str:
        """A title for people."""
        return f"{self.task.name} {self.name}"

    @functools.cached_property
    def methods(self) -> list[Method]:
        """The run's methods that use this variant's task base, in order."""
        methods = [parse_method(name) for name in self.run.config.methods]
        return [method for method in methods if method.variant == self.name]

    @property
    def personal(self) -> bool:
        """Whether any of these methods uses personal adapters, be they a stranger's."""
        return any(method.adapter in ("own", "stranger") for method in self.methods)

    @property
    def own(self) -> bool:
        """Whether any of these methods answers a user by the user's own adapter."""
        return any(method.personal for method in self.methods)

    @property
    def pooled(self) -> bool:
        """Whether any of these methods uses the pooled adapter."""
        return any(method.adapter == "pooled" for method in self.methods)

    @property
    def task_config(self) -> TrainConfig:
        """How its task LoRA is trained."""
        return self.run.config.task_lora[self.task.name]

    @property
    def personal_config(self) -> TrainConfig:
        """How its personal adapters are trained."""
        return self.run.config.personal[self.task.name]

    @functools.cached_property
    def task_lora(self) -> Key:
        """The key of its task LoRA."""
        return keys.of_task_lora(
            self.run.base_identity(),
            self.dataset,
            self.name,
            self.task_config,
            self.run.config.examples,
            self.profiles.content(self.dataset),
            self.run.provenance.get("encoder"),
        )

    def key_of(self, user: User) -> Key:
        """The key of a user's adapter."""
        profile = self.profiles(user) if variant_method(self.name).profile else ""
        return keys.of_adapter(self.task_lora, self.task, self.personal_config, user, profile)

    @functools.cached_property
    def pooled_key(self) -> Key:
        """The key of the adapter on all test users' histories."""
        return keys.of_pooled([self.key_of(user) for user in self.users])

    def adapter_key(self, method: Method, user: User) -> Key:
        """The key of the adapter by which a method answers a user.

        Raises:
            StoreError: a stranger's is wanted, and there is no other user.
        """
        if method.adapter == "pooled":
            return self.pooled_key
        return self.key_of(self.stranger_to(user) if method.adapter == "stranger" else user)

    def stranger_to(self, user: User) -> User:
        """Another test user: in a round of all, in an order drawn by the seed, the next one.

        So every user's adapter answers for one other user, and without one user the others keep theirs.

        Raises:
            StoreError: there is no other test user.
        """
        places, round_of_users = self._round
        after = round_of_users[bisect.bisect_right(places, self._place(user)) % len(round_of_users)]
        if after.user_id == user.user_id:
            raise StoreError(f"{self.title}: there is no other test user whose adapter could answer.")
        return after

    def _place(self, user: User) -> str:
        return content_id([self.run.config.seed, "stranger", user.user_id])

    @functools.cached_property
    def _round(self) -> tuple[list[str], list[User]]:
        order = sorted(self.users, key=self._place)
        return [self._place(user) for user in order], order

    def prompt_builder(self, tokenizer: TokenCounter, device: str = "auto") -> PromptBuilder:
        """The builder of its prompts; `device` is for a sentence encoder."""
        encoder, seed = self.run.encoder(device), self.run.config.seed
        return prompt_builder(self.dataset, tokenizer, self.profiles, self.methods, seed, encoder)


def prompt_builder(
    dataset: Dataset,
    counter: TokenCounter,
    profiles: Profiles,
    methods: Sequence[Method],
    seed: int,
    encoder: TextEncoder,
) -> PromptBuilder:
    """A builder of prompts for a dataset's users by some methods; `seed` is for random retrieval."""
    task = dataset.task
    retrievers: dict[str, Retriever] = {
        "bm25": BM25Retriever(task),
        "dense": DenseRetriever(task, encoder),
        "recent": RecentRetriever(),
    }
    if any(method.retriever == "random" for method in methods):
        retrievers["random"] = RandomRetriever(dataset.users("others"), seed)
    return PromptBuilder(task, counter, retrievers, profiles)


def variants_of(run: Run) -> Iterator[Variant]:
    """The variants of a run: each task's in the order of the methods."""
    names = dict.fromkeys(parse_method(name).variant for name in run.config.methods)
    for task in run.config.data:
        dataset = run.dataset(task)
        users = run.test_users(dataset)
        profiles = run.profiles(dataset)
        for name in names:
            yield Variant(run, dataset, users, profiles, name)


def find_variant(run: Run, task: str | None, name: str | None, personal: bool) -> Variant:
    """One variant of a run; task and name may be left out if there is only one.

    Args:
        run: The run.
        task: The task's name.
        name: The variant's name.
        personal: Look only at variants with personal adapters.

    Raises:
        ConfigError: the run has no such task or variant, or several that match.
    """
    found = [variant for variant in variants_of(run) if variant.personal or not personal]
    with_adapters = " with personal adapters" if personal else ""
    for what, wanted in (("task", task), ("variant", name)):
        named = [(variant.task.name if what == "task" else variant.name, variant) for variant in found]
        names = ", ".join(dict.fromkeys(name for name, _ in named)) or "none"
        found = [variant for name, variant in named if wanted in (None, name)]
        if not found:
            raise ConfigError(f"{run.path} has no {what} {wanted!r}{with_adapters}; it has {names}.")
        if wanted is None and len({name for name, _ in named}) > 1:
            raise ConfigError(f"{run.path} has several {what}s, {names}; choose one with --{what}.")
    return found[0]
