"""docs/lm-eval.md does what it says: its commands as they stand there.

A quick run takes the quickstart's place.
"""

import json
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import typer
from doc_blocks import ROOT, Block, blocks, parse_oppu
from lm_eval._cli import HarnessCLI
from lm_eval.api.registry import model_registry
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.tasks import TaskManager
from oppu_core.cli.main import app
from oppu_core.data.dataset import Dataset
from oppu_core.data.sample import GRAMMARS
from oppu_core.prompting.methods import parse_method
from oppu_core.storage.files import read_json, read_jsonl
from oppu_core.tasks.task_files import TASKS, get_task
from oppu_eval.lm_eval import plugin
from oppu_eval.lm_eval.model import _SETTINGS, OppuLM
from oppu_eval.quickstart import quickstart_data
from oppu_eval.scoring.metrics import metrics_for
from small_world import QUICK, sample_dataset

FILE = ROOT / "docs" / "lm-eval.md"
PAGE = FILE.read_text(encoding="utf-8")
SERVER = "http://localhost:8000/"
METHODS = "non_personalized,rag_k1,oppu_k0,oppu_rag_k1"
ANSWER = "comedy"
# | task | version | filter | shots | metric | arrow | value | ± | standard error |
ROW = re.compile(r"^\|([^|]*)\|[^|]*\|none *\| *0\|(\w+) *\|([↑↓]) *\|([^|]*)\|± *\|([^|]*)\|$", re.MULTILINE)

Rows = dict[tuple[str, str], tuple[str, float, str]]  # {(task, metric): (arrow, value, standard error)}


def commands(block: Block) -> list[list[str]]:
    """The words of each `uv run …`, without these two, loops as they are."""
    lines = block.text.replace("\\\n", "").splitlines()
    return [shlex.split(line)[2:] for line in lines if line.lstrip().startswith("uv run ")]


def rows(printed: str) -> Rows:
    found: Rows = {}
    task = ""
    for name, metric, arrow, value, error in ROW.findall(printed):
        task = name.strip().removeprefix("- ") or task
        found[task, metric] = arrow, float(value), error.strip()
    return found


def option(words: Sequence[str], name: str) -> str:
    return words[words.index(name) + 1] if name in words else ""


@pytest.fixture
def server() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A completions API that says the same to everything: its address, and what it was asked."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # whether it has a tokenizer
            self.send_error(404)

        def do_POST(self) -> None:
            assert self.path == "/v1/completions"
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            body = json.dumps({"choices": [{"index": 0, "text": f" {ANSWER}"}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}/", asked
        listening.shutdown()
        thread.join()


def test_the_commands(
    oppu: Callable[..., Any],
    lm_eval: Callable[..., str],
    server: tuple[str, list[dict[str, Any]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks(FILE, "yaml"):
        file = Path(block.text.splitlines()[0].removeprefix("# "))
        file.parent.mkdir(exist_ok=True)
        file.write_text(block.text)
    here = [block for block in blocks(FILE, "sh") if block.runs]
    start, *others = [words for block in here for words in commands(block)]
    assert start == ["oppu", "quickstart"] and len(others) >= 9

    data = [sample_dataset(Path("runs/quickstart-data") / task, task).path for task in ("lamp_2m", "lamp_4")]
    quick = ["--methods", METHODS, *QUICK]
    result = oppu("run", "--run", "runs/quickstart", "--data", data[0], "--data", data[1], *quick)
    assert result.returncode == 0, result.stderr
    ours = {
        (row["task"], row["method"], row["metric"]): row["value"]
        for row in read_json(Path("runs/quickstart/results.json"))["rows"]
    }

    shown: list[Rows] = []
    told: list[str] = []
    for program, *words in others:
        if program == "oppu":
            result = oppu(*words)
            assert result.returncode == 0, f"{words}: {result.stderr}"
            told.append(result.stdout)
            continue
        assert program == "lm_eval"
        shown.append(rows(lm_eval(*(word.replace(SERVER, server[0]) for word in words))))
        scored, model, given = shown[-1], option(words, "--model"), str(words)
        if model in ("oppu", "hf"):  # parity, of the exported base as well
            for (task, metric), (_, value, _) in scored.items():
                named = task.removeprefix("movies_") if task not in TASKS else ""
                said = re.search(r"method(?:=|\": \")(\w+)", given)
                method = named or (said[1] if said else "non_personalized")
                lamp = task if task in TASKS else "lamp_2m"
                assert value == pytest.approx(ours[lamp, method, metric], abs=5e-5), (words, task, metric)
        if model == "dummy":
            assert {task for task, _ in scored} == set(GRAMMARS), "the group"
            assert {metric for (_, metric), (arrow, *_) in scored.items() if arrow == "↓"} == {"mae", "rmse"}
        if model == "local-completions":
            _check_completions(scored, server[1], tmp_path / "quickstart")

    # What was pasted looks like what is printed.
    pasted, compared = (block.text for block in blocks(FILE) if not block.language)
    assert rows(pasted).keys() == shown[0].keys()
    for key, (arrow, _, error) in rows(pasted).items():
        assert (arrow, error == "N/A") == (shown[0][key][0], shown[0][key][2] == "N/A"), key
    names = re.findall(r"^\w+ \(\w+\)", compared, re.MULTILINE)
    assert names == ["non_personalized (oppu)", "rag_k1 (oppu)", "oppu_rag_k1 (oppu)"]
    by_themselves = next(text for text in told if "Report: out/movies/report.html" in text)
    assert re.findall(r"^\w+ \(\w+\)", by_themselves, re.MULTILINE) == names
    assert compared.splitlines()[1].split() == by_themselves.splitlines()[2].split(), "the columns"
    joined = next(text for text in told if "Report: runs/quickstart/report.html" in text)
    assert all(name in joined for name in names) and "\nrag_k1  " in joined
    assert Path("runs/quickstart/leaderboard/lamp_2m/oppu_rag_k1/LaMP_2.json").is_file()

    # Logged samples say whose they are.
    (samples,) = Path("out/movies").rglob("samples_movies_oppu_rag_k1_*.jsonl")
    docs = [sample["doc"] for sample in read_jsonl(samples)]
    asked = {(user.user_id, query.id, query.gold) for user in Dataset.open(data[0]).users("test")
             for query in user.queries}  # fmt: skip
    assert {(doc["user_id"], doc["id"], doc["gold"]) for doc in docs} == asked
    assert {doc["method"] for doc in docs} == {"oppu_rag_k1"}


def _check_completions(scored: Rows, asked: Sequence[dict[str, Any]], folder: Path) -> None:
    """Every query of the sample world arrived, with one item of its user's."""
    (path,) = quickstart_data(folder, ["lamp_2m"])
    queries = [query for user in Dataset.open(path).users("test") for query in user.queries]
    endings = {f"description: {query.fields['description']} tag:" for query in queries}
    prompts = [request["prompt"] for request in asked]
    assert len(prompts) == len(queries)
    assert {prompt.rpartition("\n")[2] for prompt in prompts} == endings
    assert all(prompt.count("description: ") == 2 for prompt in prompts)
    assert all(request["temperature"] == 0 and "\n" in request["stop"] for request in asked)
    share = sum(query.gold == ANSWER for query in queries) / len(queries)
    assert share > 0
    assert scored["lamp_2m", "accuracy"][1] == pytest.approx(share, abs=5e-5)


def test_few_shot_examples_and_adapters_of_other_models_are_refused(
    lm_eval: Callable[..., str], tmp_path: Path
) -> None:
    """As the page says; the other options have tests of their own."""
    with pytest.raises(Exception, match=r"few-shot examples.*rag_k2"):
        lm_eval("--model", "dummy", "--tasks", "lamp_2m", "--num_fewshot", "2")
    with pytest.raises(Exception, match="answers through adapters, and this model has none"):
        lm_eval("--model", "dummy", "--tasks", "lamp_2m", "--metadata", "method=oppu_k0")


@pytest.mark.usefixtures("oppu")  # registers the commands
def test_the_commands_for_a_gpu_are_ones_that_the_programs_take() -> None:
    on_a_gpu = [block for block in blocks(FILE, "sh") if not block.runs]
    assert len(on_a_gpu) == 2
    for block in on_a_gpu:
        loops = re.findall(r"^for method in (.*); do$", block.text, re.MULTILINE)
        methods = [name for names in loops for name in names.split()]
        for program, *words in commands(block):
            if program == "oppu":
                methods += parse_oppu(words).get("methods", "").split(",")
                continue
            assert program == "lm_eval"
            given = HarnessCLI()._parser.parse_args(["run", *words])
            assert given.model in model_registry
            assert set(given.tasks) <= set(TASKS)
            if given.model == "oppu":
                assert given.model_args == {"run": "runs/movies", "method": "$method"} and loops
            else:
                assert set(given.metadata) <= {"data", "method"}
                methods.append(given.metadata["method"])
        assert all(parse_method(name) for name in methods if name)
        trained = {name for words in commands(block) if "--methods" in words
                   for name in option(words, "--methods").split(",")}  # fmt: skip
        assert not loops or trained == set(loops[0].split())


@pytest.mark.usefixtures("oppu")
def test_every_option_on_the_page_exists() -> None:
    known: set[str] = set(HarnessCLI()._subparsers.choices["run"]._option_string_actions)
    waiting: list[Any] = [typer.main.get_command(app)]
    while waiting:
        command = waiting.pop()
        waiting += getattr(command, "commands", {}).values()
        known |= {text for parameter in command.params for text in parameter.opts}
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]*", PAGE)) <= known


def test_names_on_the_page_are_those_of_the_code() -> None:
    """Tasks with their metrics, metadata, and the arguments of our model."""
    table = re.findall(r"^\| (`(?:long)?lamp_.*?) \| .*? \| (.*?) \|$", PAGE, re.MULTILINE)
    metrics = {
        task: re.findall(r"`(\w+)`", named)
        for tasks, named in table
        for task in re.findall(r"`(\w+)`", tasks)
    }
    assert metrics == {name: [metric.name for metric in metrics_for(get_task(name))] for name in TASKS}
    with_errors = re.search(r"standard errors \(of (.*?); the other", PAGE)
    assert with_errors
    assert set(re.findall(r"`(\w+)`", with_errors[1])) == {
        metric.name for name in TASKS for metric in metrics_for(get_task(name)) if metric.is_mean
    }

    words = set(re.findall(r"`(\w+)`", PAGE))
    parameters = OppuLM.__init__.__annotations__.keys() - {"unknown", "return"}
    assert parameters and parameters <= words
    assert words >= _SETTINGS
    assert set(normalize_gen_kwargs({}, 1)) <= _SETTINGS


def test_the_tasks_without_the_hook() -> None:
    start = re.search(r"`(from oppu_eval\S* import register; register\(\))`", PAGE)
    assert start
    exec(start[1], {})
    assert plugin.TASKS.as_posix().endswith("oppu_eval/lm_eval/tasks") and "`oppu_eval/lm_eval/tasks`" in PAGE
    manager = TaskManager(include_path=str(plugin.TASKS), include_defaults=False)
    assert {*TASKS, "lamp", "longlamp", "lamp_classification", "lamp_generation"} <= set(manager.all_tasks)
    generation = {name for name in GRAMMARS if get_task(name).kind == "generation"}
    assert manager.task_index["lamp_generation"].tags == generation
