"""``OutboxPanel``: an outbox in a notebook, with buttons. What it does stands in `controller`; this is what is seen."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import Future
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

try:
    import ipywidgets
except ImportError as missing:
    raise ImportError("OutboxPanel needs ipywidgets: pip install 'starfish-outbox[notebook]'") from missing

from starfish_outbox.knowing import moment
from starfish_outbox.notebook import live
from starfish_outbox.notebook.cards import card
from starfish_outbox.notebook.controller import PanelController
from starfish_outbox.notebook.controls import Setting, button, choice, classed, number, percent, put, row, switch
from starfish_outbox.notebook.form import AddForm, EntryDetails
from starfish_outbox.notebook.page import STYLE, tag
from starfish_outbox.notebook.throttle import Throttle
from starfish_outbox.queue import OutboxQueue

if TYPE_CHECKING:
    from starfish_outbox.drain import Send, SendMany

_TABS: Final = ("Entries", "Timeline", "Log", "Add")
_SHOW: Final = (("all", ""), ("queued", "queued"), ("sending", "sending"), ("failed", "failed"))


class OutboxPanel(ipywidgets.VBox):  # type: ignore[misc]  # ipywidgets ships no types
    """An outbox to look at, to drain and to break: the last line of a cell shows it.

    ```python
    OutboxPanel(queue, send)
    ```

    The network switch and the lost answers stand between the panel's drains and ``send``: for demonstrations.

    Args:
        outbox: a hydrated ``OutboxQueue``, in the notebook whose cells use it, or a ``BlockingOutbox``.
        send: as for `drain_outbox`; a plain function is called in a thread.
        max_attempts: failed attempts after which an entry is parked.
        concurrency: sends at a time.
        seed: of the dice for lost answers.
        options: of `drain_outbox` and `keep_draining`, such as ``timeout=`` and ``lane=``.

    Attributes:
        queue: the queue.
        controller: what it does; all that buttons do can be told to it, too.

    Raises:
        RuntimeError: an ``OutboxQueue`` is given where no event loop runs: in a script, use a ``BlockingOutbox``.
        ValueError, TypeError: an argument is unfit.
    """

    def __init__(
        self,
        outbox: Any,
        send: Send | SendMany,
        *,
        max_attempts: int = 5,
        concurrency: int = 1,
        seed: int = 0,
        **options: Any,
    ) -> None:
        self.queue, loop, self._call = _owner(outbox)
        self.controller = controller = PanelController(
            self.queue,
            send,
            loop=loop,
            max_attempts=max_attempts,
            concurrency=concurrency,
            seed=seed,
            **options,
        )
        self._key = self._call(lambda: self.queue.status().key)
        self._mark = f"outbox-saved-{secrets.token_hex(4)}"
        self._saved: list[Any] = []
        self._was_running = False
        self._seldom = Throttle(self._show_pictures, per_second=1.0)
        self._make_parts()
        super().__init__(self._laid_out())
        for name in ("starfish-outbox", "outbox-panel"):
            self.add_class(name)
        self._show()
        controller.subscribe(self._changed)

    def close(self) -> None:
        """Stop its drain, watch the queue no longer, and leave the page."""
        if not hasattr(self, "controller"):  # it was not made: ipywidgets closes what it collects
            ipywidgets.VBox.close(self)
            return
        self.controller.close().add_done_callback(lambda _: ipywidgets.VBox.close(self))

    def __repr__(self) -> str:
        counts = self.controller.state.counts
        return (
            f"<OutboxPanel of {self._key!r}: {counts.queued} queued, {counts.sending} sending, {counts.failed} failed>"
        )

    def _repr_mimebundle_(self, **_options: Any) -> dict[str, Any]:
        """The panel; for who has no kernel, what is known of the queue."""
        bundle: dict[str, Any] = {"text/plain": repr(self), "text/html": self._last_known()}
        if self._view_name is not None:
            bundle["application/vnd.jupyter.widget-view+json"] = {
                "version_major": 2,
                "version_minor": 0,
                "model_id": self.model_id,
            }
        return bundle

    def _ipython_display_(self) -> None:
        """The panel and, below it, what a notebook that is opened without a kernel shows: hidden while there is one."""
        from IPython.display import HTML, display

        pointer = tag("p", "The panel needs a kernel: run the cell again. What was known last stands below.")
        display({**self._repr_mimebundle_(), "text/html": pointer}, raw=True)  # type: ignore[no-untyped-call]
        shown = display(HTML(self._last_known()), display_id=True)  # type: ignore[no-untyped-call]
        if shown is not None:
            self._saved = [*self._saved[-3:], shown]

    def _make_parts(self) -> None:
        controller = self.controller
        self._table, has_script = _table_of(controller, f"Outbox {self._key}", self._call)
        self._head, self._numbers, self._error = ipywidgets.HTML(), ipywidgets.HTML(), ipywidgets.HTML()
        self._dismiss = button("Dismiss", controller.dismiss)
        self._drain = classed(button("Drain", controller.drain, icon="play"), "outbox-main")
        self._pause = button("Pause", self._pause_or_resume, icon="pause")
        self._stop = button("Stop", controller.stop, icon="stop")
        self._retry = button("Retry failed", controller.retry_failed, icon="refresh")
        self._keep = self._setting(switch("Keep draining"), controller.keep)
        self._network = self._setting(switch("Network", on=True), controller.switch)
        self._attempts = self._setting(number("Attempts"), lambda most: controller.set_limits(max_attempts=most))
        self._at_a_time = self._setting(number("At a time"), lambda most: controller.set_limits(concurrency=most))
        self._lose = self._setting(
            percent("Lose answers, %", slides=has_script), lambda share: controller.lose_answers(share / 100)
        )
        self._only = self._setting(choice("Show", _SHOW), lambda status: controller.show_only(status or None))
        self._details = EntryDetails(controller)
        self._timeline, self._log = ipywidgets.HTML(), ipywidgets.HTML()
        self._tabs = ipywidgets.Tab()
        self._tabs.observe(lambda _: controller.post(self._seldom.touch), "selected_index")

    def _setting(self, widget: Any, choose: Callable[[Any], Future[None]]) -> Setting:
        return Setting(widget, choose, again=lambda: self.controller.post(self._show))

    def _laid_out(self) -> list[Any]:
        entries = ipywidgets.VBox([self._only.widget, self._table, self._details])
        self._tabs.children = (entries, self._timeline, self._log, AddForm(self.controller))
        self._tabs.titles = _TABS
        settings = (self._network, self._lose, self._attempts, self._at_a_time)
        self._error_box = row("outbox-error", self._error, self._dismiss)
        css = files("starfish_outbox.notebook").joinpath("panel.css").read_text("utf-8")
        return [
            ipywidgets.HTML(f"{STYLE}<style>{css}\n.{self._mark} {{ display: none }}</style>"),
            self._head,
            self._numbers,
            self._error_box,
            row("outbox-buttons", self._drain, self._pause, self._stop, self._retry, self._keep.widget),
            row("outbox-settings", *(setting.widget for setting in settings)),
            self._tabs,
        ]

    def _pause_or_resume(self) -> object:
        paused = self.controller.state.mode in ("paused", "pausing")
        return self.controller.resume() if paused else self.controller.pause()

    def _changed(self) -> None:
        """On the queue's loop, at most 8 times a second."""
        self._show()
        if self.controller.state.mode == "closed":
            self._seldom.end()
        else:
            self._seldom.touch()

    def _show(self) -> None:
        state = self.controller.state
        put(self._head, value=live.headline(self._key, state, self.queue.now_ms()))
        put(self._numbers, value=live.numbers(state))
        put(self._error, value=live.error(state))
        put(self._error_box.layout, display=None if state.error else "none")
        paused = state.mode in ("paused", "pausing")
        put(self._drain, disabled=(state.running and not paused) or not state.counts.queued or state.mode == "closed")
        put(self._pause, disabled=not state.running, description="Resume" if paused else "Pause")
        put(self._pause, icon="play" if paused else "pause")
        put(self._stop, disabled=not state.running)
        put(self._retry, disabled=not state.counts.failed)
        self._keep.show(state.keeps)
        self._network.show(state.online)
        self._attempts.show(state.max_attempts)
        self._at_a_time.show(state.concurrency)
        self._lose.show(round(100 * state.lose_answers))
        self._only.show(state.only or "")
        self._details.show(state.selected)

    def _show_pictures(self) -> None:
        """What takes longer to draw, and need not be drawn so often; the last change is drawn too."""
        title = _TABS[self._tabs.selected_index or 0]
        if title == "Timeline":
            put(self._timeline, value=self.controller.timeline.svg())
        elif title == "Log":
            put(self._log, value=live.log(self.controller.log))
        running = self.controller.state.running
        if self._saved and not running:
            for shown in self._saved:
                shown.update(_html(self._last_known()))

    def _last_known(self) -> str:
        """What a notebook shows that is opened without a kernel."""
        what = tag("summary", f"Outbox {self._key}: last known, as of {moment(self.queue.now_ms())}")
        # JupyterLab would show "model not found" in the output before this one, where there is no panel (any more).
        hides = f".jp-OutputArea-child:not(:has(.outbox-panel)):has(+ .jp-OutputArea-child .{self._mark})"
        style = f"<style>{hides} {{ display: none }}</style>"
        return f'{style}<details open class="{self._mark}">{what}{self._call(lambda: card(self.queue))}</details>'


def _owner(outbox: Any) -> tuple[OutboxQueue[Any], asyncio.AbstractEventLoop, Callable[[Callable[[], Any]], Any]]:
    """The queue, its event loop, and how to call a function where that loop runs."""
    if isinstance(outbox, OutboxQueue):
        try:
            return outbox, asyncio.get_running_loop(), lambda function: function()
        except RuntimeError as none:
            raise RuntimeError(
                "no event loop runs here: make the panel in a cell of a notebook, or give it a BlockingOutbox"
            ) from none
    queue, portal = getattr(outbox, "queue", None), getattr(outbox, "portal", None)
    if not isinstance(queue, OutboxQueue) or portal is None:
        raise TypeError(f"a panel is for an OutboxQueue or a BlockingOutbox, not {type(outbox).__name__}")
    return queue, portal.loop, portal.do


def _table_of(controller: PanelController, title: str, call: Callable[[Callable[[], Any]], Any]) -> tuple[Any, bool]:
    """The table, and whether it has a script."""
    try:
        from starfish_outbox.notebook.table import FIRST, EntryTable, rows_of
    except ImportError:  # no anywidget
        from starfish_outbox.notebook.plain import EntryList

        return EntryList(controller), False
    return EntryTable(controller, title, call(lambda: rows_of(controller, 0, FIRST))), True


def _html(text: str) -> Any:
    from IPython.display import HTML

    return HTML(text)  # type: ignore[no-untyped-call]
