"""``keep_draining`` without ``await``: beside the body of a ``with`` or the cells that follow, or until it ends."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from starfish_outbox.caches.base import log
from starfish_outbox.drain import DrainProgress, DrainState, KeepDraining
from starfish_outbox.drawing import draw
from starfish_outbox.notebook.portal import Caller

if TYPE_CHECKING:
    from starfish_outbox.notebook.blocking import BlockingOutbox


class Progress:
    """An ``on_progress`` that shows it where somebody waits for the drain, and else where the drain runs.

    Attributes:
        caller: who waits, or None.
    """

    def __init__(self, show: Callable[[DrainProgress], object]) -> None:
        self._show = show
        self.caller: Caller | None = None

    def __call__(self, progress: DrainProgress) -> None:
        """Called by the pass."""
        if self.caller is None:
            self._safely(progress)
        else:
            self.caller.here(self._safely)(progress)

    def _safely(self, progress: DrainProgress) -> None:
        try:
            self._show(progress)
        except Exception:  # noqa: BLE001  # a picture that fails must not stop the work
            log.exception("on_progress failed; the drain goes on")


class BlockingDraining:
    """What `BlockingOutbox.keep_draining` returns; nothing happens until it is entered, started or run.

    Leaving the ``with`` lets sends that are under way end, and records them; an error or Ctrl-C in the body cuts async
    ones off (queued again as ``maybe_sent``) and waits for those that are plain functions.
    """

    def __init__(self, outbox: BlockingOutbox, inner: KeepDraining, progress: Progress | None) -> None:
        self._outbox = outbox  # which is not closed as dropped while this is there
        self._inner = inner
        self._progress = progress

    def __repr__(self) -> str:
        return repr(self._inner)

    def _repr_html_(self) -> str:
        return draw(self._inner)

    @property
    def state(self) -> DrainState:
        """What it is doing."""
        return self._inner.state

    @property
    def sent(self) -> int:
        """Entries that all its passes sent."""
        return self._inner.sent

    @property
    def failed(self) -> int:
        """Entries that they parked."""
        return self._inner.failed

    def start(self) -> Self:
        """Drain from now on, beside the cells that follow, until ``stop``, or until the outbox is closed.

        Raises:
            RuntimeError: it drains already.
            NotHydratedError: the outbox is closed.
        """
        try:
            self._outbox.run(self._begin())
        except KeyboardInterrupt as error:  # it may have begun
            self._outbox.run(self._end(error))
            raise
        return self

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._outbox.closed:
            self._outbox.run(self._end(error))

    def run(self) -> None:
        """Drain until ``stop`` is called in another thread or a callback, the outbox is closed, or Ctrl-C.

        Raises:
            As `keep_draining`; KeyboardInterrupt: once what was under way is recorded.
        """

        async def alone() -> None:
            await self._inner

        caller = Caller()
        if self._progress is not None:
            self._progress.caller = caller
        try:
            self._outbox.run(alone(), caller)
        finally:
            if self._progress is not None:
                self._progress.caller = None

    def wake(self) -> None:
        """Try now, whatever it waits for: the network is back, say. Wakes nothing that is paused."""
        self._tell(self._inner.wake)

    def pause(self, reason: str = "paused by the caller") -> None:
        """Start no other send until ``resume``; those under way go on to their end."""
        self._tell(lambda: self._inner.pause(reason))

    def resume(self) -> None:
        """Go on after a pause, at once."""
        self._tell(self._inner.resume)

    def stop(self) -> None:
        """Start no other send, and end once the sends under way are recorded; does not wait for that."""
        self._tell(self._inner.stop)

    def subscribe(self, listener: Callable[[DrainState], object]) -> Callable[[], None]:
        """Call this plain function with every new state, in the outbox's thread; the answer ends the subscription.

        Raises:
            TypeError: it is not callable, or is a coroutine function, which nobody would await.
        """
        return self._inner.subscribe(listener)

    def _tell(self, function: Callable[[], object]) -> None:
        if not self._outbox.closed:
            self._outbox.portal.do(function)

    async def _begin(self) -> None:
        _ = await self._inner.__aenter__()  # itself, which could be awaited as well
        self._outbox.drainings.append(self._inner)

    async def _end(self, error: BaseException | None) -> None:
        try:
            await self._inner.__aexit__(None if error is None else type(error), error, None)
        finally:
            self._outbox.drainings[:] = [one for one in self._outbox.drainings if one is not self._inner]
