"""``--model oppu``: every request is answered by its user's adapter.

``run=runs/movies`` is all that it needs: base, task LoRAs, adapters, data and prompts are those of the run.
A batch mixes users, and an answer does not depend on who else is in it.

One module, though long: the harness wants one class that reads arguments, prepares tasks and answers.
"""

import dataclasses
import functools
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import simple_parse_args_string
from oppu_core.errors import ConfigError, ModelError
from oppu_core.modeling.base import Base
from oppu_core.modeling.base_files import base_folder, base_identity, base_tokenizer
from oppu_core.modeling.chat import render_chat
from oppu_core.modeling.dtypes import Dtype, PromptFormat, Quantize
from oppu_core.modeling.generation import Sampling
from oppu_core.prompting.builder import PromptBuilder
from oppu_core.prompting.methods import Method, parse_method
from oppu_core.runs.answering import AnswerRules, answer_rules, generate_answers, load_adapter, plan_units
from oppu_core.runs.from_store import run_from_store
from oppu_core.runs.options import Compute
from oppu_core.runs.run import Run, open_run
from oppu_core.storage.files import content_id
from tqdm import tqdm

from oppu_eval.lm_eval.answer_weights import KEY, AnswerWeights, Key, answer_weights_of
from oppu_eval.lm_eval.source import Source
from oppu_eval.lm_eval.task import REQUEST, Rank

_SETTINGS = {"until", "max_gen_toks", "do_sample", "temperature", "top_k", "top_p"}


class OppuLM(LM):
    """Personal adapters as a model of the harness.

    Args:
        run: A run folder; or instead of it
        pretrained: the base, and
        store: where its task LoRA and adapters are; the data are the task's.
        method: How to answer; the tasks read it, too.
        data: Read by the tasks, with `profiles`, `seed` and `encoder`.
        dtype: With `pretrained`: the type of the base's weights; a run has its own.
        device: ``auto``, ``cpu``, ``cuda`` …
        batch_size: Prompts at a time; ``auto`` takes fewer when memory runs out.
        max_batch_size: The most that ``auto`` takes.
        quantize: With `pretrained`: ``nf4`` or ``int8``; a run has its own.
        prompt_format: With `pretrained`: ``chat`` for adapters that were trained so; a run has its own.

    Raises:
        OppuError: an argument is wrong, or there is no such run.
    """

    def __init__(
        self,
        run: str | None = None,
        pretrained: str | None = None,
        store: str | None = None,
        method: str | None = None,
        data: str | None = None,
        profiles: str | Sequence[str] | None = None,
        seed: int | None = None,
        encoder: str | None = None,
        dtype: Dtype | Literal["auto"] | None = None,
        device: str | None = None,
        batch_size: int | str = "auto",
        max_batch_size: int | None = None,
        quantize: Quantize | None = None,
        prompt_format: PromptFormat | None = None,
        **unknown: Any,
    ) -> None:
        """Check the arguments; weights are loaded on demand."""
        super().__init__()
        if unknown:
            raise ConfigError(
                f"--model oppu has no argument {', '.join(map(repr, unknown))}. It has run, method; or "
                "pretrained, store, method, data, encoder, dtype, quantize, prompt_format; and device, "
                "batch_size."
            )
        self._method = parse_method(str(method)) if method is not None else None
        if (run is None) == (pretrained is None) or (store is None) == (run is None):
            raise ConfigError(
                "--model oppu needs --model_args run=FOLDER,method=… (a run of `oppu run` or "
                "`oppu quickstart`), or pretrained=BASE,store=FOLDER,data=DATASET,method=…"
            )
        self._run = open_run(Path(str(run))) if run is not None else None
        self._base_name = str(pretrained) if self._run is None else self._run.config.model
        self._store_path = Path(str(store))
        self._dtype, self._quantize = None if dtype == "auto" else dtype, quantize
        self._prompt_format = prompt_format
        for name, value, kinds in (
            ("dtype", self._dtype, Dtype),
            ("quantize", quantize, Quantize),
            ("prompt_format", prompt_format, PromptFormat),
        ):
            if value is not None and value not in get_args(kinds):
                raise ConfigError(f"{name}={value}: it is one of {', '.join(get_args(kinds))}.")
            if self._run is not None and value not in (None, getattr(self._run.config, name)):
                raise ConfigError(
                    f"{name}={value}: the adapters of {run} were trained on its base in "
                    f"{self._run.config.dtype}, {self._run.config.quantize or 'not quantized'}, with "
                    f"{self._run.config.prompt_format} prompts; leave it out."
                )
        self._batch_size, self._auto = _batch_size(batch_size, max_batch_size)
        # The harness passes cuda:0 if no device was given.
        absent = str(device) in ("cuda", "cuda:0") and not torch.cuda.is_available()
        self._torch_device = "auto" if device is None or absent else str(device)
        self._seed = torch.initial_seed()  # the harness's --seed
        self._rank = Rank(0)
        self._rank.model = self
        self._standings: dict[Key, AnswerWeights] = {}

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> "OppuLM":
        """See :meth:`create_from_arg_obj`."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> "OppuLM":
        """Make the model from ``--model_args``, which go before the command line's other options.

        The harness's default batch size of 1 cannot be distinguished from an explicit 1, and is not a good
        one here: it is read as ``auto`` (``--model_args batch_size=1`` is 1).
        """
        others = {name: value for name, value in (additional_config or {}).items() if value is not None}
        if str(others.get("batch_size")) == "1":
            del others["batch_size"]
        return cls(**{**others, **arg_dict})

    def answer_weights_of(self, source: Source, method: Method) -> AnswerWeights:
        """The weights of a method of a task, whose requests can be answered from now on.

        Raises:
            ConfigError: the task's data is not the run's.
            StoreError: see :func:`oppu_eval.lm_eval.answer_weights.answer_weights_of`.
        """
        if self._method is not None and method != self._method:
            raise ConfigError(
                f"--model_args says method={self._method.name}, --metadata method={method.name}; "
                "leave one of them out."
            )
        answer_weights = answer_weights_of(
            self._run_of(source, method), source, method, self._torch_device, self._batch_size
        )
        self._standings[answer_weights.key] = answer_weights
        return answer_weights

    def _run_of(self, source: Source, method: Method) -> Run:
        """The run, or one reconstructed from the store."""
        if self._run is None:
            return run_from_store(
                self._base_name,
                self._store_path,
                source.dataset,
                method,
                identity=base_identity(
                    base_folder(self._base_name),
                    self._dtype or "float32",
                    self._quantize,
                    self._prompt_format or "plain",
                ),
                encoder=source.encoder,
                profiles=source.profile_files,
                seed=source.seed,
            )
        if source.run is None or source.run.path.resolve() != self._run.path.resolve():
            raise ConfigError(
                f"The data are those of {source.dataset.path}, the adapters those of the run "
                f"{self._run.path}. Take both from one run: run=… without data, and tasks loaded with it."
            )
        return self._run

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answers to requests of LaMP tasks, in their order.

        Raises:
            ConfigError: a request is of another task, or has settings that this model does not know.
        """
        answers: dict[int, str] = {}
        work: dict[Key, list[int]] = {}
        for index, request in enumerate(requests):
            ours = request.args[1].get(REQUEST)
            key: Key = tuple(ours[name] for name in KEY) if ours else ("", "", "")
            if key not in self._standings:
                raise _not_ours(request.task_name)
            work.setdefault(key, []).append(index)
        with tqdm(total=len(requests), desc="Answering", disable=disable_tqdm) as bar:
            # Grouped by task base; methods without adapters first.
            order = sorted(
                work, key=lambda k: (k[:2], (m := self._standings[k].method).variant, bool(m.adapter))
            )
            opened: tuple[Key, Base, PromptBuilder] | None = None
            adapted = False
            for key in order:
                answer_weights = self._standings[key]
                stage = *key[:2], answer_weights.method.variant
                if opened is None or opened[0] != stage:
                    opened = None  # free its memory before the next is loaded
                    opened, adapted = (stage, *answer_weights.jobs.task_base()), False
                if answer_weights.method.adapter and not adapted:
                    opened, adapted = (stage, *answer_weights.jobs.with_adapter(opened[1], opened[2])), True
                for index, text in self._answer(answer_weights, opened[1], requests, work[key]):
                    answers[index] = text
                    self.cache_hook.add_partial("generate_until", requests[index].args, text)
                    bar.update()
        return [answers[index] for index in range(len(requests))]

    def _answer(
        self, answer_weights: AnswerWeights, base: Base, requests: Sequence[Instance], indices: Sequence[int]
    ) -> Iterator[tuple[int, str]]:
        """(index, answer) of one method's requests, unit by unit."""
        # Sorted, so that batches do not depend on the order of the docs.
        by_settings: dict[str, list[int]] = {}
        for index in sorted(indices, key=lambda index: json.dumps(requests[index].args)):
            arguments = requests[index].args[1]
            settings = {name: value for name, value in arguments.items() if name != REQUEST}
            chat = arguments[REQUEST].get("chat", False)
            by_settings.setdefault(json.dumps([settings, chat], sort_keys=True), []).append(index)
        for text, group in by_settings.items():
            settings, chat = json.loads(text)
            generation = self._generation(answer_weights, base, settings, chat)
            left, size = list(group), self._batch_size
            while left:
                try:
                    for unit, written in self._units(answer_weights, generation, requests, left, size):
                        yield from zip(unit, written, strict=True)
                        done = set(unit)
                        left = [index for index in left if index not in done]
                except torch.OutOfMemoryError as error:
                    if not self._auto or size == 1:
                        raise ModelError(
                            f"Memory is too small for {size} prompts at a time. "
                            f"{'' if size == 1 else 'Try --batch_size auto, or a smaller one.'}"
                        ) from error
                    size //= 2
                    torch.cuda.empty_cache()

    def _generation(
        self, answer_weights: AnswerWeights, base: Base, settings: Mapping[str, Any], chat: bool
    ) -> "_Generation":
        """The harness's ``gen_kwargs`` as our settings."""
        run, task = answer_weights.variant.run, answer_weights.variant.task
        try:
            known = normalize_gen_kwargs(dict(settings), task.max_answer_tokens)
            known["temperature"], known["top_k"] = float(known["temperature"]), int(known.get("top_k", 50))
            known["top_p"] = float(known.get("top_p", 1.0))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"--gen_kwargs {dict(settings)}: {error}.") from error
        if not all(isinstance(end, str) for end in known["until"]):
            raise ConfigError(f"--gen_kwargs until={known['until']}: write texts, e.g. until=['.'].")
        if known["top_k"] < 0 or not 0 < known["top_p"] <= 1 or known["temperature"] < 0:
            raise ConfigError(
                "--gen_kwargs: temperature and top_k are not below 0, top_p is above 0 and at most 1."
            )
        if unknown := sorted(set(known) - _SETTINGS):
            raise ConfigError(
                f"--gen_kwargs {', '.join(unknown)}: --model oppu knows {', '.join(sorted(_SETTINGS))}."
            )
        sampling = None
        if known["do_sample"] and known["temperature"] > 0:
            sampling = Sampling(
                temperature=known["temperature"],
                top_k=known["top_k"],
                top_p=known["top_p"],
                seed=run.config.seed if run.config.sample else self._seed,
            )
        tokenizer = base.tokenizer.ending(known["until"], chat)
        rules = dataclasses.replace(answer_rules(run.config, task, tokenizer), sampling=sampling)
        longest = int(known["max_gen_toks"])
        if longest != task.max_answer_tokens:  # else nobody asked for another
            rules = dataclasses.replace(rules, max_new_tokens=longest)
        return _Generation(dataclasses.replace(base, tokenizer=tokenizer), rules)

    def _units(
        self,
        answer_weights: AnswerWeights,
        generation: "_Generation",
        requests: Sequence[Instance],
        indices: Sequence[int],
        size: int,
    ) -> Iterator[tuple[list[int], list[str]]]:
        """(indices, answers), as many at a time as the batch size allows."""
        variant, method = answer_weights.variant, answer_weights.method
        users = {user.user_id: user for user in variant.users}
        owners = [requests[index].args[1][REQUEST]["user"] for index in indices] if method.adapter else None
        lengths = [len(requests[index].args[0]) for index in indices]
        for unit in plan_units(lengths, owners, size):
            groups = [[indices[place] for place in group] for group in unit]
            states = None
            if method.adapter:
                whose = [requests[group[0]].args[1][REQUEST]["user"] for group in groups]
                store = answer_weights.jobs.store
                states = [load_adapter(store, variant, method, users[user_id]) for user_id in whose]
            written = generate_answers(
                generation.base,
                [[requests[index].args[0] for index in group] for group in groups],
                states,
                generation.rules,
            )
            chain = itertools.chain.from_iterable
            yield list(chain(groups)), list(chain(written))

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """Not supported: LaMP's tasks are answered in text."""
        raise _not_ours(requests[0].task_name)

    def loglikelihood_rolling(self, requests: Sequence[Instance]) -> list[float]:
        """Not supported, likewise."""
        raise _not_ours(requests[0].task_name)

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The base's tokenizer."""
        return base_tokenizer(self._base_name).hf

    @property
    def tokenizer_name(self) -> str:
        """The base's name, for the harness's cache of requests."""
        return self._base_name.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The base's chat template."""
        template = self.tokenizer.chat_template
        return template if isinstance(template, str) else None

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Messages as the base's chat template renders them (:func:`oppu_core.modeling.chat.render_chat`).

        Raises:
            ConfigError: it has none, or refuses them.
        """
        try:
            return render_chat(self.tokenizer, chat_history, add_generation_prompt)
        except Exception as error:  # templates may raise anything
            raise ConfigError(
                f"--apply_chat_template: the base {self._base_name} has no chat template that takes these "
                f"messages: {error}"
            ) from error

    def get_model_info(self) -> dict[str, Any]:
        """Facts about the model for the results file."""
        standings = self._standings.values()
        return {
            "oppu": {
                "base": [one.variant.run.base_identity().to_json() for one in standings][:1],
                "weights": content_id([sorted(one.weights.values()) for one in standings]),
            }
        }


@dataclasses.dataclass(frozen=True)
class _Generation:
    """How some requests are answered."""

    base: Base
    rules: AnswerRules


def _batch_size(size: int | str, most: int | None) -> tuple[int, bool]:
    """(prompts per batch, whether fewer are acceptable)."""
    if most is not None and (not str(most).isdecimal() or int(most) < 1):
        raise ConfigError(f"max_batch_size={most}: it is how many prompts are answered at a time, at most.")
    if re.fullmatch(r"auto(:[0-9]+)?", str(size)):
        return int(most or Compute.batch_size), True
    if not str(size).isdecimal() or int(size) < 1:
        raise ConfigError(f"batch_size={size}: write auto, or how many prompts to answer at a time.")
    return int(size), False


def _not_ours(task: str | None) -> ConfigError:
    return ConfigError(
        f"--model oppu answers LaMP's tasks (--tasks 'lamp_*') with personal adapters; {task} is none."
    )
