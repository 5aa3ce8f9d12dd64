"""The people of a schedule: each makes a few random calls in turn, and tells the book what they answered."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable
from typing import Any, Final

from starfish_outbox import CacheError, NotHydratedError, OutboxEntry, drain_outbox
from tests.schedule_book import Book, Pass, Send
from tests.schedule_plan import IDS, KEYS, NOT_DELIVERED, Plan, Process, Seat, not_delivered, silence


class Actors:
    """The calls that one process makes."""

    def __init__(self, plan: Plan, book: Book, process: Process) -> None:
        self.plan = plan
        self.book = book
        self.process = process
        self.random = plan.random

    async def act(self) -> None:
        """Some random calls, whatever becomes of each; who finds nobody signed in signs in."""
        for _ in range(self.plan.calls):
            seat = self.random.choice(self.process.seats)
            call = self.random.choice(_CALLS) if seat.session or self.random.random() < 0.2 else Actors.hydrate
            self.book.note(call.__name__, seat.session)
            try:
                await self.pause()
                await call(self, seat)
            except asyncio.CancelledError:
                self.book.note(call.__name__, "was cancelled")
                if self.plan.ending:
                    raise
                task = asyncio.current_task()
                while task is not None and task.cancelling():
                    task.uncancel()
            except (CacheError, NotHydratedError) as error:
                self.book.note(call.__name__, "raises", repr(error))

    async def settle(self) -> None:
        """No fault happens any more: everything must go out, and every queue must see that it did."""
        await asyncio.sleep(200)  # writes that hang come to an end
        for seat in self.process.seats:
            if seat.session is not None and seat.queue.status().key is not None:
                await self.drain(seat)
                self._nothing_stuck(seat)
        for key in KEYS:
            for seat in self.process.seats:
                await self.sign_in(seat, key)
            seat = self.random.choice(self.process.seats)
            for entry in seat.queue.get():
                if entry.status == "failed":
                    await seat.queue.retry(entry.id, reset_attempts=True)
            await self.drain(seat)
            for seat in self.process.seats:
                self.book.expect(not seat.queue.get(), f"{key} did not drain: {seat.queue.get()}")
            self.book.expect(not self.book.on_disk(key), f"{key} drained, but {self.book.on_disk(key)} are stored")
        for seat in self.process.seats:
            await seat.queue.close()

    async def pause(self) -> None:
        await asyncio.sleep(self.plan.delay())

    async def enqueue(self, seat: Seat, id: str | None = None) -> None:
        who, id = seat.session or self.random.choice(KEYS), id or self.random.choice(IDS)
        version = self.book.make(who, id)
        if await seat.queue.enqueue(id, version.item):
            self.book.acknowledged(version)
        else:
            self.book.refused(version)

    async def enqueue_many(self, seat: Seat) -> None:
        who = seat.session or self.random.choice(KEYS)
        versions = [self.book.make(who, id) for id in self.random.sample(IDS, 2)]
        answers = await seat.queue.enqueue_many([(version.id, version.item) for version in versions])
        for version, added in zip(versions, answers, strict=True):
            if added:
                self.book.acknowledged(version)
            else:
                self.book.refused(version)

    async def sign_in(self, seat: Seat, key: str) -> None:
        self.book.let_go(seat)
        self.book.counts["hydrate again" if seat.session == key else "switches"] += 1
        seat.session = key
        seat.epoch += 1
        epoch = seat.epoch
        await seat.queue.hydrate(key)
        bound = seat.queue.status().key
        self.book.expect(
            seat.epoch != epoch or bound == key, f"hydrate({key!r}) returned; the queue is bound to {bound}"
        )

    async def hydrate(self, seat: Seat) -> None:
        await self.sign_in(seat, self.random.choice(KEYS))

    async def hydrate_again(self, seat: Seat) -> None:
        if seat.session is not None:
            await self.sign_in(seat, seat.session)

    async def clear(self, seat: Seat) -> None:
        self._sign_out(seat)
        seat.queue.clear()

    async def close(self, seat: Seat) -> None:
        self._sign_out(seat)
        await seat.queue.close()

    async def refresh(self, seat: Seat) -> None:
        await seat.queue.refresh()

    async def retry(self, seat: Seat) -> None:
        await self._by_id(seat, self.random.choice(IDS), "retry")

    async def remove(self, seat: Seat) -> None:
        await self._by_id(seat, self.random.choice(IDS), "remove")

    async def replace(self, seat: Seat) -> None:
        """Take an item back and enqueue another under its id, as an edit form does."""
        id = self.random.choice(IDS)
        await self._by_id(seat, id, "remove")
        await self.enqueue(seat, id)

    async def claim(self, seat: Seat) -> None:
        """Claim by hand and, after a while, remove, put back, park, or forget it."""
        who, id = seat.session, self.random.choice(IDS)
        if who is None:
            return
        epoch, before = seat.epoch, self.book.undisturbed(who, id)
        try:
            if not await seat.queue.claim(id):
                return
        except asyncio.CancelledError:  # given back, unless that cannot be written: then the next hydrate does it
            self.book.hold(seat, who, id, over=True)
            raise
        meanwhile = seat.epoch != epoch or before is None or before != self.book.undisturbed(who, id)
        self.book.hold(seat, who, id, over=meanwhile)
        await self.pause()
        end = self.random.choice(("remove", "remove", "retry", "record_failure", "mark_failed", ""))
        if end and seat.epoch == epoch:
            await self._by_id(seat, id, end)

    async def drain(self, seat: Seat) -> None:
        run = self.book.begin_pass(self.process.number)
        send: Callable[[OutboxEntry[Any]], Any] = self._send_for(seat, run)
        timeout = self.random.choice((None, 5.0))
        if self.random.random() < 0.1:
            send, timeout = self._plain_send_for(seat, run), None
        limit = None if self.plan.calm else self.random.choice((None, None, 2))
        attempts = self.random.choice((1, 3))
        try:
            result = await drain_outbox(seat.queue, send, max_attempts=attempts, limit=limit, timeout=timeout)
        except BaseException:
            run.broken_off = True
            raise
        self.book.note(result)
        said = f"{result} after {run.delivered} deliveries"
        self.book.expect(self.process.dead or result.sent == run.delivered, said)

    def _sign_out(self, seat: Seat) -> None:
        self.book.counts["sign-outs"] += 1
        self.book.let_go(seat)
        seat.session = None
        seat.epoch += 1

    async def _by_id(self, seat: Seat, id: str, kind: str) -> None:
        who = seat.session or KEYS[0]
        acknowledged = [version for version in self.book.of[who, id] if version.acknowledged]
        call = self.book.by_id(who, id, kind)
        queue = seat.queue
        calls: dict[str, Callable[[], Awaitable[None]]] = {
            "remove": lambda: queue.remove(id),
            "retry": lambda: queue.retry(id),
            "record_failure": lambda: queue.record_failure(id, 2),
            "mark_failed": lambda: queue.mark_failed(id),
        }
        try:
            await calls[kind]()
        except (CacheError, NotHydratedError):
            self.book.by_id_over(who, id, call, [])
            raise
        self.book.by_id_over(who, id, call, acknowledged)

    def _nothing_stuck(self, seat: Seat) -> None:
        """After a pass without faults only claims made by hand are left: nobody else is there to end them."""
        for entry in seat.queue.get():
            if entry.status == "sending" and not self.book.holds[str(seat.session), entry.id]:
                self.book.fail(f"{entry.id} of {seat.session} is stuck in sending")

    def _send_for(self, seat: Seat, run: Pass) -> Callable[[OutboxEntry[Any]], Awaitable[None]]:
        """A ``send`` that, like one with a session cookie, delivers to whoever is signed in when it is called."""

        async def send(entry: OutboxEntry[Any]) -> None:
            sending, fate = self._begin(seat, run, entry)
            try:
                await self.pause()
                self._deliver(sending, fate)
                if fate == "hangs":
                    await asyncio.sleep(100)
                await self.pause()
                self._say(sending, fate)
            except BaseException as error:
                self._lost(sending, error)
                raise

        return send

    def _plain_send_for(self, seat: Seat, run: Pass) -> Callable[[OutboxEntry[Any]], None]:
        def send(entry: OutboxEntry[Any]) -> None:
            sending, fate = self._begin(seat, run, entry)
            try:
                self._deliver(sending, fate)
                self._say(sending, fate)
            except BaseException as error:
                self._lost(sending, error)
                raise

        return send

    def _begin(self, seat: Seat, run: Pass, entry: OutboxEntry[Any]) -> tuple[Send, str]:
        if self.process.dead:
            raise OSError(errno.ENETDOWN, "the process is dead")
        return self.book.begin_send(run, seat.session, entry), self.plan.send_fate()

    def _deliver(self, sending: Send, fate: str) -> None:
        if fate in NOT_DELIVERED:
            self.book.answer(sending, "no")
            raise not_delivered(fate)
        if fate != "request lost" and not self.process.dead:
            self.book.apply(sending)

    def _say(self, sending: Send, fate: str) -> None:
        if fate in ("request lost", "answer lost"):
            raise silence(self.random)
        if fate == "cancels itself":
            raise asyncio.CancelledError
        self.book.answer(sending, "ok")

    def _lost(self, sending: Send, error: BaseException) -> None:
        self.book.note("send raises", repr(error))
        if sending.answer == "":
            self.book.answer(sending, "lost")


_Call = Callable[[Actors, Seat], Awaitable[None]]
_CALLS: Final[list[_Call]] = [
    *[Actors.enqueue] * 8,
    *[Actors.enqueue_many] * 3,
    *[Actors.drain] * 7,
    *[Actors.hydrate] * 3,
    *[Actors.hydrate_again] * 2,
    *[Actors.claim] * 2,
    *[Actors.retry] * 2,
    Actors.remove,
    Actors.replace,
    Actors.clear,
    Actors.close,
    Actors.refresh,
]
