"""Films and a builder of prompts for tests."""

from collections.abc import Callable

from oppu_core.data import HistoryItem, Query, User
from oppu_core.prompting.builder import PromptBuilder
from oppu_core.prompting.retrieval import BM25Retriever, RandomRetriever, RecentRetriever
from oppu_core.tasks.task import Task
from oppu_core.tasks.task_files import TASKS

MOVIE, NEWS = TASKS["lamp_2m"], TASKS["lamp_4"]


class Letters:
    """A token a character, and one in front of a prompt."""

    def __init__(self, context: int) -> None:
        self.context = context

    def prompt_ids(self, text: str) -> list[int]:
        return [1, *map(ord, text)]

    def answer_ids(self, text: str) -> list[int]:
        return [*map(ord, " " + text), 2]


class Words(Letters):
    """A token a word."""

    def prompt_ids(self, text: str) -> list[int]:
        return [1, *map(len, text.split())]

    def answer_ids(self, text: str) -> list[int]:
        return [*map(len, text.split()), 2]


def film(number: int, text: str = "a film", tag: str = "comedy") -> HistoryItem:
    return HistoryItem(f"h{number}", {"description": text, "tag": tag})


OTHERS = [
    User(f"o{u}", "others", tuple(film(100 + u, f"stranger {u}") for _ in range(3)), ()) for u in range(4)
]


def builder_of(
    counter: Letters | None = None, task: Task = MOVIE, profile_of: Callable[[User], str] | None = None
) -> PromptBuilder:
    retrievers = {
        "bm25": BM25Retriever(task),
        "dense": BM25Retriever(task),  # stands in
        "recent": RecentRetriever(),
        "random": RandomRetriever(OTHERS, 0),
    }
    return PromptBuilder(task, counter or Letters(100_000), retrievers, profile_of)


# docs/architecture.md, "Which task base answers what".
VARIANTS = {
    "non_personalized": "base",
    "oppu_k0": "base",
    "random_k1": "rag_k1",
    "random_k7": "rag_k7",
    "rag_k1": "rag_k1",
    "rag_k2": "rag_k2",
    "rag_k4": "rag_k4",
    "rag_k10": "rag_k10",
    "rag_k123": "rag_k123",
    "oppu_rag_k1": "rag_k1",
    "oppu_rag_k4": "rag_k4",
    "recent_k1": "recent_k1",
    "recent_k12": "recent_k12",
    "oppu_recent_k4": "recent_k4",
    "dense_k1": "dense_k1",
    "oppu_dense_k4": "dense_k4",
    "pag_k0": "pag_k0",
    "pag_k1": "pag_k1",
    "pag_k12": "pag_k12",
    "oppu_pag_k0": "pag_k0",
    "oppu_pag_k1": "pag_k1",
    "pooled_k0": "base",
    "pooled_rag_k4": "rag_k4",
    "stranger_k0": "base",
    "stranger_pag_k1": "pag_k1",
}


HISTORY = (
    film(0, "a ship is lost in space", "action"),
    film(1, "two lovers on a boat", "romance"),
    film(2, "a robot in a city"),
)


def giveaways(user_items: int, history_len: int) -> User:
    """A user whose item t alone says `word<t>`, and whose queries and golds say words of their own."""
    history = tuple(
        film(t, f"film word{t} the", f"answer{t}" if t % 3 else "comedy") for t in range(user_items)
    )
    queries = (
        Query("late", {"description": "the asked late"}, "gold-late", user_items),
        Query("early", {"description": "the asked early"}, "gold-early", history_len),
    )
    return User("u", "test", history, queries)
