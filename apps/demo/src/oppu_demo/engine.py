"""One base in memory for everything that the page answers and trains.

Task LoRAs are kept beside the base's weights and swapped between tasks and variants; personal adapters are
stacked on top. This computes the same as `oppu answer`, where the task LoRA is merged. Every use of the model
takes a turn; trainings pass their turn on between steps.
"""

import contextlib
import dataclasses
import functools
import threading
import time
from collections.abc import Callable, Mapping

from oppu_core.data.types import Query, User
from oppu_core.errors import ConfigError, ModelError, StoreError, TrainingError, explained
from oppu_core.modeling.adapters import TASK, State, adapter_state, attach, load_state
from oppu_core.modeling.base import Base
from oppu_core.modeling.packing import tokenize
from oppu_core.prompting.builder import Prompt, PromptBuilder
from oppu_core.prompting.methods import Method, parse_method
from oppu_core.prompting.profiles import compute_profile
from oppu_core.prompting.retrieval import BM25Retriever, DenseRetriever, Retriever
from oppu_core.runs.answering import answer_rules, generate_answers, load_adapter
from oppu_core.runs.jobs import VariantJobs
from oppu_core.runs.options import Compute
from oppu_core.runs.run import Run
from oppu_core.runs.variants import Variant, prompt_builder, variants_of
from oppu_core.storage.keys import Key
from oppu_core.storage.store import Store, is_store
from oppu_core.tasks.task import Task
from oppu_core.training.loop import Outcome, Progress, Trained
from oppu_core.training.trainer import Trainer

from oppu_demo.turns import Turns

CACHED_ADAPTERS = 64


@dataclasses.dataclass(frozen=True)
class Answered:
    """An answer, its prompt, and its time in seconds (without waiting for a turn)."""

    method: str
    text: str
    prompt: Prompt
    seconds: float


@dataclasses.dataclass(frozen=True)
class _Stage:
    """One variant of one task."""

    variant: Variant
    task_lora: State


class Engine:
    """Answers and trains for a run, from any thread.

    Args:
        run: A run whose task bases are trained.
        device: Where to compute.

    Attributes:
        run: The run.
        tasks: Its tasks, by name.

    Raises:
        OppuError: the base or a task LoRA is missing, or the run's settings do not fit one model.
    """

    def __init__(self, run: Run, device: str = "auto") -> None:
        self.run, self._encoder = run, run.encoder(device)
        self._opened_with = self._description()
        self._turns = Turns()
        self._prompting = threading.Lock()  # retrievers and tokenizers have caches
        self._methods = {name: parse_method(name) for name in run.config.methods}
        if not is_store(run.store_path):
            raise StoreError(f"The weights of {run.path} are not at {run.store_path}; put the store back.")
        with contextlib.closing(Store(run.store_path)) as store:
            self._stages = {
                (variant.task.name, variant.name): _Stage(variant, store.load(variant.task_lora))
                for variant in variants_of(run)
            }
            variants = [stage.variant for stage in self._stages.values()]
            self._base = VariantJobs(variants[0], store, Compute(device=device)).load_base()
        self._first = {variant.task.name: variant for variant in variants}  # any variant of a task
        self.tasks: dict[str, Task] = {name: one.task for name, one in self._first.items()}
        self._users = {name: {user.user_id: user for user in v.users} for name, v in self._first.items()}
        shapes = {
            (v.task_config.targets, v.task_config.rank, v.task_config.alpha, v.personal_config.method,
             v.personal_config.targets, v.personal_config.rank, v.personal_config.alpha,
             v.personal_config.prefix)
            for v in variants
        }  # fmt: skip
        if len(shapes) > 1:
            raise ConfigError(
                f"The tasks of {run.path} have adapters of different shapes, which one page cannot hold; "
                "make a run for each of them."
            )
        # Checkpointing is for a single training, not for the model that everybody shares.
        task_config = dataclasses.replace(variants[0].task_config, gradient_checkpointing=False)
        personal_config = dataclasses.replace(variants[0].personal_config, gradient_checkpointing=False)
        self._task_model = attach(self._base.model, task_config, TASK)
        self._model = attach(self._task_model.get_base_model(), personal_config)
        self._fresh = adapter_state(self._model)
        self._standing: tuple[str, str] | None = None
        self._builders: dict[str, PromptBuilder] = {
            name: prompt_builder(
                variant.dataset,
                self._base.tokenizer,
                variant.profiles,
                list(self._methods.values()),
                run.config.seed,
                self._encoder,
            )
            for name, variant in self._first.items()
        }
        self._rules = {
            name: answer_rules(run.config, task, self._base.tokenizer) for name, task in self.tasks.items()
        }
        self._adapter = functools.lru_cache(CACHED_ADAPTERS)(self._read_adapter)

    @property
    def methods(self) -> list[str]:
        """The run's methods, in its order."""
        return list(self._methods)

    @property
    def base(self) -> Base:
        """The base."""
        return self._base

    def users(self, task: str) -> Mapping[str, User]:
        """The run's test users of a task, by id."""
        return self._users[task]

    def personal_variants(self, task: str) -> list[str]:
        """The variants of a task that have personal adapters."""
        return [
            variant for name, variant in self._stages if name == task and self._variant(name, variant).own
        ]

    def keys(self, task: str, user: User) -> dict[str, Key]:
        """The keys of a run's user's adapters in the store, by variant."""
        return {
            variant: self._variant(task, variant).key_of(user) for variant in self.personal_variants(task)
        }

    def profile(self, task: str, user: User) -> str:
        """A user's profile text."""
        known = self._users[task].get(user.user_id)
        return self._first[task].profiles(user) if known is user else self._fresh_profile(task, user)

    def answer(
        self, task: str, name: str, user: User, query: Query, adapters: Mapping[str, State] | None = None
    ) -> Answered:
        """Answer a query as `oppu answer` does.

        Args:
            task: The task's name.
            name: The method's name.
            user: One of the run's users, or a visitor with `adapters`.
            query: The query.
            adapters: A visitor's own adapters by variant.

        Raises:
            StoreError: the user has no adapter.
            DataError: the query does not fit into the base's context.
        """
        method = self._methods[name]
        self.check_current()
        stage = self._stages[task, method.variant]
        private = self._users[task].get(user.user_id) is not user
        builder = self._builder(task, method, private)
        with self._prompting:
            profile = self.profile(task, user) if method.profile else ""
            prompt = builder.query_prompt(method, user, query, profile)
        states = None
        if method.adapter:
            if adapters is None:
                states = [self._adapter(task, name, user.user_id)]
            else:
                states = [adapters[method.variant] if method.personal else self._load(task, name, user)]
        rules = self._rules[task]
        with self._turns.turn(), explained(f"The answer of {name}", ModelError):
            start = time.perf_counter()
            base = self._stand(stage, adapted=bool(method.adapter))
            if private:
                base = dataclasses.replace(base, tokenizer=base.tokenizer.forgetful())
            ((text,),) = generate_answers(base, [[prompt.text]], states, rules)
            return Answered(name, text, prompt, time.perf_counter() - start)

    def check_current(self) -> None:
        """Refuse to go on if somebody was forgotten since the page was opened: it has everybody in memory."""
        if self._description() != self._opened_with:
            raise StoreError(
                f"{self.run.path} has changed since this page was opened: somebody was forgotten, or it was "
                "started anew. Start the page again."
            )

    def _description(self) -> bytes | None:
        file = self.run.path / "run.json"
        return file.read_bytes() if file.exists() else None

    def train(
        self, task: str, user: User, on_step: Callable[[str, Progress], None]
    ) -> dict[str, tuple[Trained, State]]:
        """Train a visitor's own adapters, one for each variant; nothing is stored.

        Args:
            task: The task's name.
            user: The visitor's history.
            on_step: Called after every step with the variant; an exception in it ends the training.

        Returns:
            {variant: (result, adapter)}.

        Raises:
            TrainingError: the history cannot be trained on.
        """
        trained: dict[str, tuple[Trained, State]] = {}
        for variant in self.personal_variants(task):
            outcome = self._train(self._stages[task, variant], user, functools.partial(on_step, variant))
            if isinstance(outcome, TrainingError):
                raise outcome
            trained[variant] = outcome
        return trained

    def _train(self, stage: _Stage, user: User, on_step: Callable[[Progress], None]) -> Outcome:
        task, config = stage.variant.task.name, stage.variant.personal_config
        method = parse_method("oppu_k0")
        builder = dataclasses.replace(
            self._builder(task, method, private=True), profile_of=lambda one: self._fresh_profile(task, one)
        )
        rows = tokenize(builder.history_examples(stage.variant.name, user), self._base.tokenizer.forgetful())

        def step(_: int, progress: Progress) -> None:
            on_step(progress)
            if trainer.together:  # else the model holds half-trained weights
                self._turns.pass_on()
                self._stand(stage, adapted=True)

        with self._turns.turn(), explained("The training", TrainingError):
            trainer = Trainer(self._stand(stage, adapted=True), config, self._fresh)
            ((_, outcome),) = trainer.train([rows], step)
            return outcome

    def _stand(self, stage: _Stage, adapted: bool) -> Base:
        """Put a variant's task LoRA beside the base; only within a turn."""
        place = stage.variant.task.name, stage.variant.name
        if self._standing != place:
            load_state(self._task_model, stage.task_lora, TASK)
            self._standing = place
        if adapted:
            return dataclasses.replace(self._base, model=self._model)
        load_state(self._model, self._fresh)  # does not change answers; removes the previous user's adapter
        return dataclasses.replace(self._base, model=self._model.get_base_model())

    def _builder(self, task: str, method: Method, private: bool) -> PromptBuilder:
        """The builder of a method's prompts; a private one caches nothing of a history."""
        builder, tokenizer = self._builders[task], self._base.tokenizer
        if private:
            tokenizer = tokenizer.forgetful()
            one = self.tasks[task]
            fresh: dict[str, Retriever] = {
                "bm25": BM25Retriever(one),
                "dense": DenseRetriever(one, self._encoder),
            }
            builder = dataclasses.replace(builder, retrievers={**builder.retrievers, **fresh})
        taken = self._first[task].personal_config.prefix if method.adapter else 0
        return dataclasses.replace(builder, counter=tokenizer.leaving(taken))

    def _fresh_profile(self, task: str, user: User) -> str:
        return compute_profile(self.tasks[task], user.training_history)

    def _variant(self, task: str, variant: str) -> Variant:
        return self._stages[task, variant].variant

    def _read_adapter(self, task: str, name: str, user_id: str) -> State:
        return self._load(task, name, self._users[task][user_id])

    def _load(self, task: str, name: str, user: User) -> State:
        method = self._methods[name]
        with contextlib.closing(Store(self.run.store_path)) as store:
            return load_adapter(store, self._variant(task, method.variant), method, user)
