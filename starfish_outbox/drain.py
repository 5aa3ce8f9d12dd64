"""``drain_outbox``: one pass over what is queued: claim, send, settle.

1. The pass takes what is queued when it starts, oldest first; those asked before without an answer come last.
2. An entry is claimed, durably, before its send starts, and settled by that claim's token, never by its id.
3. A settlement travels with the next claim: one commit an entry.
4. Whatever ends a send (an answer, an error, a cancellation, Ctrl-C) is recorded before the pass goes on or ends.
5. The pass belongs to the identity it began with; after ``clear`` or ``hydrate(other)`` it records and stops.
6. A pass never sleeps.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from starfish_outbox import codec, transitions
from starfish_outbox.binding import Binding, Claimant
from starfish_outbox.caches.base import Outcome, Update, log
from starfish_outbox.checks import check_max_attempts
from starfish_outbox.entry import FAILED, QUEUED, Claim, LastError, OutboxEntry, StoredEntry
from starfish_outbox.errors import CacheError, UnackedError
from starfish_outbox.outcomes import Classify, classify as default_rule, describe, outcome_of
from starfish_outbox.queue import OutboxQueue
from starfish_outbox.transitions import Step

if TYPE_CHECKING:
    from starfish_outbox.outcomes import Outcome as Verdict

Send: TypeAlias = Callable[[OutboxEntry[Any]], Awaitable[object] | object]

Stopped: TypeAlias = Literal["finished", "offline", "unacked", "busy", "auth", "switched", "limit"]

UNACKED_IN_A_ROW = 3
"""Different entries without an answer, one after the other, that end a pass: it is the network, not the entries."""


@dataclass
class DrainResult:
    """What one pass did.

    Attributes:
        sent: entries the remote has.
        failed: entries parked as ``failed`` in this pass.
        stopped: why the pass ended: ``finished``, or what made going on pointless.
        left: entries still queued.
        retry_after: seconds the server asked to wait, or None.
        superseded: sends whose entry was removed, retried or parked meanwhile, so that nothing was recorded.
        reason: what stopped the pass, or else the last failure of a send, in words.
    """

    sent: int
    failed: int
    stopped: Stopped = field(default="finished", compare=False)
    left: int = field(default=0, compare=False)
    retry_after: float | None = field(default=None, compare=False)
    superseded: int = field(default=0, compare=False)
    reason: str = field(default="", compare=False)


@dataclass(frozen=True)
class DrainProgress:
    """Where a pass stands, after an entry was settled.

    Attributes:
        done: entries settled so far, of ``total`` that were queued when the pass began.
        id: the entry just settled.
        outcome: ``sent``, ``failed`` (parked), ``attempt`` (failed once more), or what stopped it.
    """

    sent: int
    failed: int
    done: int
    total: int
    id: str
    outcome: str


async def drain_outbox(
    queue: OutboxQueue[Any],
    send: Send,
    *,
    max_attempts: int = 5,
    limit: int | None = None,
    timeout: float | None = None,
    on_progress: Callable[[DrainProgress], object] | None = None,
    classify: Classify | None = None,
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

    Raises:
        ValueError, TypeError: an argument is unfit, such as a plain ``send`` with a timeout: nothing interrupts it.
        CacheError: the queue cannot be read or written. What was sent and could not be recorded is ``maybe_sent``.
        CancelledError, KeyboardInterrupt: as they came; the entry in flight is queued again, ``maybe_sent``.
    """
    check_max_attempts(max_attempts)
    if not callable(send):
        raise TypeError(f"send is a function that takes an entry, not {type(send).__name__}")
    if on_progress is not None and not callable(on_progress):
        raise TypeError(f"on_progress is a function, not {type(on_progress).__name__}")
    if inspect.iscoroutinefunction(on_progress):
        raise TypeError("on_progress is a plain function: nobody would await it")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise ValueError(f"limit is a whole number of at least 1, not {limit!r}")
    if timeout is not None:
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0:
            raise ValueError(f"timeout is a number of seconds above 0, not {timeout!r}")
        if not _is_async(send):
            raise ValueError(
                "timeout= needs an async send: nothing can interrupt a plain function; write `async def send`"
            )
    binding = await queue.bound_or_none()
    if binding is None:
        return DrainResult(0, 0, "switched", reason="the queue is bound to no identity: nothing was looked at or sent")
    claimant = Claimant(binding.store, "drain", queue.now_ms)
    rule = classify or default_rule
    run = _Pass(binding, claimant, send, queue.now_ms, max_attempts, limit, timeout, on_progress, rule)
    with binding.in_use():
        try:
            return await run.run()
        finally:
            claimant.close()


@dataclass
class _Settlement:
    """What will be recorded of one send: how, and what to count once it is."""

    entry: StoredEntry
    step: Step
    outcome: str
    counts_as: Literal["sent", "failed?", ""] = ""


@dataclass
class _Pass:
    """One pass: its options, and what is known so far."""

    binding: Binding
    claimant: Claimant
    send: Send
    now_ms: Callable[[], int]
    max_attempts: int
    limit: int | None
    timeout: float | None
    on_progress: Callable[[DrainProgress], object] | None
    rule: Classify
    result: DrainResult = field(default_factory=lambda: DrainResult(0, 0))
    sent: int = 0
    silent: int = 0
    done: int = 0
    total: int = 0
    trouble: str = ""

    async def run(self) -> DrainResult:
        await self.binding.refresh()
        todo = self._snapshot()
        self.total = len(todo)
        last: _Settlement | None = None
        taken = 0
        try:
            for seq in todo:
                if self.limit is not None and taken >= self.limit:
                    self._stop("limit", f"{self.limit} entries were taken")
                if self.binding.detached:
                    self._stop("switched", "the queue was bound to another identity")
                if self.result.stopped != "finished":
                    break
                token = self.claimant.token()
                entry, last = await self._claim(seq, token, last), None
                if entry is None:
                    continue
                if not self._is_ours(seq, token):  # the queue moved on, or the entry was removed, since it was claimed
                    await self._put_back(seq, transitions.release(token))
                    continue
                taken += 1
                last = await self._deliver(entry, token)
        finally:
            if last is not None:
                self._count(last, (await self._apply([_update(last)]))[0])
        if self.silent and self.result.stopped == "finished":
            self._stop("unacked", "no answer came back")
        self.result.reason = self.result.reason or self.trouble
        self.result.left = self.binding.state.counts().queued
        return self.result

    def _snapshot(self) -> list[int]:
        queued = [entry for entry in self.binding.state if entry.status == QUEUED and entry.id is not None]
        queued.sort(key=transitions.behind_the_rest)
        return [entry.seq for entry in queued]

    async def _claim(self, seq: int, token: Claim, last: _Settlement | None) -> StoredEntry | None:
        """The entry as it was when it was claimed, or None when it was not to be had; settles ``last`` on the way."""
        ops = [Update(transitions.claim(token, only_queued=True), seq=seq)]
        if last is not None:
            ops.insert(0, _update(last))
        try:
            *settled, claimed = await self._apply(ops)
        except asyncio.CancelledError:
            await self._put_back(seq, transitions.release(token))  # its send never started
            raise
        if last is not None:
            self._count(last, settled[0])
        return claimed.before if claimed.applied else None

    async def _deliver(self, entry: StoredEntry, token: Claim) -> _Settlement:
        """Send, ask once more when no answer came back, and say how to record it."""
        for ask_again in (True, False):
            try:
                await self._call(entry)
            except Exception as error:  # noqa: BLE001  # whatever a send raises is judged by the rule
                try:
                    verdict = outcome_of(error, self.rule)
                except Exception:  # the user's rule is broken: say so, but not at the cost of the entry
                    await self._put_back(
                        entry.seq, transitions.release(token, maybe_sent_ms=entry.maybe_sent_ms or self.now_ms())
                    )
                    raise
                if verdict == "unacked" and ask_again and self._is_ours(entry.seq, token):
                    entry = replace(entry, maybe_sent_ms=entry.maybe_sent_ms or self.now_ms())
                    continue
                return self._judge(entry, token, error, verdict)
            except BaseException:  # cancelled or interrupted: whether it arrived is unknown
                await self._put_back(
                    entry.seq, transitions.release(token, maybe_sent_ms=entry.maybe_sent_ms or self.now_ms())
                )
                raise
            break
        self.silent = 0
        self.sent += 1
        return _Settlement(entry, transitions.sent(token), "sent", "sent")

    def _is_ours(self, seq: int, token: Claim) -> bool:
        """Whether the queue still has this identity, and this pass the entry: else nothing more is sent."""
        current = self.binding.state.get(seq)
        return not self.binding.detached and current is not None and current.claim == token

    async def _call(self, entry: StoredEntry) -> None:
        copy = codec.public(entry)
        if self.timeout is None:
            answer = self.send(copy)
            if inspect.isawaitable(answer):
                await answer
            return
        clock = asyncio.timeout(self.timeout)
        try:
            async with clock:
                answer = self.send(copy)
                if inspect.isawaitable(answer):
                    await answer
        except TimeoutError as error:
            if clock.expired():
                raise UnackedError(f"no answer within {self.timeout:g} s") from error
            raise

    def _judge(self, entry: StoredEntry, token: Claim, error: Exception, verdict: Verdict) -> _Settlement:
        kind, words = describe(error)
        reason = f"{kind}: {words}" if words else kind
        last_error = LastError(kind, words[: codec.MAX_ERROR_MESSAGE], self.now_ms())
        if verdict == "unacked":
            return self._judge_silence(entry, token, last_error, reason)
        if verdict in ("offline", "busy", "auth"):
            self._stop(verdict, reason)
            while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
                error = error.exceptions[0]
            self.result.retry_after = getattr(error, "retry_after", None)
            # An entry that was asked twice, the second time without reaching anybody, may have arrived the first time.
            return _Settlement(entry, transitions.release(token, maybe_sent_ms=entry.maybe_sent_ms), verdict)
        self.silent = 0
        self.trouble = reason
        if verdict == "rejected":
            return _Settlement(
                entry, transitions.park(token, last_error, maybe_sent_ms=entry.maybe_sent_ms), "failed", "failed?"
            )
        step = transitions.attempt_failed(token, self.max_attempts, last_error, maybe_sent_ms=entry.maybe_sent_ms)
        return _Settlement(entry, step, "attempt", "failed?")

    def _judge_silence(self, entry: StoredEntry, token: Claim, error: LastError, reason: str) -> _Settlement:
        """Twice no answer. Where others got through in this pass it is this entry's own fault, and costs an attempt."""
        maybe_sent = entry.maybe_sent_ms or self.now_ms()
        self.silent += 1
        if self.silent >= UNACKED_IN_A_ROW:
            self._stop("unacked", reason)
        if self.sent:
            step = transitions.attempt_failed(token, self.max_attempts, error, maybe_sent_ms=maybe_sent)
            return _Settlement(entry, step, "unacked", "failed?")
        step = transitions.release(token, maybe_sent_ms=maybe_sent, error=error)
        return _Settlement(entry, step, "unacked")

    def _count(self, settlement: _Settlement, outcome: Outcome) -> None:
        """Count what was settled, now that it is durable, and tell whoever wants to know."""
        result, name = self.result, settlement.outcome
        if not outcome.applied:
            result.superseded += 1
        if settlement.counts_as == "sent":
            result.sent += 1
        elif settlement.counts_as and outcome.applied and outcome.entry and outcome.entry.status == FAILED:
            result.failed += 1
            name = "failed"
        self.done += 1
        if self.on_progress is not None:
            id = settlement.entry.id or ""
            try:
                self.on_progress(DrainProgress(result.sent, result.failed, self.done, self.total, id, name))
            except Exception:  # noqa: BLE001  # a picture that fails must not stop the work
                log.exception("on_progress failed; the pass goes on")

    def _stop(self, why: Stopped, reason: str) -> None:
        if self.result.stopped == "finished":
            self.result.stopped, self.result.reason = why, reason

    async def _apply(self, ops: list[Update]) -> list[Outcome]:
        recorded = self.binding.apply(ops)
        try:
            return await asyncio.shield(recorded)
        except asyncio.CancelledError:
            await asyncio.wait([recorded])  # what began is finished first; a second cancellation ends this wait
            raise

    async def _put_back(self, seq: int, step: Step) -> None:
        """Record on the way out; handed in before the first wait, so that a second cancellation cannot stop it."""
        try:
            await self._apply([Update(step, seq=seq)])
        except CacheError:
            # The claim dies with this pass: the next refresh takes the entry back as maybe sent.
            log.exception("an interrupted send could not be recorded")


def _update(settlement: _Settlement) -> Update:
    return Update(settlement.step, seq=settlement.entry.seq, sent=settlement.counts_as == "sent")


def _is_async(send: Send) -> bool:
    function: Any = send
    while isinstance(function, functools.partial):
        function = function.func
    code = getattr(type(function), "__call__", None)  # noqa: B004  # its code, not whether it can be called
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(code)
