"""The speed of answering: ``uv run python benchmarks/answering.py --help``.

Twenty users of the sample world ask twenty queries each (lamp_2m), every answer has four new tokens, and
every user has an adapter of their own (random weights, so that they matter). Packed rows with stacked
adapters, against the usual way: one query at a time with ``generate``, adapters swapped between users. All
tokens are compared in the same run.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from oppu_core.data.sample import sample_users
from oppu_core.modeling.adapters import State, load_state
from oppu_core.modeling.base import load_base
from oppu_core.modeling.packed_model import PackedModel, prompts
from oppu_core.modeling.packing import pack
from oppu_core.modeling.stacked_adapters import StackedAdapters, stack_states
from oppu_core.process import tune_process
from oppu_core.prompting.builder import PromptBuilder
from oppu_core.prompting.methods import parse_method
from oppu_core.tasks.task_files import get_task
from rich.console import Console
from rich.table import Table
from shapes import Subject, load_subject

NEW_TOKENS = 4
BOUNDS = {"tiny": 10.0, "60m": 5.0}
Groups = list[list[list[int]]]  # users' prompts as token ids


def asked(users: int, queries: int) -> Groups:
    """The prompts of the sample world, in the tokens of the shipped base."""
    task, tokenizer = get_task("lamp_2m"), load_base("tiny", device="cpu").tokenizer
    builder, method = PromptBuilder(task, tokenizer, {}), parse_method("oppu_k0")
    people = sample_users(task, test_users=users, other_users=0, queries=queries)
    return [
        [tokenizer.prompt_ids(builder.query_prompt(method, user, query, "").text) for query in user.queries]
        for user in people
    ]


def random_states(subject: Subject, count: int) -> list[State]:
    """Adapters that change answers."""
    draw = torch.Generator().manual_seed(0)
    return [
        {name: torch.randn(w.shape, generator=draw) / w.shape[-1] ** 0.5 for name, w in subject.fresh.items()}
        for _ in range(count)
    ]


def one_at_a_time(subject: Subject, groups: Groups, states: list[State]) -> Groups:
    """The usual way."""
    written: Groups = []
    device = subject.model.device
    for group, state in zip(groups, states, strict=True):
        load_state(subject.model, state)
        written.append([])
        for ids in group:
            with torch.inference_mode():
                output = subject.model.generate(
                    input_ids=torch.tensor([ids], device=device),
                    attention_mask=torch.ones(1, len(ids), dtype=torch.long, device=device),
                    max_new_tokens=NEW_TOKENS,
                    min_new_tokens=NEW_TOKENS,
                    do_sample=False,
                    pad_token_id=subject.pad_id,
                )
            written[-1].append(output[0, len(ids) :].tolist())
    return written


def together(subject: Subject, groups: Groups, states: list[State], batch_size: int) -> Groups:
    """Packed rows: a unit of users at a time."""
    written: Groups = [[] for _ in groups]
    stacked, plain = StackedAdapters(subject.model), subject.model.get_base_model()
    at_once = max(1, batch_size // max(map(len, groups)))
    for start in range(0, len(groups), at_once):
        part = groups[start : start + at_once]
        stacked.weights = stack_states(states[start : start + at_once], plain.device)
        with PackedModel(plain) as packed_model, stacked.active():
            packed = pack([prompts(group) for group in part], subject.pad_id).to(plain.device)
            # Nothing stops an answer: every one has the same number of new tokens.
            written[start : start + at_once] = packed_model.greedy(packed, NEW_TOKENS, [])
    return written


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """(seconds, result)."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["tiny", "60m"], help="tiny, 60m, 0.5b, 7b or a folder")
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=64, help="prompts at a time")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default=None)
    parser.add_argument("--json", type=Path, default=None, help="also write the table here")
    args = parser.parse_args()

    groups = asked(args.users, args.queries)
    rows = [
        measured(name, groups, args.repeats, args.batch_size, args.device, args.dtype) for name in args.model
    ]
    tokens = [len(ids) for group in groups for ids in group]
    Console().print(
        f"{args.users} users × {args.queries} queries, {min(tokens)}–{max(tokens)} prompt tokens, "
        f"{NEW_TOKENS} new ones; medians of {args.repeats}, in turn; {torch.get_num_threads()} threads, "
        f"{args.device}."
    )
    Console().print(table_of(rows))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def measured(
    name: str,
    groups: Groups,
    repeats: int,
    batch_size: int,
    device: str = "cpu",
    dtype: str | None = None,
) -> dict[str, Any]:
    """Both ways in turn on one base; see the module for what is compared."""
    subject = load_subject(name, device, dtype)
    states = random_states(subject, len(groups))
    one_at_a_time(subject, groups[:1], states[:1])
    together(subject, groups[:2], states[:2], batch_size)
    slow, fast = [], []
    for _ in range(repeats):
        seconds, expected = timed(lambda: one_at_a_time(subject, groups, states))
        slow.append(seconds)
        seconds, got = timed(lambda: together(subject, groups, states, batch_size))
        fast.append(seconds)
    answers = [(a, b) for theirs, ours in zip(expected, got, strict=True)
               for a, b in zip(theirs, ours, strict=True)]  # fmt: skip
    return {
        "base": name,
        "one_at_a_time": statistics.median(slow),
        "together": statistics.median(fast),
        "ratio": statistics.median(a / b for a, b in zip(slow, fast, strict=True)),
        "at_least": BOUNDS.get(name),
        "different": sum(a != b for a, b in answers),
        "answers": len(answers),
    }


def table_of(rows: list[dict[str, Any]]) -> Table:
    """The rows of :func:`measured`."""
    table = Table("base", "one at a time (s)", "together (s)", "ratio", "at least", "answers that differ")
    for row in rows:
        met = "" if row["at_least"] is None else " met" if row["ratio"] >= row["at_least"] else " NOT MET"
        table.add_row(
            row["base"],
            f"{row['one_at_a_time']:.2f}",
            f"{row['together']:.3f}",
            f"{row['ratio']:.1f}",
            f"{row['at_least'] or '–'}{met}",
            f"{row['different']} of {row['answers']}",
        )
    return table


if __name__ == "__main__":
    tune_process()  # as the command line does; for all ways alike
    main()
