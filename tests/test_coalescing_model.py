"""Replacing, cancelling and editing while entries are being sent, in any order, against a model of a page.

What is being sent is never touched; the newest item waits its turn and wins; nothing that was accepted is lost; nothing
is sent again after it was acknowledged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from starfish_outbox import transitions
from starfish_outbox.entry import Claim, StoredEntry
from starfish_outbox.transitions import Step
from tests.coalescing_model import RAISED, Coalescing, CoalescingInFiles, CoalescingInSQLite

_STEPS = settings(stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize(
    ("machine", "examples"),
    [
        (Coalescing, 60),
        (CoalescingInFiles, 40),
        (CoalescingInSQLite, 40),
        pytest.param(Coalescing, 2_000, marks=[pytest.mark.proof, pytest.mark.timeout(3600)]),
        pytest.param(CoalescingInSQLite, 500, marks=[pytest.mark.proof, pytest.mark.timeout(3600)]),
    ],
)
def test_whatever_order_things_come_in(machine: type[Coalescing], examples: int) -> None:
    machine.met = Counter()
    run_state_machine_as_test(machine, settings=settings(_STEPS, max_examples=examples))
    print(f"\n{machine.__name__}, {examples} runs: newer items {dict(sorted(machine.met.items()))}")
    assert machine.met.total() > 0
    if examples >= 500:
        ways = {f"waited for: {verdict}" for verdict in ("sent", *RAISED, "cancelled")}
        ways |= {f"waited for {how}" for how in ("remove", "mark_failed", "record_failure", "an end of the program")}
        assert {way for way, times in machine.met.items() if times} == {*ways, "taken back"}


# Each with one rule left out: a model that does not find these proves nothing.


def touches_what_is_sent(item: str, now_ms: int) -> Step:
    """The newer item is written into the entry that is being sent, as into any other."""
    rule = transitions_supersede(item, now_ms)

    def step(entry: StoredEntry) -> Any:
        after = rule(replace(entry, status="queued") if entry.status == "sending" else entry)
        return replace(after, status=entry.status, claim=entry.claim) if isinstance(after, StoredEntry) else after

    return step


def drops_what_waits(token: Claim) -> Step:
    """The end of a send removes the entry, and with it what waited."""
    return lambda entry: transitions.GONE if entry.claim == token else None


def sends_again(token: Claim) -> Step:
    """What was sent is queued once more where a newer item waits, before that one."""

    def step(entry: StoredEntry) -> Any:
        after = transitions_sent(token)(entry)
        return replace(after, item=entry.item) if isinstance(after, StoredEntry) else after

    return step


def forgets_at_a_failure(
    token: Claim, max_attempts: int, error: Any, *, maybe_sent_ms: int | None = None, next_attempt_ms: int | None = None
) -> Step:
    """A failed attempt keeps the old item: the newer one is gone."""
    rule = transitions_attempt_failed(
        token, max_attempts, error, maybe_sent_ms=maybe_sent_ms, next_attempt_ms=next_attempt_ms
    )
    return lambda entry: rule(replace(entry, replacement=None))


transitions_supersede, transitions_sent = transitions.supersede, transitions.sent
transitions_attempt_failed = transitions.attempt_failed


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("supersede", touches_what_is_sent),
        ("sent", drops_what_waits),
        ("sent", sends_again),
        ("attempt_failed", forgets_at_a_failure),
    ],
)
def test_a_broken_rule_is_found_out(name: str, broken: Callable[..., Step]) -> None:
    Coalescing.met = Counter()
    quick = settings(_STEPS, max_examples=200, database=None, derandomize=True, phases=[Phase.generate])
    with patch.object(transitions, name, broken), pytest.raises(AssertionError):
        run_state_machine_as_test(Coalescing, settings=quick)
