"""The page in a real browser: what a visitor sees, and what nobody else may."""

from collections.abc import Callable, Mapping

import gradio as gr
import pytest
from browser_pages import CUT_TEXT, EVIL, FAINT_TEXT, Served, Visitor, squeezed
from oppu_core.runs.asking import asked_query
from oppu_core.runs.run import Run
from oppu_demo.launch import launch
from oppu_demo.prepare import CHANGE_SECONDS, RELOAD, TITLE, Status, waiting_page
from playwright.sync_api import Browser, expect


def predicted(run: Run, task: str, user: str, query: str) -> dict[str, str]:
    """What `oppu answer` wrote, by method."""
    return {method: squeezed(run.predictions(task, method)[user, query]) for method in run.config.methods}


# How it looks


@pytest.mark.parametrize(("width", "theme"), [(1280, "dark"), (390, "light")])  # no size depends on a color
def test_every_tab_fits_has_names_and_can_be_read(
    visit: Callable[..., Visitor], width: int, theme: str
) -> None:
    visitor = visit(width, theme)
    page = visitor.page
    assert page.evaluate("document.body.classList.contains('dark')") == (theme == "dark")
    assert visitor.people() and visitor.answers()
    visitor.looks()
    visitor.compare()
    visitor.box("Show the person").check()
    expect(page.locator(".oppu-chip").first).to_be_visible()
    for summary in page.locator(".oppu-card").last.locator("summary").all():
        summary.click()
    visitor.looks()
    visitor.tab("Person")
    expect(page.get_by_text("What they answer")).to_be_visible()
    visitor.looks()
    visitor.tab("Your history")
    visitor.looks()
    visitor.paste("A cat. => comedy\nA ship.\n" + "x" * 300 + " => action")
    expect(page.get_by_text("2 items to learn from; 1 line cannot be used.")).to_be_visible()
    visitor.looks()
    visitor.paste("A cat. => comedy\n" * 2001)
    expect(page.get_by_role("alert")).to_contain_text("more than 2,000 items")
    visitor.looks()
    visitor.tab("Scores")
    expect(page.get_by_text("What the adapter changes for each person")).to_be_visible()
    visitor.looks()
    visitor.tab("Compare")
    page.get_by_role("button", name="How it works").click()
    expect(page.get_by_role("img", name="How a personal answer is made")).to_be_visible()
    visitor.looks()


def test_what_is_wrong_with_the_looks_is_seen(visit: Callable[..., Visitor]) -> None:
    """The judge of the test before, on a page that is bad."""
    page = (visitor := visit()).page
    page.evaluate("document.querySelector('h1').style.color = '#aaa'")
    ((text, ratio, colour, _),) = page.evaluate(FAINT_TEXT)
    assert (text, ratio, colour) == ("One model, many people", "2.32", "170,170,170")
    page.evaluate("document.querySelector('main').append(document.createElement('button'))")
    assert len(visitor.nameless()) == 1
    page.evaluate("document.querySelector('h1').style.minWidth = '1500px'")
    assert page.evaluate(CUT_TEXT) == ["One model, many people"]
    page.evaluate("document.querySelector('main').append(document.createElement('input'))")
    page.evaluate("document.querySelector('main > input').placeholder = 'a word'")
    assert len(visitor.nameless()) == 2
    with pytest.raises(AssertionError):
        visitor.looks()


def test_everything_can_be_done_by_keyboard(visit: Callable[..., Visitor]) -> None:
    page = (visitor := visit()).page
    expect(visitor.box("Person")).to_be_enabled()
    stops = []
    while "Compare" not in stops:
        page.keyboard.press("Tab")
        # The first is the tab.
        if page.evaluate("document.activeElement.role") == "tab":
            continue
        stops.append(page.evaluate("document.activeElement.ariaLabel || document.activeElement.innerText"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none", stops
        assert len(stops) < 20, stops
    # No list that was passed covers the page.
    expect(page.get_by_role("option").locator("visible=true")).to_have_count(0)
    visitor.look_away()
    page.keyboard.press("Enter")
    first = visitor.answers()
    visitor.look_away()
    page.keyboard.press("Space")
    assert visitor.answers() == first
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(page.locator(".oppu-gold")).to_be_visible()


# Compare


def test_the_first_view_is_filled_with_people_who_answer_differently(
    visit: Callable[..., Visitor], served: Served, finished: Run
) -> None:
    page = (visitor := visit()).page
    engine = served.page.engine
    told = served.page.telling("lamp_2m")
    for _, user_id, query_id in (("lamp_2m", *told), served.page.several.after("lamp_2m", *told)):
        asker = engine.users("lamp_2m")[user_id]
        query = next(query for query in asker.queries if query.id == query_id)
        (alone, generic), *people = visitor.people()
        assert (alone, generic) == (
            "The model alone", predicted(finished, "lamp_2m", user_id, query_id)["non_personalized"]
        )  # fmt: skip
        assert people[0] == (
            f"Person {user_id}", predicted(finished, "lamp_2m", user_id, query_id)["oppu_k0"]
        )  # fmt: skip
        assert len(people) == len(engine.users("lamp_2m")) == 3
        for whose, answer in people[1:]:
            other = engine.users("lamp_2m")[whose.removeprefix("Person ")]
            asked = asked_query(other, query.fields)
            assert answer == squeezed(engine.answer("lamp_2m", "oppu_k0", other, asked).text)
        expect(page.locator(".oppu-people h2")).to_have_text(served.page.task("lamp_2m").question)
        expect(page.locator(".oppu-said")).to_have_text(squeezed(query.fields["description"]))
        # Below, the methods for whose question it is, without anything pressed.
        expect(visitor.box("Person")).to_have_value(
            dict(map(reversed, served.page.people("lamp_2m", None)))[user_id]
        )
        assert visitor.answers() == predicted(finished, "lamp_2m", user_id, query_id)
        visitor.look_away()
        page.evaluate("document.querySelector('.oppu-people').setAttribute('data-old', '')")
        visitor.button("Another question").click()


def test_on_a_phone_the_answers_come_into_view(visit: Callable[..., Visitor]) -> None:
    visitor = visit(390)
    visitor.answers()
    expect(visitor.page.locator("#oppu-result .oppu-asked")).not_to_be_in_viewport()
    visitor.compare()
    expect(visitor.page.locator("#oppu-result .oppu-asked")).to_be_in_viewport()


def test_the_first_look_shows_what_is_personal(
    visit: Callable[..., Visitor], served: Served, finished: Run
) -> None:
    page = (visitor := visit()).page
    user, query = served.page.telling("lamp_2m")
    answers = visitor.answers()
    assert answers == predicted(finished, "lamp_2m", user, query)
    assert answers["oppu_k0"] != answers["non_personalized"]
    expect(page.locator("[data-method=oppu_k0] .oppu-answer mark")).to_be_visible()
    expect(page.locator("[data-method=non_personalized] mark")).to_have_count(0)


def test_answers_are_those_of_oppu_answer_and_gold_waits(
    visit: Callable[..., Visitor], served: Served, finished: Run
) -> None:
    page = (visitor := visit()).page
    visitor.answers()
    visitor.look_away()
    visitor.choose("Person", "test-002")
    visitor.answers()  # to the question of before
    user = served.page.engine.users("lamp_2m")["test-002"]
    query = user.queries[1]
    (label,) = [label for label, name in served.page.queries("lamp_2m", user) if name == query.id]
    expect(visitor.box("Which question")).not_to_have_value(label)
    visitor.choose("Which question", label)
    answers = visitor.compare()
    assert answers == predicted(finished, "lamp_2m", "test-002", query.id)
    assert query.gold is not None
    expect(page.locator(".oppu-question")).to_contain_text(squeezed(query.fields["description"]))
    expect(page.locator(".oppu-gold, .oppu-chip")).to_have_count(0)
    visitor.box("Show the person").check()
    expect(page.locator(".oppu-gold")).to_contain_text(query.gold)
    for method, answer in answers.items():
        verdict = "right" if answer == query.gold else "wrong"
        expect(page.locator(f"[data-method={method}] .oppu-chip")).to_have_text(verdict)
    visitor.box("Show the person").uncheck()
    expect(page.locator(".oppu-gold, .oppu-chip")).to_have_count(0)
    card = page.locator("[data-method=oppu_rag_k1]")
    expect(card.locator("pre")).not_to_be_visible()
    card.get_by_text("The exact prompt").click()
    prompt = served.page.engine.answer("lamp_2m", "oppu_rag_k1", user, query).prompt
    assert squeezed(card.locator("pre").inner_text()) == squeezed(prompt.text)
    card.get_by_text("Retrieved items (1)").click()
    expect(card.locator("li")).to_contain_text(squeezed(prompt.retrieved[0].fields["description"]))


def test_another_task_has_other_people_and_scores(
    visit: Callable[..., Visitor], served: Served, finished: Run
) -> None:
    page = (visitor := visit()).page
    visitor.choose("Task", "headlines")
    user, query = served.page.telling("lamp_4")
    expect(visitor.box("Person")).to_have_value(dict(map(reversed, served.page.people("lamp_4", None)))[user])
    assert len(visitor.options("Person")) == 2
    assert visitor.compare() == predicted(finished, "lamp_4", user, query)
    visitor.box("Show the person").check()
    expect(page.locator(".oppu-chip").first).to_contain_text("ROUGE")


def test_another_person_is_asked_the_same(visit: Callable[..., Visitor], served: Served) -> None:
    page = (visitor := visit()).page
    engine = served.page.engine
    user, query_id = served.page.telling("lamp_2m")
    query = next(query for query in engine.users("lamp_2m")[user].queries if query.id == query_id)
    other = next(person for name, person in engine.users("lamp_2m").items() if name != user)

    def answered(fields: Mapping[str, str]) -> dict[str, str]:
        """What the page has to show of the other person."""
        asked = asked_query(other, fields)
        return {
            method: squeezed(engine.answer("lamp_2m", method, other, asked).text) for method in engine.methods
        }

    label = visitor.box("Which question").input_value()
    visitor.answers()
    visitor.look_away()
    visitor.choose("Person", other.user_id)
    assert visitor.answers() == answered(query.fields)  # without anything pressed
    expect(visitor.box("Which question")).to_have_value(label)
    expect(page.locator(".oppu-question")).to_contain_text(squeezed(query.fields["description"]))

    visitor.ask("description", "A dragon sleeps.")
    for person in (engine.users("lamp_2m")[user], other):
        visitor.choose("Person", person.user_id)
        expect(page.get_by_text(served.page.habit("lamp_2m", person)).first).to_be_visible()
    expect(visitor.box("description")).to_have_value("A dragon sleeps.")
    assert visitor.compare() == answered({"description": "A dragon sleeps."})


def test_own_words_are_answered_and_none_are_asked_for(visit: Callable[..., Visitor], served: Served) -> None:
    page = (visitor := visit()).page
    page.get_by_role("radio", name="My own words").check()
    visitor.button("Compare").click()
    expect(page.get_by_role("alert")).to_have_text("Write the description first.")
    text = f"A dragon sleeps. {EVIL}"
    answers = visitor.ask("description", text)
    assert answers.keys() == set(served.page.engine.methods) and all(answers.values())
    expect(page.locator(".oppu-question")).to_contain_text(text)
    expect(page.locator(".oppu-card pre").first).to_contain_text(text)
    expect(page.locator("#oppu-result img, #oppu-result script")).to_have_count(0)
    expect(visitor.box("Which question")).to_have_count(0)
    visitor.box("Person").click()  # to look, and go on
    page.keyboard.press("Escape")
    visitor.box("description").click()
    expect(visitor.box("description")).to_have_value(text)
    expect(page.locator(".oppu-question")).to_contain_text(text)


# The person, the scoreboard, and how it works


def test_a_click_on_the_scoreboard_opens_the_person(
    visit: Callable[..., Visitor], served: Served, finished: Run
) -> None:
    page = (visitor := visit()).page
    told, _ = served.page.telling("lamp_2m")
    other = next(user for user in served.page.engine.users("lamp_2m") if user != told)
    visitor.answers()
    visitor.look_away()
    visitor.tab("Scores")
    page.get_by_role("gridcell", name=other, exact=True).click()
    expect(page.get_by_role("tab", name="Compare", selected=True)).to_be_visible()
    label = dict(map(reversed, served.page.people("lamp_2m", None)))[other]
    expect(visitor.box("Person")).to_have_value(label)
    query = served.page.engine.users("lamp_2m")[other].queries[0]
    assert visitor.answers() == predicted(finished, "lamp_2m", other, query.id)
    visitor.tab("Person")
    expect(page.get_by_role("heading", name=other)).to_be_visible()


def test_the_search_finds_items(visit: Callable[..., Visitor], served: Served) -> None:
    page = (visitor := visit()).page
    user, _ = served.page.telling("lamp_2m")
    items = served.page.engine.users("lamp_2m")[user].training_history
    word = items[3].fields["tag"]
    found = [item for item in items if word in " ".join(item.fields.values())]
    assert 0 < len(found) < len(items)
    visitor.tab("Person")
    shown = page.locator(".oppu-items li")
    expect(shown).to_have_count(len(items))
    visitor.box("Search their history").fill(word.upper())
    expect(shown).to_have_count(len(found))
    expect(page.get_by_text(f"{len(found)} of {len(items)} items")).to_be_visible()
    visitor.box("Search their history").fill("no such word")
    expect(page.get_by_text(f"0 of {len(items)} items")).to_be_visible()


# Getting ready


def test_the_waiting_page_tells_how_far_it_is_and_gives_way(browser: Browser) -> None:
    status = Status("Training the adapters", 0.25)
    waiting = waiting_page(status)
    address = launch(
        waiting, head=RELOAD.replace(str(1000 * CHANGE_SECONDS), "100"), prevent_thread_lock=True
    )
    page = browser.new_page()
    page.goto(address)
    expect(page).to_have_title(TITLE)
    expect(page.get_by_text("25 % · Training the adapters")).to_be_visible()
    status.title, status.share = "Scoring", 0.99
    expect(page.get_by_text("99 % · Scoring")).to_be_visible()
    expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "99")
    assert page.locator("[data-ready]").count() == 0
    with page.expect_request("**/config", timeout=20_000):
        status.ready = True
    waiting.close(verbose=False)
    with gr.Blocks(title="The next page", analytics_enabled=False) as following:
        gr.HTML("<p>Here it is.</p>")
    launch(following, port=int(address.rstrip("/").rpartition(":")[2]), prevent_thread_lock=True)
    expect(page.get_by_text("Here it is.")).to_be_visible(timeout=20_000)
    page.close()
    following.close(verbose=False)
