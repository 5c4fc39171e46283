"""The page's named endpoints, for ``gradio_client`` and plain HTTP."""

from typing import Any

import gradio as gr
from oppu_core.errors import ConfigError, OppuError

from oppu_demo.own_history import read_items, train_own
from oppu_demo.state import YOU, Page


def add_api(page: Page) -> None:
    """Add ``/users``, ``/compare``, ``/train`` and ``/forget`` to the page that is being built."""

    def users(task: str) -> list[dict[str, Any]]:
        """The people of a task: their ids, how many items their history has, their questions."""
        with _Refusing():
            _check(task=(task, str))
            page.task(task)
            return [
                {
                    "user": user.user_id,
                    "items": len(user.history),
                    "queries": [{"id": query.id, "fields": dict(query.fields)} for query in user.queries],
                }
                for user in page.engine.users(task).values()
            ]

    def compare(
        request: gr.Request,
        task: str,
        user: str,
        query: str = "",
        fields: dict[str, str] | None = None,
        methods: list[str] | None = None,
    ) -> dict[str, dict[str, Any]]:
        """Every method's answer, prompt and seconds, for one of the user's questions (`query` is its id) or
        for new `fields`. `user` may be "me" after /train."""
        with _Refusing():
            _check(task=(task, str), user=(user, str), query=(query, str))
            _check(fields=(fields or {}, dict), methods=(methods or [], list))
            _check(**{f"fields.{name}": (text, str) for name, text in (fields or {}).items()})
            _check(**{f"methods.{place}": (name, str) for place, name in enumerate(methods or [])})
            session = page.known(request.session_hash)
            known = user in page.engine.users(task) if task in page.engine.tasks else False
            person = page.person(page.task(task).name, user if known or user != "me" else YOU, session)
            texts = [(fields or {}).get(name, "") for name in page.task(task).input_fields]
            what = page.question(task, person, query or None, texts)
            *_, last = page.compare(task, person, what, page.chosen(methods), session)
            return {
                column.method: {
                    "answer": column.answered.text,
                    "prompt": column.answered.prompt.text,
                    "seconds": round(column.answered.seconds, 4),
                }
                if column.answered
                else {"problem": column.problem}
                for column in last.columns
            }

    def train(request: gr.Request, task: str, history: str) -> dict[str, dict[str, float]]:
        """Train the caller's own adapters on a history (JSON, a table, or one item per line); nobody else can
        use them. Returns each adapter's first and last loss and seconds."""
        with _Refusing():
            _check(task=(task, str), history=(history, str))
            session = page.session(request.session_hash)
            items = read_items(page.task(task), history, None).something()
            for _ in train_own(page.engine, session, task, items):
                pass
            own = session.own
            return {
                variant: {
                    "first_loss": facts.first_loss,
                    "last_loss": facts.last_loss,
                    "seconds": facts.seconds,
                }
                for variant, facts in (own.facts if own else {}).items()
            }

    def forget(request: gr.Request) -> str:
        """Remove everything of the caller from memory and disk."""
        with _Refusing():
            page.session(request.session_hash)
            page.forget(request.session_hash)
        return "forgotten"

    gr.api(users, api_name="users")
    gr.api(compare, api_name="compare", concurrency_id="compare", concurrency_limit=2)
    gr.api(train, api_name="train", concurrency_id="train", concurrency_limit=2)
    gr.api(forget, api_name="forget")


def _check(**given: tuple[Any, type]) -> None:
    """Refuse arguments of other types than these; Gradio does not."""
    for name, (value, kind) in given.items():
        if not isinstance(value, kind):
            raise ConfigError(f"{name} has to be of the type {kind.__name__}, not {type(value).__name__}.")


class _Refusing:
    """Turns our errors into Gradio's, which reach the caller with their message."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, OppuError):
            raise gr.Error(str(error), print_exception=False) from error
