"""Rows, reference rows, coverage rules, and the numbers' independence of the company they are in."""

import dataclasses
import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from oppu_core.data.types import User
from oppu_core.errors import DataError
from oppu_core.tasks.task import Task
from oppu_eval.reporting.paper import paper_value
from oppu_eval.scoring.evaluate import evaluate, method_order, same_prompt
from oppu_eval.scoring.results import Results, ScoreRow, TaskResults

MakeUser = Callable[..., User]
AnswerWith = Callable[..., dict[tuple[str, str], str]]

ISSUE_KEYS = {
    "task", "method", "metric", "value", "ci95", "users", "queries", "delta", "delta_ci95", "p_value",
    "delta_same_prompt", "delta_same_prompt_ci95", "p_value_same_prompt",
}  # fmt: skip


def rows_of(result: TaskResults) -> dict[tuple[str, str], ScoreRow]:
    return {(row.method, row.metric): row for row in result.rows}


def golds(seed: int) -> list[str]:
    return [("comedy", "action", "romance", "classic")[(seed * 7 + i * i) % 4] for i in range(8)]


@pytest.fixture
def users(make_user: MakeUser) -> list[User]:
    return [make_user(f"u{i}", golds(i)) for i in range(10)]


@pytest.fixture
def others(make_user: MakeUser) -> list[User]:
    return [make_user("other", ["violence", None], ["violence", "comedy"], split="others")]


def run(
    task: Task, users: list[User], others: Iterable[User], predictions: Any, **options: Any
) -> TaskResults:
    return evaluate(task, users, others, predictions, 0, **{"resamples": 500, **options})


@pytest.fixture
def predictions(tagging: Task, users: list[User], answer_with: AnswerWith) -> dict[str, Any]:
    accuracies = {"oppu_rag_k1": 0.9, "non_personalized": 0.3, "rag_k1": 0.6, "oppu_k0": 0.85, "my_idea": 0.5}
    return {name: answer_with(tagging, users, acc, i) for i, (name, acc) in enumerate(accuracies.items())}


def test_rows_come_in_the_order_of_the_paper_with_references_first(
    tagging: Task, users: list[User], others: list[User], predictions: dict[str, Any]
) -> None:
    result = run(tagging, users, others, predictions)
    assert list(dict.fromkeys(row.method for row in result.rows)) == [
        "global_majority", "user_majority", "user_classifier", "copy_label",
        "non_personalized", "rag_k1", "oppu_k0", "oppu_rag_k1", "my_idea",
    ]  # fmt: skip
    assert [row.metric for row in result.rows[:2]] == ["accuracy", "macro_f1"]
    assert [row.reference for row in result.rows[::2]] == [True] * 4 + [False] * 5
    plain = ["non_personalized", "random_k1", "rag_k1", "rag_k2", "rag_k4", "dense_k1", "recent_k2", "pag_k0"]
    personal = ["oppu_k0", "oppu_rag_k1", "oppu_rag_k4", "oppu_rag_k10", "oppu_recent_k2", "oppu_pag_k0"]
    table1 = [*plain, *personal, "other"]
    assert sorted(set(table1), key=method_order) == table1


def test_values_and_differences_are_those_of_counting(
    tagging: Task, users: list[User], others: list[User], predictions: dict[str, Any]
) -> None:
    rows = rows_of(run(tagging, users, others, predictions))
    gold = {(user.user_id, query.id): query.gold for user in users for query in user.queries}
    right = {m: sum(answers[key] == gold[key] for key in gold) / 80 for m, answers in predictions.items()}
    for method, share in right.items():
        row = rows[method, "accuracy"]
        assert row.value == pytest.approx(share)
        assert (row.users, row.queries) == (10, 80)
        assert row.ci95 is not None
        assert row.ci95[0] < share < row.ci95[1]
        if method != "non_personalized":
            assert row.delta == pytest.approx(share - right["non_personalized"])
    oppu = rows["oppu_rag_k1", "accuracy"]
    assert oppu.delta_same_prompt == pytest.approx(right["oppu_rag_k1"] - right["rag_k1"])
    assert oppu.p_value is not None
    assert oppu.p_value < 0.02
    same = rows["oppu_k0", "accuracy"]
    assert (same.delta, same.delta_ci95, same.p_value) == (
        same.delta_same_prompt, same.delta_same_prompt_ci95, same.p_value_same_prompt,
    )  # fmt: skip


def test_missing_comparisons_are_null(
    tagging: Task, users: list[User], others: list[User], predictions: dict[str, Any]
) -> None:
    rows = rows_of(run(tagging, users, others, predictions))
    plain = rows["non_personalized", "accuracy"]
    assert (plain.delta, plain.delta_ci95, plain.p_value, plain.wins) == (None, None, None, None)
    assert rows["rag_k1", "accuracy"].delta_same_prompt is None
    del predictions["non_personalized"]
    rows = rows_of(run(tagging, users, others, predictions))
    assert rows["oppu_k0", "accuracy"].delta_same_prompt is None
    assert rows["oppu_rag_k1", "accuracy"].delta is None
    assert rows["oppu_rag_k1", "accuracy"].delta_same_prompt is not None


def test_wins_count_users(tagging: Task, make_user: MakeUser, others: list[User]) -> None:
    users = [make_user(f"u{i}", ["comedy", "action"]) for i in range(6)]
    plain = {(u.user_id, q.id): "comedy" for u in users for q in u.queries}
    better = {key: "action" for key in plain if key[0] in ("u1",)}
    changed = plain | {("u0", "u0-q1"): "action", ("u2", "u2-q1"): "action", ("u3", "u3-q0"): "none"} | better
    rows = rows_of(run(tagging, users, others, {"non_personalized": plain, "oppu_k0": changed}))
    assert rows["oppu_k0", "accuracy"].wins == {"better": 2, "equal": 3, "worse": 1}


def test_same_prompt_is_the_method_without_its_adapter() -> None:
    pairs = {"oppu_k0": "non_personalized", "oppu_rag_k4": "rag_k4", "oppu_pag_k0": "pag_k0", "rag_k1": None}
    assert {method: same_prompt(method) for method in pairs} == pairs
    assert same_prompt("non_personalized") is None


def test_adding_a_method_changes_no_other_number(
    tagging: Task, users: list[User], others: list[User], predictions: dict[str, Any]
) -> None:
    alone = run(tagging, users, others, {m: predictions[m] for m in ("non_personalized", "oppu_k0")})
    company = rows_of(run(tagging, users, others, predictions))
    assert all(row == company[row.method, row.metric] for row in alone.rows)
    other_seed = evaluate(tagging, users, others, predictions, 1, resamples=500)
    assert rows_of(other_seed)["oppu_k0", "accuracy"].ci95 != company["oppu_k0", "accuracy"].ci95


def test_lower_error_counts_as_an_improvement(rating: Task, make_user: MakeUser) -> None:
    users = [make_user(f"u{i}", ["1", "2", "5"], ["2", "2", "5"]) for i in range(8)]
    gold = {(u.user_id, q.id): q.gold or "" for u in users for q in u.queries}
    predictions = {"non_personalized": dict.fromkeys(gold, "4"), "oppu_k0": gold | {("u3", "u3-q0"): "nan"}}
    rows = rows_of(run(rating, users, [], predictions))
    row = rows["oppu_k0", "mae"]
    assert not row.higher_is_better
    assert row.value == pytest.approx(4 / 24)
    assert row.delta == pytest.approx(2 - 4 / 24)
    assert row.wins == {"better": 8, "equal": 0, "worse": 0}
    assert rows["user_majority", "mae"].value == pytest.approx((1 + 0 + 3) / 3)
    assert ("global_majority", "mae") not in rows


def test_global_majority_is_learned_from_the_others_alone(
    tagging: Task, users: list[User], make_user: MakeUser
) -> None:
    others = [make_user("o1", ["romance"], ["comedy", "romance"], split="others"),
              make_user("o2", [None], ["action"], split="others")]  # fmt: skip
    rows = rows_of(run(tagging, users, iter(others), {}))
    share = sum(golds(i).count("romance") for i in range(10)) / 80
    assert rows["global_majority", "accuracy"].value == pytest.approx(share)


def test_user_majority_sees_the_visible_history_only_and_breaks_ties_by_last_use(
    tagging: Task, make_user: MakeUser, others: list[User]
) -> None:
    history = ["comedy", "action", "action", "comedy", "romance", "romance", "romance"]
    user = make_user("u", ["x"] * 5, history)
    lengths_and_expected = [(0, "violence"), (2, "action"), (3, "action"), (4, "comedy"), (7, "romance")]
    queries = tuple(
        dataclasses.replace(query, history_len=length, gold=expected)
        for query, (length, expected) in zip(user.queries, lengths_and_expected, strict=True)
    )
    user = dataclasses.replace(user, queries=queries)
    assert rows_of(run(tagging, [user], others, {}))["user_majority", "accuracy"].value == 1.0


def test_a_classifier_and_the_most_alike_item_see_the_visible_history_only(
    tagging: Task, make_user: MakeUser, others: list[User]
) -> None:
    texts = {"comedy": "two clowns laugh", "action": "a car chase", "romance": "a wedding in spring"}
    user = make_user("u", ["x"] * 4, ["comedy", "action", "romance", "action"])
    items = tuple(
        dataclasses.replace(item, fields={**item.fields, "description": texts[item.fields["tag"]]})
        for item in user.history
    )
    asked = [(0, "wedding", "violence"), (2, "a wedding", "action"), (3, "the wedding", "romance"),
             (4, "clowns at a wedding in spring", "romance")]  # fmt: skip
    queries = tuple(
        dataclasses.replace(query, history_len=seen, gold=gold, fields={**query.fields, "description": text})
        for query, (seen, text, gold) in zip(user.queries, asked, strict=True)
    )
    user = dataclasses.replace(user, history=items, queries=queries)
    rows = rows_of(run(tagging, [user], others, {}))
    # Of "a wedding" the words that the first two items know stand in the second alone.
    assert rows["copy_label", "accuracy"].value == 1.0
    # "a" is no word to it: with two items it takes either label, equally likely.
    assert rows["user_classifier", "accuracy"].value == 1.0
    silent = dataclasses.replace(items[0], fields={**items[0].fields, "description": "?"})
    query = dataclasses.replace(queries[1], history_len=1)
    mute = dataclasses.replace(user, history=(silent,), queries=(query,))
    majority = rows_of(run(tagging, [mute], others, {}))["user_classifier", "accuracy"]
    assert majority.value == 0.0, "a history without words: its most frequent answer"


def test_oracle_stands_only_where_every_scored_query_has_one(
    tagging: Task, make_user: MakeUser, others: list[User]
) -> None:
    full = [make_user(f"u{i}", golds(i), oracle=golds(i)) for i in range(3)]
    assert rows_of(run(tagging, full, others, {}))["oracle", "accuracy"].value == 1.0
    assert ("oracle", "accuracy") not in rows_of(run(tagging, [*full, make_user("v", golds(9))], others, {}))


def test_generation_has_copied_texts_and_no_majority(headlines: Task, make_user: MakeUser) -> None:
    users = [make_user(f"u{i}", [f"new film 0 of <b>u{i}</b>"], fields=("text", "title")) for i in range(3)]
    rows = rows_of(run(headlines, users, users, {}))
    assert {method for method, _ in rows} == {"copy_input", "copy_retrieved"}
    assert rows["copy_input", "rouge_1"].value == 1.0


def test_copy_retrieved_is_the_users_most_similar_visible_text(headlines: Task, make_user: MakeUser) -> None:
    user = make_user("u", ["action"], ["comedy", "action", "classic"], fields=("text", "title"))
    items = [
        dataclasses.replace(item, fields={"text": text, "title": item.fields["title"]})
        for item, text in zip(
            user.history, ["a quiet lake", "new film of mine", "new film of u"], strict=True
        )
    ]
    query = dataclasses.replace(user.queries[0], fields={"text": "new film of u"}, history_len=2)
    user = dataclasses.replace(user, history=tuple(items), queries=(query,))
    # The best match of all is the third item, which the query may not see.
    assert rows_of(run(headlines, [user], [user], {}))["copy_retrieved", "rouge_1"].value == 1.0


def test_withheld_golds_are_not_scored(tagging: Task, make_user: MakeUser, others: list[User]) -> None:
    users = [make_user("a", ["comedy", None, "action"]), make_user("b", [None])]
    answers = {("a", "a-q0"): "comedy", ("a", "a-q2"): "comedy", ("b", "b-q0"): "comedy"}
    row = rows_of(run(tagging, users, others, {"rag_k1": answers}))["rag_k1", "accuracy"]
    assert (row.value, row.users, row.queries, row.ci95) == (0.5, 1, 2, None)
    with pytest.raises(DataError, match="nothing to score"):
        run(tagging, users[1:], others, {})


def test_method_without_some_users_is_compared_on_the_common_ones(
    tagging: Task, users: list[User], others: list[User], predictions: dict[str, Any]
) -> None:
    kept = [user for user in users if user.user_id not in ("u2", "u7")]
    names = {user.user_id for user in kept}
    predictions["oppu_k0"] = {key: a for key, a in predictions["oppu_k0"].items() if key[0] in names}
    result = run(tagging, users, others, predictions)
    assert result.set_aside == {"oppu_k0": ["u2", "u7"]}
    assert set(result.per_user["oppu_k0"]) == names
    row = rows_of(result)["oppu_k0", "accuracy"]
    assert (row.users, row.queries) == (8, 64)
    among_kept = {m: {k: a for k, a in p.items() if k[0] in names} for m, p in predictions.items()}
    alone = rows_of(run(tagging, kept, others, among_kept))["oppu_k0", "accuracy"]
    assert row == alone
    assert row.wins is not None
    assert sum(row.wins.values()) == 8


def test_baseline_without_some_users_narrows_the_comparison_only(
    tagging: Task, users: list[User], others: list[User], predictions: dict[str, Any]
) -> None:
    full = rows_of(run(tagging, users, others, predictions))["oppu_rag_k1", "accuracy"]
    predictions["rag_k1"] = {key: answer for key, answer in predictions["rag_k1"].items() if key[0] > "u3"}
    row = rows_of(run(tagging, users, others, predictions))["oppu_rag_k1", "accuracy"]
    assert (row.users, row.value, row.ci95, row.delta) == (full.users, full.value, full.ci95, full.delta)
    gold = {(u.user_id, q.id): q.gold for u in users for q in u.queries if u.user_id > "u3"}
    share = {
        m: sum(predictions[m][k] == gold[k] for k in gold) / len(gold) for m in ("oppu_rag_k1", "rag_k1")
    }
    assert row.delta_same_prompt == pytest.approx(share["oppu_rag_k1"] - share["rag_k1"])


def test_half_answered_user_is_an_error_that_says_what_to_run(
    tagging: Task, users: list[User], others: list[User], predictions: dict[str, Any]
) -> None:
    del predictions["rag_k1"]["u4", "u4-q5"]
    with pytest.raises(DataError, match=r"rag_k1 .*'u4'.*'u4-q5'.*: oppu answer --run runs/x$"):
        evaluate(tagging, users, others, predictions, 0, again="oppu answer --run runs/x")


@pytest.mark.parametrize("key", [("nobody", "q"), ("u1", "u2-q1")])
def test_answers_to_unknown_queries_are_an_error(
    tagging: Task, users: list[User], others: list[User], predictions: dict[str, Any], key: tuple[str, str]
) -> None:
    predictions["rag_k1"][key] = "comedy"
    with pytest.raises(DataError, match=f"rag_k1 .*'{key[0]}' query '{key[1]}'"):
        run(tagging, users, others, predictions)


def test_other_broken_input_is_an_error(
    tagging: Task, rating: Task, users: list[User], others: list[User], make_user: MakeUser
) -> None:
    with pytest.raises(DataError, match="no answers for any"):
        run(tagging, users, others, {"rag_k1": {}})
    with pytest.raises(DataError, match="reference row"):
        run(tagging, users, others, {"oracle": {}})
    with pytest.raises(DataError, match="occurs twice"):
        run(tagging, [users[0], users[0]], others, {})
    with pytest.raises(DataError, match="'comedy' is no rating"):
        run(rating, [make_user("u", ["comedy"])], others, {})


def test_results_are_plain_json_with_the_keys_of_the_issue(
    tagging: Task, users: list[User], others: list[User], predictions: dict[str, Any]
) -> None:
    result = run(tagging, users, others, predictions)
    provenance = {"seed": 0, "loss": float("nan"), "devices": ("cpu",)}
    results = Results({"lamp_2m": result}, provenance).to_json()
    text = json.dumps(results, allow_nan=False, sort_keys=True)
    assert json.loads(text) == results
    assert results["provenance"] == {"seed": 0, "loss": None, "devices": ["cpu"]}
    for row in results["rows"]:
        assert set(row) == ISSUE_KEYS | {"wins", "reference", "higher_is_better"}
    again = Results({"lamp_2m": run(tagging, users, others, predictions)}, {}).to_json()
    assert json.dumps(again["rows"]) == json.dumps(results["rows"])
    assert results["per_user"]["lamp_2m"]["user_majority"].keys() == {user.user_id for user in users}
    assert results["history_lengths"]["lamp_2m"]["u0"] == 2


def test_paper_numbers_are_those_of_table_1() -> None:
    assert paper_value("LaMP-2M", "oppu_k0", "accuracy") == 0.600
    assert paper_value("LaMP-2M", "non_personalized", "accuracy") == 0.478
    assert paper_value("LaMP-4", "oppu_k0", "rouge_1") == 0.191
    assert paper_value("LaMP-4", "oracle", "rouge_1") is None
    assert paper_value("my-task", "oppu_k0", "accuracy") is None
