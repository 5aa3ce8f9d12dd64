"""What a panel does when it is told to, without any front end: this is what its buttons call.

1. The queue belongs to one event loop. A command may come from any thread: it hops to that loop, and does nothing else.
2. Whatever a command raises ends in the error strip: raised in a callback, nobody would see it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

from starfish_outbox.entry import FAILED, OutboxEntry
from starfish_outbox.notebook.board import Board, LogLine, PanelState
from starfish_outbox.notebook.details import look_at, read_item
from starfish_outbox.notebook.drainer import Drainer, words_of
from starfish_outbox.notebook.throttle import Throttle
from starfish_outbox.notebook.timeline import timeline_of
from starfish_outbox.notebook.weather import Weather
from starfish_outbox.queue import OutboxQueue
from starfish_outbox.showing import counted

if TYPE_CHECKING:
    from starfish_outbox.drain import Send, SendMany

_AT_ONCE: Final = 1000  # entries that are changed together: they share a few commits
_LOOK_AROUND_EVERY: Final = 5.0
"""Seconds after which an idle queue is asked what other processes changed, while somebody looks."""


class PanelController:
    """Drains a queue as somebody with a mouse says, and tells what there is to see, at most 8 times a second.

    Its commands may be called from any thread and return at once; the future that they answer is done when they are,
    for those who want to wait (a widget does not).

    Args:
        queue: a hydrated queue.
        send: as for `drain_outbox`; a plain function is called in a thread.
        loop: the event loop that the queue belongs to.
        seed: of the dice for lost answers.
        options: of `drain_outbox` and `keep_draining`.

    Attributes:
        weather: what stands between the drain and ``send``.
        timeline: what was done, against time; all panels of one queue share it.

    Raises:
        ValueError, TypeError: an option is unfit.
    """

    def __init__(
        self,
        queue: OutboxQueue[Any],
        send: Send | SendMany,
        *,
        loop: asyncio.AbstractEventLoop,
        max_attempts: int = 5,
        concurrency: int = 1,
        seed: int = 0,
        **options: Any,
    ) -> None:
        self.queue = queue
        self.weather = Weather(send, seed=seed)
        self.timeline = timeline_of(queue)
        state = PanelState(counts=queue.counts(), max_attempts=max_attempts, concurrency=concurrency)
        self._board = Board(state, self._look, queue.now_ms)
        self._drainer = Drainer(queue, self.weather, self.timeline, self._board, options)
        self._loop = loop
        self._looked_around = loop.time()
        self._looking = Throttle(self._look_again, per_second=2.0)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._unsubscribe: Callable[[], None] = lambda: None
        loop.call_soon_threadsafe(self._begin)

    @property
    def state(self) -> PanelState:
        """What is to be seen."""
        return self._board.state

    @property
    def log(self) -> Sequence[LogLine]:
        """What happened, the last of it."""
        return list(self._board.log)

    def drain(self) -> Future[None]:
        """Send what is queued: one pass. A pass that is paused goes on."""
        return self._command("Drain", self._drain)

    def pause(self) -> Future[None]:
        """Start no other send until `resume`; a drain that is not under way is not paused."""
        return self._call("Pause", self._drainer.pause)

    def resume(self) -> Future[None]:
        """Go on after a pause."""
        return self._call("Resume", self._drainer.resume)

    def stop(self) -> Future[None]:
        """Start no other send, and be done with it; done when the sends under way have been recorded."""
        return self._command("Stop", self._drainer.stop)

    def keep(self, on: bool) -> Future[None]:
        """Drain again by itself from now on, or not."""
        return self._call("Keep draining", lambda: None if self._closed else self._drainer.keep(on))

    def switch(self, online: bool) -> Future[None]:
        """Switch the network on or off."""
        return self._call("Network", lambda: self._switch(online))

    def lose_answers(self, share: float) -> Future[None]:
        """Lose so many of the answers, from 0 to 1."""
        return self._call("Lose answers", lambda: self._lose_answers(share))

    def set_limits(self, *, max_attempts: int | None = None, concurrency: int | None = None) -> Future[None]:
        """How many attempts an entry has, and how many sends go at a time: from the next pass on."""
        return self._call("Limits", lambda: self._set_limits(max_attempts, concurrency))

    def retry_failed(self) -> Future[None]:
        """Queue all parked entries again, their attempts forgotten."""
        return self._command("Retry failed", self._retry_failed)

    def retry(self, id: str) -> Future[None]:
        """Queue one parked entry again, its attempts forgotten."""
        return self._command("Retry", lambda: self._retry([id]))

    def edit(self, id: str, text: str) -> Future[None]:
        """Give a parked entry another item, as JSON text, and queue it again."""
        return self._command("Save and requeue", lambda: self._edit(id, text))

    def remove(self, id: str) -> Future[None]:
        """Take an entry out of the queue for good, unless it is being sent."""
        return self._command("Remove", lambda: self._remove(id))

    def enqueue(self, id: str, text: str, times: int = 1) -> Future[None]:
        """Add an entry whose item is given as JSON text; ``times`` of them get ``-1``, ``-2``, … behind the id."""
        return self._command("Add", lambda: self._enqueue(id, text, times))

    def select(self, id: str | None) -> Future[None]:
        """Look at one entry closely, or at none."""
        return self._command("Details", lambda: self._select(id))

    def show_only(self, status: str | None) -> Future[None]:
        """Let the table be about one status, or about all."""
        return self._call("Show", lambda: self._board.change(only=status))

    def dismiss(self) -> Future[None]:
        """Empty the error strip."""
        return self._call("Dismiss", lambda: self._board.change(error=""))

    def refresh(self) -> Future[None]:
        """Learn what other processes changed."""
        return self._command("Refresh", self.queue.refresh)

    def close(self) -> Future[None]:
        """Stop, and watch the queue no longer."""
        return self._command("Close", self._close)

    def post(self, function: Callable[[], object]) -> None:
        """Call this on the queue's loop, soon; from any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function)

    def subscribe(self, listener: Callable[[], object]) -> None:
        """Call this plain function, on the queue's loop, when there is something new to see."""
        self._board.subscribe(listener)

    def rows(self, start: int, count: int) -> Sequence[OutboxEntry[Any]]:
        """Entries of those that the table is about, the oldest first. On the queue's loop."""
        return self.queue.page(max(0, start), max(0, count), status=self.state.only)

    def look_around(self) -> None:
        """Somebody looks: learn what other processes changed, now and then. On the queue's loop."""
        now = self._loop.time()
        if not self.state.running and not self._closed and now - self._looked_around >= _LOOK_AROUND_EVERY:
            self._looked_around = now
            self.refresh()

    def _command(self, name: str, start: Callable[[], Coroutine[Any, Any, None]]) -> Future[None]:
        async def guarded() -> None:
            try:
                await start()
            except Exception as error:  # noqa: BLE001  # nobody but the strip would tell
                self._board.fail(f"{name}: {words_of(error)}")

        if self._loop.is_closed():
            self._board.state = PanelState(mode="closed", error=f"{name}: the outbox was closed; open it again.")
            self._board.tell()
            ended: Future[None] = Future()
            ended.set_result(None)
            return ended
        return asyncio.run_coroutine_threadsafe(guarded(), self._loop)

    def _call(self, name: str, function: Callable[[], object]) -> Future[None]:
        async def call() -> None:
            function()

        return self._command(name, call)

    def _begin(self) -> None:
        if not self._closed:
            self._unsubscribe = self.queue.subscribe(self._queue_changed)
            self._queue_changed()

    async def _drain(self) -> None:
        if self._closed:
            raise RuntimeError("the panel was closed")
        self._drainer.start()

    def _switch(self, online: bool) -> None:
        if online != self.weather.online:
            self.weather.online = online
            self.timeline.mark("online" if online else "offline")
            self._board.say("The network was switched on." if online else "The network was switched off.")
        self._board.change(online=online)
        if online:
            self._drainer.wake()

    def _lose_answers(self, share: float) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"a share is a number from 0 to 1, not {share!r}")
        self.weather.lose_answers = share
        self._board.change(lose_answers=share)

    def _set_limits(self, max_attempts: int | None, concurrency: int | None) -> None:
        state = self.state
        self._drainer.limit(
            state.max_attempts if max_attempts is None else max_attempts,
            state.concurrency if concurrency is None else concurrency,
        )

    async def _retry_failed(self) -> None:
        await self._retry([entry.id for entry in self.queue.page(limit=None, status=FAILED)])

    async def _retry(self, ids: Sequence[str]) -> None:
        for start in range(0, len(ids), _AT_ONCE):
            some = ids[start : start + _AT_ONCE]
            await asyncio.gather(*(self.queue.retry(id, reset_attempts=True) for id in some))
        self._board.say(f"{counted(len(ids), 'entry was', 'entries were')} queued again.")

    async def _edit(self, id: str, text: str) -> None:
        if not await self.queue.edit(id, read_item(text)):
            raise ValueError(f"{id!r} is not parked (any more)")
        self._board.say(f"{id!r} was corrected and queued again.")

    async def _remove(self, id: str) -> None:
        if not await self.queue.cancel(id):
            raise ValueError(f"{id!r} is not in the queue, or is being sent")
        self._board.say(f"{id!r} was removed.")
        if self.state.selected is not None and self.state.selected.id == id:
            self._board.change(selected=None)

    async def _enqueue(self, id: str, text: str, times: int) -> None:
        item = read_item(text)
        ids = [id] if times == 1 else [f"{id}-{number}" for number in range(1, times + 1)]
        added = sum(await self.queue.enqueue_many([(one, item) for one in ids]))
        known = f"; {len(ids) - added:,} were there already, or were sent" if added < len(ids) else ""
        self._board.say(f"{counted(added, 'entry was', 'entries were')} added{known}.")

    async def _select(self, id: str | None) -> None:
        self._board.change(selected=None if id is None else await look_at(self.queue, id))

    async def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self._drainer.stop()
        self._unsubscribe()
        self._looking.end()
        self._board.change(mode="closed", reason="the panel was closed")
        self._board.flush()

    def _queue_changed(self) -> None:
        self._board.touch()
        if self.state.selected is not None:
            self._looking.touch()

    def _look_again(self) -> None:
        selected = self.state.selected
        if selected is not None and not self._closed:
            task = self._loop.create_task(self._reload(selected.id))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _reload(self, id: str) -> None:
        try:
            details = await look_at(self.queue, id)
        except Exception as error:  # noqa: BLE001  # as in a command
            self._board.fail(f"Details: {words_of(error)}")
            return
        selected = self.state.selected
        if selected is not None and selected.id == id and details != selected:
            self._board.change(selected=details)

    def _look(self) -> dict[str, Any]:
        weather = self.weather
        return {
            "counts": self.queue.counts(),
            "progress": self._drainer.progress(self._loop.time()),
            "turned_away": weather.turned_away,
            "lost": weather.lost,
        }
