"""A run's jobs: task bases, personal adapters and answers; only what is missing is done.

All that uses one task base is done while it is loaded; so the jobs are one class, though it is long.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from rich.markup import escape

from oppu_core.data.types import Query, User
from oppu_core.errors import ModelError, StoreError, TrainingError, explained
from oppu_core.modeling.adapters import State
from oppu_core.modeling.base import Base, load_base, pick_device
from oppu_core.modeling.packing import tokenize
from oppu_core.modeling.precision import slow_dtype
from oppu_core.prompting.builder import PromptBuilder
from oppu_core.prompting.methods import Method, variant_method
from oppu_core.runs.answering import answer, answer_rules, load_adapter
from oppu_core.runs.options import Compute, Job
from oppu_core.runs.predictions import Journal
from oppu_core.runs.progress import ProgressReporter, Stage, quiet
from oppu_core.runs.todo import Todo
from oppu_core.runs.variants import Variant
from oppu_core.storage.weights import Weights
from oppu_core.training import personal, task_base
from oppu_core.training.loop import Progress
from oppu_core.training.plan import CohortPlan
from oppu_core.training.pooled import train_pooled
from oppu_core.training.trainer import Trainer


class Elsewhere(Protocol):
    """Whoever trains personal adapters outside of this process (:mod:`oppu_core.runs.ray_cluster`)."""

    def cohorts(
        self, variant: Variant, device: str, weights: Weights, plan: CohortPlan
    ) -> contextlib.AbstractContextManager[personal.Cohorts]:
        """Trains cohorts of a variant, whose task LoRA is stored, within a block."""
        ...


class VariantJobs:
    """The jobs of one variant.

    Args:
        variant: The variant.
        store: Its weights.
        compute: Device and batch sizes.
        reporter: Shows progress and logs events; by default nothing is shown.
        cluster: Trains personal adapters, if given.
    """

    def __init__(
        self,
        variant: Variant,
        store: Weights,
        compute: Compute | None = None,
        reporter: ProgressReporter | None = None,
        cluster: Elsewhere | None = None,
    ) -> None:
        self.variant, self.store, self._cluster = variant, store, cluster
        self._compute, self._reporter = compute or Compute(), reporter or quiet()
        self._run, self._users = variant.run, variant.users

    def todo(self, jobs: Sequence[Job]) -> Todo:
        """What is missing of these jobs; before training, stored weights are checked: damaged ones count."""
        variant = self.variant
        there = self.store.intact if "personal" in jobs else self.store.has
        return Todo(
            jobs,
            answers=[m for m in variant.methods if "answers" in jobs and self._unanswered(m)],
            untrained=[u for u in self._users if not there(variant.key_of(u))] if variant.personal else [],
            no_pooled=variant.pooled and not there(variant.pooled_key),
            no_base=not self.store.intact(variant.task_lora),
        )

    def do(self, jobs: Sequence[Job], todo: Todo | None = None) -> None:
        """Do whatever is missing of these jobs, which :meth:`todo` may have found out before.

        Raises:
            OppuError: a task base cannot be trained, or adapters that answers need are missing.
        """
        variant, todo = self.variant, todo or self.todo(jobs)
        open_methods = todo.answers
        if todo.nothing:
            return
        missing = [user for user in todo.untrained if self.store.failure(variant.key_of(user)) is None]
        personal_methods = any(method.adapter in ("own", "stranger") for method in open_methods)
        if missing and "personal" not in jobs and personal_methods:
            raise StoreError(
                f"{len(missing)} test users have no adapter for {variant.title}: "
                f"{', '.join(repr(user.user_id) for user in missing[:5])}{' …' if len(missing) > 5 else ''}. "
                f"Run `oppu personal train --run {self._run.path}` first."
            )
        pooled_failed = variant.pooled and self.store.failure(variant.pooled_key) is not None
        pooled_methods = any(method.adapter == "pooled" for method in open_methods)
        if todo.no_pooled and "pooled" not in jobs and pooled_methods and not pooled_failed:
            raise StoreError(
                f"There is no pooled adapter for {variant.title}. Run `oppu personal train --run "
                f"{self._run.path}` first."
            )
        train = todo.train
        if self._cluster and "personal" in train:
            if todo.no_base:
                self.task_base()
            self._train_elsewhere(self._cluster)
            train.remove("personal")
            if not (open_methods or train):
                return
        base, builder = self.task_base()
        for method in open_methods:
            if not method.adapter:
                self._answer(base, method, builder)
        if train or any(method.adapter for method in open_methods):
            base, builder = self.with_adapter(base, builder, train)
        for method in open_methods:
            if method.adapter:
                self._answer(base, method, builder)

    def ask(self, user: User, query: Query) -> dict[str, str]:
        """Answer one query by this variant's methods, as the run answers its own queries.

        Controls whose adapter is missing, as that of a stranger who could not be trained, are left out.

        Raises:
            StoreError: something else that is needed has not been trained.
        """
        variant = self.variant
        self.store.load(variant.task_lora)  # raises with advice if it is missing
        base, builder = self.task_base()
        asking = dataclasses.replace(user, queries=(query,))
        profile = variant.profiles(user)  # of the user as in training, without the new query
        adapters: dict[str, State] = {}
        for method in variant.methods:
            if method.adapter:
                with contextlib.suppress(*((StoreError,) if not method.personal else ())):
                    adapters[method.name] = load_adapter(self.store, variant, method, user)
        rules = answer_rules(self._run.config, variant.task, base.tokenizer)
        answers = {}
        for adapter_turn in (False, True):
            methods = [m for m in variant.methods if bool(m.adapter) == adapter_turn]
            methods = [m for m in methods if not m.adapter or m.name in adapters]
            if adapter_turn and methods:
                base, builder = self.with_adapter(base, builder)
            builder = dataclasses.replace(builder, profile_of=lambda _: profile)
            for method in methods:
                adapter_of = _always(adapters.get(method.name, {}))
                unit = answer(base, method, [asking], builder, rules, adapter_of=adapter_of)
                with explained(f"Answering by {method.name}", ModelError):
                    answers[method.name] = next(unit)[0].answer
        return answers

    def load_base(self) -> Base:
        """The base that the run was started with.

        Raises:
            ModelError: it is gone, or has changed.
        """
        config = self._run.config
        self._reporter.warn(slow_dtype(config.dtype, pick_device(self._compute.device)))
        base = load_base(
            config.model, config.dtype, self._compute.device, config.quantize, config.prompt_format
        )
        if base.identity != (started := self._run.base_identity()):
            what = "base"
            if dataclasses.replace(base.identity, chat=started.chat) == started:
                what = "chat template of the base"
            raise ModelError(
                f"The {what} {base.name!r} is no longer the one that {self._run.path} was started with. "
                "Put it back, or start a new run."
            )
        return base

    def task_base(self) -> tuple[Base, PromptBuilder]:
        """The variant's task base, trained if it is not in the store, and its prompt builder."""
        variant, reporter = self.variant, self._reporter
        base = self.load_base()
        if base.caution:
            reporter.console.print(f"[yellow]{escape(base.caution)}[/]")
            way = "packed" if base.supports_packing else "padded" if base.supports_padding else "alone"
            reporter.event(way, variant=variant.title, reason=base.caution)
        builder = variant.prompt_builder(base.tokenizer, self._compute.device)
        arguments = (base, variant.task_lora, variant.dataset, builder, variant.task_config, self.store)
        with explained(f"Making the task base of {variant.title}", TrainingError):
            if self.store.intact(variant.task_lora):
                result = task_base.train_task_lora(*arguments)
            else:
                with reporter.stage(f"{variant.title} task base", 100, "%") as stage:
                    on_step = _on_step(
                        stage, 100, lambda step: reporter.report(f"{variant.title}/task LoRA", step.loss)
                    )
                    result = task_base.train_task_lora(*arguments, on_step, self._others())
        entry = self.store.entry(variant.task_lora)
        assert entry is not None
        reporter.event("task_lora", variant=variant.title, folder=entry.folder, **entry.facts)
        return result, builder

    def _others(self) -> Iterator[User]:
        """The others; with a bar where their histories have to be encoded."""
        dataset = self.variant.dataset
        if variant_method(self.variant.name).retriever != "dense":
            yield from dataset.users("others")
            return
        count = dataset.counts["others"]["users"]
        with self._reporter.stage(f"{self.variant.title} encoding", count, "users") as stage:
            for user in dataset.users("others"):
                yield user
                stage.advance()

    def with_adapter(
        self, base: Base, builder: PromptBuilder, train: Sequence[Job] = ()
    ) -> tuple[Base, PromptBuilder]:
        """The base with an adapter attached, and a prompt builder that leaves room for the adapter's tokens.

        Args:
            base: The task base.
            builder: Its prompt builder.
            train: Which adapters to train where the store does not have them: ``personal``, ``pooled``.
        """
        trainer, builder = self.trainer(base, builder)
        if "personal" in train:
            with explained(f"Training the adapters of {self.variant.title}", TrainingError):
                self._train(self.cohorts(trainer, builder))
        if "pooled" in train:
            with explained(f"Training the pooled adapter of {self.variant.title}", TrainingError):
                self._train_pooled(trainer, builder)
        return trainer.base, builder

    def trainer(self, base: Base, builder: PromptBuilder) -> tuple[Trainer, PromptBuilder]:
        """A trainer of adapters on the task base, and a prompt builder that leaves room for their tokens."""
        config = self.variant.personal_config
        builder = dataclasses.replace(builder, counter=base.tokenizer.leaving(config.prefix))
        with explained(f"Attaching an adapter of {self.variant.title}", TrainingError):
            return Trainer.of(base, config), builder

    def _train_elsewhere(self, cluster: Elsewhere) -> None:
        with (
            explained(f"Training the adapters of {self.variant.title}", TrainingError),
            cluster.cohorts(self.variant, self._compute.device, self.store, self._plan) as cohorts,
        ):
            self._train(cohorts)

    @functools.cached_property
    def _plan(self) -> CohortPlan:
        path = self._run.plan_path(self.variant.task.name)
        return CohortPlan(path, self.variant.name, self._compute.users_at_once)

    def _train(self, cohorts: personal.Cohorts) -> None:
        variant, reporter = self.variant, self._reporter
        with reporter.stage(f"{variant.title} adapters", len(self._users), "users") as stage:

            def on_user(done: personal.UserDone) -> None:
                facts = {name: value for name, value in dataclasses.asdict(done).items() if value is not None}
                reporter.event("user", variant=variant.title, **facts)
                if done.loss is not None:
                    # Identified by the adapter's key, a hash of the user's id and history.
                    reporter.report(f"{variant.title}/adapters", done.loss, adapter=Path(done.folder).name)
                if done.cached:
                    stage.advance()
                elif done.reason:
                    stage.advance()
                    reporter.console.print(
                        f"[yellow]User {escape(repr(done.user_id))} is set aside in {variant.title}: "
                        f"{escape(done.reason)}.[/]"
                    )

            personal.train_personal(
                cohorts,
                [(user, variant.key_of(user)) for user in self._users],
                self.store,
                on_user,
                _on_step(stage, 1),
                self._plan,
            )

    def cohorts(self, trainer: Trainer, builder: PromptBuilder) -> personal.LocalCohorts:
        """Whoever trains cohorts of this variant's users in this process."""
        variant, tokenizer = self.variant, trainer.base.tokenizer
        return personal.LocalCohorts(
            trainer,
            ((user, variant.key_of(user)) for user in self._users),
            lambda user: tokenize(builder.history_examples(variant.name, user), tokenizer),
            self.store,
        )

    def _train_pooled(self, trainer: Trainer, builder: PromptBuilder) -> None:
        variant, reporter, tokenizer = self.variant, self._reporter, trainer.base.tokenizer
        rows = [
            row
            for user in self._users
            for row in tokenize(builder.history_examples(variant.name, user), tokenizer)
        ]
        with reporter.stage(f"{variant.title} pooled adapter", 100, "%") as stage:
            reason = train_pooled(trainer, variant.pooled_key, rows, self.store, _on_step(stage, 100))
        if reason:
            reporter.console.print(
                f"[yellow]{variant.title} has no pooled adapter: {escape(reason)}.[/]", soft_wrap=True
            )
        reporter.event("pooled", variant=variant.title, folder=variant.pooled_key.folder, reason=reason)

    def _can(self, method: Method, user: User) -> bool:
        """Whether the adapter is there by which a method answers a user."""
        with contextlib.suppress(StoreError):  # a single user has no stranger
            return self.store.has(self.variant.adapter_key(method, user))
        return False

    def _unanswered(self, method: Method) -> bool:
        done = self._run.predictions(self.variant.task.name, method.name)
        return any((user.user_id, query.id) not in done for user in self._users for query in user.queries)

    def _answer(self, base: Base, method: Method, builder: PromptBuilder) -> None:
        task = self.variant.task
        journal = Journal(self._run.predictions_path(task.name, method.name))
        users = self._users if not method.adapter else [u for u in self._users if self._can(method, u)]
        order = [(user.user_id, query.id) for user in users for query in user.queries]
        wanted = set(order)
        answers = {key: value for key, value in journal.read().items() if key in wanted}
        title = f"{task.name} {method.name}"
        with (
            explained(f"Answering {title}", ModelError),
            self._reporter.stage(f"{title} answers", len(order), "queries") as stage,
        ):
            stage.advance(len(answers))
            for unit in answer(
                base,
                method,
                users,
                builder,
                answer_rules(self._run.config, task, base.tokenizer),
                done=set(answers),
                adapter_of=lambda user: load_adapter(self.store, self.variant, method, user),
                batch_size=self._compute.batch_size,
            ):
                journal.add(unit)
                new = {(one.user_id, one.id): one for one in unit}
                stage.advance(len(new.keys() - answers.keys()))
                answers.update(new)
        journal.finish(answers, order)


def _always(state: State) -> Callable[[User], State]:
    return lambda user: state


def _on_step(
    stage: Stage, total: float, report: Callable[[Progress], None] = lambda step: None
) -> Callable[[Progress], None]:
    """A callback that advances a stage by `total` over the steps of one training, and reports each step."""

    def on_step(step: Progress) -> None:
        stage.advance(total / step.steps, loss=step.loss, tokens=step.tokens)
        report(step)

    return on_step
