"""One's own history in a real browser: from the first item to *Forget me*."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

from browser_pages import EVIL, Served, Visitor, eventually, files
from oppu_core.ownership.bundle import NAMES
from playwright.sync_api import expect


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
