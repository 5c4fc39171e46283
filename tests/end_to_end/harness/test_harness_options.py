"""What the options of `lm_eval` do with our tasks, and several tasks at once."""

import dataclasses
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from harness_runs import (
    Asked,
    answers,
    ask,
    changed,
    copy_run,
    make_run,
    metrics,
    prompts,
    requests_of,
    task_manager,
)
from oppu_core.data.dataset import Dataset
from oppu_core.data.dataset_writer import write_dataset
from oppu_core.data.sample import GRAMMARS
from oppu_core.errors import ConfigError
from oppu_core.modeling import base_files
from oppu_core.modeling.base import Base
from oppu_core.modeling.base_files import TINY_FOLDER, base_tokenizer
from oppu_core.runs.run import open_run
from oppu_core.storage.files import read_json, read_jsonl
from oppu_core.tasks.task_files import get_task
from oppu_eval.lm_eval.model import OppuLM
from oppu_eval.scoring.metrics import metrics_for
from oppu_eval.scoring.run_results import evaluate_run

# --- options of the command -------------------------------------------------------------------------------


def test_parts_of_the_docs(run: Path) -> None:
    asking = {"run": str(run), "method": "oppu_rag_k1"}
    whole = answers(ask(asking, ["lamp_2m"]), "lamp_2m")
    for options, expected in (
        ({"limit": 2}, [0, 1]),
        ({"limit": 0.5}, [0, 1, 2, 3, 4]),
        ({"samples": {"lamp_2m": [1, 4, 8]}}, [1, 4, 8]),
    ):
        results = ask(asking, ["lamp_2m"], **options)
        assert answers(results, "lamp_2m") == {list(whole)[i]: list(whole.values())[i] for i in expected}
        assert [sample["doc_id"] for sample in results["samples"]["lamp_2m"]] == expected


def test_logged_samples_say_whose_they_are(run: Path, twins: Dataset) -> None:
    asking = {"run": str(run), "method": "oppu_k0"}
    results = ask(asking, ["lamp_2m"])
    logged = [
        (doc["user_id"], doc["id"], doc["method"], doc["gold"], doc["fields"], doc["history_len"])
        for doc in (sample["doc"] for sample in results["samples"]["lamp_2m"])
    ]
    assert logged == [
        (user.user_id, query.id, "oppu_k0", query.gold, dict(query.fields), query.history_len)
        for user in twins.users("test")
        for query in user.queries
    ]
    assert all(sample["target"] == sample["doc"]["gold"] for sample in results["samples"]["lamp_2m"])
    assert "samples" not in ask(asking, ["lamp_2m"], log_samples=False, limit=1)


def test_predict_only_needs_no_golds(run: Path, twins: Dataset, tmp_path: Path) -> None:
    withheld = changed(twins, tmp_path / "withheld", gold=None)
    expected = answers(ask({"run": str(run), "method": "oppu_k0"}, ["lamp_2m"]), "lamp_2m")
    explicit = {"pretrained": "tiny", "store": str(run.parent / "store"), "method": "oppu_k0"}
    for data in (withheld, twins):
        results = ask({**explicit, "data": str(data.path)}, ["lamp_2m"], predict_only=True)
        assert answers(results, "lamp_2m") == expected
        assert set(metrics(results, "lamp_2m")) <= {"bypass"}
    with pytest.raises(ConfigError, match=r"nothing to score.*--predict_only"):
        ask({**explicit, "data": str(withheld.path)}, ["lamp_2m"])


def test_queries_without_gold_are_answered_and_not_scored(run: Path, twins: Dataset, tmp_path: Path) -> None:
    first, *others = twins.users("test")
    withheld = dataclasses.replace(
        first, queries=tuple(dataclasses.replace(query, gold=None) for query in first.queries)
    )
    users = [*twins.users("others"), withheld, *others]
    data = write_dataset(tmp_path / "data", twins.task, users, {"kind": "test"})
    explicit = {"pretrained": "tiny", "store": str(run.parent / "store"), "data": str(data.path)}
    results = ask({**explicit, "method": "oppu_k0"}, ["lamp_2m"])
    written = answers(results, "lamp_2m")
    assert written == open_run(run).predictions("lamp_2m", "oppu_k0")
    golds = {(user.user_id, query.id): query.gold or "" for user in others for query in user.queries}
    assert metrics(results, "lamp_2m") == {
        metric.name: metric.score([written[query] for query in golds], list(golds.values()))
        for metric in metrics_for(twins.task)
    }


def test_sampled_answers_depend_on_the_seed_and_the_adapter(distinct: Path) -> None:
    def sampled(seed: int, **options: Any) -> dict[tuple[str, str], str]:
        hot = {"do_sample": True, "temperature": 1.0}
        asking = {"run": str(distinct), "method": "oppu_k0"}
        results = ask(asking, ["lamp_2m"], gen_kwargs=hot, torch_random_seed=seed, **options)
        return answers(results, "lamp_2m")

    first = sampled(1)
    assert sampled(1) == first != sampled(2)
    assert sampled(1, limit=2).items() <= first.items()
    texts = list(first.values())
    assert texts[0] != texts[3], "the same prompt and seed, two adapters"


CHAT = (
    "{% for message in messages %}<s>{{ message['role'] }}: {{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant:{% endif %}"
)


def test_a_chat_template_is_rendered_and_its_special_tokens_are_single(
    twins: Dataset, tmp_path: Path, asked: Asked
) -> None:
    base = tmp_path / "talkative"
    shutil.copytree(TINY_FOLDER, base)
    config = read_json(base / "tokenizer_config.json") | {"chat_template": CHAT}
    (base / "tokenizer_config.json").write_text(json.dumps(config))
    run = make_run(tmp_path / "run", [twins], ["non_personalized", "oppu_k0"], str(base))
    read: list[list[int]] = []

    def read_ids(base: Base, groups: Sequence[Sequence[str]]) -> None:
        read.extend(base.tokenizer.prompt_ids(text) for group in groups for text in group)

    asked.before = read_ids
    asking = {"run": str(run), "method": "oppu_k0"}
    plain = prompts(ask(asking, ["lamp_2m"]), "lamp_2m")

    def rendered(system: str, user: str) -> str:
        return f"<s>system: {system}</s><s>user: {user}</s><s>assistant:"

    read.clear()
    chat: dict[str, Any] = {"apply_chat_template": True, "system_instruction": "Be brief."}
    results = ask(asking, ["lamp_2m"], **chat)
    assert prompts(results, "lamp_2m") == {
        query: rendered("Be brief.", user) for query, user in plain.items()
    }
    tokenizer = base_tokenizer(str(base)).ending(["\n"], chat=True)
    assert len(read) == 9
    for ids in read:
        assert [id for id in ids if id in tokenizer.hf.all_special_ids] == [0, 1, 0, 1, 0]
        assert ids[0] == 0
    assert any(answers(results, "lamp_2m").values())

    # And what stands around a prompt is room that it does not have.
    room = tokenizer.context - get_task("lamp_2m").max_answer_tokens
    system = "Be brief."
    while min(len(tokenizer.prompt_ids(rendered(system, user))) for user in plain.values()) <= room:
        system += " Be brief."
    read.clear()
    tight = ask(asking, ["lamp_2m"], **{**chat, "system_instruction": system})
    assert len(read) == 9 and all(len(ids) <= room for ids in read)
    for prompt in prompts(tight, "lamp_2m").values():
        assert get_task("lamp_2m").instruction in prompt and prompt.endswith("</s><s>assistant:")


def test_a_chat_template_knows_no_today_and_leaves_no_room_for_thoughts(tmp_path: Path) -> None:
    base = tmp_path / "thoughtful"
    shutil.copytree(TINY_FOLDER, base)
    template = "{{ strftime_now('%d %b %Y') }} " + CHAT + "{% if not enable_thinking %}<think>\n{% endif %}"
    config = read_json(base / "tokenizer_config.json") | {"chat_template": template}
    (base / "tokenizer_config.json").write_text(json.dumps(config))
    model = OppuLM(pretrained=str(base), store=str(tmp_path / "store"))
    said = [{"role": "user", "content": "Hello"}]
    before = "26 Jul 2024 <s>user: Hello</s>"
    assert model.apply_chat_template(said) == f"{before}<s>assistant:<think>\n\n</think>\n\n"
    assert model.apply_chat_template(said, add_generation_prompt=False) == f"{before}<think>\n"


def test_a_base_without_a_chat_template_says_so(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"--apply_chat_template: the base tiny has no chat template"):
        ask({"run": str(run), "method": "oppu_k0"}, ["lamp_2m"], apply_chat_template=True)


def test_a_prompt_leaves_room_for_a_system_instruction(run: Path) -> None:
    tokenizer = base_tokenizer("tiny")
    room = tokenizer.context - get_task("lamp_2m").max_answer_tokens
    asking = {"run": str(run), "method": "oppu_rag_k1"}
    plain = prompts(ask(asking, ["lamp_2m"]), "lamp_2m")
    shortest = min(len(tokenizer.prompt_ids(prompt)) for prompt in plain.values())
    system = "Be brief. " * 200
    while len(tokenizer.prompt_ids(system)) + shortest > room + 10:
        system = system[: -len("Be brief. ")]
    results = ask(asking, ["lamp_2m"], system_instruction=system)
    for query, prompt in prompts(results, "lamp_2m").items():
        assert prompt.startswith(system) and len(tokenizer.prompt_ids(prompt)) <= room
        assert len(tokenizer.prompt_ids(system + "\n\n" + plain[query])) > room
        assert get_task("lamp_2m").instruction in prompt
    assert any(answers(results, "lamp_2m").values())


def test_write_out_shows_the_prompt(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "lm_eval")
    results = ask({"run": str(run), "method": "rag_k1"}, ["lamp_2m"], write_out=True)
    prompt = next(iter(prompts(results, "lamp_2m").values()))
    assert f"context prompt (starting on next line):    \n{prompt}\n(end of prompt" in caplog.text


def test_examples_of_others_are_refused(run: Path) -> None:
    asking = {"run": str(run), "method": "rag_k1"}
    with pytest.raises(ConfigError, match=r"--num_fewshot 3: lamp_2m has no few-shot examples.*rag_k3"):
        ask(asking, ["lamp_2m"], num_fewshot=3)
    plain, zero = (ask(asking, ["lamp_2m"], num_fewshot=number, limit=2) for number in (None, 0))
    assert requests_of(zero, "lamp_2m") == requests_of(plain, "lamp_2m")


def test_gen_kwargs_override_ours(run: Path) -> None:
    asking = {"run": str(run), "method": "oppu_k0"}
    plain = answers(ask(asking, ["lamp_4"]), "lamp_4")
    assert all("e" in text for text in plain.values())
    cut = answers(ask(asking, ["lamp_4"], gen_kwargs={"until": ["e"]}), "lamp_4")
    assert cut == {query: text.split("e")[0].strip() for query, text in plain.items()}
    tokenizer = base_tokenizer("tiny").hf
    short = {
        name: answers(ask(asking, ["lamp_4"], gen_kwargs={name: 3}), "lamp_4")
        for name in ("max_gen_toks", "max_new_tokens", "max_tokens")
    }
    assert short["max_new_tokens"] == short["max_tokens"] == short["max_gen_toks"] != plain
    for query, text in short["max_gen_toks"].items():
        assert plain[query].startswith(text) and len(tokenizer.tokenize(" " + text)) <= 3


def test_gen_kwargs_that_mean_nothing_here_are_refused(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"--gen_kwargs num_beams: --model oppu knows .*until"):
        ask({"run": str(run), "method": "oppu_k0"}, ["lamp_2m"], gen_kwargs={"num_beams": 2})


def command(*arguments: str | Path, cache: Path) -> subprocess.CompletedProcess[str]:
    """Run the released harness's own command."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "LM_HARNESS_CACHE_PATH": str(cache), "COLUMNS": "200"}
    return subprocess.run(
        [Path(sys.executable).with_name("lm_eval"), *map(str, arguments)],
        capture_output=True, text=True, env=environment, timeout=300, check=False,
    )  # fmt: skip


def test_the_real_command_writes_what_was_asked(tmp_path: Path, movies: Dataset, headlines: Dataset) -> None:
    # A base that a process of its own finds as well.
    run = make_run(tmp_path / "made" / "run", [movies, headlines], model=str(base_files.TINY_FOLDER))
    options: list[str | Path] = [
        "--model", "oppu", "--model_args", f"run={run},method=oppu_rag_k1", "--tasks", "lamp_2m,lamp_4",
        "--device", "cpu", "--use_cache", tmp_path / "answers", "--cache_requests", "true", "--write_out",
        "--seed", "7", "--log_samples", "--output_path", tmp_path / "out",
    ]  # fmt: skip
    done = command(*options, cache=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "out").rglob("results_*.json")
    results = read_json(file)
    rows = evaluate_run(open_run(copy_run(run, tmp_path / "copied"))).rows
    for task in ("lamp_2m", "lamp_4"):
        assert metrics(results, task) == {
            row.metric: row.value for row in rows if (row.task, row.method) == (task, "oppu_rag_k1")
        }
        (logged,) = (tmp_path / "out").rglob(f"samples_{task}_*.jsonl")
        found = {
            (row["doc"]["user_id"], row["doc"]["id"]): row["filtered_resps"][0] for row in read_jsonl(logged)
        }
        assert found == open_run(run).predictions(task, "oppu_rag_k1")
    assert results["config"]["model"] == "oppu"
    assert list((tmp_path / "cache").iterdir()) and (tmp_path / "answers_rank0.db").exists()


# --- several tasks ----------------------------------------------------------------------------------------


def test_two_tasks_at_once_are_each_as_alone(distinct: Path) -> None:
    asking = {"run": str(distinct), "method": "oppu_k0"}
    both = ask(asking, ["lamp_4", "lamp_2m"])
    for task in ("lamp_2m", "lamp_4"):
        alone = ask(asking, [task])
        assert answers(alone, task) == answers(both, task)
        assert metrics(alone, task) == metrics(both, task)


def test_the_group_shows_each_task_and_no_average() -> None:
    """Any model of the harness, with nothing at hand: the built-in sample world."""
    results = ask({}, ["lamp"], "dummy", limit=5)
    assert set(results["results"]) == {"lamp", *GRAMMARS} and "groups" not in results
    assert not metrics(results, "lamp")
    for task in map(get_task, GRAMMARS):
        expected = metrics_for(task)
        assert set(metrics(results, task.name)) == {metric.name for metric in expected}
        assert results["higher_is_better"][task.name] == {
            metric.name: metric.name not in ("mae", "rmse") for metric in expected
        }
        assert len(results["samples"][task.name]) == 5
    assert set(results["higher_is_better"]["lamp_3"]) == {"mae", "rmse"}


def test_longlamp_needs_data_which_the_sample_world_has_not() -> None:
    with pytest.raises(ConfigError, match="sample world has no longlamp_topic; name a dataset"):
        ask({}, ["longlamp_topic"], "dummy", limit=1)


def test_tags_name_the_kinds() -> None:
    def named(tag: str) -> set[str]:
        return set(task_manager({}).load([tag])["tasks"])

    assert named("lamp_classification") == {"lamp_1", "lamp_2n", "lamp_2m", "lamp_3"}
    assert named("lamp_generation") == {"lamp_4", "lamp_5", "lamp_7"}
