"""What ``drain`` and ``watch`` do, and what they say of it: one pass, or pass after pass until a signal."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

from starfish_outbox.caches.base import wall_clock_ms
from starfish_outbox.cli import exits
from starfish_outbox.cli.leftovers import Leftover, leftovers, tell
from starfish_outbox.cli.output import Screen, moment
from starfish_outbox.cli.picture import Picture, rate_in_words
from starfish_outbox.cli.stores import Place, RefusedError, quoted
from starfish_outbox.cli.target import Target
from starfish_outbox.cli.transfer import opened
from starfish_outbox.drain import DrainProgress, DrainResult, DrainState, KeepDraining, drain_outbox, keep_draining
from starfish_outbox.queue import OutboxQueue
from starfish_outbox.showing import counted, duration, printable
from starfish_outbox.state import Counts

_HELD: Final = "held back by others of their lane"
_RESTART: Final = "put that right, then end this (Ctrl-C) and start it again"


class Delivery:
    """What the two have in common: the entries of one place go to one target, and afterwards that is told.

    Args:
        screen: where it is told.
        place: whose entries.
        target: where they go.
        options: for `drain_outbox` and `keep_draining`, checked.
    """

    about_waiting = ""
    has_rate = False  # whether it was busy all the time

    def __init__(self, screen: Screen, place: Place, target: Target, options: Mapping[str, Any]) -> None:
        self.screen = screen
        self.place = place
        self.target = target
        self.options = options
        self.send = target.many if options["batch_size"] else target
        self.picture = Picture(screen, f"{quoted(place.key)} to {target.host}")
        self.result = DrainResult(0, 0)  # of all passes that ended
        self.limit: int | None = None
        self._sent = self._failed = 0  # in the pass that goes on
        self._seconds = 0.0
        self._interrupted = False
        self._counts = Counts()
        self._left: list[Leftover] = []

    def begins(self, name: str, queue: OutboxQueue[Any]) -> None:
        """A pass begins."""
        self.picture.begins(name, self._at_most(queue.counts().queued), self.totals(queue))

    def shows(self, queue: OutboxQueue[Any]) -> Callable[[DrainProgress], None]:
        """What to call after each entry."""

        def show(progress: DrainProgress) -> None:
            self._sent, self._failed = progress.sent, progress.failed
            self.picture.moved(progress, self._at_most(progress.total), self.totals(queue))

        return show

    def add(self, result: DrainResult) -> None:
        """A pass has ended."""
        before = self.result
        self.result = replace(
            result,
            sent=before.sent + result.sent,
            failed=before.failed + result.failed,
            superseded=before.superseded + result.superseded,
        )
        self._sent = self._failed = 0

    def totals(self, queue: OutboxQueue[Any]) -> str:
        """How far it is, in words."""
        counts = queue.counts()
        sent, failed = self.result.sent + self._sent, self.result.failed + self._failed
        return f"{sent:,} sent, {failed:,} failed, {counts.queued + counts.sending:,} to go"

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Shown while it lasts, and where a cancellation ends: what was on its way is put back by then."""
        began = time.monotonic()
        try:
            with self.picture.shown():
                yield
        except asyncio.CancelledError:
            self._interrupted = True
        finally:
            self._seconds = time.monotonic() - began

    async def look_at_what_is_left(self, queue: OutboxQueue[Any]) -> None:
        """For `tell`, while the queue is open."""
        await queue.refresh()
        self._counts = queue.counts()
        binding = await queue.bound_or_none()
        self._left = leftovers(binding.state, wall_clock_ms()) if binding is not None else []

    def tell(self) -> int:
        """Say what happened and what is left; the exit code."""
        result, counts, note = self.result, self._counts, self.screen.note
        sent, failed = result.sent + self._sent, result.failed + self._failed
        self.screen.say(f"{sent:,} sent, {failed:,} failed, {counts.total:,} left: {self.place}")
        tell(self.screen, self._left, wall_clock_ms())
        if self.has_rate and sent > 1:
            note(f"took {duration(max(1, self._seconds))}: {rate_in_words(sent / max(self._seconds, 0.001))}", "dim")
        if self._interrupted:
            note("interrupted; what was on its way is queued again, marked as maybe sent", "yellow")
        elif result.stopped != "finished":
            why = f": {printable(result.reason)}" if result.reason else ""
            note(f"stopped ({result.stopped}){why}", "yellow")
        if result.retry_after is not None:
            note(f"the server asks to wait {duration(result.retry_after)}", "yellow")
        if result.superseded:
            note(f"{result.superseded:,} sent, but changed here meanwhile: nothing was recorded of them")
        if result.waiting:
            passed_over = counted(result.waiting, "entry was passed over", "entries were passed over")
            due = result.next_attempt_ms
            why = _HELD if due is None else f"not due, the first at {moment(due)}{self.about_waiting}"
            note(f"{passed_over}: {why}", "yellow")
        if counts.failed:
            note(f"{counts.failed:,} failed: `list --status failed` says why, `retry` puts them back", "red")
        self.screen.emit(
            {
                "store": str(self.place.store.path),
                "kind": self.place.store.kind,
                "key": self.place.key,
                "to": str(self.target),
                "sent": sent,
                "failed": failed,
                "superseded": result.superseded,
                "seconds": round(self._seconds, 3),
                "stopped": "interrupted" if self._interrupted else result.stopped,
                "reason": result.reason,
                "retryAfter": result.retry_after,
                "waiting": result.waiting,
                "nextAttemptAt": result.next_attempt_ms,
                "left": counts._asdict(),
                "reasons": [group.fields() for group in self._left],
            }
        )
        if self._interrupted:
            return exits.INTERRUPTED
        return exits.LEFT if counts.total else exits.DONE

    def _at_most(self, total: int) -> int:
        return total if self.limit is None else min(total, self.limit)


class OnePass(Delivery):
    """What ``drain`` does. Ctrl-C and SIGTERM cut it off."""

    about_waiting = "; --now does not wait"
    has_rate = True

    async def run(self, limit: int | None) -> None:
        """Do it.

        Raises:
            CacheError: the queue cannot be opened, read or written.
        """
        self.limit = limit
        async with opened(self.place) as queue, self.target:
            with self.under_way(), on_signals((signal.SIGTERM,), _this_task().cancel):
                self.begins("sending", queue)
                shows = self.shows(queue)
                self.add(await drain_outbox(queue, self.send, limit=limit, on_progress=shows, **self.options))
            await self.look_at_what_is_left(queue)


class Watch(Delivery):
    """What ``watch`` does. A first Ctrl-C or SIGTERM lets sends under way end, a second one cuts them off.

    Args:
        screen: as the other arguments up to ``options``: see `Delivery`.
        until_empty: end once nothing is left that it could send.
        retry_auth: seconds after which refused credentials are tried again; None: never.
    """

    def __init__(
        self,
        screen: Screen,
        place: Place,
        target: Target,
        options: Mapping[str, Any],
        *,
        until_empty: bool,
        retry_auth: float | None,
    ) -> None:
        super().__init__(screen, place, target, options)
        self._until_empty = until_empty
        self._retry_auth = retry_auth
        self._retrying: asyncio.Task[None] | None = None
        self._state = DrainState("idle")
        self._asked = False

    async def run(self, *, interval: float, probe: bool, adaptive: bool) -> None:
        """Do it.

        Raises:
            CacheError: the queue cannot be opened.
        """
        async with opened(self.place) as queue, self.target:
            draining = keep_draining(
                queue,
                self.send,
                on_progress=self.shows(queue),
                adaptive=adaptive,
                interval=interval,
                probe=self.target.probe() if probe else None,
                **self.options,
            )
            draining.subscribe(lambda state: self._hears(state, queue, draining))
            task = _this_task()
            signals = on_signals((signal.SIGINT, signal.SIGTERM), lambda: self._is_asked_to_end(draining, task))
            with self.under_way(), signals:
                try:
                    await draining
                finally:
                    if self._retrying is not None:
                        self._retrying.cancel()
            self._say_why_it_ended()
            await self.look_at_what_is_left(queue)

    def _hears(self, state: DrainState, queue: OutboxQueue[Any], draining: KeepDraining) -> None:
        """Something new of `keep_draining`."""
        news = state.result if state.result is not self._state.result else None
        if news is not None:
            self.add(news)
        if state.name == "ended":
            return
        self._state = state
        until_ms, text = state.until_ms, state.reason
        match state.name:
            case "draining":
                self.begins("draining", queue)
                return
            case "idle":
                text = "nothing to send"
            case "paused" if self._retry_auth is not None:
                until_ms = wall_clock_ms() + round(1000 * self._retry_auth)
                self._retrying = asyncio.get_running_loop().create_task(self._try_again(self._retry_auth, draining))
            case "paused" if self._until_empty:
                draining.stop()
            case "paused":
                text = f"{text}; {_RESTART}"
        self.picture.rests(state.name, text or _HELD, until_ms, self.totals(queue))
        if self._until_empty and news is not None and _is_at_its_end(news):
            draining.stop()

    async def _try_again(self, seconds: float, draining: KeepDraining) -> None:
        """Credentials may have been put right at the server, or in a file of headers."""
        while True:
            await asyncio.sleep(seconds)
            try:
                await self.target.read_headers_again()
            except (RefusedError, OSError) as error:
                self.screen.note(f"note: the headers cannot be read: {printable(str(error))}", "yellow")
            else:
                draining.resume()
                return

    def _is_asked_to_end(self, draining: KeepDraining, task: asyncio.Task[Any]) -> None:
        if self._asked:
            task.cancel()
            return
        self._asked = True
        if draining.state.name == "draining":
            self.screen.note("ending: sends under way are waited for; Ctrl-C again cuts them off", "yellow")
        draining.stop()

    def _say_why_it_ended(self) -> None:
        state = self._state
        if state.name == "paused":
            self.result.stopped, self.result.reason = "auth", state.reason
        elif self._asked:
            resting = state.name in ("offline", "waiting")
            self.result.stopped, self.result.reason = "asked", f"{state.name}: {state.reason}" if resting else ""


@contextmanager
def on_signals(numbers: tuple[signal.Signals, ...], call: Callable[[], object]) -> Iterator[None]:
    """While entered, these signals call a function in the running loop and do nothing else.

    One that whoever started this process had ignored stays ignored; in a thread that gets no signals nothing changes.
    """
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in numbers}
    if threading.current_thread() is not threading.main_thread():
        before = {}
    mine = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for number in mine:
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(call))
    try:
        yield
    finally:
        for number, handler in mine.items():
            signal.signal(number, handler)


def _is_at_its_end(result: DrainResult) -> bool:
    """Whether nothing is left that a later pass could send by itself."""
    held = result.waiting == result.left and result.next_attempt_ms is None
    return result.stopped == "finished" and (not result.left or held)


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None, "called from a coroutine"  # noqa: S101  # for the type checker
    return task
