"""Downloads over a bad line, from a bad server, onto a bad disk: whole and right, or not there and why."""

import http.server
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from oppu_core.cli.data import app
from oppu_core.data.download import download, lamp_files
from oppu_core.errors import ConfigError, DataError, Interrupted
from oppu_core.tasks.task import Task
from oppu_core.tasks.task_files import TASKS
from typer.testing import CliRunner

MOVIES = TASKS["lamp_2m"]
QUESTIONS, OUTPUTS = "train_questions.json", "train_outputs.json"
BODY = json.dumps([{"id": str(number), "input": "text"} for number in range(2_000)]).encode()
OTHER_BODY = BODY.replace(b"text", b"TEXT")
ANSWERS = b'{"task": "LaMP_2", "golds": []}'


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`; each request for a path takes the next of `faults`, then there are none."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.faults: list[dict[str, Any]] = []
        self.requests: list[tuple[str, str | None]] = []
        self.starts: list[int] = []  # the first byte of each body that was sent
        self.validator: tuple[str, str] | None = ("ETag", '"one"')

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/LaMP/"

    @property
    def ranges(self) -> list[str | None]:
        return [wanted for _, wanted in self.requests]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        fault = self.server.faults.pop(0) if self.server.faults else {}
        wanted = self.headers["Range"]
        self.server.requests.append((self.path, wanted))
        if "status" in fault:
            self.send_error(fault["status"])
            return
        if "change" in fault:
            self.server.files[self.path], self.server.validator = fault["change"], ("ETag", '"two"')
        body = self.server.files.get(self.path)
        if body is None:
            self.send_error(404)
            return
        start = 0
        unchanged = self.server.validator and self.headers["If-Range"] == self.server.validator[1]
        if wanted and (unchanged or fault.get("believes")) and not fault.get("ignores_range"):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        if self.server.validator:
            self.send_header(*self.server.validator)
        if not fault.get("no_length"):
            self.send_header("Content-Length", str(len(body) - start + fault.get("longer", 0)))
        self.end_headers()
        self.server.starts.append(start)
        self.wfile.write(body[start : fault.get("break_at")])
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        base = "/LaMP/time/LaMP_2/new/train/"
        server.files = {base + QUESTIONS: BODY, base + OUTPUTS: ANSWERS}
        yield server
        server.shutdown()
        thread.join()


def get(server: Server, folder: Path, tries: int = 3, **changes: Any) -> list[Path]:
    options: dict[str, Any] = {"task": MOVIES, "split": "time", "parts": ["train"]} | changes
    return download(folder=folder, host=server.url, pauses=(0,) * (tries - 1), **options)


def holds(folder: Path, body: bytes = BODY) -> bool:
    """Both files are there and right, and nothing half done."""
    names = {file.name for file in folder.iterdir()}
    assert names == {QUESTIONS, OUTPUTS, "download.json"}
    return (folder / QUESTIONS).read_bytes() == body and (folder / OUTPUTS).read_bytes() == ANSWERS


def test_paths_are_those_of_the_official_host() -> None:
    assert lamp_files(TASKS["lamp_1"], "user", ["dev", "test"]) == {
        "dev_questions.json": "LaMP_1/dev/dev_questions.json",
        "dev_outputs.json": "LaMP_1/dev/dev_outputs.json",
        "test_questions.json": "LaMP_1/test/test_questions.json",  # its answers are withheld
    }
    assert lamp_files(MOVIES, "time", ["train"])[QUESTIONS] == f"time/LaMP_2/new/train/{QUESTIONS}"
    assert lamp_files(TASKS["lamp_2n"], "user", ["train"])[QUESTIONS] == f"LaMP_2/train/{QUESTIONS}"


def test_a_good_server(server: Server, tmp_path: Path) -> None:
    shown: list[tuple[str, int, int | None]] = []
    files = get(server, tmp_path / "a" / "b", on_progress=lambda *facts: shown.append(facts))
    assert files == [tmp_path / "a" / "b" / QUESTIONS, tmp_path / "a" / "b" / OUTPUTS]
    assert holds(tmp_path / "a" / "b")
    assert (QUESTIONS, len(BODY), len(BODY)) in shown


def test_what_is_whole_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    get(server, tmp_path)
    server.requests.clear()
    get(server, tmp_path)
    assert server.requests == []
    (tmp_path / QUESTIONS).write_bytes(BODY[:-1])  # a copy that lost its end
    get(server, tmp_path)
    assert len(server.requests) == 1
    assert holds(tmp_path)


@pytest.mark.parametrize("validator", [("ETag", '"one"'), ("Last-Modified", "Sat, 21 Nov 2026 08:00:00 GMT")])
def test_a_broken_connection_is_continued_where_it_broke(
    server: Server, tmp_path: Path, validator: tuple[str, str]
) -> None:
    server.validator = validator
    server.faults = [{"break_at": 5_000}, {"break_at": 9_000}]
    get(server, tmp_path)
    assert server.starts[:3] == [0, 5_000, 9_000]
    assert holds(tmp_path)


def test_a_later_command_continues_what_an_earlier_one_left(server: Server, tmp_path: Path) -> None:
    server.faults = [{"break_at": 5_000}]
    with pytest.raises(DataError, match=r"5,000 bytes came of .* start the same command again"):
        get(server, tmp_path, tries=1)
    assert not (tmp_path / QUESTIONS).exists()
    get(server, tmp_path)
    assert server.starts[:2] == [0, 5_000]
    assert holds(tmp_path)


def test_progress_gives_new_tries_but_they_end(server: Server, tmp_path: Path) -> None:
    server.faults = [{"break_at": 1_000 * number} for number in range(1, 8)]
    get(server, tmp_path, tries=2)
    assert holds(tmp_path)
    server.faults = [{"break_at": 500}] * 20
    with pytest.raises(DataError, match="after 2 tries without a new byte"):
        get(server, tmp_path / "again", tries=2)


def test_a_server_without_ranges_is_read_from_the_start(server: Server, tmp_path: Path) -> None:
    server.faults = [{"break_at": 5_000}, {"ignores_range": True}]
    get(server, tmp_path)
    assert server.ranges[1] == "bytes=5000-"
    assert holds(tmp_path)


def test_without_a_sure_validator_nothing_is_continued(server: Server, tmp_path: Path) -> None:
    server.validator = ("ETag", 'W/"one"')
    server.faults = [{"break_at": 5_000}]
    get(server, tmp_path)
    assert server.ranges[:2] == [None, None]
    assert holds(tmp_path)


@pytest.mark.parametrize("believes", [False, True], ids=["If-Range is honoured", "If-Range is ignored"])
def test_two_versions_are_never_mixed(server: Server, tmp_path: Path, believes: bool) -> None:
    server.faults = [{"break_at": 5_000}, {"change": OTHER_BODY, "believes": believes}]
    get(server, tmp_path)
    assert server.ranges[1] == "bytes=5000-"
    assert holds(tmp_path, OTHER_BODY)


def test_a_file_that_shrank_is_read_anew(server: Server, tmp_path: Path) -> None:
    server.faults = [{"break_at": 5_000}, {"change": b"[1]", "believes": True}]
    get(server, tmp_path)
    assert holds(tmp_path, b"[1]")


def test_a_promise_of_too_much_is_an_error(server: Server, tmp_path: Path) -> None:
    server.faults = [{"longer": 10}, {"longer": 10}, {"longer": 10}]
    with pytest.raises(DataError, match=r"train_questions\.json"):
        get(server, tmp_path)
    assert not (tmp_path / QUESTIONS).exists()


def test_a_promise_of_too_little_is_an_error(server: Server, tmp_path: Path) -> None:
    server.faults = [{"longer": -10}]
    with pytest.raises(DataError, match="ends in the middle of its JSON"):
        get(server, tmp_path)
    assert not (tmp_path / QUESTIONS).exists()
    get(server, tmp_path)
    assert holds(tmp_path)


def test_an_unknown_length_is_taken_to_the_end(server: Server, tmp_path: Path) -> None:
    server.faults = [{"no_length": True}]
    get(server, tmp_path)
    assert holds(tmp_path)
    server.requests.clear()
    get(server, tmp_path)
    assert server.requests == []


def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.faults = [{"status": 503}, {"status": 429}]
    get(server, tmp_path)
    assert holds(tmp_path)


@pytest.mark.parametrize(
    ("status", "advice"), [(404, "layout of the host may have changed"), (403, "does not give this file")]
)
def test_what_is_refused_is_not_asked_again(server: Server, tmp_path: Path, status: int, advice: str) -> None:
    server.faults = [{"status": status}]
    with pytest.raises(DataError, match=f"{QUESTIONS}: the server answered {status}.*{advice}"):
        get(server, tmp_path)
    assert len(server.requests) == 1


def test_a_page_is_no_data(server: Server, tmp_path: Path) -> None:
    path = next(iter(server.files))
    server.files[path] = b"\n<!doctype html><h1>We moved</h1>"
    with pytest.raises(DataError, match=r"this is no JSON; it starts with '\\n<!doctype"):
        get(server, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} <= {"download.json"}


def test_no_server_and_no_host(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        with pytest.raises(DataError, match="no connection"):
            download(MOVIES, "time", ["train"], tmp_path, url, pauses=(0,))

    def offline(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    with pytest.raises(DataError, match="the host cannot be found"):
        download(MOVIES, "time", ["train"], tmp_path, "http://nowhere.invalid/", pauses=(0,))
    for host in (
        "ftp://nowhere.invalid/",
        "http://",
        "http://[::1",
        "http://a:99999/",
        "http://a b/",
        "http://a/ä",
    ):
        with pytest.raises(ConfigError, match="is no address; it must start with https"):
            download(MOVIES, "time", ["train"], tmp_path, host, pauses=())


def test_a_full_disk_is_noticed_before_it_is_full(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=len(BODY) - 1))
    with pytest.raises(DataError, match=r"No space left on device\. Make room, then start"):
        get(server, tmp_path)


def test_folders_and_files_in_the_way(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="cannot be used as a folder"):
        get(server, tmp_path / "file")
    (tmp_path / "d" / QUESTIONS).mkdir(parents=True)
    with pytest.raises(DataError, match="is a folder where a file should come"):
        get(server, tmp_path / "d")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_holds_one_task_and_split(server: Server, tmp_path: Path) -> None:
    get(server, tmp_path)
    for changes in ({"split": "user"}, {"task": TASKS["lamp_4"]}):
        with pytest.raises(ConfigError, match="holds 'lamp_2m', split 'time'"):
            get(server, tmp_path, **changes)
    assert holds(tmp_path)


@pytest.mark.parametrize(
    "text", ["[]", '{"files": 3}', '{"files": {"train_questions.json": {"bytes": "9"}}}']
)
def test_a_damaged_state_is_an_error(server: Server, tmp_path: Path, text: str) -> None:
    (tmp_path / "download.json").write_text(text)
    with pytest.raises(DataError, match=r"download\.json is damaged; remove it"):
        get(server, tmp_path)


def test_what_cannot_be_downloaded_is_said_at_once(server: Server, tmp_path: Path) -> None:
    own = Task("own", "generation", ("text",), "Write.", "{text}", output_field="answer")
    with pytest.raises(ConfigError, match="own is not one of LaMP's"):
        get(server, tmp_path, task=own)
    with pytest.raises(ConfigError, match="no part 'trian'"):
        get(server, tmp_path, parts=["trian"])
    assert server.requests == []


def test_two_downloads_into_one_folder_do_not_mix(server: Server, tmp_path: Path) -> None:
    def second(*_: Any) -> None:
        with pytest.raises(DataError, match="Another download into"):
            get(server, tmp_path)

    get(server, tmp_path, on_progress=second)
    assert holds(tmp_path)


def test_the_command_says_what_comes_next(server: Server, tmp_path: Path) -> None:
    arguments = [
        "download",
        "lamp_2m",
        "--parts",
        "train",
        "--out",
        str(tmp_path / "d"),
        "--host",
        server.url,
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert (
        f"oppu data import {tmp_path / 'd'} --format lamp --task lamp_2m --out data/lamp_2m" in result.output
    )
    assert holds(tmp_path / "d")


def test_ctrl_c_says_how_to_go_on(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from oppu_core.data import download as module

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "download", interrupted)
    result = CliRunner().invoke(app, ["download", "lamp_2m", "--out", str(tmp_path), "--host", server.url])
    assert isinstance(result.exception, Interrupted)
    assert "Start the same command again" in str(result.exception)
