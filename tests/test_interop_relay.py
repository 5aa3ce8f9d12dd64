"""Random operations from hand to hand: several programs on one stored queue, each operation by another.

``make proof`` runs more of the same. ``STARFISH_SEED`` is the first seed; a difference names its own, which replays it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from starfish_outbox.conformance.comparison import Pair
from starfish_outbox.conformance.divergences import Declared, Divergence
from starfish_outbox.conformance.driver import Answer, Driver, DriverError
from starfish_outbox.conformance.model import dialect_of
from starfish_outbox.conformance.relay import RelayTally, relay
from tests.interop import INTEROP, divergences, published_driver, python_driver, typescript_driver
from tests.reporting import report

SEED = int(os.environ.get("STARFISH_SEED") or 0)
PYTHON, TYPESCRIPT, PUBLISHED = "python", "published-typescript", "published-python"
THEIRS = {one.id for one in divergences() if one.of == PUBLISHED}


@pytest.fixture(scope="module")
def drivers() -> Iterator[Mapping[str, Driver]]:
    with typescript_driver() as typescript, python_driver() as python, published_driver() as published:
        yield {driver.name: driver for driver in (python, typescript, published)}


def shown(tally: RelayTally) -> str:
    return "\n".join([str(tally), *tally.differences])


def many(*values: object, id: str) -> Any:
    return pytest.param(*values, id=f"many-{id}", marks=[pytest.mark.proof, pytest.mark.timeout(3000)])


ON_ONE_STORE = [
    pytest.param("files", 60, id="files"),
    pytest.param("sqlite", 30, id="sqlite"),
    many("files", 5000, id="files"),
    many("sqlite", 1000, id="sqlite"),
]


@pytest.mark.parametrize(("store", "sequences"), ON_ONE_STORE)
def test_a_queue_that_goes_from_hand_to_hand_is_what_the_model_says(
    store: Literal["files", "sqlite"], sequences: int, memory_path: Path, drivers: Mapping[str, Driver]
) -> None:
    seeds = range(SEED, SEED + sequences)
    both = [drivers[PYTHON], drivers[TYPESCRIPT]]
    tally = relay(both, seeds, divergences(), store=store, folder=memory_path)
    report(f"{store}: {tally}", memory_path)
    assert tally.differences == [], shown(tally)
    assert tally.sequences == sequences
    assert tally.operations.keys() == {PYTHON, TYPESCRIPT}
    assert tally.operations.total() >= 10 * sequences
    assert tally.kept > sequences, "keys that nobody knows were there to be lost"
    assert not tally.declared, "all that is declared of this package is foretold, not tolerated"
    assert not list(memory_path.iterdir())


HANDS = {
    "ours-and-typescript": (PYTHON, TYPESCRIPT),
    "ours-and-published": (PYTHON, PUBLISHED),
    "typescript-and-published": (TYPESCRIPT, PUBLISHED),
    "all": (PYTHON, TYPESCRIPT, PUBLISHED),
}
IN_MEMORY = [pytest.param(hands, 60, id=id) for id, hands in HANDS.items()]
IN_MEMORY += [many(hands, 1000, id=id) for id, hands in HANDS.items()]


@pytest.mark.parametrize(("hands", "sequences"), IN_MEMORY)
def test_any_programs_can_hand_a_queue_to_each_other(
    hands: tuple[str, ...], sequences: int, drivers: Mapping[str, Driver]
) -> None:
    tally = relay([drivers[name] for name in hands], range(SEED, SEED + sequences), divergences())
    report(f"memory: {tally}", INTEROP)
    assert tally.differences == [], shown(tally)
    assert tally.sequences == sequences
    assert tally.operations.keys() == set(hands)
    if SEED == 0:
        assert set(tally.declared) == (THEIRS if PUBLISHED in hands else set())


# What a stored text or an answer shows; the rest is about unbound queues, notifications and refusals.
STORED = ("value", "added", "sent-last", "spelling", "dropped")
SHOWN = [one.id for one in divergences() if one.of in (PYTHON, PUBLISHED) and (one.kind in STORED or one.when)]


@pytest.mark.parametrize("left_out", SHOWN)
def test_without_its_declaration_what_a_program_does_otherwise_is_a_difference(
    left_out: str, drivers: Mapping[str, Driver]
) -> None:
    rest = [one for one in divergences() if one.id != left_out]
    tally = relay(list(drivers.values()), range(100), rest, most=1)
    assert tally.differences, f"{left_out} is not needed in {tally.sequences} sequences"


def test_a_difference_tells_the_seed_the_text_at_the_start_and_what_was_done(drivers: Mapping[str, Driver]) -> None:
    hands = [drivers[TYPESCRIPT], drivers[PUBLISHED]]
    tally = relay(hands, range(3, 6), [], most=2)
    assert len(tally.differences) == 2
    assert tally.sequences == 2
    difference = tally.differences[0]
    assert difference.startswith("seed 3, operation ")
    number = int(difference.split()[3])
    start, *done = difference.splitlines()[-number - 2 :]
    assert isinstance(json.loads(start), list)
    assert all(line.split(": ", 1)[0].strip() in (TYPESCRIPT, PUBLISHED) for line in done)
    assert all("op" in json.loads(line.split(": ", 1)[1]) for line in done)
    assert done[-1].startswith(f"  {PUBLISHED}: "), "it is the one of whom nothing was declared"
    assert relay(hands, [3], [], most=1).differences == [difference], "the same seed is the same sequence"


def test_an_added_key_of_unknown_meaning_is_tolerated_and_goes_on(drivers: Mapping[str, Driver]) -> None:
    """A port may declare what the model knows nothing of."""
    vague = [replace(one, says={}) if one.id == "last-error" else one for one in divergences()]
    assert dialect_of(PYTHON, vague).failure is None
    tally = relay([drivers[PYTHON], drivers[TYPESCRIPT]], range(60), vague)
    assert tally.differences == [], shown(tally)
    assert tally.declared["last-error"] > 0


ENTRY = '{"id":"a","item":1,"status":"queued","attempts":0,"enqueuedAt":5'


@pytest.mark.parametrize(
    ("found", "what"),
    [
        (f'[{ENTRY},"note":1}}]', None),
        (f"[{ENTRY}}}]", None),
        ("[]", "text"),
        ('[{"id":"a","status":"queued","attempts":0,"enqueuedAt":5}]', "text"),
        (f'[{ENTRY},"note":2}}]', "text"),
        (f'[{ENTRY},"more":1}}]', "text"),
        ("[1]", "text"),
        ("7", "text"),
        ("[{", "text"),
    ],
)
def test_only_keys_that_nobody_needs_may_be_dropped(found: str, what: str | None) -> None:
    forgetful = Declared([Divergence("forgets", "x", "dropped", "")], "x")
    answers = [Answer(None, None, 0, text, text) for text in (found, f'[{ENTRY},"note":1}}]')]
    pair = Pair({"op": "retry", "id": "a"}, (answers[0], answers[1]), (forgetful, Declared([], "")), bound=True)
    assert pair.difference() == what


def test_a_store_that_one_of_them_lacks_is_no_place_for_a_relay(drivers: Mapping[str, Driver]) -> None:
    with pytest.raises(ValueError, match="published-python has no store 'files'"):
        relay([drivers[PYTHON], drivers[PUBLISHED]], [1], divergences(), store="files")
    with pytest.raises(DriverError, match="could not make the store sqlite"):
        relay([drivers[TYPESCRIPT]], [1], divergences(), store="sqlite")
