"""`oppu ask`, the page and the harness answer a run's own query as the run did, however it was asked to."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from harness_runs import answers, ask, replace_adapters
from oppu_core.data.dataset import Dataset
from oppu_core.errors import ModelError
from oppu_core.modeling.base_files import TINY_FOLDER
from oppu_core.ownership.card import adapter_card, base_card
from oppu_core.runs.asking import ask as ask_run
from oppu_core.runs.config import resolve_config
from oppu_core.runs.execute import execute
from oppu_core.runs.options import Compute, RunOptions
from oppu_core.runs.run import Run
from oppu_core.runs.start import start_run
from oppu_core.runs.variants import find_variant
from oppu_demo.engine import Engine
from small_world import QUICK

METHODS = ("non_personalized", "random_k1", "rag_k1", "oppu_k0", "oppu_rag_k1")
TASK = "lamp_2m"
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {}, "sample": {"sample": True}, "constrain": {"constrain": True},
    "chat": {"prompt_format": "chat"},
}  # fmt: skip
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


@pytest.fixture(scope="module")
def runs(movies: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """A finished run of each way to answer, on one store of random adapters, whose answers surely differ."""
    folder, made = tmp_path_factory.mktemp("ways"), {}
    shutil.copytree(TINY_FOLDER, folder / "base")
    (folder / "base" / "chat_template.jinja").write_text(TEMPLATE)
    for name, options in WAYS.items():
        asked = {
            "data": [movies.path], "model": str(folder / "base"), "methods": METHODS, "preset": "auto",
            "settings": QUICK[1::2], "dtype": "float32", "seed": 3, "users": 1, "sample": False,
        }  # fmt: skip
        made[name] = start_run(folder / name, resolve_config(RunOptions(**{**asked, **options})))
        execute(made[name], ["bases", "personal"], Compute(device="cpu"))
        if name in ("greedy", "chat"):
            for variant in ("base", "rag_k1"):
                replace_adapters(made[name].path, 1, task=TASK, variant=variant)
        execute(made[name], ["answers"], Compute(device="cpu"))
    return made


def predicted(run: Run, user_id: str, query_id: str) -> dict[str, str]:
    return {name: run.predictions(TASK, name)[user_id, query_id] for name in METHODS}


def test_the_ways_to_answer_differ(runs: dict[str, Run]) -> None:
    """Else their parity would prove nothing."""
    everything = {name: [run.predictions(TASK, method) for method in METHODS] for name, run in runs.items()}
    assert everything["greedy"] != everything["sample"] != everything["constrain"] != everything["greedy"]
    assert everything["chat"] not in [everything[name] for name in WAYS if name != "chat"]
    by_method = [str(answers) for answers in everything["sample"]]
    assert len(set(by_method)) > 2


@pytest.mark.parametrize("way", WAYS)
def test_asking_a_run_gives_its_own_answers(runs: dict[str, Run], way: str) -> None:
    run = runs[way]
    (user,) = run.test_users(run.dataset(TASK))
    query = user.queries[0]
    assert query.history_len == len(user.history)
    text = f"  {query.fields['description'].replace(' ', '  ')}\n"  # as a person may copy it
    assert ask_run(run, user.user_id, text, TASK, "cpu") == predicted(run, user.user_id, query.id)


@pytest.mark.parametrize("way", WAYS)
def test_the_page_gives_the_run_s_answers(runs: dict[str, Run], way: str) -> None:
    run = runs[way]
    engine = Engine(run, "cpu")
    (user,) = engine.users(TASK).values()
    for query in user.queries[:2]:  # the second is not answered with what is left of the first
        found = {name: engine.answer(TASK, name, user, query).text for name in METHODS}
        assert found == predicted(run, user.user_id, query.id)


@pytest.mark.parametrize("way", WAYS)
def test_the_harness_gives_the_run_s_answers(runs: dict[str, Run], way: str) -> None:
    run = runs[way]
    results = ask({"run": str(run.path), "method": "oppu_rag_k1"}, [TASK], batch_size=64)
    assert answers(results, TASK) == run.predictions(TASK, "oppu_rag_k1")


def test_a_harness_that_renders_the_template_itself_gives_them_too(runs: dict[str, Run]) -> None:
    run = runs["chat"]
    asking = {"run": str(run.path), "method": "oppu_k0"}
    results = ask(asking, [TASK], batch_size=64, apply_chat_template=True)
    assert answers(results, TASK) == run.predictions(TASK, "oppu_k0")


def test_what_leaves_a_chat_run_says_how_its_base_is_asked(runs: dict[str, Run]) -> None:
    for name, said in (("chat", True), ("greedy", False)):
        variant = find_variant(runs[name], TASK, "base", personal=True)
        facts = {"facts": {"adapter": {}, "task_lora": {}}}
        for card in (base_card(runs[name], variant), adapter_card(runs[name], variant, facts, ())):
            assert ("chat template" in card) == said


def test_another_chat_template_is_said_to_be_another(runs: dict[str, Run]) -> None:
    run = runs["chat"]
    (user,) = run.test_users(run.dataset(TASK))
    template = Path(run.config.model) / "chat_template.jinja"
    template.write_text(TEMPLATE.replace("assistant: ", "bot: "))
    try:
        with pytest.raises(ModelError, match=r"The chat template of the base .* Put it back"):
            ask_run(run, user.user_id, "A ship.", TASK, "cpu")
    finally:
        template.write_text(TEMPLATE)
