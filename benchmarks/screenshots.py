"""Take the README's pictures of report and service from the demo's workspace, by Debian's Chromium.

    python benchmarks/screenshots.py [--workspace demo-workspace]

Writes docs/report.png and docs/serve.png.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).parents[1]
CHROMIUM = "/usr/bin/chromium"
SIZE = {"width": 1100, "height": 900}
PICTURE, TITLE = "000/item-0000330.jpg", "Stridewell Riding Boot"


def main() -> None:
    """Open the pages and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", type=Path, default=ROOT / "demo-workspace")
    options = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        take_report(browser, options.workspace / "report" / "index.html")
        take_serve(browser, options.workspace)
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


def take_serve(browser: Browser, workspace: Path) -> None:
    """Ask the service about one of the demo's boots."""
    command = [sys.executable, str(ROOT / "cli.py"), "serve", "a5-affinity-odds-s0"]
    service = subprocess.Popen(
        [*command, "--port", "0", "--workspace", str(workspace)],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert service.stderr is not None
    address = ""
    for line in service.stderr:
        if found := re.search(r"http://[\d.:]+", line):
            address = found[0]
        if "ready" in line:
            break
    page = browser.new_page(viewport=SIZE, color_scheme="light")
    page.goto(address)
    page.set_input_files("input[type=file]", workspace / "catalog" / "images" / PICTURE)
    page.get_by_label("Title").fill(TITLE)
    page.keyboard.press("Enter")
    page.wait_for_selector(".neighbors")
    page.wait_for_timeout(1000)
    page.screenshot(path=ROOT / "docs" / "serve.png")
    page.close()
    service.terminate()
    service.communicate()


if __name__ == "__main__":
    main()
