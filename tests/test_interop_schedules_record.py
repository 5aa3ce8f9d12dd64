"""What gated schedules are judged by: what breaks a promise of an at-least-once queue, and what does not."""

from __future__ import annotations

import pytest

from starfish_outbox.conformance.schedules_record import Broken, Record


def delivered(record: Record, id: str, start: int, end: int, bound: str | None = None) -> None:
    send = record.send(id, start, bound)
    send.end, send.ok = end, True


def broken(record: Record) -> list[Broken]:
    return [kind for kind, _ in record.judge()]


@pytest.fixture
def twice() -> Record:
    """One id, enqueued in steps 1 and 2; delivered in step 5 by a drain that was answered in step 7, and once more."""
    record = Record()
    record.call("enqueue", "a", 1, 2)
    record.call("drain", "", 3, 7)
    delivered(record, "a", 4, 5)
    delivered(record, "a", 10, 11)
    return record


def test_what_is_acknowledged_is_delivered_once_whoever_counts() -> None:
    record = Record()
    for id in ("a", "b", "c", "d"):
        record.call("enqueue", id, 1, 2)
    delivered(record, "a", 3, 4)
    record.send("b", 5, None).end = 6
    record.call("remove", "c", 7, 8)
    record.calls("enqueue", "d")[0].error = "CacheWriteError"
    assert record.judge() == [("lost", "b was acknowledged in step 2 and is never delivered")]


def test_what_a_program_says_it_added_is_delivered_after_that() -> None:
    record = Record()
    record.call("enqueue", "a", 1, 2)
    delivered(record, "a", 3, 4)
    again = record.call("enqueue", "a", 5, 6)
    assert broken(record) == [], "it may have been live still"
    again.value = True
    assert broken(record) == ["lost"]


def test_nothing_is_delivered_twice_without_a_reason(twice: Record) -> None:
    assert twice.judge() == [("doubled", "a is sent again in step 10; it was delivered in step 5")]


@pytest.mark.parametrize(("start", "end", "reason"), [(3, 4, False), (3, 5, True), (8, 9, True), (11, 12, False)])
def test_a_second_delivery_needs_an_enqueue_that_can_have_added_it(
    start: int, end: int, reason: bool, twice: Record
) -> None:
    twice.call("enqueue", "a", start, end)
    assert broken(twice) == ([] if reason else ["doubled"])


@pytest.mark.parametrize(("step", "reason"), [(3, False), (6, True), (12, False)])
def test_a_failure_excuses_what_is_repeated_after_it_and_was_delivered_before(
    step: int, reason: bool, twice: Record
) -> None:
    twice.failures.append(step)
    assert broken(twice) == ([] if reason else ["doubled"])


def test_a_death_excuses_only_what_its_drain_had_no_time_to_record(twice: Record) -> None:
    twice.die(8)
    assert broken(twice) == ["doubled"], "the drain was answered before"
    (drain,) = twice.calls("drain", "")
    twice.broken.clear()
    drain.end = None
    twice.die(8)
    assert broken(twice) == []


def test_two_sends_at_once_are_one_too_many_unless_one_is_dead() -> None:
    record = Record()
    record.call("enqueue", "a", 1, 2)
    record.send("a", 3, None)
    record.die(4)
    record.send("a", 5, None)
    assert record.broken == []
    delivered(record, "a", 6, 7)
    assert broken(record) == ["doubled"]


def test_what_is_removed_stays_so() -> None:
    record = Record()
    record.call("enqueue", "a", 1, 2)
    removal = record.call("remove", "a", 3, 5)
    delivered(record, "a", 5, 6)
    assert broken(record) == [], "both in one step"
    delivered(record, "a", 7, 8)
    removal.error = "CacheWriteError"
    assert broken(record) == ["doubled"]
    removal.error = None
    assert broken(record) == ["doubled", "revived"]


def test_what_belongs_to_one_identity_is_not_the_others() -> None:
    record = Record(owners={"a": "outbox.a"})
    record.stored("outbox.a", ["a", "b"])
    record.stored("outbox.b", ["b"])
    record.send("a", 1, "outbox.a").end = 1
    record.send("a", 2, None).end = 2
    record.send("b", 3, "outbox.b")
    assert record.broken == []
    record.stored("outbox.b", ["a"])
    record.send("a", 4, "outbox.b")
    assert broken(record) == ["leaked", "leaked"]
