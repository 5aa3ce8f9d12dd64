"""The panel under load and under attack, in a real browser: many entries, fast updates, hostile texts."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Locator, expect

from tests.browser import chromium
from tests.lab import Lab, OpenNotebook, lab

pytestmark = pytest.mark.asyncio(loop_scope="module")

PANEL: Final = "panel = OutboxPanel(queue, send, max_attempts=2)\npanel"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    async with lab(tmp_path_factory.mktemp("lab")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as running:
        yield running


MANY: Final = """
import asyncio
from starfish_outbox import open_outbox
from starfish_outbox.notebook.panel import OutboxPanel

queue = await open_outbox("me", "COUNT.db")
await queue.enqueue_many([(f"e{n:06}", {"n": n, "where": "north ridge"}) for n in range(COUNT)])

async def send(entry):
    await asyncio.sleep(PAUSE)
"""


@pytest.mark.proof
async def test_after_twenty_thousand_fast_updates_the_numbers_are_exact(server: Lab, browser: Browser) -> None:
    server.write(
        "fast.ipynb", [MANY.replace("COUNT", "20_000").replace("PAUSE", "0"), "OutboxPanel(queue, send, batch_size=50)"]
    )
    async with server.open(browser, "fast.ipynb") as notebook:
        await notebook.run_all()
        await expect(notebook.count("queued")).to_have_text("20,000")
        await notebook.button("Drain").click()
        await expect(notebook.count("sent")).to_have_text("20,000", timeout=60_000)
        await notebook.is_idle()
        assert [await notebook.number(name) for name in ("queued", "sending", "failed", "sent")] == [0, 0, 0, 20_000]
        await expect(notebook.panel.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "20000")
        await expect(notebook.panel.locator(".outbox-table .below")).to_have_text("Nothing is waiting.")


HOSTILE: Final = """
import asyncio, random
from starfish_outbox import MemoryCache, OutboxQueue
from starfish_outbox.notebook import page, table
from starfish_outbox.notebook.panel import OutboxPanel

bits = ["<b>", "</div>", "<img src=x onerror=window.taken=1>", "<script>window.taken=1</script>", "&lt;", "&#60;i>",
        "'>", '"', "</textarea>", "<svg onload=window.taken=1>", "]]>", "<!--", "{{7*7}}", "\\u202e", "\\x00",
        "\\u2028", "<style>*{}", "</style>", "`${window.taken=1}`", "<iframe>", "</details>",
        "<a href=javascript:window.taken=1>"]
dice = random.Random(1)

async def filled(words):
    queue = OutboxQueue(MemoryCache())
    await queue.hydrate("outbox.me")
    texts = {f"{n:05}": "".join(words) if words else "plain" for n in range(COUNT)}
    if words:
        texts = {n: "".join(dice.choices(words, k=3)) for n in texts}
    await queue.enqueue_many([(f"{n}{text}", {text: text}) for n, text in texts.items()])
    return queue

async def send(entry):
    raise ValueError(next(iter(entry.item)))

async def shown(words):
    panel = OutboxPanel(await filled(words), send, max_attempts=1)
    await asyncio.wrap_future(panel.controller.drain())
    while panel.controller.state.running:
        await asyncio.sleep(0.05)
    await asyncio.wrap_future(panel.controller.select(panel.controller.rows(7, 1)[0].id))
    return panel
"""
# Breaks what keeps texts from becoming markup, in the page and in the kernel.
BROKEN: Final = """
table.EntryTable._esm = table.EntryTable._esm.replace("element.textContent = text", "element.innerHTML = text")
page._escaped = str
await shown(bits)
"""
STRUCTURE: Final = """panel => [...panel.querySelectorAll('*')].map(
  one => `${one.tagName} ${[...one.attributes].map(attribute => attribute.name).sort()}`)"""

# Browsers tell a page that it was scrolled when they draw next.
SCROLL: Final = """async (body, top) => {
  body.scrollTop = 30 * top;
  for (let frames = 0; frames < 2; frames++) await new Promise(requestAnimationFrame);
}"""


async def structures(notebook: OpenNotebook, panel: Locator, count: int) -> list[list[str]]:
    """Elements and their attributes' names: of the panel at every place of the table, and of its log."""
    found = []
    for top in range(0, count, 10):
        await panel.locator(".body").evaluate(SCROLL, top)
        await expect(panel.locator(f'.canvas .row[data-index="{max(0, min(top, count - 11))}"]')).to_be_visible()
        await expect(panel.get_by_role("grid")).to_have_attribute("aria-busy", "false")
        found.append(await panel.evaluate(STRUCTURE))
    await panel.get_by_role("tab", name="Log").click()
    await expect(panel.get_by_role("log")).to_be_visible()
    found.append(await panel.evaluate(STRUCTURE))
    return found


@pytest.mark.parametrize("count", [60, pytest.param(5000, marks=[pytest.mark.proof, pytest.mark.timeout(900)])])
async def test_hostile_texts_change_no_element_of_the_page(server: Lab, browser: Browser, count: int) -> None:
    setup = HOSTILE.replace("COUNT", str(count))
    server.write("hostile.ipynb", [setup, "await shown([])", "await shown(bits)", BROKEN])
    async with server.open(browser, "hostile.ipynb", viewport={"width": 1200, "height": 3600}) as notebook:
        await notebook.run(0, 1, 2)
        panels = notebook.page.locator(".outbox-panel")
        await expect(panels).to_have_count(2)
        plain, hostile = [await structures(notebook, panels.nth(number), count) for number in (0, 1)]
        for one, other in zip(hostile, plain, strict=True):
            assert one == other
        assert len(plain) == count // 10 + 1
        await expect(panels.nth(1)).to_contain_text("<img src=x onerror=window.taken=1>")
        assert not await notebook.page.evaluate("window.taken")
        await notebook.run(3)
        assert (await structures(notebook, panels.nth(2), 10))[0] != plain[0]
        assert await notebook.page.evaluate("window.taken")
        print(f"{count:,} entries, {sum(map(len, plain)):,} elements compared; the variant without escaping is caught")


PAINTED: Final = """async () => {
  const began = performance.now();
  const notebook = jupyterapp.shell.currentWidget.content;
  notebook.deselectAll();
  notebook.activeCellIndex = 1;
  let ran = null;
  jupyterapp.commands.execute('notebook:run-cell').then(() => { ran = performance.now(); });
  let painted = null;
  while (ran === null || painted === null) {
    await new Promise(requestAnimationFrame);
    if (document.querySelector('.outbox-panel .canvas .row:not([hidden])')?.textContent) painted ??= performance.now();
  }
  return [painted - began, painted - ran];
}"""


@pytest.mark.proof
@pytest.mark.timeout(600)
async def test_a_hundred_thousand_entries_are_painted_at_once_and_cost_little_on_the_wire(
    server: Lab, browser: Browser
) -> None:
    server.write("many.ipynb", [MANY.replace("COUNT", "100_000").replace("PAUSE", "0.005"), PANEL])
    async with server.open(browser, "many.ipynb") as notebook:
        page = notebook.page
        await notebook.run(0)
        from_click, after_cell = await page.evaluate(PAINTED)
        print(f"first rows {from_click:.0f} ms after the cell was started, {after_cell:+.0f} ms after it had ended")
        wire = await page.context.new_cdp_session(page)
        received: list[int] = []
        wire.on("Network.webSocketFrameReceived", lambda event: received.append(size_of(event["response"])))
        await wire.send("Network.enable")
        await notebook.button("Drain").click()
        await notebook.reaches("sent", 50)
        began, sent = len(received), await notebook.number("sent")
        started = await page.evaluate("performance.now()")
        await notebook.reaches("sent", sent + 300)
        seconds = (await page.evaluate("performance.now()") - started) / 1000
        some = received[began:]
        print(f"{sum(some) / seconds / 1000:.1f} kB/s in {len(some) / seconds:.1f} messages/s while draining")
        assert len(some) > 10
        assert await notebook.panel.locator(".canvas .row").count() < 40
        for share in (0.5, 0.99, 0.1):
            await notebook.panel.locator(".body").evaluate(
                "(body, share) => { body.scrollTop = share * body.scrollHeight }", share
            )
            await expect(notebook.rows.first).to_contain_text("queued")
        await notebook.panel.locator(".body").evaluate("body => { body.scrollTop = body.scrollHeight }")
        await expect(notebook.rows.last).to_contain_text("e099999")
        await notebook.button("Stop").click()
        await notebook.is_idle()
        assert await notebook.ask("queue.counts().total") == 100_000 - await notebook.number("sent")
        assert after_cell < 1000
        assert sum(some) / seconds < 50_000


def size_of(frame: dict[str, Any]) -> int:
    """Bytes of a message on the wire, as far as the browser tells: binary ones are told in base64."""
    data = frame["payloadData"]
    return len(base64.b64decode(data)) if frame["opcode"] == 2 else len(data.encode())
