"""The entries where anywidget is missing: pages of a list, made of what ipywidgets has."""

from __future__ import annotations

from typing import Any, Final

import ipywidgets

from starfish_outbox.entry import OutboxEntry
from starfish_outbox.notebook.cards import preview, previews
from starfish_outbox.notebook.controller import PanelController
from starfish_outbox.notebook.page import cut
from starfish_outbox.showing import counted

PAGE: Final = 20
"""Entries on one page."""


class EntryList(ipywidgets.VBox):  # type: ignore[misc]  # ipywidgets ships no types
    """The list, and buttons that turn its pages.

    Args:
        controller: whose entries, and who is told which one was chosen.
    """

    def __init__(self, controller: PanelController) -> None:
        self._controller = controller
        self._start = 0
        self._list = ipywidgets.Select(description="Entries", rows=12, layout={"width": "auto"})
        self._where = ipywidgets.Label()
        self._back = ipywidgets.Button(description="Earlier", tooltip="The page before this one")
        self._on = ipywidgets.Button(description="Later", tooltip="The page after this one")
        self._back.on_click(lambda _: self._turn(-PAGE))
        self._on.on_click(lambda _: self._turn(PAGE))
        self._list.observe(self._chosen, "value")
        super().__init__([self._list, ipywidgets.HBox([self._back, self._on, self._where])])
        controller.subscribe(self._tell)
        controller.post(self._tell)

    def _turn(self, by: int) -> None:
        def turn() -> None:
            self._start = max(0, self._start + by)
            self._tell()

        self._controller.post(turn)

    def _chosen(self, change: dict[str, Any]) -> None:
        selected = self._controller.state.selected
        if change["new"] is not None and (selected is None or selected.id != change["new"]):
            self._controller.select(change["new"])

    def _tell(self) -> None:
        total = self._controller.state.shown
        if self._start >= total:
            self._start = max(0, (total - 1) // PAGE * PAGE)
        entries = self._controller.rows(self._start, PAGE)
        options = tuple({_line(entry): entry.id for entry in entries}.items())
        if options != self._list.options:
            chosen = self._list.value
            self._list.options = options
            self._list.value = chosen if chosen in dict(options).values() else None
        end = min(self._start + PAGE, total)
        self._where.value = f"{self._start + 1:,}–{end:,} of {total:,}" if total else "Nothing is waiting."
        self._back.disabled = self._start == 0
        self._on.disabled = end >= total


def _line(entry: OutboxEntry[Any]) -> str:
    error = "" if entry.last_error is None else f"{entry.last_error.type}: {entry.last_error.message}"
    tries = counted(entry.attempts, "try", "tries") if entry.attempts else ""
    item = preview(entry.item, 40) if previews() else ""
    return " · ".join(filter(None, (cut(entry.id, 60), str(entry.status), tries, item, cut(error, 60))))
