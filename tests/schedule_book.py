"""What a schedule did, as an outsider sees it, and the promises that it must not break.

The book knows nothing of how the queue works: only calls and their answers, what lies on the disk, and what reached
the remotes. Every enqueue carries an item of its own (a *version*), made for the identity whose session it is.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any, Literal

from starfish_outbox import OutboxEntry

Answer = Literal["", "ok", "no", "lost"]
"""How a send ended: not yet, delivered, certainly not delivered, or nobody knows."""


@dataclass
class Pass:
    """One ``drain_outbox`` of one process; ``broken_off``: it was cancelled, raised, or its process died."""

    process: int
    task: asyncio.Task[Any] | None
    broken_off: bool = False
    delivered: int = 0


@dataclass
class Send:
    """One call of ``send``."""

    run: Pass
    version: Version
    answer: Answer = ""
    applied: bool = False

    @property
    def in_doubt(self) -> bool:
        """Whether the queue may not know that it was delivered: only then may it send again, and must mark it."""
        return self.answer == "lost" or (self.answer != "no" and self.run.broken_off)

    @property
    def in_flight(self) -> bool:
        return self.answer == "" and not self.run.broken_off


@dataclass
class Version:
    """One enqueued item.

    Attributes:
        may_go: somebody called ``remove`` on its id.
        removed: such a call returned; it must not come back.
        meddled: somebody called ``record_failure`` or ``mark_failed`` on its id, which (as published) take no notice of
            a drain that holds it: that it is sent twice is then the caller's doing.
    """

    number: int
    who: str
    id: str
    acknowledged: bool = False
    may_go: bool = False
    removed: bool = False
    meddled: bool = False
    sends: list[Send] = field(default_factory=list)

    @property
    def delivered(self) -> bool:
        return any(send.applied for send in self.sends)

    @property
    def item(self) -> dict[str, Any]:
        return {"who": self.who, "n": self.number}


@dataclass(eq=False)
class Hold:
    """A bare claim that was answered True; ``over`` once anything gave it back."""

    seat: object
    over: bool = False


@dataclass(eq=False)
class ByIdCall:
    """A ``remove``, ``record_failure``, ``mark_failed`` or ``retry`` under way; may hit what comes meanwhile."""

    kind: str


class Book:
    """See the module. ``broken`` holds what was found; the loop looks before each step."""

    def __init__(self) -> None:
        self.broken: list[str] = []
        self.counts: Counter[str] = Counter()
        self.trace: list[tuple[Any, ...]] = []
        self.versions: list[Version] = []
        self.of: defaultdict[tuple[str, str], list[Version]] = defaultdict(list)
        self.holds: defaultdict[tuple[str, str], list[Hold]] = defaultdict(list)
        self._by_id_calls: Counter[tuple[str, str]] = Counter()
        self.passes: list[Pass] = []
        self._open_calls: defaultdict[tuple[str, str], list[ByIdCall]] = defaultdict(list)
        self._on_disk: dict[str, set[int]] = {}

    def note(self, *what: Any) -> None:
        self.trace.append(what)

    def fail(self, why: str) -> None:
        self.note("BROKEN", why)
        self.broken.append(why)

    def expect(self, holds: bool, why: str) -> None:
        if not holds:
            self.fail(why)

    def make(self, who: str, id: str) -> Version:
        version = Version(len(self.versions), who, id)
        self.versions.append(version)
        self.of[who, id].append(version)
        for call in self._open_calls[who, id]:
            self._mark(version, call.kind)
        return version

    def acknowledged(self, version: Version) -> None:
        self.note("acknowledged", version.number)
        self.counts["acknowledged"] += 1
        version.acknowledged = True
        self._must_be_somewhere(version)

    def refused(self, version: Version) -> None:
        """``enqueue`` answered False: another version of that id must be durable, or have been."""
        self.counts["refused as live"] += 1
        there = self._on_disk.get(version.who, set())
        others = [other for other in self.of[version.who, version.id] if other is not version]
        self.expect(
            any(other.number in there or other.delivered or other.may_go for other in others),
            f"enqueue of {version.id} for {version.who} answered False, and no such entry is stored",
        )

    def stored(self, key: str, text: str | None) -> None:
        """The text under ``key`` has changed."""
        numbers = set()
        for entry in json.loads(text) if text else []:
            numbers.add(entry["item"]["n"])
            self.expect(entry["item"]["who"] == key, f"an item of {entry['item']['who']} is stored under {key}")
        self._on_disk[key] = numbers
        for version in self.versions:
            if version.who == key:
                self._must_be_somewhere(version)
                self.expect(
                    not (version.removed and version.number in numbers),
                    f"version {version.number} ({version.id}) was removed and is stored again",
                )

    def on_disk(self, key: str) -> set[int]:
        """The numbers of the versions stored under ``key``."""
        return self._on_disk.get(key, set())

    def _must_be_somewhere(self, version: Version) -> None:
        self.expect(
            not version.acknowledged
            or version.delivered
            or version.may_go
            or version.number in self._on_disk.get(version.who, ()),
            f"version {version.number} ({version.id} of {version.who}) was acknowledged and is lost",
        )

    def begin_pass(self, process: int) -> Pass:
        run = Pass(process, asyncio.current_task())
        self.passes.append(run)
        self.counts["passes"] += 1
        return run

    def begin_send(self, run: Pass, session: str | None, entry: OutboxEntry[Any]) -> Send:
        version = self.versions[entry.item["n"]]
        marked = entry.maybe_sent_ms is not None
        self.note("send", version.number, version.id, "for", session, "marked" if marked else "")
        self.counts["sends"] += 1
        self.expect(version.who == session, f"an item of {version.who} is sent while {session} is signed in")
        self.expect(not version.removed, f"version {version.number} was removed and is sent")
        if any(not hold.over for hold in self.holds[version.who, version.id]):
            self.fail(f"{version.id} of {version.who} is sent while somebody holds it by claim()")
        for earlier in version.sends if not version.meddled else ():
            self.expect(not earlier.in_flight, f"version {version.number} is sent by two at once")
            if earlier.applied:
                self.expect(earlier.in_doubt, f"version {version.number} is sent again though its delivery was known")
                self.counts["sent again, marked"] += 1
            if earlier.in_doubt:
                self.expect(marked, f"version {version.number} is sent again and not marked as maybe sent")
        send = Send(run, version)
        version.sends.append(send)
        return send

    def apply(self, send: Send) -> None:
        self.note("delivered", send.version.number)
        self.counts["delivered"] += 1
        send.applied = True

    def answer(self, send: Send, answer: Answer) -> None:
        self.note("answer", send.version.number, answer)
        self.counts[f"send answered: {answer}"] += 1
        send.answer = answer
        if answer == "ok":
            send.run.delivered += 1

    def break_off(self, task: asyncio.Task[Any] | None = None, process: int | None = None) -> None:
        """A task is cancelled, or a process is dead."""
        for run in self.passes:
            if run.task is task or run.process == process:
                run.broken_off = True
        if process is not None:
            for hold in [hold for holds in self.holds.values() for hold in holds]:
                hold.over = True

    def by_id(self, who: str, id: str, kind: str) -> ByIdCall:
        """A call by id begins: whatever it does, from now on nobody can rely on a bare claim of that id."""
        self._by_id_calls[who, id] += 1
        for hold in self.holds[who, id]:
            hold.over = True
        call = ByIdCall(kind)
        self._open_calls[who, id].append(call)
        for version in self.of[who, id]:
            self._mark(version, kind)
        return call

    def undisturbed(self, who: str, id: str) -> int | None:
        """A number that stays the same as long as nobody makes a call by this id; None while one is under way."""
        return None if self._open_calls[who, id] else self._by_id_calls[who, id]

    def by_id_over(self, who: str, id: str, call: ByIdCall, before: list[Version]) -> None:
        """It returned, or changed nothing; a ``remove`` that returned made sure that those ``before`` are gone."""
        self._open_calls[who, id].remove(call)
        if call.kind == "remove":
            for version in before:
                version.removed = True

    def hold(self, seat: object, who: str, id: str, *, over: bool) -> None:
        """``claim`` answered True; ``over``: something that may have given the claim back was called meanwhile."""
        self.counts["bare claims"] += 1
        self.expect(over or all(hold.over for hold in self.holds[who, id]), f"{id} of {who} was claimed twice")
        self.holds[who, id].append(Hold(seat, over))

    def let_go(self, seat: object) -> None:
        """The queue moved on or was hydrated again: its bare claims are given up."""
        for holds in self.holds.values():
            for hold in holds:
                hold.over = hold.over or hold.seat is seat

    def _mark(self, version: Version, kind: str) -> None:
        if kind == "remove":
            version.may_go = True
        elif kind != "retry":
            version.meddled = True

    def finish(self) -> None:
        """Everything has drained: each acknowledged version is at its remote, or was removed by the caller."""
        for version in self.versions:
            self.expect(
                not version.acknowledged or version.delivered or version.may_go,
                f"version {version.number} ({version.id} of {version.who}) was acknowledged and never delivered",
            )
