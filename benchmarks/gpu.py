"""What personal training and answering do on this GPU: ``uv run python benchmarks/gpu.py [--json FILE]``.

One command of at most eight minutes (``--limit``: parts that would begin later are left out, and said).

1. *Checks* on small random models: fast training (packed rows, stacked adapters) against the plain PEFT loop.
   In float32 both must agree (losses to 1e-4, adapters to 1e-3 relative); in bfloat16 the fast way may be no
   further from float32 than the plain one (times 1.5, plus 1e-3). Llama, Qwen2 and Gemma3; with the kernels
   of attention that torch has; greedy answers. The shipped base in every type and with NF4 and LLM.int8
   (where bitsandbytes is installed), loaded as ``oppu`` loads it: does it take packed rows?
2. *Attention*: seconds of training on shapes that are new, and on the same again, by kernel.
3. *Training* (benchmarks/training.py): the sizes of Qwen2-0.5B in cohorts of 32, of Qwen2-1.5B in 16, of
   Llama-2-7B in 8, all in bfloat16, against a plain loop that groups by length and against Trainer + PEFT.
4. *Answering* (benchmarks/answering.py): 32 users × 10 queries with 0.5 B, against ``generate`` with adapters
   swapped.

It needs torch, transformers, peft, safetensors, numpy, pyarrow, psutil and rich; the Trainer accelerate.
Without a GPU everything runs at toy size, to see that it runs. Exit status 1: a check failed or a part broke.
"""

import argparse
import contextlib
import dataclasses
import gc
import importlib.util
import json
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import answering
import torch
import training
import transformers
from oppu_core.modeling import packed_model
from oppu_core.modeling.adapters import adapter_state, attach
from oppu_core.modeling.base import load_base
from oppu_core.modeling.families import default_targets
from oppu_core.process import tune_process
from rich.console import Console
from rich.table import Table
from shapes import Subject, Users, load_subject, make_users
from torch.nn.attention import SDPBackend
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, Qwen2Config
from ways import Result, ways

LOSSES, ADAPTERS = 1e-4, 1e-3  # in float32, relative, as in tests/rounding.py
FURTHER, SLACK = 1.5, 1e-3  # in bfloat16: how much further from float32 than the plain loop
ON_GPU = torch.cuda.is_available()
SMALL: dict[str, Any] = {
    "vocab_size": 2_048,
    "hidden_size": 256 if ON_GPU else 32,
    "intermediate_size": 512 if ON_GPU else 64,
    "num_hidden_layers": 4 if ON_GPU else 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
PEOPLE, ITEMS = (3, 24) if ON_GPU else (2, 6)  # of the checks
FAMILIES = {
    "llama": LlamaConfig(**SMALL),
    "qwen2": Qwen2Config(**SMALL),
    "gemma3": Gemma3TextConfig(**SMALL, head_dim=16, sliding_window=64),
}
KERNELS = {
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
LOADED: list[dict[str, Any]] = [
    {"dtype": "float32"},
    {"dtype": "bfloat16"},
    {"dtype": "float16"},
    {"dtype": "bfloat16", "quantize": "nf4"},
    {"dtype": "float16", "quantize": "int8"},
]
Row = dict[str, Any]


def main() -> None:
    """Check, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, help="write all figures there as well, after every part")
    parser.add_argument("--limit", type=float, default=420, help="begin no part later than this, in seconds")
    parser.add_argument("--repeats", type=int, default=4, help="of each measurement")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    console, start = Console(width=110), time.monotonic()
    device = "cuda" if ON_GPU else "cpu"
    sizes = ["0.5b", "7b", "1.5b"] if device == "cuda" else ["toy"]
    name = torch.cuda.get_device_name() if device == "cuda" else "no GPU: toy sizes on the CPU"
    console.print(f"{name}, torch {torch.__version__}, transformers {transformers.__version__}")
    parts: dict[str, Any] = {"checks": lambda: checks(device, console)}
    parts["attention"] = lambda: attention(sizes[0], device, console)
    for size in sizes:
        parts[f"training {size}"] = lambda size=size: trained(size, device, args.repeats, console)
    parts["answering"] = lambda: answered(sizes[0], device, console)
    results: dict[str, Any] = {"device": name, "torch": torch.__version__}
    broken = []
    for part, work in parts.items():
        begun = time.monotonic()
        if begun - start > args.limit:
            console.print(f"[bold]{part}[/]: left out, {args.limit:.0f} s are over")
            continue
        console.print(f"[bold]{part}[/]")
        try:
            results[part] = work()
        except Exception:  # whatever it is, the other parts are worth having
            traceback.print_exc()
            broken.append(part)
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()
        console.print(f"{time.monotonic() - begun:.0f} s", style="dim")
        if args.json:
            args.json.write_text(json.dumps(results, indent=1, default=float) + "\n", encoding="utf-8")
    failed = [row["what"] for row in results.get("checks", []) if not row["ok"]]
    if broken or failed:
        sys.exit(
            f"Broken parts: {', '.join(broken) or 'none'}. Failed checks: {'; '.join(failed) or 'none'}."
        )


def small(family: str, dtype: torch.dtype, device: str, kernels: str = "sdpa") -> Subject:
    """A small random model of a family with fresh LoRA; the same weights in every type."""
    torch.manual_seed(0)
    config = FAMILIES[family]
    config._attn_implementation = kernels
    base = AutoModelForCausalLM.from_config(config, dtype=torch.float32).to(device, dtype)
    return _subject(base.eval().requires_grad_(False), 0)


def _subject(base: Any, pad_id: int) -> Subject:
    config = load_subject("toy").config
    config = dataclasses.replace(config, targets=default_targets(("query", "value"), _names(base)))
    torch.manual_seed(0)
    model = attach(base, config)
    return Subject(model, adapter_state(model), config, pad_id, base.config.vocab_size)


def _names(base: Any) -> list[str]:
    return [name for name, module in base.named_modules() if isinstance(module, torch.nn.Linear)]


@contextlib.contextmanager
def only(kernel: SDPBackend) -> Iterator[None]:
    """Let packed attention use this kernel, for the block."""
    before = list(packed_model.KERNELS)
    packed_model.KERNELS[:] = [kernel]
    try:
        yield
    finally:
        packed_model.KERNELS[:] = before


def differ(a: list[Result], b: list[Result]) -> tuple[float, float]:
    """The largest relative differences of losses and of adapters to the first ones."""
    found = training.differences({"plain": a, "fast": b})
    return found["losses"], found["adapters"]


def check(what: str, loss: float, adapter: float, loss_bound: float, adapter_bound: float) -> Row:
    """A row: differences, and what they may be. NaN fails."""
    ok = loss <= loss_bound and adapter <= adapter_bound
    return {
        "what": what, "losses": loss, "losses_bound": loss_bound,
        "adapters": adapter, "adapters_bound": adapter_bound, "ok": ok,
    }  # fmt: skip


def checks(device: str, console: Console) -> list[Row]:
    """Everything that must hold."""
    rows: list[Row] = []
    users = make_users(PEOPLE, ITEMS, SMALL["vocab_size"])
    for family in FAMILIES:
        exact = ways(small(family, torch.float32, device), PEOPLE)
        reference = exact["plain"](users)
        rows.append(check(f"{family} float32", *differ(reference, exact["fast"](users)), LOSSES, ADAPTERS))
        eager = ways(small(family, torch.float32, device, "eager"), PEOPLE)["fast"](users)
        rows.append(check(f"{family} float32, eager", *differ(reference, eager), LOSSES, ADAPTERS))
        half = ways(small(family, torch.bfloat16, device), PEOPLE)
        plain = differ(reference, half["plain"](users))
        bounds = [FURTHER * value + SLACK for value in plain]
        rows.append(check(f"{family} bfloat16", *differ(reference, half["fast"](users)), *bounds))
        for name, kernel in KERNELS.items() if device == "cuda" else ():
            with only(kernel):
                found = differ(reference, half["fast"](users))
            rows.append(check(f"{family} bfloat16, {name} kernel", *found, *bounds))
        rows.append(same_answers(family, device))
    rows += [loaded(device, **options) for options in LOADED]
    table = Table("check", "losses", "at most", "adapters", "at most", "")
    for row in rows:
        figures = [f"{row[key]:.1e}" if key in row else "" for key in
                   ("losses", "losses_bound", "adapters", "adapters_bound")]  # fmt: skip
        table.add_row(row["what"], *figures, row.get("note", "ok" if row["ok"] else "FAILED"))
    console.print(table)
    return rows


def same_answers(family: str, device: str) -> Row:
    """Greedy answers of three users at once, each through an own adapter, against ``generate``."""
    subject = small(family, torch.float32, device)
    states = answering.random_states(subject, 3)
    groups = [[list(row.ids[: row.prompt_len]) for row in rows[:4]]
              for rows in make_users(3, 4, subject.vocabulary)]  # fmt: skip
    expected = answering.one_at_a_time(subject, groups, states)
    got = answering.together(subject, groups, states, batch_size=64)
    return {"what": f"{family} float32, answers as by generate", "ok": got == expected}


def loaded(device: str, **options: Any) -> Row:
    """The shipped base as ``oppu`` loads it: packed rows are taken, and training agrees."""
    what = f"shipped base, {' '.join(options.values())}"
    if "quantize" in options and (device == "cpu" or not importlib.util.find_spec("bitsandbytes")):
        return {"what": what, "ok": True, "note": "not tried: needs bitsandbytes and a GPU"}
    base = load_base("tiny", device=device, **options)
    subject = _subject(base.model, base.tokenizer.pad_id)
    users = make_users(PEOPLE, ITEMS, subject.vocabulary)
    both = ways(subject, PEOPLE)
    loss, adapter = differ(both["plain"](users), both["fast"](users))
    exact = options == {"dtype": "float32"}
    row = check(what, loss, adapter, LOSSES if exact else 0.02, ADAPTERS if exact else 0.2)
    return row if base.supports_packing else row | {"ok": False, "note": f"not packed: {base.caution}"}


def attention(size: str, device: str, console: Console) -> list[Row]:
    """Seconds of a cohort's training on new shapes and again, by kernel of attention."""
    subject = load_subject(size, device)
    cohort = training.SHAPES[size].cohort
    kernels = {"efficient": KERNELS["efficient"], "cudnn": KERNELS["cudnn"]} if device == "cuda" else {
        "math": KERNELS["math"]}  # fmt: skip
    way = ways(subject, cohort)["fast"]
    way(training.heaviest(make_users(cohort, training.ITEMS, subject.vocabulary)))  # warm up
    rows = []
    for number, (name, kernel) in enumerate(kernels.items()):
        # Other lengths for every kernel, so that its shapes are new to it alone.
        users = make_users(cohort, 32, subject.vocabulary, (20 + number, 50 + number))
        with only(kernel):
            seconds = [_seconds(subject, way, users) for _ in range(3)]
        rows.append({"kernel": name, "new_shapes": seconds[0], "again": min(seconds[1:])})
    table = Table(
        "kernel", "new shapes (s)", "the same again (s)", title=f"{size}, two steps of {cohort} users"
    )
    for row in rows:
        table.add_row(row["kernel"], f"{row['new_shapes']:.2f}", f"{row['again']:.2f}")
    console.print(table)
    return rows


def _seconds(subject: Subject, way: Any, users: Users) -> float:
    start = training.clock(subject)
    way(users)
    return training.clock(subject) - start


def trained(size: str, device: str, repeats: int, console: Console) -> Row:
    """The figures of benchmarks/training.py."""
    line = ["--model", size, "--device", device, "--repeats", str(repeats)]
    if device == "cpu":
        line = ["--model", size, "--repeats", "1", "--users", "2", "--cohort", "2", "--skip-memory"]
    return training.run(training.arguments(line), console)


def answered(size: str, device: str, console: Console) -> Row:
    """The figures of benchmarks/answering.py, once: one at a time takes long."""
    users, queries = (32, 10) if device == "cuda" else (3, 4)
    groups = answering.asked(users, queries)
    row = answering.measured(size, groups, 1, batch_size=320, device=device)
    console.print(answering.table_of([row]))
    return row


if __name__ == "__main__":
    tune_process()  # as the command line does; for all ways alike
    main()
