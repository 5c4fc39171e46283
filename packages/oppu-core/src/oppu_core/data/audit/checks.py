"""The checks of an audit: texts on both sides of the split, leaks within a history, and odd records."""

import collections
import hashlib
import itertools
from collections.abc import Iterable, Sequence

from oppu_core.data.audit.findings import Cases
from oppu_core.data.audit.kinds import FIRST_YEAR
from oppu_core.data.moments import moment
from oppu_core.data.types import HistoryItem, Query, User
from oppu_core.tasks.task import Task
from oppu_core.texts import as_number, script_words

Words = tuple[str, ...]
SHINGLE, NEAR, NEAR_WORDS = 3, 0.8, 5


def words_of(text: str) -> list[str]:
    """A text's words, without case and punctuation; if there is only punctuation, that."""
    return script_words(text) or text.casefold().split()


def _comparable(task: Task) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The fields of a query and of a history item that are compared."""
    shared = tuple(name for name in task.input_fields if name in task.history_fields)
    return (shared, shared) if shared else ((task.long_field,), (task.text_field,))


def _joined(thing: HistoryItem | Query, names: Sequence[str]) -> str:
    return " ".join(thing.fields[name] for name in names).strip()


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _text_digest(text: str) -> bytes:
    return _digest(" ".join(words_of(text)))


_NO_TEXT = _text_digest("")


class SplitChecks:
    """Finds texts and query ids of test users that the others have too; keeps digests only."""

    def __init__(self, task: Task, cases: Cases) -> None:
        self.of_query, self.of_item = _comparable(task)
        self.add = cases.add
        self.test_texts: set[bytes] = set()
        self.test_ids: set[bytes] = set()
        self.in_queries: set[bytes] = set()
        self.in_history: set[bytes] = set()
        self.shared_ids: set[bytes] = set()

    def _queries(self, user: User) -> list[tuple[Query, bytes]]:
        return [(query, _text_digest(_joined(query, self.of_query))) for query in user.queries]

    def _items(self, user: User) -> list[tuple[HistoryItem, bytes]]:
        return [(item, _text_digest(_joined(item, self.of_item))) for item in user.history]

    def note_test(self, user: User) -> None:
        self.test_texts.update(digest for _, digest in self._queries(user))
        self.test_texts.update(digest for _, digest in self._items(user))
        self.test_texts.discard(_NO_TEXT)
        self.test_ids.update(_digest(query.id) for query in user.queries)

    def note_other(self, user: User) -> None:
        self.in_queries |= self.test_texts & {digest for _, digest in self._queries(user)}
        self.in_history |= self.test_texts & {digest for _, digest in self._items(user)}
        self.shared_ids |= self.test_ids & {_digest(query.id) for query in user.queries}

    def look(self, user: User) -> None:
        for query, digest in self._queries(user):
            if digest in self.in_queries:
                self.add("query_in_others_queries", user, query, _joined(query, self.of_query))
            if digest in self.in_history:
                self.add("query_in_others_history", user, query, _joined(query, self.of_query))
            if _digest(query.id) in self.shared_ids:
                self.add("query_id_in_others", user, query)
        for item, digest in self._items(user):
            if digest in self.in_queries or digest in self.in_history:
                self.add("history_in_others", user, item, _joined(item, self.of_item))


class RecordChecks:
    """Checks the record of one user by itself."""

    def __init__(self, task: Task, cases: Cases, tomorrow: str) -> None:
        self.task, self.tomorrow = task, tomorrow
        self.add = cases.add
        self.of_query, self.of_item = _comparable(task)
        # Labels have findings of their own.
        self.needed = [
            name
            for name in task.history_fields
            if name not in task.optional_fields and not (name == task.output_field and task.labels)
        ]

    def look(self, user: User) -> None:
        for query in user.queries:
            self._gold(user, query)
            self._empty(user, query, self.task.input_fields)
        for item in user.history:
            self._empty(user, item, self.needed)
            output = self.task.output_field
            if output is not None and self.task.labels and not self._known(item.fields[output]):
                self.add("answer_outside_labels", user, item, item.fields[output] or "(empty)")
        self._dates(user)
        self._doubles(user)
        if user.split == "test" and not user.training_history:
            self.add("nothing_to_learn", user)
        if not user.queries:
            self.add("nothing_to_answer", user)

    def _known(self, answer: str) -> bool:
        return self.task.label_of(answer) is not None

    def _gold(self, user: User, query: Query) -> None:
        if query.gold is None:
            self.add("gold_missing", user, query)
        elif not query.gold.strip():
            self.add("gold_empty", user, query)
        elif self.task.kind == "rating" and as_number(query.gold) is None:
            self.add("gold_no_number", user, query, query.gold)
        elif self.task.labels and not self._known(query.gold):
            self.add("gold_outside_labels", user, query, query.gold)

    def _empty(self, user: User, thing: HistoryItem | Query, names: Iterable[str]) -> None:
        if lacking := [name for name in names if not thing.fields[name].strip()]:
            self.add("text_empty", user, thing, f"no {', '.join(lacking)}")

    def _dates(self, user: User) -> None:
        dates = [item.date for item in user.history if item.date]
        if 0 < len(dates) < len(user.history):
            self.add("dates_partly_missing", user, text=f"{len(dates)} of {len(user.history)} have one")
        read = [(one.at, date) for date in dates if (one := moment(date)) is not None]
        pair = next(((a, b) for (at, a), (then, b) in itertools.pairwise(read) if at > then), None)
        if pair and len(dates) == len(user.history):
            self.add("history_unsorted", user, text=f"{pair[0]} comes before {pair[1]}")
        things: list[HistoryItem | Query] = [*user.history, *user.queries]
        for thing in things:
            if thing.date and not self._possible(thing.date):
                self.add("date_implausible", user, thing, thing.date)
        self._future_items(user)

    def _possible(self, date: str) -> bool:
        read = moment(date)
        return read is not None and FIRST_YEAR <= read.text < self.tomorrow

    def _future_items(self, user: User) -> None:
        """Find queries that see items which are later than themselves."""
        starts = (moment(item.date or "") for item in user.history)
        latest = [0, *itertools.accumulate((start.at if start else 0 for start in starts), max)]
        for query in user.queries:
            asked = moment(query.date or "")
            if asked and latest[query.history_len] > asked.until:
                self.add("query_before_history", user, query, f"asked at {query.date}")

    def _doubles(self, user: User) -> None:
        ids: set[str] = set()
        texts: set[str] = set()
        for item in user.history:
            if item.id in ids:
                self.add("item_id_repeated", user, item)
            ids.add(item.id)
            text = _joined(item, self.of_item)
            if (words := " ".join(words_of(text))) and words in texts:
                self.add("text_repeated", user, item, text)
            texts.add(words)

    def look_for_leaks(self, user: User) -> None:
        """Compare every query with the items that it sees."""
        first: dict[Words, int] = {}
        first_field: dict[Words, int] = {}
        with_shingle: dict[Words, list[int]] = collections.defaultdict(list)
        sizes = []
        for place, item in enumerate(user.history):
            words = tuple(words_of(_joined(item, self.of_item)))
            first.setdefault(words, place)
            for field in item.fields.values() if self.task.kind == "generation" else ():
                first_field.setdefault(tuple(words_of(field)), place)
            shingles = _shingles(words)
            sizes.append(len(shingles))
            for shingle in shingles:
                with_shingle[shingle].append(place)
        never = len(user.history)
        for query in user.queries:
            text = _joined(query, self.of_query)
            words, gold = tuple(words_of(text)), tuple(words_of(query.gold or ""))
            if len(gold) >= NEAR_WORDS and first_field.get(gold, never) < query.history_len:
                self.add("gold_in_own_history", user, query, query.gold or "")
            if words and first.get(words, never) < query.history_len:
                self.add("query_in_own_history", user, query, text)
                continue
            shingles = _shingles(words)
            common = collections.Counter(
                place
                for shingle in shingles
                for place in with_shingle.get(shingle, ())
                if place < query.history_len
            )
            if any(both >= NEAR * (len(shingles) + sizes[place] - both) for place, both in common.items()):
                self.add("query_near_own_history", user, query, text)


def _shingles(words: Words) -> set[Words]:
    """The runs of three words of a text; none if it is too short to be compared this way."""
    if len(words) < NEAR_WORDS:
        return set()
    return {words[start : start + SHINGLE] for start in range(len(words) - SHINGLE + 1)}
