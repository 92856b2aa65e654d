"""The HTML report in a real browser: it works by keyboard and on a phone, loads nothing, and nothing in it acts."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from operator import add
from pathlib import Path
from typing import Any

import pytest
import runs

from pytest_finetune.records import RunRecord
from pytest_finetune.report.html import page

INSTALL = "pip install pytest-finetune[test]"
playwright = pytest.importorskip("playwright.sync_api", reason=f"needs Playwright: {INSTALL}")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason=f"needs axe: {INSTALL}")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium")

OPEN_ALL = "for (const one of document.querySelectorAll('details')) one.open = true"
ADDRESS = "http://report.test/"
QUIET = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync"]
Open = Callable[..., AbstractContextManager[Any]]


@pytest.fixture(scope="module")
def open_page() -> Iterator[Open]:
    """What opens the page of a run in one browser for all tests."""
    root = ["--no-sandbox"] if os.geteuid() == 0 else []  # the sandbox does not start as root
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=[*QUIET, *root])

        @contextmanager
        def opened(run: RunRecord, width: int = 1280, **settings: Any) -> Iterator[Any]:
            """Open the page, and see at the end that it asked for nothing, and neither failed nor opened a dialog."""
            context = browser.new_context(viewport={"width": width, "height": 900}, **settings)
            tab, seen = context.new_page(), []
            tab.on("console", lambda message: seen.append(f"console: {message.text}"))
            tab.on("pageerror", lambda error: seen.append(f"error: {error}"))
            tab.on("dialog", lambda dialog: seen.append(f"dialog: {dialog.message}"))
            text = page(run)

            def answer(route: Any) -> None:
                if route.request.url == ADDRESS:
                    route.fulfill(body=text, content_type="text/html; charset=utf-8")
                else:
                    seen.append(f"request: {route.request.url}")
                    route.abort()

            context.route("**/*", answer)
            tab.goto(ADDRESS)
            if settings.get("java_script_enabled", True):
                tab.wait_for_selector("#browser:not([hidden])")
            yield tab
            context.close()
            assert not seen

        yield opened
        browser.close()


def rows(tab: Any) -> Any:
    """Return the rows of the table of examples."""
    return tab.locator("#rows tr")


def test_filters(open_page: Open) -> None:
    """Result, data set, slice and search narrow the examples together, and the count is told."""
    with open_page(runs.run(2, 12)) as tab:
        count = tab.locator("#count")
        assert count.inner_text() == "24 of 24 examples"
        tab.get_by_label("Lost").check(force=True)
        assert count.inner_text() == "8 of 24 examples"
        assert rows(tab).locator(".result").all_inner_texts() == ["lost"] * 8
        tab.get_by_label("Data set").select_option(label="suite 1 · held-out (exact_match)")
        assert count.inner_text() == "4 of 24 examples"
        tab.get_by_role("combobox", name="Slice").select_option("cold")
        assert count.inner_text() == "2 of 24 examples"
        tab.get_by_label("Search", exact=True).fill("IS BOX 5")
        assert count.inner_text() == "1 of 24 examples"
        assert "heldout.jsonl:6" in rows(tab).inner_text()
        assert tab.locator("[data-result]").all_inner_texts() == ["1", "0", "1", "0"]
        tab.get_by_label("Search", exact=True).fill("no such text")
        assert count.inner_text() == "0 of 24 examples"
        assert rows(tab).count() == 0


def test_order(open_page: Open) -> None:
    """The worst examples come first until another order is chosen."""
    with open_page(runs.run(1, 12)) as tab:
        results = rows(tab).locator(".result")
        assert results.all_inner_texts() == ["lost"] * 4 + ["tied"] * 4 + ["won"] * 4
        tab.get_by_label("Order").select_option("best first")
        assert results.all_inner_texts() == ["won"] * 4 + ["tied"] * 4 + ["lost"] * 4
        tab.get_by_label("Order").select_option("as measured")
        assert results.all_inner_texts() == ["won"] * 4 + ["lost"] * 4 + ["tied"] * 4


def test_keyboard(open_page: Open) -> None:
    """j, k and the arrows move over rows and pages, Enter opens one, / searches, Esc closes and clears."""
    with open_page(runs.run(1, 60)) as tab:
        tab.get_by_label("Order").select_option("as measured")
        tab.locator("body").press("Escape")
        focused = tab.locator(":focus")
        tab.locator("h1").click()
        for key, place in (("j", 1), ("j", 2), ("ArrowDown", 3), ("k", 2), ("ArrowUp", 1), ("k", 1)):
            tab.keyboard.press(key)
            assert focused.inner_text() == f"heldout.jsonl:{place}"
        tab.keyboard.press("Enter")
        assert focused.get_attribute("aria-expanded") == "true"
        assert rows(tab).first.get_attribute("class") == "won opened"
        tab.keyboard.press("Escape")
        assert focused.get_attribute("aria-expanded") == "false"
        rows(tab).last.get_by_role("button").focus()
        tab.keyboard.press("j")
        assert focused.inner_text() == "heldout.jsonl:51"
        assert tab.locator("#page").inner_text() == "Page 2 of 2"
        tab.keyboard.press("k")
        assert focused.inner_text() == "heldout.jsonl:50"
        tab.keyboard.press("/")
        tab.keyboard.type("box 7?jk/")
        assert tab.get_by_label("Search", exact=True).input_value() == "box 7?jk/"
        for _ in "jk/":
            tab.keyboard.press("Backspace")
        assert tab.locator("#count").inner_text() == "1 of 60 examples"
        tab.keyboard.press("Escape")
        assert tab.locator("#count").inner_text() == "60 of 60 examples"
        tab.keyboard.press("Escape")
        tab.keyboard.press("j")
        assert focused.inner_text() == "heldout.jsonl:1"


def test_words_that_differ(open_page: Open) -> None:
    """Words that an output lacks or adds are marked, against the reference or the output before, or not at all."""
    with open_page(runs.run(1, 3)) as tab:
        tab.get_by_label("Order").select_option("as measured")
        before, after = (rows(tab).first.locator("td.output").nth(i) for i in range(2))
        assert before.locator(".text").inner_html() == "the box 0 is <del>green</del><ins>red</ins>"
        assert after.locator(".text").inner_html() == "the box 0 is green"
        mark = tab.get_by_label("Mark words")
        mark.select_option("the output before")
        assert before.locator(".text").inner_html() == "the box 0 is red"
        assert after.locator(".text").inner_html() == "the box 0 is <del>red</del><ins>green</ins>"
        mark.select_option("nothing")
        assert tab.locator("#rows ins, #rows del").count() == 0


@pytest.mark.attack(18)
def test_hostile_run_does_nothing(open_page: Open) -> None:
    """Texts that are markup or script show as text, and the page has the elements of a run of plain ones."""
    hostile = (
        "</script><script>alert(1)</script><img src=http://evil.test/x onerror=alert(2)><a href=javascript:alert(3)>"
    )
    counts = []
    for said in ("", hostile):
        with open_page(runs.run(1, 6, partial(add, said))) as tab:
            tab.get_by_label("Mark words").select_option("nothing")
            rows(tab).first.get_by_role("button").click()
            tab.evaluate(OPEN_ALL)
            counts.append(tab.evaluate("document.querySelectorAll('*').length"))
            if said:
                assert hostile in rows(tab).first.inner_text()
    assert counts[0] == counts[1]


def test_five_thousand_rows(open_page: Open) -> None:
    """With 5,000 rows a filter answers at once, and the page holds 50 of them."""
    with open_page(runs.run(5, 1000)) as tab:
        assert tab.locator("#count").inner_text() == "5,000 of 5,000 examples"
        seconds = tab.evaluate(
            """() => {
                const search = document.getElementById("search"), start = performance.now();
                search.value = "box 77";
                search.dispatchEvent(new Event("input", {bubbles: true}));
                return (performance.now() - start) / 1000;
            }"""
        )
        assert tab.locator("#count").inner_text() == "55 of 5,000 examples"
        assert seconds < 1
        assert rows(tab).count() == 50
        assert tab.evaluate("document.querySelectorAll('*').length") < 4000


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (375, "dark")])
def test_fits_and_has_no_barrier(open_page: Open, tmp_path: Path, width: int, scheme: str) -> None:
    """On a light screen and on a dark phone nothing sticks out sideways, and axe finds nothing serious."""
    with open_page(runs.run(2, 3, partial(add, "unbroken" * 12)), width, color_scheme=scheme) as tab:
        tab.screenshot(path=tmp_path / f"{scheme}-{width}.png", full_page=True)
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(14, 16, 20)"}[scheme]
        tab.evaluate(OPEN_ALL)
        found = axe.Axe().run(tab).response["violations"]
        assert [(one["id"], node["html"]) for one in found for node in one["nodes"]] == []


def test_reads_without_javascript(open_page: Open) -> None:
    """Without JavaScript all but the table of examples is there."""
    with open_page(runs.run(), java_script_enabled=False) as tab:
        assert tab.get_by_text("A claim is refuted.").is_visible()
        assert tab.locator("table.forest").first.is_visible()
        assert tab.get_by_text("examples are shown by JavaScript").is_visible()
        assert not tab.locator("#browser").is_visible()
