"""How long a try that failed is left alone: the rule by tables, and by examples that are drawn."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import example, given, strategies as st

from starfish_outbox.backoff import Backoff

RULE = Backoff(base=1.0, cap=300.0, longest=86_400.0)
NOW = 1_700_000_000_000

rules = st.tuples(st.floats(0.05, 60), st.floats(1, 50), st.floats(1, 50)).map(
    lambda drawn: Backoff(drawn[0], drawn[0] * drawn[1], drawn[0] * drawn[1] * drawn[2])
)
dices = st.floats(0, 1)
asked_for = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True), st.integers(-10, 10**400))


@pytest.mark.parametrize(
    ("tries", "most"),
    [(-3, 1), (0, 1), (1, 1), (2, 2), (3, 4), (5, 16), (9, 256), (10, 300), (11, 300), (2_000, 300), (10**30, 300)],
)
def test_each_try_doubles_the_longest_wait_up_to_the_cap(tries: int, most: float) -> None:
    assert RULE.delay(tries, 1.0) == most


@pytest.mark.parametrize("dice", [0.0, 0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("tries", [1, 4, 64, 65, 1_000_000])
def test_the_jitter_is_full(tries: int, dice: float) -> None:
    assert RULE.delay(tries, dice) == pytest.approx(dice * RULE.delay(tries, 1.0))


def test_a_thousand_clients_that_lost_one_server_come_back_spread_over_the_whole_wait() -> None:
    dice = random.Random(4)
    waits = [RULE.delay(7, dice.random()) for _ in range(1_000)]
    in_each_tenth = [sum(1 for wait in waits if tenth <= wait / 6.4 < tenth + 1) for tenth in range(10)]
    assert sum(in_each_tenth) == 1_000
    assert min(in_each_tenth) > 60
    assert max(in_each_tenth) < 140


@pytest.mark.parametrize(
    ("retry_after", "least", "most"),
    [
        (2.0, 2.0, 3.0),
        (0.5, 0.5, 1.5),
        (120, 120, 121),
        (3_600, 3_600, 3_601),
        (86_400, 86_400, 86_401),
        (86_401, 86_400, 86_401),
        (1e300, 86_400, 86_401),
        (math.inf, 86_400, 86_401),
        (10**400, 86_400, 86_401),
    ],
)
def test_what_a_server_asks_for_is_a_floor_and_is_clamped(retry_after: float, least: float, most: float) -> None:
    assert (RULE.delay(1, 0.0, retry_after), RULE.delay(1, 1.0, retry_after)) == (least, most)
    assert RULE.delay(30, 1.0, retry_after) == most, "the jitter on top of it is short, however often it was tried"


@pytest.mark.parametrize("nothing", [None, 0, 0.0, -5, -math.inf, math.nan])
def test_a_server_that_asks_for_nothing_sensible_leaves_the_wait_to_us(nothing: float | None) -> None:
    assert RULE.delay(3, 1.0, nothing) == 4.0


@given(rules, st.integers(-10, 10**12), dices, asked_for)
@example(Backoff(1e-300, 1e9, 1e9), 10**12, 1.0, None)
@example(Backoff(1e9, 1e9, 1e9), 10**12, 1.0, math.inf)
def test_every_wait_is_finite_and_within_its_bounds(rule: Backoff, tries: int, dice: float, asked: Any) -> None:
    wait = rule.delay(tries, dice, asked)
    assert math.isfinite(wait)
    if asked is not None and asked > 0:
        assert min(asked, rule.longest) <= wait <= min(asked, rule.longest) + rule.base
    else:
        assert 0 <= wait <= rule.cap
    assert round(1000 * wait) < 2**53, "what is persisted is a number that JavaScript keeps"


@given(rules, st.integers(1, 100), dices)
def test_no_try_waits_less_at_most_than_the_one_before(rule: Backoff, tries: int, dice: float) -> None:
    assert rule.delay(tries, dice) <= rule.delay(tries + 1, dice) <= 2 * rule.delay(tries, dice)


@pytest.mark.parametrize(
    ("until", "since", "left"),
    [
        (None, None, 0),
        (None, NOW, 0),
        (NOW - 1, None, 0),
        (NOW, None, 0),
        (NOW + 1, None, 0.001),
        (NOW + 5_000, NOW, 5),
        (NOW + 5_000, NOW - 60_000, 5),
        (NOW + 86_401_000, NOW, 86_401),
        (NOW + 86_401_001, NOW, 0),
        (NOW + 86_401_001, None, 0),
        (NOW + 5_000, NOW + 1_000, 5),  # put back by no more than the shortest wait
        (NOW + 5_000, NOW + 1_001, 0),  # decided later than now: the clock was put back since
        (NOW + 7_200_000, NOW + 7_199_000, 0),
        (2**53, NOW, 0),
        (-5, NOW, 0),
    ],
)
def test_what_is_left_of_a_wait_that_was_persisted(until: int | None, since: int | None, left: float) -> None:
    assert RULE.waits(until, NOW, since) == left


@given(
    rules,
    st.integers(1, 30),
    dices,
    asked_for,
    st.integers(0, 10**9),
    st.one_of(st.integers(-400_000, 400_000), st.integers(-(10**13), 10**13)),
)
def test_no_jump_of_the_clock_freezes_an_entry_or_fires_it_early_by_more_than_one_wait(
    rule: Backoff, tries: int, dice: float, asked: Any, passed: int, jump: int
) -> None:
    """Decided at NOW; real time passes, the clock jumps once, more real time passes: when is the entry due?"""
    wait = round(1000 * rule.delay(tries, dice, asked))
    until = NOW + wait
    at_jump = min(passed, wait)

    def due_after(real: int) -> bool:
        return not rule.waits(until, NOW + real + (jump if real >= at_jump else 0), NOW)

    shortest = math.ceil(1000 * rule.base)
    assert due_after(at_jump) or due_after(2 * wait + shortest + 1), "frozen for longer than one more wait"
    if not jump:
        assert due_after(wait)
        assert wait < 2 or not due_after(wait - 2)


@given(rules, st.integers(1, 30), dices, asked_for, st.integers(0, 10**13))
def test_without_the_instant_of_the_decision_a_jump_freezes_for_no_longer_than_the_longest_wait(
    rule: Backoff, tries: int, dice: float, asked: Any, back: int
) -> None:
    """Another program may have lost ``lastError`` and kept ``nextAttemptAt``."""
    until = NOW + round(1000 * rule.delay(tries, dice, asked))
    assert rule.waits(until, NOW - back) <= rule.longest + rule.base


@pytest.mark.parametrize(
    "unfit",
    [
        {"base": 0.0},
        {"base": -1.0},
        {"base": 10.0, "cap": 5.0},
        {"cap": 90_000.0},
        {"longest": 10.0},
        {"longest": math.inf},
        {"longest": 1e300},
        {"base": math.nan},
        {"cap": math.nan},
        {"longest": math.nan},
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(unfit: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="base <= cap <= longest"):
        Backoff(**unfit)
