"""Runs of many entries; ours, the published outbox and broken variants of ours go through the same.

What a run reports of the server was counted there: in the files of its store, and in what it answered.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.starfish.environment import EndedError
from tests.starfish.field import Field, Outbox, Software

ONE_EACH: Final = "/push/obs/{id}"
ONE_LOG: Final = "/push/log/all"
ONE_LIST: Final = "/push/obs/shared"
OURS: Final = Software("this package")
CONTROL: Final = Software("the published outbox", published=True)


@dataclass
class Report:
    """What became of a run.

    Attributes:
        software: what ran.
        enqueued: the ids.
        there: those whose content the server has, as it was enqueued.
        extra: how much more the server has: the same once more, or another content.
        queued: the ids that are still to be sent.
        parked: the ids that wait for a person.
        writes: how often the server answered a write with each status.
        seed: of the dice that lost answers.
        faults: what happened on the way, and how often.
    """

    software: Software
    enqueued: set[str]
    there: set[str]
    extra: int
    queued: set[str]
    parked: set[str]
    writes: Counter[int]
    seed: int
    faults: dict[str, int] = field(default_factory=dict)

    @property
    def missing(self) -> int:
        """Entries that the server has not."""
        return len(self.enqueued - self.there)

    @property
    def lost(self) -> int:
        """Entries that nobody has: neither the server nor an outbox."""
        return len(self.enqueued - self.there - self.queued - self.parked)

    @property
    def whole(self) -> bool:
        """Each entry is on the server once and as it was, nothing else is, and the outboxes are empty."""
        return not (self.missing or self.extra or self.queued or self.parked)

    def __str__(self) -> str:
        faults = ", ".join(f"{count} {what}" for what, count in self.faults.items())
        answers = ", ".join(f"{count} x {status}" for status, count in sorted(self.writes.items()))
        return (
            f"{self.software.name}: of {len(self.enqueued)} the server has {len(self.there)}, {self.missing} missing, "
            f"{self.lost} lost, {self.extra} extra; {len(self.queued)} queued, {len(self.parked)} parked; "
            f"{faults}; writes answered: {answers}; seed {self.seed}"
        )


def measured(number: int) -> dict[str, Any]:
    """An item."""
    return {"number": number, "mass": 3000 + number / 4, "site": "Biscoe 🐧", "seen": {"at": None, "by": ["ana", 1.0]}}


def _report(
    place: Field,
    software: Software,
    items: dict[str, Any],
    outboxes: Iterable[Outbox],
    found: Iterable[tuple[str, Any]],
) -> Report:
    """What is found on the server, under its id, against what was enqueued."""
    there = set()
    extra = 0
    for id, content in found:
        if id not in there and content == items.get(id):
            there.add(id)
        else:
            extra += 1
    queued = set().union(*(outbox.queued for outbox in outboxes))
    parked = set().union(*(outbox.parked for outbox in outboxes))
    faults = {"answers lost": place.wire.lost}
    return Report(software, set(items), there, extra, queued, parked, place.wire.writes, place.wire.seed, faults)


def _found(place: Field, kind: str) -> list[tuple[str, Any]]:
    """Ids and contents in the server's documents or its log; those of the control's elements are known by a number."""
    if kind == "push":
        return list(place.documents().items())
    return [(f"e{data['number']}", {k: v for k, v in data.items() if k != "_id"}) for data in place.elements()]


async def through_an_outage(
    folder: Path, software: Software, kind: str, *, size: int, lose: float, passes: int = 20
) -> Report:
    """The server is killed after two fifths, and is back after so many passes."""
    items = {f"e{number}": measured(number) for number in range(size)}
    async with Field(folder, lose=lose) as place:
        outbox = Outbox(place, software, kind, ONE_EACH if kind == "push" else ONE_LOG)
        await outbox.start()
        await outbox.enqueue(items)

        async def with_the_server_killed() -> bool:
            if place.wire.writes[200] < size * 2 // 5:
                return True
            place.kill_server()
            return False

        place.wire.on_answer = with_the_server_killed
        await outbox.drain()
        place.wire.on_answer = None
        stored = len(_found(place, kind))
        calls = []
        for _ in range(passes):
            await outbox.drain()
            calls.append(outbox.calls)
        await place.restart_server()
        await outbox.drain_all()
        report = _report(place, software, items, [outbox], _found(place, kind))
    report.faults |= {
        "on the server when it was killed": stored,
        "passes while it was down": len(calls),
        "calls in the busiest of them": max(calls),
    }
    return report


async def into_one_list(folder: Path, software: Software, *, size: int, lose: float) -> Report:
    """Two devices drain side by side into one document.

    An item is what is to be added, for software that merges; else it is the whole list as its device knows it.
    """
    names = ("ana", "bob")
    ids = [f"{name}{number}" for number in range(size // 2) for name in names]
    items = {id: {"id": id, **measured(number)} for number, id in enumerate(ids)}
    async with Field(folder, lose=lose) as place:
        outboxes = []
        for name in names:
            outbox = Outbox(place, software, "list", ONE_LIST, name)
            await outbox.start()
            own = {id: item for id, item in items.items() if id.startswith(name)}
            known: list[Any] = []
            lists: dict[str, Any] = {}
            for id, item in own.items():
                known.append(item)
                lists[id] = {"seen": list(known) if software.published else [item]}
            await outbox.enqueue(lists)
            outboxes.append(outbox)
        await asyncio.gather(*(outbox.drain_all() for outbox in outboxes))
        found = [(element["id"], element) for element in place.documents()["shared"]["seen"]]
        report = _report(place, software, items, outboxes, found)
    report.faults["conflicts"] = report.writes[409]
    return report


class _Killer:
    """Kills a device after so many answers: by the next request, which still gets through, or by an answer."""

    def __init__(self, place: Field, outbox: Outbox, *, after: int, by_answer: int) -> None:
        self._wire = place.wire
        self._outbox = outbox
        self._due = len(place.wire.said) + after
        self._by_answer = by_answer
        self._heard: int | None = None
        place.wire.on_request, place.wire.on_answer = (None, self._killing) if by_answer else (self._killing, None)

    async def _killing(self) -> bool:
        if len(self._wire.said) >= self._due and self._heard is None:
            self._heard = len(self._wire.said) - self._by_answer
            self._outbox.kill()
        return True

    async def done(self) -> int:
        """How many answers the server gave that the device did not live to hear."""
        await self._wire.settled()
        self._wire.on_request = self._wire.on_answer = None
        assert self._heard is not None, "it was not killed by us"
        return len(self._wire.said) - self._heard


async def with_its_process_killed(
    folder: Path, software: Software, kind: str, *, size: int, lose: float, kills: int
) -> Report:
    """The device is killed while four sends are under way: in turn before the server has one, and after it has it."""
    items = {f"e{number}": measured(number) for number in range(size)}
    async with Field(folder, lose=lose) as place:
        outbox = Outbox(place, software, kind, ONE_EACH if kind == "push" else ONE_LOG)
        unheard = 0
        for kill in range(kills):
            await outbox.start()
            if not kill:
                await outbox.enqueue(items)
            killer = _Killer(place, outbox, after=size // (kills + 2), by_answer=kill % 2)
            try:
                await outbox.drain(concurrency=4)
            except EndedError:
                unheard += await killer.done()
            else:
                raise AssertionError("it was through before it was killed")
        await outbox.start()
        await outbox.drain_all(concurrency=4)
        report = _report(place, software, items, [outbox], _found(place, kind))
    report.faults |= {"kills of the device": kills, "answers that it died before": unheard}
    return report


async def where_others_were_first(folder: Path, software: Software) -> tuple[Report, dict[str, Any], dict[str, Any]]:
    """Of 20 documents five are there, with another content; also what those are at the end, and what they were."""
    items = {f"e{number}": measured(number) for number in range(20)}
    theirs = {id: {"number": "of others"} for id in list(items)[::4]}
    async with Field(folder) as place:
        other = Outbox(place, Software("others"), "push", ONE_EACH, "bob")
        await other.start()
        await other.enqueue(theirs)
        await other.drain()
        outbox = Outbox(place, software, "push", ONE_EACH)
        await outbox.start()
        await outbox.enqueue(items)
        await outbox.drain_all()
        documents = place.documents()
        report = _report(place, software, items, [outbox], documents.items())
    return report, {id: documents[id] for id in theirs}, theirs
