"""The protocol of studies: the runs that a study needs are done, then it draws its conclusions."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

from oppu_eval.studies.context import Done, StudyContext, Work
from oppu_eval.studies.result import Result

FOUR = ("non_personalized", "rag_k1", "oppu_k0", "oppu_rag_k1")  # the columns of the paper's Table 3


class Study(Protocol):
    """One experiment. Its fields are its options.

    Attributes:
        name: Its name on the command line.
        title: Its title for people.
        question: The question, in a sentence.
        paper: Where it is in the paper, and what the paper found.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    question: ClassVar[str]
    paper: ClassVar[str]

    def works(self, context: StudyContext) -> Sequence[Work]:
        """The runs that it needs; derived datasets are made here."""

    def more(self, context: StudyContext, done: Mapping[str, Done]) -> Sequence[Work]:
        """Further runs, which depend on the results of finished ones; asked again until there are none."""

    def own_tokens(self, context: StudyContext, done: Mapping[str, Done]) -> float:
        """The approximate number of tokens that it trains on besides its first runs."""

    def conclude(self, context: StudyContext, done: Mapping[str, Done]) -> Result:
        """The result; `done` are its finished runs by label."""


def options_of(study: Study) -> dict[str, Any]:
    """A study's options as JSON values."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in vars(study).items()
        if not name.startswith("_")
    }


class Plain:
    """Base class of studies that train nothing besides the runs that they name at once."""

    def more(self, context: StudyContext, done: Mapping[str, Done]) -> Sequence[Work]:
        """No further runs."""
        return ()

    def own_tokens(self, context: StudyContext, done: Mapping[str, Done]) -> float:
        """No tokens."""
        return 0.0
