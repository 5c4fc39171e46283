"""Profiles written by an instruction-tuned language model, as in the paper's Appendix I.

Each user is described from ten items of the history that personal training may see; queries and golds are
never shown. A model's reasoning is switched off if its chat template can do that, else cut. A user's text
depends on the model, the seed and the user, and on the batch only by rounding.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList

from oppu_core.data.dataset import Dataset
from oppu_core.data.schema import shown
from oppu_core.data.types import Split, User
from oppu_core.errors import ConfigError, ModelError
from oppu_core.modeling.base import Base
from oppu_core.modeling.base_files import base_folder
from oppu_core.modeling.chat import THOUGHTS, chat_frame, decode_marked, without_thoughts
from oppu_core.runs.progress import ProgressReporter
from oppu_core.runs.start import differences
from oppu_core.storage.files import (
    append_jsonl,
    content_id,
    read_appended,
    read_json,
    write_json,
    write_jsonl,
)
from oppu_core.tasks.task import Task

ITEMS = 10
WORDS = 200
TEMPERATURE = 0.6
NEW_TOKENS = 300


def write_profiles(
    dataset: Dataset,
    splits: Sequence[Split],
    base: Base,
    out: Path,
    seed: int,
    batch_size: int,
    reporter: ProgressReporter,
) -> None:
    """Write a file of profiles for ``--profiles``; if interrupted, the next call continues.

    Args:
        dataset: The dataset of the users.
        splits: The splits whose users to describe.
        base: The model that writes; its chat template is used if it has one.
        out: The file. Its settings are recorded beside it (``<out>.settings.json``).
        seed: The seed of the chosen items and of sampling.
        batch_size: Users per batch.
        reporter: Shows progress.

    Raises:
        ConfigError: `out` was begun with other settings, or is another file.
        ModelError: the model's context has no room for the instruction, or it wrote only reasoning.
    """
    task = dataset.task
    writer = Writer(task, base, seed)
    settings = {
        "task": task.name,
        "data": dataset.fingerprint,
        "splits": list(splits),
        **writer.settings,
    }
    sidecar, partial = (out.parent / f"{out.name}.{what}" for what in ("settings.json", "partial.jsonl"))
    _check_settings(out, sidecar, settings)
    if out.exists():
        return
    write_json(sidecar, settings)
    done = {row["user_id"]: row for row in read_appended(partial)}
    order: list[str] = []
    users = itertools.chain.from_iterable(dataset.users(split) for split in splits)
    total = sum(dataset.counts[split]["users"] for split in splits)
    with reporter.stage(f"{task.name} profiles", total, "users") as stage:
        for batch in _batched(users, batch_size):
            order += (user.user_id for user in batch)
            if any(user.user_id not in done for user in batch):
                rows = [
                    {"task": task.name, "user_id": user.user_id, "profile": text}
                    for user, text in zip(batch, writer.write(batch), strict=True)
                ]
                append_jsonl(partial, rows)
                done.update((row["user_id"], row) for row in rows)
            stage.advance(len(batch))
    write_jsonl(out, [done[user_id] for user_id in order])
    partial.unlink(missing_ok=True)


def _check_settings(out: Path, sidecar: Path, settings: dict[str, Any]) -> None:
    if not sidecar.exists():
        if out.exists():
            raise ConfigError(f"{out} exists and was not written by `oppu profiles`; choose another --out.")
        return
    if changes := list(differences(read_json(sidecar), settings)):
        raise ConfigError(
            f"{out} was begun with other settings:\n"
            + "\n".join(f"  {name}: {before!r} then, {after!r} now" for name, before, after in changes)
            + f"\nUse those, or another --out, or remove {sidecar} and what lies beside it."
        )


def _batched(users: Iterator[User], size: int) -> Iterator[list[User]]:
    while batch := list(itertools.islice(users, size)):
        yield batch


class Writer:
    """A language model that describes users.

    Args:
        task: The task, which has the instruction (:attr:`Task.profile_prompt`).
        base: The model.
        seed: The seed of the chosen items and of sampling.

    Attributes:
        settings: Everything that a text depends on, except the user.
    """

    def __init__(self, task: Task, base: Base, seed: int) -> None:
        self._task, self._base, self._seed = task, base, seed
        self._new_tokens = min(NEW_TOKENS, base.tokenizer.context // 2)
        self._frame: tuple[str, str] | None = None
        self._stop_ids = base.tokenizer.stop_ids
        chat = None
        if getattr(base.tokenizer.hf, "chat_template", None):
            self._frame = chat_frame(base.tokenizer.hf)
            self._stop_ids = _chat_stop_ids(base)
            chat = content_id([*self._frame, self._stop_ids, THOUGHTS])
        self.settings: dict[str, Any] = {
            "model": base.identity.to_json(),
            "chat_template": chat,
            "instruction": task.profile_prompt,
            "seed": seed,
            "items": ITEMS,
            "words": WORDS,
            "temperature": TEMPERATURE,
            "new_tokens": self._new_tokens,
        }

    def write(self, users: Sequence[User]) -> list[str]:
        """The users' profiles, each on one line; empty for a user without a history.

        Raises:
            ModelError: there is no room for the instruction, or the model wrote only reasoning.
        """
        asked = [user for user in users if user.training_history]
        size = len(asked) if self._base.supports_padding else 1
        texts: dict[str, str] = {}
        for batch in _batched(iter(asked), size):
            texts.update(zip((user.user_id for user in batch), self._write(batch), strict=True))
        return [texts.get(user.user_id, "") for user in users]

    def _write(self, users: Sequence[User]) -> list[str]:
        """The same for users with histories, all in one batch."""
        tokenizer, model = self._base.tokenizer, self._base.model
        rows = [self.prompt_ids(user) for user in users]
        width = max(map(len, rows))
        ids_BT = torch.tensor([[tokenizer.pad_id] * (width - len(row)) + row for row in rows])
        mask_BT = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        noise = _SeededSampling([f"profile/{self._seed}/{user.user_id}" for user in users])
        with torch.inference_mode():
            output_BT = model.generate(
                input_ids=ids_BT.to(model.device),
                attention_mask=mask_BT.to(model.device),
                max_new_tokens=self._new_tokens,
                do_sample=False,  # the added noise samples
                logits_processor=LogitsProcessorList([noise]),
                eos_token_id=self._stop_ids,
                pad_token_id=tokenizer.pad_id,
            )
        rows = output_BT[:, width:].tolist()
        return [" ".join(self._said(user, ids).split()) for user, ids in zip(users, rows, strict=True)]

    def _said(self, user: User, ids: list[int]) -> str:
        """The text of ids without reasoning, which only models with a chat template have."""
        if self._frame is None:
            text: str = self._base.tokenizer.hf.decode(ids, skip_special_tokens=True)
            return text
        written = decode_marked(self._base.tokenizer.hf, ids)
        said = without_thoughts(written)
        if written.strip() and not said.strip():
            raise ModelError(
                f"User {shown(user.user_id)}: the model wrote nothing but thoughts in {self._new_tokens} "
                "tokens. Use a model that answers without thinking, or try another --seed and --out."
            )
        return said

    def prompt_ids(self, user: User) -> list[int]:
        """The ids of the model's prompt: instruction and items, their texts shortened until they fit.

        Raises:
            ModelError: the context has no room for the instruction.
        """
        history = user.training_history
        rng = random.Random(f"profile items/{self._seed}/{user.user_id}")
        items = [
            history[index] for index in sorted(rng.sample(range(len(history)), min(ITEMS, len(history))))
        ]
        room = self._base.tokenizer.context - self._new_tokens
        words = WORDS
        while True:
            lines = [
                self._task.history_line(
                    {name: _first_words(text, words) for name, text in item.fields.items()}
                )
                for item in items
            ]
            ids = self._ids(f"{self._task.profile_prompt}\nUser History:\n" + "\n".join(lines))
            if len(ids) <= room:
                return ids
            if not words:
                raise ModelError(
                    f"The model's context of {self._base.tokenizer.context} tokens has no room for the "
                    f"instruction and {self._new_tokens} tokens of a profile. Use a model with a longer one."
                )
            words //= 2

    def _ids(self, text: str) -> list[int]:
        if self._frame is None:
            return self._base.tokenizer.prompt_ids(f"{text}\nAnswer:")
        # Only the template's own special tokens count: "<|end|>" in a user's text is seven characters.
        before, after = self._frame
        encode = self._base.tokenizer.hf
        parts = ((before, False), (text, True), (after, False))
        return [
            token
            for part, plain in parts
            for token in encode(
                part, add_special_tokens=False, split_special_tokens=plain, verbose=False
            ).input_ids
        ]


def _first_words(text: str, count: int) -> str:
    return " ".join(text.split()[:count])


def _chat_stop_ids(base: Base) -> list[int]:
    """The ids of the end of text, and of other ends of a turn that the model's folder names."""
    ids = {base.tokenizer.eos_id}
    folder = base_folder(base.name)
    if (folder / "generation_config.json").is_file():
        named = GenerationConfig.from_pretrained(str(folder)).eos_token_id
        ids.update(named if isinstance(named, list) else [] if named is None else [named])
    return sorted(ids)


class _SeededSampling:
    """Sampling at a temperature with a generator for each row, so that no row depends on the others.

    The argmax of logits / temperature + Gumbel noise has the softmax distribution (the Gumbel-max trick).
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._generators = [torch.Generator().manual_seed(int(content_id(key)[:15], 16)) for key in keys]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        noise_BV = torch.stack(
            [torch.empty(scores.shape[1]).exponential_(generator=g) for g in self._generators]
        )
        return scores.float() / TEMPERATURE - noise_BV.log().to(scores.device)
