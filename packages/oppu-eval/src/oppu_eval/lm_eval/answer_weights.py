"""The weights that answers depend on: a task base and every user's adapter, identified by their bytes."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from oppu_core.errors import StoreError
from oppu_core.modeling.base_files import base_tokenizer
from oppu_core.modeling.tokenizer import Tokenizer
from oppu_core.prompting.methods import Method
from oppu_core.runs.jobs import VariantJobs
from oppu_core.runs.options import Compute
from oppu_core.runs.progress import ProgressReporter
from oppu_core.runs.run import Run
from oppu_core.runs.variants import Variant
from oppu_core.storage.files import content_id
from oppu_core.storage.store import Store, is_store
from rich.console import Console

from oppu_eval.lm_eval.source import Source

Key = tuple[str, str, str]
KEY = ("task", "data", "method")


@dataclasses.dataclass(frozen=True)
class AnswerWeights:
    """The weights of one method of one task.

    Attributes:
        jobs: Load its task base and adapters.
        method: The method.
        counter: Counts tokens, for a context without the tokens of a soft prompt.
        weights: What an answer depends on besides the prompt: a hash by user id, or one for all under None.
        failed: Why users have no adapter, by user id.
    """

    jobs: VariantJobs
    method: Method
    counter: Tokenizer
    weights: Mapping[str | None, str]
    failed: Mapping[str, str]

    @property
    def variant(self) -> Variant:
        """Its variant."""
        return self.jobs.variant

    @property
    def key(self) -> Key:
        """A key that is unique in a process."""
        return self.variant.task.name, self.variant.dataset.fingerprint[:16], self.method.name

    def request(self, user_id: str, chat: bool) -> dict[str, Any]:
        """What a user's request says of the weights that answer it."""
        user = user_id if self.method.adapter else None
        about = {**dict(zip(KEY, self.key, strict=True)), "user": user, "weights": self.weights[user]}
        return {**about, "chat": True} if chat else about


def answer_weights_of(
    run: Run, source: Source, method: Method, device: str, batch_size: int
) -> AnswerWeights:
    """Find the weights of a method of a task; nothing is trained.

    Args:
        run: The run with the weights.
        source: The source of the queries.
        method: How they will be answered.
        device: Where to compute.
        batch_size: Prompts per batch.

    Raises:
        StoreError: the task base or adapters are missing or damaged; the message names users and what to run.
    """
    if not is_store(run.store_path):
        raise StoreError(
            f"The weights of {run.path} are not at {run.store_path} any more. Put the store back, or train "
            f"again: `oppu personal train --run {run.path}`."
        )
    store = Store(run.store_path)
    variant = Variant(run, source.dataset, source.users, source.profiles, method.variant)
    compute = Compute(device=device, batch_size=batch_size)
    jobs = VariantJobs(variant, store, compute, ProgressReporter(Console(stderr=True)))
    where = f"{source.dataset.task.name}, {method.name}"
    base = store.digest(variant.task_lora)
    if base is None:
        raise StoreError(
            f"{run.path} has no task base of the variant {method.variant} ({where}). {_advice(run, method)}"
        )
    store.load(variant.task_lora)  # refuses damaged weights: answering never trains
    fixed = [run.base_identity().to_json(), base, run.config.constrain]
    weights: dict[str | None, str] = {None: content_id(fixed)}
    failed: dict[str, str] = {}
    missing: list[str] = []
    for user in source.users if method.adapter else ():
        key = variant.adapter_key(method, user)
        if (digest := store.digest(key)) is not None:
            weights[user.user_id] = content_id([*fixed, user.user_id, digest])
        elif (reason := store.failure(key)) is not None:
            failed[user.user_id] = reason
        else:
            missing.append(user.user_id)
    if missing or (failed and len(failed) == len(source.users)):
        named = missing or list(failed)
        raise StoreError(
            f"{len(named)} of {len(source.users)} test users have no adapter ({where}): "
            f"{', '.join(map(repr, named[:5]))}{' …' if len(named) > 5 else ''}. {_advice(run, method)}"
        )
    tokenizer = base_tokenizer(run.config.model, run.config.prompt_format)
    counter = tokenizer.leaving(variant.personal_config.prefix if method.adapter else 0)
    return AnswerWeights(jobs, method, counter, weights, failed)


def _advice(run: Run, method: Method) -> str:
    if (run.path / "run.json").exists() and method.name in run.config.methods:
        return f"Run `oppu personal train --run {run.path}`."
    data = " ".join(f"--data {path}" for path in run.config.data.values())
    methods = ",".join(dict.fromkeys([*run.config.methods, method.name]))
    return (
        f"Start a run that has it: `oppu run --run … {data} --model {run.config.model} "
        f"--store {run.store_path} --methods {methods}` (what is in the store is not trained again)."
    )
