"""The main job of a run: task bases, personal adapters, answers; whatever is missing, and nothing twice.

Everything that stands on one task base is done while that base is loaded.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

from rich.markup import escape

from oppu_core.data.dataset import Dataset
from oppu_core.data.types import Query, User
from oppu_core.errors import ModelError, StoreError
from oppu_core.files import write_jsonl
from oppu_core.generate import Sampling
from oppu_core.inference import answer
from oppu_core.models import Base, load_base
from oppu_core.profiles import compute_profile
from oppu_core.progress import Stage, Watch
from oppu_core.prompts import Method, PromptMaker, parse_method, variant_method
from oppu_core.retrieval import BM25Retriever, RandomRetriever, Retriever
from oppu_core.runs import Journal, Run
from oppu_core.store import Key, Store
from oppu_core.training import personal, task_base
from oppu_core.training.loop import Progress

Job = Literal["bases", "personal", "answers"]
JOBS: tuple[Job, ...] = ("bases", "personal", "answers")


@dataclasses.dataclass
class VariantWork:
    """Everything that stands on one variant's task base, for one task of a run.

    Args:
        run: The run.
        store: Its weights.
        dataset: The task's data.
        users: The test users.
        profiles: The test users' profile texts by user id.
        variant: The prompt construction.
        device: Where to compute.
        batch_size: Prompts at a time when answering.
        watch: Told of everything.
    """

    run: Run
    store: Store
    dataset: Dataset
    users: Sequence[User]
    profiles: Mapping[str, str]
    variant: str
    device: str
    batch_size: int
    watch: Watch

    def __post_init__(self) -> None:
        """Find the variant's methods and settings."""
        task = self.dataset.task.name
        methods = [parse_method(name) for name in self.run.config.methods]
        self.methods = [method for method in methods if method.variant == self.variant]
        self.personal = any(method.personal for method in self.methods)
        self._task_config = self.run.config.task_lora[task]
        self._personal_config = self.run.config.personal[task]
        self._title = f"{task} {self.variant}"
        self._base_identity = self.run.base_identity()
        self._task_lora = task_base.key_of(self._base_identity, self.dataset, self.variant, self._task_config)

    def do(self, jobs: Sequence[Job]) -> None:
        """Do what is missing of these jobs.

        Raises:
            OppuError: a task base cannot be trained, or adapters are missing that answers need.
        """
        open_methods = [m for m in self.methods if "answers" in jobs and self._unanswered(m)]
        # What is about to be trained is looked at closely: damaged weights are trained again.
        there = self.store.intact if "personal" in jobs else self.store.has
        untrained = [user for user in self.users if not there(self._key(user))] if self.personal else []
        train_personal = "personal" in jobs and bool(untrained)
        train_base = "bases" in jobs and not self.store.intact(self._task_lora)
        if not (open_methods or train_personal or train_base):
            return
        missing = [user for user in untrained if self.store.failure(self._key(user)) is None]
        if missing and "personal" not in jobs and any(method.personal for method in open_methods):
            raise StoreError(
                f"{len(missing)} test users have no adapter for {self._title}: "
                f"{', '.join(repr(user.user_id) for user in missing[:5])}{' …' if len(missing) > 5 else ''}. "
                f"Run `oppu personal train --run {self.run.path}` first."
            )
        base, maker = self._open()
        base = self._make_task_base(base, maker)
        for method in open_methods:
            if not method.personal:
                self._answer(base, method, maker)
        if train_personal or any(method.personal for method in open_methods):
            base = self._make_personal(base, maker, train=train_personal)
        for method in open_methods:
            if method.personal:
                self._answer(base, method, maker)

    def ask(self, user: User, query: Query) -> dict[str, str]:
        """One query's answers by this variant's methods.

        Raises:
            StoreError: something that is needed has not been trained.
        """
        self.store.load(self._task_lora)  # says what to do when it is missing
        base, maker = self._open()
        base = self._make_task_base(base, maker)
        asking = dataclasses.replace(user, queries=(query,))
        profiles = {user.user_id: compute_profile(self.dataset.task, user.training_history)}
        if self.personal and (reason := self.store.failure(self._key(user))):
            raise StoreError(
                f"User {user.user_id!r} has no adapter ({self._title}); training failed: {reason}."
            )
        adapter = self.store.load(self._key(user)) if self.personal else {}
        answers = {}
        for personal_turn in (False, True):
            methods = [method for method in self.methods if method.personal == personal_turn]
            if personal_turn and methods:
                base = self._make_personal(base, maker, train=False)
            for method in methods:
                unit = next(answer(base, method, [asking], profiles, maker, adapter_of=lambda _: adapter))
                answers[method.name] = unit[0].answer
        return answers

    def _open(self) -> tuple[Base, PromptMaker]:
        """The base and what makes its prompts."""
        base = load_base(self.run.config.model, self.run.config.dtype, self.device)
        if base.identity != self._base_identity:
            raise ModelError(
                f"The base {base.name!r} is no longer the one that {self.run.path} was started with. "
                "Start a new run."
            )
        retrievers: dict[str, Retriever] = {"bm25": BM25Retriever(self.dataset.task)}
        if any(method.retriever == "random" for method in self.methods):
            retrievers["random"] = RandomRetriever(self.dataset.users("others"), self.run.config.seed)
        return base, PromptMaker(self.dataset.task, base.codec, retrievers)

    def _make_task_base(self, base: Base, maker: PromptMaker) -> Base:
        arguments = (base, self.dataset, self.variant, maker, self._task_config, self.store)
        if self.store.intact(self._task_lora):
            result = task_base.train_task_lora(*arguments)
        else:
            with self.watch.stage(f"{self._title} task base", 100, "%") as stage:
                result = task_base.train_task_lora(*arguments, _on_step(stage, 100))
        entry = next(self.store.entries(self._task_lora.config_id))
        self.watch.event("task_lora", variant=self._title, folder=entry.folder, **entry.facts)
        return result

    def _make_personal(self, base: Base, maker: PromptMaker, train: bool) -> Base:
        arguments = (base, self._task_lora, self.variant)
        if not train:
            return personal.train_personal(
                *arguments, [], maker, self._personal_config, self.store, lambda done: None
            )
        with self.watch.stage(f"{self._title} adapters", len(self.users), "users") as stage:

            def on_user(done: personal.UserDone) -> None:
                facts = {name: value for name, value in dataclasses.asdict(done).items() if value is not None}
                self.watch.event("user", variant=self._title, **facts)
                if done.cached:
                    stage.advance()
                elif done.reason:
                    stage.advance()
                    self.watch.console.print(
                        f"[yellow]User {escape(repr(done.user_id))} is set aside in {self._title}: "
                        f"{escape(done.reason)}.[/]"
                    )

            return personal.train_personal(
                *arguments, self.users, maker, self._personal_config, self.store, on_user, _on_step(stage, 1)
            )

    def _key(self, user: User) -> Key:
        profile = ""
        if variant_method(self.variant).profile:
            # Somebody who asks may be a test user beyond this run's --users.
            known = self.profiles.get(user.user_id)
            profile = compute_profile(self.dataset.task, user.training_history) if known is None else known
        return personal.key_of(self._task_lora, self.dataset.task, self._personal_config, user, profile)

    def _unanswered(self, method: Method) -> bool:
        done = self.run.predictions(self.dataset.task.name, method.name)
        return any((user.user_id, query.id) not in done for user in self.users for query in user.queries)

    def _answer(self, base: Base, method: Method, maker: PromptMaker) -> None:
        journal = Journal(self.run.predictions_path(self.dataset.task.name, method.name))
        users = [u for u in self.users if not method.personal or self.store.has(self._key(u))]
        order = [(user.user_id, query.id) for user in users for query in user.queries]
        wanted = set(order)
        answers = {key: value for key, value in journal.read().items() if key in wanted}
        with self.watch.stage(
            f"{self.dataset.task.name} {method.name} answers", len(order), "queries"
        ) as stage:
            stage.advance(len(answers))
            for unit in answer(
                base,
                method,
                users,
                self.profiles,
                maker,
                done=set(answers),
                adapter_of=lambda user: self.store.load(self._key(user)),
                batch_size=self.batch_size,
                sampling=Sampling(seed=self.run.config.seed) if self.run.config.sample else None,
            ):
                journal.add(unit)
                new = {(one.user_id, one.id): one for one in unit}
                stage.advance(len(new.keys() - answers.keys()))
                answers.update(new)
        journal.finish(answers, order)


def _on_step(stage: Stage, total: float) -> Callable[[Progress], None]:
    """Move a stage by `total` over the steps of one training."""
    return lambda step: stage.advance(total / step.steps, loss=step.loss, tokens=step.tokens)


def execute(run: Run, watch: Watch, jobs: Sequence[Job], device: str = "auto", batch_size: int = 32) -> None:
    """Do what is missing of a run's jobs.

    Args:
        run: The run.
        watch: Told of everything.
        jobs: Which of task bases, personal adapters and answers.
        device: Where to compute.
        batch_size: Prompts at a time when answering.

    Raises:
        OppuError: see :meth:`VariantWork.do`.
    """
    store = Store(run.store_path)
    with contextlib.closing(store):
        for work in variant_works(run, store, watch, device, batch_size):
            if "answers" in jobs and not run.profiles_path(work.dataset.task.name).exists():
                rows = [{"user_id": user_id, "profile": text} for user_id, text in work.profiles.items()]
                write_jsonl(run.profiles_path(work.dataset.task.name), rows)
            work.do(jobs)


def variant_works(
    run: Run, store: Store, watch: Watch, device: str, batch_size: int
) -> Iterator[VariantWork]:
    """The works of a run: each task's variants in the order of the methods."""
    variants = dict.fromkeys(parse_method(name).variant for name in run.config.methods)
    for task in run.config.data:
        dataset = run.dataset(task)
        users = run.test_users(dataset)
        profiles = {user.user_id: compute_profile(dataset.task, user.training_history) for user in users}
        for variant in variants:
            yield VariantWork(run, store, dataset, users, profiles, variant, device, batch_size, watch)
