"""The model cards that go along with what is exported: what it is, how to load it, what it may reveal."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from oppu_core.modeling.base import TINY
from oppu_core.runs.run import Run
from oppu_core.runs.variants import Variant


@dataclasses.dataclass(frozen=True)
class Score:
    """A method's result in one metric.

    Attributes:
        method: Its name.
        metric: Its title.
        own: The user's; None where the metric is of all users together.
        value: All users'.
        ci95: The interval of `value`; None where there is but one user.
        users: How many.
    """

    method: str
    metric: str
    own: float | None
    value: float
    ci95: tuple[float, float] | None
    users: int

    @property
    def texts(self) -> tuple[str, str, str]:
        """The user's value, all users' and its interval, to be shown."""
        own = "–" if self.own is None else f"{self.own:.3f}"
        return own, f"{self.value:.3f}", "–" if self.ci95 is None else "[{:.3f}, {:.3f}]".format(*self.ci95)


def adapter_card(run: Run, work: Variant, facts: Mapping[str, Any], scores: Sequence[Score]) -> str:
    """The ``README.md`` of an exported adapter.

    Args:
        run: Where it comes from.
        work: Its task and variant.
        facts: What ``oppu.json`` says of it.
        scores: Of the user and of all users; empty if it has not been evaluated.
    """
    task, base = work.dataset.task, run.base_identity()
    method, counted = work.personal_config.method, facts["facts"]["adapter"]
    named = "user_id" in facts
    rows = {
        **({"User": facts["user_id"]} if named else {}),
        "Base": f"{_base_title(run)}, {base.quantize or base.dtype}, sha256 {base.fingerprint[:16]}…",
        "Task": f"{task.title} (`{task.name}`)",
        "Prompts": f"variant `{work.name}`",
        "Adapter": " on ".join(filter(None, [method, ", ".join(work.personal_config.targets)])),
        "Trained on": f"{counted.get('examples', '?')} history items of one user",
        "Task LoRA trained on": f"{facts['facts']['task_lora'].get('examples', '?')} examples of other users",
        "Loss": f"{counted['last_loss']:.3f} nats (last epoch)" if "last_loss" in counted else "?",
    }
    table = "\n".join(f"| {name} | {_cell(value)} |" for name, value in rows.items())
    return f"""{_front_matter(run, [task.name, work.name, method])}
# A personal adapter: {task.title}

One user's adapter of *One PEFT Per User*: a base model, adapted to a task on other users' data
(`task_lora/`), and to one person on nothing but that person's own history (this folder).

| | |
|---|---|
{table}

## Scores

{"".join(_score_lines(scores)) or "It has not been evaluated."}
## How to load it

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{_base_path(run)}")
base = AutoModelForCausalLM.from_pretrained("{_base_path(run)}", dtype="{base.dtype}")
{_stacking(run, method)}
```

The prompts it was trained with begin with `{_cell(task.instruction)}`;
with oppu, `oppu adapters import` puts it into a run that makes them.

## What is in it, and what it may reveal

- `adapter_model.safetensors` was trained on one person's history. No text of it is in these files, but a
  trained model can give away what it was trained on: treat the adapter as you would treat that history.
- `task_lora/` was trained on other users' queries and answers, and the same is true of it for them.
- `oppu.json` holds settings, counts and checksums, and a hash of the history: whoever has, or guesses,
  exactly this history can confirm that the adapter is of it. The user's id is {"" if named else "not "}in it.
"""


def base_card(run: Run, work: Variant) -> str:
    """The ``README.md`` of an exported task base."""
    task = work.dataset.task
    return f"""{_front_matter(run, [task.name, work.name])}
# A task base: {task.title}

The base {_base_title(run)} ({run.base_identity().dtype}) with a task LoRA merged into it, which was
trained on other users' queries and answers (`{task.name}`, variant `{work.name}`). It opens as any model
folder does; personal adapters of the same run stand on it:

```python
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("this folder"), "an exported adapter")
```

The training data may show in what it writes. `oppu.json` says what it was made from.
"""


def _base_title(run: Run) -> str:
    """The base in words, without a path of this machine."""
    model = run.config.model
    if model == TINY:
        return "`tiny` (the folder `tiny_base` of the package oppu-core)"
    return f"`{Path(model).name if Path(model).is_absolute() else model}`"


def _base_path(run: Run) -> str:
    model = "/tiny_base" if run.config.model == TINY else run.config.model
    return f"path/to/{Path(model).name}" if Path(model).is_absolute() else model


def _front_matter(run: Run, tags: Sequence[str]) -> str:
    model = run.config.model
    data = ModelCardData(
        # The hub refuses a base that is no repository of its own.
        base_model=None if model == TINY or Path(model).is_absolute() else model,
        library_name="peft",
        pipeline_tag="text-generation",
        tags=["oppu", "personalization", *tags],
    )
    return f"---\n{data.to_yaml()}\n---\n"


def _stacking(run: Run, method: str) -> str:
    """The lines of Python that put task LoRA and adapter on `base`."""
    if run.base_identity().takes_merging:
        return (
            'task_base = PeftModel.from_pretrained(base, "this folder/task_lora").merge_and_unload()\n'
            'model = PeftModel.from_pretrained(task_base, "this folder")'
        )
    first = (
        f"# It was trained on the base in {run.config.quantize or run.config.dtype}: load `base` so, and "
        "merge nothing into it.\n"
        'model = PeftModel.from_pretrained(base, "this folder/task_lora", adapter_name="task")\n'
    )
    if method == "lora":
        return first + (
            'model.load_adapter("this folder", adapter_name="own")\n'
            'model.base_model.set_adapter(["task", "own"])'
        )
    # PEFT combines no two methods in one model, but puts one on top of the other.
    return first + 'model = PeftModel.from_pretrained(model.get_base_model(), "this folder")'


def _score_lines(scores: Sequence[Score]) -> Iterator[str]:
    if scores:
        yield f"| method | metric | this user | all users | 95 % interval | users |\n{'|---' * 6}|\n"
    for score in scores:
        yield f"| `{score.method}` | {score.metric} | {' | '.join(score.texts)} | {score.users} |\n"


def _cell(text: Any) -> str:
    """Text that keeps to its cell and line, whatever it holds."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")
