"""A wall clock that stands still until it is told."""

from __future__ import annotations


class ManualClock:
    """Milliseconds since the Unix epoch that pass only when told: ``OutboxQueue(cache, clock=ManualClock())``.

    It is right for `drain_outbox`, whose passes never wait. `keep_draining` waits on the event loop, whose time this
    clock does not move: ``wake()`` it after a jump.

    ```python
    from starfish_outbox import Backoff, MemoryCache, OutboxQueue, drain_outbox
    from starfish_outbox.testing import FlakySender, ManualClock

    clock, remote = ManualClock(), FlakySender()
    remote.plan(RuntimeError("out of order"))
    queue = OutboxQueue(MemoryCache(), clock=clock)
    await queue.hydrate("outbox.me")
    await queue.enqueue("nest-1", {"eggs": 2})
    await drain_outbox(queue, remote, backoff=Backoff())  # fails, and is left alone for up to a second
    clock.jump(-86_400)  # somebody sets the date a day back
    await drain_outbox(queue, remote, backoff=Backoff())
    remote.assert_delivered(["nest-1"])  # it was not frozen for a day
    ```

    Attributes:
        now_ms: what it shows.
    """

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        """What it shows."""
        return self.now_ms

    def advance(self, seconds: float) -> None:
        """Let time pass.

        Raises:
            ValueError: less than 0 seconds; a clock that is put back takes a ``jump``.
        """
        if not seconds >= 0:
            raise ValueError(f"time does not pass backwards: {seconds!r} s; jump() puts the clock back")
        self.jump(seconds)

    def jump(self, seconds: float) -> None:
        """Put the clock forward or, with less than 0 seconds, back."""
        self.now_ms += round(seconds * 1000)
