"""Estimating how long a study will take: what is missing, at the speed of a short trial on this machine."""

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from oppu_core.data.types import User
from oppu_core.modeling.packing import tokenize
from oppu_core.prompting.builder import PromptBuilder
from oppu_core.prompting.methods import variant_method
from oppu_core.runs.answering import AnswerRules, generate_answers
from oppu_core.runs.jobs import VariantJobs
from oppu_core.runs.options import Compute, Job
from oppu_core.runs.run import Run
from oppu_core.runs.variants import Variant, variants_of
from oppu_core.storage.store import Store
from oppu_core.training.trainer import Trainer

_SAMPLE = 3  # users whose histories are sampled; of the others, 8 times as many
_TRIAL_STEPS = 3
_TRIAL_QUERIES = 32


@dataclasses.dataclass
class Missing:
    """What a study still has to do.

    Attributes:
        tokens: Tokens to train on, in all epochs.
        prompts: Prompts to answer.
        loads: How often a base is loaded.
    """

    tokens: float = 0
    prompts: int = 0
    loads: int = 0


def missing(runs: Sequence[tuple[Run, Sequence[Job]]], tokenizer: Any) -> tuple[Missing, Variant | None]:
    """What these runs lack, counting each training once, and the variant with most to do."""
    left = Missing()
    most: tuple[float, Variant | None] = (0.0, None)
    known: set[str] = set()
    for run, jobs in runs:
        with contextlib.closing(Store(run.store_path)) as store:
            for variant in variants_of(run):
                builder = variant.prompt_builder(tokenizer)
                tokens = 0.0
                if variant.task_lora.folder not in known and not store.has(variant.task_lora):
                    known.add(variant.task_lora.folder)
                    tokens += _query_tokens(variant, builder, tokenizer) * variant.task_config.epochs
                if "personal" in jobs and variant.personal:
                    users = [u for u in variant.users if not _has(store, variant, u, known)]
                    tokens += (
                        _history_tokens(variant, builder, tokenizer, users) * variant.personal_config.epochs
                    )
                if "pooled" in jobs and variant.pooled and not store.has(variant.pooled_key):
                    pool = _history_tokens(variant, builder, tokenizer, variant.users)
                    tokens += pool * variant.personal_config.epochs
                answers = variant.methods if "answers" in jobs else []
                prompts = sum(_open_queries(run, variant, method.name) for method in answers)
                if tokens or prompts:
                    left.tokens += tokens
                    left.prompts += prompts
                    left.loads += 1
                    if most[1] is None or tokens > most[0]:
                        most = tokens, variant
    return left, most[1]


def trial(variant: Variant, store: Store, device: str) -> tuple[float, float, float]:
    """Measure seconds per token of training, per prompt of answering, and per loading of the base."""
    start = time.perf_counter()
    base = VariantJobs(variant, store, Compute(device=device)).load_base()
    load = time.perf_counter() - start
    builder = variant.prompt_builder(base.tokenizer, device)
    config = dataclasses.replace(
        variant.personal_config,
        epochs=1,
        method="lora",
        targets=variant.task_config.targets,
        stop_loss=0.0,
        validate_share=0.0,
    )
    examples = (
        row
        for user in variant.users
        for row in tokenize(builder.history_examples(variant.name, user), base.tokenizer)
    )
    rows = _first(examples, _TRIAL_STEPS * config.batch_size)
    texts = _first(_prompts(variant, builder), _TRIAL_QUERIES)
    prompt = token = 0.0
    if texts:
        start = time.perf_counter()
        generate_answers(base, [texts], None, AnswerRules(builder.answer_tokens))
        prompt = (time.perf_counter() - start) / len(texts)
    if rows:
        trainer = Trainer.of(base, config)
        for _ in range(2):  # the first time includes one-time work
            start = time.perf_counter()
            list(trainer.train([rows]))
            token = (time.perf_counter() - start) / sum(len(row.ids) for row in rows)
    return token, prompt, load


def expected_seconds(
    runs: Sequence[tuple[Run, Sequence[Job]]], tokenizer: Any, device: str, tokens: float = 0
) -> float | None:
    """The expected seconds for what these runs lack, and for training on more tokens; None if nothing is."""
    left, variant = missing(runs, tokenizer)
    if variant is None and tokens:
        variant = next(variants_of(runs[0][0]))
    if variant is None:
        return None
    with contextlib.closing(Store(variant.run.store_path)) as store:
        token, prompt, load = trial(variant, store, device)
    return (left.tokens + tokens) * token + left.prompts * prompt + left.loads * load


def _has(store: Store, variant: Variant, user: User, known: set[str]) -> bool:
    key = variant.key_of(user)
    if key.folder in known or store.has(key):
        return True
    known.add(key.folder)
    return False


def _open_queries(run: Run, variant: Variant, method: str) -> int:
    done = run.predictions(variant.dataset.task.name, method)
    return sum((user.user_id, query.id) not in done for user in variant.users for query in user.queries)


def _query_tokens(variant: Variant, builder: PromptBuilder, tokenizer: Any) -> float:
    """Tokens of the others' queries, estimated from some of them."""
    others = _first(variant.dataset.users("others"), 8 * _SAMPLE)
    rows = [row for user in others for row in tokenize(builder.query_examples(variant.name, user), tokenizer)]
    queries = sum(len(user.queries) for user in others)
    total = variant.dataset.counts["others"]["queries"]
    return sum(len(row.ids) for row in rows) * total / max(1, queries)


def _history_tokens(variant: Variant, builder: PromptBuilder, tokenizer: Any, users: Sequence[User]) -> float:
    """Tokens of users' training examples, estimated from some of them."""
    by_length = sorted(users, key=lambda user: len(user.training_history))
    some = by_length[:: max(1, len(by_length) // _SAMPLE)][:_SAMPLE]
    rows = [row for user in some for row in tokenize(builder.history_examples(variant.name, user), tokenizer)]
    items = sum(len(user.training_history) for user in some)
    return sum(len(row.ids) for row in rows) * sum(len(u.training_history) for u in users) / max(1, items)


def _prompts(variant: Variant, builder: PromptBuilder) -> Iterator[str]:
    method = variant_method(variant.name)
    for user in variant.users:
        for query in user.queries:
            yield builder.query_prompt(method, user, query, variant.profiles(user)).text


def _first(values: Iterable[Any], count: int) -> list[Any]:
    return list(itertools.islice(values, count))
