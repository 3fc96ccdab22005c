"""How large the report of a Program is, how long a headless Chromium takes to open it, and whether every
stage of its graph can be looked at.

    e2compile examples/resnet_cifar.py:resnet74 --passes smd,slu,psg -o out/resnet74 --no-verify
    python benchmarks/report_page.py out/resnet74 [--repeats 5] [--json FILE]

Opening is from the start of the navigation until the first part is drawn: the load event, then two frames of
animation. Each time is of a new browser. Needs `chromium` (Debian) and playwright (extra `test`).
"""

import argparse
import json
import os
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import machine
from playwright.sync_api import Browser, Page, sync_playwright

from e2compile.report.page import PAGE, write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRAWN = """() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() =>
  done(performance.now() / 1000))))"""


def open_page(browser: Browser, path: Path) -> tuple[Page, float, list[str]]:
    """The page, the seconds until it was drawn, and what it says on the console."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(path.as_uri(), wait_until="load")
    return page, page.evaluate(DRAWN), said


def browse(page: Page) -> dict[str, dict[str, Any]]:
    """Each stage: its rows in the list, a call of it, and the seconds until both were shown."""
    page.locator("#tab-graph").click()
    select = page.locator("#graph select").first
    found = {}
    for i, name in enumerate(select.locator("option").all_inner_texts()):
        began = time.perf_counter()
        select.select_option(str(i))
        rows = page.locator("#rows .row")
        if not page.locator("#rows .row:not(.head)").count():  # all layers are closed at first
            page.locator("#rows .row.head").nth(1).click()
        page.locator("#rows .row:not(.head)").first.click()
        call = page.locator("#detail h1").inner_text()
        found[name] = {"rows": rows.count(), "call": call, "seconds": time.perf_counter() - began}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("program", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    path = options.program.resolve() / PAGE
    size = write_report(options.program, path)
    seconds, said = [], []
    with sync_playwright() as playwright:
        # Chromium does not run as root in its own sandbox
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        for _ in range(options.repeats):
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
            page, opened, said = open_page(browser, path)
            seconds.append(opened)
            stages = browse(page)
            browser.close()
    print(
        f"{size / 1e6:.2f} MB; drawn after {statistics.median(seconds):.2f} s, at most {max(seconds):.2f} s"
    )
    for name, found in stages.items():
        print(f"  {name:16} {found['rows']:3} rows shown, {found['call']} chosen in {found['seconds']:.2f} s")
    print(f"said on the console: {said or 'nothing'}")
    if options.json:
        content = {"machine": machine.describe(), "bytes": size, "seconds": seconds, "stages": stages}
        options.json.write_text(json.dumps(content | {"console": said}, indent=1) + "\n")


if __name__ == "__main__":
    main()
