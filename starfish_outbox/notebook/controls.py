"""Widgets that somebody sets and that follow what is so: both at once, and neither undoes the other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import ipywidgets

_UNKNOWN = object()


class Setting:
    """A widget with a value.

    1. What is shown is set only where it changed: a value that somebody has just chosen is not taken back by a picture
       drawn before it was heard of.
    2. What is shown is not taken for a choice. (Callbacks run in the thread that sets the value.)

    Args:
        widget: of ipywidgets.
        choose: told what somebody chose; its answer is done when that has been tried.
        again: called then: what was refused is to be shown as it is.
    """

    def __init__(
        self, widget: Any, choose: Callable[[Any], Future[None]], again: Callable[[], object] = lambda: None
    ) -> None:
        self.widget = widget
        self._choose = choose
        self._again = again
        self._here = threading.local()
        self._shown: object = widget.value
        widget.observe(self._chosen, "value")

    def show(self, value: Any) -> None:
        """Show what is so."""
        if value == self._shown:
            return
        self._shown = value
        if self.widget.value != value:
            self._here.showing = True
            try:
                self.widget.value = value
            finally:
                self._here.showing = False

    def _chosen(self, change: dict[str, Any]) -> None:
        if not getattr(self._here, "showing", False):
            self._choose(change["new"]).add_done_callback(self._tried)

    def _tried(self, _: object) -> None:
        self._shown = _UNKNOWN
        self._again()


def put(widget: Any, **traits: Any) -> None:
    """Set what is another than it was: each setting is a message."""
    for name, new in traits.items():
        if getattr(widget, name) != new:
            setattr(widget, name, new)


def button(text: str, press: Callable[[], object], icon: str = "") -> Any:
    """A button."""
    made = ipywidgets.Button(description=text, icon=icon)
    made.on_click(lambda _: press())
    return made


def switch(text: str, *, on: bool = False) -> Any:
    """On or off."""
    return classed(ipywidgets.Checkbox(description=text, value=on, indent=False), "outbox-switch")


def number(text: str) -> Any:
    """A whole number from 1 to 1,000."""
    made = ipywidgets.BoundedIntText(description=text, value=1, min=1, max=1000, style={"description_width": "auto"})
    return classed(made, "outbox-number")


def percent(text: str, *, slides: bool) -> Any:
    """From 0 to 100. A slider of ipywidgets has no name for a screen reader until a script gives it one."""
    kind = ipywidgets.IntSlider if slides else ipywidgets.BoundedIntText
    made = kind(description=text, max=100, continuous_update=False, style={"description_width": "auto"})
    return made if slides else classed(made, "outbox-number")


def choice(text: str, options: Any) -> Any:
    """One of some."""
    return ipywidgets.Dropdown(options=options, description=text, style={"description_width": "auto"})


def row(name: str, *children: Any) -> Any:
    """Side by side."""
    return classed(ipywidgets.HBox(children), name)


def classed(widget: Any, name: str) -> Any:
    """The widget, with a class for its style."""
    widget.add_class(name)
    return widget
