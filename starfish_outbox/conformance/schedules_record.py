"""What an outsider saw of one gated schedule, and what an at-least-once queue must never show.

A step is one request; what one answer tells happened in an order that nobody knows, so that ties are judged kindly.

1. An enqueue that was answered without an error is delivered in the end; one that was answered *true* (added) is sent
   after it was asked for. What raised may have been stored or not. (``lost``)
2. A send that returned is the last of its id, unless the id was enqueued once more, a cache call failed after it, or
   the process died before the drains that ran then had answered. Two sends of one id are never under way at once.
   (``doubled``)
3. What was enqueued while one identity alone was in play is never stored under the other's key, nor does its send start
   while the other is bound. While a ``hydrate`` of another key is under way, two are in play. (``leaked``)
4. What was removed is not sent after the ``remove`` was answered without an error. (``revived``)
5. Once nothing is held up, every call ends, and a drain leaves nothing behind. (``stuck``)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final, Literal, TypeAlias, get_args

Broken: TypeAlias = Literal["lost", "leaked", "doubled", "revived", "stuck"]

GRAVEST_FIRST: Final[tuple[Broken, ...]] = get_args(Broken)


@dataclass(eq=False)
class Call:
    """One operation that was started.

    Attributes:
        what: the id or key it is about, if any.
        start: the step in which it began.
        end: the step in which it was answered, or None.
        died: the step in which its process died instead.
        error: what it raised, in words.
    """

    op: str
    what: str
    start: int
    end: int | None = None
    died: int | None = None
    value: Any = None
    error: str | None = None

    @property
    def acknowledged(self) -> bool:
        """Whether it was answered without an error."""
        return self.end is not None and self.error is None


@dataclass(eq=False)
class Send:
    """One send.

    Attributes:
        start: the step in which it began.
        end: the step in which it was told to return or to raise, or None.
        died: the step in which its process died instead.
        ok: whether it returned.
    """

    id: str
    start: int
    end: int | None = None
    died: int | None = None
    ok: bool = False


@dataclass
class Record:
    """Filled by a schedule as it goes; ``judge`` says at the end what was broken.

    Attributes:
        owners: the one identity that was in play when an id was first enqueued; ids that have none are not in it.
        failures: the steps in which a cache call failed.
        broken: what was broken, and how, in words.
    """

    owners: dict[str, str] = field(default_factory=dict)
    failures: list[int] = field(default_factory=list)
    broken: list[tuple[Broken, str]] = field(default_factory=list)
    _calls: defaultdict[tuple[str, str], list[Call]] = field(default_factory=lambda: defaultdict(list))
    _sends: defaultdict[str, list[Send]] = field(default_factory=lambda: defaultdict(list))

    def call(self, op: str, what: str, start: int, end: int | None = None) -> Call:
        """A call begins (``end``: and was acknowledged)."""
        call = Call(op, what, start, end)
        self._calls[op, what].append(call)
        return call

    def calls(self, op: str, what: str) -> list[Call]:
        """The calls of one kind about an id or a key, in the order of their start."""
        return self._calls[op, what]

    def fail(self, what: Broken, text: str) -> None:
        """Note what was broken, once."""
        if (what, text) not in self.broken:
            self.broken.append((what, text))

    def send(self, id: str, step: int, bound: str | None) -> Send:
        """A send starts; ``bound``: the identity that had been alone in play when the step began."""
        owner = self.owners.get(id)
        if owner and bound and owner != bound:
            self.fail("leaked", f"{id} of {owner} is sent while {bound} is bound")
        if any(send.end is None and send.died is None for send in self._sends[id]):
            self.fail("doubled", f"two sends of {id} are under way at once")
        send = Send(id, step)
        self._sends[id].append(send)
        return send

    def stored(self, key: str, ids: Iterable[str]) -> None:
        """What stands under the key."""
        for id in ids:
            owner = self.owners.get(id, key)
            if owner != key:
                self.fail("leaked", f"{id} of {owner} is stored under {key}")

    def die(self, step: int) -> None:
        """The process is dead: what was under way will never be over."""
        for one in chain[Call | Send](*self._calls.values(), *self._sends.values()):
            if one.end is None and one.died is None:
                one.died = step

    def judge(self) -> list[tuple[Broken, str]]:
        """Everything that was broken, the gravest first; asked once everything has drained."""
        for id in [what for op, what in self._calls if op == "enqueue"]:
            self._judge_id(id, self._sends[id])
        return sorted(self.broken, key=lambda one: GRAVEST_FIRST.index(one[0]))

    def _judge_id(self, id: str, sends: list[Send]) -> None:
        removals = self.calls("remove", id)
        delivered = [send.start for send in sends if send.ok]
        for call in self.calls("enqueue", id) if not removals else ():
            since = call.start if call.value is True else 0
            if call.acknowledged and not any(start >= since for start in delivered):
                after = f" after step {since}" if delivered else ""
                self.fail("lost", f"{id} was acknowledged in step {call.end} and is never delivered{after}")
                break
        removed = min((call.end for call in removals if call.acknowledged and call.end is not None), default=None)
        for send in sends:
            if removed is not None and send.start > removed:
                self.fail("revived", f"the removal of {id} was acknowledged in step {removed}, and it is sent later")
        self._judge_repeats(id, sends)

    def _judge_repeats(self, id: str, sends: list[Send]) -> None:
        unused = list(self.calls("enqueue", id))
        done: int | None = None
        for number, send in enumerate(sends):
            if number == 0 or (done is not None and send.start >= done and not self._in_doubt(done, send.start)):
                # Each entry was added by a call of its own, which a live one would have turned away.
                able = [call for call in unused if _reaches(call, done or 0) and call.start <= send.start]
                if able:
                    unused.remove(min(able, key=lambda call: float("inf") if call.end is None else call.end))
                    done = None
                else:
                    before = "nobody had enqueued it" if done is None else f"it was delivered in step {done}"
                    self.fail("doubled", f"{id} is sent{' again' if number else ''} in step {send.start}; {before}")
            if send.ok:
                done = send.end

    def _in_doubt(self, delivered: int, again: int) -> bool:
        """Whether a queue may not know in step ``again`` what was delivered in an earlier one."""
        if any(delivered <= step <= again for step in self.failures):
            return True
        return any(
            drain.start <= delivered and drain.died is not None and delivered <= drain.died <= again
            for drain in self.calls("drain", "")
        )


def _reaches(call: Call, step: int) -> bool:
    return call.end is None or call.end >= step
