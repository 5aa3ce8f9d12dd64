"""One pass over what is queued: claim, send, settle.

1. The pass takes what is queued when it starts, in the order that `lineup` says.
2. An entry is claimed, durably, before its send starts, and settled by that claim's token, never by its id.
3. Settlements travel with the next claims: one commit for all that is ready at that moment.
4. Whatever ends a send (an answer, an error, a cancellation, Ctrl-C) is recorded before the pass goes on or ends.
5. The pass belongs to the identity it began with; after ``clear`` or ``hydrate(other)`` it records and stops.
6. A pass never sleeps, but to keep to the rate that it was given.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from starfish_outbox import transitions
from starfish_outbox.binding import Binding, Claimant
from starfish_outbox.caches.base import Outcome, Update, log
from starfish_outbox.drain.asking import ask
from starfish_outbox.drain.lineup import Lineup
from starfish_outbox.drain.options import DrainOptions
from starfish_outbox.drain.pace import Pace
from starfish_outbox.drain.results import DrainProgress, DrainResult, stop
from starfish_outbox.drain.settling import Judge, Settlement
from starfish_outbox.entry import BUSY_HOLDS, FAILED, QUEUED, Claim, StoredEntry
from starfish_outbox.errors import CacheError
from starfish_outbox.queue import OutboxQueue

_LOOK_EVERY: Final = 1.0
"""Seconds after which a pass that keeps to its rate looks whether it was asked to stop."""

_MAY_GO: Final = ("finished", "limit")
"""What has stopped a pass (``finished``: nothing has) without a reason to hold back what is claimed already."""


@dataclass(frozen=True)
class Flight:
    """One entry on its way: as it was when it was claimed, and the claim."""

    entry: StoredEntry
    token: Claim


@dataclass
class Pass:
    """One pass: its options, and what is known so far."""

    binding: Binding
    claimant: Claimant
    options: DrainOptions
    pace: Pace
    now_ms: Callable[[], int]
    halt: Callable[[], bool]
    result: DrainResult = field(default_factory=lambda: DrainResult(0, 0))
    taken: int = 0
    begun: set[Claim] = field(default_factory=set)

    async def run(self) -> DrainResult:
        """Do it.

        Raises:
            As `drain_outbox`.
        """
        await self.binding.refresh()
        options, now_ms = self.options, self.now_ms()
        self.judge = Judge(options, self.now_ms, self.result)
        self.lineup = Lineup(self.binding.state, options.lane, options.on_parked, options.backoff, now_ms)
        if self.lineup.laneless:
            id, error = self.lineup.laneless[0]
            others = f" and {len(self.lineup.laneless) - 1:,} others" if len(self.lineup.laneless) > 1 else ""
            log.warning("lane= found none for %r%s (%r): they share one", id, others, error)
        self.pace.begin()
        if not self._server_asked_to_wait(now_ms):
            await (self._one_by_one() if options.concurrency == 1 else self._side_by_side())
        result = self.result
        if self.judge.silent and result.stopped == "finished":
            stop(self.result, "unacked", "no answer came back")
        result.reason = result.reason or self.judge.trouble
        result.left = self.binding.state.counts().queued
        result.waiting, result.next_attempt_ms = self.lineup.waiting, self.lineup.next_attempt_ms
        return result

    def _server_asked_to_wait(self, now_ms: int) -> bool:
        """Whether an earlier pass, perhaps of a process that is gone, was told to come back later than now."""
        backoff = self.options.backoff
        if backoff is None:
            return False
        holds = (
            backoff.waits(entry.next_attempt_ms, now_ms, entry.last_error.at_ms)
            for entry in self.binding.state
            if entry.status == QUEUED and entry.last_error is not None and entry.last_error.type == BUSY_HOLDS
        )
        wait = max(holds, default=0.0)
        if wait:
            stop(self.result, "busy", f"the server asked to wait for another {wait:.1f} s", wait)
        return wait > 0

    async def _one_by_one(self) -> None:
        settled: list[Settlement] = []
        try:
            while self._goes_on():
                await self._keep_pace(settled)
                batch = self._take()  # what was asked to stop meanwhile takes none
                if not batch:
                    break
                self.pace.started(asyncio.get_running_loop().time(), len(batch))
                flights, settled = await self._claim(batch, settled), []
                if flights:
                    settled = await self._deliver(flights)
        finally:
            await self._record(settled)

    async def _side_by_side(self) -> None:
        running: dict[asyncio.Task[list[Settlement]], list[Flight]] = {}
        settled: list[Settlement] = []
        loop = asyncio.get_running_loop()
        try:
            while True:
                ended = [task for task in running if task.done()]  # also those that ended while others were claimed
                for task in ended:
                    del running[task]
                    settled += task.result()
                batches: list[list[int]] = []
                while len(running) + len(batches) < self.pace.at_a_time and not self.pace.wait(loop.time()):
                    batch = self._take()
                    if not batch:
                        break
                    self.pace.started(loop.time(), len(batch))
                    batches.append(batch)
                if settled or batches:
                    flights, settled = await self._claim([seq for batch in batches for seq in batch], settled), []
                    size = self.options.batch_size or 1
                    for start in range(0, len(flights), size):
                        flock = flights[start : start + size]
                        running[loop.create_task(self._deliver(flock))] = flock
                    if len(flights) < sum(map(len, batches)):
                        continue  # some were not to be had: others may go in their place
                wait = self.pace.wait(loop.time())
                if running:
                    paced = wait > 0 and len(running) < self.pace.at_a_time and self.lineup.has_more
                    await asyncio.wait(running, timeout=wait if paced else None, return_when=asyncio.FIRST_COMPLETED)
                elif self._goes_on():
                    await asyncio.sleep(min(wait, _LOOK_EVERY))
                else:
                    return
        finally:
            try:
                settled += await self._land(running)
            finally:
                await self._record(settled)

    async def _land(self, running: dict[asyncio.Task[list[Settlement]], list[Flight]]) -> list[Settlement]:
        """The pass ends with sends under way: it was cancelled, or one of them raised what is no answer."""
        if not running:
            return []
        for task in running:
            task.cancel()
        await asyncio.wait(running)
        settled: list[Settlement] = []
        unsent: list[Flight] = []
        for task, flights in running.items():
            if not task.cancelled() and task.exception() is None:
                settled += task.result()
            elif flights[0].token not in self.begun:  # it was cancelled before its first step, and recorded nothing
                unsent += flights
        await self._put_back([_release(flight) for flight in unsent])
        return settled

    def _goes_on(self) -> bool:
        limit = self.options.limit
        if not self.lineup.has_more:
            return False
        if self.binding.detached:
            stop(self.result, "switched", "the queue was bound to another identity")
        elif self.halt():
            stop(self.result, "asked", "it was asked to stop")
        elif limit is not None and self.taken >= limit:
            stop(self.result, "limit", f"{limit} entries were taken")
        return self.result.stopped == "finished"

    def _take(self) -> list[int]:
        """The numbers of the entries that go next; empty: none, for now or for good."""
        if not self._goes_on():
            return []
        size = self.options.batch_size or 1
        if self.options.limit is not None:
            size = min(size, self.options.limit - self.taken)
        batch: list[int] = []
        while len(batch) < size and (seq := self.lineup.take()) is not None:
            batch.append(seq)
        self.taken += len(batch)
        return batch

    async def _keep_pace(self, settled: list[Settlement]) -> None:
        loop = asyncio.get_running_loop()
        if self.pace.wait(loop.time()):
            await self._record(settled)
            settled.clear()
        while (wait := self.pace.wait(loop.time())) and self._goes_on():  # noqa: ASYNC110  # no event tells what halt says
            await asyncio.sleep(min(wait, _LOOK_EVERY))

    async def _claim(self, seqs: Sequence[int], settled: Sequence[Settlement]) -> list[Flight]:
        """Record what is settled and claim these, in one commit; those that were to be had, as they were before."""
        tokens = [self.claimant.token() for _ in seqs]
        claims = [
            Update(transitions.claim(token, only_queued=True), seq=seq) for seq, token in zip(seqs, tokens, strict=True)
        ]
        try:
            outcomes = await self._apply([*map(_update, settled), *claims])
        except asyncio.CancelledError:
            # Their sends never started.
            await self._put_back(
                [Update(transitions.release(token), seq=seq) for seq, token in zip(seqs, tokens, strict=True)]
            )
            raise
        for settlement, outcome in zip(settled, outcomes, strict=False):
            self._count(settlement, outcome)
        flights = []
        for seq, token, outcome in zip(seqs, tokens, outcomes[len(settled) :], strict=True):
            if not outcome.applied or outcome.before is None:
                self.taken -= 1
                parked = outcome.entry is not None and outcome.entry.status == FAILED
                free = parked and self.options.on_parked == "free"
                self.lineup.done(seq, through=outcome.entry is None or free)
            else:
                flights.append(Flight(outcome.before, token))
        return flights

    async def _deliver(self, flights: list[Flight]) -> list[Settlement]:
        """Send, ask once more where no answer came back, and say how to record it; whatever is no answer is raised."""
        settled: list[Settlement] = []
        token = flights[0].token
        self.begun.add(token)
        try:
            if self.result.stopped not in _MAY_GO:  # said while these were being claimed
                await self._forgo(flights)
                return []
            while lost := [flight for flight in flights if not self._is_ours(flight.entry.seq, flight.token)]:
                flights = [flight for flight in flights if flight not in lost]
                await self._forgo(lost)
            if not flights:
                return []
            for ask_again in (True, False):
                answers = await ask(self.options, [flight.entry for flight in flights])
                again: list[Flight] = []
                for flight, answer in zip(flights, answers, strict=True):
                    unacked = answer.verdict == "unacked"
                    may_ask = ask_again and self.result.stopped in _MAY_GO
                    if unacked and may_ask and self._is_ours(flight.entry.seq, flight.token):
                        again.append(Flight(self._maybe_sent(flight.entry), flight.token))
                    else:
                        settled.append(self.judge.settle(flight.entry, flight.token, answer))
                if not again:
                    break
                flights = again
        except BaseException:  # cancelled or interrupted: whether it arrived is unknown; or the user's code is broken
            answered = {settlement.entry.seq for settlement in settled}
            unknown = [Flight(self._maybe_sent(flight.entry), flight.token) for flight in flights]
            releases = [_release(flight) for flight in unknown if flight.entry.seq not in answered]
            await self._put_back([*map(_update, settled), *releases])
            raise
        self.begun.discard(token)
        loop = asyncio.get_running_loop()
        heard = sum(settlement.outcome not in ("offline", "unacked", "busy") for settlement in settled)
        if heard:
            self.pace.answered(loop.time(), heard)
        if any(settlement.outcome == "busy" for settlement in settled):
            self.pace.told_to_wait(loop.time())
        for settlement in settled:
            parked = settlement.parks and self.options.on_parked == "free"
            self.lineup.done(settlement.entry.seq, through=settlement.outcome == "sent" or parked)
        return settled

    async def _forgo(self, flights: list[Flight]) -> None:
        """Send none of these: they were removed since they were claimed, or the queue moved on."""
        for flight in flights:
            self.taken -= 1
            self.lineup.done(flight.entry.seq, through=self.binding.state.get(flight.entry.seq) is None)
        await self._put_back([_release(flight) for flight in flights])

    def _maybe_sent(self, entry: StoredEntry) -> StoredEntry:
        return entry if entry.maybe_sent_ms is not None else replace(entry, maybe_sent_ms=self.now_ms())

    def _is_ours(self, seq: int, token: Claim) -> bool:
        """Whether the queue still has this identity, and this pass the entry: else nothing more is sent."""
        current = self.binding.state.get(seq)
        return not self.binding.detached and current is not None and current.claim == token

    def _count(self, settlement: Settlement, outcome: Outcome) -> None:
        """Count what was settled, now that it is durable, and tell whoever wants to know."""
        result, name = self.result, settlement.outcome
        if not outcome.applied:
            result.superseded += 1
        if settlement.counts_as == "sent":
            result.sent += 1
        elif settlement.counts_as and outcome.applied and outcome.entry and outcome.entry.status == FAILED:
            result.failed += 1
            name = "failed"
        result.done += 1
        if self.options.on_progress is not None:
            id = settlement.entry.id or ""
            try:
                progress = DrainProgress(result.sent, result.failed, result.done, self.lineup.total, id, name)
                self.options.on_progress(progress)
            except Exception:  # noqa: BLE001  # a picture that fails must not stop the work
                log.exception("on_progress failed; the pass goes on")

    async def _record(self, settled: Sequence[Settlement]) -> None:
        if settled:
            outcomes = await self._apply(list(map(_update, settled)))
            for settlement, outcome in zip(settled, outcomes, strict=True):
                self._count(settlement, outcome)

    async def _apply(self, ops: list[Update]) -> list[Outcome]:
        if not ops:
            return []
        recorded = self.binding.apply(ops)
        try:
            return await asyncio.shield(recorded)
        except asyncio.CancelledError:
            await asyncio.wait([recorded])  # what began is finished first; a second cancellation ends this wait
            raise

    async def _put_back(self, ops: list[Update]) -> None:
        """Record on the way out; handed in before the first wait, so that a second cancellation cannot stop it."""
        try:
            await self._apply(ops)
        except CacheError:
            # The claims die with this pass: the next refresh takes the entries back as maybe sent.
            log.exception("an interrupted send could not be recorded")


async def one_pass(
    queue: OutboxQueue[Any],
    options: DrainOptions,
    pace: Pace,
    *,
    only: Binding | None = None,
    halt: Callable[[], bool] = lambda: False,
) -> DrainResult:
    """One pass with options that were checked.

    Args:
        queue: whose entries.
        options: what it was told.
        pace: of a drain that may have made passes before.
        only: the identity that it is about; None: the one to which the queue is bound.
        halt: asked before each entry is taken; True ends the pass.

    Raises:
        As `drain_outbox`.
    """
    binding = await queue.bound_or_none()
    if binding is None:
        return DrainResult(0, 0, "switched", reason="the queue is bound to no identity: nothing was looked at or sent")
    if only is not None and binding is not only:
        return DrainResult(0, 0, "switched", reason="the queue was bound to another identity")
    claimant = Claimant(binding.store, "drain", queue.now_ms)
    with binding.in_use():
        try:
            return await Pass(binding, claimant, options, pace, queue.now_ms, halt).run()
        finally:
            claimant.close()


def _release(flight: Flight) -> Update:
    return Update(transitions.release(flight.token, maybe_sent_ms=flight.entry.maybe_sent_ms), seq=flight.entry.seq)


def _update(settlement: Settlement) -> Update:
    sent = settlement.counts_as == "sent"
    return Update(settlement.step, seq=settlement.entry.seq, sent=sent, receipt=settlement.receipt)
