"""``FlakySender``: a ``send`` that fails as planned, around another one or around a remote in memory."""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starfish_outbox.entry import OutboxEntry
from starfish_outbox.errors import UnackedError
from starfish_outbox.testing.faults import (
    CALL_FAULTS,
    CallFault,
    Hang,
    Hanging,
    Lost,
    Plan,
    Slow,
    exception_of,
    kind_of,
    raise_planned,
)

if TYPE_CHECKING:
    from starfish_outbox.drain.options import Send, SendMany


@dataclass
class Call:
    """One call of a `FlakySender`.

    Attributes:
        at: seconds by the event loop's clock.
        id: of the entry.
        item: of the entry.
        fault: what was planned for it, by the name of its class; empty: nothing.
        arrived: whether the remote got it, as far as this side can know.
        answered: whether the caller was told so.
    """

    at: float
    id: str
    item: Any
    fault: str = ""
    arrived: bool = False
    answered: bool = False


class FlakySender:
    """A ``send`` for `drain_outbox`: planned faults around a ``send`` of yours or, without one, a remote in memory.

    ```python
    from starfish_outbox import BusyError, MemoryCache, OfflineError, OutboxQueue, drain_outbox
    from starfish_outbox.testing import FlakySender, Lost

    queue, remote = OutboxQueue(MemoryCache()), FlakySender()  # or FlakySender(send): your own, in bad weather
    await queue.hydrate("outbox.me")
    await queue.enqueue_many([("nest-1", {"eggs": 2}), ("nest-2", {"eggs": 3})])
    remote.plan(OfflineError(), BusyError("later", 30))  # the first two calls, whoever makes them
    remote.plan(Lost(), id="nest-2")  # and its first call after that: stored, but the answer never comes
    while queue.counts().queued:
        await drain_outbox(queue, remote)
    remote.assert_delivered(["nest-1", "nest-2"], in_order=True)
    remote.assert_plan_used_up()
    assert remote.repeated == {"nest-2": 2}
    ```

    Args:
        send: what delivers; plain or async. None: everything arrives, and is kept here.
        odds: how often what happens in calls for which nothing is planned, such as ``{Lost(): 0.03}``.
        seed: of the dice; one entry meets the same faults with the same seed, whoever else is under way.
        latency: seconds that every call takes.

    Attributes:
        calls: every call, in order.
    """

    def __init__(
        self,
        send: Send | SendMany | None = None,
        *,
        odds: Mapping[CallFault, float] | None = None,
        seed: int = 0,
        latency: float = 0.0,
    ) -> None:
        self._send = send
        self._plan: Plan[CallFault] = Plan(CALL_FAULTS, odds, seed)
        self._latency = latency
        self._hanging = Hanging()
        self.calls: list[Call] = []

    def plan(self, *faults: CallFault | None, id: str | None = None) -> None:
        """Plan what the next calls meet, one fault each: those for this id or, without one, those for any.

        `Lost`: it arrives, then ``UnackedError`` is raised. `Slow`: it arrives late. `Hang`: until it is cancelled or
        `let_go`. An exception (``OfflineError()``, ``RejectedError("no")``, any other): raised, and nothing arrives.
        None: all goes well. What is planned for an id is met first.
        """
        self._plan.add(id, faults)

    def let_go(self) -> int:
        """Let the calls that hang go on; how many there were."""
        return self._hanging.let_go()

    async def __call__(self, entry: OutboxEntry[Any]) -> object:
        """Send one entry, or fail as planned."""
        fault = self._plan.next(entry.id)
        call = self._begin(entry, fault)
        await self._pass_time([fault])
        if isinstance(fault, Hang) and not fault.stored:
            await self._hanging.wait()
        raise_planned(fault)
        answer = await self._delegate(entry)
        call.arrived = True
        if isinstance(fault, Hang) and fault.stored:
            await self._hanging.wait()
        if isinstance(fault, Lost):
            raise UnackedError("the answer got lost, as planned")
        call.answered = True
        return answer

    async def send_many(self, entries: list[OutboxEntry[Any]]) -> list[object]:
        """The same for a drain with ``batch_size=``: what is not refused goes on to the own ``send`` as one list."""
        faults = [self._plan.next(entry.id) for entry in entries]
        calls = [self._begin(entry, fault) for entry, fault in zip(entries, faults, strict=True)]
        await self._pass_time(faults)
        answers: list[object] = [exception_of(fault) for fault in faults]
        if any(isinstance(fault, Hang) and not fault.stored for fault in faults):
            await self._hanging.wait()
        going = [number for number, refused in enumerate(answers) if refused is None]
        said = await self._delegate([entries[number] for number in going]) if going else None
        each = said if isinstance(said, Sequence) and not isinstance(said, str | bytes) else [said] * len(going)
        for number, answer in zip(going, each, strict=True):
            calls[number].arrived = not isinstance(answer, BaseException)
            answers[number] = answer
        if any(isinstance(fault, Hang) and fault.stored for fault in faults):
            await self._hanging.wait()
        for number in going:
            if isinstance(faults[number], Lost):
                answers[number] = UnackedError("the answer got lost, as planned")
            calls[number].answered = not isinstance(answers[number], BaseException)
        return answers

    @property
    def delivered(self) -> dict[str, Any]:
        """What arrived, item by id, in the order in which the ids first arrived."""
        return {call.id: call.item for call in self.calls if call.arrived}

    @property
    def duplicates(self) -> list[str]:
        """Ids that arrived again although the sender had been told that they had arrived: always a bug, in order."""
        told: defaultdict[str, list[Any]] = defaultdict(list)
        twice = []
        for call in self.calls:
            if call.arrived and call.item in told[call.id]:
                twice.append(call.id)
            if call.answered:
                told[call.id].append(call.item)
        return twice

    @property
    def repeated(self) -> dict[str, int]:
        """How often each id arrived that arrived more than once; after a lost answer the remote has to bear that."""
        times = Counter(call.id for call in self.calls if call.arrived)
        return {id: count for id, count in times.items() if count > 1}

    @property
    def injected(self) -> Counter[str]:
        """How many faults of each kind have happened: look at it before you believe a test."""
        return self._plan.injected

    def assert_delivered(self, ids: Iterable[str], *, in_order: bool = False) -> None:
        """Raises ``AssertionError`` unless just these ids arrived and none was sent again after it was acknowledged.

        Args:
            ids: what was to arrive.
            in_order: they also first arrived in this order.
        """
        wanted, got = list(ids), list(self.delivered)
        missing = [id for id in wanted if id not in self.delivered]
        extra = sorted(set(got) - set(wanted))
        if missing or extra:
            raise AssertionError(f"{len(missing)} never arrived: {missing[:5]}; {len(extra)} unexpected: {extra[:5]}")
        if in_order and got != wanted:
            at = next(number for number, (one, other) in enumerate(zip(got, wanted, strict=True)) if one != other)
            raise AssertionError(f"out of order: number {at} was {got[at]!r}, not {wanted[at]!r}")
        if twice := self.duplicates:
            raise AssertionError(f"sent again after they were acknowledged: {twice[:5]}")

    def assert_plan_used_up(self) -> None:
        """Raises ``AssertionError`` when a planned fault has not happened: a test without faults passes everything."""
        self._plan.assert_used_up()

    def _begin(self, entry: OutboxEntry[Any], fault: CallFault | None) -> Call:
        name = "" if fault is None else kind_of(fault)
        self.calls.append(Call(asyncio.get_running_loop().time(), entry.id, entry.item, name))
        return self.calls[-1]

    async def _pass_time(self, faults: Sequence[CallFault | None]) -> None:
        slow = max((fault.seconds for fault in faults if isinstance(fault, Slow)), default=0.0)
        if self._latency + slow:
            await asyncio.sleep(self._latency + slow)

    async def _delegate(self, argument: Any) -> object:
        if self._send is None:
            return None
        answer = self._send(argument)
        return await answer if inspect.isawaitable(answer) else answer
