"""The model cards of exports: what they are, how to load them, and what they may reveal."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oppu_core.modeling.base_files import TINY
from oppu_core.runs.run import Run
from oppu_core.runs.variants import Variant


@dataclasses.dataclass(frozen=True)
class Score:
    """A method's result in one metric.

    Attributes:
        method: Its name.
        metric: Its title.
        own: The user's value; None if the metric is only defined over all users.
        value: The value over all users.
        ci95: The interval of `value`; None if there is only one user.
        users: Number of users.
    """

    method: str
    metric: str
    own: float | None
    value: float
    ci95: tuple[float, float] | None
    users: int

    @property
    def texts(self) -> tuple[str, str, str]:
        """The user's value, that of all users, and its interval, formatted."""
        own = "–" if self.own is None else f"{self.own:.3f}"
        return own, f"{self.value:.3f}", "–" if self.ci95 is None else "[{:.3f}, {:.3f}]".format(*self.ci95)


def adapter_card(run: Run, work: Variant, facts: Mapping[str, Any], scores: Sequence[Score]) -> str:
    """The ``README.md`` of an exported adapter.

    Args:
        run: The run that it is from.
        work: Its task and variant.
        facts: The contents of ``oppu.json``.
        scores: Scores of the user and of all users; empty if the run has not been evaluated.
    """
    task, base = work.dataset.task, run.base_identity()
    method, counted = work.personal_config.method, facts["facts"]["adapter"]
    named = "user_id" in facts
    rows = {
        **({"User": facts["user_id"]} if named else {}),
        "Base": f"{_base_title(run)}, {base.quantize or base.dtype}, sha256 {base.fingerprint[:16]}…",
        "Task": f"{task.title} (`{task.name}`)",
        "Prompts": f"variant `{work.name}`{', in the chat template of the base' if base.chat else ''}",
        "Adapter": " on ".join(filter(None, [method, ", ".join(work.personal_config.targets)])),
        "Trained on": f"{counted.get('examples', '?')} history items of one user",
        "Task LoRA trained on": f"{facts['facts']['task_lora'].get('examples', '?')} examples of other users",
        "Loss": f"{counted['last_loss']:.3f} nats (last epoch)" if "last_loss" in counted else "?",
    }
    return _card(
        "adapter",
        run,
        [task.name, work.name, method],
        title=task.title,
        rows=rows,
        cell=_cell,
        scores=scores,
        base_path=_base_path(run),
        dtype=base.dtype,
        merges=base.takes_merging,
        trained_in=run.config.quantize or run.config.dtype,
        method=method,
        instruction=task.instruction,
        chat=base.chat is not None,
        named=named,
    )


def base_card(run: Run, work: Variant) -> str:
    """The ``README.md`` of an exported task base."""
    task = work.dataset.task
    return _card(
        "base",
        run,
        [task.name, work.name],
        title=task.title,
        base_title=_base_title(run),
        dtype=run.base_identity().dtype,
        task=task.name,
        variant=work.name,
        chat=run.base_identity().chat is not None,
    )


def _card(name: str, run: Run, tags: Sequence[str], **values: Any) -> str:
    """A filled-in template of ``cards/``."""
    from huggingface_hub import ModelCard, ModelCardData

    model = run.config.model
    data = ModelCardData(
        # The hub refuses a base that is not one of its repositories.
        base_model=None if model == TINY or Path(model).is_absolute() else model,
        library_name="peft",
        pipeline_tag="text-generation",
        tags=["oppu", "personalization", *tags],
    )
    template = Path(__file__).parent / "cards" / f"{name}.md.j2"
    return f"{ModelCard.from_template(data, str(template), **values)}\n"


def _base_title(run: Run) -> str:
    """The base in words, without local paths."""
    model = run.config.model
    if model == TINY:
        return "`tiny` (the folder `tiny_base` of the package oppu-core)"
    return f"`{Path(model).name if Path(model).is_absolute() else model}`"


def _base_path(run: Run) -> str:
    model = "/tiny_base" if run.config.model == TINY else run.config.model
    return f"path/to/{Path(model).name}" if Path(model).is_absolute() else model


def _cell(text: Any) -> str:
    """Any text, escaped for a cell of a table."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")
