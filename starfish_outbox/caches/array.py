"""One key of an adapted cache in memory: the entries and the text of each: a write encodes only what changed."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from starfish_outbox import codec
from starfish_outbox.caches.base import Insert, Member, Op, Outcome, Seen
from starfish_outbox.entry import SENDING, StoredEntry
from starfish_outbox.state import State
from starfish_outbox.transitions import GONE, catch_up


@dataclass
class Array:
    """What is known of the key while a queue holds it.

    Attributes:
        stored: the text that was last read or written.
        notes: what was read differently, set aside or merged, in words.
        members: the queues that hold the key.
        moved: old numbers of entries that had to move to a new one, for drains that know the old.
        suspect: an interrupted write may have left this and the cache apart: read again before the next change.
        epoch: how often the truth was replaced as a whole.
    """

    state: State = field(default_factory=State)
    texts: dict[int, str] = field(default_factory=dict)
    stored: str | None = None
    notes: list[str] = field(default_factory=list)
    members: list[Member] = field(default_factory=list)
    moved: dict[int, int] = field(default_factory=dict)
    suspect: bool = False
    epoch: int = 0

    def put(self, seq: int, entry: StoredEntry | None) -> StoredEntry | None:
        """As ``State.put``, the text kept beside it."""
        before = self.state.put(seq, entry)
        if entry is None:
            self.texts.pop(seq, None)
        else:
            self.texts[seq] = codec.encode_entry(entry)
        return before

    def text(self) -> str:
        """The JSON array."""
        return codec.encode_array([self.texts[entry.seq] for entry in self.state])

    def apply(self, op: Op, seqs: Iterator[int], undo: list[Seen]) -> Outcome:
        """Do one operation; what must be put back to take it back is added to ``undo``."""
        if isinstance(op, Insert):
            live = None if op.entry.id is None else self.state.first(op.entry.id)
            if live is not None:
                return Outcome(False, live.seq, live, why="live")
            entry = replace(op.entry, seq=next(seqs))
            undo.append(Seen(entry.seq, self.put(entry.seq, entry)))
            return Outcome(True, entry.seq, entry)
        if op.seq is not None:
            before = self.state.get(self.moved.get(op.seq, op.seq))
        else:
            before = None if op.id is None else self.state.first(op.id)
        if before is None:
            return Outcome(False)
        after = op.step(before)
        if after is None:
            return Outcome(False, before.seq, before)
        entry_after = None if after is GONE else after
        undo.append(Seen(before.seq, self.put(before.seq, entry_after)))
        return Outcome(True, before.seq, entry_after, before)

    def undo(self, done: list[Seen]) -> None:
        """Take back what ``apply`` did."""
        for seq, before, _ in reversed(done):
            self.put(seq, before)

    def release(self, released: Callable[[StoredEntry], StoredEntry | None]) -> list[Seen]:
        """Apply the rule to every claimed entry; what changed."""
        if not self.state.counts().sending:
            return []
        claimed = [entry for entry in self.state if entry.status == SENDING and entry.id is not None]
        freed = [Seen(entry.seq, after) for entry in claimed if (after := released(entry)) is not None]
        for seq, after, _ in freed:
            self.put(seq, after)
        return freed

    def adopt(
        self,
        text: str | None,
        entries: Iterable[StoredEntry],
        notes: list[str],
        seqs: Iterator[int],
        released: Callable[[StoredEntry], StoredEntry | None],
    ) -> None:
        """Make these the truth. Entries are recognised by id, so that a running drain finds them; its claims hold."""
        self.epoch += 1
        before: dict[str | None, deque[StoredEntry]] = defaultdict(deque)
        for entry in self.state:
            before[entry.id].append(entry)
        moved: dict[int, int] = {}
        self.state, self.texts, self.stored, self.notes, self.suspect = State(), {}, text, notes, False
        last = 0
        for entry in entries:
            twin = before[entry.id].popleft() if before[entry.id] else None
            # A number is kept where that keeps the order; else the entry moves to a new one, and is found by the old.
            seq = twin.seq if twin is not None and twin.seq > last else next(seqs)
            if twin is not None and twin.seq != seq:
                moved[twin.seq] = seq
            last = seq
            fresh = replace(entry, seq=seq, claim=twin.claim if twin else None)
            if entry.id is not None and (fresh.claim is not None or entry.status == SENDING):
                claimed = replace(fresh, status=SENDING)
                freed = released(claimed)
                # A claim that is gone matters only where the text still says "sending".
                fresh = claimed if freed is None else freed if entry.status == SENDING else replace(fresh, claim=None)
            self.put(seq, catch_up(fresh))
        self.moved = {**{first: moved.get(second, second) for first, second in self.moved.items()}, **moved}
