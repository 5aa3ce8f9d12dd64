"""Thousands of random schedules, and the proof that they find what is broken. See tests/schedules.py."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broken_rules import BROKEN
from tests.reporting import report
from tests.schedule_plan import REAL, REAL_CACHES, Rules
from tests.schedules import ViolationError, World, quiet_log

SCHEDULES = 2_000
PROVEN = 20_000
REAL_SCHEDULES = 250
"""On each of our caches on real files (in memory, where there is such a directory)."""

REAL_PROVEN = 3_000
CONTROL_SCHEDULES = 2_000
"""Within so many each broken variant must be found; most are in the first fifty."""

LEAST = {
    "cancelled: a call": 0.5,
    "cancelled: a flush": 0.04,
    "ends: death": 0.1,
    "ends: rerun": 0.05,
    "switches": 1,
    "hydrate again": 1,
    "sign-outs": 0.3,
    "bare claims": 0.2,
    "acknowledged": 2,
    "delivered": 2,
    "sent again, marked": 0.1,
    "send answered: lost": 0.2,
    "sends: offline": 0.02,
    "sends: rejected": 0.02,
    "sends: an attempt": 0.02,
    "sends: request lost": 0.02,
    "sends: answer lost": 0.05,
    "sends: cancels itself": 0.02,
    "sends: hangs": 0.02,
    "writes: before": 0.2,
    "writes: after": 0.2,
}
"""How often each fault must have happened, a schedule: a proof that injects nothing passes everything."""

LEAST_ON_THE_ADAPTER = {"writes: hang": 0.05, "reads: before": 0.05}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet_log():
        yield


def run(count: int, caches: tuple[str, ...] | None = None) -> Counter[str]:
    total: Counter[str] = Counter()
    for seed in range(count):
        total += (World(seed) if caches is None else World(seed, REAL, caches)).run()
    return total


def check_and_report(total: Counter[str], count: int, least: dict[str, float], title: str) -> None:
    figures = "\n".join(f"{number:>11,}  {what}" for what, number in sorted(total.items()))
    report(f"{title}: {count:,} schedules, seeds from 0, no violation\n{figures}\n", Path.cwd())
    too_few = {what: total[what] for what, each in least.items() if total[what] < each * count}
    assert not too_few, f"these faults hardly happened, so nothing is proven: {too_few}"


def test_no_schedule_loses_doubles_or_leaks_an_entry() -> None:
    check_and_report(run(SCHEDULES), SCHEDULES, LEAST | LEAST_ON_THE_ADAPTER, "caches through the adapter")


@pytest.mark.parametrize("cache", REAL_CACHES)
def test_no_schedule_on_real_files_loses_doubles_or_leaks_an_entry(cache: str) -> None:
    check_and_report(run(REAL_SCHEDULES, (cache,)), REAL_SCHEDULES, LEAST, f"{cache} on a virtual thread")


@pytest.mark.proof
def test_twenty_thousand_schedules() -> None:
    check_and_report(run(PROVEN), PROVEN, LEAST | LEAST_ON_THE_ADAPTER, "caches through the adapter")


@pytest.mark.proof
@pytest.mark.parametrize("cache", REAL_CACHES)
def test_thousands_of_schedules_on_real_files(cache: str) -> None:
    check_and_report(run(REAL_PROVEN, (cache,)), REAL_PROVEN, LEAST, f"{cache} on a virtual thread")


def test_one_seed_is_one_schedule() -> None:
    first, second = World(7), World(7)
    assert first.run() == second.run()
    assert [str(line) for line in first.book.trace] == [str(line) for line in second.book.trace]


@pytest.mark.parametrize("rules", BROKEN, ids=[rules.name for rules in BROKEN])
def test_a_broken_variant_is_found(rules: Rules) -> None:
    for seed in range(CONTROL_SCHEDULES):
        try:
            World(seed, rules).run()
        except ViolationError as found:
            if re.search(rules.found_as, str(found)):
                report(f"{rules.name}: found in schedule {seed + 1}: {str(found).splitlines()[0][:100]}", Path.cwd())
                return
    pytest.fail(f"{rules.name} was not found in {CONTROL_SCHEDULES:,} schedules")
