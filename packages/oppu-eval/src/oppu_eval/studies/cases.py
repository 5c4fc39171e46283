"""Figure 5: the queries on which the methods differ most, as a page to read."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import ClassVar

from oppu_core.modeling.base_files import base_tokenizer
from oppu_core.modeling.tokenizer import Tokenizer
from oppu_core.prompting.builder import PromptBuilder
from oppu_core.prompting.methods import parse_method
from oppu_core.runs.run import Run
from oppu_core.runs.variants import prompt_builder

from oppu_eval.studies.case_choice import Counts
from oppu_eval.studies.case_content import Case, build
from oppu_eval.studies.case_pages import cases_page, table
from oppu_eval.studies.case_picture import draw
from oppu_eval.studies.context import Done, StudyContext, Work
from oppu_eval.studies.result import Picture, Result
from oppu_eval.studies.study import FOUR, Plain


@dataclasses.dataclass(frozen=True)
class Cases(Plain):
    """Cases to read.

    Attributes:
        cases: At most so many a task.
    """

    cases: int = 8

    name: ClassVar[str] = "cases"
    title: ClassVar[str] = "Cases to read"
    question: ClassVar[str] = "What does it look like when an adapter changes the answer?"
    paper: ClassVar[str] = (
        "Paper, Figure 5: one case in which the adapter has learnt a favourite tag that the retrieved item "
        "does not show. Ours are chosen by rule, half of them cases where adapters harm."
    )

    def works(self, context: StudyContext) -> Sequence[Work]:
        """The four methods."""
        return [context.work("four", FOUR)]

    def conclude(self, context: StudyContext, done: Mapping[str, Done]) -> Result:
        """The cases, and how often adapters helped and harmed over all queries."""
        run = done["four"].run
        cases: dict[str, list[Case]] = {}
        counts: dict[str, Counts] = {}
        tokenizer = base_tokenizer(run.config.model, run.config.prompt_format)
        for task in context.tasks:
            dataset = run.dataset(task)
            profiles = run.profiles(dataset)
            answers = {m: found for m in FOUR if (found := run.predictions(task, m))}
            builder_of = functools.cache(functools.partial(_builder, run, task, tokenizer))
            cases[task], counts[task] = build(
                dataset.task, run.test_users(dataset), answers, builder_of, profiles, cases=self.cases
            )
        facts = {
            "base": run.config.model,
            "seed": run.config.seed,
            "versions": run.provenance["versions"],
            "data": {task: run.dataset(task).source for task in context.tasks},
        }
        picture = Picture(
            "cases",
            "The cases, a row each, and every method's answer",
            "A row is a case: whose, and what this user really answered. A column is a method.",
            draw(cases, {task: one.title for task, one in counts.items()}),
        )
        findings = [
            f"{task}: of {one.queries} queries, {pair.method} is better than {pair.baseline} on "
            f"{pair.better}, equal on {pair.equal} and worse on {pair.worse}."
            for task, one in counts.items()
            for pair in one.pairs
        ]
        notes = [
            "Cases are extremes, not samples: the largest gains and the largest losses, half and half where "
            "there are enough of both."
        ]
        page = cases_page(cases, counts, facts)
        return Result(findings, table(cases), [picture], notes, pages={"cases.html": page})


def _builder(run: Run, task: str, tokenizer: Tokenizer, method: str) -> PromptBuilder:
    """The builder of a method's prompts; for a personal method it leaves room for the adapter's tokens."""
    parsed = parse_method(method)
    dataset = run.dataset(task)
    counter = tokenizer.leaving(run.config.personal[task].prefix) if parsed.adapter else tokenizer
    return prompt_builder(dataset, counter, run.profiles(dataset), [parsed], run.config.seed, run.encoder())
