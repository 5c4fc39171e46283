"""The state and the functions of the page, without its controls."""

import dataclasses
import functools
import threading
from collections.abc import Callable, Iterator, Sequence

from oppu_core.data.types import Query, User
from oppu_core.errors import ConfigError, DataError, OppuError
from oppu_core.process import release_memory
from oppu_core.prompting.methods import parse_method
from oppu_core.runs.asking import asked_query
from oppu_core.tasks.task import Task
from oppu_core.texts import shorten
from oppu_eval.reporting.habits import Habits, habits
from oppu_eval.scoring.metrics import metrics_for
from oppu_eval.scoring.results import Results
from oppu_eval.scoring.run_results import known_results

from oppu_demo.adapters import stored, trained
from oppu_demo.engine import Engine
from oppu_demo.looking import Asked, Looking
from oppu_demo.people import People
from oppu_demo.sessions import Session, Sessions
from oppu_demo.views.comparison import Column, compare_view, default_methods
from oppu_demo.views.person import habit_line, person_view

# Stands for the visitor among the people of a run, whose ids may be any text.
YOU = "you-e6f0b1d2c3a94857"
UNUSED_SECONDS = 3600.0
_OFFERED = 200  # of others' questions
_WITH_HABITS = 200  # people whose habits stand in the list, where they can be searched for


class Page:
    """The page, one object for all visitors.

    Args:
        engine: The run's base and adapters.

    Attributes:
        several: Puts a question to several people's models.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine, self.several = engine, People(engine)
        self.sessions = Sessions()
        self._by_visit: dict[str, Session] = {}
        self._looking: dict[str, Looking] = {}
        self._lock = threading.Lock()
        # Called for every forgotten visit: the server of the page may keep texts of its own.
        self.on_forget: Callable[[str], object] = lambda visit: None
        self.everybody = functools.cache(self._everybody)
        self._people = functools.cache(self._all_people)
        self._questions = functools.cache(self._all_questions)
        self._ending = threading.Event()
        threading.Thread(target=self._expire, name="expire sessions", daemon=True).start()

    def close(self) -> None:
        """Remove everything of all visitors."""
        self._ending.set()
        self.sessions.close()

    def _expire(self) -> None:
        while not self._ending.wait(60):
            self.sessions.expire(UNUSED_SECONDS)
            with self._lock:
                over = [visit for visit, one in self._by_visit.items() if one.ended]
            for visit in over:
                self.forget(visit)
            release_memory()

    def session(self, visit: str | None) -> Session:
        """A visitor's session; a new one if there is none or it is over.

        Raises:
            ConfigError: the visit is not known.
        """
        if not visit:
            raise ConfigError("Send a session_hash of your own, which nobody can guess; gradio_client does.")
        with self._lock:
            session = self._by_visit.get(visit)
            if session is None or session.ended:
                session = self._by_visit[visit] = self.sessions.new()
            session.touch()
            return session

    def known(self, visit: str | None) -> Session | None:
        """A visitor's session, if there is one."""
        return self._by_visit.get(visit or "")

    def forget(self, visit: str | None) -> None:
        """Remove everything of a visitor."""
        with self._lock:
            session = self._by_visit.pop(visit or "", None)
            self._looking.pop(visit or "", None)
        if session:
            trained = session.own is not None
            self.sessions.forget(session)
        self.on_forget(visit or "")
        if session and trained:
            release_memory()

    def task(self, name: str) -> Task:
        """A task of the run.

        Raises:
            ConfigError: there is none with this name.
        """
        if name not in self.engine.tasks:
            raise ConfigError(f"There is no task {name!r} here; there are {', '.join(self.engine.tasks)}.")
        return self.engine.tasks[name]

    def person(self, task: str, user_id: str, session: Session | None) -> User:
        """One of the run's users, or the visitor.

        Raises:
            DataError: there is nobody with this id.
        """
        own = session.own if session else None
        if user_id == YOU:
            if own is None or own.task != task:
                raise DataError("You have no adapter for this task; train one in “Your history”.")
            return own.user
        if user_id not in self.engine.users(task):
            raise DataError(f"There is no user {user_id!r}.")
        return self.engine.users(task)[user_id]

    def people(self, task: str, session: Session | None) -> list[tuple[str, str]]:
        """(label, id) of everybody who can be chosen."""
        own = session.own if session else None
        mine = [("You", YOU)] if own is not None and own.task == task else []
        return mine + self._people(task)

    def habit(self, task: str, user: User) -> str:
        """A line on what a person usually does."""
        return habit_line(self.task(task), user)

    def _all_people(self, task: str) -> list[tuple[str, str]]:
        users = self.engine.users(task).items()
        if len(users) > _WITH_HABITS:
            return [
                (f"{shorten(user_id, 40)} · {len(user.history):,} items", user_id) for user_id, user in users
            ]
        return [(f"{shorten(user_id, 40)} · {self.habit(task, user)}", user_id) for user_id, user in users]

    def queries(self, task: str, user: User) -> list[tuple[str, str]]:
        """(label, id) of a user's test queries; of everybody's for a visitor, who has none."""
        queries = user.queries or list(self._questions(task).values())[:_OFFERED]
        return [(self._label(task, query), query.id) for query in queries]

    def same_question(self, task: str, query_id: str) -> tuple[str, str] | None:
        """(label, id) of anybody's query; None if there is none of this id."""
        query = self._questions(task).get(query_id)
        return None if query is None else (self._label(task, query), query.id)

    def _label(self, task: str, query: Query) -> str:
        return shorten(" ".join(query.fields[self.task(task).long_field].split()), 90)

    def telling(self, task: str) -> tuple[str, str]:
        """A user and a query ("" if there are none) to start with; if possible, one where the adapter helped
        in the run."""
        personal = next(name for name in self.engine.methods if parse_method(name).personal)
        plain = parse_method(personal).without_adapter.name
        metric = metrics_for(self.task(task))[0]
        answers = [self.engine.run.predictions(task, name) for name in (plain, personal)]
        for user_id, user in self.engine.users(task).items():
            gains = {}
            for query in user.queries:
                key = user_id, query.id
                if query.gold is not None and all(key in one for one in answers):
                    before, after = (metric.score([one[key]], [query.gold]) for one in answers)
                    gains[key] = metric.sign * (after - before)
            if gains and max(gains.values()) > 0:
                return max(gains, key=lambda key: gains[key])
        users = self.engine.users(task).values()
        first = next((user for user in users if user.queries), None) or next(iter(users))
        return first.user_id, first.queries[0].id if first.queries else ""

    def question(self, task: str, user: User, query_id: str | None, texts: Sequence[str]) -> Query:
        """One of the user's queries, or a new one that may see their whole history.

        Raises:
            DataError: there is no such query.
            ConfigError: a text is missing or too long.
        """
        if query_id is not None:
            own = next((query for query in user.queries if query.id == query_id), None)
            if own is None and query_id in self._questions(task):  # another's, asked of this person as well
                return asked_query(user, self._questions(task)[query_id].fields)
            if own is None:
                raise DataError("Choose one of their queries first.")
            return own
        fields = dict(zip(self.task(task).input_fields, [text or "" for text in texts], strict=False))
        for name, text in fields.items():
            if not text.strip():
                raise ConfigError(f"Write the {name.replace('_', ' ')} first.")
            if len(text) > 10_000:
                raise ConfigError(
                    f"The {name.replace('_', ' ')} has more than 10,000 characters; shorten it."
                )
        return asked_query(user, fields)

    def chosen(self, methods: Sequence[str] | None) -> list[str]:
        """The chosen methods in the run's order; the default ones if none is chosen.

        Raises:
            ConfigError: the run does not have one of them.
        """
        for name in methods or ():
            if name not in self.engine.methods:
                raise ConfigError(
                    f"There is no method {name!r} here; there are {', '.join(self.engine.methods)}."
                )
        return [
            name for name in self.engine.methods if name in (methods or default_methods(self.engine.methods))
        ]

    def compare(
        self, task: str, user: User, query: Query, methods: Sequence[str], session: Session | None
    ) -> Iterator[Asked]:
        """Yield a comparison as its answers come in."""
        own = session.own if session else None
        adapters = own.adapters if own is not None and own.user is user else None
        columns = {name: Column(name) for name in methods}
        asked = Asked(task, query.fields[self.task(task).long_field], query.gold, tuple(columns.values()))
        yield asked
        for name in methods:
            try:
                columns[name] = Column(name, self.engine.answer(task, name, user, query, adapters))
            except OppuError as error:
                columns[name] = Column(name, problem=str(error))
            except KeyError:  # forgotten meanwhile
                columns[name] = Column(name, problem="This adapter has been forgotten.")
            yield dataclasses.replace(asked, columns=tuple(columns.values()))

    def looking(self, visit: str | None) -> Looking:
        """What a visitor is looking at; at first, at what :meth:`telling` tells of the first task."""
        if (known := self._looking.get(visit or "")) is not None:
            return known
        first = next(iter(self.engine.tasks))
        who, query_id = self.telling(first)  # reads files: only for a new visitor
        at_first = Looking(first, who, query_id or None)
        with self._lock:
            return self._looking.setdefault(visit, at_first) if visit in self._by_visit else at_first

    def shown(self, asked: Asked, reveal: bool) -> str:
        """A comparison's cards as HTML."""
        return compare_view(self.task(asked.task), asked.question, asked.columns, asked.gold, reveal)

    def portrait(self, task: str, user: User, session: Session) -> str:
        """Everything about a person as HTML."""
        of_the_run = session.own is None or session.own.user is not user
        adapters = stored(self.engine, task, user) if of_the_run else trained(session)
        profile = self.engine.profile(task, user)
        named = user if of_the_run else dataclasses.replace(user, user_id="You")
        return person_view(self.task(task), named, self.everybody(task), profile, adapters)

    def _everybody(self, task: str) -> Habits:
        return habits(self.task(task), self.engine.users(task).values())

    def _all_questions(self, task: str) -> dict[str, Query]:
        return {query.id: query for user in self.engine.users(task).values() for query in user.queries}

    def results(self) -> Results | None:
        """The run's results, if it has been evaluated."""
        return known_results(self.engine.run)
