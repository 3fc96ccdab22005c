"""The report in a headless Chromium: its parts, its joules, a way through the graph by mouse and by keys."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import e2compile
from e2compile.bill import bill
from e2compile.passes import BatchDrop, LayerGate
from e2compile.pipeline import capture_task
from e2compile.report.content import content
from e2compile.report.page import PAGE, write_report
from e2compile.report.page import page as html
from e2compile.task import load_task

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt install chromium"),
]


@pytest.fixture(scope="module")
def folder(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained Program with gated blocks and its report."""
    path = tmp_path_factory.mktemp("report") / "digits"
    graph = capture_task(load_task(str(model_file))).apply(LayerGate(first=True), BatchDrop(p=0.5))
    program = e2compile.compile(graph, output=path, verify=False)
    program.fit(steps=30)
    write_report(path, path / PAGE)
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install 'e2compile[test]'")
    with api.sync_playwright() as playwright:
        # Chromium does not run as root in its own sandbox
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, folder: Path) -> Iterator[Any]:
    """The report opened; nothing may be said on the console or asked of a network."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((folder / PAGE).as_uri())
    yield page
    page.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def test_every_part_is_there_and_reached_by_keys(page: Any) -> None:
    names = page.locator("#tabs button").all_inner_texts()
    assert names == ["Overview", "Energy", "Graph", "Memory", "Training", "Prices"]
    page.locator("#tab-overview").focus()
    for name in names[1:]:
        page.keyboard.press("ArrowRight")
        part = page.locator(f"#{name.lower()}")
        assert part.is_visible()
        assert part.inner_text()
    assert page.locator("main > section:visible").count() == 1
    assert page.locator("svg.chart").count() >= 3


def test_its_joules_are_the_bills(page: Any, folder: Path) -> None:
    expected = bill(folder)
    executed = bill(folder, run="default")
    for side, joules in (("before", expected.before.joules), ("after", expected.after.joules)):
        assert page.evaluate(f"total(priced('{side}', sharesOf(EXPECTED)))") == pytest.approx(joules)
    assert page.evaluate("total(priced('after', sharesOf('run default')))") == pytest.approx(
        executed.after.joules
    )
    sums = page.evaluate(
        "STAGES.map((s) => [s.name, stageJoules(s.content, sharesOf(EXPECTED))?.reduce((a, b) => a + b)])"
    )
    named = dict(expected.stages)
    assert [name for name, joules in sums if joules is None] == ["captured", "slu"]
    for name, joules in sums:
        if name in named and joules is not None:
            assert joules == pytest.approx(named[name])
    page.locator("#tab-energy").click()
    page.locator("#energy select").nth(1).select_option("everything")
    assert page.locator("#energy-table tbody tr").count() > 5


def test_every_stage_can_be_browsed(page: Any) -> None:
    page.locator("#tab-graph").click()
    stages = page.locator("#graph select").first.locator("option").all_inner_texts()
    assert stages == ["captured", "slu", "differentiated", "outlined", "smd"]
    for i in range(len(stages)):
        page.locator("#graph select").first.select_option(str(i))
        assert page.locator("#rows .row.head").count() > 3
        if not page.locator("#rows .row:not(.head)").count():  # a layer that is open stays so
            page.locator("#rows .row.head").nth(1).click()
        page.locator("#rows .row:not(.head)").first.click()
        assert page.locator("#detail h1").inner_text().startswith("%")


def test_a_call_is_found_by_keys_and_says_what_it_is(page: Any) -> None:
    page.keyboard.press("/")
    page.keyboard.type("conv1")
    page.locator("#rows").focus()
    for _ in range(400):
        page.keyboard.press("ArrowDown")
        if "aten.convolution_backward" in page.locator("#detail").inner_text().split("\n")[0]:
            break
    text = page.locator("#detail").inner_text()
    for part in (
        "conv1",
        "digits.py:",
        "backward",
        "mac.float32",
        "modelled",
        "slu_0",
        "Reads, and is read by",
    ):
        assert part in text, part
    page.locator("#detail svg .node:not(.self)").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("#detail h1").inner_text() != text.split("\n")[0]


def test_two_stages_are_compared(page: Any) -> None:
    page.locator("#tab-graph").click()
    page.locator("#graph select").nth(1).select_option("2")
    summary = page.locator("#graph-summary").inner_text()
    changes = {name: count for count, name in re.findall(r"(\d+) (\w+)", summary)}
    assert int(changes["moved"]) > 100
    assert int(changes["removed"]) == 0
    page.locator("#graph input[type=checkbox]").check()
    page.locator("#rows .row.added").first.click()
    assert "added, against differentiated" in page.locator("#detail").inner_text()
    page.locator("#graph select").nth(1).select_option("4")
    assert "+0 added" in page.locator("#graph-summary").inner_text()
    assert "~0 rewired" in page.locator("#graph-summary").inner_text()


@pytest.mark.parametrize(("scheme", "is_dark"), [("light", False), ("dark", True)])
def test_it_follows_the_colour_scheme(page: Any, scheme: str, is_dark: bool) -> None:
    page.emulate_media(color_scheme=scheme)
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(","))) < 384) is is_dark


def test_an_average_of_weights_is_shown(browser: Any, folder: Path, tmp_path: Path) -> None:
    found = content(folder)
    (run,) = found["runs"]
    run["history"] = [{"step": 10 * i, "loss": 1.0, "accuracy": 0.5} for i in (1, 2, 3, 4)]
    run |= {"averaged_epochs": 2, "averaged_accuracy": 0.625, "averaged_test_loss": 0.75}
    (tmp_path / "page.html").write_text(html(found))
    page = browser.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    page.locator("#tab-training").click()
    row = page.locator("#runs-table tbody tr").nth(1).inner_text()
    assert all(text in row for text in ("after 2 epochs", "62.5 %", "0.7500")), row
    assert page.locator("svg[aria-label='validation accuracy'] rect").count() == 2
    page.close()


def test_names_are_text_whatever_they_hold(browser: Any, folder: Path, tmp_path: Path) -> None:
    name = "</script><img src=x onerror=document.title='run'>"
    found = content(folder)
    found["program"]["source"] = found["program"]["name"] = name
    (tmp_path / "page.html").write_text(html(found))
    page = browser.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    assert page.locator("h1").inner_text() == name
    assert page.title() == f"{name} - e2compile report"
    assert page.locator("img").count() == 0
