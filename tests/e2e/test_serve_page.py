"""The service's page in a real browser."""

import base64
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Request, Route, expect

from tests.browser import browser, needs_chromium, violations
from tests.fakes import picture_bytes
from tests.serving import Served, make_shop, served

__all__ = ["browser"]  # a fixture

LOOKS = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]

pytestmark = needs_chromium

DROP = """([base64, name]) => {
  const bytes = Uint8Array.from(atob(base64), (each) => each.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type: "image/png" }));
  const options = { dataTransfer: transfer, bubbles: true, cancelable: true };
  const box = document.getElementById("drop");
  box.dispatchEvent(new DragEvent("dragover", options));
  box.dispatchEvent(new DragEvent("drop", options));
}"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Iterator[Served]:
    with served(make_shop(tmp_path_factory.mktemp("shop"), small_model)) as found:
        yield found


class Visit:
    """A page that is looked at, and what went wrong meanwhile."""

    def __init__(self, browser: Browser, service: Served, width: int, scheme: str) -> None:
        self.problems: list[str] = []
        self._host = urlsplit(service.address).netloc
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
        )
        self.page = context.new_page()
        self.page.on("console", lambda message: self._note(message.type, message.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.route("**/*", self._only_here)
        self.page.goto(service.address)

    def _note(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.problems.append(text)

    def _only_here(self, route: Route, request: Request) -> None:
        url = urlsplit(request.url)
        if url.scheme in ("blob", "data") or url.netloc == self._host:
            route.continue_()
        else:
            self.problems.append(f"asked {request.url}")
            route.abort()

    def close(self) -> None:
        self.page.context.close()
        assert not self.problems


def ask(page: Page) -> None:
    """Drop a picture, type a title, and send both by the keyboard."""
    picture = base64.b64encode(picture_bytes((90, 7, 90))).decode()
    page.evaluate(DROP, [picture, "boots.png"])
    page.get_by_label("Title").fill("thing 3 in 2")
    page.keyboard.press("Enter")
    expect(page.locator("#shelves > li")).to_have_count(5)
    expect(page.locator(".neighbors")).to_have_count(5)


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_a_picture_and_a_title_give_five_shelves_with_their_neighbors(
    browser: Browser, service: Served, tmp_path: Path, width: int, scheme: str
) -> None:
    """On a desk and on a phone, light and dark; nothing is asked of another host."""
    visit = Visit(browser, service, width, scheme)
    page = visit.page
    assert violations(page) == []
    ask(page)
    expect(page.get_by_alt_text("Your picture: boots.png")).to_be_visible()
    expect(page.get_by_role("status")).to_have_text("5 shelves found.")
    expect(page.get_by_role("heading", name="Shelves")).to_be_focused()
    shelves = page.locator("#shelves > li")
    shares = [
        float(each.removesuffix(" %")) for each in page.locator(".shelf span").all_inner_texts()
    ]
    assert shares == sorted(shares, reverse=True)
    bars = page.locator(".bar div")
    first, whole = (each.bounding_box() for each in (bars.first, page.locator(".bar").first))
    assert first["width"] / whole["width"] == pytest.approx(shares[0] / 100, abs=0.01)
    for number in range(5):
        beside = shelves.nth(number).get_by_role("list").get_by_role("listitem")
        expect(beside).to_have_count(3)
    assert violations(page) == []
    is_too_wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    assert not page.evaluate(is_too_wide)
    page.screenshot(path=tmp_path / f"{width}-{scheme}.png", full_page=True)
    visit.close()


def test_the_page_is_used_by_the_keyboard_alone(browser: Browser, service: Served) -> None:
    """Every control is reached in the order in which it is read."""
    visit = Visit(browser, service, 1280, "light")
    page = visit.page
    order = []
    for _ in range(3):
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.id"))
    assert order == ["image", "title", "ask"]
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text("Give a picture or a title first.")
    expect(page.get_by_label("Title")).to_be_focused()
    visit.close()


def test_a_picture_that_cannot_be_used_is_said_to_be(
    browser: Browser, service: Served, tmp_path: Path
) -> None:
    """In words; and what was shown before does not stay as if it were the answer."""
    (tmp_path / "note.png").write_bytes(b"<script>alert(1)</script>")
    visit = Visit(browser, service, 390, "light")
    page = visit.page
    page.get_by_label("Picture").set_input_files(tmp_path / "note.png")
    page.get_by_role("button", name="Find shelves").click()
    expect(page.get_by_role("status")).to_contain_text("not a picture")
    expect(page.locator("#result")).to_be_hidden()
    page.get_by_label("Title").fill("<img src=x onerror=alert(1)> thing 1")
    page.keyboard.press("Enter")
    expect(page.locator("#shelves > li")).to_have_count(5)
    expect(page.get_by_role("status")).to_contain_text("Left out: image: not a picture")
    page.get_by_role("button", name="Remove the picture").click()
    expect(page.locator("#preview")).to_be_hidden()
    # The browser itself notes the status 422 of a request on the console.
    visit.problems = [each for each in visit.problems if "422" not in each]
    visit.close()
