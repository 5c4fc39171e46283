"""The page's named endpoints, as `gradio_client` and plain HTTP see them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser_pages import Served, files
from gradio_client import Client
from gradio_client.exceptions import AppError, AuthenticationError
from oppu_core.runs.run import Run
from oppu_demo.app import build
from oppu_demo.launch import launch

HISTORY = "A dragon sleeps under the castle. => fantasy\nThe jokes never stop. => fantasy\n" * 6
ASKED = {"description": "A ship sinks in the night."}


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[Client]:
    """A visitor with a program."""
    visitor = Client(served.address, verbose=False)
    yield visitor
    visitor.close()


def answers(client: Client, **arguments: Any) -> dict[str, str]:
    """Every method's answer."""
    columns = client.predict(**arguments, api_name="/compare")
    return {method: column["answer"] for method, column in columns.items()}


def test_exactly_four_endpoints_are_public_and_documented(client: Client) -> None:
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert {
        name: [each["parameter_name"] for each in endpoint["parameters"]]
        for name, endpoint in endpoints.items()
    } == {
        "/users": ["task"],
        "/compare": ["task", "user", "query", "fields", "methods"],
        "/train": ["task", "history"],
        "/forget": [],
    }
    assert all(endpoint["description"] for endpoint in endpoints.values())
    assert client.view_api(return_format="dict", print_info=False)["unnamed_endpoints"] == {}


def test_users_are_the_runs(client: Client, served: Served) -> None:
    for task, people in (("lamp_2m", 3), ("lamp_4", 2)):
        found = client.predict(task, api_name="/users")
        known = served.page.engine.users(task)
        assert len(found) == people
        assert found == [
            {
                "user": user.user_id,
                "items": len(user.history),
                "queries": [{"id": query.id, "fields": dict(query.fields)} for query in user.queries],
            }
            for user in known.values()
        ]
        assert "gold" not in str(found)


@pytest.mark.parametrize("task", ["lamp_2m", "lamp_4"])
def test_answers_are_those_of_oppu_answer(client: Client, finished: Run, task: str) -> None:
    predictions = {method: finished.predictions(task, method) for method in finished.config.methods}
    for user in client.predict(task, api_name="/users"):
        query = user["queries"][-1]
        expected = {method: found[user["user"], query["id"]] for method, found in predictions.items()}
        assert answers(client, task=task, user=user["user"], query=query["id"]) == expected
        # Asked anew, the last query sees the same history.
        by_fields = answers(client, task=task, user=user["user"], fields=query["fields"], methods=["oppu_k0"])
        assert by_fields == {"oppu_k0": expected["oppu_k0"]}


def test_an_adapter_is_its_callers_alone_until_it_is_forgotten(client: Client, served: Served) -> None:
    other = Client(served.address, verbose=False)
    trained = client.predict("lamp_2m", HISTORY, api_name="/train")
    assert list(trained) == ["base", "rag_k1"]
    assert all(each["last_loss"] < each["first_loss"] for each in trained.values())
    mine = client.predict(task="lamp_2m", user="me", fields=ASKED, api_name="/compare")
    assert mine["oppu_k0"]["answer"] == "fantasy" != mine["non_personalized"]["answer"]
    assert "dragon" in mine["rag_k1"]["prompt"] or "jokes" in mine["rag_k1"]["prompt"]
    for task, visitor in (("lamp_2m", other), ("lamp_4", client)):
        with pytest.raises(AppError, match="You have no adapter for this task"):
            answers(visitor, task=task, user="me", fields=ASKED | {"article": "A ship."})
    assert client.predict(api_name="/forget") == "forgotten"
    with pytest.raises(AppError, match="You have no adapter for this task"):
        answers(client, task="lamp_2m", user="me", fields=ASKED)
    assert files(served.page.sessions.root) == []
    other.close()


@pytest.mark.parametrize(
    ("endpoint", "arguments", "problem"),
    [
        ("/users", {"task": "lamp_9"}, "There is no task 'lamp_9' here; there are lamp_2m, lamp_4."),
        ("/compare", {"task": "../lamp_2m", "user": "test-000"}, "There is no task '../lamp_2m' here"),
        ("/compare", {"task": "lamp_2m", "user": "../../etc/passwd"}, "There is no user '../../etc/passwd'."),
        ("/compare", {"task": "lamp_2m", "user": "test-000", "query": "none"}, "Choose one of their queries"),
        ("/compare", {"task": "lamp_2m", "user": "test-000"}, "Write the description first."),
        ("/compare", {"task": "lamp_2m", "user": "test-000", "fields": {"description": "x" * 10_001}},
         "The description has more than 10,000 characters"),
        ("/compare", {"task": "lamp_2m", "user": "test-000", "fields": ASKED, "methods": ["oppu_k9"]},
         "There is no method 'oppu_k9' here; there are non_personalized, rag_k1"),
        ("/train", {"task": "lamp_9", "history": HISTORY}, "There is no task 'lamp_9' here"),
        ("/users", {"task": ["lamp_2m"]}, "task has to be of the type str, not list"),
        ("/compare", {"task": "lamp_2m", "user": "test-000", "fields": "x"},
         "fields has to be of the type dict"),
        ("/compare", {"task": "lamp_2m", "user": "test-000", "fields": ASKED, "methods": "oppu_k0"},
         "methods has to be of the type list, not str"),
        ("/train", {"task": "lamp_2m", "history": 5}, "history has to be of the type str, not int"),
        ("/train", {"task": "lamp_2m", "history": " "}, "The text is empty. Write one item a line"),
        ("/train", {"task": "lamp_2m", "history": "A cat."}, "There is no item to learn from"),
        ("/train", {"task": "lamp_2m", "history": "A cat. => comedy\n" * 2001}, "more than 2,000 items"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said(
    client: Client, endpoint: str, arguments: dict[str, Any], problem: str
) -> None:
    with pytest.raises(AppError) as caught:
        client.predict(**arguments, api_name=endpoint)
    assert problem in str(caught.value)


def test_a_password_keeps_everybody_else_out(served: Served) -> None:
    blocks = build(served.page)
    address = launch(blocks, prevent_thread_lock=True, auth=("ada", "lovelace"))
    try:
        with pytest.raises((AuthenticationError, ValueError)):
            Client(address, verbose=False)
        with pytest.raises((AuthenticationError, ValueError)):
            Client(address, auth=("ada", "wrong"), verbose=False)
        for path in ("config", "gradio_api/info"):
            assert httpx.get(f"{address}{path}").status_code == 401, path
        asked = httpx.post(f"{address}gradio_api/call/users", json={"data": ["lamp_2m"]})
        upload = httpx.post(f"{address}gradio_api/upload", files={"files": b"A cat. => comedy"})
        assert (asked.status_code, upload.status_code) == (401, 401)
        assert "test-000" not in httpx.get(address).text
        allowed = Client(address, auth=("ada", "lovelace"), verbose=False)
        assert len(allowed.predict("lamp_2m", api_name="/users")) == 3
        allowed.close()
    finally:
        blocks.close(verbose=False)


@pytest.mark.parametrize("endpoint", ["train", "forget"])
def test_nobody_trains_or_is_forgotten_without_a_name(served: Served, endpoint: str) -> None:
    data = ["lamp_2m", HISTORY] if endpoint == "train" else []
    before = set(served.page.sessions.root.iterdir())
    answer = httpx.post(f"{served.address}/gradio_api/run/{endpoint}", json={"data": data}, timeout=30)
    assert answer.status_code == 500 and "session_hash" in answer.text
    asked = {"data": ["lamp_2m", "nobody", "", ASKED, None]}
    assert httpx.post(f"{served.address}/gradio_api/run/compare", json=asked).status_code == 500
    assert set(served.page.sessions.root.iterdir()) == before, "no folder for whoever only asks"


def test_another_site_cannot_ask_through_a_visitors_browser(served: Served) -> None:
    """A name of another site that is made to mean this machine (DNS rebinding)."""
    call = {"url": f"{served.address}/gradio_api/run/users", "json": {"data": ["lamp_2m"]}}
    assert httpx.post(**call).status_code == 200
    assert httpx.post(**call, headers={"Host": "evil.example:7860"}).status_code == 400


def test_the_page_about_it_does_what_it_says(
    served: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(__file__).parents[2] / "docs" / "demo.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    address = '"http://127.0.0.1:7860"'
    assert address in block and "\\n…" in block
    # As many items as an adapter needs, where the page has three dots.
    exec(block.replace(address, repr(served.address)).replace("\\n…", "\\nA ship sinks. => classic" * 4), {})
    printed = capsys.readouterr().out
    assert "oppu_k0" in printed and "rag_k1" in printed
