"""A real browser for tests, driven by Playwright: the Chromium of this machine, or else Playwright's own.

``make browser`` sees to it that there is one.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from playwright.async_api import Browser, Page, async_playwright, expect

_NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
_ARGUMENTS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

expect.set_options(timeout=30_000)  # ms; what is not there at once comes in the end, also on a machine under load


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """A running Chromium without a window."""
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=list(_ARGUMENTS))
        try:
            yield browser
        finally:
            await browser.close()


@dataclass
class Watched:
    """An open page, and what it did that nobody asked for.

    Attributes:
        requests: the addresses that it asked for, its own included.
        problems: errors and warnings of its console, exceptions of its scripts, and dialogs.
    """

    page: Page
    requests: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@asynccontextmanager
async def opened(browser: Browser, url: str, **options: Any) -> AsyncIterator[Watched]:
    """The page at this address in a browser profile of its own.

    Args:
        browser: a running one.
        url: where the page is.
        options: of Playwright's ``new_context``, such as ``color_scheme="dark"``.
    """
    context = await browser.new_context(**options)
    try:
        watched = Watched(await context.new_page())
        page = watched.page
        page.on("request", lambda request: watched.requests.append(request.url))
        page.on("pageerror", lambda error: watched.problems.append(str(error)))
        page.on(
            "console",
            lambda said: watched.problems.append(said.text) if said.type in ("error", "warning") else None,
        )

        async def dismiss(dialog: Any) -> None:
            watched.problems.append(f"a dialog: {dialog.message}")
            await dialog.dismiss()

        page.on("dialog", dismiss)
        await page.goto(url)
        yield watched
    finally:
        await context.close()
