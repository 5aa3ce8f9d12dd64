"""Which entry of a pass comes next: order, entries that wait, and lanes; against a model that looks at everything."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, strategies as st

from starfish_outbox import OutboxEntry
from starfish_outbox.backoff import Backoff
from starfish_outbox.drain.lineup import Lineup
from starfish_outbox.drain.options import OnParked
from starfish_outbox.entry import LastError, StoredEntry

NOW = 1_700_000_000_000
RULE = Backoff(1.0, 300.0)
OFFLINE = LastError("ReadTimeout", "no answer", NOW - 60_000)


def entry(seq: int, lane: str = "", status: str = "queued", *, silent: bool = False, due: float = 0) -> StoredEntry:
    """An entry whose item is its lane; ``silent``: asked before without an answer; ``due``: in so many seconds."""
    return StoredEntry(
        seq,
        f"e{seq}",
        f'"{lane}"',
        status,
        0,
        NOW,
        maybe_sent_ms=NOW - 60_000 if silent else None,
        next_attempt_ms=NOW + round(1000 * due) if due else None,
        last_error=OFFLINE if silent or due else None,
    )


def by_item(public: OutboxEntry[Any]) -> Hashable:
    return str(public.item)


def lineup(entries: Sequence[StoredEntry], on_parked: OnParked = "free", *, lanes: bool = True) -> Lineup:
    return Lineup(entries, by_item if lanes else None, on_parked, RULE, NOW)


def taken(line: Lineup) -> list[int]:
    """Everything that may start now."""
    seqs = []
    while (seq := line.take()) is not None:
        seqs.append(seq)
    return seqs


def test_entries_come_in_their_order_and_those_that_nobody_answered_come_last() -> None:
    line = lineup([entry(1), entry(2, silent=True), entry(3), entry(4, silent=True), entry(5)], lanes=False)
    assert line.total == 5
    assert taken(line) == [1, 3, 5, 2, 4]
    assert not line.has_more


def test_an_entry_may_be_asked_about_before_it_is_put_behind_the_rest() -> None:
    """``maybeSent`` alone (an interrupted send) is no silence of the server."""
    interrupted = StoredEntry(1, "e1", "1", "queued", 0, NOW, maybe_sent_ms=NOW)
    assert taken(lineup([interrupted, entry(2)], lanes=False)) == [1, 2]


@pytest.mark.parametrize("status", ["sending", "failed", "", "somebody else's", None, 4])
def test_only_what_is_queued_comes(status: Any) -> None:
    line = lineup([entry(1, status=status), entry(2)], lanes=False)
    assert (taken(line), line.total, line.waiting) == ([2], 1, 0)


def test_an_entry_without_a_usable_id_never_comes() -> None:
    line = lineup([StoredEntry(1, None, "{}", "queued", 0, NOW), entry(2)])
    assert taken(line) == [2]


def test_an_entry_that_is_not_due_waits_alone_where_there_are_no_lanes() -> None:
    line = lineup([entry(1, due=30), entry(2), entry(3, due=20), entry(4, due=-1)], lanes=False)
    assert taken(line) == [2, 4]
    assert (line.waiting, line.total, line.next_attempt_ms) == (2, 2, NOW + 20_000)


def test_an_entry_that_is_not_due_holds_what_is_behind_it_in_its_lane_and_not_what_is_before() -> None:
    line = lineup([entry(1, "a"), entry(2, "a", due=30), entry(3, "a"), entry(4, "b")])
    assert taken(line) == [1, 4]
    assert line.next_attempt_ms == NOW + 30_000
    line.done(1, through=True)
    assert taken(line) == []
    assert line.waiting == 2


def test_without_a_back_off_everything_is_due() -> None:
    assert taken(Lineup([entry(1, due=30), entry(2)], None, "free", None, NOW)) == [1, 2]


def test_an_instant_that_a_wrong_clock_wrote_is_due() -> None:
    far = StoredEntry(1, "e1", "1", "queued", 1, NOW, next_attempt_ms=NOW + 10**9)
    put_back = StoredEntry(2, "e2", "1", "queued", 1, NOW, next_attempt_ms=NOW + 9_000_000)
    decided_later = LastError("X", "", NOW + 8_999_000)
    line = lineup([far, StoredEntry(2, "e2", "1", "queued", 1, NOW, None, NOW + 9_000_000, decided_later)], lanes=False)
    assert taken(line) == [1, 2]
    assert taken(lineup([put_back], lanes=False)) == []


def test_one_of_a_lane_is_under_way_at_a_time_and_lanes_run_side_by_side() -> None:
    line = lineup([entry(1, "a"), entry(2, "a"), entry(3, "b"), entry(4, "a"), entry(5, "b")])
    assert taken(line) == [1, 3]
    assert line.has_more
    line.done(3, through=True)
    assert taken(line) == [5]
    line.done(1, through=True)
    assert taken(line) == [2]
    line.done(5, through=True)
    assert taken(line) == []
    line.done(2, through=True)
    assert taken(line) == [4]
    assert not line.has_more


def test_what_did_not_get_through_holds_its_lane_for_the_rest_of_the_pass() -> None:
    line = lineup([entry(1, "a"), entry(2, "a"), entry(3, "b"), entry(4, "a"), entry(5, "b")])
    assert taken(line) == [1, 3]
    line.done(1, through=False)
    line.done(3, through=True)
    assert taken(line) == [5]
    assert line.waiting == 2
    assert not line.has_more


def test_a_parked_entry_frees_its_lane_or_holds_what_is_behind_it() -> None:
    entries = [entry(1, "a"), entry(2, "a", "failed"), entry(3, "a"), entry(4, "b")]
    free = lineup(entries, "free")
    assert taken(free) == [1, 4]
    free.done(1, through=True)
    assert taken(free) == [3]
    hold = lineup(entries, "hold")
    assert taken(hold) == [1, 4]
    hold.done(1, through=True)
    assert taken(hold) == []
    assert hold.waiting == 1


@pytest.mark.parametrize("on_parked", ["free", "hold"])
def test_what_somebody_else_sends_holds_its_lane(on_parked: OnParked) -> None:
    line = lineup([entry(1, "a", "sending"), entry(2, "a"), entry(3, "b")], on_parked)
    assert (taken(line), line.waiting) == ([3], 1)


def test_what_is_behind_a_silent_one_in_its_lane_goes_last_with_it() -> None:
    line = lineup([entry(1, "a", silent=True), entry(2, "a"), entry(3, "b"), entry(4, "b", silent=True), entry(5, "b")])
    assert taken(line) == [3, 1]
    line.done(1, through=True)
    line.done(3, through=True)
    assert taken(line) == [2, 4]


def test_entries_without_a_lane_share_one_and_hold_up_nobody_else() -> None:
    def lane(one: OutboxEntry[Any]) -> Any:
        return {"a": "a", "b": []}[one.item]  # of a: a; of b: what cannot be hashed; of c: an error

    line = Lineup([entry(1, "c"), entry(2, "a"), entry(3, "b"), entry(4, "a")], lane, "free", None, NOW)
    assert taken(line) == [1, 2]
    line.done(1, through=True)
    assert taken(line) == [3]
    assert [type(error) for _, error in line.laneless] == [KeyError, TypeError]
    assert [id for id, _ in line.laneless] == ["e1", "e3"]


@dataclass
class Naive:
    """What is right, by looking at the whole queue for each entry: slow, and without any state of its own but facts."""

    entries: list[StoredEntry]
    on_parked: OnParked
    lanes: bool
    under_way: set[int] = field(default_factory=set)
    gone: set[int] = field(default_factory=set)
    stuck: set[int] = field(default_factory=set)

    def may_start(self, seq: int) -> bool:
        one = next(each for each in self.entries if each.seq == seq)
        if seq in self.under_way | self.gone | self.stuck or one.status != "queued" or not self._due(one):
            return False
        ahead = [e for e in self.entries if e.seq < seq and e.item == one.item] if self.lanes else []
        return not any(self._in_the_way(each) for each in ahead)

    def _in_the_way(self, ahead: StoredEntry) -> bool:
        if ahead.seq in self.gone:
            return False
        if ahead.status == "failed":
            return self.on_parked == "hold"
        return ahead.status in ("queued", "sending")

    def _due(self, one: StoredEntry) -> bool:
        return one.next_attempt_ms is None or one.next_attempt_ms <= NOW


drawn_entries = st.lists(
    st.tuples(
        st.sampled_from("aabc"),
        st.sampled_from(["queued", "queued", "queued", "queued", "sending", "failed", "other"]),
        st.booleans(),
        st.sampled_from([0, 0, 0, 20]),
    ),
    max_size=14,
)


@given(drawn_entries, st.sampled_from(["free", "hold"]), st.booleans(), st.integers(1, 4), st.data())
def test_whatever_is_drawn_the_lineup_starts_all_that_a_naive_model_allows_and_nothing_else(
    drawn: list[tuple[str, str, bool, int]], on_parked: OnParked, lanes: bool, most: int, data: st.DataObject
) -> None:
    entries = [
        entry(seq, lane, status, silent=silent, due=due) for seq, (lane, status, silent, due) in enumerate(drawn)
    ]
    model = Naive(entries, on_parked if lanes else "free", lanes)
    line = lineup(entries, on_parked, lanes=lanes)
    order: list[int] = []
    while True:
        while len(model.under_way) < most and (seq := line.take()) is not None:
            assert model.may_start(seq), f"{seq} overtook one of its lane, or was not to be had"
            assert not lanes or all(entries[other].item != entries[seq].item for other in model.under_way)
            model.under_way.add(seq)
            order.append(seq)
        if len(model.under_way) < most:
            left = [one.seq for one in entries if model.may_start(one.seq)]
            assert left == [], "these could have been started"
        if not model.under_way:
            break
        seq = data.draw(st.sampled_from(sorted(model.under_way)), label="ends")
        through = data.draw(st.booleans(), label="through")
        model.under_way.remove(seq)
        (model.gone if through else model.stuck).add(seq)
        line.done(seq, through=through)
    assert not line.has_more
    assert len(set(order)) == len(order)
    queued = [one for one in entries if one.status == "queued"]
    assert line.waiting == len(queued) - len(order)
    if not lanes:
        loud = [seq for seq in order if not drawn[seq][2]]
        assert order == [*loud, *[seq for seq in order if drawn[seq][2]]]
        assert loud == sorted(loud)
