"""Random operations by several programs side by side, compared after each.

``make proof`` runs more of the same. ``STARFISH_SEED`` is the first seed; a difference names its own, which replays it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from starfish_outbox.conformance.driver import Driver
from starfish_outbox.conformance.sequences import Tally, compare, random_steps
from tests.interop import INTEROP, divergences, published_driver, python_driver, typescript_driver
from tests.reporting import report

SEED = int(os.environ.get("STARFISH_SEED") or 0)
OURS = {one.id for one in divergences() if one.of == "python"}
THEIRS = {one.id for one in divergences() if one.of == "published-python"}
FIRST_OF_SEED_1 = ["open", "clock", "hydrate", "drain", "clock", "claim", "retry"]


@pytest.fixture(scope="module")
def typescript() -> Iterator[Driver]:
    with typescript_driver() as driver:
        yield driver


@pytest.fixture(scope="module")
def python() -> Iterator[Driver]:
    with python_driver() as driver:
        yield driver


def shown(tally: Tally) -> str:
    return "\n".join(map(str, [tally, *tally.differences]))


def test_a_seed_is_the_same_sequence_for_ever() -> None:
    assert random_steps(7) == random_steps(7)
    assert random_steps(7) != random_steps(8)
    # What a run of an earlier version printed is replayed by a later one: these are for ever.
    assert [request["op"] for request in random_steps(1).requests[:7]] == FIRST_OF_SEED_1


@pytest.mark.parametrize("sequences", [800, pytest.param(20_000, marks=[pytest.mark.proof, pytest.mark.timeout(3000)])])
def test_python_and_the_typescript_package_agree_after_every_operation(
    sequences: int, python: Driver, typescript: Driver
) -> None:
    tally = compare([python, typescript], range(SEED, SEED + sequences), divergences())
    report(str(tally), INTEROP)
    assert tally.differences == [], shown(tally)
    assert tally.sequences == sequences
    if SEED == 0:
        assert set(tally.declared) == OURS, "a divergence that is declared and never met is none"


@pytest.mark.parametrize("sequences", [80, pytest.param(2000, marks=[pytest.mark.proof, pytest.mark.timeout(900)])])
def test_three_programs_agree(sequences: int, python: Driver, typescript: Driver) -> None:
    with published_driver() as published:
        tally = compare([python, typescript, published], range(SEED, SEED + sequences), divergences())
    report(str(tally), INTEROP)
    assert tally.differences == [], shown(tally)
    if SEED == 0:
        assert set(tally.declared) >= THEIRS


def test_without_the_declarations_every_divergence_of_ours_is_a_difference(python: Driver, typescript: Driver) -> None:
    """Each declared divergence is one: without its declaration the comparison finds it."""
    missed = set()
    for left_out in OURS:
        rest = [one for one in divergences() if one.id != left_out]
        if not compare([python, typescript], range(400), rest, most=1).differences:
            missed.add(left_out)
    assert missed == set()
