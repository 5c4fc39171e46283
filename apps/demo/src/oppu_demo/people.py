"""One question, put to the models of several people."""

import dataclasses
import functools
from collections.abc import Iterator

from oppu_core.data.types import Query, User
from oppu_core.errors import OppuError
from oppu_core.prompting.methods import parse_method
from oppu_core.runs.asking import asked_query

from oppu_demo.engine import Engine

SHOWN = 4  # people in the view
_ASKED = 8  # at most so many are asked, to find people whose models answer differently
_KEPT = 256  # questions whose answers are kept


@dataclasses.dataclass(frozen=True)
class Answers:
    """A question and its answers, while they come in.

    Attributes:
        asker: Whose question it is.
        query: The question.
        generic: The answer without an adapter; None if it is not there (yet).
        people: People and their models' answers; the asker comes first.
        waiting: How many more people may come.
    """

    asker: User
    query: Query
    generic: str | None = None
    people: tuple[tuple[User, str], ...] = ()
    waiting: int = SHOWN


class People:
    """Puts questions of a run's people to the models of several of them.

    Args:
        engine: The run's base and adapters.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        personal = [name for name in engine.methods if parse_method(name).personal]
        self._personal = "oppu_k0" if "oppu_k0" in personal else personal[0]
        self._plain = parse_method(self._personal).without_adapter.name
        self._answered: dict[tuple[str, str, str], Answers] = {}
        self._questions = functools.cache(self._all_questions)

    def after(self, task: str, user_id: str, query_id: str) -> tuple[str, str, str]:
        """The question after this one, as (task, user id, query id): everybody's first come first."""
        questions, asked = self._questions(task), (task, user_id, query_id)
        place = questions.index(asked) if asked in questions else -1
        return questions[(place + 1) % len(questions)] if questions else asked

    def ask(self, task: str, user_id: str, query_id: str) -> Iterator[Answers]:
        """Ask the model alone, then people's until so many answer differently; yield what is there.

        People who have no adapter are passed over. Where too few answer differently, others fill the view.

        Raises:
            OppuError: the run has changed, or the question does not fit into the base's context.
        """
        self._engine.check_current()
        known = task, user_id, query_id
        if known not in self._answered:
            yield from self._put(*known)
        yield self._answered[known]

    def _put(self, task: str, user_id: str, query_id: str) -> Iterator[Answers]:
        users = list(self._engine.users(task).values())
        place = next(number for number, user in enumerate(users) if user.user_id == user_id)
        asker = users[place]
        query = next(one for one in asker.queries if one.id == query_id)
        now = Answers(asker, query)
        yield now
        if self._plain in self._engine.methods:
            generic = self._engine.answer(task, self._plain, asker, query).text
            yield (now := dataclasses.replace(now, generic=generic))
        told: list[tuple[User, str]] = []
        alike: list[tuple[User, str]] = []
        for user in (users[place:] + users[:place])[:_ASKED]:
            asked = query if user is asker else asked_query(user, query.fields)
            try:
                text = self._engine.answer(task, self._personal, user, asked).text
            except (OppuError, KeyError):  # not trained, or forgotten meanwhile
                continue
            if text in (said for _, said in told):
                alike.append((user, text))
                continue
            told.append((user, text))
            yield (now := dataclasses.replace(now, people=tuple(told), waiting=SHOWN - len(told)))
            if len(told) == SHOWN:
                break
        if len(self._answered) >= _KEPT:
            self._answered.clear()
        self._answered[task, user_id, query_id] = dataclasses.replace(
            now, people=tuple((told + alike)[:SHOWN]), waiting=0
        )

    def _all_questions(self, task: str) -> list[tuple[str, str, str]]:
        users = self._engine.users(task)
        most = max((len(user.queries) for user in users.values()), default=0)
        return [
            (task, name, user.queries[place].id)
            for place in range(most)
            for name, user in users.items()
            if place < len(user.queries)
        ]
