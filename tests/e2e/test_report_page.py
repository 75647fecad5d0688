"""The report in a real browser: opened from disk, used as a person does."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from playwright.sync_api import Browser, Page

import cli
from pipeline.demo.catalog import write_catalog
from tests.browser import browser, needs_chromium, violations

__all__ = ["browser"]  # a fixture

NUM_ITEMS = 700

pytestmark = [needs_chromium, pytest.mark.timeout(300)]


def run(*arguments: str) -> None:
    done = CliRunner().invoke(cli.main, arguments)
    assert done.exit_code == 0, done.output


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the report of a small demo catalog."""
    folder = tmp_path_factory.mktemp("report")
    write_catalog(folder / "catalog", num_items=NUM_ITEMS, seed=3)
    workspace = ("--workspace", str(folder / "workspace"))
    catalog = [
        *("--items", str(folder / "catalog" / "items.parquet")),
        *("--labels", str(folder / "catalog" / "labels.csv")),
    ]
    run("plan", *catalog, "--model", "shelfwise-tiny", "--label-text", "path", *workspace)
    run("embed", "--all", *workspace)
    run("neighbors", *workspace)
    run("compare", "--approaches", "1,4", "--seeds", "1", "--epochs", "3", *workspace)
    run("report", *workspace)
    return folder / "workspace" / "report" / "index.html"


@pytest.fixture(params=[(1280, "light"), (390, "dark")], ids=str)
def page(request: pytest.FixtureRequest, browser: Browser, report: Path) -> Iterator[Page]:
    """Open the report; nothing may be asked of a network, nothing may be complained about."""
    width, scheme = request.param
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request",
        lambda request: (
            None if request.url.startswith(("file:", "data:")) else complaints.append(request.url)
        ),
    )
    page.goto(report.as_uri())
    yield page
    page.close()
    assert complaints == []


def test_a_category_is_found_and_shown(page: Page) -> None:
    page.get_by_label("Search by name or path").fill("rain boots")
    assert page.locator("#category-count").inner_text() == "1 category"
    page.get_by_role("button", name="Shoes > Boots > Rain Boots").first.click()
    shown = page.locator("#category")
    assert shown.get_by_role("heading", name="Shoes > Boots > Rain Boots").is_visible()
    neighbors = shown.locator("ol").last.locator("li")
    assert neighbors.count() == 20
    first = neighbors.first.get_by_role("button")
    other = first.inner_text()
    first.click()
    assert shown.get_by_role("heading", name=other, exact=True).is_visible()


def test_the_tree_opens_down_to_a_category(page: Page) -> None:
    top = page.locator("#tree > li > details").first
    top.locator("summary").first.click()
    top.locator("details summary").first.click()
    button = top.locator("details li button").first
    name = button.inner_text()
    button.click()
    assert page.locator("#category h3").first.inner_text().endswith(f" > {name}")


def test_mistakes_are_filtered_and_the_counts_follow(page: Page) -> None:
    def total() -> int:
        return int(page.locator("#mistake-count").inner_text().split()[0].replace(",", ""))

    everything = total()
    branches = page.locator("#filters select[name=branch]")
    names = branches.locator("option").all_inner_texts()[1:]
    counts = []
    for name in names:
        branches.select_option(name)
        counts.append(total())
    assert sum(counts) == everything > 0
    branches.select_option("")
    page.locator("#filters select[name=confidence]").select_option("800")
    assert total() < everything
    page.locator("#filters select[name=confidence]").select_option("0")
    page.locator("#filters select[name=run]").select_option("1")
    shown = json.loads(page.locator("#data").text_content() or "")["mistakes"]
    answers = [top[0] for top in shown["runs"][1]["top"]]
    assert total() == sum(a != b for a, b in zip(answers, shown["label"], strict=True))
    page.locator("#filters input[name=words]").fill("no title has these words")
    assert total() == 0
    assert page.locator("#far li").count() == 0


def test_an_item_is_seen_under_two_approaches(page: Page, report: Path) -> None:
    """What stands in the dialog is what the runs' predictions say."""
    card = page.locator("#far > li").first
    card.get_by_role("button").click()
    dialog = page.get_by_role("dialog")
    data = json.loads(page.locator("#data").text_content() or "")
    for side, run in (("left", 0), ("right", 1)):
        bars = dialog.locator(f"#pair-{side}-top li")
        assert bars.count() == 5
        item = data["mistakes"]["title"].index(dialog.locator("h2").inner_text())
        shown = bars.first.inner_text()
        label = data["mistakes"]["runs"][run]["top"][item][0]
        assert data["categories"]["path"][label] in shown
        thousandths = data["mistakes"]["runs"][run]["thousandths"][item][0]
        assert f"{thousandths / 10:.1f}%" in shown
    page.keyboard.press("Escape")
    assert not dialog.is_visible()


def test_there_is_no_serious_accessibility_fault(page: Page) -> None:
    """By axe-core, with a category and the dialog open."""
    page.get_by_label("Search by name or path").fill("boots")
    page.locator("#category-results button").first.click()
    assert violations(page) == []
    page.locator("#far > li button").first.click()
    assert violations(page) == []


def test_nothing_is_wider_than_the_screen(page: Page) -> None:
    wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert wide <= 0
