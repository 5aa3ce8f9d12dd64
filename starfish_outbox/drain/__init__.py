"""``drain_outbox``: one pass over what is queued. ``keep_draining``: pass after pass, for as long as it is wanted.

`options` says what a drain can be told, `lineup` which entry comes next, `pace` how many at a time, `passes` does a
pass, `asking` makes a send and judges its answer, `settling` says what is recorded of it, `results` what is told of it,
`keeping` when the next pass comes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starfish_outbox.backoff import Backoff
from starfish_outbox.drain.keeping import DrainState, KeepDraining, Probe
from starfish_outbox.drain.options import DrainOptions, Lane, OnParked, Send, SendMany, check_number
from starfish_outbox.drain.pace import Pace
from starfish_outbox.drain.passes import one_pass
from starfish_outbox.drain.results import DrainProgress, DrainResult, Stopped
from starfish_outbox.outcomes import Classify
from starfish_outbox.queue import OutboxQueue

__all__ = [
    "DrainProgress",
    "DrainResult",
    "DrainState",
    "KeepDraining",
    "Lane",
    "OnParked",
    "Probe",
    "Send",
    "SendMany",
    "Stopped",
    "drain_outbox",
    "keep_draining",
]


async def drain_outbox(
    queue: OutboxQueue[Any],
    send: Send | SendMany,
    *,
    max_attempts: int = 5,
    limit: int | None = None,
    timeout: float | None = None,
    on_progress: Callable[[DrainProgress], object] | None = None,
    classify: Classify | None = None,
    backoff: Backoff | None = None,
    concurrency: int = 1,
    lane: Lane | None = None,
    on_parked: OnParked = "free",
    batch_size: int | None = None,
    rate: float | None = None,
    receipts: bool = False,
) -> DrainResult:
    """Send what is queued, once, and say what happened.

    Args:
        queue: a hydrated queue; on one that is bound to no identity nothing happens.
        send: takes a copy of the entry and returns when the remote has it or already had it; else it raises (see
            ``starfish_outbox.errors``). A plain function is called on the event loop.
        max_attempts: failed attempts after which an entry is parked.
        limit: entries to take at most.
        timeout: seconds for one send; one that takes longer may have arrived (``UnackedError``).
        on_progress: called after each entry; what it raises is logged.
        classify: which ``SendError`` an exception of ``send`` stands for; None: a failed attempt.
        backoff: how long a failed entry is left alone (``nextAttemptAt``), and that a server's ``Retry-After`` is kept
            to, also by later passes; None neither sets nor honours it.
        concurrency: sends under way at a time; needs an async send. The first of a pass goes alone: while nobody
            answers, it finds out for all.
        lane: a function from an entry to the name of its lane. Within a lane one entry follows the other, and none
            overtakes one that did not get through; lanes run side by side. It is asked of every entry in each pass.
            Entries for which it raises share a lane, and the log says so.
        on_parked: whether a parked entry lets the rest of its lane go (``free``) or holds it (``hold``).
        batch_size: entries that one ``send`` gets, as a list; it answers a list with an exception for each that did not
            get through and anything else for each that did, or None for all; what it raises holds for all.
        rate: entries a second at most; the only thing that a pass waits for.
        receipts: keep what ``send`` returns (JSON, up to 10,000 bytes) in the ledger: see ``queue.history``.

    Raises:
        ValueError, TypeError: an argument is unfit, such as a plain ``send`` with a timeout: nothing interrupts it.
        CacheError: the queue cannot be read or written. What was sent and could not be recorded is ``maybe_sent``.
        CancelledError, KeyboardInterrupt: as they came; entries in flight are queued again, ``maybe_sent``.
    """
    options = DrainOptions(
        send,
        max_attempts=max_attempts,
        limit=limit,
        timeout=timeout,
        on_progress=on_progress,
        classify=classify,
        backoff=backoff,
        concurrency=concurrency,
        lane=lane,
        on_parked=on_parked,
        batch_size=batch_size,
        rate=rate,
        receipts=receipts,
    )
    return await one_pass(queue, options, Pace(concurrency, rate, adaptive=False))


def keep_draining(  # noqa: D417  # the others are described once, with drain_outbox
    queue: OutboxQueue[Any],
    send: Send | SendMany,
    *,
    max_attempts: int = 5,
    timeout: float | None = None,
    on_progress: Callable[[DrainProgress], object] | None = None,
    classify: Classify | None = None,
    backoff: Backoff | None = None,
    concurrency: int = 1,
    lane: Lane | None = None,
    on_parked: OnParked = "free",
    batch_size: int | None = None,
    rate: float | None = None,
    adaptive: bool = True,
    receipts: bool = False,
    interval: float = 60.0,
    probe: Probe | None = None,
) -> KeepDraining:
    """Drain for as long as it is awaited or entered: when something is enqueued, when it is woken, now and then.

    ```python
    async with keep_draining(queue, send, concurrency=8) as draining:
        await collect_all_day(queue)
        print(draining.state)
    ```

    Args:
        queue: a hydrated queue; it ends when that is closed or bound to another identity.
        send: and what follows: as for `drain_outbox`.
        backoff: how long a failed entry, an absent network and a busy server are left alone; by default up to 5 min.
        adaptive: go slower after the server asked to wait, and faster again bit by bit.
        interval: seconds, about which it looks for what other processes enqueued.
        probe: a cheap question whether the network is there, asked instead of a send while it was not: a function,
            plain or async, that answers False or raises when it is not.

    Raises:
        ValueError, TypeError: an argument is unfit.
        (When awaited) what a ``classify`` of the caller raises. A failing storage is logged and waited for.
    """
    options = DrainOptions(
        send,
        max_attempts=max_attempts,
        timeout=timeout,
        on_progress=on_progress,
        classify=classify,
        backoff=backoff,
        concurrency=concurrency,
        lane=lane,
        on_parked=on_parked,
        batch_size=batch_size,
        rate=rate,
        adaptive=adaptive,
        receipts=receipts,
    )
    if interval is None:
        raise TypeError("interval is a number of seconds, not None")
    check_number("interval", interval, "seconds")
    if probe is not None and not callable(probe):
        raise TypeError(f"probe is a function, not {type(probe).__name__}")
    return KeepDraining(queue, options, backoff or Backoff(), interval, probe)
