"""A class says that a notebook can draw it; `notebook.cards`, which draws it, is loaded when it is asked for."""

from __future__ import annotations

from importlib import import_module


def draw(thing: object) -> str:
    """The HTML card of one of our objects; see ``starfish_outbox.notebook.cards``."""
    html: str = import_module("starfish_outbox.notebook.cards").card(thing)  # by name: nothing here may import upwards
    return html


class Drawn:
    """Shows itself as a card in a notebook; elsewhere it costs nothing."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return draw(self)
