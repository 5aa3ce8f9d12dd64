"""How many sends at a time, and how many a second: given the time, so that nothing here waits."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from starfish_outbox.drain.pace import Pace


def starts(pace: Pace, seconds: float, *, late: float = 0.0, count: int = 1, begin: float = 100.0) -> list[float]:
    """When sends start in so many seconds by a caller that sends as soon as it may, its timers ``late``."""
    now, times = begin, list[float]()
    while now < begin + seconds:
        wait = pace.wait(now)
        if wait:
            now += wait + late
            continue
        pace.started(now, count)
        times.append(now)
    return times


def test_the_first_send_of_each_pass_goes_alone() -> None:
    pace = Pace(8, None, adaptive=False)
    for _ in range(2):
        pace.begin()
        assert pace.at_a_time == 1
        pace.answered(1.0)
        assert pace.at_a_time == 8


def test_a_server_that_asked_to_wait_is_still_asked_by_one_at_a_time() -> None:
    """Until somebody has answered something else: a pass that begins with "later" has found out for all."""
    pace = Pace(8, None, adaptive=True)
    pace.begin()
    pace.told_to_wait(1.0)
    assert pace.at_a_time == 1


def test_without_a_rate_nothing_waits() -> None:
    pace = Pace(3, None, adaptive=False)
    for _ in range(100):
        pace.started(5.0)
    assert (pace.wait(5.0), pace.rate) == (0.0, None)


@pytest.mark.parametrize(("rate", "count"), [(10.0, 1), (50.0, 1), (0.5, 1), (100.0, 20)])
def test_sends_are_spread_evenly(rate: float, count: int) -> None:
    times = starts(Pace(8, rate, adaptive=False), 20.0, count=count)
    gaps = [after - before for before, after in pairwise(times)]
    catching_up = int(0.05 * rate / count) + 1
    assert gaps[catching_up:] == pytest.approx([count / rate] * len(gaps[catching_up:]))
    assert abs(len(times) * count - 20.0 * rate) <= count + 0.05 * rate + 1


def test_timers_that_come_late_cost_nothing_up_to_the_catch_up() -> None:
    on_time, late = (starts(Pace(8, 100.0, adaptive=False), 10.0, late=late) for late in (0.0, 0.04))
    assert len(late) >= 0.98 * len(on_time)


@given(
    st.floats(0.5, 500),
    st.lists(st.tuples(st.floats(0, 3), st.integers(1, 5)), min_size=1, max_size=60),
)
def test_no_stretch_of_time_holds_more_than_the_rate_the_catch_up_and_one_batch(
    rate: float, calls: list[tuple[float, int]]
) -> None:
    pace, now, log = Pace(8, rate, adaptive=False), 1_000.0, list[tuple[float, int]]()
    for pause, count in calls:
        now += pause
        now += pace.wait(now)
        assert pace.wait(now) == pytest.approx(0, abs=1e-6)
        pace.started(now, count)
        log.append((now, count))
    for first, (begin, _) in enumerate(log):
        inside = 0
        for end, count in log[first:]:
            assert inside <= rate * (end - begin + 0.05) + 1e-3, "before the last of them, the rate was kept"
            inside += count


def quiet_second(pace: Pace, second: int) -> None:
    pace.answered(float(second))


def test_when_the_server_asks_to_wait_half_as_many_run_as_got_through_and_it_counts_once_a_pass() -> None:
    pace = Pace(8, None, adaptive=True)
    pace.begin()
    pace.answered(9.0, 50)  # more than a second ago: not counted
    pace.answered(10.5, 40)
    for _ in range(7):  # all that was under way is told the same
        pace.told_to_wait(11.0)
    assert (pace.at_a_time, pace.rate) == (4, 20.0)
    pace.begin()
    pace.answered(13.0, 10)
    pace.told_to_wait(13.1)
    assert (pace.at_a_time, pace.rate) == (2, 5.0)


def test_it_never_goes_below_one_at_a_time_and_one_a_second() -> None:
    pace = Pace(8, None, adaptive=True)
    for now in range(10):
        pace.begin()
        pace.told_to_wait(float(now))
    pace.answered(11.0)
    assert pace.at_a_time <= 2
    assert pace.rate == pytest.approx(1.1)


def test_with_each_quiet_second_it_grows_again_one_step_and_not_past_the_most() -> None:
    pace = Pace(8, 30.0, adaptive=True)
    pace.begin()
    pace.answered(10.0, 40)
    pace.told_to_wait(10.0)
    grown = []
    for second in range(11, 40):
        for _ in range(5):
            pace.answered(second + 0.0)
        assert pace.rate is not None
        grown.append((pace.at_a_time, pace.rate))
    limits, rates = [limit for limit, _ in grown], [rate for _, rate in grown]
    assert limits == [5, 6, 7, *[8] * 26]
    assert rates[0] == pytest.approx(22)
    assert rates[1] == pytest.approx(24.2)
    assert rates == sorted(rates)
    assert max(rates) == 30.0


def test_without_a_rate_of_its_own_what_was_learnt_grows_past_any_bound_in_quiet() -> None:
    pace = Pace(8, None, adaptive=True)
    pace.begin()
    pace.answered(0.0, 10)
    pace.told_to_wait(0.0)
    for second in range(1, 60):
        quiet_second(pace, second)
    assert pace.rate is not None
    assert pace.rate > 1_000


def test_a_drain_that_is_not_adaptive_keeps_to_what_it_was_given() -> None:
    pace = Pace(8, 30.0, adaptive=False)
    pace.begin()
    pace.answered(1.0, 100)
    pace.told_to_wait(1.0)
    assert (pace.at_a_time, pace.rate) == (8, 30.0)


def test_what_was_learnt_stays_for_the_next_pass() -> None:
    pace = Pace(8, None, adaptive=True)
    pace.begin()
    pace.answered(1.0, 100)
    pace.told_to_wait(1.0)
    pace.begin()
    pace.answered(1.5)
    assert (pace.at_a_time, pace.rate) == (4, 50.0)
