"""LongLaMP from the hub, against a stand-in of the part of its interface that datasets use."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from oppu_core.cli.data import app
from oppu_core.data.download_longlamp import REPOSITORY, download_longlamp
from oppu_core.data.importers.detect import open_reader
from oppu_core.errors import ConfigError, DataError, HubError
from oppu_core.tasks.task_files import get_task
from test_longlamp import BY_USER, write
from typer.testing import CliRunner

REVIEWS = get_task("longlamp_review")
SHA = "0123456789" * 4


class Hub(ThreadingHTTPServer):
    """One dataset in memory."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.sent: list[str] = []
        self.status = 200
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        hub, resolve = self.server, f"/datasets/{REPOSITORY}/resolve/{SHA}/"
        name = self.path.removeprefix(resolve)
        content, headers = b"{}", {}
        if self.path == f"/api/datasets/{REPOSITORY}":
            siblings = [{"rfilename": file} for file in hub.files]
            content = json.dumps({"id": REPOSITORY, "sha": SHA, "siblings": siblings}).encode()
        elif name in hub.files:
            content = hub.files[name]
            headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": SHA}
            hub.sent += [name] if self.command == "GET" else []
        self.send_response(hub.status)
        for header, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        for config in ("product_review_user", "product_review_temporal", "topic_writing_user"):
            for file in write(tmp_path / "source" / config, BY_USER, 2).iterdir():
                hub.files[f"{config}/{file.name}"] = file.read_bytes()
        hub.files["README.md"] = b"# LongLaMP"
        yield hub
        hub.shutdown()
        thread.join()


def test_a_configuration_comes_whole_and_can_be_imported(hub: Hub, tmp_path: Path) -> None:
    folder = download_longlamp(REVIEWS, "user", ["train", "test"], tmp_path / "raw", hub.url)
    assert folder == tmp_path / "raw" / "product_review_user"
    names = sorted(file.name for file in folder.iterdir())
    assert names == [f"{s}-0000{n}-of-00002.parquet" for s in ("test", "train") for n in (0, 1)]
    assert all(file.read_bytes() == hub.files[f"{folder.name}/{file.name}"] for file in folder.iterdir())
    assert open_reader(folder).task == REVIEWS
    sent = len(hub.sent)
    download_longlamp(REVIEWS, "user", ["train", "test"], tmp_path / "raw", hub.url)
    assert len(hub.sent) == sent == 4, "what is there is not fetched again"
    assert download_longlamp(REVIEWS, "time", ["val"], tmp_path / "raw", hub.url).name.endswith("_temporal")


def test_what_cannot_be_fetched_is_one_line(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no part 'dev'; parts are train, val, test"):
        download_longlamp(REVIEWS, "user", ["dev"], tmp_path / "raw", hub.url)
    with pytest.raises(DataError, match=r"has no abstract_generation_user/test-\*.parquet"):
        download_longlamp(get_task("longlamp_abstract"), "user", ["test"], tmp_path / "raw", hub.url)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file cannot be written"):
        download_longlamp(REVIEWS, "user", ["test"], tmp_path / "file", hub.url)
    hub.status = 403
    with pytest.raises(HubError, match=r"LongLaMP/LongLaMP: the hub .* forbids it"):
        download_longlamp(REVIEWS, "user", ["test"], tmp_path / "raw", hub.url)
    with pytest.raises(HubError, match="cannot be used"):
        download_longlamp(REVIEWS, "user", ["test"], tmp_path / "raw", "http://127.0.0.1:9")


def test_the_command_says_what_comes_next(hub: Hub, tmp_path: Path) -> None:
    told = CliRunner().invoke(
        app, ["download", "longlamp_review", "--split", "user", "--out", str(tmp_path), "--host", hub.url]
    )
    assert told.exit_code == 0, told.output
    assert f"oppu data import {tmp_path}/product_review_user --format longlamp" in told.stdout
    assert {name.partition("/")[2].partition("-")[0] for name in hub.sent} == {"train", "test"}
