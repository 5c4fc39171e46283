"""What bases were really loaded and trained: ``uv run python benchmarks/bases.py tiny FOLDER qwen3-0.6b``.

Each is loaded as any base (with the trial that finds how it can be used) and trains personal adapters as
``oppu personal train`` does: users of random tokens, a LoRA of rank 8 on query and value. Prints a row of a
table: how users are trained, tokens a second, bytes of one user's adapter, losses. A name of shapes.py stands
for random weights of that size with the tokenizer of the shipped base; else it is what ``--model`` takes.
"""

import argparse
import contextlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import safetensors.torch
import torch
import transformers
from oppu_core.errors import TrainingError
from oppu_core.modeling.base import Base, load_base
from oppu_core.modeling.base_files import TINY_FOLDER
from oppu_core.modeling.dtypes import Dtype
from oppu_core.modeling.families import default_targets
from oppu_core.modeling.skeleton import projection_names
from oppu_core.process import tune_process
from oppu_core.training.config import TrainConfig
from oppu_core.training.trainer import Trainer
from shapes import BATCH_SIZE, SHAPES, make_users
from transformers import AutoModelForCausalLM, AutoTokenizer

HEAD = (
    "| base | family | parameters | trained | tokens/s | bytes a user | loss |\n|---|---|---|---|---|---|---|"
)


@contextlib.contextmanager
def opened(name: str, dtype: Dtype, device: str) -> Iterator[Base]:
    """A base; random weights lie in a folder meanwhile."""
    if name not in SHAPES:
        yield load_base(name, dtype, device)
        return
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        config = SHAPES[name].config
        config.bos_token_id, config.eos_token_id, config.pad_token_id = 0, 1, 2
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
        AutoTokenizer.from_pretrained(TINY_FOLDER).save_pretrained(folder)
        yield load_base(folder, dtype, device)


def row(name: str, base: Base, users: int, items: int) -> str:
    """Train, and describe what came of it."""
    family, parameters = base.model.config.model_type, base.parameters
    targets = default_targets(("query", "value"), projection_names(base.model))
    trainer = Trainer.of(
        base, TrainConfig(targets, learning_rate=1e-4, epochs=2, batch_size=BATCH_SIZE, seed=0)
    )
    histories = make_users(users, items, base.model.config.get_text_config().vocab_size)
    start, outcomes = time.perf_counter(), []
    heaviest = max(histories, key=lambda rows: sum(len(one.ids) for one in rows))[:BATCH_SIZE]
    size = min(trainer.auto_size(heaviest), users)
    for first in range(0, users, size):
        outcomes += [outcome for _, outcome in trainer.train(histories[first : first + size])]
    seconds = time.perf_counter() - start
    if failed := [outcome for outcome in outcomes if isinstance(outcome, TrainingError)]:
        return (
            f"| `{Path(name).name}` | {family} | {parameters / 1e6:,.0f} M | not: {failed[0]} | – | – | – |"
        )
    states = [outcome for outcome in outcomes if not isinstance(outcome, TrainingError)]
    packed = f"packed, {size} user{'s' * (size > 1)} at once"
    padded = "padded" if base.supports_padded_training else "one example at a time"
    way = packed if trainer.together else padded
    rate = sum(trained.tokens for trained, _ in states) / seconds
    losses = " → ".join(f"{value:.2f}" for value in (states[0][0].first_loss, states[0][0].last_loss))
    adapter = len(safetensors.torch.save(states[0][1]))
    return (
        f"| `{Path(name).name}` | {family} | {parameters / 1e6:,.0f} M | {way} | {rate:,.0f} | {adapter:,} | "
        f"{losses} |"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Train on each base and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="+", help=f"tiny, a folder, a GGUF file, or {', '.join(SHAPES)}")
    parser.add_argument("--users", type=int, default=4)
    parser.add_argument("--items", type=int, default=16, help="of each user")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(arguments)
    transformers.logging.set_verbosity_error()
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, {args.device}, {args.dtype}"
        f"\n\n{HEAD}"
    )
    for name in args.models:
        with opened(name, args.dtype, args.device) as base:
            print(row(name, base, args.users, args.items), flush=True)


if __name__ == "__main__":
    tune_process()
    main()
