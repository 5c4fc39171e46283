"""What is missing of a variant's jobs, found out once and before anything is done."""

import dataclasses
from collections.abc import Sequence

from oppu_core.data.types import User
from oppu_core.prompting.methods import Method
from oppu_core.runs.options import Job


@dataclasses.dataclass(frozen=True)
class Todo:
    """What is missing of some jobs.

    Attributes:
        jobs: The jobs.
        answers: Methods that lack answers, if answers are asked for.
        untrained: Users without a usable adapter, if any method uses one.
        no_pooled: Whether the pooled adapter is needed and missing.
        no_base: Whether the task LoRA is missing or damaged.
    """

    jobs: Sequence[Job]
    answers: Sequence[Method]
    untrained: Sequence[User]
    no_pooled: bool
    no_base: bool

    @property
    def train(self) -> list[Job]:
        """The jobs that train adapters on the task base."""
        wanted: dict[Job, bool] = {"personal": bool(self.untrained), "pooled": self.no_pooled}
        return [job for job, missing in wanted.items() if missing and job in self.jobs]

    @property
    def nothing(self) -> bool:
        """Whether everything is there."""
        return not (self.answers or self.train or ("bases" in self.jobs and self.no_base))

    @property
    def units(self) -> list[str]:
        """The units of the stages of progress that the work has, in order."""
        base = ["%"] if self.no_base and not self.nothing else []
        return [*base, *({"personal": "users", "pooled": "%"}[job] for job in self.train),
                *("queries" for _ in self.answers)]  # fmt: skip
