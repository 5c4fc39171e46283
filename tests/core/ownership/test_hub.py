"""To and from the hub, against a fake of its HTTP interface: private first, one commit, clear refusals."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from oppu_core.errors import ConfigError, DataError, HubError
from oppu_core.ownership import hub
from oppu_core.ownership.bundle import CARD_FILE, WEIGHT_FILES, seal

BUNDLE = seal({name: f"content of {name}".encode() for name in (*WEIGHT_FILES, CARD_FILE)}, {"task": "t"})
SHA = "0123456789" * 4
ME = "me/mine"


class FakeHub:
    """Repositories in memory: {name: {"private": bool, "files": {name: content}}}."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, Any]] = {}
        self.requests: list[tuple[str, str]] = []
        self.tokens: set[str] = set()
        self.fail: dict[str, int] = {}  # part of a path: status
        self.lfs = False
        self.uploaded: dict[str, bytes] = {}
        self.ignores_private = False
        hub_ = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

            def do(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Transfer-Encoding") == "chunked":
                    body = b""
                    while size := int(self.rfile.readline(), 16):
                        body += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                path = unquote(urlsplit(self.path).path)
                hub_.requests.append((self.command, path))
                hub_.tokens.add(self.headers.get("Authorization", ""))
                status, headers, content = hub_.answer(self.command, path, body)
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_HEAD = do

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def answer(  # noqa: PLR0911, PLR0912
        self, method: str, path: str, body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        def plain(value: Any, status: int = 200) -> tuple[int, dict[str, str], bytes]:
            return status, {"Content-Type": "application/json"}, json.dumps(value).encode()

        for part, status in self.fail.items():
            if part in path:
                return plain({"error": "no, because"}, status)
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            private = asked.get("visibility") == "private" and not self.ignores_private
            self.repos[name] = {"private": private, "files": {".gitattributes": b"x"}}
            return plain({"url": f"{self.url}/{name}"})
        if path == "/api/validate-yaml":
            return plain({"errors": [], "warnings": []})
        if path.startswith("/upload/"):
            self.uploaded[path.rsplit("/", 1)[1]] = body
            return plain({})
        for name, repo in self.repos.items():
            files = repo["files"]
            if path == f"/{name}.git/info/lfs/objects/batch":
                objects = [
                    {**one, "actions": {"upload": {"href": f"{self.url}/upload/{one['oid']}"}}}
                    for one in json.loads(body)["objects"]
                ]
                return plain({"transfer": "basic", "objects": objects})
            if path == f"/api/models/{name}":
                found = [{"rfilename": file, "size": len(files[file])} for file in files]
                return plain({"id": name, "sha": SHA, "private": repo["private"], "siblings": found})
            if path == f"/api/models/{name}/preupload/main":
                modes = [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if self.lfs and "safetensors" in file["path"] else "regular",
                        "shouldIgnore": False,
                    }
                    for file in json.loads(body)["files"]
                ]
                return plain({"files": modes})
            if path == f"/api/models/{name}/commit/main":
                for line in body.splitlines():
                    one = json.loads(line)
                    if one["key"] == "file":
                        files[one["value"]["path"]] = base64.b64decode(one["value"]["content"])
                    elif one["key"] == "lfsFile":
                        files[one["value"]["path"]] = self.uploaded[one["value"]["oid"]]
                return plain({"commitUrl": f"{self.url}/{name}/commit/{SHA}", "commitOid": SHA})
            if path.startswith(f"/{name}/resolve/{SHA}/"):
                content = files[path.removeprefix(f"/{name}/resolve/{SHA}/")]
                etag = hashlib.sha256(content).hexdigest()
                return 200, {"ETag": f'"{etag}"', "X-Repo-Commit": SHA}, content
        status, _, content = plain({"error": "Repository not found"}, 404)
        return status, {"X-Error-Code": "RepoNotFound"}, content


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fake = FakeHub()
    thread = threading.Thread(target=fake.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield fake
    fake.server.shutdown()
    fake.server.server_close()
    thread.join()


@pytest.mark.parametrize("lfs", [False, True])
def test_what_is_pushed_is_private_and_comes_back_the_same(fake: FakeHub, monkeypatch, lfs: bool) -> None:
    from huggingface_hub import _commit_api

    monkeypatch.setattr(_commit_api, "is_xet_available", lambda: False)
    fake.lfs = lfs
    assert hub.push(BUNDLE, ME, endpoint=fake.url) == f"{fake.url}/{ME}"
    assert fake.repos[ME]["private"] is True
    assert {n: c for n, c in fake.repos[ME]["files"].items() if n != ".gitattributes"} == BUNDLE
    assert len(fake.uploaded) == (2 if lfs else 0)
    assert [path for _, path in fake.requests if "/commit/" in path] == [f"/api/models/{ME}/commit/main"]
    assert fake.tokens <= {"Bearer hf_secret", ""}
    assert hub.pull(ME, endpoint=fake.url) == BUNDLE
    hub.push(BUNDLE, ME, endpoint=fake.url)  # again: a new version of the same


def uploads(fake: FakeHub) -> list[str]:
    return [path for _, path in fake.requests if "commit" in path or "preupload" in path or "upload" in path]


def test_nothing_goes_to_a_public_repository_unless_public_is_said(fake: FakeHub) -> None:
    fake.repos[ME] = {"private": False, "files": {}}
    with pytest.raises(ConfigError, match="is public"):
        hub.push(BUNDLE, ME, endpoint=fake.url)
    assert not uploads(fake) and fake.repos[ME]["files"] == {}
    hub.push(BUNDLE, ME, public=True, endpoint=fake.url)
    assert fake.repos[ME]["files"] == BUNDLE
    fake.requests.clear()
    fake.ignores_private = True  # a hub that knows no private repositories
    with pytest.raises(ConfigError, match="is public"):
        hub.push(BUNDLE, "me/new", endpoint=fake.url)
    assert not uploads(fake)


def test_a_repository_with_something_else_is_left_alone(fake: FakeHub) -> None:
    fake.repos[ME] = {"private": True, "files": {"model.safetensors": b"weights"}}
    with pytest.raises(ConfigError, match="something else"):
        hub.push(BUNDLE, ME, endpoint=fake.url)
    assert not uploads(fake)


def test_a_card_written_on_the_hub_and_litter_do_no_harm(fake: FakeHub) -> None:
    litter = {".gitattributes": b"x", ".DS_Store": b"x", ".cache/huggingface/x.lock": b""}
    fake.repos[ME] = {"private": True, "files": {**BUNDLE, CARD_FILE: b"my words", **litter}}
    assert hub.pull(ME, endpoint=fake.url) == {**BUNDLE, CARD_FILE: b"my words"}
    got = {path for method, path in fake.requests if method == "GET" and "/resolve/" in path}
    assert len(got) == 6 and not any(name in path for path in got for name in litter)
    del fake.repos[ME]["files"][CARD_FILE]
    assert CARD_FILE not in hub.pull(ME, endpoint=fake.url)
    hub.push(BUNDLE, ME, endpoint=fake.url)
    assert fake.repos[ME]["files"] == {**BUNDLE, **litter}
    fake.repos[ME] = {"private": True, "files": {f"mine/{name}": data for name, data in BUNDLE.items()}}
    assert hub.pull(ME, endpoint=fake.url) == BUNDLE


@pytest.mark.parametrize("status", [401, 403, 404, 409, 500])
@pytest.mark.parametrize("part", ["/api/models/me/mine", "/api/repos/create", "/commit/"])
def test_a_hub_that_refuses_is_told_in_one_line(fake: FakeHub, monkeypatch, part: str, status: int) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    fake.fail[part] = status
    with pytest.raises(HubError) as caught:
        hub.push(BUNDLE, ME, endpoint=fake.url)
    assert str(status) in str(caught.value) and "\n" not in str(caught.value)
    assert "hf_secret" not in str(caught.value)


def test_without_token_network_or_leave_it_says_what_to_do(fake: FakeHub, monkeypatch) -> None:
    with pytest.raises(HubError, match="knows no such repository"):
        hub.pull("me/nothing", endpoint=fake.url)
    monkeypatch.setattr("time.sleep", lambda _: None)
    gone = FakeHub()
    gone.server.server_close()
    for call in (lambda: hub.pull(ME, endpoint=gone.url), lambda: hub.push(BUNDLE, ME, endpoint=gone.url)):
        with pytest.raises(HubError, match="cannot be used") as caught:
            call()
        assert "\n" not in str(caught.value)
    monkeypatch.setattr(hub, "get_token", lambda: None)
    with pytest.raises(ConfigError, match="HF_TOKEN"):
        hub.push(BUNDLE, ME, endpoint=fake.url)


@pytest.mark.parametrize("name", ["adapter_model.bin", "task_lora/x.py", "../evil"])
def test_a_repository_with_a_strange_file_is_not_fetched(fake: FakeHub, name: str) -> None:
    fake.repos[ME] = {"private": True, "files": {**BUNDLE, name: b"x"}}
    with pytest.raises(DataError, match="does not have"):
        hub.pull(ME, endpoint=fake.url)
    assert not [path for _, path in fake.requests if "/resolve/" in path]


def test_nothing_of_an_adapter_stays_in_the_hub_s_cache(fake: FakeHub, monkeypatch, tmp_path) -> None:
    import tempfile

    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    fake.repos[ME] = {"private": True, "files": dict(BUNDLE)}
    assert hub.pull(ME, endpoint=fake.url) == BUNDLE
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


@pytest.mark.parametrize("repo", ["", "me", "me/a/b", "me/..", "-me/x", "me/a b", "/me", "me/x.git", "../x"])
def test_what_is_no_name_is_refused_before_anything_is_asked(fake: FakeHub, repo: str) -> None:
    for call in (lambda: hub.pull(repo, endpoint=fake.url), lambda: hub.push({}, repo, endpoint=fake.url)):
        with pytest.raises(ConfigError, match="is no name"):
            call()
    assert fake.requests == []


def test_a_name_does_not_give_away_the_user() -> None:
    with pytest.raises(ConfigError, match="contains the user's id"):
        hub.check_repo_name("me/movies-Ann", "ann")
    hub.check_repo_name("me/movies-Ann", None)
    hub.check_repo_name("me/movies", "ann")
