"""The main job of a run: task bases, personal adapters, answers; whatever is missing, and nothing twice.

Everything that stands on one task base is done while that base is loaded.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.markup import escape

from oppu_core.data.dataset import Dataset
from oppu_core.data.types import Query, User
from oppu_core.errors import ConfigError, ModelError, StoreError, TrainingError, explained
from oppu_core.modeling.base import Base, load_base
from oppu_core.modeling.generation import Sampling
from oppu_core.prompting.builder import PromptBuilder, TokenCounter
from oppu_core.prompting.methods import Method, parse_method, variant_method
from oppu_core.prompting.profile_files import Profiles
from oppu_core.prompting.retrieval import BM25Retriever, RandomRetriever, RecentRetriever, Retriever
from oppu_core.runs.answering import answer
from oppu_core.runs.predictions import Journal
from oppu_core.runs.progress import ProgressReporter, Stage
from oppu_core.runs.run import Run
from oppu_core.storage.store import Key, Store
from oppu_core.training import personal, task_base
from oppu_core.training.loop import Progress
from oppu_core.training.plan import CohortPlan

Job = Literal["bases", "personal", "answers"]


@dataclasses.dataclass
class VariantWork:
    """Everything that stands on one variant's task base, for one task of a run.

    Args:
        run: The run.
        store: Its weights.
        dataset: The task's data.
        users: The test users.
        profiles: Its users' profile texts.
        variant: The prompt construction.
        device: Where to compute.
        batch_size: Prompts at a time when answering.
        reporter: Told of everything.
        cohort: Users to train at once; None decides by memory.

    Attributes:
        task_lora: The key of the task LoRA.
        personal: Whether the run has methods with personal adapters on it.
    """

    run: Run
    store: Store
    dataset: Dataset
    users: Sequence[User]
    profiles: Profiles
    variant: str
    device: str
    batch_size: int
    reporter: ProgressReporter
    cohort: int | None = None

    def __post_init__(self) -> None:
        """Find the variant's methods and settings."""
        task = self.dataset.task.name
        methods = [parse_method(name) for name in self.run.config.methods]
        self.methods = [method for method in methods if method.variant == self.variant]
        self.personal = any(method.personal for method in self.methods)
        self.task_config = self.run.config.task_lora[task]
        self.personal_config = self.run.config.personal[task]
        self._title = f"{task} {self.variant}"
        self._sampling = Sampling(seed=self.run.config.seed) if self.run.config.sample else None
        self._base_identity = self.run.base_identity()
        self._examples = (self.run.config.examples, self.profiles.content(self.dataset))
        self.task_lora = task_base.key_of(
            self._base_identity, self.dataset, self.variant, self.task_config, *self._examples
        )

    def do(self, jobs: Sequence[Job]) -> None:
        """Do what is missing of these jobs.

        Raises:
            OppuError: a task base cannot be trained, or adapters are missing that answers need.
        """
        open_methods = [m for m in self.methods if "answers" in jobs and self._unanswered(m)]
        # What is about to be trained is looked at closely: damaged weights are trained again.
        there = self.store.intact if "personal" in jobs else self.store.has
        untrained = [user for user in self.users if not there(self.key_of(user))] if self.personal else []
        train_personal = "personal" in jobs and bool(untrained)
        train_base = "bases" in jobs and not self.store.intact(self.task_lora)
        if not (open_methods or train_personal or train_base):
            return
        missing = [user for user in untrained if self.store.failure(self.key_of(user)) is None]
        if missing and "personal" not in jobs and any(method.personal for method in open_methods):
            raise StoreError(
                f"{len(missing)} test users have no adapter for {self._title}: "
                f"{', '.join(repr(user.user_id) for user in missing[:5])}{' …' if len(missing) > 5 else ''}. "
                f"Run `oppu personal train --run {self.run.path}` first."
            )
        base, builder = self.task_base()
        for method in open_methods:
            if not method.personal:
                self._answer(base, method, builder)
        if train_personal or any(method.personal for method in open_methods):
            base, builder = self.with_adapter(base, builder, train=train_personal)
        for method in open_methods:
            if method.personal:
                self._answer(base, method, builder)

    def ask(self, user: User, query: Query) -> dict[str, str]:
        """One query's answers by this variant's methods, as the run answers its own queries.

        Raises:
            StoreError: something that is needed has not been trained.
        """
        self.store.load(self.task_lora)  # says what to do when it is missing
        base, builder = self.task_base()
        asking = dataclasses.replace(user, queries=(query,))
        profiles = {user.user_id: self.profiles(user)}  # of the user as trained, not as asking
        if self.personal and (reason := self.store.failure(self.key_of(user))):
            raise StoreError(
                f"User {user.user_id!r} has no adapter ({self._title}); training failed: {reason}."
            )
        adapter = self.store.load(self.key_of(user)) if self.personal else {}
        answers = {}
        for personal_turn in (False, True):
            methods = [method for method in self.methods if method.personal == personal_turn]
            if personal_turn and methods:
                base, builder = self.with_adapter(base, builder)
            for method in methods:
                unit = answer(
                    base,
                    method,
                    [asking],
                    profiles,
                    builder,
                    adapter_of=lambda _: adapter,
                    sampling=self._sampling,
                    constrain=self.run.config.constrain,
                )
                with explained(f"Answering by {method.name}", ModelError):
                    answers[method.name] = next(unit)[0].answer
        return answers

    def key_of(self, user: User) -> Key:
        """The key of a user's adapter on this variant's task base."""
        profile = self.profiles(user) if variant_method(self.variant).profile else ""
        return personal.key_of(self.task_lora, self.dataset.task, self.personal_config, user, profile)

    def load_base(self) -> Base:
        """The base that the run was started with.

        Raises:
            ModelError: it is gone, or another one now.
        """
        base = load_base(self.run.config.model, self.run.config.dtype, self.device, self.run.config.quantize)
        if base.identity != self._base_identity:
            raise ModelError(
                f"The base {base.name!r} is no longer the one that {self.run.path} was started with. "
                "Start a new run."
            )
        return base

    def task_base(self) -> tuple[Base, PromptBuilder]:
        """The variant's task base, trained if it is not in the store, and what makes its prompts."""
        base = self.load_base()
        if base.caution:
            self.reporter.console.print(f"[yellow]{escape(base.caution)}[/]")
            way = "packed" if base.supports_packing else "padded" if base.supports_padding else "alone"
            self.reporter.event(way, variant=self._title, reason=base.caution)
        seed = self.run.config.seed
        builder = prompt_builder(self.dataset, base.tokenizer, self.profiles, self.methods, seed)
        arguments = (base, self.dataset, self.variant, builder, self.task_config, self.store)
        with explained(f"Making the task base of {self._title}", TrainingError):
            if self.store.intact(self.task_lora):
                result = task_base.train_task_lora(*arguments, None, *self._examples)
            else:
                with self.reporter.stage(f"{self._title} task base", 100, "%") as stage:
                    on_step = _on_step(
                        stage, 100, lambda step: self.reporter.report(f"{self._title}/task LoRA", step.loss)
                    )
                    result = task_base.train_task_lora(*arguments, on_step, *self._examples)
        entry = next(self.store.entries(self.task_lora.config_id))
        self.reporter.event("task_lora", variant=self._title, folder=entry.folder, **entry.facts)
        return result, builder

    def with_adapter(
        self, base: Base, builder: PromptBuilder, train: bool = False
    ) -> tuple[Base, PromptBuilder]:
        """The base with an adapter attached, and what makes prompts that leave room for its tokens.

        Args:
            base: The task base.
            builder: Its prompts.
            train: Train the users' adapters that the store does not have.
        """
        builder = dataclasses.replace(builder, counter=base.tokenizer.leaving(self.personal_config.prefix))
        arguments = (base, self.task_lora, self.variant)
        failed = explained(f"Training the adapters of {self._title}", TrainingError)
        if not train:
            with failed:
                result = personal.train_personal(
                    *arguments, [], builder, self.personal_config, self.store, lambda done: None
                )
            return result, builder
        with failed, self.reporter.stage(f"{self._title} adapters", len(self.users), "users") as stage:

            def on_user(done: personal.UserDone) -> None:
                facts = {name: value for name, value in dataclasses.asdict(done).items() if value is not None}
                self.reporter.event("user", variant=self._title, **facts)
                if done.loss is not None:
                    # Told apart by the adapter's key, a hash of the user's id and history.
                    self.reporter.report(f"{self._title}/adapters", done.loss, adapter=Path(done.folder).name)
                if done.cached:
                    stage.advance()
                elif done.reason:
                    stage.advance()
                    self.reporter.console.print(
                        f"[yellow]User {escape(repr(done.user_id))} is set aside in {self._title}: "
                        f"{escape(done.reason)}.[/]"
                    )

            plan = CohortPlan(self.run.plan_path(self.dataset.task.name), self.variant, self.cohort)
            result = personal.train_personal(
                *arguments,
                self.users,
                builder,
                self.personal_config,
                self.store,
                on_user,
                _on_step(stage, 1),
                plan,
            )
        return result, builder

    def _unanswered(self, method: Method) -> bool:
        done = self.run.predictions(self.dataset.task.name, method.name)
        return any((user.user_id, query.id) not in done for user in self.users for query in user.queries)

    def _answer(self, base: Base, method: Method, builder: PromptBuilder) -> None:
        journal = Journal(self.run.predictions_path(self.dataset.task.name, method.name))
        users = [u for u in self.users if not method.personal or self.store.has(self.key_of(u))]
        order = [(user.user_id, query.id) for user in users for query in user.queries]
        wanted = set(order)
        answers = {key: value for key, value in journal.read().items() if key in wanted}
        title = f"{self.dataset.task.name} {method.name}"
        with (
            explained(f"Answering {title}", ModelError),
            self.reporter.stage(f"{title} answers", len(order), "queries") as stage,
        ):
            stage.advance(len(answers))
            for unit in answer(
                base,
                method,
                users,
                {user.user_id: self.profiles(user) for user in users},
                builder,
                done=set(answers),
                adapter_of=lambda user: self.store.load(self.key_of(user)),
                batch_size=self.batch_size,
                sampling=self._sampling,
                constrain=self.run.config.constrain,
            ):
                journal.add(unit)
                new = {(one.user_id, one.id): one for one in unit}
                stage.advance(len(new.keys() - answers.keys()))
                answers.update(new)
        journal.finish(answers, order)


def _on_step(
    stage: Stage, total: float, report: Callable[[Progress], None] = lambda step: None
) -> Callable[[Progress], None]:
    """Move a stage by `total` over the steps of one training, and report each."""

    def on_step(step: Progress) -> None:
        stage.advance(total / step.steps, loss=step.loss, tokens=step.tokens)
        report(step)

    return on_step


def prompt_builder(
    dataset: Dataset, counter: TokenCounter, profiles: Profiles, methods: Sequence[Method], seed: int
) -> PromptBuilder:
    """What makes the prompts of some methods for a dataset's users; `seed` is of random retrieval."""
    task = dataset.task
    retrievers: dict[str, Retriever] = {"bm25": BM25Retriever(task), "recent": RecentRetriever()}
    if any(method.retriever == "random" for method in methods):
        retrievers["random"] = RandomRetriever(dataset.users("others"), seed)
    return PromptBuilder(task, counter, retrievers, profiles)


def variant_works(
    run: Run,
    store: Store,
    reporter: ProgressReporter,
    device: str,
    batch_size: int,
    cohort: int | None = None,
) -> Iterator[VariantWork]:
    """The works of a run: each task's variants in the order of the methods."""
    variants = dict.fromkeys(parse_method(name).variant for name in run.config.methods)
    for task in run.config.data:
        dataset = run.dataset(task)
        users = run.test_users(dataset)
        profiles = run.profiles(dataset)
        for variant in variants:
            yield VariantWork(
                run, store, dataset, users, profiles, variant, device, batch_size, reporter, cohort
            )


def find_work(run: Run, store: Store, task: str | None, variant: str | None, personal: bool) -> VariantWork:
    """One work of a run, to look at; task and variant may be left out where there is only one.

    Args:
        run: The run.
        store: Its weights.
        task: The task's name.
        variant: The variant's name.
        personal: Look only at variants with personal adapters.

    Raises:
        ConfigError: the run has no such task or variant, or several that could be meant.
    """
    works = [work for work in variant_works(run, store, ProgressReporter(Console(quiet=True)), "cpu", 1)
             if work.personal or not personal]  # fmt: skip
    with_adapters = " with personal adapters" if personal else ""
    for what, wanted in (("task", task), ("variant", variant)):
        named = [(work.dataset.task.name if what == "task" else work.variant, work) for work in works]
        names = ", ".join(dict.fromkeys(name for name, _ in named)) or "none"
        works = [work for name, work in named if wanted in (None, name)]
        if not works:
            raise ConfigError(f"{run.path} has no {what} {wanted!r}{with_adapters}; it has {names}.")
        if wanted is None and len({name for name, _ in named}) > 1:
            raise ConfigError(f"{run.path} has several {what}s, {names}; choose one with --{what}.")
    return works[0]
