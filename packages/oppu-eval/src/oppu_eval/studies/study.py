"""What every study has, and how one is carried out: what it needs is run, then it draws its conclusions."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

from oppu_eval.studies.context import Done, StudyContext, Work
from oppu_eval.studies.result import Result

FOUR = ("non_personalized", "rag_k1", "oppu_k0", "oppu_rag_k1")  # the columns of the paper's Table 3


class Study(Protocol):
    """One experiment. Its fields are its options.

    Attributes:
        name: What the command calls it.
        title: What a person calls it.
        question: What it asks, in a sentence.
        paper: Where the paper has it, and what the paper found.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    question: ClassVar[str]
    paper: ClassVar[str]

    def works(self, context: StudyContext) -> Sequence[Work]:
        """The runs that it needs; derived datasets are made here."""

    def own_tokens(self, context: StudyContext, done: Mapping[str, Done]) -> float:
        """About how many tokens it trains on beside its runs."""

    def conclude(self, context: StudyContext, done: Mapping[str, Done]) -> Result:
        """What came of it; `done` by label."""


def options_of(study: Study) -> dict[str, Any]:
    """A study's options as JSON values."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in vars(study).items()
        if not name.startswith("_")
    }


class Plain:
    """What most studies have: nothing beside their runs."""

    def own_tokens(self, context: StudyContext, done: Mapping[str, Done]) -> float:
        """None."""
        return 0.0
