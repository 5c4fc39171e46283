"""What studies compute: scores as `oppu evaluate` has them, intervals, ranks, settings, ranges."""

import dataclasses
import itertools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from oppu_core.data.types import User
from oppu_core.errors import ConfigError
from oppu_core.tasks.task import Task
from oppu_eval.scoring.evaluate import evaluate
from oppu_eval.scoring.metrics import Array, Metric, metrics_for
from oppu_eval.scoring.significance import RESAMPLES, combined, generator, paired, rank_correlation
from oppu_eval.studies.activity import quantile_ranges, read_ranges
from oppu_eval.studies.scoring import Scored, difference, difference_columns, score
from oppu_eval.studies.settings import each, setting_columns, setting_panel, setting_rows, sure, told
from scipy.stats import spearmanr

MakeUser = Callable[..., User]
Answers = dict[tuple[str, str], str]
ACCURACIES = {"non_personalized": 0.3, "rag_k1": 0.5, "oppu_k0": 0.7, "oppu_rag_k1": 0.7}
PROMPTS = {"oppu_k0": "non_personalized", "oppu_rag_k1": "rag_k1"}


@dataclasses.dataclass(frozen=True)
class Answered:
    """A task's test users and what each method answered them."""

    task: Task
    users: list[User]
    answers: dict[str, Answers]

    def score(self, method: str, metric: Metric, *names: str) -> Scored:
        made = (self.task.name, method, metric.name, *names)
        scored = score(metric, self.task, self.users, self.answers[method], made)
        assert scored is not None
        return scored


def words(chance: random.Random) -> str:
    return " ".join(chance.choices(["rain", "sun", "wind", "storm", "calm"], k=4))


@pytest.fixture(params=["classification", "rating", "generation"])
def answered(
    request: pytest.FixtureRequest, tagging: Task, rating: Task, headlines: Task, make_user: MakeUser
) -> Answered:
    """Nine users of unlike activity, some without gold answers; two have no adapters."""
    task: Task = {"classification": tagging, "rating": rating, "generation": headlines}[request.param]
    fields = ("text", "title") if task is headlines else ("description", "tag")
    chance = random.Random(1)

    def text() -> str:
        return chance.choice(task.labels[:4]) if task.labels else words(chance)

    users = [
        make_user(
            f"u{number}",
            [text() for _ in range(2 + number % 4)] + [None] * (number % 3),
            [text(), text()],
            fields=fields,
        )
        for number in range(9)
    ]
    users.append(make_user("no-gold", [None], [text()], fields=fields))
    answers = {
        method: {
            (user.user_id, query.id): query.gold if query.gold and chance.random() < accuracy else text()
            for user in users
            for query in user.queries
            if method not in PROMPTS or user.user_id not in ("u3", "u7")
        }
        for method, accuracy in ACCURACIES.items()
    }
    return Answered(task, users, answers)


def test_scores_and_comparisons_are_those_of_evaluate(answered: Answered) -> None:
    expected = evaluate(answered.task, answered.users, [], answered.answers, 5, resamples=400)
    compared = 0
    for metric in metrics_for(answered.task):
        for row in expected.rows:
            if row.reference or row.metric != metric.name:
                continue
            scored = answered.score(row.method, metric)
            own = scored.row(5, 400)
            wanted = (row.metric, row.value, row.ci95, row.users, row.queries)
            assert tuple(own[name] for name in ("metric", "value", "ci95", "users", "queries")) == wanted
            assert own["users"] == (7 if row.method in PROMPTS else 9)
            for baseline, delta, interval, p_value in (
                ("non_personalized", row.delta, row.delta_ci95, row.p_value),
                (PROMPTS.get(row.method), row.delta_same_prompt, row.delta_same_prompt_ci95,
                 row.p_value_same_prompt),
            ):  # fmt: skip
                if delta is not None and baseline is not None:
                    result = scored.against(answered.score(baseline, metric), 5, 400)
                    assert result is not None
                    assert (result.delta, result.ci95, result.p_value) == (delta, interval, p_value)
                    assert result.better + result.equal + result.worse == own["users"]
                    compared += 1
    assert compared == 2 * (3 + 2)  # metrics; three methods have a plain one, two an adapter


def test_a_user_who_is_answered_in_part_is_left_out(answered: Answered) -> None:
    metric = metrics_for(answered.task)[0]
    whole = answered.score("rag_k1", metric)
    some = dict(answered.answers["rag_k1"])
    del some["u2", "u2-q1"]
    scored = score(metric, answered.task, answered.users, some, whole.names)
    assert scored is not None
    assert set(whole.by_user) - set(scored.by_user) == {"u2"}
    assert (scored.queries, len(scored.by_user)) == (whole.queries - 4, 8)
    rest = {key: text for key, text in some.items() if key[0] != "u2"}
    alone = score(metric, answered.task, [u for u in answered.users if u.user_id != "u2"], rest, whole.names)
    assert alone is not None
    assert scored.row(0, 200) == alone.row(0, 200)


def test_nobody_answered_is_none_and_nobody_in_common_compares_with_none(answered: Answered) -> None:
    metric = metrics_for(answered.task)[0]
    assert score(metric, answered.task, answered.users, {}, ("a",)) is None
    scored = answered.score("rag_k1", metric)
    first, second = scored.of({"u0", "u1"}, "first"), scored.of({"u2"}, "second")
    assert first.against(second, 0) is None
    assert difference(None, "gain") == {
        "gain": None, "gain_ci95": None, "gain_p": None, "gain_users": None,
    }  # fmt: skip


def test_a_part_of_the_users_has_their_numbers_and_a_generator_of_its_own(answered: Answered) -> None:
    metric = metrics_for(answered.task)[0]
    scored = answered.score("rag_k1", metric)
    part = scored.of({"u1", "u5", "stranger"}, "1–5")
    assert list(part.by_user) == ["u1", "u5"]
    alone = [user for user in answered.users if user.user_id in ("u1", "u5")]
    twin = score(metric, answered.task, alone, answered.answers["rag_k1"], (*scored.names, "1–5"))
    assert twin is not None
    assert part.row(3, 300) == twin.row(3, 300)
    everybody = scored.of(set(scored.by_user), "all")
    assert everybody.value == scored.value
    assert everybody.row(3, 300)["ci95"] != scored.row(3, 300)["ci95"]


def test_users_of_one_owner_are_one_user(answered: Answered) -> None:
    """Each query becomes a user of its own; the numbers are those of the people."""
    pieces = [
        dataclasses.replace(user, user_id=f"{user.user_id}/{query.id}", queries=(query,))
        for user in answered.users
        for query in user.queries
    ]
    owner = {piece.user_id: piece.user_id.split("/")[0] for piece in pieces}
    for metric in metrics_for(answered.task):
        whole, plain = (answered.score(method, metric) for method in ("oppu_k0", "non_personalized"))
        answers = {
            (piece.user_id, query.id): answered.answers["oppu_k0"][owner[piece.user_id], query.id]
            for piece in pieces
            for query in piece.queries
            if (owner[piece.user_id], query.id) in answered.answers["oppu_k0"]
        }
        grouped = score(metric, answered.task, pieces, answers, whole.names, owner)
        assert grouped is not None
        assert grouped.row(0, 300) == whole.row(0, 300)
        assert grouped.against(plain, 0, 300) == whole.against(plain, 0, 300)
        apart = score(metric, answered.task, pieces, answers, whole.names)
        assert apart is not None
        assert len(apart.by_user) == apart.queries == whole.queries


def test_comparison_has_a_field_for_each_of_its_columns(answered: Answered) -> None:
    metric = metrics_for(answered.task)[0]
    comparison = answered.score("oppu_k0", metric).against(answered.score("rag_k1", metric), 0, 200)
    assert comparison is not None
    fields = difference(comparison, "gain")
    assert list(fields) == [column.name for column in difference_columns("Gain", "gain")]
    counts = [comparison.better, comparison.equal, comparison.worse]
    assert list(fields.values()) == [comparison.delta, comparison.ci95, comparison.p_value, counts]


def test_combined_of_two_terms_is_the_paired_difference(answered: Answered) -> None:
    for metric in metrics_for(answered.task):
        method, baseline = (answered.score(name, metric) for name in ("oppu_k0", "non_personalized"))
        users = list(method.by_user)
        a_US, b_US = method.sums(users), baseline.sums(users)
        expected = paired(metric, a_US, b_US, generator(0, metric.name), 500)
        terms = [(1.0, a_US, "users"), (-1.0, b_US, "users")]
        assert combined(metric, terms, generator(0, metric.name), 500) == (expected.delta, expected.ci95)


def binomial(seed: int, users: int, chance: float) -> Array:
    """Right answers of 20 [U, 2]; users differ."""
    rng = np.random.default_rng(seed)
    right = rng.binomial(20, np.clip(rng.normal(chance, 0.2, users), 0, 1))
    return np.stack([right, np.full(users, 20)], axis=1).astype(float)


def test_difference_of_differences_agrees_with_a_loop(tagging: Task) -> None:
    accuracy = metrics_for(tagging)[0]
    a, b, c, d = (binomial(seed, 14, chance) for seed, chance in enumerate((0.8, 0.5, 0.6, 0.5)))
    e, f = (binomial(seed, 9, chance) for seed, chance in ((5, 0.7), (6, 0.4)))

    def share(rows: Array) -> float:
        return float(rows[:, 0].sum() / rows[:, 1].sum())

    def interval(values: list[float]) -> Any:
        return pytest.approx(tuple(np.percentile(values, (2.5, 97.5))), abs=0.015)

    rng = np.random.default_rng(0)
    draws = [(rng.integers(0, 14, 14), rng.integers(0, 9, 9)) for _ in range(4000)]
    same = [(1.0, a, "x"), (-1.0, b, "x"), (-1.0, c, "x"), (1.0, d, "x")]
    value, found = combined(accuracy, same, generator(0, "same"))
    assert value == pytest.approx(share(a) - share(b) - share(c) + share(d))
    assert found == interval([share(a[i]) - share(b[i]) - share(c[i]) + share(d[i]) for i, _ in draws])

    disjoint = [(1.0, a, "long"), (-1.0, b, "long"), (-1.0, e, "short"), (1.0, f, "short")]
    value, found = combined(accuracy, disjoint, generator(0, "disjoint"))
    assert value == pytest.approx(share(a) - share(b) - share(e) + share(f))
    assert found == interval([share(a[i]) - share(b[i]) - share(e[j]) + share(f[j]) for i, j in draws])


def test_combined_draws_the_same_people_together(tagging: Task) -> None:
    """Everybody gains the same: the gain is certain, unless the two methods were of different people."""
    accuracy = metrics_for(tagging)[0]
    before = np.stack([np.arange(5.0, 35.0), np.full(30, 40.0)], axis=1)
    after = before + np.array([4.0, 0.0])
    value, interval = combined(accuracy, [(1.0, after, "x"), (-1.0, before, "x")], generator(0))
    assert (value, *(interval or ())) == pytest.approx((0.1, 0.1, 0.1))
    _, apart = combined(accuracy, [(1.0, after, "x"), (-1.0, before, "y")], generator(0))
    assert apart is not None
    assert apart[1] - apart[0] > 0.1


def test_combined_is_positive_where_errors_fall_and_unsure_of_one_user(rating: Task) -> None:
    mae = metrics_for(rating)[0]
    small, large = np.array([[2.0, 4.0]] * 5), np.array([[6.0, 4.0]] * 5)
    value, interval = combined(mae, [(1.0, small, "x"), (-1.0, large, "x")], generator(0), 100)
    assert (value, interval) == (1.0, (1.0, 1.0))
    terms = [(1.0, small, "x"), (-1.0, large, "x"), (0.5, large[:1], "y")]
    assert combined(mae, terms, generator(0), 100) == (1.0 - 0.75, None)


@pytest.mark.parametrize("tied", [False, True])
def test_rank_correlation_is_spearmans(tied: bool) -> None:
    rng = np.random.default_rng(2)
    one = rng.normal(size=25)
    other = one + rng.normal(size=25)
    if tied:
        one, other = np.round(one), np.round(other)
    rho, p = rank_correlation(one.tolist(), other.tolist(), generator(0))
    expected = spearmanr(one, other)
    assert rho == pytest.approx(expected.statistic)
    assert p == pytest.approx(expected.pvalue, abs=0.005)
    minus, p_minus = rank_correlation(one.tolist(), (-other).tolist(), generator(0))
    assert minus == pytest.approx(-rho)
    assert p_minus == pytest.approx(p, abs=0.005)


def test_rank_correlation_p_is_that_of_all_orders() -> None:
    one, other = [1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 1.0, 4.0, 3.0, 5.0]
    rho, p = rank_correlation(one, other, generator(0))
    orders = [spearmanr(one, order).statistic for order in itertools.permutations(other)]
    assert rho == pytest.approx(0.8)
    assert p == pytest.approx(np.mean([abs(order) >= 0.8 - 1e-9 for order in orders]), abs=0.015)


def test_rank_correlation_finds_nothing_where_nothing_is() -> None:
    rng = np.random.default_rng(3)
    p_values = [
        rank_correlation(rng.normal(size=12).tolist(), rng.normal(size=12).tolist(), generator(run), 200)[1]
        for run in range(300)
    ]
    assert 0.42 < np.mean(p_values) < 0.58
    assert np.mean(np.array(p_values) < 0.05) < 0.09
    assert rank_correlation(range(30), range(30), generator(0), 200) == pytest.approx((1.0, 1 / 201))


@pytest.mark.parametrize("values", [([2, 2, 2], [1, 2, 3]), ([1, 2, 3], [0, 0, 0]), ([1], [2])])
def test_constant_values_are_ranked_with_nothing(values: tuple[list[float], list[float]]) -> None:
    assert rank_correlation(*values, generator(0)) == (0.0, 1.0)


Cells = dict[tuple[str, str], Scored]


@pytest.fixture
def cells(answered: Answered) -> Cells:
    """Both settings answer alike but for the personal adapter with retrieval, which the second lacks."""
    metric = metrics_for(answered.task)[0]
    full = {("full", method): answered.score(method, metric) for method in ACCURACIES}
    half = {("half", method): answered.score(method, metric, "half") for method in list(ACCURACIES)[:3]}
    return {**full, **half}


def test_setting_rows_compare_with_the_same_prompt_and_with_the_reference(
    answered: Answered, cells: Cells
) -> None:
    task = answered.task.name
    asked = []

    def paper(setting: str, method: str, metric: str) -> float:
        asked.append((setting, method, metric))
        return 0.25

    rows = setting_rows(task, cells, 4, shown=False, reference="full", paper=paper)
    assert [(row["setting"], row["method"]) for row in rows] == list(cells)
    metric = metrics_for(answered.task)[0]
    assert asked == [(*cell, metric.name) for cell in cells]
    for row in rows:
        setting, method = row["setting"], row["method"]
        scored = cells[setting, method]
        assert {name: row[name] for name in scored.row(4)} == scored.row(4)
        fixed = (row["task"], row["metric_title"], row["paper"], row["shown"])
        assert fixed == (task, metric.title, 0.25, False)
        prompt = cells.get((setting, PROMPTS.get(method, "")))
        adapter = scored.against(prompt, 4) if prompt else None
        change = scored.against(cells["full", method], 4) if setting == "half" else None
        expected = {**difference(adapter, "adapter"), **difference(change, "change")}
        assert {name: row[name] for name in expected} == expected
        assert (row["adapter"] is None) == (method not in PROMPTS)
        assert row["change"] == (0.0 if setting == "half" else None)
    without = setting_rows(task, cells, 4, shown=True)
    assert {(row["change"], row["paper"], row["shown"]) for row in without} == {(None, None, True)}


def test_setting_rows_have_every_column_once(answered: Answered, cells: Cells) -> None:
    rows = setting_rows(answered.task.name, cells, 0, shown=True, reference="full")
    columns = setting_columns("what is kept", "all items")
    names = [column.name for column in columns]
    assert len(set(names)) == len(names)
    assert set(rows[0]) == {*names, "shown"}
    titles = {column.name: column.title for column in columns}
    assert (titles["setting"], titles["change"]) == ("what is kept", "to all items")
    plain = [column.name for column in setting_columns("k")]
    assert plain == [name for name in names if not name.startswith("change")]


def test_setting_panel_has_the_values_and_the_level(answered: Answered, cells: Cells) -> None:
    metric = metrics_for(answered.task)[0]
    rows = setting_rows(answered.task.name, cells, 0, shown=True)
    settings = {"full": "all", "half": "half\nof them"}
    series = {**each(["rag_k1", "oppu_rag_k1"], list(settings)), "mixed": {"half": "oppu_k0"}}
    panel = setting_panel(answered.task, metric, rows, settings, series, "non_personalized")
    values = {(row["setting"], row["method"]): (row["value"], row["ci95"]) for row in rows}
    assert [(one.label, one.method, one.values) for one in panel.series] == [
        ("rag_k1", "rag_k1", [values["full", "rag_k1"], values["half", "rag_k1"]]),
        ("oppu_rag_k1", "oppu_rag_k1", [values["full", "oppu_rag_k1"], None]),
        ("mixed", "oppu_k0", [None, values["half", "oppu_k0"]]),
    ]
    assert panel.settings == ["all", "half\nof them"]
    assert panel.level == ("non_personalized", cells["full", "non_personalized"].value)
    assert panel.title == answered.task.title
    assert panel.y == ("MAE, lower is better" if answered.task.kind == "rating" else metric.title)
    for level in (None, "pag_k0"):
        assert setting_panel(answered.task, metric, rows, settings, series, level).level is None


def test_intervals_are_put_into_words() -> None:
    assert told(0.1234, (0.05, 0.2)) == "+.123 [+.050, +.200]"
    assert told(-0.02, None) == "−.020"
    assert sure((0.01, 0.2)) == "the interval is above zero"
    assert sure((-0.2, -0.01)) == "the interval is below zero"
    assert {sure(one) for one in ((-0.1, 0.1), (0.0, 0.1), (-0.1, 0.0))} == {"the interval includes zero"}
    assert "nothing follows" in sure(None)


def within(ranges: list[tuple[int, int]], lengths: list[int]) -> list[int]:
    return [sum(low <= length <= high for length in lengths) for low, high in ranges]


def test_quantile_ranges_hold_everybody_once_and_nobody_is_missing_from_a_range() -> None:
    chance = random.Random(0)
    for _ in range(500):
        lengths = [chance.randint(1, chance.choice([3, 80])) for _ in range(chance.randint(1, 30))]
        groups = chance.randint(2, 10)
        ranges = quantile_ranges(lengths, groups)
        assert 1 <= len(ranges) <= groups
        assert (ranges[0][0], ranges[-1][1]) == (min(lengths), max(lengths))
        assert all(low <= high for low, high in ranges)
        assert all(before[1] < after[0] for before, after in itertools.pairwise(ranges))
        counts = within(ranges, lengths)
        assert min(counts) > 0
        assert sum(counts) == len(lengths)


def test_quantile_ranges_are_of_equal_size_unless_lengths_are_tied() -> None:
    lengths = random.Random(1).sample(range(1, 500), 40)
    assert within(quantile_ranges(lengths, 4), lengths) == [10] * 4
    assert quantile_ranges([5] * 9, 4) == [(5, 5)]
    assert quantile_ranges([7], 3) == [(7, 7)]
    assert within(quantile_ranges([10] * 15 + [50] * 5, 4), [10] * 15 + [50] * 5) == [15, 5]
    assert within(quantile_ranges([3, 10, 50], 4), [3, 10, 50]) == [1, 1, 1]


def test_ranges_are_read() -> None:
    assert read_ranges("1-10,11-30,40-40") == ((1, 10), (11, 30), (40, 40))


@pytest.mark.parametrize("text", ["", "5", "1-10,", "a-b", "1-2-3", "-5-10", "1:10", "1.5-3"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^--ranges '.*' is not understood; write e\.g\. 1-10,11-30"):
        read_ranges(text)


@pytest.mark.parametrize("text", ["5-1", "0-3", "1-10,10-20", "1-10,5-20", "11-30,1-10"])
def test_ranges_that_descend_or_overlap_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=f"^--ranges '{text}': ranges ascend"):
        read_ranges(text)


def test_resamples_are_those_of_evaluate(answered: Answered) -> None:
    metric = metrics_for(answered.task)[0]
    scored = answered.score("rag_k1", metric)
    assert scored.row(0) == scored.row(0, RESAMPLES)
    assert scored.row(0) != scored.row(1)
