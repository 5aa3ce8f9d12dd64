"""What tests of panels wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future

from starfish_outbox.notebook.board import PanelState
from starfish_outbox.notebook.controller import PanelController


async def done(future: Future[None]) -> None:
    """Returns when the command was done."""
    await asyncio.wrap_future(future)


async def seen(controller: PanelController, what: Callable[[PanelState], bool]) -> PanelState:
    """Returns once the panel shows it."""
    news = asyncio.Event()
    controller.subscribe(news.set)
    while not what(controller.state):
        await news.wait()
        news.clear()
    return controller.state


async def idle(controller: PanelController) -> PanelState:
    """Returns once nothing is under way."""
    return await seen(controller, lambda state: not state.running)


async def drained(controller: PanelController) -> PanelState:
    """Returns at the end of a pass."""
    await done(controller.drain())
    return await idle(controller)
