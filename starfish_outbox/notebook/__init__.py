"""In a notebook: an outbox without ``await``, a panel, cards, frames, and ``asyncio.run`` inside cells.

Each name is imported when it is first used; what needs a package of the extra says so then:
``pip install 'starfish-outbox[notebook]'``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starfish_outbox.notebook.blocking import BlockingOutbox as BlockingOutbox
    from starfish_outbox.notebook.cards import previews as previews
    from starfish_outbox.notebook.draining import BlockingDraining as BlockingDraining
    from starfish_outbox.notebook.frames import (
        BadRow as BadRow,
        Enqueued as Enqueued,
        FrameError as FrameError,
        Requeued as Requeued,
        enqueue_frame as enqueue_frame,
        requeue_frame as requeue_frame,
        to_frame as to_frame,
    )
    from starfish_outbox.notebook.magics import (
        load_ipython_extension as load_ipython_extension,
        unload_ipython_extension as unload_ipython_extension,
    )
    from starfish_outbox.notebook.nesting import Nesting as Nesting, nest as nest
    from starfish_outbox.notebook.panel import OutboxPanel as OutboxPanel
    from starfish_outbox.notebook.timeline import Timeline as Timeline, plot as plot
    from starfish_outbox.notebook.weather import Weather as Weather

_HOME = {
    "blocking": "BlockingOutbox",
    "cards": "previews",
    "draining": "BlockingDraining",
    "frames": "BadRow Enqueued FrameError Requeued enqueue_frame requeue_frame to_frame",
    "magics": "load_ipython_extension unload_ipython_extension",
    "nesting": "Nesting nest",
    "panel": "OutboxPanel",
    "timeline": "Timeline plot",
    "weather": "Weather",
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names.split()}

__all__ = sorted(_MODULE_OF)  # noqa: PLE0605  # the names above, each imported when it is first used


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{name} needs {error.name}: pip install 'starfish-outbox[notebook]'", name=error.name
        ) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
