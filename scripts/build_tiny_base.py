"""Build the tiny base that ships inside oppu-core: ``uv run python scripts/build_tiny_base.py``.

A Llama of about a million parameters with an own BPE tokenizer, pretrained from scratch on texts of the
sample world: passing users of the pretraining audience whose preferences are drawn anew for every text, in
the prompts of all tasks and all prompt constructions. It learns what descriptions, tags, articles and
headlines look like and how prompts are answered; it never meets a user of a dataset twice or at all.

Seeded: the same command on the same machine gives the same folder.
"""

import argparse
import concurrent.futures
import json
import math
import random
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from oppu_core.data.sample import GRAMMARS, world_texts
from oppu_core.modeling.base_files import TINY_FOLDER
from oppu_core.modeling.tokenizer import Tokenizer
from oppu_core.prompting.builder import PromptBuilder
from oppu_core.prompting.retrieval import BM25Retriever
from oppu_core.tasks.task import Task
from oppu_core.tasks.task_files import TASKS
from rich.console import Console
from tokenizers import Tokenizer as HFTokenizer
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CONTEXT = 512
VOCABULARY = 3072
SPECIAL = ["<s>", "</s>", "<pad>"]
# Prompt constructions and their share of the texts; the same ones that the main table is made of.
VARIANTS = (("base", 0.6), ("rag_k1", 0.2), ("pag_k0", 0.12), ("pag_k1", 0.04), ("rag_k2", 0.04))
CONTEXT_LOSS = 0.1  # weight of a prompt's tokens beside an answer's
CONTEXT_SHARE = 0.25  # how many of a prompt's tokens are asked: the output head is a third of the work


class _Unlimited:
    """A token counter for making texts before there is a tokenizer."""

    context = 1_000_000

    def prompt_ids(self, text: str) -> list[int]:
        return []

    def answer_ids(self, text: str) -> list[int]:
        return []


def documents(seed: int) -> Iterator[list[tuple[str, str]]]:
    """An endless stream of documents, each a list of (text, answer) pieces of one passing user.

    Half of them are plain lists: a history's items as personal training reads them and a query, without
    instructions (many answers for few tokens). Half are one prompt with its answer.
    """
    rng = random.Random(f"tiny base/{seed}")
    builders = {
        name: PromptBuilder(TASKS[name], _Unlimited(), {"bm25": BM25Retriever(TASKS[name])})
        for name in GRAMMARS
    }
    variants, weights = zip(*VARIANTS, strict=True)
    while True:
        task = TASKS[rng.choice(sorted(GRAMMARS))]
        if rng.random() < 0.5:
            user = world_texts(task, rng, 6)
            pieces = [piece for item in user.history if (piece := _piece(task, item.fields))]
            yield [*pieces, *((task.query_text(query.fields), query.gold or "") for query in user.queries)]
        else:
            variant = rng.choices(variants, weights)[0]
            user = world_texts(task, rng, 0 if variant == "base" else rng.randrange(4, 16))
            for example in builders[task.name].query_examples(variant, user):
                yield [(example.prompt, example.answer)]


def _piece(task: Task, fields: Mapping[str, str]) -> tuple[str, str] | None:
    """A history item as personal training reads it, without the instruction."""
    if task.output_field is not None:
        return task.query_text(fields), fields[task.output_field]
    return next((pair for form in task.personal_formats if (pair := form.render(fields))), None)


def tokenize(document: list[tuple[str, str]], tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    """Token ids of a document and whether each is part of an answer."""
    ids: list[int] = []
    is_answer: list[bool] = []
    for number, (text, answer) in enumerate(document, 1):
        prompt = tokenizer.prompt_ids(text)
        if ids:  # one line after the other: a newline ends an answer, the document ends with end-of-text
            prompt = tokenizer.prompt_ids("\n" + text)[1:]
        target = tokenizer.answer_ids(answer)[: None if number == len(document) else -1]
        ids += prompt + target
        is_answer += [False] * len(prompt) + [True] * len(target)
    return ids, is_answer


def batches(
    seed: int, tokenizer: Tokenizer, tokens: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Endless padded batches (ids_BT, is_token_BT, is_answer_BT) of about `tokens` tokens."""
    stream = documents(seed)
    rng = random.Random(f"tiny base batches/{seed}")
    while True:
        rows = sorted((tokenize(next(stream), tokenizer) for _ in range(256)), key=lambda row: len(row[0]))
        groups: list[list[tuple[list[int], list[bool]]]] = [[]]
        for row in rows:
            if (len(groups[-1]) + 1) * len(row[0]) > tokens and groups[-1]:
                groups.append([])
            groups[-1].append(row)
        rng.shuffle(groups)
        for group in groups:
            shape = (len(group), len(group[-1][0]))
            ids_BT, is_token_BT, is_answer_BT = (
                torch.zeros(shape, dtype=torch.long),
                torch.zeros(shape),
                torch.zeros(shape),
            )
            for b, (ids, is_answer) in enumerate(group):
                ids_BT[b, : len(ids)] = torch.tensor(ids)
                is_token_BT[b, : len(ids)] = 1
                is_answer_BT[b, : len(ids)] = torch.tensor(is_answer, dtype=torch.float)
            yield ids_BT, is_token_BT, is_answer_BT


def train_tokenizer(seed: int, texts: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer over the world's prompts and answers."""
    tokenizer = HFTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    stream = documents(seed)
    lines = ["\n".join(f"{text} {answer}" for text, answer in next(stream)) for _ in range(texts)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=CONTEXT,
    )


def train(args: argparse.Namespace, tokenizer: Tokenizer, console: Console) -> LlamaForCausalLM:
    """A model pretrained for `args.steps` steps."""
    config = LlamaConfig(
        vocab_size=len(tokenizer.hf),
        hidden_size=args.hidden,
        intermediate_size=3 * args.hidden,
        num_hidden_layers=args.layers,
        num_attention_heads=args.hidden // 32,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    model = LlamaForCausalLM(config)
    console.print(f"{model.num_parameters():,} parameters, vocabulary {len(tokenizer.hf):,}")
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=args.learning_rate, weight_decay=0.1, betas=(0.9, 0.98)
    )

    def rate(step: int) -> float:
        warm = min(1.0, (step + 1) / 100)
        return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / args.steps)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    stream = batches(args.seed + 1, tokenizer, args.batch_tokens)
    ahead = concurrent.futures.ThreadPoolExecutor(1)  # texts are made while the model computes
    upcoming = ahead.submit(next, stream)
    start = time.monotonic()
    for step in range(args.steps):
        ids_BT, is_token_BT, is_answer_BT = upcoming.result()
        upcoming = ahead.submit(next, stream)
        hidden_BTd = model.model(input_ids=ids_BT, attention_mask=is_token_BT.long()).last_hidden_state
        is_answer_BT = is_answer_BT[:, 1:] > 0
        sampled_BT = torch.rand(is_answer_BT.shape) < CONTEXT_SHARE
        kept_BT = is_answer_BT | (sampled_BT & (is_token_BT[:, 1:] > 0))
        logits_NV = model.lm_head(hidden_BTd[:, :-1][kept_BT])
        losses_N = torch.nn.functional.cross_entropy(logits_NV, ids_BT[:, 1:][kept_BT], reduction="none")
        is_answer_N = is_answer_BT[kept_BT].float()
        weights_N = is_answer_N + CONTEXT_LOSS / CONTEXT_SHARE * (1 - is_answer_N)
        loss = (losses_N * weights_N).sum() / weights_N.sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            answers = ((losses_N * is_answer_N).sum() / is_answer_N.sum()).item()
            seconds = time.monotonic() - start
            console.print(f"step {step:5d}  loss {loss.item():.3f}  answers {answers:.3f}  {seconds:.0f} s")
    return model


def main() -> None:
    """Train tokenizer and model, and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=TINY_FOLDER)
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    tokenizer = train_tokenizer(args.seed, 8_000)
    model = train(args, Tokenizer(tokenizer, CONTEXT), Console())
    size = model.num_parameters()

    args.out.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    (args.out / "generation_config.json").unlink(missing_ok=True)
    facts = {"parameters": size, "steps": args.steps, "batch_tokens": args.batch_tokens, "seed": args.seed}
    (args.out / "README.md").write_text(
        "# The tiny base\n\nBuilt by `scripts/build_tiny_base.py`: "
        + json.dumps(facts, sort_keys=True)
        + "\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
