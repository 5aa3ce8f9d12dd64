"""The two forms of a panel: one entry with what can be done about it, and a new entry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets

from starfish_outbox.notebook import live
from starfish_outbox.notebook.controller import PanelController
from starfish_outbox.notebook.details import Details
from starfish_outbox.notebook.page import cut, tag, value


class EntryDetails(ipywidgets.VBox):  # type: ignore[misc]  # ipywidgets ships no types
    """One entry: why it is not sent, what happened to it; a parked one can be corrected.

    Args:
        controller: what is told when a button is pressed.
    """

    def __init__(self, controller: PanelController) -> None:
        self._controller = controller
        self._shown: Details | None = None
        self._facts = ipywidgets.HTML()
        self._item = ipywidgets.Textarea(
            description="Item (JSON)", rows=6, layout={"width": "auto"}, style={"description_width": "auto"}
        )
        self._save = _button("Save and requeue", lambda id: controller.edit(id, self._item.value), self)
        self._retry = _button("Retry as it is", controller.retry, self)
        self._remove = _button("Remove…", lambda _: self._ask(True), self)
        self._close = _button("Close", lambda _: controller.select(None), self)
        self._question = ipywidgets.HTML()
        self._yes = _button("Remove it", controller.remove, self)
        self._yes.add_class("outbox-danger")
        self._no = _button("Keep it", lambda _: self._ask(False), self)
        self._confirm = ipywidgets.HBox([self._question, self._yes, self._no])
        self._buttons = ipywidgets.HBox([self._save, self._retry, self._remove, self._close])
        self._buttons.add_class("outbox-buttons")
        self._confirm.add_class("outbox-buttons")
        super().__init__([self._facts, self._item, self._buttons, self._confirm])
        self.add_class("outbox-details")
        self._ask(False)
        self.layout.display = "none"

    @property
    def id(self) -> str | None:
        """Of the entry that is shown."""
        return None if self._shown is None else self._shown.id

    def show(self, details: Details | None) -> None:
        """Show this entry; what somebody types meanwhile stays."""
        if details == self._shown:
            return
        before, self._shown = self._shown, details
        if details is None:
            self.layout.display = "none"
            return
        self._facts.value = live.details(details)
        if before is None or (before.id, before.item, before.status) != (details.id, details.item, details.status):
            self._item.value = details.item
            self._ask(False)
        self._item.disabled = not details.parked
        for widget, shown in (
            (self._item, details.status != "gone"),
            (self._save, details.parked),
            (self._retry, details.parked),
            (self._remove, details.status != "gone"),
        ):
            widget.layout.display = None if shown else "none"
        self.layout.display = None

    def _ask(self, asks: bool) -> None:
        if asks and self._shown is not None:
            words = tag("b", "Remove ", value(cut(self._shown.id, 60), 60), " for good?"), " It will not be sent."
            self._question.value = tag("div", *words, role="alert")
        else:
            self._question.value = ""
        self._confirm.layout.display = None if asks else "none"
        self._buttons.layout.display = "none" if asks else None


class AddForm(ipywidgets.VBox):  # type: ignore[misc]  # ipywidgets ships no types
    """A new entry, or some that are alike: to have something to play with.

    Args:
        controller: what is told when the button is pressed.
    """

    def __init__(self, controller: PanelController) -> None:
        style = {"description_width": "90px"}
        self._id = ipywidgets.Text(description="Id", value="note-1", style=style)
        self._item = ipywidgets.Textarea(
            description="Item (JSON)", value='{"text": "hello"}', rows=4, layout={"width": "auto"}, style=style
        )
        self._times = ipywidgets.BoundedIntText(description="How many", value=1, min=1, max=10_000, style=style)
        add = ipywidgets.Button(description="Add to the outbox", icon="plus")
        add.on_click(lambda _: controller.enqueue(self._id.value, self._item.value, self._times.value))
        add.add_class("outbox-main")
        super().__init__([self._id, self._item, self._times, add])
        self.add_class("outbox-form")


def _button(text: str, press: Callable[[str], object], details: EntryDetails) -> Any:
    button = ipywidgets.Button(description=text)

    def pressed(_: object) -> None:
        if details.id is not None:
            press(details.id)

    button.on_click(pressed)
    return button
