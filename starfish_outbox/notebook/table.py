"""The entries as a table that shows a window of any number of them: thirty rows of the page at a time.

The front end says which rows it shows; these are sent to it whenever they changed, and no others. Each view of the
widget has a window of its own, and says so every few seconds: one that is silent is gone.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

import anywidget
import traitlets

from starfish_outbox.entry import OutboxEntry
from starfish_outbox.notebook.cards import PREVIEW, preview, previews
from starfish_outbox.notebook.controller import PanelController
from starfish_outbox.notebook.page import cut
from starfish_outbox.showing import ago

FIRST: Final = 24
"""Rows that are there from the first moment."""

_MOST: Final = 100  # rows that a view gets at most, whatever it asks for
_SILENT: Final = 30.0  # seconds after which a view is taken for gone
_LONGEST: Final = 120  # characters of an id or an error


@dataclass
class _Window:
    start: int
    count: int
    heard: float
    told: Any = None


class EntryTable(anywidget.AnyWidget):
    """The table.

    Args:
        controller: whose entries, and who is told which one was chosen.
        title: what the panel around it is called.
    """

    _esm = files("starfish_outbox.notebook").joinpath("table.js").read_text("utf-8")
    _css = files("starfish_outbox.notebook").joinpath("table.css").read_text("utf-8")
    title = traitlets.Unicode().tag(sync=True)
    first = traitlets.Dict(allow_none=True).tag(sync=True)

    def __init__(self, controller: PanelController, title: str, first: dict[str, Any]) -> None:
        super().__init__(title=title, first=first)
        self._controller = controller
        self._windows: dict[str, _Window] = {}
        self.on_msg(self._heard)
        controller.subscribe(self._tell)

    def _heard(self, _widget: object, content: Any, _buffers: object) -> None:
        """From the front end, on whatever thread."""
        if isinstance(content, dict):
            self._controller.post(lambda: self._do(content))

    def _do(self, asked: dict[str, Any]) -> None:
        match asked:
            case {"type": "window", "view": str(view), "number": int(number), "start": int(start), "count": int(count)}:
                now = asyncio.get_running_loop().time()
                self._windows = {name: one for name, one in self._windows.items() if now - one.heard < _SILENT}
                window = self._windows[view] = _Window(start, min(count, _MOST), now)
                self._answer(view, window, number)
                self._controller.look_around()
            case {"type": "select", "id": str(id)}:
                self._controller.select(id)
            case {"type": "gone", "view": str(view)}:
                self._windows.pop(view, None)

    def _tell(self) -> None:
        for view, window in self._windows.items():
            self._answer(view, window, None)

    def _answer(self, view: str, window: _Window, number: int | None) -> None:
        """Send what it shows: where it asked, or where it is another than it was."""
        shown = rows_of(self._controller, window.start, window.count)
        if number is not None or shown != window.told:
            window.told = shown
            self.send({"type": "rows", "view": view, "number": number, **shown})


def rows_of(controller: PanelController, start: int, count: int) -> dict[str, Any]:
    """What a window shows of the entries."""
    state = controller.state
    selected = None if state.selected is None else state.selected.id
    now_ms = controller.queue.now_ms()
    rows = [_cells(entry, now_ms) for entry in controller.rows(start, count)]
    return {"start": start, "total": state.shown, "rows": rows, "selected": selected, "only": state.only}


def _cells(entry: OutboxEntry[Any], now_ms: int) -> list[Any]:
    error = "" if entry.last_error is None else f"{entry.last_error.type}: {entry.last_error.message}"
    maybe = " (maybe sent)" if entry.maybe_sent_ms is not None else ""
    return [
        entry.id,
        cut(entry.id, _LONGEST),
        f"{cut(str(entry.status), 24)}{maybe}",
        entry.attempts,
        ago(entry.enqueued_at, now_ms),
        preview(entry.item, PREVIEW) if previews() else "",
        cut(error, _LONGEST),
    ]
