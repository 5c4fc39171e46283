"""LaMP's tasks for the harness: our data, prompts and metrics under its names."""

import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol

import datasets
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean
from lm_eval.api.task import ConfigurableTask
from oppu_core.data.types import Query, User
from oppu_core.errors import ConfigError, DataError
from oppu_core.modeling.generation import Sampling
from oppu_core.prompting.builder import PromptBuilder, TokenCounter
from oppu_core.prompting.methods import PROMPT_METHODS, Method, parse_method
from oppu_core.runs.variants import prompt_builder
from oppu_core.storage.files import content_id
from oppu_core.tasks.task_files import get_task

from oppu_eval.lm_eval.source import Source, Uncounted, counter_of, open_source
from oppu_eval.scoring.metrics import Metric, metrics_for

if TYPE_CHECKING:
    from oppu_eval.lm_eval.answer_weights import AnswerWeights

log = logging.getLogger(__name__)
# The harness's names for the longest answer; ours is the first, which would take precedence over a user's.
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
# The argument by which a request says whose adapter answers it; the harness's cache depends on arguments.
REQUEST = "oppu"


class Answerer(Protocol):
    """The part of :class:`oppu_eval.lm_eval.model.OppuLM` that a task needs."""

    def answer_weights_of(self, source: Source, method: Method) -> "AnswerWeights":
        """The weights that this method's answers depend on."""


class Rank(int):
    """The rank of our model's process. The harness shows a task nothing else of a model, so this is how a
    task learns which model will answer it."""

    model: Answerer


class LampTask(ConfigurableTask):
    """A LaMP task: ``dataset_name`` says which, ``metadata`` the data and the method (see :mod:`.source`)."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Open the data and prepare the queries.

        Raises:
            OppuError: the metadata names no method, or no data of this task.
        """
        if "dataset_name" not in config or config.get("output_type") != "generate_until":
            raise ConfigError(
                f"The task {config.get('task')!r} needs dataset_name, e.g. lamp_2m, and output_type: "
                "generate_until."
            )
        lamp = get_task(config["dataset_name"])
        metadata = config.get("metadata") or {}
        self.method = parse_method(str(metadata.get("method") or "non_personalized"))
        self.source = open_source(lamp.name, self.method, metadata)
        self.metrics = {metric.name: metric for metric in metrics_for(self.source.dataset.task)}
        self._everything: dict[tuple[str, str], tuple[User, Query]] = {
            (user.user_id, query.id): (user, query) for user in self.source.users for query in user.queries
        }
        self._asked = self._everything
        self._answer_weights: AnswerWeights | None = None
        self._counter: TokenCounter = Uncounted()  # until the model is known
        self._taken = 0  # tokens of the context that a system instruction or a chat template takes
        self._builder: PromptBuilder | None = None
        self._prompts: dict[tuple[str, str], str] = {}
        generation: dict[str, Any] = {
            "until": ["\n"], "max_gen_toks": lamp.max_answer_tokens, "do_sample": False,
        }  # fmt: skip
        if (run := self.source.run) is not None and run.config.sample:
            paper = Sampling()
            generation |= {"do_sample": True, "temperature": paper.temperature}
            generation |= {"top_k": paper.top_k, "top_p": paper.top_p}
        super().__init__(
            config={
                **{name: value for name, value in config.items() if name != "class"},
                "test_split": "test",
                "doc_to_target": "gold",
                "generation_kwargs": {**generation, **config.get("generation_kwargs", {})},
                "metric_list": [
                    {
                        "metric": metric.name,
                        "aggregation": mean if metric.is_mean else functools.partial(_of_pairs, metric),
                        "higher_is_better": metric.higher_is_better,
                    }
                    for metric in self.metrics.values()
                ],
                "process_results": f"{__name__}.LampTask.process_results",
                "metadata": {**metadata, "lamp": self._about()},
            }
        )

    def _about(self) -> dict[str, Any]:
        """Facts about the data and method, for the results file (:mod:`.results` reads them)."""
        return {
            "method": self.method.name,
            "data": self.source.dataset.fingerprint,
            "users": len(self.source.users),
            "queries": len(self._asked),
        }

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Prepare the queries; nothing is downloaded."""
        rows = [
            {
                "id": query.id,
                "user_id": user.user_id,
                "method": self.method.name,
                "fields": dict(query.fields),
                "history_len": query.history_len,
                "gold": query.gold,
            }
            for user, query in self._asked.values()
        ]
        if not rows:
            raise DataError(f"{self.source.dataset.path} has no test queries; there is nothing to ask.")
        self.dataset = {"test": datasets.Dataset.from_list(rows)}

    def set_config(self, key: str, value: Any, update: bool = False) -> None:
        """Apply a setting of the command line.

        Raises:
            ConfigError: it asks for few-shot examples, which these tasks do not have.
        """
        if key == "num_fewshot" and value:
            raise ConfigError(
                f"--num_fewshot {value}: {self.task_name} has no few-shot examples. A user's own past items "
                f'stand in their place: --metadata \'{{"method": "rag_k{value}"}}\' shows {value} of them.'
            )
        if key == "generation_kwargs" and any(name in value for name in _LENGTHS):
            for name in _LENGTHS:
                self.config.generation_kwargs.pop(name, None)
        super().set_config(key, value, update)

    def build_all_requests(self, **arguments: Any) -> None:
        """Make the prompts for the model that will answer.

        Raises:
            ConfigError: the method needs adapters but the model has none, or there is nothing to score.
            StoreError: adapters are missing.
        """
        model = getattr(arguments.get("rank"), "model", None)
        if self.method.adapter and model is None:
            raise ConfigError(
                f"The method {self.method.name} answers through adapters, and this model has "
                f"none. Use --model oppu --model_args run=…, or a prompt method: {PROMPT_METHODS}."
            )
        self._check_chosen(arguments)
        if "bypass" not in self._metric_fn_list and all(q.gold is None for _, q in self._asked.values()):
            raise ConfigError(
                f"No query of {self.source.dataset.path} has a gold answer; there is nothing to score. "
                "--predict_only writes the answers."
            )
        self._answer_weights = (
            model.answer_weights_of(self.source, self.method) if model is not None else None
        )
        self._set_aside(self._answer_weights.failed if self._answer_weights else {}, arguments)
        self._counter = (
            self._answer_weights.counter if self._answer_weights else counter_of(self.config.metadata)
        )
        self._taken = self._overhead(arguments)
        self._prompts, self._builder = {}, None
        if arguments.get("cache_requests"):
            arguments["tokenizer_name"] = (
                f"{arguments.get('tokenizer_name', '')}-{self._fingerprint(arguments)}"
            )
        super().build_all_requests(**arguments)

    def _check_chosen(self, arguments: Mapping[str, Any]) -> None:
        """Refuse --limit and --samples that choose queries that do not exist."""
        limit, samples = arguments.get("limit"), arguments.get("samples") or ()
        if limit is not None and limit < 1:
            raise ConfigError(
                f"--limit {limit}: it is how many queries are asked, or a share between 0 and 1."
            )
        if strangers := [one for one in samples if not 0 <= one < len(self._everything)]:
            raise ConfigError(
                f"--samples: {self.task_name} has no query {strangers[0]}; its "
                f"{len(self._everything)} queries are numbered from 0."
            )

    def _set_aside(self, failed: Mapping[str, str], arguments: Mapping[str, Any]) -> None:
        """Leave out users whose training failed, as ``oppu evaluate`` does.

        Refuses to if queries are chosen by number, as the numbers would change their meaning.
        """
        before = len(self._asked)
        self._asked = {key: asked for key, asked in self._everything.items() if key[0] not in failed}
        if len(self._asked) != before:
            self.download()
            self.config.metadata["lamp"] = self._about()
        if not failed:
            return
        some = "; ".join(f"{user!r}: {reason}" for user, reason in list(failed.items())[:3])
        aside = f"{self.task_name}: {len(failed)} users are set aside, as their training failed ({some})."
        if arguments.get("limit") is not None or arguments.get("samples") is not None:
            raise ConfigError(
                f"{aside} --limit and --samples count queries, and would ask others than with another "
                "method; leave them out."
            )
        log.warning(aside)
        self.config.metadata["lamp"] = {**self._about(), "set_aside": sorted(failed)}

    def _overhead(self, arguments: Mapping[str, Any]) -> int:
        """The number of tokens around a prompt."""
        counter = self._counter
        system, delimiter = arguments.get("system_instruction"), self.config.fewshot_delimiter
        if arguments.get("apply_chat_template") and (template := arguments.get("chat_template")):
            roles = [{"role": "system", "content": system}] if system else []
            return len(counter.prompt_ids(template([*roles, {"role": "user", "content": ""}])))
        return len(counter.prompt_ids(system + delimiter)) if system else 0

    def _fingerprint(self, arguments: Mapping[str, Any]) -> str:
        """A hash of what cached requests depend on and the harness's own key does not cover."""
        names = ("samples", "system_instruction")
        profiles = [self.source.profiles(user) for user in self.source.users] if self.method.profile else None
        encoder = [self.source.encoder.identity] if self.method.retriever == "dense" else []
        return content_id(
            [
                *(version(name) for name in ("oppu-core", "oppu-eval")),
                self._about(),
                {name: str(value) for name, value in self.config.metadata.items()},
                {name: str(value) for name, value in self.config.generation_kwargs.items()},
                {name: str(arguments.get(name)) for name in names},
                sorted(self._answer_weights.weights.values()) if self._answer_weights else None,
                profiles,
                *encoder,
            ]
        )

    def doc_to_text(self, doc: Mapping[str, Any], doc_to_text: Any = None) -> str:
        """A query's prompt by the method."""
        key = doc["user_id"], doc["id"]
        if key not in self._prompts:
            if self._builder is None:
                self._builder = self._prompt_builder()
            user, query = self._asked[key]
            profile = self._builder.profile_for(self.method, user)
            self._prompts[key] = self._builder.query_prompt(self.method, user, query, profile).text
        return self._prompts[key]

    def _prompt_builder(self) -> PromptBuilder:
        """A builder that leaves room in the context for the answer and for the tokens around a prompt."""
        source, settings = self.source, self.config.generation_kwargs
        builder = prompt_builder(
            source.dataset, self._counter, source.profiles, [self.method], source.seed, source.encoder
        )
        name = next(name for name in _LENGTHS if name in settings)
        if not str(settings[name]).isdecimal() or (longest := int(settings[name])) < 1:
            raise ConfigError(f"--gen_kwargs {name}={settings[name]}: it is a number of tokens, from 1.")
        if longest == builder.task.max_answer_tokens:
            longest = builder.answer_tokens
        return dataclasses.replace(builder, reserved=self._taken + longest)

    def doc_to_target(self, doc: Mapping[str, Any], doc_to_target: Any = None) -> str:
        """A query's gold answer; empty if it is withheld."""
        return doc["gold"] or ""

    def construct_requests(self, doc: dict[str, Any], ctx: str, **arguments: Any) -> Instance:
        """A query's request; for our model it names the user and the weights of the adapter."""
        chat = bool(arguments.get("apply_chat_template"))
        request = super().construct_requests(doc, ctx, **arguments)
        if self._answer_weights:
            ours = self._answer_weights.request(doc["user_id"], chat)
            request.arguments = (ctx, {**request.arguments[1], REQUEST: ours})
        return request

    def process_results(self, doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
        """A query's scores; empty without a gold answer."""
        if "bypass" in self._metric_fn_list:  # --predict_only
            return {"bypass": None}
        if doc["gold"] is None:
            return {}
        pair = results[0], doc["gold"]
        return {
            name: metric.score(*([text] for text in pair)) if metric.is_mean else pair
            for name, metric in self.metrics.items()
        }


def _of_pairs(metric: Metric, pairs: Sequence[tuple[str, str]]) -> float:
    """A metric that is not a mean over queries, from (answer, gold) pairs."""
    answers, golds = zip(*pairs, strict=True)
    return metric.score(answers, golds)
