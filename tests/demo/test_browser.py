"""The page in a real browser: what a visitor sees, and what nobody else may."""

import io
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import gradio as gr
import pytest
from browser_pages import CUT_TEXT, FAINT_TEXT, Served, Visitor, eventually, files, squeezed
from oppu_core.ownership.bundle import NAMES
from oppu_core.runs.asking import asked_query
from oppu_core.runs.run import Run
from oppu_demo.launch import launch
from oppu_demo.prepare import CHANGE_SECONDS, RELOAD, TITLE, Status, waiting_page
from playwright.sync_api import Browser, expect, sync_playwright

EVIL = "<script>window.hacked=1</script> <img src=x onerror=window.hacked=1>"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None and not os.environ.get("CI"):
    pytest.skip("There is no Chromium here; install Debian's package chromium.", allow_module_level=True)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium."""
    assert CHROMIUM, "The tests of the page need Debian's package chromium."
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def visit(browser: Browser, served: Served) -> Iterator[Callable[..., Visitor]]:
    """Come to the page, each time as somebody else. At the end nobody met an error or another server."""
    visitors: list[Visitor] = []

    def come(width: int = 1280, theme: str = "light") -> Visitor:
        context = browser.new_context(viewport={"width": width, "height": 844}, accept_downloads=True)
        visitors.append(Visitor(context.new_page(), served.address, theme))
        return visitors[-1]

    yield come
    for visitor in visitors:
        hacked = None if visitor.page.is_closed() else visitor.page.evaluate("window.hacked")
        visitor.page.context.close()
        assert hacked is None
        assert visitor.errors == []
        elsewhere = [
            url for url in visitor.requests if not url.startswith((served.address, "data:", "blob:"))
        ]
        assert elsewhere == []


def predicted(run: Run, task: str, user: str, query: str) -> dict[str, str]:
    """What `oppu answer` wrote, by method."""
    return {method: squeezed(run.predictions(task, method)[user, query]) for method in run.config.methods}


# How it looks


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
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


# One's own history


def test_an_own_adapter_from_the_first_item_to_forget_me(
    visit: Callable[..., Visitor], served: Served
) -> None:
    visitor, other = visit(), visit()
    page, root = visitor.page, served.page.sessions.root
    visitor.tab("Your history")
    expect(visitor.button("Forget me")).to_have_count(0)
    visitor.button("Fill in an example").click()
    expect(page.get_by_text("24 items to learn from.")).to_be_visible()
    visitor.button("Train my adapter").click()
    expect(page.get_by_role("progressbar", name="training")).to_be_visible()
    expect(page.get_by_text("Your adapter is ready.")).to_be_visible(timeout=60_000)
    expect(visitor.button("Cancel")).to_be_disabled()

    with page.expect_download() as downloading:
        page.get_by_role("link", name="Download it").or_(visitor.button("Download it")).first.click()
    assert downloading.value.suggested_filename == "my-adapter-base.zip"
    archive = zipfile.ZipFile(io.BytesIO(Path(downloading.value.path()).read_bytes()))
    assert archive.testzip() is None and set(archive.namelist()) == set(NAMES) and len(NAMES) == 6
    visitor.choose("Adapter", "OPPU + 1 similar item")
    eventually(lambda: any("my-adapter-rag_k1.zip" in file for file in files(root)))

    visitor.button("Compare yourself with the model alone").click()
    expect(page.get_by_role("tab", name="Compare", selected=True)).to_be_visible()
    expect(visitor.box("Person")).to_have_value("You")
    assert visitor.answers().keys() == set(served.page.engine.methods)
    questions = [
        query.fields["description"]
        for user in served.page.engine.users("lamp_2m").values()
        for query in user.queries
    ]
    differs = (answers for text in questions if (answers := visitor.ask("description", text)))
    assert any(each["oppu_k0"] != each["non_personalized"] for each in differs)
    assert visitor.options("Person")[0] == "You"
    visitor.tab("Person")
    expect(page.get_by_text("24 history items")).to_be_visible()
    expect(page.locator(".oppu-adapter svg").first).to_be_visible()

    # Somebody else has none of it.
    assert not [name for name in other.options("Person") if "You" in name]
    other.tab("Your history")
    expect(other.box("Your items")).to_have_value("")
    expect(other.page.get_by_text("Download it").locator("visible=true")).to_have_count(0)

    visitor.tab("Your history")
    assert files(root)
    visitor.button("Forget me").click()
    expect(page.get_by_text("gone from memory and disk")).to_be_visible()
    expect(visitor.box("Your items")).to_have_value("")
    expect(visitor.button("Forget me")).to_have_count(0)
    expect(page.get_by_text("Download it").locator("visible=true")).to_have_count(0)
    assert files(root) == files(served.cache) == []
    visitor.tab("Compare")
    expect(visitor.box("Person")).not_to_have_value("You")
    assert not [name for name in visitor.options("Person") if "You" in name]


def test_a_training_can_be_cancelled_and_begun_anew(visit: Callable[..., Visitor], served: Served) -> None:
    page = (visitor := visit()).page
    visitor.tab("Your history")
    visitor.paste("A dragon sleeps under the castle. => fantasy\n" * 2000)
    expect(page.get_by_text("2,000 items to learn from.")).to_be_visible()
    visitor.button("Train my adapter").click()
    expect(page.get_by_role("progressbar", name="training")).to_be_visible()
    visitor.button("Cancel").click()
    expect(page.get_by_role("alert")).to_have_text("The training was cancelled; nothing of it was kept.")
    expect(visitor.button("Cancel")).to_be_disabled()
    visitor.paste("A dragon sleeps under the castle. => fantasy\n" * 2)
    expect(page.get_by_text("2 items to learn from.")).to_be_visible()
    visitor.train()


def test_hostile_items_are_text(visit: Callable[..., Visitor], served: Served) -> None:
    page = (visitor := visit()).page
    visitor.tab("Your history")
    visitor.choose("What for", "headlines")
    left, right = EVIL.split(" ", 1)
    visitor.paste(f"{left} => {right}\n" * 3)
    expect(page.get_by_text("3 items to learn from.")).to_be_visible()
    expect(page.locator("#oppu-preview")).to_contain_text(right)
    expect(page.locator("#oppu-preview img, #oppu-preview script")).to_have_count(0)
    visitor.train()
    visitor.tab("Compare")
    expect(visitor.box("Person")).to_have_value("You")
    visitor.ask(served.page.task("lamp_4").long_field, EVIL)
    expect(page.locator("[data-method=rag_k1] pre")).to_contain_text(right)
    visitor.tab("Person")
    expect(page.locator(".oppu-items").locator("visible=true").first).to_contain_text(right)
    expect(page.locator(".oppu-view img, .oppu-items img")).to_have_count(0)


def test_what_is_no_history_is_said_and_not_kept(visit: Callable[..., Visitor], served: Served) -> None:
    page = (visitor := visit()).page
    visitor.tab("Your history")
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.csv", b"\0" * 10**7)
    for name, content, problem in (
        ("bomb.zip", zipped.getvalue(), "is a zip file or spreadsheet, which is not unpacked"),
        ("../../x.csv", b"\x89PNG\r\n\x1a\n\0\0", "is no UTF-8 text"),
        ("<img src=x onerror=window.hacked=1>.csv", b"a,b\n1,2\n", "no header line with the columns"),
    ):
        page.locator("input[type=file]").set_input_files(
            {"name": name, "mimeType": "application/octet-stream", "buffer": content}
        )
        expect(page.locator("#oppu-preview")).to_contain_text(problem)
    page.locator("input[type=file]").set_input_files(
        {"name": "mine.csv", "mimeType": "text/csv", "buffer": b"description,tag\nA cat.,comedy\n"}
    )
    expect(page.get_by_text("1 item to learn from.")).to_be_visible()
    expect(visitor.box("Your items")).to_have_value("description,tag\nA cat.,comedy\n")
    visitor.paste("A cat. => comedy\n" * 2001)
    expect(page.get_by_role("alert")).to_contain_text("The text has more than 2,000 items")
    visitor.button("Train my adapter").click()
    expect(page.locator("#oppu-training").get_by_role("alert")).to_contain_text("more than 2,000 items")
    assert files(served.cache) == []


def test_whoever_leaves_leaves_nothing(visit: Callable[..., Visitor], served: Served) -> None:
    visitor, root = visit(), served.page.sessions.root
    visitor.tab("Your history")
    visitor.paste("A dragon sleeps under the castle. => fantasy\n" * 2)
    expect(visitor.page.get_by_text("2 items to learn from.")).to_be_visible()
    before = set(root.iterdir())
    visitor.train()
    assert files(root) and before <= set(root.iterdir())
    visitor.page.close()
    eventually(lambda: files(root) == [])
    assert files(served.cache) == []


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
