"""The queries that a task asks, and how its prompts are made, by ``--metadata`` (and ``--model_args``).

``data`` is a dataset folder (or a folder of them, named after tasks), a run folder, or ``sample``: the sample
world of ``oppu quickstart``.
"""

import dataclasses
import functools
import logging
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oppu_core.data.dataset import MANIFEST, Dataset
from oppu_core.data.sample import GRAMMARS
from oppu_core.data.types import User
from oppu_core.errors import ConfigError, DataError, did_you_mean
from oppu_core.modeling.base_files import MAX_LENGTH
from oppu_core.modeling.encoders import Encoder
from oppu_core.modeling.tokenizer import Tokenizer
from oppu_core.prompting.builder import TokenCounter
from oppu_core.prompting.methods import Method
from oppu_core.prompting.profile_files import Profiles, read_profiles
from oppu_core.runs.options import ENCODER
from oppu_core.runs.run import Run, open_run

from oppu_eval.quickstart import quickstart_data

SAMPLE = "sample"
_NAMES = ("data", "run", "method", "profiles", "seed", "encoder", "tokenizer", "max_length", "max_model_len")
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Source:
    """The data of a task.

    Attributes:
        dataset: The dataset.
        users: The test users whose queries are asked.
        profiles: Their profile texts.
        profile_files: The files of these, if they are not computed.
        seed: The seed of random retrieval.
        encoder: The sentence encoder of ``dense_kN``.
        run: The run that the data is from, if any.
    """

    dataset: Dataset
    users: Sequence[User]
    profiles: Profiles
    profile_files: tuple[Path, ...]
    seed: int
    encoder: Encoder
    run: Run | None


def open_source(task: str, method: Method, metadata: Mapping[str, Any]) -> Source:
    """Find a task's data.

    Args:
        task: e.g. ``lamp_2m``.
        method: How its queries will be answered.
        metadata: The harness's metadata: ``data`` or ``run``, ``profiles``, ``seed``, ``encoder``.

    Raises:
        ConfigError: the data is of another task, or is named twice.
        DataError: there is no data at this path.
    """
    _check(metadata)
    run, data = metadata.get("run"), metadata.get("data")
    if run is not None and data is not None and Path(str(data)).resolve() != Path(str(run)).resolve():
        raise ConfigError(f"run={run} brings its own data; leave data={data} out.")
    place = Path(str(run if run is not None else SAMPLE if data is None else data))
    if run is not None or (place / "run.json").is_file():
        return _of_run(task, open_run(place), metadata)
    dataset = _sample(task) if data in (None, SAMPLE) else _dataset(task, place)
    if dataset.task.name != task:
        raise ConfigError(f"{dataset.path} has data of {dataset.task.name}, not of {task}.")
    users = list(dataset.users("test"))
    files = _profile_files(metadata)
    texts = read_profiles(files)
    if files and task not in texts:
        raise ConfigError(f"profiles={', '.join(map(str, files))}: there are none of {task} in it.")
    given = texts.get(task)
    missing = [user.user_id for user in users if given is not None and user.user_id not in given]
    if missing and method.profile:
        raise ConfigError(
            f"profiles={', '.join(map(str, files))}: {len(missing)} test users of {dataset.path} have none, "
            f"e.g. {missing[0]!r}. Give everyone one, or leave profiles out: then they are computed."
        )
    seed = metadata.get("seed") or 0
    encoder = Encoder(metadata.get("encoder") or ENCODER)
    return Source(dataset, users, Profiles(dataset.task, given), files, seed, encoder, None)


def _check(metadata: Mapping[str, Any]) -> None:
    """Refuse impossible values, and names that are nearly ours, which would be ignored.

    Raises:
        ConfigError: a name or value is wrong; the message names it.
    """
    for name in metadata:
        hint = did_you_mean(str(name), _NAMES, cutoff=0.8)
        if hint and name not in (*_NAMES, "model"):
            raise ConfigError(f"--metadata {name}: nothing is called so here.{hint}")
    for name, least in (("seed", 0), ("max_length", 1), ("max_model_len", 1)):
        value = metadata.get(name)
        if value is not None and (type(value) is not int or value < least):
            raise ConfigError(f"--metadata {name}={value!r}: it is a whole number, from {least}.")
    for name in ("encoder", "tokenizer"):
        if not isinstance(metadata.get(name), str | None):
            raise ConfigError(f"--metadata {name}={metadata[name]!r}: it is a folder or a hub id.")
    profiles = metadata.get("profiles") or []
    if not isinstance(profiles, str | list) or not all(isinstance(name, str) for name in profiles):
        raise ConfigError(f"--metadata profiles={profiles!r}: it is a file, or a list of files.")


def _of_run(task: str, run: Run, metadata: Mapping[str, Any]) -> Source:
    if given := [name for name in ("profiles", "seed", "encoder") if metadata.get(name) is not None]:
        raise ConfigError(f"The run {run.path} has its own profiles, seed and encoder; leave {given[0]} out.")
    if task not in run.config.data:
        raise ConfigError(
            f"The run {run.path} has no {task}; it has {', '.join(run.config.data)}. "
            f"Ask for these: --tasks {','.join(run.config.data)}."
        )
    dataset = run.dataset(task)
    files = tuple(Path(path) for path in run.config.profiles)
    users, profiles = run.test_users(dataset), run.profiles(dataset)
    return Source(dataset, users, profiles, files, run.config.seed, run.encoder(), run)


def _profile_files(metadata: Mapping[str, Any]) -> tuple[Path, ...]:
    """The files of ``profiles``: one name, or several."""
    named = metadata.get("profiles") or ()
    return tuple(Path(str(name)) for name in ([named] if isinstance(named, str) else named))


def _dataset(task: str, place: Path) -> Dataset:
    if not (place / MANIFEST).exists() and (place / task / MANIFEST).is_file():
        return Dataset.open(place / task)
    if not (place / MANIFEST).exists():
        raise DataError(
            f"data={place} is no dataset folder (it has no {MANIFEST} and no {task}/{MANIFEST}), "
            f"no run folder (no run.json), and not the sample world ({SAMPLE}). "
            "`oppu data import` and `oppu data download` make datasets."
        )
    return Dataset.open(place)


def _sample(task: str) -> Dataset:
    if task not in GRAMMARS:
        raise ConfigError(f"The sample world has no {task}; name a dataset: --metadata data=data/{task}.")
    (path,) = quickstart_data(Path(_sample_folder().name), [task])
    return Dataset.open(path)


@functools.cache
def _sample_folder() -> "tempfile.TemporaryDirectory[str]":
    """A folder for the sample world, removed when this process ends."""
    return tempfile.TemporaryDirectory(prefix="oppu-sample-")


class Uncounted:
    """A model whose tokens cannot be counted here: prompts are never cut."""

    context = sys.maxsize

    def prompt_ids(self, text: str) -> list[int]:
        """None."""
        return []

    def answer_ids(self, text: str) -> list[int]:
        """None."""
        return []


def counter_of(metadata: Mapping[str, Any]) -> TokenCounter:
    """A counter of the tokens of another model's prompts, so that they can be cut like ours.

    By the model's arguments: the tokenizer is ``tokenizer`` or ``pretrained``, the context ``max_length`` or
    ``max_model_len``, else the model's own, at most 2,048.
    """
    name = metadata.get("tokenizer") or metadata.get("pretrained")
    length = metadata.get("max_length") or metadata.get("max_model_len")
    if isinstance(name, str):
        from transformers import AutoConfig, AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
            if length is None:
                config = AutoConfig.from_pretrained(name, trust_remote_code=False)
                length = min(MAX_LENGTH, getattr(config, "max_position_embeddings", MAX_LENGTH))
            return Tokenizer(tokenizer, int(length))
        except Exception as error:  # of many kinds; the model itself may still be able to load them
            log.warning("The tokenizer of %s cannot be read (%s).", name, error)
    log.warning(
        "Prompts are not cut to the model's context, as its tokens cannot be counted: "
        'name a tokenizer and a length, e.g. --metadata \'{"tokenizer": "…", "max_length": 4096}\'.'
    )
    return Uncounted()
