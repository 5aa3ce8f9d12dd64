"""The panel in JupyterLab and Notebook 7, in a real browser: what a person with a mouse or a keyboard meets."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import nbformat
import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from tests.browser import chromium
from tests.kernels import environment
from tests.lab import Lab, OpenNotebook, lab

pytestmark = pytest.mark.asyncio(loop_scope="module")

AXE: Final = Path(__file__).parents[1] / "interop" / "node_modules" / "axe-core" / "axe.min.js"
SETUP: Final = """
import asyncio, json, os
from pathlib import Path
from starfish_outbox import RejectedError, open_outbox
from starfish_outbox.notebook.panel import OutboxPanel

arrived = Path("{name}.arrived")
queue = await open_outbox("me", Path("{name}.db"))
await queue.enqueue_many([(f"reading-{{n:03}}", {{"celsius": 20 + n}}) for n in range({count})])

async def send(entry):
    await asyncio.sleep({seconds})
    if entry.item["celsius"] % 50 == 7:
        raise RejectedError("HTTP 422: celsius is out of range")
    with arrived.open("a") as file:
        file.write(json.dumps([entry.id, entry.item]) + "\\n")
"""
PANEL: Final = "panel = OutboxPanel(queue, send, max_attempts=2)\npanel"


def cells(name: str, count: int = 200, seconds: float = 0.01) -> list[str]:
    return [SETUP.format(name=name, count=count, seconds=seconds), PANEL]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    async with lab(tmp_path_factory.mktemp("lab")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as running:
        yield running


async def day(server: Lab, browser: Browser, app: str, kernel: str) -> None:
    """Drain, reload, go offline and online again, correct, retry and remove what failed."""
    name = f"day-{app}-{kernel}"
    server.write(f"{name}.ipynb", cells(name, seconds=0.05), kernel)
    async with server.open(browser, f"{name}.ipynb", app=app) as notebook:
        of_the_app = set(notebook.watched.problems)  # Notebook 7 warns of its own menu
        await notebook.run_all()
        await expect(notebook.count("queued")).to_have_text("200")
        await notebook.button("Drain").click()
        await notebook.reaches("sent", 20)

        await notebook.reload()  # in the middle: it goes on, and the page sees it
        await notebook.reaches("sent", 60)

        await notebook.network.uncheck()
        await notebook.is_idle()
        await expect(notebook.panel.get_by_role("alert")).to_contain_text("Nobody was reached")
        sent, failed = await notebook.number("sent"), await notebook.number("failed")
        assert await notebook.number("queued") == 200 - sent - failed > 0
        assert await notebook.number("found no network") == 1
        assert await notebook.ask("queue.counts().total") == 200 - sent

        await notebook.network.check()
        await notebook.button("Drain").click()
        await expect(notebook.count("queued")).to_have_text("0")
        await notebook.is_idle()
        await expect(notebook.count("failed")).to_have_text("4")
        await expect(notebook.count("sent")).to_have_text("196")
        await expect(notebook.rows).to_have_count(4)

        await notebook.rows.first.click()
        item = notebook.panel.get_by_role("textbox", name="Item (JSON)").first
        await expect(item).to_have_value('{\n  "celsius": 57\n}')
        await item.fill('{"celsius": 58}')
        await notebook.button("Save and requeue").click()
        await expect(notebook.count("queued")).to_have_text("1")
        await notebook.button("Drain").click()
        await expect(notebook.count("sent")).to_have_text("197")

        await notebook.button("Retry failed").click()
        await expect(notebook.count("queued")).to_have_text("3")
        await notebook.button("Drain").click()
        await expect(notebook.count("failed")).to_have_text("3")
        await notebook.rows.first.click()
        await notebook.button("Remove…").click()
        await expect(notebook.panel.get_by_role("alert").filter(has_text="for good?")).to_be_visible()
        await notebook.button("Keep it").click()
        await notebook.button("Remove…").click()
        await notebook.button("Remove it").click()
        await expect(notebook.count("failed")).to_have_text("2")

        lines = (server.folder / f"{name}.arrived").read_text().splitlines()
        assert len(lines) == len(set(lines)) == 197
        assert '["reading-037", {"celsius": 58}]' in lines
        ours = [one for one in notebook.watched.problems if not one.startswith("Failed to load resource")]
        assert set(ours) <= of_the_app


@pytest.mark.parametrize("app", ["lab", "notebook"])
async def test_a_day_with_the_panel(server: Lab, browser: Browser, app: str) -> None:
    await day(server, browser, app, "python3")


@pytest.mark.proof
@pytest.mark.timeout(900)
@pytest.mark.parametrize("ipykernel", ["6.31.0", "7.3.0"])
async def test_a_day_on_another_kernel(browser: Browser, tmp_path: Path, ipykernel: str) -> None:
    """Which thread a callback comes on, and which loop runs there, depends on ipykernel."""
    wanted = (f"ipykernel=={ipykernel}", "ipywidgets>=8.1", "anywidget>=0.9", "platformdirs>=4.0")
    python = environment(tmp_path / "environment", *wanted)
    async with lab(tmp_path / "lab", {"other": python}) as server:
        await day(server, browser, "lab", "other")
        print(f"a day on ipykernel {ipykernel}: all is well")


LOOKS: Final = """
import asyncio
from starfish_outbox import MemoryCache, OutboxQueue, RejectedError
from starfish_outbox.notebook.panel import OutboxPanel

queue = OutboxQueue(MemoryCache())
await queue.hydrate("outbox.me")
await queue.enqueue_many([(f"reading-{n}", {"celsius": n}) for n in range(500)])

async def send(entry):
    if entry.item["celsius"] < 5:
        raise RejectedError("HTTP 422")
    if entry.item["celsius"] > 100:
        await asyncio.sleep(0.02)
"""


async def violations(notebook: OpenNotebook) -> list[str]:
    """What axe finds serious or critical in the panel."""
    found = await notebook.page.evaluate(
        """axe.run('.outbox-panel', {resultTypes: ['violations']}).then(found => found.violations
             .filter(one => ['serious', 'critical'].includes(one.impact))
             .map(one => `${one.id}: ${one.nodes.map(node => node.html).join(' ')}`))"""
    )
    return list(found)


async def test_everything_has_a_name_and_a_role_and_can_be_read(server: Lab, browser: Browser) -> None:
    server.write("looks.ipynb", [LOOKS, PANEL])
    async with server.open(browser, "looks.ipynb") as notebook:
        page, panel = notebook.page, notebook.panel
        await notebook.run_all()
        await expect(notebook.count("queued")).to_have_text("500")
        await notebook.button("Drain").click()
        await notebook.reaches("sent", 100)
        bar = panel.get_by_role("progressbar", name="Progress of the pass")
        assert int(await bar.get_attribute("aria-valuenow") or 0) > 100
        await expect(bar).to_have_attribute("aria-valuemax", "500")
        await expect(panel.get_by_role("alert").first).to_contain_text("was parked: RejectedError: HTTP 422")
        await expect(panel.get_by_role("status").first).to_contain_text("Sending, the oldest first.")
        for name in ("Drain", "Pause", "Stop", "Retry failed", "Dismiss"):
            await expect(notebook.button(name)).to_have_count(1)
        for role, name in (("switch", "Network"), ("switch", "Keep draining"), ("slider", "Lose answers, %")):
            await expect(panel.get_by_role(role, name=name)).to_have_count(1)  # type: ignore[arg-type]
        for role, name in (("spinbutton", "Attempts"), ("spinbutton", "At a time"), ("combobox", "Show")):
            await expect(panel.get_by_role(role, name=name)).to_have_count(1)  # type: ignore[arg-type]
        await expect(page.get_by_role("region", name="Outbox outbox.me")).to_have_count(1)
        await expect(panel.get_by_role("columnheader")).to_have_count(6)
        await expect(panel.get_by_role("grid", name="Entries")).to_have_attribute("aria-rowcount", re.compile(r"\d+"))

        await page.add_script_tag(path=AXE)
        await notebook.rows.first.click()
        await expect(notebook.button("Save and requeue")).to_be_visible()
        for theme in ("JupyterLab Light", "JupyterLab Dark"):
            await page.evaluate("theme => jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
            light = str(theme.endswith("Light")).lower()
            await expect(page.locator("body")).to_have_attribute("data-jp-theme-light", light)
            for tab, sign in (("Entries", "grid"), ("Timeline", "img"), ("Log", "log"), ("Add", "spinbutton")):
                await panel.get_by_role("tab", name=tab).click()
                await expect(panel.get_by_role(sign).locator("visible=true").last).to_be_visible()  # type: ignore[arg-type]
                assert await violations(notebook) == []
        nameless = panel.get_by_role("button", name="Dismiss")  # the control
        await nameless.evaluate("one => { one.replaceChildren(); one.removeAttribute('title') }")
        assert any(found.startswith("button-name") for found in await violations(notebook))


async def test_the_keyboard_reaches_everything_and_a_filter_leaves_what_it_names(server: Lab, browser: Browser) -> None:
    server.write("keys.ipynb", [LOOKS, PANEL])
    async with server.open(browser, "keys.ipynb", viewport={"width": 1000, "height": 1200}) as notebook:
        page, panel = notebook.page, notebook.panel
        await notebook.run_all()
        await expect(notebook.rows.first).to_be_visible()
        await notebook.button("Drain").focus()
        await page.keyboard.press("Enter")
        await notebook.reaches("sent", 100)
        await page.keyboard.press("Tab")
        await expect(notebook.button("Pause")).to_be_focused()
        await page.keyboard.press("Space")
        await expect(notebook.button("Resume")).to_be_visible()
        await expect(panel.get_by_role("status").first).to_contain_text("Resume goes on, Stop ends it.")
        await notebook.rows.first.focus()
        await page.keyboard.press("ArrowDown")
        await expect(notebook.rows.nth(1)).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(notebook.rows.nth(1)).to_have_attribute("aria-selected", "true")
        await expect(panel.locator(".outbox-details")).to_contain_text("RejectedError: HTTP 422")
        await notebook.rows.nth(1).focus()
        await page.keyboard.press("End")
        last = panel.locator(".canvas .row:focus")
        await expect(last).to_contain_text("reading-499")
        await page.keyboard.press("Home")
        await expect(panel.locator(".canvas .row:focus")).to_contain_text("reading-0")
        await panel.get_by_role("combobox", name="Show").select_option("failed")
        await expect(notebook.rows).to_have_count(5)
        await panel.get_by_role("combobox", name="Show").select_option("sending")
        await expect(panel.get_by_text("Nothing is sending.")).to_be_visible()
        await notebook.button("Stop").click()
        await notebook.is_idle()


@pytest.mark.proof
async def test_a_killed_kernel_loses_nothing_and_the_page_says_so(server: Lab, browser: Browser) -> None:
    server.write("killed.ipynb", cells("killed", 150, 0.02))
    async with server.open(browser, "killed.ipynb") as notebook:
        await notebook.run_all()
        await notebook.button("Drain").click()
        await notebook.reaches("sent", 20)
        os.kill(await notebook.ask("os.getpid()"), signal.SIGKILL)
        gone = notebook.panel.get_by_role("alert").filter(has_text="What was stored is safe")
        await expect(gone).to_be_visible()
        await notebook.page.get_by_role("dialog").get_by_role("button", name="Ok").click()
        await notebook.ready()  # the server has started another one
        await notebook.run_all()
        await expect(gone).to_have_count(0)
        left = await notebook.number("queued")
        assert 0 < left < 150
        await notebook.button("Drain").click()
        await expect(notebook.count("queued")).to_have_text("0")
        await notebook.is_idle()
        lines = (server.folder / "killed.arrived").read_text().splitlines()
        print(f"killed with {left} left; {len(lines) - len(set(lines))} arrived twice")
        assert len(set(lines)) == 147  # 3 of 150 are refused
        assert len(lines) <= 148  # the one that was under way may arrive twice
        assert await notebook.number("failed") == 3


async def test_a_notebook_that_is_opened_without_its_kernel_shows_what_was_known_last(
    server: Lab, browser: Browser
) -> None:
    server.write("later.ipynb", cells("later", 40, 0))
    async with server.open(browser, "later.ipynb") as notebook:
        await notebook.run_all()
        saved = notebook.page.locator("details", has_text="last known, as of")
        await expect(saved).to_be_hidden()  # while there is a panel
        await notebook.button("Drain").click()
        await notebook.is_idle()
        await expect(notebook.count("sent")).to_have_text("39")
        await expect(saved).to_contain_text("1 failed")
        await notebook.command("docmanager:save")
        await notebook.command("kernelmenu:shutdown")
    outputs = nbformat.read(server.folder / "later.ipynb", 4).cells[1].outputs  # type: ignore[no-untyped-call]
    assert [sorted(output.data) for output in outputs] == [
        ["application/vnd.jupyter.widget-view+json", "text/html", "text/plain"],
        ["text/html", "text/plain"],
    ]
    async with server.open(browser, "later.ipynb") as notebook:  # another kernel, which knows no panel
        page = notebook.page
        saved = page.locator("details", has_text="last known, as of")
        await expect(saved).to_be_visible()
        await expect(saved).to_contain_text("reading-037")
        await expect(page.locator(".outbox-panel")).to_have_count(0)
        await expect(page.get_by_text("model not found")).to_have_count(1)
        await expect(page.get_by_text("model not found")).to_be_hidden()


@pytest.mark.proof
async def test_two_panels_on_one_queue_and_one_without_anywidget(server: Lab, browser: Browser) -> None:
    without = 'import sys\nsys.modules["anywidget"] = None\ndel sys.modules["starfish_outbox.notebook.table"]\n'
    server.write("two.ipynb", [LOOKS, PANEL, f"{without}{PANEL}"])
    async with server.open(browser, "two.ipynb", viewport={"width": 1000, "height": 2200}) as notebook:
        await notebook.run_all()
        first, second = notebook.page.locator(".outbox-panel").nth(0), notebook.page.locator(".outbox-panel").nth(1)
        await expect(second.get_by_role("listbox", name="Entries")).to_contain_text("reading-0 · queued")
        await first.get_by_role("button", name="Drain").click()
        await expect(notebook.count("failed", second)).to_have_text("5")
        await second.get_by_role("button", name="Drain").click()  # both at once
        await expect(notebook.count("queued", first)).to_have_text("0")
        await expect(notebook.count("queued", second)).to_have_text("0")
        sent = [int(await notebook.count("sent", panel).inner_text()) for panel in (first, second)]
        assert sum(sent) == 495
        await second.get_by_role("listbox", name="Entries").select_option(index=2)
        await expect(second.locator(".outbox-details")).to_contain_text("RejectedError: HTTP 422")
        await expect(second.get_by_role("spinbutton", name="Lose answers, %")).to_have_count(1)
        await notebook.page.add_script_tag(path=AXE)
        assert await violations(notebook) == []
