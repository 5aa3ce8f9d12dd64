"""Which entry comes next: pure. The order of a pass, who waits, and lanes.

1. Entries come as they stand in the queue; those asked before without an answer come last.
2. An entry that is not due waits; so does everything behind it in its lane.
3. In a lane one entry is under way at a time, and what is behind one that is to be tried again waits for another pass.
4. An entry that is parked, before or in this pass, lets the rest of its lane go, or holds it (``on_parked``); one that
   somebody else is sending holds it always.
5. Entries for which the caller's function finds no lane (it raises, or what it answers cannot be hashed) share one: one
   odd item must not keep all others from being sent.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Hashable, Iterable
from typing import Final

from starfish_outbox import codec, transitions
from starfish_outbox.backoff import Backoff
from starfish_outbox.drain.options import Lane, OnParked
from starfish_outbox.entry import FAILED, QUEUED, SENDING, StoredEntry

_NO_LANE: Final = object()


class Lineup:
    """The entries of one pass, by number.

    Args:
        entries: the queue as it stands, in order.
        lane: the name of an entry's lane; None: each entry goes alone.
        on_parked: whether a parked entry holds its lane.
        backoff: which entries are not due; None: all are.
        now_ms: milliseconds since the Unix epoch.

    Attributes:
        total: how many may be sent.
        waiting: how many were passed over.
        next_attempt_ms: when the first of those is due.
        laneless: ids of entries for which no lane was found, each with the error.
    """

    def __init__(
        self,
        entries: Iterable[StoredEntry],
        lane: Lane | None,
        on_parked: OnParked,
        backoff: Backoff | None,
        now_ms: int,
    ) -> None:
        self._lane = lane
        self._lanes: dict[int, Hashable] = {}
        self._under_way: set[Hashable] = set()
        self._behind: dict[Hashable, deque[int]] = defaultdict(deque)
        self._freed: deque[int] = deque()
        self._held: set[Hashable] = set()
        self.waiting = 0
        self.next_attempt_ms: int | None = None
        self.laneless: list[tuple[str | None, Exception]] = []
        first: list[int] = []
        last: list[int] = []
        late_lanes: set[Hashable] = set()
        held: set[Hashable] = set()  # from here on in the queue: what stands before may go
        for entry in entries:
            if entry.id is None:
                continue
            if entry.status != QUEUED:
                if lane is not None and (entry.status == SENDING or (entry.status == FAILED and on_parked == "hold")):
                    held.add(self._lane_of(entry))
                continue
            here = self._lane_of(entry)
            if here in held:
                self.waiting += 1
            elif backoff is not None and backoff.waits(entry.next_attempt_ms, now_ms, _failed_ms(entry)):
                self.waiting += 1
                if lane is not None:
                    held.add(here)
                due = entry.next_attempt_ms or now_ms
                self.next_attempt_ms = due if self.next_attempt_ms is None else min(due, self.next_attempt_ms)
            elif transitions.behind_the_rest(entry) or here in late_lanes:
                if lane is not None:
                    late_lanes.add(here)
                last.append(entry.seq)
            else:
                first.append(entry.seq)
        self._todo = deque([*first, *last])
        self.total = len(self._todo)

    def take(self) -> int | None:
        """The entry that may start now; None: nobody, until one that is under way is done."""
        if self._freed:
            return self._freed.popleft()
        while self._todo:
            seq = self._todo.popleft()
            if self._lane is None:
                return seq
            lane = self._lanes[seq]
            if lane in self._held:
                self.waiting += 1
            elif lane in self._under_way:
                self._behind[lane].append(seq)
            else:
                self._under_way.add(lane)
                return seq
        return None

    @property
    def has_more(self) -> bool:
        """Whether there may be another one after those that are under way."""
        return bool(self._freed or self._todo or any(self._behind.values()))

    def done(self, seq: int, *, through: bool) -> None:
        """An entry that was taken is done; ``through``: it is out of the way, so the next of its lane may go."""
        if self._lane is None:
            return
        lane = self._lanes[seq]
        if not through:
            self.waiting += len(self._behind.pop(lane, ()))
            self._held.add(lane)
        elif self._behind.get(lane):
            self._freed.append(self._behind[lane].popleft())
            return
        self._under_way.discard(lane)

    def _lane_of(self, entry: StoredEntry) -> Hashable:
        if self._lane is None:
            return None
        lane: Hashable = _NO_LANE
        try:
            found = self._lane(codec.public(entry))
            hash(found)
            lane = found
        except Exception as error:  # noqa: BLE001  # a function of the caller; the pass says what it raised
            self.laneless.append((entry.id, error))
        self._lanes[entry.seq] = lane
        return lane


def _failed_ms(entry: StoredEntry) -> int | None:
    return entry.last_error.at_ms if entry.last_error is not None else None
