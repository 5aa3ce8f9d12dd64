"""The page of a conformance run, in a real browser: real results of two drivers, and texts that attack."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Locator, Page, expect

from starfish_outbox.conformance.cases import CaseFiles
from starfish_outbox.conformance.reports import Report, html_page
from starfish_outbox.conformance.runner import Plan, run
from starfish_outbox.conformance.running import Crew
from starfish_outbox.conformance.verdicts import Verdict
from tests import conformance_reports, interop
from tests.browser import Watched, chromium, opened
from tests.conformance_reports import IMAGE, KEY, SCRIPT

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAMES: Final = ("python", "published-typescript")
MARKUP: Final = f"{SCRIPT}{IMAGE}\u200b"
LOST: Final = "r03-null/published-typescript"


def entry(id: str, item: str, **fields: Any) -> dict[str, Any]:
    return {"id": id, "item": item, "status": "queued", "attempts": 0, "enqueuedAt": 1, **fields}


def a_case(id: str, profile: str, start: list[Any], entries: list[Any], **parts: Any) -> dict[str, Any]:
    return {
        "id": id,
        "rows": [f"R{int(id[1:3])}"],
        "profile": profile,
        "description": f"What must happen in {id}.",
        "cost": f"Everything of {id} is gone.",
        "start": {KEY: json.dumps(start, ensure_ascii=False)},
        "steps": [{"op": "hydrate", "key": KEY}, {"op": "enqueue", "id": "touch", "item": "1"}],
        "end": {"entries": [*entries, {"id": "touch"}]},
        **parts,
    }


CASES: Final = [
    a_case("r20-plain", "format", [entry("a", "one")], [{"id": "a"}]),
    a_case(
        "r03-null",
        "format",
        [entry("odd", "word-odd", attempts=None)],
        [{"id": "odd", "attempts": 0}],
        known={"published-typescript": {"verdict": "fail", "what": "It keeps the null."}},
    ),
    a_case(
        "r29-markup", "safe", [entry("m", f"{SCRIPT}{IMAGE}\u200b")], [{"id": "m", "item": f"{SCRIPT}{IMAGE}\u200b"}]
    ),
    a_case("r13-null", "safe", [None, entry("good", "word-good")], [{"id": "good"}]),
]
"""Both pass the first and the third; TypeScript fails the others, one of which is listed."""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("cases")
    (folder / "cases.json").write_text(json.dumps({"title": "Cases of the page's test", "cases": CASES}))
    cases = CaseFiles(folder)
    starts = [interop.python_driver, interop.typescript_driver]
    with ExitStack() as stack:
        crews = [stack.enter_context(Crew(partial(start, rules=cases.rules))) for start in starts]
        plan = Plan(cases.load(), sequences=1, relays=1, schedules=1, divergences=interop.divergences())
        results = tuple(run(crews, plan))
        return Report(tuple(crew.hello for crew in crews), results, datetime.now(UTC), 1.0, 0, "3.1.0")


@pytest.fixture(scope="module")
def url(report: Report, tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(report, tmp_path_factory.mktemp("page"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as running:
        yield running


def written(report: Report, folder: Path) -> str:
    path = folder / "page.html"
    path.write_text(html_page(report), "utf-8")
    return path.as_uri()


@asynccontextmanager
async def page_at(browser: Browser, url: str, **options: Any) -> AsyncIterator[Page]:
    """The page, of which nothing but itself may be asked for, and which may report no problem."""
    async with opened(browser, url, **options) as watched:
        yield watched.page
        assert_quiet(watched, url)


def assert_quiet(watched: Watched, url: str) -> None:
    assert watched.problems == []
    assert watched.requests == [url.partition("#")[0]] or watched.requests == [url]


def cell(page: Page, anchor: str) -> Locator:
    return page.locator(f'a.cell[href="#{anchor}"]')


def article(page: Page, anchor: str) -> Locator:
    return page.locator(f'[id="{anchor}"]')


def shown_cases(page: Page) -> Locator:
    return page.locator("tr.case:visible")


async def test_the_matrix_has_a_lettered_cell_for_each_case_and_driver(
    browser: Browser, url: str, report: Report
) -> None:
    verdicts = {(one.subject.id, one.drivers[0]): one.verdict for one in report.cases}
    assert verdicts[("r03-null", "published-typescript")] is Verdict.FAIL
    assert [verdicts[(str(one["id"]), "python")] for one in CASES] == [Verdict.PASS] * len(CASES)
    async with page_at(browser, url) as page:
        assert await page.locator("tr.case a.cell").count() == len(CASES) * len(NAMES) == len(verdicts)
        for (id, name), verdict in verdicts.items():
            await expect(cell(page, f"{id}/{name}")).to_contain_text(verdict.value)
        order = await page.locator("tr.case").evaluate_all("rows => rows.map(row => row.id)")
        assert order == ["r03-null", "r20-plain", "r13-null", "r29-markup"]
        heads = await page.locator(".profile").first.locator("thead th").all_inner_texts()
        assert heads[1:] == list(NAMES)


async def test_what_surprises_stands_at_the_top_and_leads_to_its_cell(browser: Browser, url: str) -> None:
    async with page_at(browser, url) as page:
        top = page.locator(".outcome")
        await expect(top).to_contain_text("r13-null · published-typescript")
        await expect(top).not_to_contain_text("r03-null")
        await top.get_by_role("link", name="r13-null").click()
        await expect(article(page, "r13-null/published-typescript")).to_be_visible()
        await expect(article(page, "r13-null/published-typescript")).to_contain_text("keeps the run from succeeding")


async def test_a_click_on_a_red_cell_shows_what_it_costs_and_what_was_stored(browser: Browser, url: str) -> None:
    async with page_at(browser, url) as page:
        await expect(article(page, LOST)).to_be_hidden()
        await cell(page, LOST).click()
        told = article(page, LOST)
        await expect(told).to_be_visible()
        await expect(page.get_by_text("Everything of r03-null is gone.")).to_be_visible()
        await expect(told).to_contain_text("It keeps the null.")
        await expect(told.locator(".reasons")).to_contain_text("attempts")
        before, after = await told.locator(".both section").all()
        await expect(before.locator(".gone")).to_have_count(0)  # TypeScript writes the null back
        await expect(before).to_contain_text('"attempts": null')
        await expect(after.locator(".new")).to_contain_text('"id":"touch"')
        await expect(told.locator(".steps > li")).to_have_count(2)
        await expect(told.locator(".steps")).to_contain_text("enqueue id: touch item: 1")
        assert await page.evaluate("location.hash") == f"#{LOST}"
        await cell(page, "r03-null/python").click()
        await expect(told).to_be_hidden()
        await expect(article(page, "r03-null/python").locator(".gone")).to_contain_text("null")
        await cell(page, "r03-null/python").click()
        await expect(page.locator("article:visible")).to_have_count(0)
        assert await page.evaluate("location.hash") == ""


async def test_the_keyboard_goes_from_cell_to_cell_opens_and_closes(browser: Browser, url: str) -> None:
    async with page_at(browser, url) as page:
        await page.locator("#reset").focus()
        await page.keyboard.press("Tab")
        first = cell(page, "r03-null/python")
        await expect(first).to_be_focused()
        await page.keyboard.press("ArrowDown")
        await expect(cell(page, "r20-plain/python")).to_be_focused()
        await page.keyboard.press("ArrowUp")
        await page.keyboard.press("ArrowRight")
        lost = cell(page, LOST)
        await expect(lost).to_be_focused()
        await expect(lost).to_have_attribute("aria-expanded", "false")
        await page.keyboard.press("Enter")
        await expect(lost).to_have_attribute("aria-expanded", "true")
        await expect(article(page, LOST)).to_be_visible()
        await page.keyboard.press("Tab")
        await expect(article(page, LOST).locator(".close")).to_be_focused()
        await page.keyboard.press("Escape")
        await expect(article(page, LOST)).to_be_hidden()
        await expect(lost).to_have_attribute("aria-expanded", "false")
        await expect(lost).to_be_focused()


async def test_filters_leave_what_fits_and_say_how_many(browser: Browser, url: str) -> None:
    async with page_at(browser, url) as page:
        shown = page.locator("#shown")
        await expect(shown).to_have_text("4 of 4 cases")
        await page.get_by_label("Find").fill("r13 happen")
        await expect(shown_cases(page)).to_have_count(1)
        await expect(shown).to_have_text("1 of 4 cases")
        await expect(page.locator('.profile[data-profile="format"]')).to_be_hidden()
        await page.get_by_label("Find").fill("nowhere")
        await expect(page.get_by_text("No case fits.")).to_be_visible()
        await page.get_by_role("button", name="Show all").click()
        await expect(shown_cases(page)).to_have_count(4)
        await page.locator("#profile").select_option("safe")
        await expect(shown_cases(page)).to_have_count(2)
        await page.get_by_label("only what differs").check()
        assert await shown_cases(page).evaluate_all("rows => rows.map(row => row.id)") == ["r13-null"]
        await page.get_by_role("button", name="Show all").click()
        fails = page.get_by_role("group", name="Verdict").get_by_role("button", name="fail")
        await fails.click()
        await expect(fails).to_have_attribute("aria-pressed", "true")
        assert await shown_cases(page).evaluate_all("rows => rows.map(row => row.id)") == ["r03-null", "r13-null"]
        await page.locator("#driver").select_option("python")
        await expect(shown_cases(page)).to_have_count(0)


async def test_a_link_leads_into_a_cell_also_one_that_is_filtered_out(browser: Browser, url: str) -> None:
    async with page_at(browser, f"{url}#{LOST}") as page:
        await expect(article(page, LOST)).to_be_visible()
        await expect(cell(page, LOST)).to_be_in_viewport()
        await page.locator("#profile").select_option("safe")
        await expect(article(page, LOST)).to_be_hidden()
        await page.evaluate("location.hash = 'r20-plain/python'")
        await expect(article(page, "r20-plain/python")).to_be_visible()


async def test_markup_in_a_stored_text_is_only_shown(browser: Browser, url: str) -> None:
    async with page_at(browser, url) as page:
        title = await page.title()
        await cell(page, "r29-markup/python").click()
        told = article(page, "r29-markup/python")
        await expect(told.locator(".text").first).to_contain_text("<script>document.title='taken'</script><img src=x")
        await expect(told.locator(".text i").first).to_have_text("U+200B")
        assert await page.title() == title
        assert await page.locator("img").count() == 0
        assert await page.locator("script").count() == 1


async def test_hostile_names_and_texts_do_nothing_wherever_they_stand(browser: Browser, tmp_path: Path) -> None:
    url = written(conformance_reports.hostile(), tmp_path)
    async with page_at(browser, url) as page:
        anchors = await page.locator("a.cell").evaluate_all("cells => cells.map(cell => cell.hash.slice(1))")
        for anchor in dict.fromkeys(anchors):
            await cell(page, anchor).first.click()
            await expect(page.locator("article:visible")).to_have_count(1)
        assert (await page.title()).startswith("Outbox conformance: ]]><script>")
        assert "\u202e" not in await page.content()
        assert await page.locator("img").count() == 0
        assert await page.locator("script").count() == 1
        assert "{{7*7}}" in await page.locator("body").inner_text()


async def test_an_inline_script_that_is_not_ours_would_not_run(
    browser: Browser, report: Report, tmp_path: Path
) -> None:
    path = tmp_path / "page.html"
    path.write_text(html_page(report).replace("</main>", f"</main>{SCRIPT}"), "utf-8")
    async with opened(browser, path.as_uri()) as watched:
        assert (await watched.page.title()).startswith("Outbox conformance")
        assert any("Content Security Policy" in problem for problem in watched.problems)


async def test_without_javascript_a_cell_still_leads_to_what_is_behind_it(browser: Browser, url: str) -> None:
    async with page_at(browser, url, java_script_enabled=False) as page:
        await expect(page.locator(".tools")).to_be_hidden()
        await expect(page.locator("article:visible")).to_have_count(0)
        await cell(page, LOST).click()
        await expect(article(page, LOST)).to_be_visible()
        await expect(page.locator("article:visible")).to_have_count(1)
        await expect(page.get_by_text("Everything of r03-null is gone.")).to_be_visible()
        await article(page, LOST).locator(".close").click()
        await expect(page.locator("article:visible")).to_have_count(0)


async def test_pairs_are_a_square_of_drivers_and_schedules_have_a_share(
    browser: Browser, report: Report, tmp_path: Path
) -> None:
    figures = {"runs": 1000, "broken": 4, "lost": 4}
    results = tuple(
        replace(one, figures=figures if one.subject.id.startswith("schedules") else {}) for one in report.results
    )
    async with page_at(browser, written(replace(report, results=results), tmp_path)) as page:
        relay = page.locator("#relay table")
        assert await relay.locator("tbody tr").count() == len(NAMES)
        assert await relay.locator("a.cell").count() == len(NAMES)  # one result, on both sides of the diagonal
        await relay.locator("a.cell").first.click()
        for one in await relay.locator("a.cell").all():
            await expect(one).to_have_attribute("aria-expanded", "true")
        await expect(article(page, "relay/python+published-typescript")).to_be_visible()
        share = page.locator('[id="schedules-switch"] .share').first
        await expect(share).to_have_text("0.4 % of 1,000")


async def test_a_narrow_screen_needs_no_scrolling_sideways_and_keeps_the_words_for_those_who_listen(
    browser: Browser, url: str
) -> None:
    async with page_at(browser, f"{url}#{LOST}", viewport={"width": 360, "height": 800}) as page:
        assert await page.evaluate("document.documentElement.scrollWidth") == 360
        await expect(page.get_by_role("link", name="fail").first).to_be_visible()
        await expect(article(page, LOST)).to_be_visible()


def luminance(colour: str) -> float:
    """Relative luminance of ``rgb(r, g, b)`` as WCAG 2 defines it."""
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_verdict_can_be_read_on_its_colour(browser: Browser, url: str, scheme: str) -> None:
    async with page_at(browser, url, color_scheme=scheme) as page:
        signs = await page.locator("dl .sign").evaluate_all(
            "signs => signs.map(one => [getComputedStyle(one).color, getComputedStyle(one).backgroundColor])"
        )
        signs += await page.evaluate(
            "[[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]]"
        )
        assert len(signs) == len(Verdict) + 1
        assert min(contrast(*pair) for pair in signs) >= 4.5
        assert (luminance(signs[-1][1]) < 0.1) is (scheme == "dark")


async def test_a_print_has_the_matrix_and_no_controls(browser: Browser, url: str) -> None:
    async with page_at(browser, url) as page:
        await page.emulate_media(media="print")
        await expect(page.locator(".tools")).to_be_hidden()
        await expect(cell(page, LOST)).to_be_visible()
        assert (await page.pdf()).startswith(b"%PDF")
