"""Every code block of the pages is run, or says why not; and every option in them exists."""

import csv
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import oppu_core
import oppu_eval.quickstart
import pytest
from doc_blocks import NOT_RUN, PAGES, ROOT, Block, blocks, commands, parse_oppu
from lm_eval._cli import HarnessCLI
from oppu_core.data.sample import sample_users
from oppu_core.data.types import User
from oppu_core.modeling import base_files
from oppu_core.ownership import personalize
from oppu_core.tasks.task_files import get_task
from small_world import QUICK, sample_dataset
from toy_encoder import write_encoder

HERE = ("README.md", "docs/formats.md", "docs/ownership.md")
# Pages whose blocks all run elsewhere.
ELSEWHERE = {
    "docs/demo.md": "demo/test_page_api.py",
    "docs/lm-eval.md": "end_to_end/test_docs_lm_eval.py",
    "docs/own-task.md": "end_to_end/test_docs.py",
    "docs/python.md": "end_to_end/test_docs_python.py",
}
LLAMA = "meta-llama/Llama-2-7b-hf"
SH = [block for page in PAGES for block in blocks(page, "sh")]


def test_every_block_is_run_or_says_why_not() -> None:
    running = [
        block for page in PAGES for block in blocks(page, "sh", "python", "yaml", "toml") if block.runs
    ]
    assert {str(block.page.relative_to(ROOT)) for block in running} == {*HERE, *ELSEWHERE}
    for page, test in ELSEWHERE.items():
        assert f'"{Path(page).name}"' in (ROOT / "tests" / test).read_text(encoding="utf-8"), page
    marked = [block for page in PAGES for block in blocks(page) if NOT_RUN.match(block.text)]
    assert len(marked) < 12, "most are run"


@pytest.mark.usefixtures("oppu")  # registers the commands
@pytest.mark.parametrize("block", SH, ids=str)
def test_every_command_is_one_that_the_programs_take(block: Block, tmp_path: Path) -> None:
    found = commands(block, tmp_path)
    assert found, "nothing is started"
    for words in found:
        match words[2:] if words[:2] == ["uv", "run"] else words:
            case ["oppu", *rest]:
                parse_oppu(rest)
            case ["lm_eval", *rest]:
                given = HarnessCLI()._parser.parse_args(["run", *rest])
                assert given.model in ("oppu", "hf", "vllm", "dummy", "local-completions")
            case ["python", script, *rest] if script.startswith("benchmarks/"):
                source = (ROOT / script).read_text(encoding="utf-8")
                options = [word for word in rest if word.startswith("--")]
                assert [option for option in options if f'"{option}"' not in source] == [], script
            case ["uv" | "uvx" | "pip" | "python" | "python3" | "pytest", *_]:
                pass
            case _:
                pytest.fail(f"an unknown program: {words}")


def test_files_that_are_shown_can_be_read() -> None:
    shown = [block for page in PAGES for block in blocks(page, "json", "csv")]
    assert len(shown) >= 3
    for block in shown:
        if block.language == "json":
            json.loads(block.text)
        else:
            header, *rows = csv.reader(block.text.splitlines())
            assert header == ["user_id", "time", "input", "output"] and all(map(all, rows))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the pages take for granted, in small: the authors' files, a table of events, an own history."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(personalize, "OTHERS", 2)
    monkeypatch.setattr(personalize, "METHODS", ("non_personalized", "oppu_k0"))
    small = {"users": 2, "others": 4, "history": (4, 6), "queries": 2, "settings": tuple(QUICK[1::2])}
    quickstart = oppu_eval.quickstart
    monkeypatch.setattr(quickstart, "SHIPPED", dataclasses.replace(quickstart.SHIPPED, **small))

    task = get_task("lamp_2m")
    people = list(sample_users(task, test_users=4, other_users=6, history=(12, 14), queries=2))
    asked = f"Which tag does this movie relate to among the following tags? tags: [{', '.join(task.labels)}]"

    def record(user: User) -> dict[str, Any]:
        profile = [{"id": item.id, **item.fields, "date": item.date} for item in user.history]
        queries = [
            {
                "id": query.id,
                "gold": query.gold,
                "input": f"{asked} description: {query.fields['description']}",
            }
            for query in user.queries
        ]
        return {"user_id": user.user_id, "profile": profile, "query": queries}

    records = [record(user) for user in people]
    Path("movie_tagging").mkdir()
    Path("movie_tagging/user_top_100_history.json").write_text(json.dumps(records[:4]))
    Path("movie_tagging/user_others.json").write_text(json.dumps(records[4:]))
    with Path("likes.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["user_id", "time", "input", "output"])
        for user in people:
            rows.writerows(
                [user.user_id, item.date, item.fields["description"], item.fields["tag"]]
                for item in user.history
            )
    Path("my.jsonl").write_text("\n".join(json.dumps(item.fields) for item in people[0].history))
    return tmp_path


def stand_in(words: list[str]) -> list[str]:
    """With the shipped base in place of Llama-2-7B, a quick training, and nobody to be asked."""
    words = [word.replace(LLAMA, "tiny") for word in words]
    if "--dtype" in words:
        place = words.index("--dtype")
        del words[place : place + 2]
    more = {"run": QUICK, "forget": ["--yes"]}
    return [*words, *more.get(words[0], [])]


@pytest.mark.parametrize("page", HERE)
def test_the_blocks_run_in_their_order(
    page: str,
    folder: Path,
    oppu: Callable[..., Any],
    lm_eval: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    if page == "docs/formats.md":
        sample_dataset(Path("data/movies"))
        write_encoder(Path("models/minilm"))
    if page == "docs/ownership.md":
        movies = sample_dataset(Path("data/movies")).path
        run = ["--run", "runs/movies", "--data", movies, "--methods", "non_personalized,oppu_k0", *QUICK]
        assert oppu("run", *run).returncode == 0
    names: dict[str, Any] = {}
    recording = tmp_path_factory.mktemp("recording")
    for block in blocks(ROOT / page, "sh", "python"):
        if not block.runs:
            continue
        if block.language == "python":
            run_python(block, names)
            continue
        for words in commands(block, recording):
            assert words[:2] == ["uv", "run"]
            program, *rest = words[2:]
            if program == "oppu":
                rest = [word.replace("USER", "test-000") for word in rest]
                result = oppu(*stand_in(rest))
                assert result.returncode == 0, f"{block}: {words}: {result.stderr}"
            elif program == "lm_eval":
                local = str(base_files.TINY_FOLDER)
                lm_eval(*(word.replace(LLAMA, local) for word in rest), "--limit", "2")
            else:
                assert program == "pytest"


def run_python(block: Block, names: dict[str, Any]) -> None:
    """Run a block after those before it on its page."""
    names.setdefault("oppu_core", oppu_core)
    names.setdefault("items", [json.loads(line) for line in Path("my.jsonl").read_text().splitlines()])
    text = block.text.replace('"the base"', repr(str(base_files.TINY_FOLDER)))
    for kind in ("task_loras", "adapters"):
        found = sorted(Path("runs/store", kind).rglob("adapter_model.safetensors"))
        text = text.replace(f"runs/store/{kind}/…", str(found[0].parent) if found else "")
    exec(compile(text, str(block), "exec"), names)
