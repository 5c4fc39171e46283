"""Controls: answers through a stranger's adapter, and through one adapter on everybody's history."""

import dataclasses
import json
import shutil
from pathlib import Path

import lm_eval
import pytest
import torch
from harness_runs import answers as harness_answers
from harness_runs import ask, make_run, replace_adapters
from lm_eval.tasks import TaskManager
from oppu_core.data.dataset import Dataset
from oppu_core.data.dataset_writer import write_dataset
from oppu_core.errors import StoreError
from oppu_core.modeling.adapters import adapter_state
from oppu_core.modeling.packing import tokenize
from oppu_core.prompting.methods import parse_method
from oppu_core.runs.answering import answer, answer_rules
from oppu_core.runs.asking import ask as ask_run
from oppu_core.runs.execute import execute
from oppu_core.runs.jobs import VariantJobs
from oppu_core.runs.options import Compute
from oppu_core.runs.run import Run, open_run
from oppu_core.runs.variants import Variant, find_variant
from oppu_core.storage.store import Store
from oppu_core.training.loop import train_each
from oppu_core.training.trainer import Trainer
from oppu_demo.engine import Engine
from oppu_eval.lm_eval import plugin
from small_world import QUICK, ROUNDING, adapters, sample_dataset

METHODS = ("non_personalized", "oppu_k0", "stranger_k0", "pooled_k0")
TASK = "lamp_2m"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with both controls whose adapters are random, so that it shows whose answers."""
    folder = tmp_path_factory.mktemp("controls") / "workspace"
    data = sample_dataset(folder / "data")
    run = make_run(folder / "run", [data], METHODS)
    for file in (run / TASK / "predictions").glob("*.jsonl"):
        file.unlink()
    replace_adapters(run, 1, task=TASK, variant="base")
    execute(open_run(run), ["answers"], Compute(device="cpu"))
    shutil.copytree(folder, folder.parent / "as-built")
    return folder


@pytest.fixture
def run(built: Path) -> Run:
    """The run as it was built."""
    shutil.rmtree(built)
    shutil.copytree(built.parent / "as-built", built)
    return open_run(built / "run")


def variant_of(run: Run, users: int | None = None) -> Variant:
    variant = find_variant(run, TASK, "base", personal=True)
    return dataclasses.replace(variant, users=variant.users[:users])


def test_every_adapter_answers_for_one_stranger(movies: Dataset, tmp_path: Path) -> None:
    users = [dataclasses.replace(next(movies.users("test")), user_id=f"u{number}") for number in range(12)]
    run = open_run(make_run_without_work(movies, tmp_path / "run"))
    variant = dataclasses.replace(variant_of(run), users=users)
    strangers = {user.user_id: variant.stranger_to(user).user_id for user in users}
    assert sorted(strangers.values()) == sorted(strangers)
    assert all(own != other for own, other in strangers.items())
    without = dataclasses.replace(variant, users=users[1:])
    changed = [user for user in users[1:] if without.stranger_to(user).user_id != strangers[user.user_id]]
    assert [strangers[user.user_id] for user in changed] == ["u0"]
    seeded = dataclasses.replace(run, config=dataclasses.replace(run.config, seed=5))
    other = dataclasses.replace(variant, run=seeded)
    assert {user.user_id: other.stranger_to(user).user_id for user in users} != strangers
    # Somebody who is not in the round, as whom `oppu personalize` adds, gets one of its users.
    visitor = dataclasses.replace(users[0], user_id="visitor")
    assert variant.stranger_to(visitor).user_id in strangers
    with pytest.raises(StoreError, match="no other test user"):
        dataclasses.replace(variant, users=users[:1]).stranger_to(users[0])


def make_run_without_work(data: Dataset, folder: Path) -> Path:
    from oppu_core.runs.options import RunOptions
    from oppu_core.runs.start import start_run

    return start_run(folder, RunOptions(data=[data.path], methods=METHODS)).path


def test_a_strangers_answers_are_made_with_the_strangers_weights(run: Run) -> None:
    variant, store = variant_of(run), Store(run.store_path)
    jobs = VariantJobs(variant, store, Compute(device="cpu"))
    base, builder = jobs.with_adapter(*jobs.task_base())
    rules = answer_rules(run.config, variant.task, base.tokenizer)
    expected = {}
    for user in variant.users:
        state = store.load(variant.key_of(variant.stranger_to(user)))
        for unit in answer(
            base, parse_method("oppu_k0"), [user], builder, rules, adapter_of=lambda _, state=state: state
        ):
            expected.update({(one.user_id, one.id): one.answer for one in unit})
    store.close()
    assert run.predictions(TASK, "stranger_k0") == expected
    assert expected != run.predictions(TASK, "oppu_k0")


def test_the_pooled_adapter_is_trained_on_everybodys_examples(run: Run) -> None:
    variant, store = variant_of(run), Store(run.store_path)
    jobs = VariantJobs(variant, store, Compute(device="cpu"))
    base, builder = jobs.task_base()
    trainer = Trainer.of(base, variant.personal_config)
    rows = [
        row
        for user in variant.users
        for row in tokenize(builder.history_examples("base", user), base.tokenizer)
    ]
    fresh = adapter_state(trainer.base.model)
    ((_, (trained, plain)),) = train_each(
        trainer.base.model, fresh, [rows], variant.personal_config, base.tokenizer.pad_id, None, True
    )
    stored = store.load(variant.pooled_key)
    (entry,) = [entry for entry in store.entries() if entry.kind == "pooled"]
    store.close()
    assert entry.facts["examples"] == len(rows) == sum(len(u.training_history) for u in variant.users)
    assert entry.facts["steps"] == trained.steps
    assert set(entry.identity["histories"]) == {user.user_id for user in variant.users}
    assert stored.keys() == plain.keys()
    ours, theirs = (torch.cat([state[name].flatten() for name in sorted(plain)]) for state in (stored, plain))
    assert (ours - theirs).norm() / theirs.norm() < ROUNDING
    assert variant_of(run, 2).pooled_key != variant.pooled_key, "of other users it is another adapter"


def test_controls_are_answered_alike_everywhere(run: Run) -> None:
    user = variant_of(run).users[0]
    query = user.queries[0]
    expected = {name: run.predictions(TASK, name)[user.user_id, query.id] for name in METHODS}
    assert len(set(expected.values())) > 1
    assert ask_run(run, user.user_id, query.fields["description"], TASK, "cpu") == expected
    engine = Engine(run, "cpu")
    person = engine.users(TASK)[user.user_id]
    assert {name: engine.answer(TASK, name, person, query).text for name in METHODS} == expected
    for name in ("stranger_k0", "pooled_k0"):
        results = ask({"run": str(run.path), "method": name}, [TASK], batch_size=64)
        assert harness_answers(results, TASK) == run.predictions(TASK, name)


def test_a_visitor_of_the_page_sees_the_controls_too(run: Run) -> None:
    engine = Engine(run, "cpu")
    known = next(iter(engine.users(TASK).values()))
    visitor = dataclasses.replace(known, user_id="visitor")
    variant, store = variant_of(run), Store(run.store_path)
    theirs, strangers = (store.load(variant.key_of(u)) for u in (known, variant.stranger_to(visitor)))
    store.close()
    for query in known.queries:
        said = {name: engine.answer(TASK, name, visitor, query, {"base": theirs}).text for name in METHODS}
        as_stranger = engine.answer(TASK, "oppu_k0", visitor, query, {"base": strangers}).text
        expected = {name: run.predictions(TASK, name)[known.user_id, query.id] for name in METHODS}
        assert said == {**expected, "stranger_k0": as_stranger}


def test_answers_alone_are_refused_without_the_pooled_adapter(oppu, run: Run) -> None:
    store = Store(run.store_path)
    store.remove([entry.folder for entry in store.entries() if entry.kind == "pooled"])
    store.close()
    (run.predictions_path(TASK, "pooled_k0")).unlink()
    result = oppu("answer", "--run", run.path)
    assert result.returncode == 1 and "There is no pooled adapter" in result.stderr
    assert oppu("personal", "train", "--run", run.path).returncode == 0
    result = oppu("answer", "--run", run.path)
    assert result.returncode == 0, result.stderr


def test_the_harness_asks_several_methods_of_one_base(run: Run, tmp_path: Path) -> None:
    for name in METHODS:
        (tmp_path / f"{name}.yaml").write_text(
            f"task: movies_{name}\nclass: !function oppu_eval.lm_eval.task.LampTask\ndataset_name: {TASK}\n"
            f"output_type: generate_until\nmetadata: {{method: {name}}}\n"
        )
    plugin.register()
    arguments = {"run": str(run.path)}
    manager = TaskManager(include_defaults=False, include_path=str(tmp_path), metadata=arguments)
    results = lm_eval.simple_evaluate(
        model="oppu", model_args=arguments, tasks=[f"movies_{name}" for name in METHODS], device="cpu",
        task_manager=manager, bootstrap_iters=0,
    )  # fmt: skip
    for name in METHODS:
        assert harness_answers(results, f"movies_{name}") == run.predictions(TASK, name)


def test_somebody_who_is_added_has_no_part_in_the_pooled_adapter(oppu, run: Run, tmp_path: Path) -> None:
    user = variant_of(run).users[0]
    history = tmp_path / "mine.jsonl"
    history.write_text("".join(json.dumps(dict(item.fields)) + "\n" for item in user.history))
    before = sorted((run.store_path / "pooled").iterdir())
    result = oppu("personalize", "--history", history, "--run", run.path, "--user", "ada")
    assert result.returncode == 0, result.stderr
    assert sorted((run.store_path / "pooled").iterdir()) == before
    answered = oppu("ask", "--run", run.path, "--user", "ada", "A dragon sleeps under the castle.")
    assert answered.returncode == 0 and all(name in answered.stdout for name in METHODS)


def test_a_control_that_is_missing_keeps_nobody_from_asking(oppu, run: Run) -> None:
    variant, store = variant_of(run), Store(run.store_path)
    user = variant.users[0]
    store.remove([variant.pooled_key.folder, variant.key_of(variant.stranger_to(user)).folder])
    store.put_failure(variant.pooled_key, "the loss became nan")
    store.close()
    result = oppu("ask", "--run", run.path, "--user", user.user_id, "A dragon sleeps under the castle.")
    assert result.returncode == 0, result.stderr
    assert "oppu_k0" in result.stdout and "No answer by stranger_k0, pooled_k0" in result.stdout


def test_strangers_need_two_users_at_the_start_and_none_to_go_on(oppu, run: Run, tmp_path: Path) -> None:
    data = run.config.data[TASK]
    command = ["--data", data, "--methods", ",".join(METHODS), *QUICK]
    result = oppu("run", "--run", tmp_path / "new", *command, "--users", "1")
    assert result.returncode == 2 and "need two test users" in result.stderr
    for user in [user.user_id for user in variant_of(run).users][:2]:
        assert oppu("forget", user, "--runs", run.path.parent, "--yes").returncode == 0
    again = oppu("run", "--run", run.path, *command)
    assert again.returncode == 0, again.stderr
    assert run.predictions(TASK, "stranger_k0") == {} and run.predictions(TASK, "oppu_k0")


def test_answers_go_with_a_forgotten_user_where_the_dataset_has_changed(oppu, run: Run) -> None:
    user = variant_of(run).users[1].user_id
    folder = Path(run.config.data[TASK])
    dataset = Dataset.open(folder)
    users = [dataclasses.replace(u, queries=u.queries[:2]) for u in dataset.users()]
    shutil.rmtree(folder)
    write_dataset(folder, dataset.task, users, {"kind": "test"})
    result = oppu("forget", user, "--runs", run.path.parent, "--yes")
    assert result.returncode == 0, result.stderr
    for name in ("pooled_k0", "stranger_k0"):
        assert not run.predictions_path(TASK, name).exists()
    assert run.predictions(TASK, "oppu_k0")


def test_what_learned_from_a_forgotten_user_goes(oppu, run: Run) -> None:
    user = variant_of(run).users[1].user_id
    before, own = adapters(run.store_path), run.predictions(TASK, "oppu_k0")
    result = oppu("forget", user, "--runs", run.path.parent, "--yes")
    assert result.returncode == 0, result.stderr
    assert "pooled adapter" in result.stdout
    assert not any((run.store_path / "pooled").glob("*"))
    assert not run.predictions_path(TASK, "pooled_k0").exists()
    assert not run.predictions_path(TASK, "stranger_k0").exists()
    assert run.predictions(TASK, "oppu_k0") == {key: text for key, text in own.items() if key[0] != user}
    assert adapters(run.store_path) == {key: data for key, data in before.items() if key[0] != user}
    store = b"".join(file.read_bytes() for file in run.store_path.rglob("*") if file.is_file())
    assert user.encode() not in store
    data = run.config.data[TASK]
    again = oppu("run", "--run", run.path, "--data", data, "--methods", ",".join(METHODS), *QUICK)
    assert again.returncode == 0, again.stderr
    assert {key[0] for key in run.predictions(TASK, "pooled_k0")} == {key[0] for key in own} - {user}
