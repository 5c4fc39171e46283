"""Results of lm-evaluation-harness in our tables: the same numbers, no invented ones, and clear refusals."""

import dataclasses
import io
import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from oppu_core.data.dataset_writer import write_dataset
from oppu_core.data.types import User
from oppu_core.errors import ConfigError, DataError
from oppu_core.runs.config import resolve_config
from oppu_core.runs.options import RunOptions
from oppu_core.runs.run import Run
from oppu_core.runs.start import start_run
from oppu_core.storage.files import read_json, read_jsonl, write_json, write_jsonl
from oppu_core.tasks.task import Task
from oppu_core.tasks.task_files import get_task
from oppu_eval.cli import main as cli
from oppu_eval.lm_eval.files import read_harness
from oppu_eval.lm_eval.results import harness_rows
from oppu_eval.reporting import run_report as run_results
from oppu_eval.reporting.findings import finding
from oppu_eval.reporting.run_report import report_harness
from oppu_eval.reporting.table import render_table
from oppu_eval.scoring.evaluate import evaluate
from oppu_eval.scoring.metrics import metrics_for
from oppu_eval.scoring.results import Results, ScoreRow
from oppu_eval.scoring.run_results import results_path
from rich.console import Console

MakeUser = Callable[..., User]
AnswerWith = Callable[..., dict[tuple[str, str], str]]
Answers = Mapping[tuple[str, str], str]

DATA = "d" * 64
SEED = 3
RESAMPLES = 100
ACCURACIES = {"non_personalized": 0.3, "rag_k1": 0.5, "oppu_k0": 0.9}


@pytest.fixture
def users(tagging: Task, make_user: MakeUser) -> list[User]:
    chance = random.Random(0)
    made = [
        make_user(f"u{i}", chance.choices(tagging.labels, k=4), chance.choices(tagging.labels, k=3 + i))
        for i in range(5)
    ]
    made[1] = dataclasses.replace(
        made[1], queries=(*made[1].queries[:3], dataclasses.replace(made[1].queries[3], gold=None))
    )
    return made


@pytest.fixture
def answers(tagging: Task, users: list[User], answer_with: AnswerWith) -> dict[str, Answers]:
    return {name: answer_with(tagging, users, acc, i) for i, (name, acc) in enumerate(ACCURACIES.items())}


def lm_eval(
    folder: Path,
    method: str,
    users: Sequence[User],
    answers: Answers,
    *,
    task: str = "lamp_2m",
    model: str = "hf",
    model_args: Any = "pretrained=openai/gpt2,dtype=float32",
    data: str = DATA,
    day: int = 1,
    limit: int | None = None,
    log_samples: bool = True,
    predict_only: bool = False,
    set_aside: Sequence[str] = (),
    others: Mapping[str, Any] | None = None,
) -> Path:
    """Write what ``lm_eval --output_path folder`` writes; the path of the results file."""
    asked = [(user, query) for user in users if user.user_id not in set_aside for query in user.queries]
    docs = asked[:limit]
    pairs = [(answers[user.user_id, q.id], q.gold) for user, q in docs if q.gold is not None]
    metrics = {} if predict_only else {metric.name: metric for metric in metrics_for(get_task(task))}
    values: dict[str, Any] = {"bypass,none": 999, "bypass_stderr,none": "N/A"} if predict_only else {}
    for name, metric in metrics.items():
        values[f"{name},none"] = metric.score(*map(list, zip(*pairs, strict=True)))
        values[f"{name}_stderr,none"] = "N/A"
    about = {"method": method, "data": data, "users": len(users), "queries": len(asked)}
    if set_aside:
        about["set_aside"] = sorted(set_aside)
    date = f"2026-01-{day:02}T10-00-00.123456"
    place = folder / "openai__gpt2"
    file = place / f"results_{date}.json"
    scored = len(docs) if predict_only else len(pairs)
    results = {
        "results": {task: {"name": task, "alias": task, "sample_len": scored, **values}, **(others or {})},
        "configs": {
            task: {"task": task, "dataset_name": task, "metadata": {"version": 1.0, "lamp": about}},
            **{name: {"task": name, "metadata": {"version": 1.0}} for name in others or {}},
        },
        "n-samples": {task: {"original": len(asked), "effective": scored}},
        "config": {"model": model, "model_args": model_args, "limit": limit},
    }
    write_json(file, results)
    if log_samples or predict_only:
        rows = [
            {
                "doc_id": i,
                "doc": {
                    "id": query.id,
                    "user_id": user.user_id,
                    "method": method,
                    "fields": dict(query.fields),
                    "history_len": query.history_len,
                    "gold": query.gold,
                },
                "target": query.gold or "",
                "arguments": {"gen_args_0": {"arg_0": "prompt", "arg_1": {"until": ["\n"]}}},
                "resps": [[answers[user.user_id, query.id]]],
                "filtered_resps": [answers[user.user_id, query.id]],
                "filter": "none",
                "metrics": list(metrics),
            }
            for i, (user, query) in enumerate(docs)
        ]
        write_jsonl(place / f"samples_{task}_{date}.jsonl", rows)
    return file


def all_methods(folder: Path, users: Sequence[User], answers: Mapping[str, Answers], **options: Any) -> None:
    for day, (method, given) in enumerate(answers.items(), 1):
        lm_eval(folder, method, users, given, day=day, **options)


def alone(*paths: Path) -> Results:
    """The rows of some files; nothing is drawn."""
    with mock.patch.object(run_results, "_write"):
        return report_harness(None, paths, False, resamples=RESAMPLES)[0]


def rows_of(results: Results, metric: str = "accuracy") -> dict[str, ScoreRow]:
    return {name: rows[metric] for name, rows in results.tasks["lamp_2m"].by_method().items()}


def notes_of(results: Results) -> str:
    return " ".join(results.tasks["lamp_2m"].notes)


@pytest.fixture
def run(tmp_path: Path, tagging: Task, users: list[User], answers: dict[str, Answers]) -> Run:
    """An evaluated run of the same data; nothing is trained."""
    others = [dataclasses.replace(user, user_id=f"o{user.user_id}", split="others") for user in users]
    dataset = write_dataset(tmp_path / "data", tagging, [*others, *users], {"kind": "test"})
    config = resolve_config(RunOptions(
        data=[dataset.path], model="tiny", methods=["non_personalized", "oppu_k0"], preset="auto",
        settings=[], dtype="float32", seed=SEED, users=None, sample=False,
    ))  # fmt: skip
    run = start_run(tmp_path / "run", config)
    given = {name: answers[name] for name in config.methods}
    for name, by_query in given.items():
        lines = [{"user_id": u, "id": q, "answer": a, "gold": None} for (u, q), a in by_query.items()]
        write_jsonl(run.predictions_path("lamp_2m", name), lines)
    found = evaluate(tagging, users, others, given, SEED, resamples=RESAMPLES)
    provenance = {"config": config.to_json(), **run.provenance}
    write_json(results_path(run), Results({"lamp_2m": found}, provenance).to_json())
    return run


def test_samples_give_the_numbers_that_evaluate_gives(
    tmp_path: Path, tagging: Task, users: list[User], answers: dict[str, Answers]
) -> None:
    all_methods(tmp_path, users, answers)
    made = harness_rows(tagging, read_harness([tmp_path])[0], SEED, resamples=RESAMPLES)
    ours = evaluate(tagging, users, (), answers, SEED, resamples=RESAMPLES)
    expected = [
        dataclasses.replace(row, method=f"{row.method} (gpt2)") for row in ours.rows if not row.reference
    ]
    assert list(made.results.rows) == expected
    assert made.results.rows[-1].delta_same_prompt is not None
    assert made.results.per_user == {f"{name} (gpt2)": ours.per_user[name] for name in answers}
    assert made.results.history_lengths == ours.history_lengths
    assert made.answers == {f"{name} (gpt2)": given for name, given in answers.items()}
    assert not any(row.other_queries for row in made.results.rows)


@pytest.mark.parametrize("task", ["lamp_1", "lamp_3", "lamp_4", "lamp_5"])
def test_all_kinds_of_tasks(tmp_path: Path, task: str, make_user: MakeUser) -> None:
    known = get_task(task)
    golds: list[str | None] = list(known.labels[:2] or ("a title of words", "another one"))
    made = [make_user(f"u{i}", golds) for i in range(3)]
    fields = dict.fromkeys(known.input_fields, "some words")
    people = [
        dataclasses.replace(u, queries=tuple(dataclasses.replace(q, fields=fields) for q in u.queries))
        for u in made
    ]
    given = {(user.user_id, query.id): golds[0] or "" for user in people for query in user.queries}
    lm_eval(tmp_path, "rag_k1", people, given, task=task)
    rows = alone(tmp_path).rows
    assert [row.metric for row in rows] == [metric.name for metric in metrics_for(known)]
    assert {row.method for row in rows} == {"rag_k1 (gpt2)"}
    assert rows[0].ci95 is not None


def test_beside_a_run(
    tmp_path: Path,
    run: Run,
    users: list[User],
    answers: dict[str, Answers],
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = results_path(run).read_bytes()
    all_methods(tmp_path / "out", users, answers, data=run.provenance["data"]["lamp_2m"])
    results, path, left_out = report_harness(run, [tmp_path / "out"], True, resamples=RESAMPLES)
    rows = rows_of(results)
    assert list(rows) == [
        "global_majority", "user_majority", "user_classifier", "copy_label", "non_personalized", "oppu_k0",
        "non_personalized (gpt2)", "rag_k1 (gpt2)", "oppu_k0 (gpt2)",
    ]  # fmt: skip
    for name in ("non_personalized", "oppu_k0"):  # the same answers, so the same numbers
        theirs = rows[f"{name} (gpt2)"]
        assert theirs.other_queries is False
        assert dataclasses.replace(theirs, method=name) == rows[name]
    assert results_path(run).read_bytes() == before
    assert (path, left_out) == (run.path / "report.html", [])
    page = path.read_text()
    assert page.count('<th scope="row">RAG: 1 similar item (gpt2)<code>rag_k1 (gpt2)</code></th>') == 1
    assert "<div><dt>RAG: 1 similar item (gpt2)</dt>" in page  # an answer among the examples
    assert "Answered by gpt2 in lm-evaluation-harness." in page
    assert "out/openai__gpt2/results_2026-01-02" in page
    assert "RAG: 1 similar item (gpt2)" in (run.path / "figures/lamp_2m-comparison.svg").read_text()
    assert "OPPU minus Not personalized, Accuracy" in page  # the run's own pair leads
    assert ".587" in page  # the paper's accuracy with one retrieved item


def test_alone(tmp_path: Path, users: list[User], answers: dict[str, Answers]) -> None:
    all_methods(tmp_path, users, answers, model="oppu", model_args={"run": "runs/movies"})
    results, path, _ = report_harness(None, [tmp_path], False, resamples=RESAMPLES)
    assert list(rows_of(results)) == ["non_personalized (oppu)", "rag_k1 (oppu)", "oppu_k0 (oppu)"]
    assert path == tmp_path / "report.html"
    assert "personal adapters answer as the user did" in finding(results.tasks["lamp_2m"])
    assert "without personalization" in finding(results.tasks["lamp_2m"])
    page = path.read_text()
    assert "5 users, 19 queries." in page
    assert set(re.findall(r">(\d+) past items", page)) <= set("34567")  # the samples tell
    assert "past items. Accuracy" in page
    for name in ("comparison", "lamp_2m-comparison", "lamp_2m-differences", "lamp_2m-history"):
        assert "<svg" in (tmp_path / "figures" / f"{name}.svg").read_text()


def test_a_file_is_reported_beside_itself(
    tmp_path: Path, users: list[User], answers: dict[str, Answers]
) -> None:
    file = lm_eval(tmp_path, "rag_k1", users, answers["rag_k1"])
    renamed = file.with_name("mine_2026-01-01T10-00-00.123456.json")  # as --output_path mine.json
    file.rename(renamed)
    results, path, _ = report_harness(None, [renamed, renamed], False, resamples=RESAMPLES)
    assert path == file.parent / "report.html"
    assert rows_of(results)["rag_k1 (gpt2)"].ci95 is not None


def test_without_samples_there_is_the_value_alone(
    tmp_path: Path, users: list[User], answers: dict[str, Answers]
) -> None:
    all_methods(tmp_path, users[2:], answers, log_samples=False)
    results, path, _ = report_harness(None, [tmp_path], False, resamples=RESAMPLES)
    row = rows_of(results)["oppu_k0 (gpt2)"]
    asked = [(answers["oppu_k0"][u.user_id, q.id], q.gold) for u in users[2:] for q in u.queries]
    assert row.value == pytest.approx(sum(a == gold for a, gold in asked) / 12, abs=1e-12)
    assert (row.users, row.queries) == (3, 12)
    for name in (
        "ci95",
        "delta",
        "delta_ci95",
        "p_value",
        "delta_same_prompt",
        "p_value_same_prompt",
        "wins",
    ):
        assert getattr(row, name) is None
    assert results.tasks["lamp_2m"].per_user == {}
    assert "oppu_k0 (gpt2): no samples" in notes_of(results)
    assert "--log_samples gives them" in path.read_text()
    assert "no personal adapter was compared" in finding(results.tasks["lamp_2m"])


def test_how_many_users_a_part_without_samples_has_is_not_known(
    tmp_path: Path, users: list[User], answers: dict[str, Answers]
) -> None:
    lm_eval(tmp_path, "rag_k1", users, answers["rag_k1"], limit=7, log_samples=False)
    results, path, _ = report_harness(None, [tmp_path], False, resamples=RESAMPLES)
    row = rows_of(results)["rag_k1 (gpt2)"]
    assert (row.users, row.queries) == (None, 7)
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", path.read_text()))
    assert " 7 queries. Judged by" in text
    assert "None" not in text
    assert "None" not in shown(results)


def shown(results: Results, width: int = 120) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(render_table(results))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("log_samples", [True, False])
def test_rows_on_fewer_queries_are_not_compared(
    tmp_path: Path, run: Run, users: list[User], answers: dict[str, Answers], log_samples: bool
) -> None:
    data = run.provenance["data"]["lamp_2m"]
    lm_eval(tmp_path / "out", "non_personalized", users, answers["non_personalized"], data=data)
    golds = {(user.user_id, query.id): query.gold or "" for user in users for query in user.queries}
    lm_eval(tmp_path / "out", "oppu_k0", users, golds, data=data, day=2, limit=6, log_samples=log_samples)
    results, path, _ = report_harness(run, [tmp_path / "out"], False, resamples=RESAMPLES)
    row = rows_of(results)["oppu_k0 (gpt2)"]
    assert (row.value, row.queries, row.other_queries) == (1.0, 6, True)
    assert (row.delta, row.delta_same_prompt, row.wins) == (None, None, None)
    assert row.users == (2 if log_samples else None)
    assert results.tasks["lamp_2m"].best_method() != "oppu_k0 (gpt2)"
    assert "not to be compared with it: oppu_k0 (gpt2) on 6." in notes_of(results)
    assert "OPPU (gpt2), 6 queries" in path.read_text()
    assert not rows_of(results)["non_personalized (gpt2)"].other_queries


def test_a_part_alone_is_not_compared_with_the_run(
    tmp_path: Path, run: Run, users: list[User], answers: dict[str, Answers]
) -> None:
    data = run.provenance["data"]["lamp_2m"]
    lm_eval(tmp_path / "out", "rag_k1", users, answers["rag_k1"], data=data, limit=6)
    with mock.patch.object(run_results, "_write"):
        results = report_harness(run, [tmp_path / "out"], False, resamples=RESAMPLES)[0]
    assert [name for name, row in rows_of(results).items() if row.other_queries] == ["rag_k1 (gpt2)"]


def test_samples_that_lack_queries_are_refused_even_where_the_value_is_the_same(
    tmp_path: Path, users: list[User], answers: dict[str, Answers]
) -> None:
    file = lm_eval(tmp_path, "rag_k1", users, dict.fromkeys(answers["rag_k1"], "no tag"))
    samples = next(file.parent.glob("samples_*"))
    write_jsonl(samples, read_jsonl(samples)[:-1])
    with pytest.raises(DataError, match=r"has accuracy 0\.0 on 19 queries, but .* gives 0\.0 on 18"):
        alone(tmp_path)


def test_parts_of_the_same_queries_are_compared_with_each_other(
    tmp_path: Path, users: list[User], answers: dict[str, Answers]
) -> None:
    lm_eval(tmp_path, "non_personalized", users, answers["non_personalized"], limit=10)
    lm_eval(tmp_path, "rag_k1", users, answers["rag_k1"], limit=10, day=2)
    lm_eval(tmp_path, "rag_k1", users, answers["rag_k1"], limit=3, day=3, model_args={"pretrained": "opt"})
    results = alone(tmp_path)
    rows = rows_of(results)
    assert rows["rag_k1 (gpt2)"].delta is not None
    assert [name for name, row in rows.items() if row.other_queries] == ["rag_k1 (opt)"]


def test_models_are_compared_with_themselves_alone(
    tmp_path: Path, users: list[User], answers: dict[str, Answers]
) -> None:
    lm_eval(tmp_path, "non_personalized", users, answers["non_personalized"])
    lm_eval(tmp_path, "rag_k1", users, answers["rag_k1"], day=2, model_args="pretrained=opt")
    rows = rows_of(alone(tmp_path))
    assert rows["rag_k1 (opt)"].delta is None


def test_users_set_aside_are_left_out_of_the_comparison(
    tmp_path: Path, users: list[User], answers: dict[str, Answers]
) -> None:
    lm_eval(tmp_path, "non_personalized", users, answers["non_personalized"])
    lm_eval(tmp_path, "oppu_k0", users, answers["oppu_k0"], day=2, set_aside=["u2"])
    results = alone(tmp_path)
    row = rows_of(results)["oppu_k0 (gpt2)"]
    assert (row.users, row.queries, row.other_queries) == (4, 15, False)
    assert row.delta_same_prompt is not None
    assert results.tasks["lamp_2m"].set_aside == {"oppu_k0 (gpt2)": ["u2"]}
    assert "1 user(s) set aside" in shown(results)


def test_predictions_are_scored_here(tmp_path: Path, users: list[User], answers: dict[str, Answers]) -> None:
    lm_eval(tmp_path / "scored", "rag_k1", users, answers["rag_k1"])
    lm_eval(tmp_path / "only", "rag_k1", users, answers["rag_k1"], predict_only=True)
    scored, only = alone(tmp_path / "scored"), alone(tmp_path / "only")
    assert only.rows == scored.rows
    assert "answered with --predict_only, scored here" in notes_of(only)
    assert "predict_only" not in notes_of(scored)


def test_the_newest_file_counts(tmp_path: Path, users: list[User], answers: dict[str, Answers]) -> None:
    lm_eval(tmp_path / "a", "rag_k1", users, answers["oppu_k0"], day=9)
    lm_eval(tmp_path / "b", "rag_k1", users, answers["rag_k1"], day=2)
    results = alone(tmp_path)
    newest = alone(tmp_path / "a")
    assert results.rows == newest.rows
    assert re.search(r"b/\S+01-02\S+ is left out, as \S+a/\S+01-09\S+ is newer", notes_of(results))


def test_models_of_one_name_are_told_apart(
    tmp_path: Path, users: list[User], answers: dict[str, Answers]
) -> None:
    given = answers["rag_k1"]
    lm_eval(tmp_path, "rag_k1", users, given, day=1, model_args="pretrained=a/llama")
    lm_eval(tmp_path, "rag_k1", users, given, day=2, model_args={"pretrained": "/models/b/llama/"})
    lm_eval(tmp_path, "rag_k1", users, given, day=3, model_args="pretrained=c/base,peft=c/fine (1) $x$")
    lm_eval(tmp_path, "rag_k1", users, given, day=4, model="dummy", model_args="")
    names = list(rows_of(alone(tmp_path)))
    assert names == [f"rag_k1 ({name})" for name in ("a/llama", "b/llama", "dummy", "fine-1-x-")]


def test_other_tasks_are_left_out_and_said(
    tmp_path: Path, users: list[User], answers: dict[str, Answers], capsys: pytest.CaptureFixture[str]
) -> None:
    file = lm_eval(tmp_path, "rag_k1", users, answers["rag_k1"], others={"arc_easy": {"acc,none": 0.5}})
    values = read_json(file)
    values["results"]["lamp"] = {"alias": "lamp"}  # a group has no configuration
    write_json(file, values)
    cli.report(None, [tmp_path])
    captured = capsys.readouterr()
    assert re.search(r"left out arc_easy \(not OPPU's\)", captured.err)
    assert "rag_k1 (gpt2)" in captured.out
    assert "report.html" in captured.out.replace("\n", "")


def edit(file: Path, change: Callable[[Any], None]) -> None:
    values = read_json(file)
    change(values)
    file.write_text(json.dumps(values))


Damage = Callable[[Path, Path], object]


def lamp(values: Any) -> Any:
    return values["configs"]["lamp_2m"]["metadata"]["lamp"]


def first_line(samples: Path, change: Callable[[Any], None]) -> None:
    lines = read_jsonl(samples)
    change(lines[0])
    write_jsonl(samples, lines)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda r, s: r.write_text(""), "line 1: not JSON"),
        (lambda r, s: r.write_text(r.read_text()[:200]), "not JSON"),
        (lambda r, s: r.write_text("[1]"), "no results file of lm-evaluation-harness"),
        (lambda r, s: r.write_text('{"config": {"model": "x"}}'), "no results file of lm-evaluation-harness"),
        (lambda r, s: r.write_bytes(b"\xff\xfe"), "cannot be read as text"),
        (lambda r, s: edit(r, lambda v: v.pop("n-samples")), "no results file .*n-samples"),
        (lambda r, s: edit(r, lambda v: lamp(v).update(method="magic")), "no method 'magic'"),
        (lambda r, s: edit(r, lambda v: lamp(v).update(users="many")), "says that users is 'many'"),
        (
            lambda r, s: edit(r, lambda v: v["configs"]["lamp_2m"].update(dataset_name="lamp_9")),
            "no task 'lamp_9'",
        ),
        (
            lambda r, s: edit(r, lambda v: v["results"]["lamp_2m"].update({"accuracy,none": float("nan")})),
            "says that accuracy is nan",
        ),
        (
            lambda r, s: edit(r, lambda v: v["results"]["lamp_2m"].update({"macro_f1,none": 0.99})),
            r"has macro_f1 0\.99 on 19 queries, but .*samples_lamp_2m.* gives",
        ),
        (lambda r, s: edit(r, lambda v: v["results"]["lamp_2m"].pop("macro_f1,none")), "has macro_f1 None"),
        (lambda r, s: s.write_text(""), "samples_lamp_2m.*nothing to score"),
        (lambda r, s: s.write_text(s.read_text()[:-9]), "samples_lamp_2m.*line 20: not JSON"),
        (lambda r, s: write_jsonl(s, read_jsonl(s)[:-1]), "on 19 queries, but .* on 18"),
        (lambda r, s: first_line(s, lambda v: v.pop("doc")), "samples_lamp_2m.*line 1: no sample of lamp_2m"),
        (lambda r, s: first_line(s, lambda v: v["doc"].update(fields={})), "line 1: no sample of lamp_2m"),
        (lambda r, s: first_line(s, lambda v: v["doc"].update(user_id=7)), "line 1: .* have to be texts"),
        (lambda r, s: first_line(s, lambda v: v.update(filtered_resps=[])), "line 1: no sample"),
        (lambda r, s: write_jsonl(s, read_jsonl(s)[:1] * 2), "line 2: query 'u0-q0' is answered twice"),
        (lambda r, s: first_line(s, lambda v: v.update(filtered_resps=["no tag"])), "was edited"),
        (lambda r, s: r.unlink(), "has no results_"),
    ],
)
def test_damaged_files_are_refused_by_name(
    tmp_path: Path, users: list[User], answers: dict[str, Answers], damage: Damage, message: str
) -> None:
    # All is right in the first answer, so that an edited one changes the value.
    given = {**answers["rag_k1"], ("u0", "u0-q0"): users[0].queries[0].gold or ""}
    file = lm_eval(tmp_path, "rag_k1", users, given)
    damage(file, next(file.parent.glob("samples_*")))
    with pytest.raises(DataError, match=rf"(?s)^{re.escape(str(tmp_path))}.*{message}"):
        report_harness(None, [tmp_path], False, resamples=RESAMPLES)
    assert not (tmp_path / "report.html").exists()


def test_what_has_no_result_of_ours_is_refused(
    tmp_path: Path, users: list[User], answers: dict[str, Answers]
) -> None:
    file = lm_eval(tmp_path, "rag_k1", users, answers["rag_k1"])
    edit(file, lambda values: values["configs"]["lamp_2m"]["metadata"].pop("lamp"))
    with pytest.raises(DataError, match=f"{re.escape(str(file))}: no result of a task of OPPU's"):
        read_harness([file])
    with pytest.raises(DataError, match=r"nowhere\.json does not exist"):
        read_harness([tmp_path / "nowhere.json"])
    with pytest.raises(ConfigError, match=r"--run.*--harness.*or both"):
        cli.report(None, None)


def test_neither_values_nor_samples(tmp_path: Path, users: list[User], answers: dict[str, Answers]) -> None:
    file = lm_eval(tmp_path, "rag_k1", users, answers["rag_k1"], predict_only=True)
    next(file.parent.glob("samples_*")).unlink()
    with pytest.raises(
        DataError, match=f"{re.escape(str(file))}: lamp_2m has no accuracy, macro_f1 and no samp"
    ):
        alone(tmp_path)


def test_other_data_and_tasks_are_refused_beside_a_run(
    tmp_path: Path, run: Run, users: list[User], answers: dict[str, Answers]
) -> None:
    page = run.path / "report.html"
    file = lm_eval(tmp_path / "data2", "rag_k1", users, answers["rag_k1"])
    with pytest.raises(DataError, match=rf"^{re.escape(str(file))}: lamp_2m was answered on another dataset"):
        report_harness(run, [tmp_path / "data2"], False)
    tagged = lm_eval(tmp_path / "task2", "rag_k1", users, answers["rag_k1"], task="lamp_2n")
    with pytest.raises(
        DataError, match=rf"^{re.escape(str(tagged))}: \S+/run has no task lamp_2n \(it has lam"
    ):
        report_harness(run, [tmp_path / "task2"], False)
    assert not page.exists()


def test_two_datasets_are_refused_in_one_table(
    tmp_path: Path, users: list[User], answers: dict[str, Answers]
) -> None:
    first = lm_eval(tmp_path, "non_personalized", users, answers["non_personalized"])
    second = lm_eval(tmp_path, "rag_k1", users, answers["rag_k1"], day=2, data="e" * 64)
    with pytest.raises(
        DataError, match=rf"^{re.escape(str(second))}: .*another dataset .*{re.escape(str(first))}"
    ):
        alone(tmp_path)


@pytest.mark.parametrize("width", [80, 100, 120])
def test_long_names_leave_the_numbers_alone(
    tmp_path: Path, users: list[User], answers: dict[str, Answers], width: int
) -> None:
    all_methods(tmp_path, users, answers, model_args="pretrained=meta-llama/Llama-2-7b-chat-hf")
    text = shown(alone(tmp_path), width)
    assert "…" not in text
    assert "(Llama-2-7b-chat-hf)" in text
    assert re.search(r"\+\.\d{3} p[=<]", text)
