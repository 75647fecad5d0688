"""Take the README's pictures of the report from the demo's workspace, by Debian's Chromium.

    python benchmarks/screenshots.py [--workspace demo-workspace]

Writes docs/report.png.
"""

import argparse
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).parents[1]
CHROMIUM = "/usr/bin/chromium"
SIZE = {"width": 1100, "height": 900}


def main() -> None:
    """Open the pages and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", type=Path, default=ROOT / "demo-workspace")
    options = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        take_report(browser, options.workspace / "report" / "index.html")
        browser.close()


def take_report(browser: Browser, page_file: Path) -> None:
    """Show far misses of approach 4, the most sure first."""
    page = browser.new_page(viewport=SIZE, color_scheme="light")
    page.goto(page_file.resolve().as_uri())
    page.locator("#filters select[name=run]").select_option("3")
    page.evaluate("document.getElementById('mistakes').scrollIntoView()")
    page.wait_for_timeout(1000)  # images are decoded when they come into view
    page.screenshot(path=ROOT / "docs" / "report.png")
    page.close()


if __name__ == "__main__":
    main()
