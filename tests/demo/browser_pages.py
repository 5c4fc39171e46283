"""The demo's page as a visitor sees it, and what must hold for everything that is on the screen."""

import dataclasses
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from oppu_demo.state import Page as DemoPage
from playwright.sync_api import Locator, Page, expect

# Text that would be noticed if it ran.
EVIL = "<script>window.hacked=1</script> <img src=x onerror=window.hacked=1>"
TABS = ("Compare", "Person", "Your history", "Scores")
SECONDS = 20.0
CONTROLS = {
    "button", "checkbox", "combobox", "link", "listbox", "radio", "searchbox", "spinbutton", "tab", "textbox",
}  # fmt: skip
# Visible text whose contrast with what is behind it is under WCAG's AA: [text, ratio, colour, background].
FAINT_TEXT = """() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = colour => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const luminance = colour => {
    const [r, g, b] = colour.slice(0, 3).map(
      v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (a, b) => {
    const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  };
  // Every background that the element may stand on: a gradient has several.
  const backgrounds = element => {
    if (!element) return [[255, 255, 255, 1]];
    const style = getComputedStyle(element);
    const own = rgba(style.backgroundColor);
    const below = own[3] === 1 ? [own] : backgrounds(element.parentElement).map(each => over(own, each));
    const stops = style.backgroundImage.match(/rgba?\\([^)]*\\)/g);
    return stops ? stops.flatMap(stop => below.map(each => over(rgba(stop), each))) : below;
  };
  const faint = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const look = (element, text) => {
    const style = getComputedStyle(element), box = element.getBoundingClientRect();
    const shown = element.checkVisibility({opacityProperty: true, visibilityProperty: true});
    if (!shown || box.width < 2 || box.height < 2) return;
    if (element.closest(":disabled, [aria-disabled=true]")) return;
    const colour = rgba(element instanceof SVGElement ? style.fill : style.color);
    for (let each = element; each; each = each.parentElement) colour[3] *= getComputedStyle(each).opacity;
    const size = parseFloat(style.fontSize);
    const least = size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5;
    for (const background of backgrounds(element)) {
      const ratio = contrast(over(colour, background), background);
      if (ratio < least) {
        const colours = [colour, background].map(each => each.map(Math.round).slice(0, 3).join(","));
        faint.push([text.slice(0, 40), ratio.toFixed(2), ...colours]);
      }
    }
  };
  while (texts.nextNode()) {
    const text = texts.currentNode.textContent.trim();
    const element = texts.currentNode.parentElement;
    if (text && !element.closest("script, style, template, noscript")) look(element, text);
  }
  const boxes = "input:not([type=radio], [type=checkbox], [type=file]), textarea";
  for (const box of document.querySelectorAll(boxes)) if (box.value) look(box, box.value);
  return faint;
}"""

# Text that the screen cuts off (Gradio's frame hides what is too wide), but for what is meant to be scrolled.
CUT_TEXT = """() => [...document.querySelectorAll("body *")].filter(element => {
  const has_text = [...element.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.data.trim());
  const shown = element.checkVisibility({visibilityProperty: true});
  if (!has_text || !shown || element.closest("pre, [role=grid]")) return false;
  for (let each = element; each; each = each.parentElement)  // for screen readers alone
    if (each.getBoundingClientRect().width < 2) return false;
  const box = element.getBoundingClientRect();
  return box.right > innerWidth + 1 || box.left < -1;
}).map(element => element.textContent.trim().slice(0, 40))"""
# Transitions are over; what goes on for ever does not count.
AT_REST = """Promise.allSettled(document.getAnimations()
  .filter(each => each.effect.getTiming().iterations !== Infinity).map(each => each.finished))"""


@dataclasses.dataclass(frozen=True)
class Served:
    """A page that is served; `cache` is where Gradio puts files."""

    page: DemoPage
    address: str
    cache: Path


class Visitor:
    """Somebody with a browser.

    Args:
        page: Their page.
        address: Where the demo is served.
        theme: ``light`` or ``dark``.
    """

    def __init__(self, page: Page, address: str, theme: str = "light") -> None:
        self.page = page
        self.errors: list[str] = []
        self.requests: list[str] = []
        page.set_default_timeout(1000 * SECONDS)
        page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(f"{address}?__theme={theme}")
        page.get_by_role("tab", name=TABS[0]).wait_for()

    def tab(self, name: str) -> None:
        """Turn to a tab; none is in a menu, on a narrow screen either."""
        self.page.get_by_role("tab", name=name, exact=True).click()
        expect(self.page.get_by_role("tab", name=name, selected=True)).to_be_visible()

    def box(self, label: str) -> Locator:
        """A control that can be seen, by how its label begins."""
        return (
            self.page.locator("input, textarea")
            .and_(self.page.get_by_label(re.compile(rf"^\s*{re.escape(label)}")))
            .locator("visible=true")
        )

    def button(self, name: str) -> Locator:
        """A button."""
        return self.page.get_by_role("button", name=name, exact=True)

    def options(self, label: str) -> list[str]:
        """What a dropdown offers."""
        self.box(label).click()
        options = self.page.get_by_role("option")
        options.first.wait_for()
        texts = [text.strip().removeprefix("✓").strip() for text in options.all_inner_texts()]
        self.page.keyboard.press("Escape")
        return texts

    def choose(self, label: str, option: str) -> None:
        """Choose from a dropdown by a part of the option's text, typed."""
        box = self.box(label)
        box.click()
        box.fill(option)
        self.page.get_by_role("option").filter(has_text=option).first.click()

    def paste(self, text: str) -> None:
        """Put items into the box, at once (a key for each character takes a browser long)."""
        put = "(box, text) => { box.value = text; box.dispatchEvent(new Event('input', {bubbles: true})); }"
        self.box("Your items").evaluate(put, text)

    def compare(self) -> dict[str, str]:
        """Press Compare; every method's answer."""
        self.look_away()
        self.button("Compare").click()
        return self.answers()

    def look_away(self) -> None:
        """Let :meth:`answers` wait for others than those that are there."""
        self.page.evaluate("document.querySelector('.oppu-compare')?.setAttribute('data-old', '')")

    def people(self) -> list[tuple[str, str]]:
        """The first view: whose model answers what, once all have answered; the model alone comes first."""
        self.page.wait_for_function(
            """() => {
              const view = document.querySelector(".oppu-people:not([data-old])");
              return view && !view.querySelector(".oppu-waiting");
            }"""
        )
        found = self.page.locator(".oppu-voice").evaluate_all(
            "all => all.map(each => [each.querySelector('h3'), each.querySelector('.oppu-answer')]"
            ".map(part => part.innerText))"
        )
        return [(whose, squeezed(answer)) for whose, answer in found]

    def answers(self) -> dict[str, str]:
        """Every method's answer, once all are there."""
        found = self.page.wait_for_function(
            """() => {
              const view = document.querySelector(".oppu-compare:not([data-old])");
              const cards = [...view?.querySelectorAll(".oppu-card") ?? []];
              if (!cards.length || view.querySelector(".oppu-waiting")) return null;
              return cards.map(card => [card.dataset.method, card.querySelector('.oppu-answer')?.innerText]);
            }"""
        ).json_value()
        return {method: squeezed(answer) for method, answer in found}

    def ask(self, field: str, text: str) -> dict[str, str]:
        """Ask in one's own words; every method's answer."""
        self.page.get_by_role("radio", name="My own words").check()
        self.box(field).fill(text)
        return self.compare()

    def train(self) -> None:
        """Press Train, and wait until the adapter is ready."""
        self.button("Train my adapter").click()
        expect(self.page.get_by_text("Your adapter is ready.")).to_be_visible(timeout=60_000)

    def nameless(self) -> list[str]:
        """The controls that a screen reader has no name for, as Chromium computes it."""
        # What stands in an empty box is no name: it goes when somebody types.
        self.page.locator("[placeholder]").evaluate_all("boxes => boxes.forEach(box => box.placeholder = '')")
        session = self.page.context.new_cdp_session(self.page)
        nodes: list[dict[str, Any]] = session.send("Accessibility.getFullAXTree")["nodes"]
        session.detach()
        return [
            f"{node['role']['value']} {node.get('properties')}"
            for node in nodes
            if not node["ignored"]
            and node["role"]["value"] in CONTROLS
            and not node.get("name", {}).get("value", "").strip()
        ]

    def looks(self) -> None:
        """Assert what must hold for whatever is on the screen."""
        self.page.evaluate(AT_REST)
        assert self.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        assert self.page.evaluate(CUT_TEXT) == []
        assert self.nameless() == []
        assert self.page.evaluate(FAINT_TEXT) == []


def squeezed(text: str) -> str:
    """Text as HTML shows it: all white space is one space."""
    return " ".join(text.split())


def eventually(what: Callable[[], object]) -> None:
    """Assert that something comes true."""
    until = time.monotonic() + SECONDS
    while not what():
        assert time.monotonic() < until
        time.sleep(0.05)


def files(folder: Path) -> list[str]:
    """All files under a folder that hold something (Gradio leaves empty ones)."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]
    return sorted(str(path.relative_to(folder)) for path in found)
