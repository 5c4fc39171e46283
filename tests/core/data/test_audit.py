"""The audit: each planted defect is found, counted and shown, and nothing is found where nothing is."""

import dataclasses
import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from oppu_core.cli.data import app
from oppu_core.data import HistoryItem, Query, Split, User
from oppu_core.data.audit.audit import audit
from oppu_core.data.audit.checks import words_of
from oppu_core.data.audit.findings import Finding
from oppu_core.data.audit.kinds import KINDS
from oppu_core.data.dataset import REJECTED, Dataset
from oppu_core.data.dataset_writer import write_dataset
from oppu_core.data.sample import sample_users
from oppu_core.errors import DataError
from oppu_core.tasks.task import Task
from oppu_core.tasks.task_files import TASKS
from typer.testing import CliRunner

MOVIES = TASKS["lamp_2m"]
TODAY = datetime.date(2026, 11, 21)
LONG = "A ship is lost at sea and its crew finds an island that is on no map."


def item(name: str, text: str | None = None, tag: str = "comedy", date: str | None = None) -> HistoryItem:
    return HistoryItem(name, {"description": text or f"The story of {name}.", "tag": tag}, date)


def query(name: str, text: str | None = None, gold: str | None = "action", sees: int = 2) -> Query:
    return Query(name, {"description": text or f"The film {name}."}, gold, sees)


def user(
    name: str = "ann",
    split: Split = "test",
    history: tuple[HistoryItem, ...] | None = None,
    queries: tuple[Query, ...] | None = None,
) -> User:
    items = (item(f"{name}-1"), item(f"{name}-2")) if history is None else history
    return User(name, split, items, (query(f"{name}-q", sees=len(items)),) if queries is None else queries)


Find = Callable[..., dict[str, Finding]]


@pytest.fixture
def find(tmp_path: Path) -> Find:
    """find(users …): the findings by name, in a dataset with one harmless user on each side more."""

    def look(*users: User, task: Task = MOVIES, source: Any = None, harmless: bool = True) -> Any:
        more = (user("good"), user("other", "others")) if harmless else ()
        dataset = write_dataset(tmp_path / "d", task, (*users, *more), source or {"kind": "test"})
        return {finding.name: finding for finding in audit(dataset, today=TODAY)}

    return look


def only(findings: dict[str, Finding], name: str, count: int = 1) -> Finding:
    assert list(findings) == [name]
    assert findings[name].count == count
    return findings[name]


def test_a_clean_dataset_has_no_findings(find: Find, tmp_path: Path) -> None:
    assert find(user()) == {}
    for name in ("lamp_2m", "lamp_4"):
        drawn = sample_users(TASKS[name], test_users=3, other_users=5, history=(4, 6), queries=2, seed=0)
        dataset = write_dataset(tmp_path / name, TASKS[name], drawn, {})
        assert [f.name for f in audit(dataset, today=TODAY) if f.severity != "info"] == []


def test_query_in_own_history_whatever_its_case_and_punctuation(find: Find) -> None:
    leak = user(history=(item("a"), item("b", LONG)), queries=(query("q", f"«{LONG.upper()}»  !"),))
    finding = only(find(leak), "query_in_own_history")
    assert (finding.severity, finding.total, finding.users) == ("error", 2, 1)
    assert finding.examples[0].user_id == "ann"
    assert finding.examples[0].id == "q"
    assert "A SHIP IS LOST" in finding.examples[0].text


def test_only_what_a_query_sees_can_leak(find: Find) -> None:
    history = (item("a"), item("b", LONG))
    assert find(user(history=history, queries=(query("q", LONG, sees=1),))) == {}
    only(find(user(history=history, queries=(query("q", LONG, sees=2),))), "query_in_own_history")
    near = LONG.replace("no map", "no chart")
    assert find(user(history=history, queries=(query("q", near, sees=1),))) == {}


def test_nearly_the_same_text(find: Find) -> None:
    # 17 words have 15 shingles. Another last word changes one of them: 14 / 16 = 0.88; the last two words
    # change two: 13 / 17 = 0.76.
    near, far = LONG.replace("map.", "chart."), LONG.replace("no map.", "the chart.")
    assert len(words_of(LONG)) == 17
    finding = only(find(user(history=(item("a", LONG),), queries=(query("q", near, sees=1),))),
                   "query_near_own_history")  # fmt: skip
    assert finding.severity == "warning"
    assert find(user(history=(item("a", LONG),), queries=(query("q", far, sees=1),))) == {}
    short = (item("a", "Ha ha ha"),)  # the same one shingle, but too short to tell
    assert find(user(history=short, queries=(query("q", "ha ha ha ha", sees=1),))) == {}


def test_a_generated_text_that_stands_in_the_history(find: Find) -> None:
    def tweet(name: str, text: str) -> HistoryItem:
        return HistoryItem(name, {"text": text})

    def tweeter(gold: str, sees: int) -> User:
        history = (tweet("a", "hello"), tweet("b", LONG))
        return User("ann", "test", history, (Query("q", {"text": "What is it?"}, gold, sees),))

    other = User("bob", "others", (tweet("c", "bye"),), (Query("r", {"text": "Then?"}, "so", 1),))
    task = TASKS["lamp_7"]
    only(find(tweeter(LONG.lower(), 2), other, task=task, harmless=False), "gold_in_own_history")
    assert find(tweeter(LONG, 1), other, task=task, harmless=False) == {}
    assert find(tweeter("hello!", 2), other, task=task, harmless=False) == {}


def test_test_texts_among_the_others(find: Find) -> None:
    test = user(history=(item("a", "An old film."),), queries=(query("q", LONG, sees=1),))
    in_queries = user("bob", "others", queries=(query("bob-q", LONG + "!"),))
    in_history = user("bob", "others", history=(item("x", LONG.lower()),))
    item_there = user("bob", "others", history=(item("x", "an old FILM"),))
    assert only(find(test, in_queries), "query_in_others_queries").severity == "warning"
    assert only(find(test, in_history), "query_in_others_history").total == 2
    assert only(find(test, item_there), "history_in_others").severity == "info"
    assert find(user("ann", "others", queries=(query("q", LONG),)), in_queries) == {}


def test_a_query_id_on_both_sides(find: Find) -> None:
    only(
        find(user(), user("bob", "others", queries=(query("ann-q", "Another film."),))), "query_id_in_others"
    )


def test_dates(find: Find) -> None:
    def dated(*dates: str | None) -> User:
        return user(history=tuple(item(str(n), date=date) for n, date in enumerate(dates)))

    assert find(dated("2020", "2020-01-31", "2020-01-31", "2026-11-21T23:00:00")) == {}
    assert "2020-02-01 comes before 2020-01-31" in only(
        find(dated("2020-02-01", "2020-01-31")), "history_unsorted"
    ).examples[0].text  # fmt: skip
    assert "1 of 2" in only(find(dated(None, "2020-01-31")), "dates_partly_missing").examples[0].text
    only(find(dated("0001-01-01", "1969-12-31", "2020-01-01", "2026-11-22")), "date_implausible", 3)


def test_golds(find: Find) -> None:
    def asked(gold: str | None) -> User:
        return user(queries=(query("q", gold=gold),))

    only(find(asked(None)), "gold_missing")
    assert only(find(asked("  ")), "gold_empty").severity == "error"
    assert only(find(asked("Action!")), "gold_outside_labels").examples[0].text == "'Action!'"
    assert find(asked(" action\n")) == {}  # scored without its margins
    only(find(dataclasses.replace(asked("funny"), split="others")), "gold_outside_labels")


def test_ratings_have_labels_and_headlines_have_none(find: Find) -> None:
    def reviewer(gold: str, score: str) -> User:
        return User(
            "ann",
            "test",
            (HistoryItem("a", {"text": "It is fine.", "score": score}),),
            (Query("q", {"text": "It broke."}, gold, 1),),
        )

    rating = TASKS["lamp_3"]
    assert find(reviewer("1", "5"), task=rating, harmless=False) == {}
    only(find(reviewer("6", "5"), task=rating, harmless=False), "gold_outside_labels")
    only(find(reviewer("1", "0"), task=rating, harmless=False), "answer_outside_labels")


def test_answers_and_texts_of_the_history(find: Find) -> None:
    finding = only(
        find(user(history=(item("a", tag="comedic"), item("b", tag="")))), "answer_outside_labels", 2
    )
    assert (finding.users, finding.total) == (1, 6)
    empty = user(history=(item("a", " "),), queries=(query("q", "?", sees=1),))
    assert "no description" in only(find(empty), "text_empty").examples[0].text
    paper = HistoryItem("a", {"title": "On ships", "abstract": "", "citation": ""})
    fields = {"title": "On sails", "option_1": "On masts", "option_2": ""}
    author = User("ann", "test", (paper,), (Query("q", fields, "[1]", 1),))
    lacking = only(find(author, task=TASKS["lamp_1"], harmless=False), "text_empty")
    assert lacking.examples[0].text == "'no option_2'"  # abstract and citation may be empty


def test_two_empty_texts_are_no_leak_and_no_copy(find: Find) -> None:
    nothing = (item("a", " "), item("b", " "))
    findings = find(
        user(history=nothing, queries=(query("q", " "),)), user("bob", "others", queries=(query("r", " "),))
    )
    assert list(findings) == ["text_empty"]


def test_doubles(find: Find) -> None:
    only(
        find(user(history=(item("a", "One."), item("a", "Two."), item("a", "Three.")))), "item_id_repeated", 2
    )
    finding = only(
        find(user(history=(item("a", "One!"), item("b", "two"), item("c", "one")))), "text_repeated"
    )
    assert (finding.severity, finding.examples[0].id) == ("info", "c")


def test_users_with_nothing(find: Find) -> None:
    only(find(user(history=())), "nothing_to_learn")
    early = user(queries=(query("q1", sees=2), query("q2", sees=0)))
    only(find(early), "nothing_to_learn")
    assert find(user("bob", "others", history=())) == {}
    only(find(user(queries=()), user("bob", "others", queries=())), "nothing_to_answer", 2)


def test_what_the_importer_saw(find: Find, tmp_path: Path) -> None:
    only(find(user(), source={"gold_disagreements": 3}), "gold_disagreement", 3)
    dataset = write_dataset(tmp_path / "d", MOVIES, [user()], {})
    reasons = ["no gold", "no text", "no gold"]
    (tmp_path / "d" / REJECTED).write_text("".join(json.dumps({"reason": r}) + "\n" for r in reasons))
    finding = only({f.name: f for f in audit(dataset)}, "rejected_at_import", 3)
    assert [example.text for example in finding.examples] == ["2 × 'no gold'", "1 × 'no text'"]
    for broken in ('{"rea', "[" * 100_000):
        (tmp_path / "d" / REJECTED).write_text('{"reason": "x"}\n' + broken)
        with pytest.raises(DataError, match="after line 1: not a list of refused records"):
            audit(dataset)


def test_memory_holds_the_test_side_and_not_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others pass by one at a time: none of them is alive when the next but one arrives."""
    import gc
    import weakref

    dataset = write_dataset(
        tmp_path / "d", MOVIES, [user(), *(user(f"o{n}", "others") for n in range(300))], {}
    )
    alive: list[weakref.ref[User]] = []
    most = 0
    users = dataset.users

    def watched(split: Split | None = None) -> Any:
        nonlocal most
        for one in users(split):
            alive.append(weakref.ref(one))
            yield one
            gc.collect(0)
            most = max(most, sum(ref() is not None for ref in alive))

    monkeypatch.setattr(dataset, "users", watched)
    audit(dataset)
    assert len(alive) == 302
    assert most <= 2


@pytest.fixture
def leaky(tmp_path: Path) -> Dataset:
    history = (item("[red]a[/]", LONG),)
    queries = tuple(query(f"q{n}", LONG, sees=1) for n in range(5))
    return write_dataset(
        tmp_path / "leaky", MOVIES, [user("[bold]\x1b[31m", history=history, queries=queries)], {}
    )


def test_the_command_shows_counts_and_examples(leaky: Dataset, tmp_path: Path) -> None:
    arguments = ["audit", str(leaky.path), "--examples", "2", "--json", str(tmp_path / "a.json")]
    result = CliRunner(env={"COLUMNS": "120", "NO_COLOR": "1"}).invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "query_in_own_history" in result.output
    assert "5 test queries" in result.output
    assert result.output.count("A ship is lost") == 2
    assert "[bold]" in result.output  # ids are data, not markup
    assert "\x1b[31m" not in result.output  # nor orders to the terminal
    written = json.loads((tmp_path / "a.json").read_text())
    assert written["findings"][0]["name"] == "query_in_own_history"
    assert len(written["findings"][0]["examples"]) == 2


def test_strict_fails_on_errors_and_warnings_alone(leaky: Dataset, tmp_path: Path) -> None:
    run = CliRunner().invoke
    assert run(app, ["audit", str(leaky.path), "--strict"]).exit_code == 1
    clean = write_dataset(tmp_path / "clean", MOVIES, [user()], {})
    result = run(app, ["audit", str(clean.path), "--strict"])
    assert (result.exit_code, "No findings" in result.output) == (0, True)
    twice = write_dataset(tmp_path / "twice", MOVIES, [user(history=(item("a", "x"), item("b", "x")))], {})
    result = run(app, ["audit", str(twice.path), "--strict"])
    assert (result.exit_code, "text_repeated" in result.output) == (0, True)


def test_every_kind_says_what_it_means_and_what_to_do() -> None:
    for kind in KINDS.values():
        assert kind.meaning.endswith(".")
        assert kind.advice.endswith(".")


def test_unlike_offsets_are_held_against_each_other_as_instants(find: Find) -> None:
    times = ("2024-05-01T23:00:00-05:00", "2024-05-02T01:00:00+00:00", "2024-05-02T08:00:00+09:00")
    reversed_in_time = tuple(item(f"i{n}", date=time) for n, time in enumerate(times))
    only(find(user(history=reversed_in_time)), "history_unsorted")
    assert not find(user(history=reversed_in_time[::-1]))


@pytest.mark.parametrize("date", ["2024-02-31", "2024-13-45", "2024-05-02Tlunch", "9999-12-31"])
def test_impossible_dates_are_found_in_histories_and_queries(find: Find, date: str) -> None:
    only(find(user(history=(item("a", date="2019-01-01"), item("b", date=date)))), "date_implausible")
    asked = dataclasses.replace(query("q"), date=date)
    assert "date_implausible" in find(user(queries=(asked,)))


def test_a_query_that_sees_the_future_is_found(find: Find) -> None:
    history = (item("a", date="2024-05-01"), item("b", date="2024-05-03T10:00:00+00:00"))

    def asked(date: str, sees: int) -> dict[str, Finding]:
        return find(user(history=history, queries=(dataclasses.replace(query("q", sees=sees), date=date),)))

    found = only(asked("2024-05-02T09:00:00+00:00", 2), "query_before_history")
    assert found.severity == "error"
    assert not asked("2024-05-02T09:00:00+00:00", 1)
    assert not asked("2024-05-03", 2)  # the same day


def test_leaks_are_found_in_scripts_without_spaces(find: Find) -> None:
    text = "市政府今天宣布新桥将于下周一上午九点正式通车"
    history = (item("a", "工厂和面包发生了变化"), item("b", text))
    only(find(user(history=history, queries=(query("q", f"{text}。"),))), "query_in_own_history")
    only(find(user(history=history, queries=(query("q", text[:-1]),))), "query_near_own_history")


def test_labels_are_known_in_every_form(find: Find) -> None:
    odd = (item("a", tag="true\u00a0story"), item("b", tag=" comedy "))
    assert not find(user(history=odd, queries=(query("q", gold="dark  comedy"),)))


def test_a_rating_that_is_no_number_is_an_error(find: Find) -> None:
    stars = TASKS["lamp_3"]

    def review(name: str, score: str) -> HistoryItem:
        return HistoryItem(name, {"text": f"Review {name}.", "score": score})

    def rated(gold: str) -> User:
        return User(
            "u", "test", (review("a", "5"), review("b", "5.0")), (Query("q", {"text": "new"}, gold, 2),)
        )

    found = find(rated("five"), task=stars, harmless=False)
    assert found["gold_no_number"].severity == "error"
    assert "gold_no_number" not in find(rated("4.0"), task=stars, harmless=False)
